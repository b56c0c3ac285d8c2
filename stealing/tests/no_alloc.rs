//! Rule 1: no call on a queue allocates or frees, on either side of a theft, whatever else the process does.

#![cfg(not(loom))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Item, items};
use unyield_stealing::{Injector, RunQueue};

/// Counts what the calling thread allocates and frees.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the calling thread enters the allocator in `f`.
fn calls<R>(f: impl FnOnce() -> R) -> (usize, R) {
    let before = CALLS.get();
    let result = f();
    (CALLS.get() - before, result)
}

/// Fills, overfills, steals and drains a queue for a while, with two thieves. Returns the calls to the allocator.
fn exercise(time: Duration) -> usize {
    let all = items(200);
    let queue: RunQueue<Item> = RunQueue::new();
    let injector: Injector<Item> = Injector::new();
    let (stop, total) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let (n, ()) = calls(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Some(item) = queue.steal() {
                            // SAFETY: it has just been taken out; the items outlive the threads.
                            unsafe { injector.push(item) };
                        }
                    }
                });
                total.fetch_add(n, Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        let (n, ()) = calls(|| {
            // SAFETY: this thread is the owner, the items are pushed when they are in no queue.
            unsafe {
                for item in &all {
                    injector.push(item.ptr());
                }
                let mut round = 0;
                while start.elapsed() < time {
                    round += 1;
                    let mut batch = injector.pop_many(150);
                    while let Some(item) = batch.pop_front() {
                        round += 1;
                        let full = match round % 5 {
                            0 => queue.push_woken(item).err(),
                            1 | 2 => {
                                queue.push_fresh(item);
                                None
                            }
                            3 => queue.set_next(item),
                            _ => {
                                queue.push_expired(item);
                                None
                            }
                        };
                        if let Some(item) = full {
                            queue.push_pinned(item);
                        }
                    }
                    for _ in 0..round % 300 {
                        if let Some(item) = queue.pop() {
                            injector.push(item);
                        }
                    }
                    assert!(queue.len() <= 200);
                }
                queue.drain(|item| injector.push(item));
            }
        });
        stop.store(true, Ordering::Relaxed);
        total.fetch_add(n, Ordering::Relaxed);
    });
    total.into_inner()
}

#[test]
fn queues_do_not_enter_the_allocator() {
    assert_eq!(exercise(Duration::from_millis(300)), 0);
}

/// Makes garbage for crossbeam's epoch collector, as any concurrent map or foreign deque of a program does.
fn make_epoch_garbage(stop: &AtomicBool) {
    let worker = crossbeam_deque::Worker::new_fifo();
    while !stop.load(Ordering::Relaxed) {
        for i in 0..65_u64 {
            worker.push(i);
        }
        while worker.pop().is_some() {}
    }
}

#[test]
fn nor_do_they_run_what_others_deferred() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| make_epoch_garbage(&stop));
        let n = exercise(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(n, 0, "calls to the allocator");
    });
}

/// Why the rings are not crossbeam's deques, which were the first choice: held below its minimal capacity a deque does
/// not resize, but each steal pins an epoch, and every 128th pin of a thread runs what *anyone* in the process deferred:
/// it frees, and calls closures of the program, in the middle of the scheduler.
#[test]
fn a_steal_from_crossbeams_deque_frees_for_others() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| make_epoch_garbage(&stop));
        let worker = crossbeam_deque::Worker::new_fifo();
        let stealer = worker.stealer();
        let start = Instant::now();
        let mut seen = 0;
        while seen == 0 && start.elapsed() < Duration::from_secs(20) {
            worker.push(1_u64);
            seen += calls(|| stealer.steal()).0;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen > 0, "has crossbeam changed?");
    });
}
