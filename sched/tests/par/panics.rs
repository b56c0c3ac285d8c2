//! Panics in either half, in stolen ones, in both; in scopes; and cancels.

use crate::common::spin;
use crate::{MS, all, fib, runtime, until};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use unyield::par::{join_context, scope};
use unyield::preempt::Stealing;
use unyield::{fiber, join};

/// The number that `f` panics with.
fn panics_with<R>(f: impl FnOnce() -> R) -> u32 {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("no panic"),
        Err(payload) => *payload.downcast::<u32>().expect("another panic"),
    }
}

fn throw(n: u32) -> u32 {
    resume_unwind(Box::new(n)) // without the hook's message
}

#[test]
fn the_first_half_panics_then_the_second_is_dropped_or_waited_for() {
    all(|runtime| {
        runtime.run(|| {
            let (drops, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
            struct Counted<'a>(&'a AtomicUsize);
            impl Drop for Counted<'_> {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Relaxed);
                }
            }
            for i in 0..200 {
                let counted = Counted(&drops);
                let n = panics_with(|| {
                    join(
                        || {
                            if i % 4 == 0 {
                                spin(MS / 5);
                            }
                            throw(i)
                        },
                        || {
                            let _counted = counted;
                            runs.fetch_add(1, Relaxed);
                            fib(8)
                        },
                    )
                });
                assert_eq!(n, i);
                assert_eq!(drops.load(Relaxed), i as usize + 1);
            }
        });
    });
}

#[test]
fn the_second_half_panics_here_or_elsewhere() {
    all(|runtime| {
        runtime.run(|| {
            for i in 0..200 {
                let n = panics_with(|| {
                    join(
                        || {
                            if i % 4 == 0 {
                                spin(MS / 5)
                            }
                        },
                        || throw(i + 1),
                    );
                });
                assert_eq!(n, i + 1);
            }
        });
    });
}

#[test]
fn both_panic_and_the_first_is_told() {
    all(|runtime| {
        runtime.run(|| {
            for i in 0..100 {
                let n = panics_with(|| {
                    join(
                        || {
                            spin(MS / 5);
                            throw(i)
                        },
                        || throw(1000),
                    );
                });
                assert_eq!(n, i);
            }
        });
    });
}

#[test]
fn a_panic_deep_in_a_tree_comes_up_and_the_tree_goes_on() {
    fn tree(depth: u32) -> u32 {
        if depth == 0 {
            return throw(77);
        }
        let (a, b) = join(|| fib(6), || tree(depth - 1));
        a as u32 + b
    }
    all(|runtime| {
        runtime.run(|| {
            for _ in 0..50 {
                let (n, f) = join(|| panics_with(|| tree(30)), || fib(12));
                assert_eq!((n, f), (77, 144));
            }
        });
    });
}

#[test]
fn a_scope_panics_after_all_have_ended() {
    all(|runtime| {
        let ended = AtomicUsize::new(0);
        let n = panics_with(|| {
            runtime.run(|| {
                scope(|s| {
                    for i in 0..10 {
                        let ended = &ended;
                        s.spawn(move |_| {
                            unyield::sleep(2 * MS);
                            ended.fetch_add(1, Relaxed);
                            if i == 5 {
                                throw(5);
                            }
                        });
                    }
                });
            });
        });
        assert_eq!((n, ended.load(Relaxed)), (5, 10));
        let n = panics_with(|| {
            runtime.run(|| {
                scope(|s| {
                    s.spawn(|_| unyield::sleep(MS));
                    throw(9)
                })
            })
        });
        assert_eq!(n, 9);
    });
}

#[test]
fn a_panic_of_a_fiber_local_destructor_is_the_half_s_own() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            throw(3);
        }
    }
    unyield::fiber_local!(
        static LOCAL: Bomb = Bomb;
    );
    let runtime = runtime(2, Stealing::Lazy);
    let caught = (0..50).filter(|_| {
        let begun = AtomicBool::new(false);
        runtime.run(|| {
            let result = catch_unwind(AssertUnwindSafe(|| {
                join_context(
                    |_| until(&begun),
                    |context| {
                        begun.store(true, Relaxed);
                        if context.migrated() {
                            LOCAL.with(|_| ());
                        }
                    },
                )
            }));
            result.is_err()
        })
    });
    assert!(caught.count() > 25, "nobody steals");
}

#[test]
fn a_cancel_waits_for_the_join() {
    let runtime = runtime(2, Stealing::Lazy);
    for _ in 0..20 {
        let handle = runtime.spawn(|| {
            let me = fiber::current().unwrap();
            let (_, ran) = join(
                || spin(MS),
                || {
                    me.cancel();
                    unyield::par::join(|| fib(12), || 1).1
                },
            );
            assert_eq!(ran, 1);
            fiber::sleep(MS); // cancelled here
        });
        assert!(handle.join().unwrap_err().is_cancelled());
    }
}
