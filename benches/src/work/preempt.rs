//! What a preemption costs: two fibers compute on one worker, at a quantum, and with `Preemption::Off`. The same number
//! of steps both ways, so whatever more CPU time the worker's thread needed was taken by preemptions:
//! entry, saving, switching, and what they do to caches. Against it, `ticker`: a plain thread that computes the same and
//! is sent a signal with an (almost) empty handler by another thread, as often.
//!
//! Per preemption or signal: `worker` µs of CPU of the computing thread (its CPU clock), `wall` µs of lost throughput,
//! `rest` µs of CPU of the rest of the process, that is, of the timer thread. `rate` says how many there were a second.
//!
//! A measurement alternates short stretches with and without, since the loop's own speed drifts by more than what is
//! looked for. n is the total in ms.

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
use crate::{os, peers::Answer, proto::Sample};

/// Stretches with and without, in turn.
const STRETCHES: u64 = 8;

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    let steps = steps_per_ms() * n / STRETCHES;
    let (with, without) = match contender {
        "unyield-1ms" => fibers(env, steps, 1_000),
        "unyield-100us" => fibers(env, steps, 100),
        "ticker-1ms" => ticker(env, steps, 1_000),
        "ticker-100us" => ticker(env, steps, 100),
        other => return unknown(other),
    };
    samples(contender, with, without)
}

/// Sums over stretches.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: f64,
    worker: f64,
    rest: f64,
    events: u64,
}

impl Spent {
    fn add(&mut self, more: Spent) {
        self.wall += more.wall;
        self.worker += more.worker;
        self.rest += more.rest;
        self.events += more.events;
    }
}

/// Reads the clocks around `f`, which runs on the worker; `events` counts what the row is about.
fn spent(f: impl FnOnce(), events: impl Fn() -> u64) -> Spent {
    let (before, process, own, wall) = (events(), os::process_cpu(), os::thread_cpu(), Instant::now());
    f();
    let wall = wall.elapsed().as_nanos() as f64;
    let worker = (os::thread_cpu() - own) as f64;
    let rest = (os::process_cpu() - process) as f64 - worker;
    Spent { wall, worker, rest, events: events() - before }
}

fn samples(contender: &str, with: Spent, without: Spent) -> Answer {
    if with.events == 0 {
        return Err("nothing was preempted".into());
    }
    if without.events != 0 {
        return Err(format!("{} preemptions where there should be none", without.events));
    }
    let per = |a: f64, b: f64| (a - b) / with.events as f64 / 1e3;
    Ok(vec![
        Sample::new(contender, "worker", per(with.worker, without.worker), "µs"),
        Sample::new(contender, "wall", per(with.wall, without.wall), "µs"),
        Sample::new(contender, "rest", per(with.rest, without.rest), "µs"),
        Sample::new(contender, "rate", with.events as f64 / (with.wall / 1e9), "1/s"),
    ])
}

fn fibers(env: &Env, steps: u64, quantum: u64) -> (Spent, Spent) {
    let on = hosts::unyield(env, hosts::Mode::Quantum(quantum));
    let off = hosts::unyield(env, hosts::Mode::Off);
    let stretch = |rt: &Runtime| {
        let preemptions = || rt.handle().metrics().worker_preempt_count(0);
        let half = move || spin(steps / 2);
        let both = || {
            let pair = [unyield::spawn(half), unyield::spawn(half)];
            pair.into_iter().for_each(|h| h.join().expect("no panic"));
        };
        rt.run(|| spent(both, preemptions))
    };
    let (mut with, mut without) = (Spent::default(), Spent::default());
    stretch(on);
    for _ in 0..STRETCHES / 2 {
        without.add(stretch(off));
        with.add(stretch(on));
    }
    (with, without)
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

fn ticker(env: &Env, steps: u64, period: u64) -> (Spent, Spent) {
    install();
    let (cpu, all) = (env.cpus[0], os::allowed_cpus());
    let computing = thread::spawn(move || {
        os::pin_self(&[cpu]).expect("an allowed CPU");
        // SAFETY: no arguments.
        let me = unsafe { libc::gettid() };
        let handled = || HANDLED.load(Relaxed);
        let compute = || spin(steps);
        let (mut with, mut without) = (Spent::default(), Spent::default());
        for _ in 0..STRETCHES / 2 {
            without.add(spent(compute, handled));
            let ticking = Ticking::start(me, Duration::from_micros(period), all.clone());
            with.add(spent(compute, handled));
            ticking.stop();
        }
        (with, without)
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
