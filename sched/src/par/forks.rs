//! What one identity's fork-joins have exposed: its bounds (lazy) or its ring (eager), and its place in the list of those that do not run.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `lock` | thieves; the owner, masked, when it has lost its newest half | |
//! | `ring` | its owner and thieves, see `unyield_stealing::Ring` | |
//! | `listed` | under the list's lock; false last: no thief is at it any more | its owner's worker |
//! | `carried`, `next`, `previous` | under the list's lock | |
//!
//! The bounds of a lazy identity are the two words of its gate. Nothing here blocks, allocates or frees but `Forks::new`; all of it also masked.

use super::job::Job;
use crate::identity::Identity;
use crate::preempt::Stealing;
use std::cell::Cell;
use std::ptr::{NonNull, null};
use std::sync::atomic::AtomicBool;
use unyield_preempt::gate::Word;
use unyield_stealing::lazy::{Bounds, Owner, StealLock};
use unyield_stealing::{Ring, fence};

pub(crate) struct Forks {
    lock: StealLock,
    ring: Option<Box<Ring<Job>>>,
    pub(super) listed: AtomicBool,
    /// It runs on a carrier while it is listed.
    pub(super) carried: Cell<bool>,
    pub(super) next: Cell<*const Identity>,
    pub(super) previous: Cell<*const Identity>,
}

impl Forks {
    pub(crate) fn new(stealing: Stealing) -> Forks {
        Forks {
            lock: StealLock::new(()),
            ring: (stealing == Stealing::Eager).then(|| Box::new(Ring::new())),
            listed: AtomicBool::new(false),
            carried: Cell::new(false),
            next: Cell::new(null()),
            previous: Cell::new(null()),
        }
    }

    /// Where its halves are exposed at once; `None`: they are exposed lazily.
    pub(super) fn ring(&self) -> Option<&Ring<Job>> {
        self.ring.as_deref()
    }

    pub(super) fn lock(&self) -> &StealLock {
        &self.lock
    }
}

/// The running identity's bounds, through its thread-local words.
pub(super) struct Own;

impl Owner for Own {
    #[inline(always)]
    fn bottom(&self) -> usize {
        Word::<0>::get()
    }
    #[inline(always)]
    unsafe fn set_bottom(&self, value: usize) {
        // SAFETY: as promised.
        unsafe { Word::<0>::set(value) }
    }
    #[inline(always)]
    fn top(&self) -> usize {
        Word::<1>::get()
    }
    #[inline(always)]
    unsafe fn set_top(&self, value: usize) {
        // SAFETY: as promised.
        unsafe { Word::<1>::set(value) }
    }
}

impl Identity {
    /// Before it runs for the first time, when its gate is known.
    pub(crate) fn begin_forks(&self) {
        if let Some(bounds) = self.bounds() {
            bounds.begin(self.stack.first_slot());
        }
    }

    fn bounds(&self) -> Option<&Bounds> {
        if self.forks.ring.is_some() {
            return None;
        }
        // SAFETY: a gate lies in the identity's TLS, which lives as long as the identity.
        unsafe { self.gate.get().as_ref() }.map(|gate| Bounds::from_words(gate.words()))
    }

    /// True if there seems to be a half to take. Any thread that keeps the identity from being freed.
    #[inline]
    pub(crate) fn shows_forks(&self) -> bool {
        match &self.forks.ring {
            Some(ring) => !ring.is_empty(),
            None => self.bounds().is_some_and(Bounds::show_work),
        }
    }

    /// True if it seems to be inside a fork-join whose halves are exposed lazily. As [`Identity::shows_forks`].
    #[inline]
    pub(crate) fn is_forking(&self) -> bool {
        self.bounds().is_some_and(Bounds::in_use)
    }

    /// Takes the oldest half.
    ///
    /// # Safety
    /// Masked. In an interrupt of this identity, or while it is at rest and cannot be resumed.
    pub(crate) unsafe fn take_fork(&self) -> Option<NonNull<Job>> {
        match &self.forks.ring {
            Some(ring) => ring.steal(),
            // SAFETY: as promised; jobs are what is pushed, and nobody else has what was just taken.
            None => unsafe { self.bounds()?.take(&self.forks.lock, |job| Job::taken(job)) },
        }
    }

    /// As [`Identity::take_fork`], while the identity runs somewhere.
    ///
    /// # Safety
    /// Masked; it is not freed meanwhile.
    pub(crate) unsafe fn take_fork_remotely(&self) -> Option<NonNull<Job>> {
        match &self.forks.ring {
            Some(ring) => ring.steal(),
            // SAFETY: as above.
            None if fence::is_asymmetric() => unsafe {
                self.bounds()?.take_remotely(&self.forks.lock, |job| Job::taken(job))
            },
            None => None,
        }
    }
}
