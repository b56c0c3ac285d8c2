//! One blocked caller, fiber or plain thread, and who ends its wait. Every blocking operation of the crate goes through here.
//!
//! The state word has a phase and two bits. A wait is ended exactly once, by a waker (claim, then unpark), by its deadline, or by a
//! cancel; whoever moves the phase to a final one while the PARKED bit is set makes the waiter runnable, and the waiter that finds
//! a final phase when it sets PARKED does so itself. So nobody touches a waiter that may be gone:
//!
//! ```text
//!   WAITING ──claim──► CLAIMED ──unpark──► NOTIFIED
//!      ├──deadline──► TIMED_OUT
//!      └──cancel (if CANCELLABLE)──► CANCELLED
//!   PARKED: set after the stack was left (fiber) or before the futex wait (thread)
//! ```
//!
//! Blocking is for fibers and plain threads outside critical sections; claiming and unparking may be done from anywhere but a signal handler.

use crate::fiber::task::{self, Task};
use crate::time::wheel;
use crate::worker::{After, enqueue, resume};
use std::cell::Cell;
use std::ptr::{NonNull, null};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::time::Instant;
use unyield_preempt::{mask, tick, unmask};

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Notified,
    TimedOut,
    Cancelled,
}

const PARKED: u32 = 1;
const CANCELLABLE: u32 = 2;
const PHASE: u32 = !3;
const STEP: u32 = 4;
const WAITING: u32 = 0;
const CLAIMED: u32 = STEP;
const NOTIFIED: u32 = 2 * STEP;
const TIMED_OUT: u32 = 3 * STEP;
const CANCELLED: u32 = 4 * STEP;

#[repr(C)]
pub(crate) struct Waiter {
    /// First: the timer finds the waiter by its entry.
    timer: wheel::Entry,
    state: AtomicU32,
    /// The task whose waiter this is; null for a plain thread's.
    task: *const Task,
    /// These belong to the queue that the waiter is on, under that queue's lock.
    pub(crate) next: Cell<*const Waiter>,
    pub(crate) prev: Cell<*const Waiter>,
    pub(crate) queued: Cell<bool>,
    /// What waker and waiter tell each other: written before queueing or between claim and unpark, read after `block` has returned.
    pub(crate) token: Cell<usize>,
}

impl Waiter {
    pub(crate) const fn new(task: *const Task) -> Self {
        Waiter {
            timer: wheel::Entry::new(),
            state: AtomicU32::new(WAITING),
            task,
            next: Cell::new(null()),
            prev: Cell::new(null()),
            queued: Cell::new(false),
            token: Cell::new(0),
        }
    }

    /// Calls `f` with the caller's own waiter (a fiber's lives in its task, a thread's on its stack), freshly set to WAITING. Not nested.
    #[inline]
    pub(crate) fn with<R>(f: impl FnOnce(&Waiter) -> R) -> R {
        let own;
        let waiter = match task::current() {
            Some(task) => {
                task.waiter.state.store(WAITING, Relaxed);
                &task.waiter
            }
            None => {
                own = Waiter::new(null());
                &own
            }
        };
        f(waiter)
    }

    /// Blocks until claimed and unparked, until `deadline`, or (if `cancellable`) until the fiber is cancelled.
    ///
    /// # Panics
    /// Inside a critical section.
    #[inline]
    pub(crate) fn block(&self, deadline: Option<Instant>, cancellable: bool) -> Outcome {
        self.block_until(deadline.map(nanoseconds), cancellable)
    }

    /// As [`Waiter::block`]; the deadline in nanoseconds of CLOCK_MONOTONIC.
    pub(crate) fn block_until(&self, deadline: Option<u64>, cancellable: bool) -> Outcome {
        assert_may_wait("blocking");
        self.wait(deadline, cancellable)
    }

    /// Blocks until claimed and unparked, for a wait that lends the caller's stack (rule 9): it cannot end early, not even by a panic, so
    /// inside a critical section the process ends.
    pub(crate) fn block_lent(&self) {
        if in_critical_section() {
            crate::observe::report::say(
                "waiting for a fiber that borrows from this stack, inside a critical section (a forgotten CriticalSection guard)",
            );
            std::process::abort();
        }
        self.wait(None, false);
    }

    fn wait(&self, deadline: Option<u64>, cancellable: bool) -> Outcome {
        if self.task.is_null() || !crate::runtime::fork::alive() {
            return self.block_thread(deadline);
        }
        // SAFETY: a waiter with a task is that task's, and the task is running: it calls us.
        let task = unsafe { &*self.task };
        if cancellable {
            // Dekker with `Task::cancel`: it sets the flag and then looks for CANCELLABLE, we the other way round.
            self.state.fetch_or(CANCELLABLE, SeqCst);
            if task.is_cancelled() {
                self.finish(CANCELLED);
            }
        }
        if let Some(phase) = self.final_phase() {
            return phase;
        }
        let timers = &task.runtime().timers;
        if let Some(deadline) = deadline {
            timers.insert(NonNull::from(&self.timer), deadline, &task.runtime().armed);
        }
        mask();
        // SAFETY: masked, on a fiber, outside any other section; unmasked again when somebody has made us runnable.
        unsafe {
            resume::leave(After::Park(NonNull::from(self)));
            unmask();
        }
        if deadline.is_some() {
            timers.remove(NonNull::from(&self.timer));
        }
        self.final_phase().expect("a parked fiber runs only when its wait has ended")
    }

    fn block_thread(&self, deadline: Option<u64>) -> Outcome {
        loop {
            let state = self.state.fetch_or(PARKED, AcqRel);
            if let Some(outcome) = outcome(state) {
                return outcome;
            }
            let timeout = match deadline {
                None => None,
                Some(deadline) => match deadline.checked_sub(tick::now()) {
                    Some(left) if left > 0 => Some(left),
                    _ if self.finish(TIMED_OUT) => return Outcome::TimedOut,
                    _ => None, // claimed: unpark comes at once
                },
            };
            futex_wait(&self.state, state | PARKED, timeout);
        }
    }

    fn final_phase(&self) -> Option<Outcome> {
        outcome(self.state.load(Acquire)) // pairs with the release in unpark and finish
    }

    /// Ends the wait for a reason other than a waker. False: a waker or another reason was first.
    fn finish(&self, phase: u32) -> bool {
        let task = self.task; // before the exchange: afterwards `self` may be gone
        let address = self.state.as_ptr();
        // SeqCst for the Dekker pair of `block_until` and `Task::cancel`. A state without CANCELLABLE settles it.
        let mut state = self.state.load(SeqCst);
        loop {
            if state & PHASE != WAITING || phase == CANCELLED && state & CANCELLABLE == 0 {
                return false;
            }
            match self.state.compare_exchange_weak(state, state & !PHASE | phase, AcqRel, Acquire) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        if state & PARKED != 0 {
            make_runnable(task, address);
        }
        true
    }

    /// The deadline has come. Called by the timer thread under the timers' lock, so that the entry's owner is still there.
    ///
    /// # Safety
    /// `entry` is the timer entry of a live waiter.
    pub(crate) unsafe fn expire(entry: NonNull<wheel::Entry>) {
        // SAFETY: the entry is the first field of a waiter.
        unsafe { entry.cast::<Waiter>().as_ref() }.finish(TIMED_OUT);
    }

    /// Cancels the wait if it may be cancelled.
    pub(crate) fn cancel(&self) {
        self.finish(CANCELLED);
    }

    /// After the stack was left: marks the waiter parked. True: its wait has ended meanwhile, so the caller must make it runnable.
    pub(crate) fn publish(&self) -> bool {
        outcome(self.state.fetch_or(PARKED, AcqRel)).is_some()
    }

    /// The task whose waiter this is.
    ///
    /// # Safety
    /// It has one, and its fiber is parked.
    pub(crate) unsafe fn task(&self) -> &Task {
        // SAFETY: a parked fiber's task lives.
        unsafe { &*self.task }
    }

    /// Ends a wait that nobody else can end: claim and unpark in one. It may be gone as soon as this is called.
    ///
    /// # Safety
    /// The waiter waits without deadline, cannot be cancelled, and only the caller knows it.
    #[inline]
    pub(crate) unsafe fn notify(waiter: *const Waiter) {
        // SAFETY: it does not return before the phase is NOTIFIED, which happens here and once.
        let (state, task) = unsafe { (&(*waiter).state, (*waiter).task) };
        let address = state.as_ptr();
        let before = state.fetch_add(NOTIFIED - WAITING, AcqRel);
        debug_assert!(before & PHASE == WAITING && before & CANCELLABLE == 0);
        if before & PARKED != 0 {
            make_runnable(task, address);
        }
    }

    /// Settles, under the lock of the queue that `waiter` is on, that the caller ends the wait. None: its deadline or a cancel came first; it will
    /// unlink itself.
    ///
    /// # Safety
    /// `waiter` is queued, and the queue's lock is held.
    pub(crate) unsafe fn claim(waiter: *const Waiter) -> Option<Claimed> {
        // SAFETY: a queued waiter is alive: it unlinks itself under the lock before it goes.
        let this = unsafe { &*waiter };
        let mut state = this.state.load(Acquire);
        loop {
            if state & PHASE != WAITING {
                return None;
            }
            match this.state.compare_exchange_weak(state, state | CLAIMED, AcqRel, Acquire) {
                Ok(_) => return Some(Claimed { waiter, task: this.task, parked: state & PARKED != 0 }),
                Err(now) => state = now,
            }
        }
    }
}

/// The right, and the duty, to end one wait.
#[must_use]
#[derive(Debug)]
pub(crate) struct Claimed {
    waiter: *const Waiter,
    task: *const Task,
    parked: bool,
}

impl Claimed {
    /// Makes the waiter runnable. It may be gone as soon as this is called.
    #[inline]
    pub(crate) fn unpark(self) {
        // SAFETY: a claimed waiter does not return before the phase is NOTIFIED, which happens here and once.
        let state = unsafe { &(*self.waiter).state };
        let address = state.as_ptr();
        if self.parked {
            state.store(NOTIFIED | PARKED, std::sync::atomic::Ordering::Release);
            make_runnable(self.task, address);
        } else if state.fetch_add(STEP, AcqRel) & PARKED != 0 {
            make_runnable(self.task, address);
        }
    }
}

fn outcome(state: u32) -> Option<Outcome> {
    match state & PHASE {
        NOTIFIED => Some(Outcome::Notified),
        TIMED_OUT => Some(Outcome::TimedOut),
        CANCELLED => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// The wait of a PARKED waiter has ended: queue its fiber, or wake its thread. For a thread only the address is used: its frame may be gone,
/// and a wake-up at an address that is something else by now is a spurious one there.
#[inline]
fn make_runnable(task: *const Task, address: *mut u32) {
    if task.is_null() || !crate::runtime::fork::alive() {
        // SAFETY: FUTEX_WAKE does not touch the word.
        unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    } else {
        // SAFETY: a parked fiber's task lives, and is ours to queue, since we ended its wait.
        unsafe { enqueue::woken(&*task) }
    }
}

fn futex_wait(word: &AtomicU32, expected: u32, timeout_ns: Option<u64>) {
    let timeout = timeout_ns.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    let timeout = timeout.as_ref().map_or(null(), |timeout| timeout as *const libc::timespec);
    // SAFETY: waits on a live word; a spurious return is the caller's to handle.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            timeout,
        )
    };
}

/// `Instant` is CLOCK_MONOTONIC on Linux, but does not say its number: measure from now.
pub(crate) fn nanoseconds(at: Instant) -> u64 {
    let ahead = at.saturating_duration_since(Instant::now()).as_nanos();
    tick::now().saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
}

/// True where parking, sleeping and yielding are not allowed. Plain threads may nest sections without effect; blocking in one is refused there too.
#[inline]
pub(crate) fn in_critical_section() -> bool {
    unyield_preempt::gate::gate().depth() != 0
}

/// # Panics
/// Inside a critical section, where `what` is not allowed. Before anything of the wait is seen by others.
#[inline]
#[track_caller]
pub(crate) fn assert_may_wait(what: &str) {
    assert!(!in_critical_section(), "{what} inside a critical section");
}

/// Unwinds the running fiber because it was cancelled.
pub(crate) fn unwind_cancelled() -> ! {
    std::panic::resume_unwind(Box::new(crate::fiber::cancel::Cancelled))
}
