//! The state word of a half that was taken: has it been run, and who waits for it? No more: closures, results and waiters are `job`'s.
//!
//! ```text
//!   TAKEN ──wait──► address          (of the waiter: of the fiber that forked)
//!     └──complete, from both──► DONE (says which it was: whom to wake)
//! ```
//!
//! Completed once, by who has taken the half; waited for once, by the fiber that forked. `tests/wait_loom.rs` runs it under loom.

use crate::sync::atomic::{AtomicUsize, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed, Release};

const TAKEN: usize = 0;
const DONE: usize = 1;

pub(crate) struct JobState(AtomicUsize);

impl JobState {
    /// Of a half that is being taken.
    pub(crate) const fn taken() -> JobState {
        JobState(AtomicUsize::new(TAKEN))
    }

    /// The result is in place. The waiter that waits for it, if one does. The word may be gone afterwards.
    pub(crate) fn complete(&self) -> Option<usize> {
        if cfg!(unyield_mutant = "job-complete-in-two") {
            let seen = self.0.load(Acquire);
            self.0.store(DONE, Release);
            return (seen != TAKEN).then_some(seen);
        }
        let order = match () {
            () if cfg!(unyield_mutant = "job-complete-acquire") => Acquire,
            () if cfg!(unyield_mutant = "job-complete-release") => Release,
            () => AcqRel, // the result, for the fiber that forked; its waiter, for us
        };
        let seen = self.0.swap(DONE, order);
        (seen != TAKEN).then_some(seen)
    }

    /// True if it has been run. Then the result is visible.
    pub(crate) fn is_done(&self) -> bool {
        let order = if cfg!(unyield_mutant = "job-done-relaxed") { Relaxed } else { Acquire };
        self.0.load(order) == DONE // pairs with the release in `complete`
    }

    /// The waiter at `address` (more than 1) waits from here on. False: it has been run, and the result is visible.
    pub(crate) fn wait(&self, address: usize) -> bool {
        debug_assert!(address > DONE);
        if cfg!(unyield_mutant = "job-wait-blind") {
            self.0.store(address, Release);
            return true;
        }
        let late = if cfg!(unyield_mutant = "job-wait-late-relaxed") { Relaxed } else { Acquire };
        let order = if cfg!(unyield_mutant = "job-wait-relaxed") { Relaxed } else { Release };
        // Release: the waiter is seen by whoever notifies it. Acquire: the result.
        self.0.compare_exchange(TAKEN, address, order, late).is_ok()
    }
}
