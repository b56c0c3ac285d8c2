//! A receiver: a thread that can be interrupted, with its posted requests, its sub-handlers and what it needs to be found.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `upid` | senders, the receiver | both (see `upid`) |
//! | `tid`, `signal`, `base_mask`, `alternate`, `mechanism`, `cpu` | the thread itself in [`Receiver::register`] and [`Receiver::attach`] | senders; handler |
//! | `target` | see `backend::uintr` | |
//! | `escalated` | senders set it, the signal handler clears it | the signal handler |
//! | `altered` | handler and anybody set it, the thread clears it | the thread |
//! | `handlers`, `filter`, `owner` | before `attach` | handler, dispatch; anybody |
//! | `counters` | the receiver's thread only, by plain increments | anybody, racily |

use crate::backend::model::Cpu;
use crate::backend::uintr::{self, Target};
use crate::backend::{self, Mechanism};
use crate::latency::Latency;
use crate::upid::Upid;
use crate::vector::Handler;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64};
use std::io;

/// Says which of the pending vectors are worth an interrupt now; the others are dropped. Runs in the signal handler: async-signal-safe only.
pub type Filter = unsafe fn(&Receiver, u64) -> u64;

/// Counters of one receiver; each is written by its thread only.
#[derive(Debug, Default)]
pub struct Counters {
    /// Signal handler entries that found this receiver.
    pub interrupts: AtomicU64,
    /// Found the gate closed: the request waits for the end of the section.
    pub deferred: AtomicU64,
    /// Interrupted a half-done software return, which was completed.
    pub completed: AtomicU64,
    /// Refused: the stack pointer was elsewhere, or there was no room for a frame.
    pub misplaced: AtomicU64,
    /// Refused: the signal mask or the alternate stack was not the worker's own.
    pub foreign_mask: AtomicU64,
    /// Nothing to do any more when it arrived.
    pub stale: AtomicU64,
}

/// Adds one to a counter that only the calling thread writes.
#[inline(always)]
pub fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// See the module. Must not move or be freed while attached, or while a sender may still post to it.
pub struct Receiver {
    pub(crate) upid: Upid,
    tid: AtomicI32,
    signal: AtomicI32,
    base_mask: AtomicU64,
    alternate: UnsafeCell<libc::stack_t>,
    altered: AtomicBool,
    mechanism: AtomicU8,
    /// A signal is on its way besides the notification.
    pub(crate) escalated: AtomicBool,
    pub(crate) target: Target,
    /// The model's logical processor: this receiver's thread, whichever identity it runs.
    cpu: Cpu,
    handlers: [Option<Handler>; 64],
    pub(crate) filter: Option<Filter>,
    owner: usize,
    /// What happened to this receiver's interrupts.
    pub counters: Counters,
    /// How long this receiver's notifications were on their way.
    pub latency: Latency,
}

// SAFETY: the table in the module's header; `alternate` is written before the receiver is known to anybody else.
unsafe impl Sync for Receiver {}
// SAFETY: as above; the pointer in `alternate` is only an address.
unsafe impl Send for Receiver {}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("tid", &self.tid)
            .field("upid", &self.upid)
            .field("base_mask", &self.base_mask)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Receiver::new()
    }
}

impl Receiver {
    /// A receiver without handlers, attached to no thread.
    pub const fn new() -> Self {
        Receiver {
            upid: Upid::new(),
            tid: AtomicI32::new(0),
            signal: AtomicI32::new(0),
            base_mask: AtomicU64::new(0),
            alternate: UnsafeCell::new(libc::stack_t {
                ss_sp: core::ptr::null_mut(),
                ss_flags: libc::SS_DISABLE,
                ss_size: 0,
            }),
            altered: AtomicBool::new(false),
            mechanism: AtomicU8::new(0),
            escalated: AtomicBool::new(false),
            target: Target::new(),
            cpu: Cpu::new(),
            handlers: [None; 64],
            filter: None,
            owner: 0,
            counters: Counters {
                interrupts: AtomicU64::new(0),
                deferred: AtomicU64::new(0),
                completed: AtomicU64::new(0),
                misplaced: AtomicU64::new(0),
                foreign_mask: AtomicU64::new(0),
                stale: AtomicU64::new(0),
            },
            latency: Latency::new(),
        }
    }

    /// Installs the handler of `vector`, before the receiver is attached.
    ///
    /// # Panics
    /// If `vector` is 63 (reserved for "look again") or more.
    ///
    /// # Safety
    /// `handler` keeps the contract of [`Handler`].
    pub unsafe fn on_vector(&mut self, vector: u8, handler: Handler) {
        assert!(vector < 63, "vectors are 0..=62");
        self.handlers[vector as usize] = Some(handler);
    }

    /// Installs the filter, before the receiver is attached.
    ///
    /// # Safety
    /// `filter` is async-signal-safe.
    pub unsafe fn set_filter(&mut self, filter: Filter) {
        self.filter = Some(filter);
    }

    /// Says whose receiver this is, before it is attached: a number of the owner's choice, by which it knows again what it may take the receiver for a part of. 0
    /// unless set.
    pub fn set_owner(&mut self, owner: usize) {
        self.owner = owner;
    }

    /// See [`Receiver::set_owner`]. Any context.
    #[inline]
    pub fn owner(&self) -> usize {
        self.owner
    }

    #[inline]
    pub(crate) fn handler(&self, vector: u8) -> Option<Handler> {
        self.handlers[vector as usize & 63]
    }

    /// Says how this receiver's thread, the calling one, is interrupted, and tells the kernel. Its gate names the receiver already; nothing comes before
    /// [`Receiver::attach`]. `mechanism` was installed ([`Mechanism::install`]).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn register(&self, mechanism: Mechanism) -> io::Result<()> {
        self.mechanism.store(mechanism as u8, Relaxed);
        if mechanism.has_uif() {
            uintr::register(self).inspect_err(|_| self.mechanism.store(Mechanism::Signal as u8, Relaxed))?;
        }
        Ok(())
    }

    /// Undoes [`Receiver::register`]. On the thread, detached, while its gate still names the receiver.
    pub fn unregister(&self) {
        if self.mechanism().has_uif() {
            uintr::unregister(self);
        }
    }

    /// How the thread is interrupted.
    #[inline]
    pub fn mechanism(&self) -> Mechanism {
        match self.mechanism.load(Relaxed) {
            1 => Mechanism::Uintr,
            2 => Mechanism::Model,
            _ => Mechanism::Signal,
        }
    }

    /// What the model has done on this receiver's thread; zero with other mechanisms. Any thread, racily.
    pub fn model_state(&self) -> backend::model::State {
        self.cpu.state()
    }

    pub(crate) fn model_cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Makes the calling thread this receiver's: notes its id, unblocks `signal` (installed before) whatever mask was inherited, notes the
    /// resulting mask as the base mask. The thread also needs an alternate stack ([`crate::foreign::AlternateStack`]).
    pub fn attach(&self, signal: i32) {
        backend::signal::unblock(signal);
        self.signal.store(signal, Relaxed);
        self.base_mask.store(crate::arch::insn::signal_mask(), Relaxed);
        // SAFETY: no sender or handler reads it before `tid` is set; only reads the current setting.
        unsafe { libc::sigaltstack(core::ptr::null(), self.alternate.get()) };
        // SAFETY: gettid has no preconditions.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
        self.tid.store(tid, SeqCst);
        // What was posted before notified nobody, and keeps later senders from notifying: a Dekker pair with `post`, which posts and then reads `tid`.
        self.upid.acknowledge();
        self.escalated.store(false, SeqCst);
        if self.upid.pending() != 0 {
            backend::signal::notify(self);
        }
        if self.mechanism().has_uif() {
            uintr::enable();
        }
    }

    /// The thread is about to end or to serve something else: later posts stay in memory and notify nobody.
    pub fn detach(&self) {
        self.tid.store(0, Release);
    }

    /// The kernel's id of the attached thread; 0 if there is none.
    pub fn tid(&self) -> i32 {
        self.tid.load(SeqCst)
    }

    /// The signal that notifies the attached thread.
    pub fn signal(&self) -> i32 {
        self.signal.load(Relaxed)
    }

    /// The signal mask that the thread had when it attached.
    pub fn base_mask(&self) -> u64 {
        self.base_mask.load(Relaxed)
    }

    /// Where the alternate stack lies that the thread had when it attached. The attached thread, or its handler.
    pub(crate) fn alternate(&self) -> usize {
        // SAFETY: written once, before the thread became a receiver.
        unsafe { (*self.alternate.get()).ss_sp as usize }
    }

    /// True if the calling thread, which is the attached one, has the signal mask and the alternate stack that it attached with. Two system calls; any
    /// context.
    pub fn is_unaltered(&self) -> bool {
        if crate::arch::insn::signal_mask() != self.base_mask() {
            return false;
        }
        let mut current = 0usize;
        // SAFETY: only reads the current setting.
        unsafe {
            let mut stack: libc::stack_t = core::mem::zeroed();
            if crate::arch::insn::syscall6(
                libc::SYS_sigaltstack as u64,
                [0, &raw mut stack as u64, 0, 0, 0, 0],
            ) == 0
            {
                // on it: inside a foreign handler that blocks nothing
                current = if stack.ss_flags & libc::SS_ONSTACK == 0 { stack.ss_sp as usize } else { 0 };
            }
        }
        current == self.alternate()
    }

    /// Somebody may have changed the thread's signal mask or alternate stack: [`Receiver::repair`] is due when what runs there has left. Any context.
    #[inline]
    pub fn suspect(&self) {
        self.altered.store(true, Relaxed);
    }

    /// Gives the calling thread, which is the attached one, its signal mask and alternate stack again if it is under suspicion; otherwise a load.
    ///
    /// # Safety
    /// On the attached thread, on no alternate stack, with nothing on it that has changed either and relies on it.
    #[inline]
    pub unsafe fn repair(&self) {
        if self.altered.load(Relaxed) {
            // SAFETY: as promised.
            unsafe { self.repair_now() };
        }
    }

    #[cold]
    unsafe fn repair_now(&self) {
        self.altered.store(false, Relaxed);
        if !self.is_unaltered() {
            // SAFETY: both are what the thread attached with, and its alternate stack is mapped while it is attached.
            unsafe {
                crate::arch::insn::syscall6(
                    libc::SYS_sigaltstack as u64,
                    [self.alternate.get() as u64, 0, 0, 0, 0, 0],
                );
                crate::arch::insn::set_signal_mask(self.base_mask());
            }
        }
    }

    /// Posts `vector` and interrupts the thread if no notification is on its way already. Any thread, masked or not; not a lock, not an allocation.
    pub fn post(&self, vector: u8) {
        if self.upid.post(vector) {
            backend::notify(self);
        }
    }

    /// Notifies the thread by a signal for what was posted and not answered: a user interrupt does not wake a thread that is blocked in the kernel. Does
    /// nothing where notifications are signals anyway. Any thread.
    pub fn escalate(&self) {
        // One at a time, as with ON: the handler clears it before it looks at PIR.
        if self.mechanism().has_uif() && self.upid.pending() != 0 && !self.escalated.swap(true, SeqCst) {
            backend::signal::notify(self);
        }
    }

    /// UIF of the thread, which is the calling one; true where there is no such flag. For assertions: it is 1 wherever fibers are switched.
    #[inline]
    pub fn is_open(&self) -> bool {
        backend::uif(self)
    }

    /// True if a frame of this receiver's may have been built by the CPU, which knows nothing of signal masks, alternate stacks and tiles: then the handler
    /// that wants to switch must look for itself. Two system calls; the attached thread, masked.
    pub fn may_switch(&self, frame_is_checked: bool) -> bool {
        if frame_is_checked && !self.mechanism().has_uif() {
            return true;
        }
        self.is_unaltered() && !crate::arch::xstate::tiles_in_use()
    }

    /// Vectors posted and not yet taken, as a bit set.
    #[inline]
    pub fn pending(&self) -> u64 {
        self.upid.pending()
    }

    /// Forgets posted vectors (a tick meant for a fiber that has left).
    #[inline]
    pub fn clear(&self, bits: u64) {
        self.upid.clear(bits);
    }
}
