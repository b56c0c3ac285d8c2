//! The victim's side of a steal: an idle worker has interrupted this one and waits for the oldest unstarted half of the running fiber.
//!
//! In the handler: masked, on the interrupted fiber, no allocation, no lock that waits; no switch, unless it was interrupted in a call that blocks.

use super::{Worker, preempt};
use crate::runtime::fork;
use std::sync::atomic::Ordering::Relaxed;
use unyield_preempt::{Frame, Receiver};

/// A thief asks.
///
/// # Safety
/// The contract of `unyield_preempt::vector::Handler`.
pub(crate) unsafe fn on_steal(receiver: &Receiver, frame: Option<&mut Frame>) {
    if !fork::alive() {
        return; // the thief has stayed in the parent
    }
    let worker = preempt::worker_of(receiver);
    // SAFETY: masked, on this worker; `current` is the fiber that was interrupted, whose bounds nobody else changes now but under their lock. What is taken is the
    // thief's.
    unsafe {
        let identity = worker.current.load(Relaxed).as_ref();
        // At least half stays, however many are asked for.
        let mut left = identity.map_or(0, |identity| identity.fork_count().div_ceil(2));
        let given = worker.mailbox.respond(|| {
            left = left.checked_sub(1)?;
            identity?.take_fork()
        });
        if given {
            worker.took_part.set(true);
        }
        preempt::leave_call(worker, frame);
    }
}

impl Worker {
    /// Idle, or looking for work itself: it has nothing to give.
    #[inline]
    pub(super) fn refuse_thief(&self) {
        if self.mailbox.is_asked() {
            // SAFETY: this worker's thread, masked.
            unsafe { self.mailbox.respond(|| None) };
        }
    }
}
