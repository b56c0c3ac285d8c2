//! What `join` and `scope` compute, from where they may be called.

use crate::common::{alone, spin};
use crate::{MS, all, fib, runtime, serial_fib, until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use unyield::par::{join_context, scope};
use unyield::preempt::{Preemption, Stealing};
use unyield::{Runtime, critical, join};

#[test]
fn a_tree_of_forks() {
    all(|runtime| assert_eq!(runtime.run(|| fib(21)), serial_fib(21)));
}

#[test]
fn forks_one_after_the_other_and_nested() {
    all(|runtime| {
        let total: u64 = runtime.run(|| {
            (0..2000)
                .map(|i| {
                    let (a, (b, c)) = join(|| i, || join(|| 2 * i, || join(|| i, || i).0));
                    a + b + c
                })
                .sum()
        });
        assert_eq!(total, 4 * 1999 * 2000 / 2);
    });
}

#[test]
fn a_plain_thread_forks_on_the_global_runtime() {
    let thread = std::thread::current().id();
    let (a, b) = join(|| std::thread::current().id(), || fib(10));
    assert_ne!(a, thread);
    assert_eq!(b, 55);
    let (migrated, _) = join_context(|context| context.migrated(), |_| ());
    assert!(migrated);
    let mut parts = [1, 2, 3];
    scope(|s| parts.iter_mut().for_each(|part| s.spawn(move |_| *part *= 2)));
    assert_eq!(parts, [2, 4, 6]);
}

#[test]
fn the_other_half_is_stolen_and_knows() {
    for stealing in [Stealing::Lazy, Stealing::Eager] {
        let runtime = runtime(2, stealing);
        let stolen = (0..50).filter(|_| {
            let begun = AtomicBool::new(false);
            let first = |context: unyield::par::Ctx| {
                until(&begun);
                assert!(!context.migrated());
            };
            let second = |context: unyield::par::Ctx| {
                begun.store(true, Relaxed);
                context.migrated()
            };
            runtime.run(|| join_context(first, second).1)
        });
        assert!(stolen.count() > 25, "half a machine was idle");
        assert!(runtime.handle().metrics().forks_stolen() > 25);
    }
}

#[test]
fn what_is_borrowed_and_moved_is_dropped_once() {
    struct Counted<'a>(&'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    all(|runtime| {
        let drops = AtomicUsize::new(0);
        runtime.run(|| {
            for i in 0..1000 {
                let (a, b) = (Counted(&drops), Counted(&drops));
                let (a, b) = join(
                    move || a,
                    move || {
                        if i % 10 == 0 {
                            spin(MS / 50)
                        }
                        b
                    },
                );
                drop((a, b));
            }
        });
        assert_eq!(drops.load(Relaxed), 2000);
    });
}

#[test]
fn in_a_critical_section_both_halves_run_here() {
    all(|runtime| {
        let result = runtime.run(|| critical(|| join(|| fib(5), || fib(6))));
        assert_eq!(result, (5, 8));
    });
    assert_eq!(critical(|| join(|| 1, || 2)), (1, 2));
}

#[test]
fn a_scope_waits_for_all_and_for_those_that_they_spawn() {
    all(|runtime| {
        let seen = Mutex::new(Vec::new());
        let answer = runtime.run(|| {
            scope(|s| {
                for i in 0..20 {
                    let seen = &seen;
                    s.spawn(move |s| {
                        s.spawn(move |_| seen.lock().unwrap().push(i + 100));
                        seen.lock().unwrap().push(i);
                    });
                }
                42
            })
        });
        assert_eq!(answer, 42);
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).chain(100..120).collect::<Vec<_>>());
    });
}

#[test]
fn a_stolen_half_is_a_fiber_of_its_own() {
    unyield::fiber_local!(
        static LOCAL: std::cell::Cell<u32> = std::cell::Cell::new(0);
    );
    let runtime = runtime(2, Stealing::Lazy);
    runtime.run(|| {
        let kept = Mutex::new(Vec::new());
        let mut stolen = 0;
        while stolen < 20 {
            LOCAL.with(|local| local.set(7));
            let own = unyield::fiber::current().unwrap().id();
            let ((), migrated) = join_context(
                |_| spin(MS),
                |context| {
                    let me = unyield::fiber::current().unwrap();
                    if !context.migrated() {
                        assert_eq!(me.id(), own);
                        return false;
                    }
                    assert_ne!(me.id(), own);
                    assert_eq!(LOCAL.with(std::cell::Cell::get), 0, "a value of an earlier fiber");
                    LOCAL.with(|local| local.set(9));
                    kept.lock().unwrap().push(me);
                    unyield::sleep(MS / 10);
                    true
                },
            );
            stolen += usize::from(migrated);
            assert_eq!(LOCAL.with(std::cell::Cell::get), 7);
        }
        let mut ids: Vec<_> = kept.lock().unwrap().iter().map(unyield::fiber::Fiber::id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20, "a fiber's number is used twice");
        kept.lock().unwrap().iter().for_each(|fiber| {
            fiber.unpark();
            fiber.cancel();
        });
    });
}

#[test]
fn metrics_and_the_mode() {
    for (stealing, preemption, got) in [
        (Stealing::Lazy, Preemption::Anywhere, Stealing::Lazy),
        (Stealing::Eager, Preemption::Anywhere, Stealing::Eager),
        (Stealing::Lazy, Preemption::Off, Stealing::Lazy),
        (Stealing::Lazy, Preemption::AtCheckpoints, Stealing::Eager),
    ] {
        let runtime =
            Runtime::builder().workers(1).preemption(preemption).stealing(stealing).build().unwrap();
        assert_eq!(runtime.handle().stealing(), got);
    }
}

#[test]
fn a_forked_child_goes_on_alone() {
    alone("results::a_forked_child_goes_on_alone", || {
        let runtime = runtime(1, Stealing::Lazy);
        let status = runtime.run(|| {
            // Its second half was not stolen: there is nobody.
            let (status, _) = join(
                || {
                    // SAFETY: the child computes, and ends with exit.
                    match unsafe { libc::fork() } {
                        0 => {
                            let (a, b) = join(|| 20, || 22);
                            std::process::exit(a + b);
                        }
                        child => {
                            let mut status = 0;
                            // SAFETY: a child of ours.
                            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                            status
                        }
                    }
                },
                || (),
            );
            status
        });
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "{status:#x}");
    });
}

/// Halves that were stolen before the fork are done; those that the child forks itself nobody takes there.
#[test]
fn a_forked_child_after_thefts() {
    alone("results::a_forked_child_after_thefts", || {
        let runtime = runtime(2, Stealing::Lazy);
        for _ in 0..20 {
            let status = runtime.run(|| {
                let done = AtomicBool::new(false);
                let inner = || {
                    spin(MS);
                    // SAFETY: the child computes, and ends with exit.
                    match unsafe { libc::fork() } {
                        0 => {
                            for i in 0..100 {
                                let (a, b) = join(|| Box::new(i), || Box::new(i + 1));
                                if *a != i || *b != i + 1 {
                                    std::process::exit(1);
                                }
                            }
                            std::process::exit(42);
                        }
                        child => {
                            let mut status = 0;
                            // SAFETY: a child of ours.
                            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                            status
                        }
                    }
                };
                join(
                    || {
                        let start = std::time::Instant::now();
                        while !done.load(Relaxed) && start.elapsed() < 20 * MS {
                            std::hint::spin_loop();
                        }
                        join(inner, || spin(MS / 10)).0
                    },
                    || done.store(true, Relaxed),
                )
                .0
            });
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "{status:#x}");
        }
    });
}
