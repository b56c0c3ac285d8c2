// Parallel iterators on fibers: what is different from rayon's threads. Copied into the suite's workspace, where `rayon` is rayon and `rayon-core` is this crate.

use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn an_endless_closure_of_a_par_iter_holds_up_no_other_fiber() {
    for threads in [1, 2, 4] {
        let pool = Arc::new(pool(threads));
        let stop = Arc::new(AtomicBool::new(false));
        let endless = std::thread::spawn({
            let (pool, stop) = (pool.clone(), stop.clone());
            move || {
                pool.install(|| {
                    (0..2 * threads).into_par_iter().with_max_len(1).for_each(|_| {
                        while !stop.load(Relaxed) {
                            std::hint::spin_loop();
                        }
                    })
                })
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        for n in 0..20u64 {
            let sum: u64 = pool.install(|| (0..=n * 100).into_par_iter().sum());
            assert_eq!(sum, n * 100 * (n * 100 + 1) / 2);
        }
        stop.store(true, Relaxed);
        endless.join().unwrap();
    }
}

#[test]
fn a_lock_is_held_across_a_par_iter() {
    for threads in [1, 2, 4] {
        let lock = Mutex::new(0u64);
        pool(threads).install(|| {
            (0..64u64).into_par_iter().for_each(|i| {
                let mut held = lock.lock().unwrap();
                *held += (0..1_000u64).into_par_iter().map(|x| x ^ i).filter(|x| x % 7 == 0).count() as u64;
            })
        });
        assert!(*lock.lock().unwrap() > 0);
    }
}

#[test]
fn blocking_closures_do_not_deadlock_in_par_bridge() {
    for threads in [1, 2, 4] {
        let sum = AtomicUsize::new(0);
        pool(threads).install(|| {
            (0..500usize).par_bridge().for_each(|i| {
                let inner: usize = (0..i % 10).par_bridge().map(|_| 1).sum();
                sum.fetch_add(inner, Relaxed);
            })
        });
        assert_eq!(sum.into_inner(), (0..500).map(|i| i % 10).sum());
    }
}

#[test]
fn sorts_and_collects() {
    for threads in [1, 2, 4] {
        pool(threads).install(|| {
            let mut values: Vec<u32> =
                (0..200_000u32).into_par_iter().map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let mut expected = values.clone();
            expected.sort();
            values.par_sort_unstable();
            assert_eq!(values, expected);
            values.par_iter_mut().for_each(|v| *v ^= 1);
            values.par_sort();
            assert!(values.par_windows(2).all(|pair| pair[0] <= pair[1]));
        });
    }
}
