//! From "something is pending" to the sub-handlers: 64 vectors, the highest first.
//!
//! Entered masked, in one of two ways: by the entry stub with a [`Frame`], or at the end of a critical section without one (a call
//! boundary needs no frame). A handler may switch to another fiber; when it returns, another receiver may be ours.

use crate::frame::Frame;
use crate::gate::gate;
use crate::receiver::Receiver;
use core::sync::atomic::{Ordering::Relaxed, compiler_fence};

/// Vector number of a frame that carries no news of its own: "look at PIR".
pub const RESCAN: u64 = 63;

/// What runs for a vector: masked, on the interrupted identity. It must not allocate, free, lock or run user code, and may switch.
/// `frame` is `None` at the end of a critical section.
pub type Handler = unsafe fn(&Receiver, Option<&mut Frame>);

/// The entry stub calls this with the gate closed.
pub(crate) unsafe extern "C" fn dispatch(frame: *mut Frame) {
    // SAFETY: errno is a word in the running identity's TLS; the address stays right when the handler switches, since identity and
    // stack travel together. The frame lives on this stack until we return.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        if let Some(receiver) = gate().receiver().as_ref() {
            receiver.latency.arrived(); // of a user interrupt: the signal handler has noted its own
        }
        run_pending(Some(&mut *frame));
        if !cfg!(unyield_mutant = "errno_not_kept") {
            *errno = saved;
        }
    }
}

/// Runs what waits for the receiver we are on. Masked; may switch and return on another worker, masked again.
///
/// # Safety
/// The gate is closed at depth 1 by the caller and names a live receiver.
pub(crate) unsafe fn run_pending(mut frame: Option<&mut Frame>) {
    let gate = gate();
    loop {
        gate.pending.store(0, Relaxed); // the hint first, then the truth
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        let receiver = gate.receiver.load(Relaxed);
        if receiver.is_null() {
            return;
        }
        // SAFETY: masked, so the receiver is the one we run on and stays alive; read again in each round, since a handler may have switched.
        let receiver = unsafe { &*receiver };
        let Some(vector) = receiver.upid.take_highest() else { return };
        if let Some(handler) = receiver.handler(vector) {
            // SAFETY: handlers are installed under the contract of `Handler`.
            unsafe { handler(receiver, frame.as_deref_mut()) }
        }
    }
}
