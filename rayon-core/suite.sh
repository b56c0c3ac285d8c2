#!/usr/bin/env bash
# Runs the tests of rayon and of rayon's own core, as published, on this crate.
#
#   rayon-core/suite.sh [--doc] [--keep-going] [-- ARGUMENTS OF THE TEST PROGRAMS]
#
# Cargo fetches the sources into the target folder. `rayon` is compiled as it is; of the real rayon-core the tests are taken, those among its sources as integration
# tests with what they use of its insides replaced by public calls. What fails must be what `suite-exceptions.txt` says, with its reason, and no more.
#
# --doc: rayon's documentation tests too (several hundred programs to link).
set -euo pipefail

rayon=1.12.0
core=1.13.0
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
mkdir -p "$target"
suite=$(cd "$target" && pwd)/rayon-suite
export CARGO_TARGET_DIR=$suite/target
doc=no
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --doc) doc=yes ;;
        --) shift; arguments=("$@"); break ;;
        *) echo "unknown: $1" >&2; exit 2 ;;
    esac
    shift
done

mkdir -p "$suite/fetch/src"
cat > "$suite/fetch/Cargo.toml" <<END
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
rayon = "=$rayon"
rayon-core = "=$core"
[workspace]
END
: > "$suite/fetch/src/lib.rs"
if [ ! -d "$suite/vendor/rayon-core" ]; then
    (cd "$suite/fetch" && cargo vendor --quiet "$suite/vendor" > /dev/null)
fi
theirs=$suite/vendor/rayon-core

# A workspace of `rayon`, unchanged, and of the core's tests, in which `rayon-core` is this crate.
rm -rf "$suite/work"
mkdir -p "$suite/work/core/src" "$suite/work/core/tests"
cp -r "$suite/vendor/rayon" "$suite/work/rayon"
cat > "$suite/work/Cargo.toml" <<END
[workspace]
resolver = "2"
members = ["rayon", "core"]
[patch.crates-io]
rayon-core = { path = "$here" }
END
cat > "$suite/work/core/Cargo.toml" <<END
[package]
name = "core-tests"
version = "0.0.0"
edition = "2021"
[dependencies]
rayon-core = "=$core"
[dev-dependencies]
rand = "0.9"
rayon = "=$rayon"
rand_xorshift = "0.4"
scoped-tls = "1.0"
crossbeam-utils = "0.8"
libc = "0.2"
END
[ ! -f "$suite/Cargo.lock" ] || cp "$suite/Cargo.lock" "$suite/work/"

cp "$theirs"/tests/*.rs "$here"/suite/*.rs "$suite/work/core/tests/"
cp -r "$theirs/src/compile_fail" "$suite/work/core/src/"
echo "mod compile_fail;" > "$suite/work/core/src/lib.rs"

units=$suite/work/core/tests/units
mkdir -p "$units"
for module in broadcast join scope spawn thread_pool; do
    cp "$theirs/src/$module/test.rs" "$units/$module.rs"
done
cp "$theirs/src/test.rs" "$units/root.rs"
# Two tests look at a field of the pool; `tests/pool.rs` of this crate has the same by exit handlers.
for test in workers_stop sleeper_stop; do
    perl -0pi -e "s/#\[test\]\n(#\[[^\n]*\]\n)*fn $test\(\) \{.*?\n\}\n//s" "$units/thread_pool.rs"
done
cat > "$units/main.rs" <<'END'
#![allow(unused_imports, dead_code, deprecated)]
pub use rayon_core::*;

mod unwind {
    pub fn halt_unwinding<R>(f: impl FnOnce() -> R) -> std::thread::Result<R> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
    }
}

mod registry {
    pub fn in_worker<R: Send>(f: impl FnOnce((), ()) -> R + Send) -> R {
        rayon_core::scope(|_| f((), ()))
    }
}

#[path = "broadcast.rs"]
mod broadcast_tests;
#[path = "join.rs"]
mod join_tests;
#[path = "scope.rs"]
mod scope_tests;
#[path = "spawn.rs"]
mod spawn_tests;
#[path = "thread_pool.rs"]
mod thread_pool_tests;
#[path = "root.rs"]
mod root_tests;
END

# An exception that would hang or end the program is skipped; the others must fail.
exceptions=$here/suite-exceptions.txt
skips=()
while read -r how test _; do
    if [ "$how" = skip ]; then skips+=(--skip "$test"); fi
done < <(grep -v '^#' "$exceptions" || true)

status=0
: > "$suite/log"
run() {
    echo "== $*" | tee -a "$suite/log"
    timeout -k 10 3000 cargo test --manifest-path "$suite/work/Cargo.toml" --no-fail-fast "$@" \
        -- "${skips[@]}" "${arguments[@]}" >> "$suite/log" 2>&1 || true
}
run -p core-tests --tests
run -p core-tests --doc
run -p rayon --tests
if [ $doc = yes ]; then run -p rayon --doc; fi
cp "$suite/work/Cargo.lock" "$suite/Cargo.lock" 2> /dev/null || true

grep -E '^(     Running|   Doc-tests|test result:|error)|did not|panicked at .*rayon-core' "$suite/log" || true
failed=$(grep -E '^test .* \.\.\. FAILED' "$suite/log" | sed -E 's/^test (.*) \.\.\. FAILED.*/\1/; s/ - should panic$//' | sort -u || true)
expected=$(grep -E '^fails ' "$exceptions" | awk '{print $2}' | sort -u || true)
crashed=$(grep -cE '\(signal: |process didn.t exit successfully|error: could not compile|has been running for over|^error: no ' "$suite/log" || true)
unexpected=$(comm -23 <(echo "$failed") <(echo "$expected") | sed '/^$/d')
surprising=$(comm -13 <(echo "$failed") <(echo "$expected") | sed '/^$/d')
passed=$(grep -cE '^test .* \.\.\. ok' "$suite/log" || true)
if [ -n "$unexpected" ]; then echo "failed and should not:"; echo "$unexpected"; status=1; fi
if [ -n "$surprising" ]; then echo "passed, or did not run, and are listed as failing:"; echo "$surprising"; status=1; fi
if grep -qE '\(signal: |error: could not compile|^error\[' "$suite/log"; then echo "a test program ended by a signal, or did not compile: $suite/log"; status=1; fi
echo "$passed passed, $(echo "$failed" | sed '/^$/d' | wc -l) failed, $((${#skips[@]} / 2)) skipped"
exit $status
