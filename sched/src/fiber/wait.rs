//! Giving way and waiting: yield, checkpoint, park, sleep.

use super::{cancel, task};
use crate::park::{self, Outcome, Waiter};
use crate::runtime::fork;
use crate::worker::resume;
use std::time::{Duration, Instant};
use unyield_preempt::gate::gate;
use unyield_preempt::tick;

/// Lets other fibers run first. On a plain thread `std::thread::yield_now`. A cancelled fiber unwinds here, unless it unwinds already.
///
/// # Panics
/// On a fiber inside a critical section.
pub fn yield_now() {
    if task::current().is_none() || !fork::alive() {
        return std::thread::yield_now();
    }
    assert!(!park::in_critical_section(), "yielding inside a critical section");
    cancel::check();
    resume::yield_now();
}

/// Yields only if an interrupt asked for it, and unwinds if the fiber was cancelled; two loads when neither is the case. Needed only with
/// `Preemption::AtCheckpoints`. Does nothing on a plain thread or inside a critical section. Never panics.
#[inline]
pub fn checkpoint() {
    let gate = gate();
    if let Some(task) = task::current() {
        if task.is_cancelled() && gate.depth() == 0 {
            cancel::check();
        }
        if gate.depth() == 0 && gate.take_request() {
            yield_now();
        }
    }
}

/// Waits for at least `d`, to the nanosecond of CLOCK_MONOTONIC, and as much longer as the timer and what runs meanwhile take; over 584 years means for
/// ever. On a plain thread `std::thread::sleep`. A cancelled fiber unwinds, unless it unwinds already: then the wait is not cancelled.
///
/// # Panics
/// On a fiber inside a critical section.
pub fn sleep(d: Duration) {
    if task::current().is_none() || !fork::alive() {
        return std::thread::sleep(d);
    }
    let d = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    sleep_until_ns(tick::now().saturating_add(d));
}

/// Waits until `t`; one that has passed is a [`sleep`] of no length. Otherwise as [`sleep`].
///
/// # Panics
/// On a fiber inside a critical section.
pub fn sleep_until(t: Instant) {
    sleep(t.saturating_duration_since(Instant::now()));
}

fn sleep_until_ns(deadline: u64) {
    // While the fiber unwinds, a cancel must not unwind it once more.
    match Waiter::with(|waiter| waiter.block_until(Some(deadline), !std::thread::panicking())) {
        Outcome::Cancelled => park::unwind_cancelled(),
        Outcome::TimedOut | Outcome::Notified => {}
    }
}

/// Blocks until [`Fiber::unpark`](super::Fiber::unpark) was called for this fiber (one token, as `std::thread::park`; may not return
/// spuriously, but do not rely on it). On a plain thread `std::thread::park`. A cancelled fiber unwinds, if the token is not there and it does not unwind
/// already: then the wait is not cancelled.
///
/// # Panics
/// On a fiber inside a critical section, even if the token is there.
pub fn park() {
    match task::current() {
        Some(task) if fork::alive() => unwind_if_cancelled(task.park(None)),
        _ => std::thread::park(),
    }
}

/// As [`park`], for at most `d`, measured as in [`sleep`].
///
/// # Panics
/// On a fiber inside a critical section, even if the token is there.
pub fn park_timeout(d: Duration) {
    match task::current() {
        Some(task) if fork::alive() => {
            let d = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
            unwind_if_cancelled(task.park(Some(tick::now().saturating_add(d))));
        }
        _ => std::thread::park_timeout(d),
    }
}

fn unwind_if_cancelled(outcome: Outcome) {
    if outcome == Outcome::Cancelled {
        park::unwind_cancelled();
    }
}

/// True once [`Fiber::cancel`](super::Fiber::cancel) was called on the running fiber, by the runtime's shutdown too; false on a plain thread. Any context,
/// also a signal handler.
pub fn is_cancelled() -> bool {
    task::current().is_some_and(|task| task.is_cancelled())
}
