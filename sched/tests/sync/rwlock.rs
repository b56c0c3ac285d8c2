use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unyield::fiber::yield_now;
use unyield::sync::{RawRwLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support::{Crew, compute, in_order, let_it_wait, until};

crate::in_all_worlds!(
    all_ways_to_lock_exclude_writers
    many_readers_at_once
    readers_do_not_starve_a_writer
    writers_do_not_starve_a_reader
    a_reader_behind_a_writer_that_gave_up_gets_in
    reading_again_does_not_wait_for_a_waiting_writer
    downgrading_lets_readers_in
    times_out_and_is_as_before
    fair_unlocks_hand_over_in_order
);

fn state<T>(lock: &RwLock<T>) -> &RawRwLock {
    // SAFETY: only to look.
    unsafe { lock.raw() }
}

fn has_waiters<T>(lock: &RwLock<T>) -> bool {
    format!("{:?}", state(lock)).contains("waiters: true")
}

fn assert_unlocked<T>(lock: &RwLock<T>) {
    assert_eq!(format!("{:?}", state(lock)), "RawRwLock { writer: false, readers: 0, waiters: false, .. }");
}

fn all_ways_to_lock_exclude_writers(crew: &Crew) {
    let lock = Arc::new(RwLock::new((0_u64, 0_u64)));
    let writes = Arc::new(AtomicUsize::new(0));
    for _ in 0..6 {
        let (lock, writes, mut random) = (Arc::clone(&lock), Arc::clone(&writes), crew.random());
        crew.spawn(move || {
            for _ in 0..3_000 {
                if random.below(3) == 0 {
                    let guard = match random.below(4) {
                        0 | 1 => Some(lock.write()),
                        2 => lock.try_write(),
                        _ => lock.try_write_for(random.micros(100)),
                    };
                    let Some(mut guard) = guard else { continue };
                    assert_eq!(guard.0, guard.1);
                    guard.0 += 1;
                    match random.below(16) {
                        0 => compute(random.micros(50)),
                        1 => yield_now(),
                        2 => std::thread::sleep(random.micros(50)),
                        _ => {}
                    }
                    guard.1 += 1;
                    writes.fetch_add(1, Ordering::Relaxed);
                    match random.below(4) {
                        0 => RwLockWriteGuard::unlock_fair(guard),
                        1 => {
                            let n = guard.0;
                            let guard = RwLockWriteGuard::downgrade(guard);
                            assert_eq!(*guard, (n, n));
                        }
                        2 => {
                            RwLockWriteGuard::bump(&mut guard);
                            assert_eq!(guard.0, guard.1);
                        }
                        _ => drop(guard),
                    }
                } else {
                    let guard = match random.below(5) {
                        0 | 1 => Some(lock.read()),
                        2 => lock.try_read(),
                        3 => Some(lock.read_recursive()),
                        _ => lock.try_read_for(random.micros(100)),
                    };
                    let Some(mut guard) = guard else { continue };
                    let before = *guard;
                    assert_eq!(before.0, before.1);
                    match random.below(16) {
                        0 => compute(random.micros(50)),
                        1 => yield_now(),
                        2 => std::thread::sleep(random.micros(50)),
                        _ => {}
                    }
                    assert_eq!(*guard, before);
                    match random.below(3) {
                        0 => RwLockReadGuard::unlock_fair(guard),
                        1 => RwLockReadGuard::bump(&mut guard),
                        _ => drop(guard),
                    }
                }
            }
        });
    }
    crew.join();
    let n = writes.load(Ordering::Relaxed) as u64;
    assert_eq!(*lock.read(), (n, n));
    assert_unlocked(&lock);
}

fn many_readers_at_once(crew: &Crew) {
    let lock = Arc::new(RwLock::new(()));
    let inside = Arc::new(AtomicUsize::new(0));
    // More than a batch of them behind a writer.
    let writer = lock.write();
    for _ in 0..40 {
        let (lock, inside) = (Arc::clone(&lock), Arc::clone(&inside));
        crew.spawn(move || {
            let _guard = lock.read();
            inside.fetch_add(1, Ordering::Relaxed);
            until("all inside", || inside.load(Ordering::Relaxed) == 40);
        });
    }
    until("waits", || has_waiters(&lock));
    std::thread::sleep(Duration::from_millis(10));
    drop(writer);
    crew.join();
    assert_unlocked(&lock);
}

fn readers_do_not_starve_a_writer(crew: &Crew) {
    let lock = Arc::new(RwLock::new(()));
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let (lock, stop) = (Arc::clone(&lock), Arc::clone(&stop));
        crew.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _guard = lock.read();
                compute(Duration::from_micros(50));
                yield_now();
            }
        });
    }
    let task = Arc::clone(&lock);
    crew.spawn(move || {
        for _ in 0..100 {
            drop(task.write());
        }
        stop.store(true, Ordering::Relaxed);
    });
    crew.join();
    assert_unlocked(&lock);
}

fn writers_do_not_starve_a_reader(crew: &Crew) {
    let lock = Arc::new(RwLock::new(()));
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..3 {
        let (lock, stop) = (Arc::clone(&lock), Arc::clone(&stop));
        crew.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _guard = lock.write();
                compute(Duration::from_micros(20));
            }
        });
    }
    let task = Arc::clone(&lock);
    crew.spawn(move || {
        for _ in 0..100 {
            drop(task.read());
        }
        stop.store(true, Ordering::Relaxed);
    });
    crew.join();
    assert_unlocked(&lock);
}

fn a_reader_behind_a_writer_that_gave_up_gets_in(crew: &Crew) {
    let lock = Arc::new(RwLock::new(()));
    let _first = lock.read();
    let task = Arc::clone(&lock);
    crew.spawn(move || assert!(task.try_write_for(Duration::from_millis(100)).is_none()));
    until("waits", || has_waiters(&lock));
    assert!(lock.try_read().is_none(), "the writer waits");
    for _ in 0..3 {
        let task = Arc::clone(&lock);
        crew.spawn(move || drop(task.read()));
    }
    crew.join();
}

fn reading_again_does_not_wait_for_a_waiting_writer(crew: &Crew) {
    let lock = Arc::new(RwLock::new(()));
    let first = lock.read();
    let task = Arc::clone(&lock);
    crew.spawn(move || drop(task.write()));
    until("waits", || has_waiters(&lock));
    let again = lock.read_recursive();
    assert!(lock.try_read_recursive().is_some());
    assert!(lock.try_read().is_none());
    drop((first, again));
}

fn downgrading_lets_readers_in(crew: &Crew) {
    let lock = Arc::new(RwLock::new(0));
    let mut writer = lock.write();
    for _ in 0..3 {
        let task = Arc::clone(&lock);
        crew.spawn(move || assert_eq!(*task.read(), 1));
    }
    until("waits", || has_waiters(&lock));
    *writer = 1;
    let _reader = RwLockWriteGuard::downgrade(writer);
    crew.join();
    assert!(lock.try_write().is_none());
}

fn times_out_and_is_as_before(crew: &Crew) {
    let lock = Arc::new(RwLock::new(0));
    let guard = lock.write();
    for i in 0..6 {
        let lock = Arc::clone(&lock);
        crew.spawn(move || {
            let start = Instant::now();
            let timeout = Duration::from_millis(20);
            if i % 2 == 0 {
                assert!(lock.try_write_for(timeout).is_none());
            } else {
                assert!(lock.try_read_until(start + timeout).is_none());
            }
            assert!(start.elapsed() >= timeout);
        });
    }
    crew.join();
    assert!(!has_waiters(&lock));
    drop(guard);
    assert_unlocked(&lock);
    assert!(lock.try_write().is_some());
}

fn fair_unlocks_hand_over_in_order(crew: &Crew) {
    in_order(|| {
        let lock = Arc::new(RwLock::new(Vec::new()));
        let guard = lock.write();
        for i in 0..5 {
            let task = Arc::clone(&lock);
            crew.spawn(move || {
                let mut order = task.write();
                order.push(i);
                RwLockWriteGuard::unlock_fair(order);
            });
            let_it_wait();
        }
        let waits = has_waiters(&lock);
        RwLockWriteGuard::unlock_fair(guard);
        // The first waiter has it, whether it runs yet or not.
        if waits && let Some(order) = lock.try_write() {
            assert!(!order.is_empty());
        }
        crew.join();
        lock.write().clone()
    });
}
