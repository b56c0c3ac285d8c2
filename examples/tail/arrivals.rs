//! The generator of point reads: a plain thread that hands them over at times drawn in advance from a Poisson process,
//! whether or not earlier ones were answered (an open loop). The same seed in all ways: the same reads at the same times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::load::{Load, Request, histogram, nanos};
use crate::run::thread_cpu;
use crate::ways::Way;

/// No sleep is shorter, since each costs the workers' CPUs a timer and two switches; spinning would cost them more.
/// Reads that fall due meanwhile are late by at most so much, which counts as their latency.
const GRAIN: Duration = Duration::from_micros(100);

/// When reads arrive and what they ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub start: Instant,
    /// Reads that are due in this first part are served but not measured.
    pub warm_up: Duration,
    pub measured: Duration,
    /// Reads a second.
    pub rate: f64,
    pub rows: u64,
}

/// What became of a schedule.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub issued: u64,
    pub measured: u64,
    /// How long after its time each measured read was handed over.
    pub lateness: Histogram<u64>,
    /// CPU time of the generator, spawning included.
    pub cpu: Duration,
}

/// Runs until the schedule ends. `issued` is for whoever looks on.
pub(crate) fn generate(way: &dyn Way, load: &Arc<Load>, plan: &Schedule, issued: &AtomicU64) -> Arrivals {
    be_punctual();
    let mut rng = SmallRng::seed_from_u64(0x7a11);
    let mut out = Arrivals { issued: 0, measured: 0, lateness: histogram(), cpu: Duration::ZERO };
    let end = plan.start + plan.warm_up + plan.measured;
    let mut at = 0.0;
    loop {
        at += -(1.0 - rng.random::<f64>()).ln() / plan.rate;
        let due = plan.start + Duration::from_secs_f64(at);
        if due >= end {
            break;
        }
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::sleep(early.max(GRAIN));
        }
        let measured = due >= plan.start + plan.warm_up;
        if measured {
            out.measured += 1;
            out.lateness.saturating_record(nanos(due.elapsed()).max(1));
        }
        way.read(load, Request { id: rng.random_range(1..=plan.rows), due, number: out.issued, measured });
        out.issued += 1;
        issued.store(out.issued, Ordering::Relaxed); // a statistic; the joined thread's result is what counts
    }
    out.cpu = thread_cpu();
    out
}

/// Timers to the nanosecond, and slices of 100 µs (from Linux 6.12 on), so that the kernel lets this thread run as soon
/// as it wakes, which it asks for little enough CPU to deserve. No precedence over the workers beyond that: a real-time
/// thread would never let a worker of its CPU go on that it has interrupted while it held the queue's lock. Refusals
/// only show in the lateness.
fn be_punctual() {
    // SAFETY: changes the calling thread's timer slack, nothing in memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    // SAFETY: `sched_attr` is a plain record of integers.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of_val(&attr) as u32;
    attr.sched_policy = libc::SCHED_OTHER as u32;
    attr.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
    // SAFETY: only asks; on Linux 0 is the calling thread.
    attr.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    attr.sched_runtime = 100_000;
    // SAFETY: 0 is the calling thread; `attr` is only read, its size is in it.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}
