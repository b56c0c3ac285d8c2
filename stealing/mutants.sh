#!/bin/sh
# Shows that the models of this crate can fail: runs them with each deliberate error (`mutant!("name")` in the source)
# and expects at least one to do so. First without any, which must pass. Takes half an hour. Usage: mutants.sh [name...]
set -u
cd "$(dirname "$0")/.." || exit 2
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" RUST_BACKTRACE=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A mutant that hangs or runs out of branches has been caught, too.
models() {
    RUSTFLAGS="--cfg loom $2" timeout 900 cargo test -q -p unyield-stealing --release --lib "models::$1" >"$log" 2>&1
}

# A mutant that does not compile would be "caught" by that.
builds() {
    RUSTFLAGS="--cfg loom $1" cargo test -q -p unyield-stealing --release --lib --no-run >"$log" 2>&1 ||
        { cat "$log"; echo "does not build: $1"; exit 2; }
}

if [ $# -eq 0 ]; then
    builds ""
    models "" "" || { cat "$log"; echo "FAILED without a mutant"; exit 1; }
    echo "passes: no mutant"
    set -- $(grep -rhoE 'mutant!\("[a-z-]+"\)' stealing/src | grep -oE '[a-z]+(-[a-z]+)+' | sort -u)
fi

survivors=0
for name in "$@"; do
    case $name in
        armed-*) which=armed ;;
        idle-*) which=idle ;;
        lazy-*) which=lazy ;;
        looks-*) which=looks ;;
        mailbox-*) which=mailbox ;;
        *) which=queues ;;
    esac
    flag="--cfg unyield_mutant=\"$name\""
    builds "$flag"
    if models "$which" "$flag"; then
        echo "SURVIVES: $name"
        survivors=$((survivors + 1))
    else
        echo "caught: $name ($(grep -ohE 'deadlock|taken twice|run twice|nobody has it|no result|: lost|was lost|freed|a request stayed|first slot|Causality violation[^.]*|assertion[^:]*|Model exceeded[^.]*|overflow' "$log" | head -1))"
    fi
done
exit $((survivors != 0))
