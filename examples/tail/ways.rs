//! The three ways to run the load on W workers, each pinned to one CPU: fibers that are preempted, the same fibers
//! that are not, and threads that take requests in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use unyield::fiber;
use unyield::preempt::{Pinning, Preemption};
use unyield::runtime::{BuildError, Runtime};

use crate::load::{Load, Request};

/// How long a fiber may run while others wait.
pub(crate) const QUANTUM: Duration = Duration::from_millis(1);

/// Counted by the runtime; a pool of threads has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    pub preemptions: u64,
    pub migrations: u64,
}

pub(crate) trait Way: Sync {
    /// Serves `request` some time; does not wait. Called by the generator.
    fn read(&self, load: &Arc<Load>, request: Request);
    /// Starts an analytic client: a closed loop of queries that lets what has arrived go first after each.
    fn analyse(&self, load: &Arc<Load>);
    fn counters(&self) -> Option<Counters>;
    /// Called when all work is done, or given up; false if something still runs.
    fn end(self: Box<Self>) -> bool;
}

/// A fiber for each read and for each analytic client.
#[derive(Debug)]
pub(crate) struct Fibers(Runtime);

impl Fibers {
    pub(crate) fn new(workers: usize, preemption: Preemption) -> Result<Fibers, BuildError> {
        let runtime = Runtime::builder()
            .workers(workers)
            .pinning(Pinning::PerCore)
            .quantum(QUANTUM)
            .preemption(preemption)
            .build()?;
        Ok(Fibers(runtime))
    }

    /// Occupies all workers, if there is no preemption, until the result is set to false.
    pub(crate) fn hold(&self, workers: usize) -> Arc<AtomicBool> {
        let held = Arc::new(AtomicBool::new(true));
        let holding = Arc::new(AtomicUsize::new(0));
        for _ in 0..workers {
            let (held, holding) = (Arc::clone(&held), Arc::clone(&holding));
            drop(self.0.spawn(move || {
                holding.fetch_add(1, Ordering::Relaxed);
                while held.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }));
        }
        while holding.load(Ordering::Relaxed) < workers {
            thread::sleep(Duration::from_millis(1));
        }
        held
    }

    /// "Signal", "Uintr", …
    pub(crate) fn mechanism(&self) -> String {
        format!("{:?}", self.0.handle().mechanism())
    }
}

impl Way for Fibers {
    fn read(&self, load: &Arc<Load>, request: Request) {
        let load = Arc::clone(load);
        drop(self.0.spawn(move || load.read(request))); // detached; the load counts its answer
    }

    fn analyse(&self, load: &Arc<Load>) {
        let load = Arc::clone(load);
        drop(self.0.spawn(move || {
            while load.analyse_next() {
                fiber::yield_now();
            }
        }));
    }

    fn counters(&self) -> Option<Counters> {
        let metrics = self.0.handle().metrics();
        let sum = |of: &dyn Fn(usize) -> u64| (0..metrics.num_workers()).map(of).sum();
        Some(Counters {
            preemptions: sum(&|w| metrics.worker_preempt_count(w)),
            migrations: sum(&|w| metrics.worker_migration_count(w)),
        })
    }

    fn end(self: Box<Self>) -> bool {
        self.0.shutdown_timeout(Duration::from_secs(5))
    }
}

#[derive(Debug)]
enum Job {
    Read(Arc<Load>, Request),
    Analyse(Arc<Load>),
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Threads that sleep on `arrived`; while all are busy a push wakes nobody and makes no system call.
    idle: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    arrived: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        let mut jobs = self.lock();
        jobs.waiting.push_back(job);
        let wake = jobs.idle > 0;
        drop(jobs);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// `None` after `close`.
    fn pop(&self) -> Option<Job> {
        let mut jobs = self.lock();
        while !jobs.closed {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs.idle += 1;
            jobs = self.arrived.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            jobs.idle -= 1;
        }
        None
    }

    fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }
}

/// Threads on one queue, first in, first out; an analytic client that has had its answer queues again at the end.
#[derive(Debug)]
pub(crate) struct Threads {
    queue: Arc<Queue>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn new(workers: usize) -> std::io::Result<Threads> {
        let queue = Arc::new(Queue::default());
        queue.lock().waiting.reserve(1 << 16);
        let cpus = allowed_cpus();
        let threads = (0..workers).map(|w| {
            let queue = Arc::clone(&queue);
            let cpu = cpus.get(w % cpus.len().max(1)).copied();
            thread::Builder::new().name(format!("pool-{w}")).spawn(move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                while let Some(job) = queue.pop() {
                    match &job {
                        Job::Read(load, request) => load.read(*request),
                        Job::Analyse(load) if load.analyse_next() => queue.push(job),
                        Job::Analyse(_) => (),
                    }
                }
            })
        });
        Ok(Threads { threads: threads.collect::<Result<_, _>>()?, queue })
    }
}

impl Way for Threads {
    fn read(&self, load: &Arc<Load>, request: Request) {
        self.queue.push(Job::Read(Arc::clone(load), request));
    }

    fn analyse(&self, load: &Arc<Load>) {
        self.queue.push(Job::Analyse(Arc::clone(load)));
    }

    fn counters(&self) -> Option<Counters> {
        None
    }

    fn end(self: Box<Self>) -> bool {
        self.queue.close();
        self.threads.into_iter().all(|t| t.join().is_ok())
    }
}

/// The CPUs this process may use, in order.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is a plain array of integers.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of `set`, which the call fills.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0;
    let has = |cpu: &usize| {
        // SAFETY: below CPU_SETSIZE, the size of the set in bits.
        unsafe { libc::CPU_ISSET(*cpu, &set) }
    };
    if failed { Vec::new() } else { (0..libc::CPU_SETSIZE as usize).filter(has).collect() }
}

/// Pins the calling thread; a refusal leaves it where it may run.
fn pin(cpu: usize) {
    // SAFETY: `cpu_set_t` is a plain array of integers.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` comes from `allowed_cpus`, so below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the size is that of `set`, which the call only reads.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
}
