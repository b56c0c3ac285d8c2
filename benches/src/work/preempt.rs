//! What a preemption costs: two fibers compute on one worker, at a quantum, and with `Preemption::Off`. The same number
//! of steps both ways, so whatever more CPU time the worker's thread needed was taken by preemptions:
//! entry, saving, switching, and what they do to caches. Against it, `ticker`: a plain thread that computes the same and
//! is sent a signal with an (almost) empty handler by another thread, as often.
//!
//! Per preemption or signal: `worker` µs of CPU of the computing thread (its CPU clock), `wall` µs of lost throughput,
//! `rest` µs of CPU of the rest of the process, that is, of the timer thread. `rate` says how many there were a second,
//! `entries` how many handler entries it took for one.
//!
//! A measurement alternates short stretches with and without, since the loop's own speed drifts by more than what is
//! looked for, and takes the median over pairs of neighbours. n is the total in ms.

use std::{
    mem, ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use unyield::Runtime;

use super::{
    Env,
    compute::{spin, steps_per_ms},
    hosts, unknown,
};
use crate::{os, peers::Answer, proto::Sample, stats::summarise};

/// How long a stretch is, ms.
const STRETCH: u64 = 20;

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    let pairs = (n / STRETCH / 2).max(1);
    let steps = steps_per_ms() * STRETCH;
    let pairs = match contender {
        "unyield-1ms" => fibers(env, pairs, steps, 1_000),
        "unyield-100us" => fibers(env, pairs, steps, 100),
        "ticker-1ms" => ticker(env, pairs, steps, 1_000),
        "ticker-100us" => ticker(env, pairs, steps, 100),
        other => return unknown(other),
    };
    samples(contender, &pairs)
}

/// What a stretch took, in ns, and how often something happened in it.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: f64,
    worker: f64,
    rest: f64,
    events: u64,
    entries: u64,
    /// It ended on the kernel thread where it began, so that the CPU clocks are one.
    stayed: bool,
}

/// A stretch without interrupts and the one with them that followed.
struct Pair {
    without: Spent,
    with: Spent,
}

/// Reads the clocks around `f`, which runs on the worker; `counts` are events and handler entries so far.
fn spent(f: impl FnOnce(), counts: impl Fn() -> (u64, u64)) -> Spent {
    let thread = os::thread_id();
    let (before, process, own, wall) = (counts(), os::process_cpu(), os::thread_cpu(), Instant::now());
    f();
    let wall = wall.elapsed().as_nanos() as f64;
    let worker = os::thread_cpu() as f64 - own as f64;
    let rest = (os::process_cpu() - process) as f64 - worker;
    let after = counts();
    let stayed = thread == os::thread_id();
    Spent { wall, worker, rest, events: after.0 - before.0, entries: after.1 - before.1, stayed }
}

fn samples(contender: &str, pairs: &[Pair]) -> Answer {
    let sum = |f: fn(&Pair) -> f64| pairs.iter().map(f).sum::<f64>();
    let (events, entries) = (sum(|p| p.with.events as f64), sum(|p| p.with.entries as f64));
    if events == 0.0 {
        return Err("nothing was preempted".into());
    }
    if sum(|p| p.without.events as f64) != 0.0 {
        return Err("preemptions where there should be none".into());
    }
    let happened = || pairs.iter().filter(|p| p.with.events > 0 && p.with.stayed && p.without.stayed);
    if happened().count() < pairs.len() / 2 {
        return Err("the fibers left their worker: the kernel did not run it".into());
    }
    let per = |metric: &str, ns: fn(&Spent) -> f64| {
        let one = |p: &Pair| (ns(&p.with) - ns(&p.without)) / p.with.events as f64 / 1e3;
        let median = summarise(happened().map(one)).map_or(f64::NAN, |s| s.median);
        Sample::new(contender, metric, median, "µs")
    };
    Ok(vec![
        per("worker", |s| s.worker),
        per("wall", |s| s.wall),
        per("rest", |s| s.rest),
        Sample::new(contender, "entries", entries / events, "each"),
        Sample::new(contender, "rate", events / (sum(|p| p.with.wall) / 1e9), "1/s"),
    ])
}

fn fibers(env: &Env, pairs: u64, steps: u64, quantum: u64) -> Vec<Pair> {
    let on = hosts::unyield(env, hosts::Mode::Quantum(quantum));
    let off = hosts::unyield(env, hosts::Mode::Off);
    let stretch = |rt: &Runtime| {
        let counts = || {
            let m = rt.handle().metrics();
            (m.worker_preempt_count(0), m.worker_interrupt_count(0))
        };
        let half = move || spin(steps / 2);
        let both = || {
            let pair = [unyield::spawn(half), unyield::spawn(half)];
            pair.into_iter().for_each(|h| h.join().expect("no panic"));
        };
        rt.run(|| spent(both, counts))
    };
    stretch(on);
    stretch(off);
    (0..pairs).map(|_| Pair { without: stretch(off), with: stretch(on) }).collect()
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    HANDLED.fetch_add(1, Relaxed);
}

fn install() {
    // SAFETY: all-zero bytes are a valid `sigaction`: empty mask, no flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is valid, its handler only counts in an atomic.
    let r = unsafe { libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut()) };
    assert_eq!(r, 0, "sigaction");
}

fn ticker(env: &Env, pairs: u64, steps: u64, period: u64) -> Vec<Pair> {
    install();
    let (cpu, all) = (env.cpus[0], os::allowed_cpus());
    let computing = thread::spawn(move || {
        os::pin_self(&[cpu]).expect("an allowed CPU");
        let me = os::thread_id();
        let handled = || (HANDLED.load(Relaxed), HANDLED.load(Relaxed));
        let pair = |_| {
            let without = spent(|| spin(steps), handled);
            let ticking = Ticking::start(me, Duration::from_micros(period), all.clone());
            let with = spent(|| spin(steps), handled);
            ticking.stop();
            Pair { without, with }
        };
        (0..pairs).map(pair).collect()
    });
    computing.join().expect("no panic")
}

/// A thread that sends a signal to another at a fixed rate.
struct Ticking {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Ticking {
    fn start(target: libc::pid_t, period: Duration, cpus: Vec<usize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            // The thread that starts this one is confined to the worker's CPU.
            os::pin_self(&cpus).expect("allowed CPUs");
            let mut due = Instant::now() + period;
            while !stopped.load(Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due += period;
                // SAFETY: no memory is passed; `target` lives until `stop` has joined this thread.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), target, libc::SIGUSR2) };
            }
        });
        Ticking { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("no panic");
    }
}
