use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unyield::sync::{Condvar, Mutex};

use crate::support::{Crew, until};

crate::in_all_worlds!(
    no_wake_up_is_lost_in_ping_pong
    a_buffer_of_two_conditions
    notify_all_wakes_all_that_wait
    times_out
    wait_while_waits
    one_notification_wakes_one_even_at_the_edge_of_a_timeout
);

fn no_wake_up_is_lost_in_ping_pong(crew: &Crew) {
    const ROUNDS: usize = 20_000;
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    for me in 0..2 {
        let shared = Arc::clone(&shared);
        crew.spawn(move || {
            for round in 0..ROUNDS {
                let mut turn = shared.0.lock();
                while *turn != 2 * round + me {
                    shared.1.wait(&mut turn);
                }
                *turn += 1;
                // With and without the lock.
                if round % 2 == 0 {
                    drop(turn);
                }
                shared.1.notify_one();
            }
        });
    }
    crew.join();
    assert_eq!(*shared.0.lock(), 2 * ROUNDS);
}

#[derive(Default)]
struct Buffer {
    items: Mutex<VecDeque<usize>>,
    not_empty: Condvar,
    not_full: Condvar,
}

fn a_buffer_of_two_conditions(crew: &Crew) {
    const EACH: usize = 5_000;
    let buffer = Arc::new(Buffer::default());
    let sum = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let producer = Arc::clone(&buffer);
        crew.spawn(move || {
            for i in 0..EACH {
                let mut items = producer.items.lock();
                producer.not_full.wait_while(&mut items, |items| items.len() == 4);
                items.push_back(i);
                producer.not_empty.notify_one();
            }
        });
        let (consumer, sum) = (Arc::clone(&buffer), Arc::clone(&sum));
        crew.spawn(move || {
            for _ in 0..EACH {
                let mut items = consumer.items.lock();
                while items.is_empty() {
                    consumer.not_empty.wait(&mut items);
                }
                sum.fetch_add(items.pop_front().unwrap(), Ordering::Relaxed);
                drop(items);
                consumer.not_full.notify_one();
            }
        });
    }
    crew.join();
    assert_eq!(sum.load(Ordering::Relaxed), 3 * EACH * (EACH - 1) / 2);
}

fn notify_all_wakes_all_that_wait(crew: &Crew) {
    let shared = Arc::new((Mutex::new((0, false)), Condvar::new()));
    assert!(!shared.1.notify_one());
    assert_eq!(shared.1.notify_all(), 0);
    for _ in 0..40 {
        let shared = Arc::clone(&shared);
        crew.spawn(move || {
            let mut state = shared.0.lock();
            state.0 += 1;
            while !state.1 {
                shared.1.wait(&mut state);
            }
        });
    }
    until("all wait", || shared.0.lock().0 == 40);
    let mut state = shared.0.lock();
    state.1 = true;
    assert!(shared.1.notify_one());
    assert_eq!(shared.1.notify_all(), 39);
    assert_eq!(shared.1.notify_all(), 0);
    drop(state);
    crew.join();
}

fn times_out(crew: &Crew) {
    let shared = Arc::new((Mutex::new(()), Condvar::new()));
    for _ in 0..4 {
        let shared = Arc::clone(&shared);
        crew.spawn(move || {
            let mut guard = shared.0.lock();
            let start = Instant::now();
            assert!(shared.1.wait_for(&mut guard, Duration::from_millis(20)).timed_out());
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert!(shared.1.wait_until(&mut guard, start).timed_out());
        });
    }
    crew.join();
    assert_eq!(shared.1.notify_all(), 0);
}

fn wait_while_waits(crew: &Crew) {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let task = Arc::clone(&shared);
    crew.spawn(move || {
        for _ in 0..10 {
            *task.0.lock() += 1;
            task.1.notify_all();
        }
    });
    let mut n = shared.0.lock();
    shared.1.wait_while(&mut n, |n| *n < 5);
    assert!(*n >= 5);
    let forever = Duration::from_secs(100);
    assert!(!shared.1.wait_while_for(&mut n, |n| *n < 10, forever).timed_out());
    assert!(shared.1.wait_while_for(&mut n, |n| *n < 11, Duration::from_millis(5)).timed_out());
    assert!(!shared.1.wait_while_until(&mut n, |n| *n < 10, Instant::now()).timed_out());
}

fn one_notification_wakes_one_even_at_the_edge_of_a_timeout(crew: &Crew) {
    let shared = Arc::new((Mutex::new(()), Condvar::new()));
    let (woken, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let notified = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let (shared, woken, mut random) = (Arc::clone(&shared), Arc::clone(&woken), crew.random());
        crew.spawn(move || {
            for _ in 0..2_000 {
                let mut guard = shared.0.lock();
                if !shared.1.wait_for(&mut guard, random.micros(100)).timed_out() {
                    woken.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let (task, stop_too, notified_too, mut random) =
        (Arc::clone(&shared), Arc::clone(&stop), Arc::clone(&notified), crew.random());
    let notifier = std::thread::spawn(move || {
        while !stop_too.load(Ordering::Relaxed) {
            let n = match random.below(8) {
                0 => task.1.notify_all(),
                _ => usize::from(task.1.notify_one()),
            };
            notified_too.fetch_add(n, Ordering::Relaxed);
            std::thread::sleep(random.micros(50));
        }
    });
    crew.join();
    stop.store(true, Ordering::Relaxed);
    notifier.join().unwrap();
    assert_eq!(woken.load(Ordering::Relaxed), notified.load(Ordering::Relaxed));
}
