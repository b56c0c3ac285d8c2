//! What the hot paths cost: `cargo test -p unyield-stealing --release --test cost -- --ignored --nocapture`.

#![cfg(not(loom))]

mod common;

use std::hint::black_box;
use std::time::Instant;

use common::{Item, items};
use unyield_stealing::{Armed, Idle, Injector, RunQueue, fence};

/// The best of some rounds, in nanoseconds per call.
fn measure(name: &str, mut f: impl FnMut()) {
    const CALLS: u32 = 200_000;
    let round = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            f();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    println!("{name:48} {:6.1} ns", (0..15).map(round).fold(f64::MAX, f64::min));
}

#[test]
#[ignore = "a measurement"]
fn cost() {
    let all = items(4);
    let queue: RunQueue<Item> = RunQueue::new();
    let injector: Injector<Item> = Injector::new();
    let (idle, armed) = (Idle::new(2), Armed::new());
    let item = all[0].ptr();
    // SAFETY: one thread, the owner, throughout; items are pushed while they are in no queue.
    unsafe {
        measure("pop, nothing there", || assert!(black_box(queue.pop()).is_none()));
        measure("push_woken + pop", || {
            let _ = queue.push_woken(item);
            black_box(queue.pop());
        });
        measure("push_fresh + pop", || {
            queue.push_fresh(item);
            black_box(queue.pop());
        });
        measure("set_next + pop", || {
            queue.set_next(item);
            black_box(queue.pop());
        });
        measure("push_fresh + steal", || {
            queue.push_fresh(item);
            black_box(queue.steal());
        });
        measure("injector push + pop", || {
            injector.push(item);
            black_box(injector.pop());
        });
        queue.push_expired(all[1].ptr());
        let mut running = item;
        measure("two fibers yield: push_expired + pop", || {
            queue.push_expired(running);
            running = queue.pop().unwrap();
        });
    }
    measure("has_work", || {
        black_box(queue.has_work());
    });
    measure("notify_one, nobody sleeps", || {
        black_box(idle.notify_one());
    });
    measure("enqueue_check, real fences", || armed.enqueue_check());
    fence::register();
    measure("enqueue_check", || armed.enqueue_check());
    measure("heavy fence", fence::heavy);
}
