//! What the timer thread does at each tick: ends waits whose time has come, nudges workers whose fiber's quantum is over, and sleeps when nobody needs it.
//!
//! The only other thread it touches is by a signal; it never allocates, prints or takes a lock that an unmasked fiber can hold (rule 1).

use super::{Shared, fork};
use crate::preempt::Preemption;
use crate::worker::{TICK, Worker, enqueue, spare, stalled};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;
use unyield_preempt::tick;

/// After so many ticks without contention the timer stops ticking: a steady trickle of work should not wake it each time.
const HYSTERESIS: u32 = 16;
/// After so many ticks the same slice still runs: the worker is stuck, unless it has not run.
const STUCK: u32 = 4;
/// … and so long (ns) after its quantum: a signal handler of the program may take longer than a few short quanta.
const STUCK_TIME: u64 = 2_000_000;
/// How often (ns, for each worker that there is) the timer asks /proc whether a worker that uses no CPU time wants any.
const LOOK_PERIOD: u64 = 1_000_000;
/// A thread that has used so much CPU time (ns) since a tick has had the chance to answer it.
const HAD_CPU: u64 = 200_000;
/// A stuck worker is reported after so many ticks, and so long (ns).
const REPORT: u32 = 64;
const REPORT_TIME: u64 = 200_000_000;
/// While a spare runs, the timer looks at least so often (ns) whether it is still needed.
const SPARE_PERIOD: u64 = 10_000_000;

/// For how long (ns) a fiber keeps its worker although only halves wait that were stolen together with its own.
const RELAYED: u64 = 20_000_000;

/// How often what waits longest in a queue goes first (rule 8: what was preempted runs again within 20 ms), in ns.
const AGEING: u64 = 8_000_000;

/// Looks are at least a quantum divided by this apart: slices of several workers that end within it are ended together, and from then on in step.
const COALESCE: u64 = 8;

/// What the timer knows of one worker.
#[derive(Clone, Copy, Default)]
struct Seen {
    slice: u64,
    /// When the slice began, at the latest.
    since: u64,
    /// CPU time of the worker's thread at about that time, if there was other work then; 0 = not known.
    first_cpu: u64,
    /// A tick has begun this slice: the next one, which a tick begins as well, will probably last its quantum too.
    steady: bool,
    /// Ticks sent to this slice.
    ticks: u32,
    /// At the first: the thread's CPU time, and its interrupts that had found the gate closed.
    cpu: u64,
    /// At the second: the thread's CPU time (what it has used since then it has used with a tick to answer), and its interrupts that had come in vain.
    unanswered_cpu: u64,
    stale: u64,
    deferred: u64,
    /// When to ask again whether the thread wants to run, and the last answer.
    next_look: u64,
    wants_cpu: bool,
    stuck: bool,
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
/// CPU time (ns) by which a fiber on a carrier shows that it computes.
const COMPUTES: u64 = 50_000;

pub(crate) fn run(runtime: &Shared) {
    let quantum = runtime.quantum_ns;
    let period = period(quantum);
    let mut seen = vec![Seen::default(); runtime.workers.len()];
    let mut spares = [Seen::default(); spare::MAX];
    let mut carriers = vec![SeenCarrier::default(); runtime.carriers.max];
    let mut quiet = 0;
    let mut next_ageing = 0;
    let mut stalled_due = 0;
    let ticking = runtime.preemption != Preemption::Off;
    while !runtime.halted.load(Acquire) {
        let now = tick::now();
        let due = runtime.timers.expire(now);
        // SAFETY: they were parked, and their waits have just been ended here.
        unsafe { enqueue::expired(runtime, due) };
        let mut look = NOTHING_WAITS;
        if now >= next_ageing {
            next_ageing = now + AGEING;
            runtime.slots().for_each(|worker| worker.queue.age());
        }
        if ticking {
            for (worker, seen) in runtime.workers.iter().zip(&mut seen) {
                look = look.min(visit(runtime, worker, seen, now));
            }
            look = look.min(balance(runtime, &seen, &mut spares, now));
        }
        let next_carrier = if ticking {
            stalled::look(runtime, now, &mut stalled_due);
            visit_carriers(runtime, &mut carriers, now)
        } else {
            u64::MAX
        };
        if rescue(runtime) {
            look = look.min(now + period);
        }
        let watch = runtime.watch.look(runtime, now);
        quiet = if look != NOTHING_WAITS { 0 } else { quiet + 1 };
        if !ticking {
            // Nobody needs ticks: stay armed, so that enqueuers never wake us, and sleep until a deadline.
            let (until, token) = runtime.timers.plan(next_carrier.min(watch));
            // Each of these is set before the ring that changes the token.
            if !runtime.halted.load(Acquire) && (watch != NOTHING_WAITS || !runtime.watch.is_on()) {
                runtime.timers.nap(until, token);
            }
        } else if quiet <= HYSTERESIS {
            let next = if look != NOTHING_WAITS { look.max(now + quantum / COALESCE) } else { now + period };
            let (until, token) = runtime.timers.plan(next.min(watch));
            // `halted` is set before the ring that changes the token.
            if !runtime.halted.load(Acquire) {
                runtime.timers.nap(until, token);
            }
        } else if !runtime.armed.is_armed() || runtime.armed.try_disarm(|| needed(runtime)) {
            if watch == NOTHING_WAITS && runtime.watch.is_on() {
                continue; // put on since we looked, when we were still armed
            }
            let spare = if runtime.spares.any_awake() { now + SPARE_PERIOD } else { u64::MAX };
            // who is stalled from here on finds us disarmed
            let stalled = stalled::next_look(runtime, now);
            let (until, _) = runtime.timers.plan(next_carrier.min(spare).min(stalled).min(watch));
            let limit = (until != u64::MAX).then(|| Duration::from_nanos(until.saturating_sub(tick::now())));
            if runtime.armed.wait(limit) {
                quiet = 0;
            }
        } else {
            quiet = 0;
        }
    }
}

/// How often a worker is looked at whose slice began nobody knows when: half a quantum, so that a slice is at most one and a half; short quanta are
/// their own period, since waking up costs too. While fibers compute and every tick begins a slice that lasts its quantum, one look a quantum is enough.
fn period(quantum: u64) -> u64 {
    if quantum >= 500_000 { quantum / 2 } else { quantum }
}

/// In place of the time of the next look.
const NOTHING_WAITS: u64 = u64::MAX;

/// Something is queued that the running fibers may have to make room for.
fn needed(runtime: &Shared) -> bool {
    runtime.halted.load(Acquire)
        || !runtime.exposed.is_empty()
        || runtime.relaying.load(Relaxed) != 0
        || !runtime.injector.is_empty()
        || runtime.slots().any(|worker| worker.queue.has_work())
}

/// Rule 5: a worker is nudged only if its fiber's quantum is over and something else could run there. Returns when to look again if something could.
fn visit(runtime: &Shared, worker: &Worker, seen: &mut Seen, now: u64) -> u64 {
    let (quantum, period) = (runtime.quantum_ns, period(runtime.quantum_ns));
    if worker.current.load(Acquire).is_null() {
        *seen = Seen::default();
        worker.stuck.store(false, Relaxed);
        return NOTHING_WAITS;
    }
    let slice = worker.slice.load(Relaxed);
    let contended = worker.has_other_work();
    let mut again = now + period;
    if seen.slice != slice {
        let last = *seen;
        *seen = Seen { slice, next_look: last.next_look, wants_cpu: last.wants_cpu, ..Seen::default() };
        if last.ticks != 0 && slice == last.slice + 1 && worker.preempted_slice.load(Acquire) == last.slice {
            // A tick of ours has ended the last slice, and so begun this one.
            seen.steady = true;
            seen.since = worker.preempted_at.load(Relaxed).min(now);
            seen.first_cpu = if last.ticks == 1 { last.cpu } else { 0 };
            again = seen.since + quantum;
        } else {
            seen.since = now;
            seen.first_cpu = if contended { thread_cpu(worker.receiver.tid()) } else { 0 };
        }
        worker.stuck.store(false, Relaxed);
    } else if seen.ticks == 0 {
        again = seen.since + quantum;
    }
    // A stolen half that waits behind another one may be what that one waits for. That is rare, so it gets its turn late.
    let relaying = !contended && runtime.relaying.load(Relaxed) != 0;
    if relaying && now - seen.since < RELAYED {
        return seen.since + RELAYED;
    }
    if !contended && !relaying {
        return NOTHING_WAITS;
    }
    if now - seen.since >= quantum && fork::alive() {
        // On a full machine a fiber must not lose its turn because the kernel did not run its worker.
        if seen.ticks == 0 {
            let cpu = thread_cpu(worker.receiver.tid());
            if seen.first_cpu != 0
                && cpu.saturating_sub(seen.first_cpu) < quantum / 2
                && wants_cpu(runtime, worker, seen, now)
            {
                return now + period;
            }
            seen.cpu = cpu;
            seen.deferred = worker.receiver.counters.deferred.load(Relaxed);
            if seen.steady {
                again = now + quantum;
            }
        }
        let stale = worker.receiver.counters.stale.load(Relaxed);
        if seen.ticks > 2 && seen.stale != stale && !seen.stuck {
            seen.ticks = 1; // it did answer: nothing else could run there at that moment
        }
        seen.ticks = seen.ticks.saturating_add(1);
        if seen.ticks == 2 {
            seen.stale = stale;
            seen.unanswered_cpu = thread_cpu(worker.receiver.tid());
        } else if seen.ticks > STUCK && !seen.stuck && now - seen.since >= quantum + STUCK_TIME {
            let used = thread_cpu(worker.receiver.tid()).saturating_sub(seen.unanswered_cpu);
            seen.stuck = used >= HAD_CPU || !wants_cpu(runtime, worker, seen, now);
            if seen.stuck {
                // From now on it is ticked though nothing else waits: or it would stay stuck for as long as spares have taken everything over.
                worker.stuck.store(true, Relaxed);
                worker.receiver.suspect();
            }
        }
        if seen.stuck
            && seen.ticks >= REPORT
            && now - seen.since >= REPORT_TIME
            && !std::mem::replace(&mut seen.reported, true)
        {
            super::stuck::report(
                runtime,
                worker,
                worker.receiver.counters.deferred.load(Relaxed) > seen.deferred,
            );
        }
        worker.tick_slice.store(slice, Relaxed);
        worker.receiver.post(TICK);
        if seen.ticks > 1 {
            worker.receiver.escalate();
        }
        runtime.ticks_sent.store(runtime.ticks_sent.load(Relaxed) + 1, Relaxed);
    }
    if seen.stuck && !worker.other_work_waits() { NOTHING_WAITS } else { again }
}

/// Visits the spares, and keeps the number of workers that are not stuck at the runtime's: activates a spare, or retires one. Returns when to look again.
fn balance(runtime: &Shared, regular: &[Seen], seen: &mut [Seen], now: u64) -> u64 {
    let stuck = regular.iter().filter(|seen| seen.stuck).count();
    if stuck == 0 && !runtime.spares.any_awake() {
        return NOTHING_WAITS;
    }
    let (mut useful, mut due) = (regular.len() - stuck, NOTHING_WAITS);
    let mut surplus = None;
    for (spare, seen) in runtime.spares.all().zip(seen) {
        due = due.min(visit(runtime, spare, seen, now));
        if spare.active.load(Relaxed) && !seen.stuck {
            useful += 1;
            surplus = Some(spare);
        }
    }
    if useful > regular.len() {
        if let Some(spare) = surplus {
            runtime.spares.retire(runtime, spare);
        }
    } else if runtime.has_queued_work() && fork::alive() {
        if useful < regular.len() {
            runtime.spares.activate(runtime);
        } else {
            runtime.idle.notify_one(); // what a stuck worker's fiber queues behind itself
        }
        due = due.min(now + period(runtime.quantum_ns));
    }
    due
}

/// True if the worker's thread wants to run: asked of a thread that uses no CPU time. A file of /proc (20 µs), so it is read rarely: where threads starve,
/// CPU time is what there is too little of.
fn wants_cpu(runtime: &Shared, worker: &Worker, seen: &mut Seen, now: u64) -> bool {
    if now >= seen.next_look {
        seen.next_look = now + LOOK_PERIOD * runtime.workers.len() as u64;
        seen.wants_cpu = super::stuck::thread_state(worker.receiver.tid()) == b'R';
    }
    seen.wants_cpu
}

/// A fiber that computes on a carrier is sent back to the workers: its thread's CPU clock moves. While it does not, the looks become rarer. Returns
/// when the next look is due.
fn visit_carriers(runtime: &Shared, seen: &mut [SeenCarrier], now: u64) -> u64 {
    let mut next = u64::MAX;
    for (carrier, seen) in runtime.carriers.all().zip(seen) {
        let identity = carrier.current.load(Acquire);
        // SAFETY: identities are not freed while they are some worker's current one … and afterwards only by retirement, long after: the
        // flag is read racily, and at worst a tick finds nothing.
        if identity.is_null() || carrier.owned.load(Relaxed) {
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
            // A call that the last tick interrupted, and its repetition, do not count: or each tick would lead to the next.
            if cpu.saturating_sub(seen.cpu) > COMPUTES {
                seen.cpu = cpu;
                seen.backoff = runtime.quantum_ns;
                carrier.tick_slice.store(slice, Relaxed);
                carrier.receiver.escalate(); // an earlier tick, if it was not answered
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
    if runtime.several_slots() && runtime.idle.sleepers() > 0 && runtime.has_queued_work() {
        runtime.idle.notify_one();
        return true;
    }
    false
}
