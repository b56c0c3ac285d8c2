//! One word that a task and its only handle share: has it ended, and who waits for it? No more: results, wakers and waiters are `task`'s.
//!
//! ```text
//!   RUNNING ──poll──► POLLED           (a waker is in its place, under the waker's lock)
//!      │  └──wait──► address           (of the waiter; also from POLLED)
//!      │  └──detach──► DETACHED        (also from POLLED)
//!      └──complete, from each──► DONE  (says which it was: whom to tell)
//! ```
//!
//! The task completes once; the rest is the handle's, so these come one after the other. `tests/wait_loom.rs` runs it under loom.

use crate::sync::atomic::{AtomicUsize, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed};

const RUNNING: usize = 0;
const DONE: usize = 1;
const DETACHED: usize = 2;
const POLLED: usize = 3;

/// Whom the end of a task concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Joiner {
    /// Nobody yet: the handle will find it done.
    Nobody,
    /// The handle is gone: the result is the task's to drop.
    Detached,
    /// A waker waits in its place, perhaps by now another one.
    Waker,
    /// The waiter at this address waits, without deadline and without cancel.
    Waiter(usize),
}

/// What became of a word that the handle wanted to leave for the task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// The task will find it.
    InTime,
    /// … and will not look for the waker of an earlier poll.
    InPlaceOfWaker,
    /// The task was done, and has not seen it.
    TooLate,
}

pub(crate) struct JoinState(AtomicUsize);

impl JoinState {
    pub(crate) const fn new() -> Self {
        JoinState(AtomicUsize::new(RUNNING))
    }

    /// True if the task has ended; then its result is visible. Any context.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.0.load(Acquire) == DONE
    }

    /// The task: its result is in place.
    #[inline]
    pub(crate) fn complete(&self) -> Joiner {
        let order = if cfg!(unyield_mutant = "join-end-relaxed") { Relaxed } else { AcqRel };
        match self.0.swap(DONE, order) {
            RUNNING => Joiner::Nobody,
            DETACHED => Joiner::Detached,
            POLLED if !cfg!(unyield_mutant = "join-no-wake") => Joiner::Waker,
            POLLED => Joiner::Nobody,
            address => Joiner::Waiter(address),
        }
    }

    /// The handle: the waiter at `address` (more than 3) waits from here on.
    #[inline]
    pub(crate) fn wait(&self, address: usize) -> Left {
        debug_assert!(address > POLLED);
        self.leave(address)
    }

    /// The handle: a waker is in its place.
    pub(crate) fn poll(&self) -> Left {
        self.leave(POLLED)
    }

    /// The handle goes. If it was done, the result is still the handle's.
    pub(crate) fn detach(&self) -> Left {
        self.leave(DETACHED)
    }

    #[inline]
    fn leave(&self, state: usize) -> Left {
        let mut seen = RUNNING; // nearly always
        loop {
            match self.0.compare_exchange(seen, state, AcqRel, Acquire) {
                Ok(POLLED) if !cfg!(unyield_mutant = "join-forget-waker") => return Left::InPlaceOfWaker,
                Ok(_) => return Left::InTime,
                Err(DONE) if !cfg!(unyield_mutant = "join-too-late") => return Left::TooLate,
                Err(now) => seen = now,
            }
        }
    }
}
