//! Skynet: a task makes ten tasks, each of these ten more, down to n leaves; every leaf sends its number up a channel and
//! every inner task sends up the sum of its ten. Per leaf (there are n / 9 inner tasks besides).
//!
//! `unyield-join` does the same without channels: an inner task adds up what its children return. n must be a power of
//! ten.

use std::pin::Pin;

use super::{Env, hosts, unknown};
use crate::{os::Clocks, peers::Answer};

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    if n < 100 || 10u64.pow(n.ilog10()) != n {
        return Err(format!("{n} leaves: not a power of ten"));
    }
    Ok(match contender {
        "unyield" => hosts::in_unyield(env, move || {
            unyield_root(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("unyield", unyield_root(n))
        }),
        "unyield-join" => hosts::in_unyield(env, move || {
            checked(join_node(0, n / 10), n / 10);
            let clocks = Clocks::start();
            clocks.per_op("unyield-join", checked(join_node(0, n), n))
        }),
        "may" => hosts::in_may(env, move || {
            may_root(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("may", may_root(n))
        }),
        "tokio" => hosts::in_tokio(env, async move {
            tokio_root(n / 10).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio", tokio_root(n).await)
        }),
        other => return unknown(other),
    })
}

fn checked(sum: u64, n: u64) -> u64 {
    assert_eq!(sum, n * (n - 1) / 2, "the sum of all leaves");
    n
}

fn unyield_node(up: &unyield::sync::channel::Sender<u64>, first: u64, leaves: u64) {
    if leaves == 1 {
        return up.send(first).expect("connected");
    }
    let (to, from) = unyield::sync::channel::bounded(10);
    for i in 0..10 {
        let to = to.clone();
        drop(unyield::spawn(move || unyield_node(&to, first + i * (leaves / 10), leaves / 10)));
    }
    up.send((0..10).map(|_| from.recv().expect("connected")).sum()).expect("connected");
}

fn unyield_root(n: u64) -> u64 {
    let (to, from) = unyield::sync::channel::bounded(1);
    drop(unyield::spawn(move || unyield_node(&to, 0, n)));
    checked(from.recv().expect("connected"), n)
}

fn join_node(first: u64, leaves: u64) -> u64 {
    if leaves == 1 {
        return first;
    }
    let tenth = leaves / 10;
    let children: [_; 10] =
        std::array::from_fn(|i| unyield::spawn(move || join_node(first + i as u64 * tenth, tenth)));
    children.into_iter().map(|h| h.join().expect("no panic")).sum()
}

fn may_node(up: &may::sync::mpsc::Sender<u64>, first: u64, leaves: u64) {
    if leaves == 1 {
        return up.send(first).expect("connected");
    }
    let (to, from) = may::sync::mpsc::channel();
    for i in 0..10 {
        let to = to.clone();
        drop(may::go!(move || may_node(&to, first + i * (leaves / 10), leaves / 10)));
    }
    up.send((0..10).map(|_| from.recv().expect("connected")).sum()).expect("connected");
}

fn may_root(n: u64) -> u64 {
    let (to, from) = may::sync::mpsc::channel();
    drop(may::go!(move || may_node(&to, 0, n)));
    checked(from.recv().expect("connected"), n)
}

type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

fn tokio_node(up: tokio::sync::mpsc::Sender<u64>, first: u64, leaves: u64) -> Sending {
    Box::pin(async move {
        if leaves == 1 {
            return up.send(first).await.expect("connected");
        }
        let (to, mut from) = tokio::sync::mpsc::channel(10);
        for i in 0..10 {
            tokio::spawn(tokio_node(to.clone(), first + i * (leaves / 10), leaves / 10));
        }
        let mut sum = 0;
        for _ in 0..10 {
            sum += from.recv().await.expect("connected");
        }
        up.send(sum).await.expect("connected");
    })
}

async fn tokio_root(n: u64) -> u64 {
    let (to, mut from) = tokio::sync::mpsc::channel(1);
    tokio::spawn(tokio_node(to, 0, n));
    checked(from.recv().await.expect("connected"), n)
}
