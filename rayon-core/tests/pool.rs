//! Pools begin, work and end.

use rayon_core::{ThreadPoolBuilder, join, spawn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::Duration;

fn fib(n: u32) -> u64 {
    if n < 2 {
        return n.into();
    }
    let (a, b) = join(|| fib(n - 1), || fib(n - 2));
    a + b
}

#[test]
fn trees_of_joins_in_pools_of_several_sizes() {
    for threads in [1, 2, 4, 22] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| fib(22)), 17_711);
        assert_eq!(pool.current_num_threads(), threads);
    }
}

#[test]
fn threads_end_after_the_work() {
    for wait in [Duration::ZERO, Duration::from_millis(300)] {
        let (ended, ends) = channel();
        let pool = ThreadPoolBuilder::new()
            .num_threads(22)
            .exit_handler(move |i| ended.send(i).unwrap())
            .build()
            .unwrap();
        assert_eq!(pool.install(|| fib(15)), 610);
        std::thread::sleep(wait); // some sleep, some do not
        drop(pool);
        let mut ends: Vec<_> = ends.iter().collect();
        ends.sort();
        assert!(ends.into_iter().eq(0..22));
    }
}

#[test]
fn spawned_jobs_outlive_the_pool_that_was_dropped() {
    let (sender, receiver) = channel();
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for i in 0..1_000 {
        let sender = sender.clone();
        pool.spawn(move || {
            if i % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let inner = sender.clone();
            spawn(move || inner.send(i).unwrap());
            spawn(move || spawn(move || sender.send(i).unwrap()));
        });
    }
    drop((pool, sender));
    assert_eq!(receiver.iter().count(), 2_000);
}

#[test]
fn the_last_owner_may_be_a_job_of_the_pool() {
    let (ended, ends) = channel();
    let pool = ThreadPoolBuilder::new()
        .num_threads(2)
        .exit_handler(move |_| ended.send(()).unwrap())
        .build()
        .unwrap();
    let pool = Arc::new(pool);
    let own = pool.clone();
    pool.spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        drop(own);
    });
    drop(pool);
    assert_eq!(ends.iter().count(), 2);
}

#[test]
fn many_pools_one_after_the_other() {
    let sum = AtomicUsize::new(0);
    for i in 0..100 {
        let pool = ThreadPoolBuilder::new().num_threads(1 + i % 3).build().unwrap();
        pool.scope(|s| {
            for _ in 0..10 {
                s.spawn(|_| {
                    sum.fetch_add(1, Relaxed);
                });
            }
        });
    }
    assert_eq!(sum.into_inner(), 1_000);
}

#[test]
fn a_pool_is_used_from_fibers_of_a_runtime_of_its_own() {
    let runtime = unyield::Runtime::builder().workers(1).build().unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let results: Vec<u64> = runtime.run(|| {
        assert_eq!(rayon_core::current_thread_index(), None);
        let fibers: Vec<_> = (0..4).map(|i| unyield::spawn(move || fib(10 + i))).collect();
        let in_pool = pool.install(|| fib(14));
        fibers.into_iter().map(|fiber| fiber.join().unwrap()).chain([in_pool]).collect()
    });
    assert_eq!(results, [55, 89, 144, 233, 377]);
}

#[test]
fn what_cannot_be_had_is_said() {
    let error = ThreadPoolBuilder::new().use_current_thread().build().unwrap_err();
    assert!(error.to_string().contains("use_current_thread"), "{error}");
    let error = ThreadPoolBuilder::new().stack_size(usize::MAX).build().unwrap_err();
    assert!(error.to_string().contains("stack"), "{error}");
    let pool = ThreadPoolBuilder::new().build().unwrap();
    let inside = pool.install(|| ThreadPoolBuilder::new().use_current_thread().build().unwrap_err());
    assert!(inside.to_string().contains("already part"), "{inside}");
}

#[test]
fn a_broadcast_comes_after_what_was_spawned() {
    for threads in [1, 2, 4] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        for round in 1..=30 {
            // Also jobs that wait in rayon themselves, for a broadcast or for others.
            let (of_spawned, of_scope) = (done.clone(), done.clone());
            pool.install(move || {
                for _ in 0..10 {
                    let done = of_spawned.clone();
                    spawn(move || {
                        std::hint::black_box((0..20_000u64).map(std::hint::black_box).sum::<u64>());
                        done.fetch_add(1, Relaxed);
                    });
                }
                spawn(move || {
                    rayon_core::scope(|s| s.spawn(|_| drop(rayon_core::broadcast(|_| of_scope.clone()))))
                });
            });
            pool.broadcast(|_| ());
            assert_eq!(done.load(Relaxed), round * 10);
        }
    }
}
