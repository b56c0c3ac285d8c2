//! Cancelling fibers that wait in a primitive: they unwind, and neither permits nor values nor wake-ups are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unyield::Runtime;
use unyield::fiber::JoinHandle;
use unyield::sync::{Barrier, Condvar, Mutex, Once, RwLock, Semaphore, WaitGroup, channel, oneshot};

fn runtime(workers: usize) -> Runtime {
    Runtime::builder().workers(workers).quantum(Duration::from_micros(100)).build().unwrap()
}

fn let_it_wait() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Cancels a fiber that waits and sees that it unwinds.
fn cancel(fiber: JoinHandle<()>) {
    let_it_wait();
    assert!(!fiber.is_finished(), "it waits");
    fiber.fiber().cancel();
    assert!(fiber.join().unwrap_err().is_cancelled());
}

/// Sets the flag when it is dropped, by unwinding or not.
struct Unwound(Arc<AtomicBool>);

impl Drop for Unwound {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn each_wait_ends() {
    let runtime = runtime(1);

    let (sender, receiver) = channel::bounded(1);
    let waiting = receiver.clone();
    cancel(runtime.spawn(move || drop(waiting.recv())));
    let waiting = receiver.clone();
    cancel(runtime.spawn(move || drop(waiting.recv_timeout(Duration::from_secs(100)))));
    let dropped = Arc::new(AtomicBool::new(false));
    sender.send(Unwound(Arc::default())).unwrap();
    let (waiting, value) = (sender.clone(), Unwound(Arc::clone(&dropped)));
    cancel(runtime.spawn(move || drop(waiting.send(value))));
    assert!(dropped.load(Ordering::SeqCst), "the value goes with the wait");
    assert!(receiver.recv().is_ok() && receiver.try_recv().is_err());

    let semaphore = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&semaphore);
    cancel(runtime.spawn(move || waiting.acquire()));
    semaphore.release();
    assert_eq!(semaphore.available_permits(), 1);

    let (_sender, receiver) = oneshot::channel::<()>();
    cancel(runtime.spawn(move || {
        let _ = receiver.recv();
    }));

    let group = WaitGroup::new();
    let waiting = group.clone();
    cancel(runtime.spawn(move || waiting.wait()));
    group.wait();

    let (once, started) = (Arc::new(Once::new()), Arc::new(Semaphore::new(0)));
    let (running, start, go_on) = (Arc::clone(&once), Arc::clone(&started), Arc::new(Semaphore::new(0)));
    let end = Arc::clone(&go_on);
    let runner = runtime.spawn(move || {
        running.call_once(|| {
            start.release();
            end.acquire();
        });
    });
    started.acquire();
    let waiting = Arc::clone(&once);
    cancel(runtime.spawn(move || waiting.call_once(|| ())));
    go_on.release();
    runner.join().unwrap();
    assert!(once.is_completed());
}

#[test]
fn a_cancelled_condvar_wait_holds_the_mutex_again() {
    let runtime = runtime(1);
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let waiting = Arc::clone(&shared);
    let fiber = runtime.spawn(move || {
        struct Touch<'a>(unyield::sync::MutexGuard<'a, i32>);
        impl Drop for Touch<'_> {
            fn drop(&mut self) {
                *self.0 += 1;
                std::thread::sleep(Duration::from_millis(5));
                *self.0 += 1;
            }
        }
        let mut guard = Touch(waiting.0.lock());
        loop {
            waiting.1.wait(&mut guard.0);
        }
    });
    let_it_wait();
    let held = shared.0.lock();
    fiber.fiber().cancel();
    let_it_wait();
    assert!(!fiber.is_finished(), "it wants the mutex");
    assert_eq!(*held, 0);
    drop(held);
    assert!(fiber.join().unwrap_err().is_cancelled());
    assert_eq!(*shared.0.lock(), 2);
    assert!(!shared.1.notify_one());
}

#[test]
fn a_cancelled_barrier_wait_does_not_count() {
    let runtime = runtime(1);
    let barrier = Arc::new(Barrier::new(3));
    let waiting = Arc::clone(&barrier);
    cancel(runtime.spawn(move || {
        waiting.wait();
    }));
    let others: Vec<_> = (0..2)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            runtime.spawn(move || {
                barrier.wait();
            })
        })
        .collect();
    let_it_wait();
    assert!(others.iter().all(|f| !f.is_finished()));
    barrier.wait();
    others.into_iter().for_each(|f| f.join().unwrap());
}

#[test]
fn locks_are_no_cancellation_points() {
    let runtime = runtime(1);
    let shared = Arc::new((Mutex::new(0), RwLock::new(0), Semaphore::new(0)));
    let (mutex, rwlock) = (shared.0.lock(), shared.1.read());
    let waiting = Arc::clone(&shared);
    let fiber = runtime.spawn(move || {
        *waiting.0.lock() += 1;
        *waiting.1.write() += 1;
        waiting.2.acquire();
        *waiting.0.lock() += 100;
    });
    let_it_wait();
    fiber.fiber().cancel();
    let_it_wait();
    drop(mutex);
    let_it_wait();
    assert!(!fiber.is_finished());
    drop(rwlock);
    assert!(fiber.join().unwrap_err().is_cancelled());
    assert_eq!((*shared.0.lock(), *shared.1.read()), (1, 1));
}

#[test]
fn one_that_unwinds_may_wait() {
    let runtime = runtime(1);
    let semaphores = Arc::new((Semaphore::new(0), Semaphore::new(0)));
    struct WaitInDrop(Arc<(Semaphore, Semaphore)>);
    impl Drop for WaitInDrop {
        fn drop(&mut self) {
            self.0.1.acquire();
        }
    }
    let waiting = WaitInDrop(Arc::clone(&semaphores));
    let fiber = runtime.spawn(move || waiting.0.0.acquire());
    let_it_wait();
    fiber.fiber().cancel();
    let_it_wait();
    assert!(!fiber.is_finished(), "it waits in a drop");
    semaphores.1.release();
    assert!(fiber.join().unwrap_err().is_cancelled());
}

/// Fibers that are cancelled at any moment, beside wakers.
fn cancel_at_random(workers: usize) {
    let runtime = runtime(workers);
    let semaphore = Arc::new(Semaphore::new(2));
    let (live, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    struct Live(Arc<AtomicUsize>);
    impl Drop for Live {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let barrier_free = Arc::new(Barrier::new(2));
    let (sender, receiver) = channel::bounded::<Live>(1);
    let until = Instant::now() + Duration::from_secs(2);
    let mut rounds = 0_u64;
    while Instant::now() < until {
        let fibers: Vec<_> = (0..12)
            .map(|i| {
                let (semaphore, live, received) =
                    (Arc::clone(&semaphore), Arc::clone(&live), Arc::clone(&received));
                let (sender, receiver, barrier) =
                    (sender.clone(), receiver.clone(), Arc::clone(&barrier_free));
                runtime.spawn(move || {
                    loop {
                        match i % 4 {
                            0 => {
                                let _permit = semaphore.access();
                                unyield::yield_now();
                            }
                            1 => {
                                live.fetch_add(1, Ordering::Relaxed);
                                let _ = sender.send(Live(Arc::clone(&live)));
                            }
                            2 => {
                                drop(receiver.recv());
                                received.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => {
                                barrier.wait();
                            }
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_micros(rounds * 37 % 3_000));
        rounds += 1;
        fibers.iter().for_each(|f| f.fiber().cancel());
        for fiber in fibers {
            assert!(fiber.join().unwrap_err().is_cancelled());
        }
        assert_eq!(semaphore.available_permits(), 2);
        assert_eq!(live.load(Ordering::Relaxed), receiver.len(), "what is not in the channel is gone");
    }
    assert!(received.load(Ordering::Relaxed) > 0);
    // Nobody counts as arrived.
    let other = Arc::clone(&barrier_free);
    let fiber = runtime.spawn(move || {
        other.wait();
    });
    let_it_wait();
    assert!(!fiber.is_finished());
    barrier_free.wait();
    fiber.join().unwrap();
}

#[test]
fn cancel_at_random_on_1() {
    cancel_at_random(1);
}

#[test]
fn cancel_at_random_on_2() {
    cancel_at_random(2);
}
