//! Two fibers on one worker that do nothing but yield: the cost of one yield, switch and queueing included.
//!
//! Not measured: yields with many fibers (cache misses on their stacks). Kernel threads share one CPU here, since the
//! row is `Tight`.

use super::{Env, hosts, unknown};
use crate::{os::Clocks, peers::Answer};

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    Ok(match contender {
        "unyield" => hosts::in_unyield(env, move || {
            unyield_pair(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("unyield", unyield_pair(n))
        }),
        "may" => hosts::in_may(env, move || {
            may_pair(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("may", may_pair(n))
        }),
        "tokio-ct" => hosts::in_tokio_ct(async move {
            tokio_pair(n / 10).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio-ct", tokio_pair(n).await)
        }),
        "threads" => {
            thread_pair(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("threads", thread_pair(n))
        }
        other => return unknown(other),
    })
}

fn unyield_pair(n: u64) -> u64 {
    let run = move || {
        for _ in 0..n {
            unyield::yield_now();
        }
        n
    };
    let pair = [unyield::spawn(run), unyield::spawn(run)];
    pair.into_iter().map(|h| h.join().expect("no panic")).sum()
}

fn may_pair(n: u64) -> u64 {
    let run = move || {
        for _ in 0..n {
            may::coroutine::yield_now();
        }
        n
    };
    let pair = [may::go!(run), may::go!(run)];
    pair.into_iter().map(|h| h.join().expect("no panic")).sum()
}

async fn tokio_pair(n: u64) -> u64 {
    let run = move || async move {
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
        n
    };
    let (a, b) = (tokio::spawn(run()), tokio::spawn(run()));
    a.await.expect("no panic") + b.await.expect("no panic")
}

fn thread_pair(n: u64) -> u64 {
    let run = move || {
        for _ in 0..n {
            std::thread::yield_now();
        }
        n
    };
    let pair = [std::thread::spawn(run), std::thread::spawn(run)];
    pair.into_iter().map(|h| h.join().expect("no panic")).sum()
}
