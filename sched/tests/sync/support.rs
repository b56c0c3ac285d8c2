//! Who runs the bodies, and with which random numbers.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use unyield::runtime::Runtime;

/// Who runs what a test spawns.
#[derive(Clone, Copy, Debug)]
pub enum World {
    Threads,
    /// On so many workers.
    Fibers(usize),
    /// Fibers on one worker and threads, in turn.
    Mixed,
}

enum Member {
    Thread(std::thread::JoinHandle<()>),
    Fiber(unyield::fiber::JoinHandle<()>),
}

/// Spawns a test's tasks and waits for them.
pub struct Crew {
    pub world: World,
    pub seed: u64,
    runtime: Option<Runtime>,
    members: RefCell<Vec<Member>>,
    spawned: Cell<usize>,
}

impl Crew {
    pub fn spawn(&self, f: impl FnOnce() + Send + 'static) {
        let n = self.spawned.replace(self.spawned.get() + 1);
        let member = match &self.runtime {
            Some(runtime) if !matches!(self.world, World::Mixed) || n.is_multiple_of(2) => {
                Member::Fiber(runtime.spawn(f))
            }
            _ => Member::Thread(std::thread::spawn(f)),
        };
        self.members.borrow_mut().push(member);
    }

    /// Waits for all, and passes a panic on.
    pub fn join(&self) {
        for member in self.members.take() {
            match member {
                Member::Thread(t) => t.join().unwrap_or_else(|p| resume_unwind(p)),
                Member::Fiber(f) => {
                    if let Err(e) = f.join() {
                        resume_unwind(e.into_panic());
                    }
                }
            }
        }
    }

    pub fn random(&self) -> Random {
        Random(self.seed.wrapping_mul(self.spawned.get() as u64 * 2 + 1) | 1)
    }
}

/// xorshift64.
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// Up to `n` microseconds.
    pub fn micros(&mut self, n: u64) -> Duration {
        Duration::from_nanos(self.below(n * 1000))
    }
}

/// Runs `body` in `world`. The seed of a failed run is in its output; the environment variable UNYIELD_SEED repeats it. A body
/// that hangs is ended after two minutes.
pub fn run(world: World, name: &'static str, body: fn(&Crew)) {
    let seed = std::env::var("UNYIELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
    });
    println!("UNYIELD_SEED={seed}");
    let done = Arc::new(AtomicBool::new(false));
    let watch = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let start = Instant::now();
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_secs(1));
                if start.elapsed() > Duration::from_secs(120) {
                    eprintln!("{name} in {world:?} hangs (UNYIELD_SEED={seed})");
                    std::process::abort();
                }
            }
        }
    });
    let workers = match world {
        World::Threads => None,
        World::Fibers(n) => Some(n),
        World::Mixed => Some(1),
    };
    let runtime = workers.map(|n| {
        Runtime::builder().workers(n).quantum(Duration::from_micros(100)).build().expect("a runtime")
    });
    let crew = Crew { world, seed, runtime, members: RefCell::default(), spawned: Cell::new(0) };
    let result = catch_unwind(AssertUnwindSafe(|| {
        body(&crew);
        crew.join();
    }));
    done.store(true, Ordering::Relaxed);
    watch.thread().unpark();
    let _ = watch.join();
    if let Err(panic) = result {
        std::mem::forget(crew); // some may wait for ever
        resume_unwind(panic);
    }
}

/// One test per world for each body.
#[macro_export]
macro_rules! in_all_worlds {
    ($($body:ident)*) => {
        mod threads { $(#[test] fn $body() { $crate::support::run($crate::support::World::Threads, stringify!($body), super::$body) })* }
        mod fibers_on_1 { $(#[test] fn $body() { $crate::support::run($crate::support::World::Fibers(1), stringify!($body), super::$body) })* }
        mod fibers_on_2 { $(#[test] fn $body() { $crate::support::run($crate::support::World::Fibers(2), stringify!($body), super::$body) })* }
        mod mixed { $(#[test] fn $body() { $crate::support::run($crate::support::World::Mixed, stringify!($body), super::$body) })* }
    };
}

/// Computes for about so long.
pub fn compute(d: Duration) {
    let start = Instant::now();
    while start.elapsed() < d {
        std::hint::spin_loop();
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Whether tasks that were started one after the other are served in that order. Nothing tells when a task has come so far that it
/// waits, so this goes by the clock, and on a busy machine it may take several attempts.
pub fn in_order(attempt: impl Fn() -> Vec<usize>) {
    let mut last = Vec::new();
    for _ in 0..20 {
        last = attempt();
        if last == [0, 1, 2, 3, 4] {
            return;
        }
    }
    panic!("served as {last:?}");
}

/// Time for a task that was just started to come so far that it waits.
pub fn let_it_wait() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Counts how many of it live.
#[derive(Debug)]
pub struct Counted(pub u64, Arc<AtomicUsize>);

impl Counted {
    pub fn new(value: u64, live: &Arc<AtomicUsize>) -> Counted {
        live.fetch_add(1, Ordering::Relaxed);
        Counted(value, Arc::clone(live))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        assert!(self.1.fetch_sub(1, Ordering::Relaxed) > 0, "dropped twice");
    }
}
