//! Semaphore, barrier, once, wait group.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unyield::fiber::yield_now;
use unyield::sync::{Barrier, Once, OnceState, Semaphore, WaitGroup};

use crate::support::{Crew, compute, in_order, let_it_wait};

crate::in_all_worlds!(
    a_semaphore_lets_so_many_in
    a_semaphore_keeps_its_permits_through_timeouts
    a_semaphore_serves_in_order
    a_semaphore_times_out
    a_barrier_has_one_leader_a_round
    a_barrier_of_none_or_one_lets_through
    once_is_once
    once_poisons_and_can_be_forced
    a_wait_group_waits_for_all
);

fn a_semaphore_lets_so_many_in(crew: &Crew) {
    let semaphore = Arc::new(Semaphore::new(3));
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..8 {
        let (semaphore, inside, most) = (Arc::clone(&semaphore), Arc::clone(&inside), Arc::clone(&most));
        crew.spawn(move || {
            for i in 0..2_000 {
                let _permit = semaphore.access();
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                assert!(now <= 3);
                most.fetch_max(now, Ordering::Relaxed);
                if i % 8 == 0 {
                    yield_now();
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
    crew.join();
    assert_eq!(semaphore.available_permits(), 3);
    assert!(most.load(Ordering::Relaxed) > 0);
}

fn a_semaphore_keeps_its_permits_through_timeouts(crew: &Crew) {
    let semaphore = Arc::new(Semaphore::new(2));
    for _ in 0..6 {
        let (semaphore, mut random) = (Arc::clone(&semaphore), crew.random());
        crew.spawn(move || {
            for _ in 0..1_500 {
                if semaphore.acquire_timeout(random.micros(60)) {
                    compute(random.micros(20));
                    semaphore.release();
                }
            }
        });
    }
    crew.join();
    assert_eq!(semaphore.available_permits(), 2);
}

fn a_semaphore_serves_in_order(crew: &Crew) {
    let semaphore = Arc::new(Semaphore::new(0));
    in_order(|| {
        let order = Arc::new(StdMutex::new(Vec::new()));
        for i in 0..5 {
            let (semaphore, order) = (Arc::clone(&semaphore), Arc::clone(&order));
            crew.spawn(move || {
                semaphore.acquire();
                order.lock().unwrap().push(i);
                semaphore.release();
            });
            let_it_wait();
        }
        semaphore.release();
        crew.join();
        semaphore.acquire();
        order.lock().unwrap().clone()
    });
    semaphore.release();
    assert!(semaphore.try_access().is_some());
    assert_eq!(format!("{semaphore:?}"), "Semaphore { available_permits: 1 }");
}

fn a_semaphore_times_out(crew: &Crew) {
    let semaphore = Arc::new(Semaphore::new(0));
    for _ in 0..3 {
        let semaphore = Arc::clone(&semaphore);
        crew.spawn(move || {
            let start = Instant::now();
            assert!(!semaphore.acquire_timeout(Duration::from_millis(20)));
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert!(!semaphore.acquire_deadline(start) && !semaphore.try_acquire());
        });
    }
    crew.join();
    semaphore.release();
    assert_eq!(semaphore.available_permits(), 1);
    let full = Semaphore::new(usize::MAX);
    assert!(catch_unwind(AssertUnwindSafe(|| full.release())).is_err());
    assert_eq!(full.available_permits(), usize::MAX);
}

fn a_barrier_has_one_leader_a_round(crew: &Crew) {
    const ROUNDS: usize = 1_000;
    // More than a batch.
    for n in [2, 5, 20] {
        let barrier = Arc::new(Barrier::new(n));
        let (arrived, leaders) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..n {
            let (barrier, arrived, leaders) =
                (Arc::clone(&barrier), Arc::clone(&arrived), Arc::clone(&leaders));
            crew.spawn(move || {
                for round in 0..ROUNDS / n {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    if barrier.wait().is_leader() {
                        leaders.fetch_add(1, Ordering::SeqCst);
                    }
                    let now = arrived.load(Ordering::SeqCst);
                    assert!(now >= (round + 1) * n && now <= (round + 2) * n, "{now} in round {round}");
                }
            });
        }
        crew.join();
        assert_eq!(leaders.load(Ordering::SeqCst), ROUNDS / n);
    }
}

fn a_barrier_of_none_or_one_lets_through(_: &Crew) {
    for n in [0, 1] {
        let barrier = Barrier::new(n);
        assert!(barrier.wait().is_leader() && barrier.wait().is_leader());
    }
}

fn once_is_once(crew: &Crew) {
    for _ in 0..100 {
        let (once, runs) = (Arc::new(Once::new()), Arc::new(AtomicUsize::new(0)));
        for _ in 0..4 {
            let (once, runs) = (Arc::clone(&once), Arc::clone(&runs));
            crew.spawn(move || {
                once.call_once(|| {
                    yield_now();
                    runs.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(runs.load(Ordering::Relaxed), 1);
                assert!(once.is_completed() && once.state().done());
            });
        }
        crew.join();
    }
}

fn once_poisons_and_can_be_forced(crew: &Crew) {
    let once = Arc::new(Once::new());
    assert_eq!(once.state(), OnceState::New);
    let task = Arc::clone(&once);
    crew.spawn(move || {
        let failed = || task.call_once(|| resume_unwind(Box::new("on purpose")));
        assert!(catch_unwind(AssertUnwindSafe(failed)).is_err());
    });
    crew.join();
    assert!(once.state().poisoned());
    assert!(catch_unwind(AssertUnwindSafe(|| once.call_once(|| ()))).is_err());
    once.call_once_force(|state| assert_eq!(state, OnceState::Poisoned));
    once.call_once(|| panic!("it is done"));
    assert!(once.is_completed());
}

fn a_wait_group_waits_for_all(crew: &Crew) {
    for _ in 0..50 {
        let (group, done) = (WaitGroup::new(), Arc::new(AtomicUsize::new(0)));
        for i in 0..20 {
            let (member, done) = (group.clone(), Arc::clone(&done));
            crew.spawn(move || {
                if i % 5 == 0 {
                    yield_now();
                }
                done.fetch_add(1, Ordering::Relaxed);
                // Some wait themselves.
                if i % 4 == 0 {
                    member.wait();
                    assert_eq!(done.load(Ordering::Relaxed), 20);
                }
            });
        }
        group.wait();
        assert_eq!(done.load(Ordering::Relaxed), 20);
        crew.join();
    }
    WaitGroup::default().wait();
}
