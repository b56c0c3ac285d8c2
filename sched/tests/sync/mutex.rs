use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unyield::fiber::yield_now;
use unyield::sync::{Mutex, MutexGuard};

use crate::support::{Crew, compute, in_order, let_it_wait, until};

crate::in_all_worlds!(
    counts_right
    counts_right_with_yields_inside
    all_ways_to_lock_exclude_each_other
    times_out_and_is_as_before
    a_hog_does_not_starve_others
    unlock_fair_hands_over_in_order
    bump_lets_a_waiter_in
    unlocked_lets_others_in
    a_panic_unlocks
);

/// Two counters that only the lock keeps equal.
fn step(pair: &mut (u64, u64)) {
    assert_eq!(pair.0, pair.1);
    pair.0 += 1;
    std::hint::black_box(&mut *pair);
    pair.1 += 1;
}

fn counts_right(crew: &Crew) {
    let lock = Arc::new(Mutex::new((0, 0)));
    for _ in 0..4 {
        let lock = Arc::clone(&lock);
        crew.spawn(move || (0..50_000).for_each(|_| step(&mut lock.lock())));
    }
    crew.join();
    assert_eq!(*lock.lock(), (200_000, 200_000));
}

fn counts_right_with_yields_inside(crew: &Crew) {
    let lock = Arc::new(Mutex::new((0, 0)));
    for _ in 0..4 {
        let lock = Arc::clone(&lock);
        crew.spawn(move || {
            for _ in 0..3_000 {
                let mut pair = lock.lock();
                step(&mut pair);
                yield_now();
                step(&mut pair);
            }
        });
    }
    crew.join();
    assert_eq!(*lock.lock(), (24_000, 24_000));
}

fn all_ways_to_lock_exclude_each_other(crew: &Crew) {
    let lock = Arc::new(Mutex::new((0, 0)));
    let taken = Arc::new(AtomicUsize::new(0));
    for _ in 0..6 {
        let (lock, taken, mut random) = (Arc::clone(&lock), Arc::clone(&taken), crew.random());
        crew.spawn(move || {
            for _ in 0..3_000 {
                let guard = match random.below(4) {
                    0 => Some(lock.lock()),
                    1 => lock.try_lock(),
                    2 => lock.try_lock_for(random.micros(100)),
                    _ => lock.try_lock_until(Instant::now() + random.micros(20)),
                };
                let Some(mut guard) = guard else { continue };
                step(&mut guard);
                taken.fetch_add(1, Ordering::Relaxed);
                match random.below(20) {
                    0 => compute(random.micros(50)),
                    1 => yield_now(),
                    2 => std::thread::sleep(random.micros(50)),
                    3..7 => MutexGuard::bump(&mut guard),
                    7..12 => {
                        MutexGuard::unlock_fair(guard);
                        continue;
                    }
                    _ => {}
                }
                drop(guard);
            }
        });
    }
    crew.join();
    let n = taken.load(Ordering::Relaxed) as u64;
    assert!(n > 0);
    assert_eq!(*lock.lock(), (n, n));
    assert_eq!(format!("{:?}", state(&lock)), "RawMutex { locked: false, waiters: false, .. }");
}

fn state<T>(lock: &Mutex<T>) -> &unyield::sync::RawMutex {
    // SAFETY: only to look.
    unsafe { lock.raw() }
}

fn has_waiters<T>(lock: &Mutex<T>) -> bool {
    format!("{:?}", state(lock)).contains("waiters: true")
}

fn times_out_and_is_as_before(crew: &Crew) {
    let lock = Arc::new(Mutex::new(0));
    let guard = lock.lock();
    for _ in 0..4 {
        let lock = Arc::clone(&lock);
        crew.spawn(move || {
            let start = Instant::now();
            assert!(lock.try_lock_for(Duration::from_millis(20)).is_none());
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert!(lock.try_lock_until(start).is_none());
            assert!(lock.try_lock_for(Duration::ZERO).is_none());
        });
    }
    crew.join();
    assert!(!has_waiters(&lock));
    drop(guard);
    assert!(lock.try_lock().is_some());
    assert!(lock.try_lock_for(Duration::MAX).is_some());
}

fn a_hog_does_not_starve_others(crew: &Crew) {
    let lock = Arc::new(Mutex::new(()));
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..2 {
        let (lock, stop) = (Arc::clone(&lock), Arc::clone(&stop));
        crew.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _guard = lock.lock();
                compute(Duration::from_micros(20));
            }
        });
    }
    let served = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let (lock, served) = (Arc::clone(&lock), Arc::clone(&served));
        crew.spawn(move || {
            for _ in 0..100 {
                drop(lock.lock());
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    until("served", || served.load(Ordering::Relaxed) == 200);
    stop.store(true, Ordering::Relaxed);
}

fn unlock_fair_hands_over_in_order(crew: &Crew) {
    in_order(|| {
        let lock = Arc::new(Mutex::new(Vec::new()));
        let guard = lock.lock();
        for i in 0..5 {
            let task = Arc::clone(&lock);
            crew.spawn(move || {
                let mut order = task.lock();
                order.push(i);
                MutexGuard::unlock_fair(order);
            });
            let_it_wait();
        }
        let waits = has_waiters(&lock);
        MutexGuard::unlock_fair(guard);
        // The first waiter has it, whether it runs yet or not.
        if waits && let Some(order) = lock.try_lock() {
            assert!(!order.is_empty());
        }
        crew.join();
        lock.lock().clone()
    });
}

fn bump_lets_a_waiter_in(crew: &Crew) {
    let lock = Arc::new(Mutex::new(0));
    let mut guard = lock.lock();
    MutexGuard::bump(&mut guard);
    let task = Arc::clone(&lock);
    crew.spawn(move || *task.lock() += 1);
    until("waits", || has_waiters(&lock));
    MutexGuard::bump(&mut guard);
    assert_eq!(*guard, 1);
}

fn unlocked_lets_others_in(crew: &Crew) {
    let lock = Arc::new(Mutex::new(0));
    let mut guard = lock.lock();
    let task = Arc::clone(&lock);
    crew.spawn(move || *task.lock() += 1);
    MutexGuard::unlocked(&mut guard, || until("done", || *lock.lock() == 1));
    assert_eq!(*guard, 1);
}

fn a_panic_unlocks(crew: &Crew) {
    let lock = Arc::new(Mutex::new(0));
    let task = Arc::clone(&lock);
    crew.spawn(move || {
        let failed = || {
            let mut guard = task.lock();
            *guard = 1;
            resume_unwind(Box::new("on purpose"));
        };
        assert!(catch_unwind(AssertUnwindSafe(failed)).is_err());
    });
    crew.join();
    assert_eq!(*lock.lock(), 1);
}
