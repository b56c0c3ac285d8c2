//! Spawning empty tasks from inside the runtime and joining them, in batches: the cost of one task from creation to the
//! collection of its result. A batch of 1 makes the parent wait for each child in turn; a batch of 1,000 lets children
//! queue up.
//!
//! Not measured: the first fiber of a program (stacks are pooled by then; may and Boost are given pools too), spawning
//! from outside the runtime.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Env, hosts, unknown};
use crate::{os::Clocks, peers::Answer};

pub fn measure(env: &Env, contender: &str, n: u64, batch: u64) -> Answer {
    Ok(match contender {
        "unyield" => hosts::in_unyield(env, move || {
            unyield_batches(n / 10, batch);
            let clocks = Clocks::start();
            clocks.per_op("unyield", unyield_batches(n, batch))
        }),
        "may" => hosts::in_may(env, move || {
            may_batches(n / 10, batch);
            let clocks = Clocks::start();
            clocks.per_op("may", may_batches(n, batch))
        }),
        "tokio" => hosts::in_tokio(env, async move {
            tokio_batches(n / 10, batch).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio", tokio_batches(n, batch).await)
        }),
        "tokio-ct" => hosts::in_tokio_ct(async move {
            tokio_batches(n / 10, batch).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio-ct", tokio_batches(n, batch).await)
        }),
        other => return unknown(other),
    })
}

/// What every task does, so that a task that never ran is noticed.
static RAN: AtomicU64 = AtomicU64::new(0);

fn task() {
    RAN.fetch_add(1, Relaxed);
}

fn checked(before: u64, spawned: u64) -> u64 {
    assert_eq!(RAN.load(Relaxed) - before, spawned, "every task ran once");
    spawned
}

fn unyield_batches(n: u64, batch: u64) -> u64 {
    let (before, mut spawned) = (RAN.load(Relaxed), 0);
    let mut handles = Vec::with_capacity(batch as usize);
    while spawned < n {
        handles.extend((0..batch).map(|_| unyield::spawn(task)));
        handles.drain(..).for_each(|h| h.join().expect("no panic"));
        spawned += batch;
    }
    checked(before, spawned)
}

fn may_batches(n: u64, batch: u64) -> u64 {
    let (before, mut spawned) = (RAN.load(Relaxed), 0);
    let mut handles = Vec::with_capacity(batch as usize);
    while spawned < n {
        handles.extend((0..batch).map(|_| may::go!(task)));
        handles.drain(..).for_each(|h| h.join().expect("no panic"));
        spawned += batch;
    }
    checked(before, spawned)
}

async fn tokio_batches(n: u64, batch: u64) -> u64 {
    let (before, mut spawned) = (RAN.load(Relaxed), 0);
    let mut handles = Vec::with_capacity(batch as usize);
    while spawned < n {
        handles.extend((0..batch).map(|_| tokio::spawn(async { task() })));
        for h in handles.drain(..) {
            h.await.expect("no panic");
        }
        spawned += batch;
    }
    checked(before, spawned)
}
