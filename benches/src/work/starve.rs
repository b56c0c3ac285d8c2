//! One worker runs a loop that never ends; then 1,000 short fibers (2,000 steps each) are spawned from outside. When is
//! the first done, when the last? A runtime without preemption never runs them: tokio and may are given a second.
//!
//! `quanta` is the last one's time in units of our quantum, 1 ms. Kernel threads are confined to the worker's CPU. In Go
//! the spawner is a goroutine (there is no outside), which has to get the processor first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Env, compute::spin, hosts, unknown};
use crate::{os, peers::Answer, proto::Sample};

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    let run = Arc::new(Run::new(n));
    let cpu = env.cpus[0];
    let limit = Duration::from_secs(if matches!(contender, "tokio" | "may") { 1 } else { 20 });
    match contender {
        "unyield" => {
            let rt = hosts::unyield(env, hosts::Mode::Default);
            run.go(limit, |f| drop(rt.spawn(f)));
        }
        "threads" => run.go(limit, |f| {
            let small = std::thread::Builder::new().stack_size(64 << 10);
            let confined = move || {
                os::pin_self(&[cpu]).expect("an allowed CPU");
                f();
            };
            drop(small.spawn(confined).expect("a thread starts"));
        }),
        "tokio" => {
            let rt = hosts::tokio(env);
            run.go(limit, |f| drop(rt.spawn(async { f() })));
        }
        "may" => {
            hosts::init_may(env);
            run.go(limit, |f| drop(may::go!(f)));
        }
        other => return unknown(other),
    }
    Ok(run.samples(contender))
}

struct Run {
    n: u64,
    start: Instant,
    looping: AtomicBool,
    stop: AtomicBool,
    /// Of the short ones that are done: how many, and ns from `spawned` to the end of the first and the last.
    done: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    /// ns from `start` to the first spawn of a short one.
    spawned: AtomicU64,
}

impl Run {
    fn new(n: u64) -> Self {
        Run {
            n,
            start: Instant::now(),
            looping: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            spawned: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn go(self: &Arc<Self>, limit: Duration, mut spawn: impl FnMut(Box<dyn FnOnce() + Send>)) {
        let run = self.clone();
        spawn(Box::new(move || {
            run.looping.store(true, Relaxed);
            while !run.stop.load(Relaxed) {
                spin(10);
            }
            run.looping.store(false, Relaxed);
        }));
        while !self.looping.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20));
        self.spawned.store(self.now(), Relaxed);
        for _ in 0..self.n {
            let run = self.clone();
            spawn(Box::new(move || {
                spin(2_000);
                let t = run.now() - run.spawned.load(Relaxed);
                run.first.fetch_min(t, Relaxed);
                run.last.fetch_max(t, Relaxed);
                run.done.fetch_add(1, Relaxed);
            }));
        }
        let deadline = Instant::now() + limit;
        while self.done.load(Relaxed) < self.n && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The figures are taken before the loop ends: what cooperative runtimes do afterwards does not count.
        let late = self.done.load(Relaxed) < self.n;
        self.stop.store(true, Relaxed);
        while self.looping.load(Relaxed) || self.done.load(Relaxed) < self.n {
            std::thread::sleep(Duration::from_millis(1));
        }
        if late {
            self.last.store(u64::MAX, Relaxed);
            self.first.fetch_max(limit.as_nanos() as u64, Relaxed);
        }
    }

    fn samples(&self, contender: &str) -> Vec<Sample> {
        let never = self.last.load(Relaxed) == u64::MAX;
        let ms = |v: &AtomicU64| if never { f64::INFINITY } else { v.load(Relaxed) as f64 / 1e6 };
        let mut all = vec![
            Sample::new(contender, "first", ms(&self.first), "ms"),
            Sample::new(contender, "last", ms(&self.last), "ms"),
        ];
        if contender == "unyield" {
            all.push(Sample::new(contender, "quanta", ms(&self.last), "each"));
        }
        all
    }
}
