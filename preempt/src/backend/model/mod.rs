//! User Interrupts without the CPU: the real instructions trap (#UD), and what the SDM says of them is carried out on memory.
//!
//! | file | what |
//! |---|---|
//! | `cpu` | a logical processor, descriptors, the target table, and the steps of each instruction, of a notification and of a delivery |
//! | `trap` | the SIGILL handler that decodes and carries out, the handler of the "IPI" |
//! | `kernel` | Intel's system calls |
//!
//! For tests: so that the entry stub, UIRET and the order of events run in CI, with the machine code that runs on hardware. An OS thread is a logical processor that
//! is never descheduled; its IPI is a signal. Where it differs from a CPU: a notification waits while the thread has blocked that signal, and an instruction that
//! is executed with SIGILL blocked ends the process (the kernel's rule for faults).

mod cpu;
mod kernel;
mod trap;

pub use cpu::{Cpu, GeneralProtection, Registers, State};
pub(crate) use kernel::INTERFACE;
pub use kernel::{corrupt_entry, register_thread};
pub use trap::{install, notification_signal};

use crate::backend::uintr::kernel::Interface;
use crate::gate::gate;

thread_local! {
    /// For threads without a receiver. Const and without a destructor: a plain access, also in a handler.
    static PLAIN: Cpu = const { Cpu::new() };
}

/// The logical processor that the caller runs on. Stable only where nothing switches.
pub(crate) fn with_cpu<R>(f: impl FnOnce(&Cpu) -> R) -> R {
    // SAFETY: a gate names a live receiver.
    match unsafe { gate().receiver().as_ref() } {
        Some(receiver) => f(receiver.model_cpu()),
        None => PLAIN.with(f),
    }
}

/// What the instruction SENDUIPI does, by a call: for a thread that must not trap.
pub(crate) fn send(index: u32) {
    let sent = cpu::senduipi(index.into());
    debug_assert!(sent.is_ok(), "only registered entries are used");
}

/// CPUID's "flexible UIRET" (UIF = bit 1 of the RFLAGS that are popped), off at first. For tests; for the whole process.
pub fn set_flexible_uiret(yes: bool) {
    cpu::FLEXIBLE_UIRET.store(yes, core::sync::atomic::Ordering::Relaxed);
}

/// The model's system calls, for tests.
///
/// # Safety
/// What is registered as a handler's entry is executed as the CPU would: a frame on the stack, nothing saved. Entries that a receiver of this crate has are not
/// unregistered.
pub unsafe fn interface() -> &'static Interface {
    &INTERFACE
}

/// A copy of the calling thread's state, for tests.
pub fn state() -> State {
    with_cpu(Cpu::state)
}
