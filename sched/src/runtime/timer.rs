//! What the timer thread does at each tick: ends waits whose time has come, nudges workers whose fiber's quantum is over, and sleeps when nobody needs it.
//!
//! The only other thread it touches is by a signal; it never allocates, prints or takes a lock that an unmasked fiber can hold (rule 1).

use super::{Shared, fork};
use crate::preempt::Preemption;
use crate::worker::{TICK, Worker};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;
use unyield_preempt::tick::{self, Unanswered};

/// After so many ticks without contention the timer stops ticking: a steady trickle of work should not wake it each time.
const HYSTERESIS: u32 = 16;
/// Ticks that a worker may leave unanswered before it is reported as stuck.
const STUCK: u32 = 64;
/// … and for how long, in ns: on a full machine the kernel may not run a worker for many ticks.
const STUCK_TIME: u64 = 1_000_000_000;

/// How often what waits longest in a queue goes first (rule 8: what was preempted runs again within 20 ms), in ns.
const AGEING: u64 = 8_000_000;

/// What the timer knows of one worker.
#[derive(Clone, Copy, Default)]
struct Seen {
    slice: u64,
    since: u64,
    unanswered: Unanswered,
    reported: bool,
}

/// What the timer knows of one carrier: the CPU time that its thread had used, and when to look again.
#[derive(Clone, Copy, Default)]
struct SeenCarrier {
    slice: u64,
    cpu: u64,
    next: u64,
    backoff: u64,
}

const CARRIER_BACKOFF_MAX: u64 = 16_000_000;

pub(crate) fn run(runtime: &Shared) {
    let quantum = runtime.quantum_ns;
    // Half a quantum, so that a slice is at most one and a half; short quanta are their own period, since waking up costs too.
    let period = if quantum >= 500_000 { quantum / 2 } else { quantum };
    let mut seen = vec![Seen::default(); runtime.workers.len()];
    let mut carriers = vec![SeenCarrier::default(); runtime.carriers.max];
    let mut quiet = 0;
    let mut next_ageing = 0;
    let ticking = runtime.preemption != Preemption::Off;
    while !runtime.halted.load(Acquire) {
        let now = tick::now();
        runtime.timers.expire(now);
        let mut contended = false;
        if now >= next_ageing {
            next_ageing = now + AGEING;
            runtime.workers.iter().for_each(|worker| worker.queue.age());
        }
        if ticking {
            for (worker, seen) in runtime.workers.iter().zip(&mut seen) {
                contended |= visit(runtime, worker, seen, now);
            }
        }
        let next_carrier = visit_carriers(runtime, &mut carriers, now);
        contended |= rescue(runtime);
        quiet = if contended { 0 } else { quiet + 1 };
        if !ticking {
            // Nobody needs ticks: stay armed, so that enqueuers never wake us, and sleep until a deadline.
            let (until, token) = runtime.timers.plan(next_carrier);
            runtime.timers.nap(until, token);
        } else if quiet <= HYSTERESIS {
            let (until, token) = runtime.timers.plan(now + period);
            runtime.timers.nap(until, token);
        } else if runtime.armed.try_disarm(|| needed(runtime)) {
            let (until, _) = runtime.timers.plan(next_carrier);
            let limit = (until != u64::MAX).then(|| Duration::from_nanos(until.saturating_sub(tick::now())));
            if runtime.armed.wait(limit) {
                quiet = 0;
            }
        } else {
            quiet = 0;
        }
    }
}

/// Something is queued that the running fibers may have to make room for.
fn needed(runtime: &Shared) -> bool {
    runtime.halted.load(Acquire)
        || !runtime.injector.is_empty()
        || runtime.workers.iter().any(|worker| worker.queue.has_work())
}

/// Rule 5: a worker is nudged only if its fiber's quantum is over and something else could run there. True if something could.
fn visit(runtime: &Shared, worker: &Worker, seen: &mut Seen, now: u64) -> bool {
    if worker.current.load(Acquire).is_null() {
        seen.slice = 0;
        return false;
    }
    let slice = worker.slice.load(Relaxed);
    if seen.slice != slice {
        *seen = Seen { slice, since: now, ..Seen::default() };
    }
    if !worker.has_other_work() {
        return false;
    }
    if now - seen.since >= runtime.quantum_ns && fork::alive() {
        let unanswered = seen.unanswered.sent(worker.receiver.counters.interrupts.load(Relaxed));
        if unanswered >= STUCK && now - seen.since >= STUCK_TIME && !std::mem::replace(&mut seen.reported, true) {
            super::fault::report_stuck(worker);
        }
        worker.tick_slice.store(slice, Relaxed);
        worker.receiver.post(TICK);
        runtime.ticks_sent.store(runtime.ticks_sent.load(Relaxed) + 1, Relaxed);
    }
    true
}

/// A fiber that computes on a carrier is sent back to the workers: its thread's CPU clock moves. While it does not, the looks become rarer. Returns
/// when the next look is due.
fn visit_carriers(runtime: &Shared, seen: &mut [SeenCarrier], now: u64) -> u64 {
    let mut next = u64::MAX;
    for (carrier, seen) in runtime.carriers.all().zip(seen) {
        let identity = carrier.current.load(Acquire);
        // SAFETY: identities are not freed while they are some worker's current one … and afterwards only by retirement, long after: the two flags
        // are read racily, and at worst a tick finds nothing.
        if identity.is_null() || carrier.owned.load(Relaxed) || carrier.untickable.load(Relaxed) {
            *seen = SeenCarrier::default();
            continue;
        }
        let slice = carrier.slice.load(Relaxed);
        if seen.slice != slice {
            *seen = SeenCarrier {
                slice,
                cpu: thread_cpu(carrier.receiver.tid()),
                next: now,
                backoff: runtime.quantum_ns,
            };
        }
        if now >= seen.next {
            let cpu = thread_cpu(carrier.receiver.tid());
            if cpu != seen.cpu {
                seen.cpu = cpu;
                seen.backoff = runtime.quantum_ns;
                carrier.tick_slice.store(slice, Relaxed);
                carrier.receiver.post(TICK);
            } else {
                seen.backoff = (seen.backoff * 2).min(CARRIER_BACKOFF_MAX);
            }
            seen.next = now + seen.backoff;
        }
        next = next.min(seen.next);
    }
    next
}

/// CPU time of a thread of this process, in ns. The clock's number is the kernel's encoding for thread clocks (see clock_getcpuclockid(3)).
fn thread_cpu(tid: i32) -> u64 {
    let clock = (!tid << 3) | 6;
    // SAFETY: writes to a local; a thread that has gone gives EINVAL.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        if libc::clock_gettime(clock, &mut time) != 0 {
            return 0;
        }
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Fibers that a running one has put into its worker's next slot stay there while it runs: if others sleep meanwhile, they should have it.
fn rescue(runtime: &Shared) -> bool {
    if runtime.workers.len() > 1 && runtime.idle.sleepers() > 0 && runtime.has_queued_work() {
        runtime.idle.notify_one();
        return true;
    }
    false
}
