#!/bin/sh
# Shows what the steps of delivery are for: builds the crate without one of them (`unyield_mutant = "..."` in the source: of the stub, of the order of events, of
# `endpoint`'s protocols), and expects a test to fail, to crash or to hang. First without any, which must pass. Usage: preempt/mutants.sh [name...]
set -u
cd "$(dirname "$0")/.." || exit 2
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/mutants" RUST_BACKTRACE=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# test FLAGS WHICH...: 0 if it passes; a build that fails ends the script
try() {
    flags=$1
    shift
    RUSTFLAGS="$flags" cargo test -q -p unyield-preempt --release "$@" --no-run >"$log" 2>&1 ||
        { cat "$log"; echo "does not build: $flags"; exit 2; }
    RUSTFLAGS="$flags" timeout -k 5 90 cargo test -q -p unyield-preempt --release "$@" >"$log" 2>&1
}

if [ $# -eq 0 ]; then
    try "" --lib && try "" --test endpoint --test model --test model_spec || { cat "$log"; echo "FAILED without a mutant"; exit 1; }
    echo "passes: no mutant"
    set -- no_xrstor red_zone_0 no_stui on_not_cleared low_to_high errno_not_kept $(grep -rhoE 'unyield_mutant = "endpoint-[a-z-]+"' preempt/src/endpoint | grep -oE 'endpoint-[a-z-]+' | sort -u)
fi
survivors=0
for name in "$@"; do
    case $name in
        endpoint-no-throttle) which="--test endpoint starves_nobody" ;;
        endpoint-no-retry) which="--test endpoint the_mask_refused" ;;
        endpoint-*) which="--lib endpoint::wait" ;;
        low_to_high) which="--lib upid" ;;
        red_zone_0) which="--test model_spec" ;;
        *) which="--test model" ;;
    esac
    # shellcheck disable=SC2086
    if try "--cfg unyield_mutant=\"$name\"" $which; then
        echo "SURVIVES: $name"
        survivors=$((survivors + 1))
    else
        echo "caught: $name ($(grep -ohE 'lost[^"]*|nothing came|minimal failing input|panicked at [^ ]*|signal: [0-9]+' "$log" | head -n 1 | cut -c 1-60))"
    fi
done
exit $((survivors != 0))
