#!/bin/sh
# Shows what the runtime's rules are for: builds it without one of them (`unyield_mutant = "name"` in the source), and expects the soak or
# the single-step test to fail, by a wrong result, a crash or a stall; those of the state words (`wait-…`, `join-…`, `job-…`) and of the list of halves (`exposed-…`), the loom models. First without
# any, which must pass. Up to two minutes each.
# Usage: sched/mutants.sh [name...]
set -u
cd "$(dirname "$0")/.." || exit 2
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/mutants" RUST_BACKTRACE=0
ulimit -c 0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
limit=150 # seconds for a run

# build TEST FLAGS: prints the path of the test program
build() {
    flags=$2
    case $1 in *_loom) flags="$2 --cfg loom" ;; esac
    RUSTFLAGS="$flags" cargo test -q -p unyield --release --test "$1" --no-run --message-format json 2>"$log" |
        grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4
}

run() { # TEST PROGRAM
    case $1 in
        soak) timeout -k 5 $limit "$2" --seconds 15 --workers 4,2 --quantum-us 50 --seed 1 --patience 20 ;;
        *) timeout -k 5 $limit "$2" ;;
    esac >"$log" 2>&1
}

how() { # STATUS
    case $1 in
        0) echo "nothing" ;;
        1 | 101) echo "wrong result: $(grep -aE 'WRONG|LOST|differs|deadlock|Causality|runnable twice|dropped once|waker stayed|freed|run twice|nobody has it|panicked' "$log" | head -n 1 | cut -c 1-90)" ;;
        124 | 137) echo "did not end in $limit s" ;;
        134) if grep -aq STALL "$log"; then echo "stall"; else echo "abort: $(grep -aE '[a-z]' "$log" | grep -av '^Aborted' | tail -n 1 | cut -c 1-90)"; fi ;;
        *) if [ "$1" -gt 128 ]; then echo "signal $(($1 - 128))"; else echo "status $1"; fi ;;
    esac
}

failed=0
row() { # NAME TEST FLAGS EXPECTED(0: passes)
    program=$(build "$2" "$3")
    [ -x "$program" ] || { cat "$log"; echo "does not build: $1"; exit 2; }
    start=$(date +%s)
    run "$2" "$program"
    status=$?
    verdict=caught
    if [ "$4" -eq 0 ]; then
        verdict=passes
        [ $status -eq 0 ] || { verdict=FAILS; failed=1; }
    elif [ $status -eq 0 ]; then
        verdict=SURVIVES
        failed=1
    fi
    printf '%-22s %-12s %-9s %4d s  %s\n' "$1" "$2" "$verdict" $(($(date +%s) - start)) "$(how $status)"
}

printf '%-22s %-12s %-9s %6s  %s\n' mutant test verdict time how
if [ $# -eq 0 ]; then
    row - soak "" 0
    row - single_step "" 0
    row - wait_loom "" 0
    row - exposed_loom "" 0
    set -- no_identity_swap no_mask_check no_xrstor no_fninit publish_early no_recompute \
        $(grep -rhoE 'unyield_mutant = "(wait|join|job|exposed)-[a-z-]+"' sched/src | grep -oE '(wait|join|job|exposed)-[a-z-]+' | sort -u)
fi
for name in "$@"; do
    case $name in
        no_recompute) test=single_step ;;
        wait-* | join-* | job-*) test=wait_loom ;;
        exposed-*) test=exposed_loom ;;
        *) test=soak ;;
    esac
    row "$name" $test "--cfg unyield_mutant=\"$name\"" 1
done
exit $failed
