//! A lock that is held where a thread of rayon's would run other jobs on top: with stealing onto the waiting stack a job that takes the lock waits for the
//! one below it, for ever (rayon's issue 592).

use rayon_core::{ThreadPoolBuilder, join, scope};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

fn pool(threads: usize) -> rayon_core::ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn spin(time: Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn a_lock_is_held_across_join() {
    for threads in [1, 2, 4] {
        let (lock, done) = (Mutex::new(0), AtomicUsize::new(0));
        let pool = pool(threads);
        pool.scope(|s| {
            for _ in 0..100 {
                s.spawn(|_| {
                    let mut held = lock.lock().unwrap();
                    // Long enough to be stolen, so that the holder waits.
                    join(|| spin(Duration::from_micros(20)), || spin(Duration::from_micros(200)));
                    *held += 1;
                    done.fetch_add(1, Relaxed);
                });
            }
        });
        assert_eq!((done.into_inner(), lock.into_inner().unwrap()), (100, 100), "{threads} threads");
    }
}

#[test]
fn a_lock_is_held_across_a_scope_whose_jobs_wait_behind_others_that_want_it() {
    for threads in [1, 2, 4] {
        let lock = Mutex::new(0);
        pool(threads).scope(|s| {
            for _ in 0..50 {
                s.spawn(|_| {
                    let mut held = lock.lock().unwrap();
                    scope(|inner| {
                        for _ in 0..3 {
                            inner.spawn(|_| spin(Duration::from_micros(10)));
                        }
                    });
                    *held += 1;
                });
            }
        });
        assert_eq!(lock.into_inner().unwrap(), 50, "{threads} threads");
    }
}
