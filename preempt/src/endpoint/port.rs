//! A port: what one receiver, its senders and its mailboxes share. Posted bits, the bell, and the dispatch of sub-handlers.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `posted`: one bit a vector | any sender sets, dispatch clears | both |
//! | `bell`: somebody will look at `posted` | a sender that will notify sets it; dispatch and a waiting receiver hold it while they look | senders |
//! | `closed` | the registration, once | senders |
//! | `nonce` | the receiver's thread | its signal handler |
//! | `wait` | see there | |
//! | `throttle`, `nesting`, `deepest`, `handled`, `place` | the receiver's thread | the same; `deepest` and `handled` anybody, racily |
//! | `handlers` | before the port is shared, and when the registration ends | dispatch, on the receiver's thread |
//!
//! Below lies the crate's [`Receiver`], of whose vectors one is used: [`DOORBELL`], "look at `posted`". A second level is needed since the first takes every
//! notification as it comes, and what is posted again while its sub-handlers run; here the bell stays rung while sub-handlers run and through
//! a pause of the throttle, and its senders then touch two words and no kernel.
//!
//! The bell. A sender posts its bit, then sets the bell; if it was not set, it notifies. Whoever holds the bell lets go of it (stores false) and THEN looks at `posted` once
//! more. All SeqCst: a sender that finds the bell set posted before it was let go, so that look sees its bit.

use super::Vector;
use super::interrupt::Interrupt;
use super::throttle::{RETRY, Throttle};
use super::wait::{Wait, window};
use crate::backend::{self, Mechanism};
use crate::frame::Frame;
use crate::gate::{self, gate};
use crate::receiver::Receiver;
use crate::tick;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64};
use std::io;

/// The receiver's only vector.
const DOORBELL: u8 = 0;

/// A sub-handler with its state.
pub(super) type Run = Box<dyn Fn(&mut Interrupt<'_>) + Send + Sync>;
/// A bell that was rung so long ago (ns) should have been answered: a pause of the throttle is shorter.
const STALE: u64 = 5_000_000;

pub(super) type Handlers = [Option<Run>; 63];

/// What senders write, on a cache line of its own.
#[repr(align(128))]
#[derive(Debug)]
struct Posted {
    bits: AtomicU64,
    bell: AtomicBool,
    /// When a sender last notified (ns).
    rung_at: AtomicU64,
    closed: AtomicBool,
}

/// See the module. Stays where it is: the gate of the receiver's thread names it.
#[repr(C)] // the receiver first: the gate's pointer to it is one to the port
pub(super) struct Port {
    receiver: Receiver,
    posted: Posted,
    pub(super) wait: Wait,
    pub(super) throttle: Throttle,
    nesting: AtomicU32,
    limit: u32,
    deepest: AtomicU32,
    handled: AtomicU64,
    nonce: AtomicU32,
    place: AtomicU16,
    handlers: UnsafeCell<Handlers>,
}

// SAFETY: the table in the module's header. Sub-handlers are Send and Sync themselves, and the cell is changed only where nobody else looks.
unsafe impl Sync for Port {}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("receiver", &self.receiver)
            .field("posted", &self.posted)
            .finish_non_exhaustive()
    }
}

impl Port {
    pub(super) fn new(handlers: Handlers, limit: u32) -> Port {
        let mut receiver = Receiver::new();
        // SAFETY: `ring` keeps the contract as far as its sub-handlers do, for which `Builder::handler` makes its caller answer; it does not switch.
        unsafe { receiver.on_vector(DOORBELL, ring) };
        Port {
            receiver,
            posted: Posted {
                bits: AtomicU64::new(0),
                bell: AtomicBool::new(false),
                rung_at: AtomicU64::new(0),
                closed: AtomicBool::new(false),
            },
            wait: Wait::new(),
            throttle: Throttle::new(),
            nesting: AtomicU32::new(0),
            limit,
            deepest: AtomicU32::new(0),
            handled: AtomicU64::new(0),
            nonce: AtomicU32::new(0),
            place: AtomicU16::new(0),
            handlers: UnsafeCell::new(handlers),
        }
    }

    /// Makes the calling thread the receiver; the only place that does. The gate is closed and names the port, and stays closed.
    pub(super) fn attach(&self, mechanism: Mechanism) -> io::Result<()> {
        self.receiver.register(mechanism)?;
        // SAFETY: closed, says the caller; registered for this mechanism.
        unsafe { gate().return_by_uiret(mechanism.has_uif()) };
        self.receiver.attach(backend::signal::DEFAULT_SIGNAL);
        Ok(())
    }

    /// The end of it, also after an `attach` that has failed. The gate is closed and names the port still.
    pub(super) fn detach(&self) {
        self.posted.closed.store(true, SeqCst);
        self.receiver.detach();
        self.receiver.unregister();
    }

    /// Tells the receiver's thread to look at `posted`; the only place that does.
    fn notify(&self) {
        self.receiver.post(DOORBELL);
    }

    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Posts `vector`. Any context: no lock, no allocation, and no system call unless the receiver has to be notified or woken.
    #[inline]
    pub(super) fn post(&self, vector: Vector) {
        self.posted.bits.fetch_or(1 << vector.get(), SeqCst);
        self.wait.wake();
        // The load spares a storm of senders the exclusive cache line; it reads the same word, so the argument is the same.
        if !self.posted.bell.load(SeqCst) && !self.posted.bell.swap(true, SeqCst) {
            self.posted.rung_at.store(tick::now(), Relaxed);
            self.notify();
        } else {
            self.ring_again();
        }
    }

    /// The bell has been rung by somebody else. If that was long ago, who rang it may have been stopped before it notified, or a user interrupt was refused by the entry
    /// stub (in another signal's handler, on another stack), which tells nobody: notify by signal, whose handler sees to it that it is tried again.
    fn ring_again(&self) {
        let (rung, now) = (self.posted.rung_at.load(Relaxed), tick::now());
        let old = now.saturating_sub(rung) > STALE;
        // A counter that guards no data: one of those who notice.
        if old && self.posted.rung_at.compare_exchange(rung, now, Relaxed, Relaxed).is_ok() {
            self.notify();
            self.receiver.escalate();
        }
    }

    /// Posts from a sub-handler, whose caller goes on looking.
    pub(super) fn post_again(&self, vector: Vector) {
        self.posted.bits.fetch_or(1 << vector.get(), SeqCst);
    }

    /// Posts from the signal handler on the receiver's thread, which is about to look what is pending.
    pub(super) fn post_here(&self, vector: u8) {
        self.posted.bits.fetch_or(1 << vector, SeqCst);
        self.look();
    }

    /// The timer's signal has come, on the receiver's thread.
    pub(super) fn timer_fired(&self) {
        self.throttle.resume();
        self.look();
    }

    /// Makes the notification that the handler deals with just now one of ours.
    fn look(&self) {
        self.receiver.upid.post(DOORBELL);
    }

    /// The handler could not deliver: later.
    pub(super) fn retry(&self) {
        if !cfg!(unyield_mutant = "endpoint-no-retry") {
            self.throttle.arm(RETRY);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.posted.closed.load(SeqCst)
    }

    pub(super) fn is_posted(&self) -> bool {
        self.posted.bits.load(SeqCst) != 0
    }

    /// Sub-handlers run, or vectors taken that have none.
    pub(super) fn handled(&self) -> u64 {
        self.handled.load(Relaxed)
    }

    pub(super) fn deepest(&self) -> u32 {
        self.deepest.load(Relaxed)
    }

    pub(super) fn nonce(&self) -> u32 {
        self.nonce.load(Relaxed)
    }

    pub(super) fn set_nonce(&self, nonce: u32) {
        self.nonce.store(nonce, Relaxed);
    }

    pub(super) fn place(&self) -> u16 {
        self.place.load(Relaxed)
    }

    pub(super) fn set_place(&self, place: u16) {
        self.place.store(place, Relaxed);
    }

    /// Takes the sub-handlers out, to be dropped.
    ///
    /// # Safety
    /// On the receiver's thread, which no gate calls the receiver's any more.
    pub(super) unsafe fn take_handlers(&self) -> Handlers {
        // SAFETY: dispatch does not run here any more, and ran nowhere else.
        unsafe { core::mem::replace(&mut *self.handlers.get(), [const { None }; 63]) }
    }

    /// Sleeps until something may have been handled, then handles what is posted. The receiver's thread, gate open.
    pub(super) fn sleep(&self, word: u32, ns: Option<u64>) {
        self.posted.bell.store(true, SeqCst); // held: senders that see `waiting` need not signal as well
        window(2);
        self.wait.sleep(word, || self.is_posted(), ns);
        self.drain();
    }

    /// Handles what is posted, and lets go of the bell. The receiver's thread, gate open.
    pub(super) fn drain(&self) {
        gate::mask();
        self.throttle.forgive();
        // SAFETY: masked at depth 1 on this line but one, on the receiver's thread.
        unsafe {
            self.dispatch(None);
            gate::unmask();
        }
    }

    fn take_highest(&self) -> Option<Vector> {
        let bits = self.posted.bits.load(SeqCst);
        let vector = 63u32.checked_sub(bits.leading_zeros())? as u8;
        self.posted.bits.fetch_and(!(1 << vector), SeqCst); // only this thread clears
        Some(Vector(vector))
    }

    /// Runs the sub-handlers of what is posted, the highest first, until nothing is or the throttle says enough.
    ///
    /// # Safety
    /// On the receiver's thread, the gate closed at depth 1.
    unsafe fn dispatch(&self, mut frame: Option<&mut Frame>) {
        if self.throttle.is_paused() {
            return; // the bits stay, and the timer will come
        }
        let nesting = self.nesting.load(Relaxed) + 1;
        self.nesting.store(nesting, Relaxed);
        let outermost = nesting == 1;
        let mut now = tick::now();
        if outermost {
            self.throttle.enter(now);
        }
        let mut handled = 0;
        self.posted.bell.store(true, SeqCst);
        let mut held = true;
        'rounds: loop {
            while let Some(vector) = self.take_highest() {
                if nesting > self.deepest.load(Relaxed) {
                    self.deepest.store(nesting, Relaxed);
                }
                // SAFETY: nobody changes the table while the receiver is attached (header).
                if let Some(run) = unsafe { &(*self.handlers.get())[vector.get() as usize] } {
                    run_one(run, &mut Interrupt::new(self, vector, frame.as_deref_mut()));
                }
                handled += 1;
                now = tick::now();
                // paused: by a dispatch nested in the one that just ran
                if self.throttle.is_paused() || self.throttle.is_exceeded(now) {
                    break 'rounds;
                }
            }
            if self.let_go() {
                held = false;
                break;
            }
        }
        if handled != 0 {
            self.handled.store(self.handled.load(Relaxed) + handled, Relaxed);
            self.wait.advance();
        }
        self.nesting.store(nesting - 1, Relaxed);
        if self.throttle.leave(now, outermost) {
            self.posted.bell.store(true, SeqCst);
        } else if !cfg!(unyield_mutant = "endpoint-no-second-look")
            && self.is_posted()
            && (held || !self.posted.bell.swap(true, SeqCst))
        {
            self.notify(); // no pause although one was due: the timer could not be set
        }
    }

    /// Lets go of the bell. False: something is posted, and the bell is ours again.
    fn let_go(&self) -> bool {
        window(5);
        self.posted.bell.store(false, SeqCst);
        // If the bell was set again, its sender notifies.
        cfg!(unyield_mutant = "endpoint-no-second-look")
            || !self.is_posted()
            || self.posted.bell.swap(true, SeqCst)
    }

    /// Runs `f` with the gate open, from a sub-handler; as it is, if they are nested deep enough.
    pub(super) fn unmasked<R>(&self, f: impl FnOnce() -> R) -> R {
        // The thread is interrupted where there is room for a sub-handler; here less may be left.
        let here = (&raw const self).addr();
        let bounds = gate().bounds();
        let room = (bounds.0..=bounds.1).contains(&here);
        if self.nesting.load(Relaxed) >= self.limit || !room {
            return f();
        }
        debug_assert_eq!(gate().depth(), 1);
        // SAFETY: a sub-handler runs on the receiver's thread at depth 1. What is posted already runs now, at a call boundary; that lets go of the bell.
        unsafe { self.dispatch(None) };
        // SAFETY: undoes the closing of whoever entered dispatch, which the `mask` below does again. Frames that come meanwhile lie below our own.
        unsafe { gate::unmask() };
        let result = f();
        gate::mask();
        self.posted.bell.store(true, SeqCst); // our caller goes on looking
        result
    }
}

/// A panic must not unwind into code that was interrupted, or was leaving a critical section: it aborts at this boundary.
extern "C" fn run_one(run: &Run, interrupt: &mut Interrupt<'_>) {
    run(interrupt);
}

/// The receiver's handler.
unsafe fn ring(_: &Receiver, frame: Option<&mut Frame>) {
    // SAFETY: masked, so the gate names the receiver that was rung, which is the first field of a port: only ports have this handler. The gate's pointer was
    // made from one to the whole port.
    unsafe {
        let port = &*gate().receiver().cast::<Port>();
        port.dispatch(frame);
    }
}
