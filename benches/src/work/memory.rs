//! What a parked fiber occupies: the growth of VmRSS + VmPTE from before the first one to the moment when all are parked,
//! each having run. Every measurement has a process of its own. Then all are woken and joined, and each must have come
//! through; `create` and `finish` are the wall times of the two halves.
//!
//! `allocated`: before it parks, each fiber allocates and frees a few blocks, so that the allocator's per-thread cache is
//! there. One runtime, three allocators (three programs), and glibc with kernel threads for comparison.
//!
//! Not measured: kernel memory other than page tables.

use std::{
    hint::black_box,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Env,
    hosts::{self, Mode},
    unknown,
};
use crate::{os::Memory, peers::Answer, proto::Sample};

pub fn parked(env: &Env, contender: &str, n: u64) -> Answer {
    match contender {
        "unyield" => unyield(env, contender, n, || ()),
        "tokio" => tokio(env, n),
        "may" => may(env, n.min(30_000)),
        "threads" => threads(contender, n.min(10_000), || ()),
        other => unknown(other),
    }
}

pub fn allocated(env: &Env, contender: &str, n: u64) -> Answer {
    match contender {
        "glibc" | "jemalloc" | "mimalloc" => unyield(env, contender, n, allocate_some),
        "glibc-threads" => threads(contender, n, allocate_some),
        other => unknown(other),
    }
}

/// 64 blocks of 16 to 1,024 bytes, all freed again.
fn allocate_some() {
    let blocks: Vec<Vec<u8>> = (1..=64).map(|i| vec![i as u8; i * 16]).collect();
    black_box(blocks);
}

/// How many have come to the point where they park, and whether they may go on.
static UP: AtomicU64 = AtomicU64::new(0);
static RELEASED: AtomicBool = AtomicBool::new(false);

/// Waits until `n` are up, a little longer so that the last one is asleep, and takes the growth since `before`.
fn all_up(contender: &str, n: u64, before: Memory, since: Instant) -> Vec<Sample> {
    while UP.load(SeqCst) < n {
        thread::sleep(Duration::from_millis(1));
    }
    let create = since.elapsed().as_secs_f64() * 1e3;
    thread::sleep(Duration::from_millis(100));
    let mut samples = Memory::now().per_one_since(before, contender, n);
    samples.push(Sample::new(contender, "create", create, "ms"));
    samples
}

fn finished(mut samples: Vec<Sample>, contender: &str, since: Instant) -> Answer {
    samples.push(Sample::new(contender, "finish", since.elapsed().as_secs_f64() * 1e3, "ms"));
    Ok(samples)
}

fn unyield(env: &Env, contender: &str, n: u64, first: fn()) -> Answer {
    let rt = hosts::unyield(env, Mode::Default);
    rt.run(|| ());
    let before = Memory::now();
    let since = Instant::now();
    let spawn = |_| {
        rt.spawn(move || {
            first();
            UP.fetch_add(1, SeqCst);
            while !RELEASED.load(SeqCst) {
                unyield::park();
            }
        })
    };
    let fibers: Vec<_> = (0..n).map(spawn).collect();
    let samples = all_up(contender, n, before, since);
    let since = Instant::now();
    RELEASED.store(true, SeqCst);
    fibers.iter().for_each(|f| f.fiber().unpark());
    for f in fibers {
        f.join().map_err(|e| format!("a parked fiber did not come through: {e}"))?;
    }
    finished(samples, contender, since)
}

fn tokio(env: &Env, n: u64) -> Answer {
    let rt = hosts::tokio(env);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let before = Memory::now();
    let since = Instant::now();
    let spawn = |_| {
        let gate = gate.clone();
        rt.spawn(async move {
            UP.fetch_add(1, SeqCst);
            drop(gate.acquire().await.expect("open"));
        })
    };
    let tasks: Vec<_> = (0..n).map(spawn).collect();
    let samples = all_up("tokio", n, before, since);
    let since = Instant::now();
    gate.add_permits(1);
    rt.block_on(async {
        for t in tasks {
            t.await.expect("no panic");
        }
    });
    finished(samples, "tokio", since)
}

fn may(env: &Env, n: u64) -> Answer {
    hosts::init_may(env);
    // Its pool is filled in advance; that would count as growth.
    may::config().set_pool_capacity(100);
    hosts::in_may(env, || ());
    let before = Memory::now();
    let since = Instant::now();
    let spawn = |_| {
        may::go!(|| {
            UP.fetch_add(1, SeqCst);
            while !RELEASED.load(SeqCst) {
                may::coroutine::park();
            }
        })
    };
    let coroutines: Vec<_> = (0..n).map(spawn).collect();
    let samples = all_up("may", n, before, since);
    let since = Instant::now();
    RELEASED.store(true, SeqCst);
    coroutines.iter().for_each(|c| c.coroutine().unpark());
    coroutines.into_iter().for_each(|c| c.join().expect("no panic"));
    finished(samples, "may", since)
}

fn threads(contender: &str, n: u64, first: fn()) -> Answer {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let before = Memory::now();
    let since = Instant::now();
    let spawn = |_| {
        let gate = gate.clone();
        let body = move || {
            first();
            UP.fetch_add(1, SeqCst);
            let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(gate.1.wait_while(open, |open| !*open));
        };
        thread::Builder::new().stack_size(64 << 10).spawn(body).map_err(|e| format!("a thread: {e}"))
    };
    let threads = (0..n).map(spawn).collect::<Result<Vec<_>, _>>()?;
    let samples = all_up(contender, n, before, since);
    let since = Instant::now();
    *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    gate.1.notify_all();
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
    finished(samples, contender, since)
}
