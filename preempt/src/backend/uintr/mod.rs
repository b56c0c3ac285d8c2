//! User Interrupts: threads as receivers, and the numbers by which senders reach them.
//!
//! One vector, "look at PIR", a receiver: what was posted stands in its software UPID, as with signals, so that any number of kinds of interrupt and of
//! senders takes one entry of the target table for each receiver. The table belongs to the process and has 256 entries; receivers that find no room are
//! notified by signals.
//!
//! Not for: masking and frames (the same as with signals; `arch::stub`), nor for receivers that are blocked in the kernel: an interrupt does not wake
//! them, so who waits for an answer escalates ([`Receiver::escalate`]).

pub mod kernel;
pub mod section;

use super::{Mechanism, model};
use crate::arch::{insn, stub};
use crate::receiver::Receiver;
use crate::vector::RESCAN;
use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use kernel::Interface;
use std::io;
use std::sync::{Mutex, Once, OnceLock};

/// An entry of the target table. Only registration makes one: SENDUIPI with any other number faults, or worse (a garbage index has crashed a kernel).
#[derive(Debug, PartialEq, Eq)]
struct Index(u32);

/// A receiver's place in the target table, and who is using it: an entry must not go while somebody is about to send to it.
///
/// | field | who writes | who reads |
/// |---|---|---|
/// | `index`: entry + 1, 0 = none | the receiver's thread | senders, between the two steps of `users` |
/// | `users` | senders | the receiver's thread, before it gives the entry back |
#[derive(Debug, Default)]
pub(crate) struct Target {
    index: AtomicU64,
    users: AtomicU32,
}

impl Target {
    pub(crate) const fn new() -> Self {
        Target { index: AtomicU64::new(0), users: AtomicU32::new(0) }
    }
}

/// The kernel's target table is not locked against two registrations at once (see docs/uintr.md).
static REGISTRATION: Mutex<()> = Mutex::new(());

/// The kernel interface of this machine, or why there is none. Found once.
pub(crate) fn interface() -> Result<&'static Interface, &'static str> {
    static FOUND: OnceLock<Result<&'static Interface, &'static str>> = OnceLock::new();
    *FOUND.get_or_init(kernel::find)
}

fn interface_of(mechanism: Mechanism) -> Result<&'static Interface, &'static str> {
    match mechanism {
        Mechanism::Model => Ok(&model::INTERFACE),
        _ => interface(),
    }
}

/// A forked child has no target table: SENDUIPI would be undefined there, and it has nobody to send to.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

extern "C" fn forked() {
    IN_CHILD.store(true, Relaxed);
}

/// Makes the calling thread a receiver of user interrupts. UIF stays 0 until [`enable`].
///
/// # Errors
/// What the kernel says. If only the table is full, the receiver is registered and will be notified by signals.
pub(crate) fn register(receiver: &Receiver) -> io::Result<()> {
    let kernel =
        interface_of(receiver.mechanism()).map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why))?;
    let _guard = REGISTRATION.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    static ONCE: Once = Once::new();
    // SAFETY: the handler stores to a static.
    ONCE.call_once(|| _ = unsafe { libc::pthread_atfork(None, None, Some(forked)) });
    (kernel.register_handler)(stub::unyield_entry_uintr as *const () as usize).map_err(from_errno)?;
    if let Ok(index) = kernel.register_self.map_or(Err(libc::ENOSYS), |register| register(RESCAN)) {
        receiver.target.index.store(u64::from(index) + 1, SeqCst);
    }
    Ok(())
}

/// Lets interrupts in. On the registered thread, with its gate in order.
pub(crate) fn enable() {
    // SAFETY: registered, so the instruction exists or is carried out by the model; what comes finds the gate.
    unsafe { insn::stui() }
}

/// Undoes [`register`], in the order that the kernel needs: mask, entry, handler. On the registered thread.
pub(crate) fn unregister(receiver: &Receiver) {
    let Ok(kernel) = interface_of(receiver.mechanism()) else { return };
    // SAFETY: as in `enable`.
    unsafe { insn::clui() }
    let index = receiver.target.index.swap(0, SeqCst);
    // Who has read the index before is about to send: one instruction, unless its CPU is taken away, or a fiber was preempted there and never runs again. Then the
    // entry stays for ever: sending to a thread that is no receiver any more does nothing.
    let mut patience = 1000;
    while receiver.target.users.load(SeqCst) != 0 && patience > 0 {
        std::thread::sleep(std::time::Duration::from_micros(100));
        patience -= 1;
    }
    let abandoned = patience == 0;
    let _guard = REGISTRATION.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if index != 0 && !abandoned {
        let _gone_already = (kernel.unregister_sender)(index as u32 - 1);
    }
    let _gone_already = (kernel.unregister_handler)();
}

/// Sends to a receiver that has an entry. False: it has none (any more). Any thread; no lock, no allocation.
pub(crate) fn notify(receiver: &Receiver) -> bool {
    let target = &receiver.target;
    target.users.fetch_add(1, SeqCst); // Dekker with `unregister`: it clears the index and then reads this
    let index = target.index.load(SeqCst);
    if index != 0 && !IN_CHILD.load(Relaxed) {
        receiver.latency.sent();
        send(receiver.mechanism(), Index(index as u32 - 1));
    }
    target.users.fetch_sub(1, Release);
    index != 0
}

fn send(mechanism: Mechanism, index: Index) {
    let trap = 1 << (libc::SIGILL - 1);
    if mechanism == Mechanism::Model && insn::signal_mask() & trap != 0 {
        // The trap would end the process.
        return model::send(index.0);
    }
    // SAFETY: the entry is valid: it was registered and is not given back while `users` is not 0.
    unsafe { insn::senduipi(index.0.into()) }
}

fn from_errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// How critical sections hold interrupts back where there is an UIF.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Masking {
    /// A word that the entry stub looks at: one instruction without side effects to enter, two to leave. An interrupt in a section costs an entry and a UIRET.
    #[default]
    Word,
    /// CLUI and STUI as well: an interrupt in a section waits in the CPU. Sections cost their two instructions more.
    CluiStui,
}

static SECTIONS_USE_UIF: AtomicU32 = AtomicU32::new(0);

/// True if sections use UIF.
#[inline(always)]
pub(crate) fn sections_use_uif() -> bool {
    SECTIONS_USE_UIF.load(Relaxed) != 0
}

/// Sections use UIF from now on, in the whole process. Before any section of a receiver with [`Masking::CluiStui`].
pub fn use_uif_in_sections() {
    SECTIONS_USE_UIF.store(1, Relaxed);
}

/// Enters a section of a receiver that has UIF: it is its outermost.
#[cold]
pub(crate) fn close(receiver: *const Receiver) {
    // SAFETY: the gate names a live receiver while the section lasts.
    if unsafe { receiver.as_ref() }.is_some_and(|receiver| receiver.mechanism().has_uif()) {
        // SAFETY: such a receiver is registered, so the instruction exists or is carried out.
        unsafe { insn::clui() }
    }
}

/// … and leaves it.
#[cold]
pub(crate) fn open(receiver: *const Receiver) {
    // SAFETY: as above.
    if unsafe { receiver.as_ref() }.is_some_and(|receiver| receiver.mechanism().has_uif()) {
        // SAFETY: as above; the gate says what becomes of interrupts.
        unsafe { insn::stui() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_table_entry_nothing_is_sent() {
        let receiver = Receiver::new();
        assert!(!notify(&receiver));
        assert_eq!(receiver.target.users.load(SeqCst), 0);
    }
}
