//! Locks held across forks cannot deadlock (rayon #592): nothing runs on top of a stack that waits.

use crate::{all, fib, runtime};
use std::sync::Mutex;
use unyield::join;
use unyield::preempt::Stealing;

/// At every level a lock is held while both halves take the locks of the levels below.
fn std_locks(locks: &[Mutex<u64>]) -> u64 {
    let Some((first, rest)) = locks.split_first() else { return fib(3) };
    let mut guard = first.lock().unwrap();
    let (a, b) = join(|| std_locks(rest), || std_locks(rest));
    *guard += 1;
    a + b
}

fn our_locks(locks: &[unyield::sync::Mutex<u64>]) -> u64 {
    let Some((first, rest)) = locks.split_first() else { return fib(3) };
    let mut guard = first.lock();
    let (a, b) = join(|| our_locks(rest), || our_locks(rest));
    *guard += 1;
    a + b
}

#[test]
fn locks_held_across_join_at_every_depth() {
    const DEPTH: usize = 7;
    all(|runtime| {
        // Shared identities block their worker in a std lock: documented at `Preemption::AtCheckpoints`.
        if runtime.handle().preemption() != unyield::preempt::Preemption::AtCheckpoints {
            let locks: Vec<_> = (0..DEPTH).map(|_| Mutex::new(0)).collect();
            assert_eq!(runtime.run(|| std_locks(&locks)), 2 << DEPTH);
            for (depth, lock) in locks.iter().enumerate() {
                assert_eq!(*lock.lock().unwrap(), 1 << depth);
            }
        }
        let locks: Vec<_> = (0..DEPTH).map(|_| unyield::sync::Mutex::new(0)).collect();
        assert_eq!(runtime.run(|| our_locks(&locks)), 2 << DEPTH);
    });
}

/// rayon #592 itself: a lock around a parallel region, wanted by what an idle worker would run in the meantime.
#[test]
fn a_lock_around_a_region_that_others_want() {
    for workers in [1, 2, 4] {
        let runtime = runtime(workers, Stealing::Lazy);
        let count = Mutex::new(0u64);
        runtime.run(|| {
            unyield::par::scope(|s| {
                for _ in 0..200 {
                    s.spawn(|_| {
                        let mut count = count.lock().unwrap();
                        assert_eq!(fib(10), 55);
                        *count += 1;
                    });
                }
            });
        });
        assert_eq!(count.into_inner().unwrap(), 200);
    }
}
