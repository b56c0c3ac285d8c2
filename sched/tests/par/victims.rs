//! Whom thieves can rob: fibers that wait, are preempted, block in the kernel, sit in critical sections.

use crate::common::{Load, spin};
use crate::{MS, fib, runtime, until};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};
use unyield::preempt::{Preemption, Stealing};
use unyield::{Runtime, critical, join};

fn wait_for(flag: &AtomicBool, what: &str) {
    let start = Instant::now();
    while !flag.load(Acquire) {
        unyield::sleep(MS / 10);
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
    }
}

/// The first half waits for something that only the second does: also on one worker.
#[test]
fn a_parked_fiber() {
    crate::all(|runtime| {
        for _ in 0..20 {
            let flag = AtomicBool::new(false);
            runtime.run(|| {
                join(
                    || wait_for(&flag, "the half of a parked fiber is not run"),
                    || flag.store(true, Release),
                )
            });
        }
    });
}

/// … on one worker, while another fiber computes all the time.
#[test]
fn a_parked_fiber_beside_a_computing_one() {
    for stealing in [Stealing::Lazy, Stealing::Eager] {
        let runtime = runtime(1, stealing);
        let load = Load::start(&runtime, 1);
        for _ in 0..5 {
            let flag = AtomicBool::new(false);
            runtime.run(|| join(|| wait_for(&flag, "starved"), || flag.store(true, Release)));
        }
        drop(load);
    }
}

/// The first half computes until the second has run, on one worker that preempts.
#[test]
fn a_preempted_fiber() {
    for (workers, stealing) in [(1, Stealing::Lazy), (1, Stealing::Eager), (2, Stealing::Lazy)] {
        let runtime = runtime(workers, stealing);
        let load = Load::start(&runtime, 2);
        for _ in 0..5 {
            let flag = AtomicBool::new(false);
            let start = Instant::now();
            runtime.run(|| {
                join(
                    || {
                        while !flag.load(Acquire) {
                            std::hint::spin_loop();
                            assert!(
                                start.elapsed() < Duration::from_secs(20),
                                "the half of a preempted fiber is not run"
                            );
                        }
                    },
                    || flag.store(true, Release),
                )
            });
        }
        drop(load);
    }
}

fn blocked(wait: impl Fn(&AtomicBool) + Sync, what: &str) {
    for stealing in [Stealing::Lazy, Stealing::Eager] {
        let runtime = runtime(2, stealing);
        for _ in 0..5 {
            let flag = AtomicBool::new(false);
            runtime.run(|| join(|| wait(&flag), || flag.store(true, Release)));
            assert!(flag.load(Relaxed), "{what}");
        }
    }
}

/// Fails if nobody has set the flag while the caller blocked for a second.
fn nap(flag: &AtomicBool, mut nap: impl FnMut(Duration)) {
    let start = Instant::now();
    while !flag.load(Acquire) {
        assert!(start.elapsed() < Duration::from_secs(20), "the half of a blocked fiber is not run");
        nap(100 * MS);
    }
}

#[test]
fn a_fiber_in_a_call() {
    blocked(|flag| nap(flag, std::thread::sleep), "sleep");
    blocked(
        |flag| {
            nap(flag, |time| {
                // SAFETY: no descriptors; EINTR is as good as the end.
                unsafe { libc::poll(std::ptr::null_mut(), 0, time.as_millis() as i32) };
            })
        },
        "poll",
    );
    blocked(|flag| nap(flag, |time| unyield::fiber::blocking(|| std::thread::sleep(time))), "blocking");
}

/// Thieves interrupt a fiber in calls hardly ever: the first interrupt takes it to a carrier, where halves are taken without.
#[test]
fn a_fiber_in_calls_is_hardly_interrupted() {
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let metrics = runtime.handle().metrics();
    fn deep(n: u32) -> u32 {
        if n == 0 {
            let start = Instant::now();
            let mut interrupted = 0;
            while start.elapsed() < 100 * MS {
                // SAFETY: no descriptors.
                interrupted += u32::from(unsafe { libc::poll(std::ptr::null_mut(), 0, 150) } != 0);
            }
            return interrupted;
        }
        join(|| deep(n - 1), || spin(2 * MS)).0
    }
    let (mut requests, mut interrupted) = (0, 0);
    for _ in 0..5 {
        let before = metrics.steal_requests();
        interrupted += runtime.run(|| deep(20));
        requests += metrics.steal_requests() - before;
    }
    println!("{requests} requests, {interrupted} calls interrupted, for 100 halves");
    assert!(requests <= 20, "{requests} requests for 100 halves");
    // Further ones are the timer's, which ticks a fiber off a carrier that seems to compute.
    assert!(interrupted <= 15, "{interrupted} calls interrupted for 100 halves");
}

#[test]
fn a_fiber_with_an_os_thread_of_its_own() {
    for stealing in [Stealing::Lazy, Stealing::Eager] {
        let runtime = runtime(2, stealing);
        let flag = AtomicBool::new(false);
        runtime.run(|| {
            let guard = unyield::fiber::lock_os_thread();
            join(|| nap(&flag, std::thread::sleep), || flag.store(true, Release));
            drop(guard);
        });
    }
}

/// A critical section does not answer: the thief helps itself.
#[test]
fn a_fiber_in_a_critical_section() {
    for stealing in [Stealing::Lazy, Stealing::Eager] {
        let runtime = runtime(2, stealing);
        for _ in 0..10 {
            let flag = AtomicBool::new(false);
            let ran = runtime.run(|| {
                join(
                    || {
                        critical(|| {
                            let start = Instant::now();
                            while !flag.load(Acquire) && start.elapsed() < Duration::from_secs(5) {
                                std::hint::spin_loop();
                            }
                            flag.load(Acquire)
                        })
                    },
                    || flag.store(true, Release),
                )
                .0
            });
            assert!(ran, "nobody took the half of a fiber in a critical section");
        }
        assert!(runtime.handle().metrics().forks_taken_remotely() > 0);
    }
}

/// A worker that has just looked everywhere and goes to sleep does not miss what is exposed in that moment.
#[test]
fn a_worker_that_falls_asleep() {
    for (stealing, rounds) in [(Stealing::Eager, 5_000), (Stealing::Lazy, 500)] {
        let runtime = runtime(2, stealing);
        for round in 0..rounds {
            let flag = AtomicBool::new(false);
            let seen = runtime.run(|| {
                spin(Duration::from_nanos(round % 100 * 200)); // at some moment of its search
                let wait = || {
                    let start = Instant::now();
                    while !flag.load(Acquire) && start.elapsed() < Duration::from_secs(5) {
                        std::hint::spin_loop();
                    }
                    flag.load(Acquire)
                };
                join(wait, || flag.store(true, Release)).0
            });
            assert!(seen, "{stealing:?}: nobody has come, round {round}");
        }
    }
}

/// … and a wait in the section blocks the thread.
#[test]
fn a_join_that_ends_inside_a_critical_section() {
    let runtime = runtime(2, Stealing::Lazy);
    runtime.run(|| {
        for _ in 0..20 {
            let taken = AtomicBool::new(false);
            join(
                || {
                    critical(|| {
                        // A fork inside a section of a region that began outside.
                        join(
                            || {
                                let start = Instant::now();
                                while !taken.load(Acquire) && start.elapsed() < 200 * MS {
                                    std::hint::spin_loop();
                                }
                            },
                            || {
                                taken.store(true, Release);
                                spin(MS);
                            },
                        );
                    })
                },
                || taken.store(true, Release),
            );
        }
    });
}

/// Halves stolen while `f` runs, in the best of a few rounds: others may keep the workers busy.
fn stolen(runtime: &Runtime, f: impl Fn() + Sync) -> u64 {
    let metrics = runtime.handle().metrics();
    (0..4)
        .map(|_| {
            let before = metrics.forks_stolen();
            runtime.run(&f);
            metrics.forks_stolen() - before
        })
        .min()
        .unwrap()
}

/// A fiber that has waited in the middle of its region for so long that the watch has ended, and forks on.
#[test]
fn a_fiber_that_comes_back_to_its_region() {
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let least = stolen(&runtime, || {
        join(
            || {
                join(|| spin(MS), || spin(100 * MS)); // the second half is stolen, and forks nothing
                fib(31);
            },
            || (),
        );
    });
    assert!(least > 1, "{least} halves stolen: nobody has come back");
}

/// … and one that comes to a carrier in the middle of it.
#[test]
fn a_region_that_goes_on_on_a_carrier() {
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let least = stolen(&runtime, || {
        join(|| (), || unyield::fiber::blocking(|| assert_eq!(fib(30), 832_040)));
    });
    assert!(least > 0, "nobody looks at a carrier");
}

#[test]
fn a_lone_forking_fiber_on_one_worker_is_not_interrupted() {
    let runtime = Runtime::builder().workers(1).build().unwrap();
    let before = runtime.handle().metrics().worker_interrupt_count(0);
    runtime.run(|| {
        let start = Instant::now();
        while start.elapsed() < 100 * MS {
            fib(15);
        }
    });
    assert_eq!(runtime.handle().metrics().worker_interrupt_count(0), before);
    assert_eq!(runtime.handle().metrics().steal_requests(), 0);
}

#[test]
fn without_ticks_thieves_interrupt_all_the_same() {
    let runtime = Runtime::builder().workers(2).preemption(Preemption::Off).build().unwrap();
    let mut stolen = 0;
    for _ in 0..50 {
        let begun = AtomicBool::new(false);
        let second = |context: unyield::par::Ctx| {
            begun.store(true, Relaxed);
            context.migrated()
        };
        stolen += usize::from(runtime.run(|| unyield::par::join_context(|_| until(&begun), second).1));
    }
    assert!(stolen > 25, "{stolen} of 50");
}
