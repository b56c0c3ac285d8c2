//! How a posted vector reaches its thread, and in what form. One set of names for all mechanisms: `install`, `register`, `notify`, `unregister`.
//!
//! `signal` is always there: it also reaches receivers that User Interrupts do not, those that are blocked in the kernel.

pub mod model;
pub mod signal;
pub mod uintr;

use crate::receiver::Receiver;
use std::io;

/// How interrupts are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// A signal to the thread, whose handler builds the frame. Everywhere.
    #[default]
    Signal,
    /// User Interrupts: SENDUIPI, UIRET. Needs the CPU and a kernel with Intel's patches.
    Uintr,
    /// User Interrupts on any x86-64 machine: the same machine code, whose instructions trap and are carried out by [`model`]. For tests: an
    /// interrupt costs some tens of microseconds, and a thread that has blocked SIGILL must not use it.
    Model,
}

impl Mechanism {
    /// Why this machine cannot do it; `None` if it can.
    pub fn obstacle(self) -> Option<&'static str> {
        match self {
            Mechanism::Signal => None,
            Mechanism::Model => uintr::kernel::enabled()
                .then_some("the machine has User Interrupts: their instructions would not trap"),
            Mechanism::Uintr => uintr::interface().err(),
        }
    }

    /// The best that this machine can do.
    pub fn best() -> Mechanism {
        // With the older interface notifications are signals anyway.
        let useful = uintr::interface().is_ok_and(|interface| interface.register_self.is_some());
        if useful { Mechanism::Uintr } else { Mechanism::Signal }
    }

    /// True if frames are left by UIRET and masked by UIF.
    pub fn has_uif(self) -> bool {
        self != Mechanism::Signal
    }

    /// Prepares the process for receivers of this kind: `signal` becomes ours (see [`signal::install`]), for notifications or for those that User Interrupts do not
    /// reach. More than once does nothing more.
    ///
    /// # Errors
    /// `Unsupported` if the machine cannot do it, with the reason; what [`signal::install`] says.
    pub fn install(self, signal: i32) -> io::Result<()> {
        if let Some(why) = self.obstacle() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        if self == Mechanism::Model {
            model::install()?;
        }
        signal::install(signal)
    }
}

/// Sends a notification for something that was posted, and noted as being on its way. Any thread.
pub(crate) fn notify(receiver: &Receiver) {
    if !receiver.mechanism().has_uif() || !uintr::notify(receiver) {
        signal::notify(receiver);
    }
}

/// Holds user interrupts back, in a signal handler on `receiver`'s thread, which has UIF = 1.
fn hold(receiver: &Receiver) {
    match receiver.mechanism() {
        Mechanism::Signal => {}
        // SAFETY: the receiver is registered, so the instruction exists.
        Mechanism::Uintr => unsafe { crate::arch::insn::clui() },
        Mechanism::Model => receiver.model_cpu().clui(), // the instruction would trap with SIGILL blocked
    }
}

/// … and lets them in again.
fn release(receiver: &Receiver) {
    match receiver.mechanism() {
        Mechanism::Signal => {}
        // SAFETY: as above; the gate is closed or has its hint.
        Mechanism::Uintr => unsafe { crate::arch::insn::stui() },
        Mechanism::Model => receiver.model_cpu().stui(), // its notifications are blocked here, so nothing is due
    }
}

/// True if user interrupts can reach the calling thread, which is `receiver`'s. In a signal handler as well.
pub(crate) fn uif(receiver: &Receiver) -> bool {
    match receiver.mechanism() {
        Mechanism::Signal => true,
        Mechanism::Uintr => crate::arch::insn::testui(),
        Mechanism::Model => receiver.model_cpu().uif(),
    }
}
