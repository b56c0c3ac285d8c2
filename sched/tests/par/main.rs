//! Fork-join: results, panics, borrows, locks across forks, victims that do not answer, depth, cost.

#[path = "../common/mod.rs"]
mod common;

mod cost;
mod depth;
mod locks;
mod panics;
mod results;
mod stress;
mod victims;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use unyield::Runtime;
use unyield::preempt::{Preemption, Stealing};

const MS: Duration = Duration::from_millis(1);

/// A runtime that preempts all the time.
fn runtime(workers: usize, stealing: Stealing) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .stealing(stealing)
        .quantum(Duration::from_micros(100))
        .build()
        .unwrap()
}

/// Every kind of runtime that fork-join behaves differently on.
fn all(test: impl Fn(&Runtime)) {
    for workers in [1, 2, 4] {
        for stealing in [Stealing::Lazy, Stealing::Eager] {
            test(&runtime(workers, stealing));
        }
    }
    for preemption in [Preemption::AtCheckpoints, Preemption::Off] {
        test(&Runtime::builder().workers(3).preemption(preemption).build().unwrap());
    }
}

/// Computes until the other half has begun, for at most 100 ms: then nobody was there for it, and it runs here.
fn until(begun: &AtomicBool) {
    let start = Instant::now();
    while !begun.load(Relaxed) && start.elapsed() < 100 * MS {
        std::hint::spin_loop();
    }
}

fn fib(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let (a, b) = unyield::join(|| fib(n - 1), || fib(n - 2));
    a + b
}

fn serial_fib(n: u64) -> u64 {
    if n < 2 { n } else { serial_fib(n - 1) + serial_fib(n - 2) }
}
