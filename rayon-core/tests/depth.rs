//! Recursion does not grow by stealing: what waits is parked, and nothing runs on top of it (rayon's issue 854: a stack that overflows by the depth of what was stolen
//! onto it).

use rayon_core::{ThreadPoolBuilder, join, scope};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The fiber's own depth in bytes, by addresses.
fn depth_below(base: usize) -> usize {
    let here = 0u8;
    base.abs_diff((&raw const here).addr())
}

fn tree(levels: usize, deepest: &AtomicUsize) {
    let here = 0u8;
    let base = (&raw const here).addr();
    fn down(levels: usize, base: usize, deepest: &AtomicUsize) -> u64 {
        let frame = std::hint::black_box([0u8; 512]);
        deepest.fetch_max(depth_below(base), Relaxed);
        if levels == 0 {
            // Some work, so that there are steals.
            return (0..200u64).map(std::hint::black_box).sum::<u64>() + u64::from(frame[0]);
        }
        let mut sum = 0;
        // A stolen half runs on a stack of its own: measured from there.
        let half = |sum: &mut u64| {
            join(
                || *sum += down(levels - 1, base, deepest),
                || {
                    let top = 0u8;
                    down(levels - 1, (&raw const top).addr(), deepest);
                },
            );
        };
        half(&mut sum);
        sum
    }
    down(levels, base, deepest);
}

#[test]
fn waiting_stacks_carry_nothing_else() {
    for threads in [1, 2, 4] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).stack_size(256 << 10).build().unwrap();
        let deepest = AtomicUsize::new(0);
        // Many roots, each of which waits for stolen halves again and again: 256 KiB are enough, since a stack holds its own levels only.
        pool.scope(|s| {
            for _ in 0..64 {
                s.spawn(|_| tree(12, &deepest));
            }
        });
        assert!(deepest.into_inner() < 200 << 10, "{threads} threads");
    }
}

#[test]
fn chains_of_jobs_that_spawn_and_wait() {
    // Each level waits in a scope for the next: a fiber each, however many.
    fn chain(levels: usize, done: &AtomicUsize) {
        done.fetch_add(1, Relaxed);
        if levels > 0 {
            scope(|s| s.spawn(|_| chain(levels - 1, done)));
        }
    }
    for threads in [1, 2] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).stack_size(128 << 10).build().unwrap();
        let done = AtomicUsize::new(0);
        pool.install(|| chain(2_000, &done));
        assert_eq!(done.into_inner(), 2_001);
    }
}
