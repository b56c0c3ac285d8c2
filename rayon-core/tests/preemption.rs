//! What computes for ever holds nobody up.

use rayon_core::{ThreadPoolBuilder, join, spawn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;

#[test]
fn a_job_that_never_gives_way_waits_for_another_one() {
    for threads in [1, 2, 4] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let flag = AtomicBool::new(false);
        pool.scope(|s| {
            for _ in 0..threads {
                s.spawn(|_| {
                    while !flag.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            s.spawn(|_| flag.store(true, Relaxed));
        });
    }
}

#[test]
fn install_gets_through_while_every_worker_computes() {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..2 {
        let stop = stop.clone();
        pool.spawn(move || {
            while !stop.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    for i in 0..20 {
        assert_eq!(pool.install(|| join(|| i, || i + 1)), (i, i + 1));
    }
    stop.store(true, Relaxed);
}

#[test]
fn blocked_jobs_hold_up_nobody() {
    // Ten jobs that block in the kernel on one worker, and one that releases them.
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (done, results) = channel();
    let (release, gate) = channel();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    pool.install(move || {
        for i in 0..10 {
            let (done, gate) = (done.clone(), gate.clone());
            spawn(move || {
                gate.lock().unwrap().recv().unwrap();
                done.send(i).unwrap();
            });
        }
        spawn(move || (0..10).for_each(|_| release.send(()).unwrap()));
    });
    assert_eq!(results.iter().count(), 10);
}

#[test]
fn both_halves_of_a_join_may_wait_for_each_other() {
    // With one worker: the second half is not stolen, so the first must not wait for it. With two it is.
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let turn = AtomicUsize::new(0);
    pool.join(
        || {
            while turn.load(Relaxed) == 0 {
                std::hint::spin_loop();
            }
        },
        || turn.store(1, Relaxed),
    );
}
