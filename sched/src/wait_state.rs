//! The state word of one wait: who ends it, and who makes the waiter runnable. No more: queues, clocks and switches are `park`'s.
//!
//! A wait is ended exactly once, by a waker (claim, then notify), by its deadline, or by a cancel. Whoever moves the phase to a final
//! one while the PARKED bit is set makes the waiter runnable, and the waiter that finds a final phase when it sets PARKED does so itself:
//! exactly one of the two. So nobody touches a waiter that may be gone:
//!
//! ```text
//!   WAITING ──claim──► CLAIMED ──notify──► NOTIFIED
//!      ├──deadline──► TIMED_OUT
//!      └──cancel (if CANCELLABLE)──► CANCELLED
//!   PARKED: set after the stack was left (fiber) or before the futex wait (thread)
//! ```
//!
//! Any context but a signal handler. `tests/wait_loom.rs` runs it under loom.

use crate::sync::atomic::{AtomicU32, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Notified,
    TimedOut,
    Cancelled,
}

/// An end that needs no waker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Deadline,
    Cancel,
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

fn outcome(state: u32) -> Option<Outcome> {
    match state & PHASE {
        NOTIFIED => Some(Outcome::Notified),
        TIMED_OUT => Some(Outcome::TimedOut),
        CANCELLED => Some(Outcome::Cancelled),
        _ => None,
    }
}

pub(crate) struct WaitState(AtomicU32);

impl WaitState {
    pub(crate) const fn new() -> Self {
        WaitState(AtomicU32::new(WAITING))
    }

    /// For the next wait, by the waiter, before anybody can know of it.
    #[inline]
    pub(crate) fn reset(&self) {
        self.0.store(WAITING, Relaxed);
    }

    /// The waiter says that a cancel may end this wait; afterwards it looks whether it was cancelled before. The canceller sets its flag and then tries
    /// [`WaitState::finish`]: both change this word, so the second of them sees what the first did, or wrote before. (SeqCst, also for the flag: between the
    /// two the word may have been reset by a plain store.)
    pub(crate) fn allow_cancel(&self) {
        self.0.fetch_or(CANCELLABLE, SeqCst);
    }

    /// How the wait has ended, if it has. What the waker wrote before is seen.
    #[inline]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        outcome(self.0.load(Acquire)) // pairs with the release in `notify` and `finish`
    }

    /// The waiter waits from here on. The end of the wait, if it has ended already: then nobody else makes the waiter runnable. A thread also gets the word to
    /// wait at, and may call this again and again.
    #[inline]
    pub(crate) fn publish(&self) -> Result<Outcome, u32> {
        let state = self.0.fetch_or(PARKED, AcqRel);
        if cfg!(unyield_mutant = "wait-publish-blind") {
            return Err(state | PARKED);
        }
        outcome(state).ok_or(state | PARKED)
    }

    /// Ends the wait without a waker. `Some(true)`: the caller must make the waiter runnable; `Some(false)`: it has not parked yet, and may be gone from now on.
    /// `None`: it has ended or is about to, or a cancel may not end it.
    pub(crate) fn finish(&self, end: End) -> Option<bool> {
        let phase = match end {
            End::Deadline => TIMED_OUT,
            End::Cancel => CANCELLED,
        };
        let mut state = match end {
            End::Cancel if !cfg!(unyield_mutant = "wait-cancel-load") => self.0.fetch_or(0, SeqCst), // see `allow_cancel`
            _ => self.0.load(Acquire),
        };
        loop {
            let allowed =
                end != End::Cancel || state & CANCELLABLE != 0 || cfg!(unyield_mutant = "wait-cancel-anyway");
            let first = state & PHASE == WAITING
                || cfg!(unyield_mutant = "wait-end-claimed") && state & PHASE == CLAIMED;
            if !first || !allowed {
                return None;
            }
            match self.0.compare_exchange_weak(state, state & !PHASE | phase, AcqRel, Acquire) {
                Ok(_) => return Some(state & PARKED != 0),
                Err(now) => state = now,
            }
        }
    }

    /// Settles that the caller ends the wait, with [`WaitState::notify_claimed`], and says whether the waiter was parked. `None`: its deadline or a
    /// cancel came first.
    pub(crate) fn claim(&self) -> Option<bool> {
        let mut state = self.0.load(Acquire);
        loop {
            if state & PHASE != WAITING {
                return None;
            }
            match self.0.compare_exchange_weak(state, state | CLAIMED, AcqRel, Acquire) {
                Ok(_) => return Some(state & PARKED != 0),
                Err(now) => state = now,
            }
        }
    }

    /// Ends a claimed wait, once; `parked` is what the claim said. True: the caller must make the waiter runnable; otherwise it may be gone from now on.
    #[inline]
    pub(crate) fn notify_claimed(&self, parked: bool) -> bool {
        if parked || cfg!(unyield_mutant = "wait-notify-blind") {
            if cfg!(loom) {
                // Loom takes a cancel's `fetch_or` of nothing that came before a plain store for the newest value.
                self.0.swap(NOTIFIED | PARKED, AcqRel);
            } else {
                self.0.store(NOTIFIED | PARKED, Release);
            }
            return true;
        }
        let order = if cfg!(unyield_mutant = "wait-notify-relaxed") { Relaxed } else { AcqRel };
        self.0.fetch_add(NOTIFIED - CLAIMED, order) & PARKED != 0
    }

    /// Claim and notify in one, for a wait without deadline that cannot be cancelled and that only the caller knows. As [`WaitState::notify_claimed`].
    #[inline]
    pub(crate) fn notify(&self) -> bool {
        let before = self.0.fetch_add(NOTIFIED - WAITING, AcqRel);
        debug_assert!(before & PHASE == WAITING && before & CANCELLABLE == 0);
        before & PARKED != 0
    }

    /// For the futex calls of plain threads.
    pub(crate) fn word(&self) -> *mut u32 {
        self.0.as_ptr()
    }
}
