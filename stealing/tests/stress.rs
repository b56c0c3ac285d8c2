//! Real threads: no item is lost, none is taken twice, nobody sleeps beside work.
//!
//! `UNYIELD_STRESS_SECONDS` makes it longer, `UNYIELD_STRESS_SEED` repeats the decisions of a run (not its timing).

#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Item, Random, duration, items, number};
use unyield_stealing::{Armed, Idle, Injector, RunQueue, fence};

#[test]
fn a_queue_with_two_thieves() {
    const ITEMS: usize = 300;
    let all = items(ITEMS);
    // Who takes an item marks it; who puts it back clears the mark first.
    let held: Vec<AtomicBool> = (0..ITEMS).map(|_| AtomicBool::new(true)).collect();
    let take = |item| {
        let was = held[number(item)].swap(true, Ordering::Relaxed);
        assert!(!was, "item {} was taken twice", number(item));
        item
    };
    let put = |item| {
        held[number(item)].store(false, Ordering::Relaxed);
        item
    };
    let queue: RunQueue<Item> = RunQueue::new();
    let injector: Injector<Item> = Injector::new();
    for item in &all {
        // SAFETY: new items, which outlive the threads.
        unsafe { injector.push(put(item.ptr())) };
    }
    let (stop, stolen) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|s| {
        for stream in 1..=2 {
            let (queue, injector, stop, stolen, take, put) = (&queue, &injector, &stop, &stolen, &take, &put);
            s.spawn(move || {
                let mut random = Random::new(stream);
                while !stop.load(Ordering::Relaxed) {
                    let Some(item) = queue.steal() else { continue };
                    take(item);
                    stolen.fetch_add(1, Ordering::Relaxed);
                    // SAFETY: it has been taken out.
                    unsafe {
                        if random.below(3) == 0 {
                            queue.push_pinned(put(item));
                        } else {
                            injector.push(put(item));
                        }
                    }
                }
            });
        }
        let mut random = Random::new(0);
        let start = Instant::now();
        while start.elapsed() < duration() {
            for _ in 0..random.below(100) {
                let Some(item) = injector.pop() else { break };
                let item = put(take(item));
                // SAFETY: this thread is the owner; the item has been taken out.
                let back = unsafe {
                    match random.below(5) {
                        0 => queue.set_next(item),
                        1 => queue.push_woken(item).err(),
                        2 => {
                            queue.push_expired(item);
                            queue.age();
                            None
                        }
                        _ => {
                            queue.push_fresh(item);
                            None
                        }
                    }
                };
                if let Some(item) = back {
                    // SAFETY: it has been taken out or was not put in.
                    unsafe { injector.push(put(take(item))) };
                }
            }
            for _ in 0..random.below(100) {
                // SAFETY: this thread is the owner.
                let Some(item) = (unsafe { queue.pop() }) else { break };
                // SAFETY: it has been taken out.
                unsafe { injector.push(put(take(item))) };
            }
            assert!(queue.len() <= ITEMS);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut seen = 0;
    // SAFETY: no other users any more.
    unsafe {
        queue.drain(|item| {
            take(item);
            seen += 1;
        });
    }
    while let Some(item) = injector.pop() {
        take(item);
        seen += 1;
    }
    assert_eq!(seen, ITEMS, "lost");
    println!("{} stolen", stolen.into_inner());
}

/// Workers that sleep after each item, and enqueuers that pause at random: each item is done soon.
#[test]
fn sleepers_are_woken() {
    const WORKERS: usize = 3;
    let (work, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mine: Vec<AtomicUsize> = (0..WORKERS).map(|_| AtomicUsize::new(0)).collect();
    let (idle, stop) = (Idle::new(WORKERS), AtomicBool::new(false));
    let take = |from: &AtomicUsize| {
        from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n: usize| n.checked_sub(1)).is_ok()
    };
    std::thread::scope(|s| {
        for me in 0..WORKERS {
            let (work, done, mine, idle, stop) = (&work, &done, &mine, &idle, &stop);
            s.spawn(move || {
                let any = || work.load(Ordering::Relaxed) > 0 || mine[me].load(Ordering::Relaxed) > 0;
                let mut duty = false;
                while !stop.load(Ordering::Relaxed) {
                    let mut found = false;
                    if idle.begin_search() {
                        found = take(&mine[me]) || take(work);
                        duty |= idle.end_search();
                    }
                    if !found {
                        let ticket = idle.prepare_sleep_as(me);
                        if any() || stop.load(Ordering::Relaxed) {
                            duty |= idle.cancel_sleep(ticket);
                            found = take(&mine[me]) || take(work);
                        } else {
                            duty = idle.sleep(ticket, None);
                        }
                    }
                    if found {
                        done.fetch_add(1, Ordering::Relaxed);
                        if std::mem::take(&mut duty) && any() {
                            idle.notify_one();
                        }
                    }
                }
            });
        }
        let mut random = Random::new(9);
        let start = Instant::now();
        let mut made = 0;
        while start.elapsed() < duration() {
            for _ in 0..random.below(5) {
                made += 1;
                if random.below(3) == 0 {
                    let to = random.below(WORKERS as u64) as usize;
                    mine[to].fetch_add(1, Ordering::Relaxed);
                    idle.notify_worker(to);
                } else {
                    work.fetch_add(1, Ordering::Relaxed);
                    idle.notify_one();
                }
            }
            // Nobody sleeps with a timeout, so what is lost stays lost.
            let waiting = Instant::now();
            while done.load(Ordering::Relaxed) < made {
                assert!(waiting.elapsed() < Duration::from_secs(20), "lost: {idle:?}");
                std::thread::yield_now();
            }
            for _ in 0..random.below(2_000) {
                std::hint::spin_loop();
            }
        }
        println!("{made} items");
        stop.store(true, Ordering::Relaxed);
        idle.notify_all();
    });
    assert_eq!((idle.sleepers(), idle.searching()), (0, 0));
}

#[test]
fn a_sleep_ends_with_its_timeout() {
    let idle = Idle::new(1);
    let start = Instant::now();
    let ticket = idle.prepare_sleep();
    assert_eq!(idle.sleepers(), 1);
    assert!(!idle.sleep(ticket, Some(Duration::from_millis(20))));
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(idle.sleepers(), 0);
}

#[test]
fn a_wakeup_before_the_sleep_counts() {
    let idle = Idle::new(2);
    assert!(!idle.notify_one(), "nobody sleeps");
    let first = idle.prepare_sleep();
    let second = idle.prepare_sleep();
    assert!(idle.notify_one());
    assert!(!idle.notify_one(), "one wake-up is on its way");
    assert!(idle.sleep(first, None), "answers for it");
    assert!(!idle.sleep(second, None), "returns, too, but answers for nothing");
    assert_eq!(idle.sleepers(), 0);
}

#[test]
fn no_wakeup_while_somebody_searches() {
    let idle = Idle::new(4);
    let ticket = idle.prepare_sleep();
    assert!(idle.begin_search());
    assert!(!idle.begin_search(), "of three awake, one searches");
    assert!(!idle.notify_one());
    assert!(idle.end_search());
    assert!(idle.notify_one());
    assert!(idle.cancel_sleep(ticket), "took the wake-up over");
    assert!(idle.begin_search() && idle.begin_search() && !idle.begin_search(), "of four awake, two search");
    assert!(!idle.end_search() && idle.end_search());
}

/// The timer disarms whenever it has seen everything; enqueuers never wait. Each item is seen soon.
fn arm_and_disarm() {
    let (queued, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (armed, stop) = (Armed::new(), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut slept = 0;
            while !stop.load(Ordering::Relaxed) {
                let have = seen.load(Ordering::Relaxed);
                if armed.try_disarm(|| queued.load(Ordering::Relaxed) != have || stop.load(Ordering::Relaxed))
                {
                    slept += 1;
                    assert!(armed.wait(None));
                }
                seen.store(queued.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            println!("slept {slept} times");
        });
        let mut random = Random::new(3);
        let start = Instant::now();
        while start.elapsed() < duration() {
            queued.fetch_add(1, Ordering::Relaxed);
            armed.enqueue_check();
            let waiting = Instant::now();
            if random.below(2) == 0 {
                while seen.load(Ordering::Relaxed) != queued.load(Ordering::Relaxed) {
                    assert!(waiting.elapsed() < Duration::from_secs(20), "lost: {armed:?}");
                    std::hint::spin_loop();
                }
            }
            for _ in 0..random.below(3_000) {
                std::hint::spin_loop();
            }
        }
        stop.store(true, Ordering::Relaxed);
        armed.rouse();
    });
}

#[test]
fn the_timer_is_woken() {
    // Before the registration the fences are real ones. Both kinds in one test: the registration is the process's.
    arm_and_disarm();
    println!("membarrier: {}", fence::register());
    arm_and_disarm();
}

#[test]
fn the_timers_wait_ends_with_its_timeout() {
    let armed = Armed::new();
    assert!(armed.wait(None), "it is armed");
    assert!(!armed.try_disarm(|| true));
    assert!(armed.try_disarm(|| false));
    let start = Instant::now();
    assert!(!armed.wait(Some(Duration::from_millis(20))));
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(!armed.is_armed());
    armed.rouse();
    assert!(armed.wait(Some(Duration::from_secs(100))));
}
