//! What the crate's own tests need of its insides: a second vector, ticks at will, frames that trap at every instruction. Not for programs.

use crate::fiber::task;
use crate::runtime::Handle;
use crate::worker::{TICK, Worker};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use unyield_preempt::backend::signal;
use unyield_preempt::gate::gate;
use unyield_preempt::{Frame, Receiver};

/// A vector whose handler only counts.
pub(crate) const COUNTING: u8 = 2;
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// # Safety
/// The contract of `unyield_preempt::vector::Handler`: one atomic addition.
pub(crate) unsafe fn count(_: &Receiver, _: Option<&mut Frame>) {
    COUNTED.fetch_add(1, Relaxed);
}

/// How often the counting handler ran, in the whole process.
pub fn counted() -> u64 {
    COUNTED.load(Relaxed)
}

/// Interrupts worker `w` with the counting vector. Also for signal handlers.
pub fn post_counting(handle: &Handle, w: usize) {
    handle.shared().workers[w].receiver.post(COUNTING);
}

/// Interrupts worker `w` as the timer does when the running fiber's quantum is over.
pub fn post_tick(handle: &Handle, w: usize) {
    let worker = &handle.shared().workers[w];
    worker.tick_slice.store(worker.slice.load(Relaxed), Relaxed);
    worker.receiver.post(TICK);
}

/// Vectors posted to worker `w` and not yet taken.
pub fn pending(handle: &Handle, w: usize) -> u64 {
    handle.shared().workers[w].receiver.pending()
}

/// Frames that the model's processors have pushed on the workers' threads, and instructions that it has carried out there.
pub fn modelled(handle: &Handle) -> (u64, u64) {
    let states = handle.shared().workers.iter().map(|worker| worker.receiver.model_state());
    states.fold((0, 0), |(frames, traps), state| (frames + state.delivered, traps + state.trapped))
}

/// True if the calling thread, or fiber, is taken for one on a worker.
pub fn on_a_worker() -> bool {
    // SAFETY: masked.
    unyield_preempt::critical(|| unsafe { Worker::try_current() }.is_some())
}

/// The next frame starts with the trap flag set: SIGTRAP after each instruction, until flags without it are restored.
pub fn step_next_frame(on: bool) {
    signal::SINGLE_STEP.store(on, Relaxed);
}

/// The running fiber's stack: its lowest address, and the lowest stack pointer that is interrupted. `None` on a plain thread.
pub fn stack_bounds() -> Option<(usize, usize)> {
    let identity = task::current()?.identity.load(Relaxed);
    // SAFETY: the running fiber's identity.
    let low = unsafe { &*identity }.stack.low();
    Some((low, gate().bounds().0))
}

/// The worker that the caller runs on, as a number; how many switches it has made, and how many interrupts it has refused for want of room.
/// Fiber; perhaps out of date when it returns.
pub fn here() -> (usize, u64, u64) {
    unyield_preempt::critical(|| {
        // SAFETY: masked, on a fiber.
        let worker = unsafe { Worker::current() };
        let counters = &worker.receiver.counters;
        (
            (worker as *const Worker).addr(),
            worker.counters.switches.load(Relaxed),
            counters.misplaced.load(Relaxed),
        )
    })
}
