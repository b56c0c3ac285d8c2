//! What an interrupt decides: whether the running fiber's quantum is over, and where it goes.

use super::{After, Role, STEAL, TICK, Worker, carrier, resume};
use crate::preempt::Preemption;
use crate::runtime::fork;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering::{Relaxed, Release};
use unyield_preempt::receiver::bump;
use unyield_preempt::tick;
use unyield_preempt::{Frame, Receiver};

pub(super) fn worker_of(receiver: &Receiver) -> &Worker {
    // SAFETY: the handlers in this module are installed on workers' receivers only, and a receiver is its worker's first field.
    unsafe { &*(receiver as *const Receiver).cast::<Worker>() }
}

/// Runs in the signal handler: a tick is worth an interrupt if it is meant for the slice that runs, and something else could run; a thief's request if it still
/// stands.
///
/// # Safety
/// Async-signal-safe: loads only.
pub(crate) unsafe fn filter(receiver: &Receiver, pending: u64) -> u64 {
    let worker = worker_of(receiver);
    let mut pending = pending;
    if pending & (1 << TICK) != 0 && !wants_preempt(worker) {
        pending &= !(1 << TICK);
    }
    if pending & (1 << STEAL) != 0 && !worker.mailbox.is_asked() {
        pending &= !(1 << STEAL);
    }
    pending
}

fn wants_preempt(worker: &Worker) -> bool {
    worker.tick_slice.load(Relaxed) == worker.slice.load(Relaxed)
        && fork::alive()
        && !worker.current.load(Relaxed).is_null()
        && (worker.has_other_work() || worker.runtime().relaying.load(Relaxed) != 0)
}

/// The tick: masked, on the interrupted fiber (`frame`), or at the end of its critical section.
///
/// # Safety
/// The contract of `unyield_preempt::vector::Handler`.
pub(crate) unsafe fn on_tick(receiver: &Receiver, frame: Option<&mut Frame>) {
    let worker = worker_of(receiver);
    if wants_preempt(worker) {
        // SAFETY: in a handler, whose frame this is.
        unsafe { preempt(worker, frame) }
    }
}

/// Whoever runs here was interrupted for another reason, in a call that blocks: at most one interrupt for each call, so it goes to a carrier now (unless
/// there are no ticks, which would bring it back).
///
/// # Safety
/// As for [`on_tick`].
pub(super) unsafe fn leave_call(worker: &Worker, frame: Option<&mut Frame>) {
    if worker.role == Role::Carrier || worker.runtime().preemption == Preemption::Off {
        return;
    }
    // SAFETY: the frame is an interrupted fiber's, whose text is mapped.
    if unsafe { frame.as_ref().and_then(|frame| frame.syscall()) }.is_some() {
        // SAFETY: as promised.
        unsafe { preempt(worker, frame) }
    }
}

/// Has the running fiber leave the worker, if it can.
///
/// # Safety
/// Masked, in a handler on `worker`; `frame` is the interrupted fiber's, if it was interrupted.
unsafe fn preempt(worker: &Worker, frame: Option<&mut Frame>) {
    let receiver = &worker.receiver;
    // A changed signal mask or alternate stack belongs to the OS thread. The signal handler has looked at them already; at the end of a section nobody has.
    if !receiver.may_switch(frame.is_some()) && !cfg!(unyield_mutant = "no_mask_check") {
        receiver.suspect();
        bump(&receiver.counters.foreign_mask);
        return;
    }
    // SAFETY: `current` is the running fiber's identity; masked.
    unsafe {
        let identity = &*worker.current.load(Relaxed);
        if identity.is_shared() {
            (*identity.gate.get()).request();
            return;
        }
        if worker.owned.load(Relaxed) {
            return;
        }
        // SAFETY: the frame is an interrupted fiber's, whose text is mapped.
        let call = frame.as_ref().and_then(|frame| frame.syscall());
        let me = NonNull::from(identity);
        let after = match call {
            Some(call) => {
                if !carrier::worthwhile(worker, call) {
                    return;
                }
                bump(&worker.counters.preemptions_in_calls);
                identity.frame.set(frame.map_or(null_mut(), |frame| frame));
                After::Blocked(me)
            }
            None => {
                worker.preempted_at.store(tick::now(), Relaxed);
                worker.preempted_slice.store(worker.slice.load(Relaxed), Release); // pairs with the timer's acquire
                After::Requeue(me)
            }
        };
        bump(&worker.counters.preemptions);
        resume::leave(after);
        identity.frame.set(null_mut());
    }
}
