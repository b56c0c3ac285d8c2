//! Two fibers on one worker that wait for each other.
//!
//! `channel`: a number goes to the other fiber and comes back plus one; two channels, each of capacity 1 or without
//! buffer, as the runtime offers. `mutex`: both take the same lock n times and yield while they hold it, so that every
//! lock is contended; per lock.
//!
//! Not measured: uncontended operations, several workers.

use std::sync::Arc;

use super::{Env, hosts, unknown};
use crate::{os::Clocks, peers::Answer};

pub fn channel(env: &Env, contender: &str, n: u64) -> Answer {
    Ok(match contender {
        "unyield" => hosts::in_unyield(env, move || {
            unyield_round_trips(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("unyield", unyield_round_trips(n))
        }),
        "may" => hosts::in_may(env, move || {
            may_round_trips(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("may", may_round_trips(n))
        }),
        "tokio" => hosts::in_tokio(env, async move {
            tokio_round_trips(n / 10).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio", tokio_round_trips(n).await)
        }),
        "tokio-ct" => hosts::in_tokio_ct(async move {
            tokio_round_trips(n / 10).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio-ct", tokio_round_trips(n).await)
        }),
        other => return unknown(other),
    })
}

fn unyield_round_trips(n: u64) -> u64 {
    use unyield::sync::channel::bounded;
    let (there, at_echo) = bounded::<u64>(1);
    let (back, at_us) = bounded::<u64>(1);
    let echo = unyield::spawn(move || {
        for _ in 0..n {
            let v = at_echo.recv().expect("connected");
            back.send(v + 1).expect("connected");
        }
    });
    let mut v = 0;
    for _ in 0..n {
        there.send(v).expect("connected");
        v = at_us.recv().expect("connected");
    }
    echo.join().expect("no panic");
    assert_eq!(v, n);
    n
}

fn may_round_trips(n: u64) -> u64 {
    use may::sync::mpsc::channel;
    let (there, at_echo) = channel::<u64>();
    let (back, at_us) = channel::<u64>();
    let echo = may::go!(move || {
        for _ in 0..n {
            let v = at_echo.recv().expect("connected");
            back.send(v + 1).expect("connected");
        }
    });
    let mut v = 0;
    for _ in 0..n {
        there.send(v).expect("connected");
        v = at_us.recv().expect("connected");
    }
    echo.join().expect("no panic");
    assert_eq!(v, n);
    n
}

async fn tokio_round_trips(n: u64) -> u64 {
    use tokio::sync::mpsc::channel;
    let (there, mut at_echo) = channel::<u64>(1);
    let (back, mut at_us) = channel::<u64>(1);
    let echo = tokio::spawn(async move {
        for _ in 0..n {
            let v = at_echo.recv().await.expect("connected");
            back.send(v + 1).await.expect("connected");
        }
    });
    let mut v = 0;
    for _ in 0..n {
        there.send(v).await.expect("connected");
        v = at_us.recv().await.expect("connected");
    }
    echo.await.expect("no panic");
    assert_eq!(v, n);
    n
}

pub fn mutex(env: &Env, contender: &str, n: u64) -> Answer {
    Ok(match contender {
        "unyield" => hosts::in_unyield(env, move || {
            unyield_locks(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("unyield", unyield_locks(n))
        }),
        "may" => hosts::in_may(env, move || {
            may_locks(n / 10);
            let clocks = Clocks::start();
            clocks.per_op("may", may_locks(n))
        }),
        "tokio" => hosts::in_tokio(env, async move {
            tokio_locks(n / 10).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio", tokio_locks(n).await)
        }),
        "tokio-ct" => hosts::in_tokio_ct(async move {
            tokio_locks(n / 10).await;
            let clocks = Clocks::start();
            clocks.per_op("tokio-ct", tokio_locks(n).await)
        }),
        other => return unknown(other),
    })
}

fn unyield_locks(n: u64) -> u64 {
    let counter = Arc::new(unyield::sync::Mutex::new(0u64));
    let pair = [(); 2].map(|()| {
        let counter = counter.clone();
        unyield::spawn(move || {
            for _ in 0..n {
                let mut held = counter.lock();
                *held += 1;
                unyield::yield_now();
            }
        })
    });
    pair.into_iter().for_each(|h| h.join().expect("no panic"));
    assert_eq!(*counter.lock(), 2 * n);
    2 * n
}

fn may_locks(n: u64) -> u64 {
    let counter = Arc::new(may::sync::Mutex::new(0u64));
    let pair = [(); 2].map(|()| {
        let counter = counter.clone();
        may::go!(move || {
            for _ in 0..n {
                let mut held = counter.lock().expect("not poisoned");
                *held += 1;
                may::coroutine::yield_now();
            }
        })
    });
    pair.into_iter().for_each(|h| h.join().expect("no panic"));
    assert_eq!(*counter.lock().expect("not poisoned"), 2 * n);
    2 * n
}

async fn tokio_locks(n: u64) -> u64 {
    let counter = Arc::new(tokio::sync::Mutex::new(0u64));
    let pair = [(); 2].map(|()| {
        let counter = counter.clone();
        tokio::spawn(async move {
            for _ in 0..n {
                let mut held = counter.lock().await;
                *held += 1;
                tokio::task::yield_now().await;
            }
        })
    });
    for h in pair {
        h.await.expect("no panic");
    }
    assert_eq!(*counter.lock().await, 2 * n);
    2 * n
}
