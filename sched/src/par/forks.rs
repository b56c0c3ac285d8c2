//! What one identity's fork-joins have exposed: its bounds (lazy) or its ring (eager), and its place in the list of those that do not run.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `lock` | thieves; the owner, masked, when it has lost its newest half | |
//! | `ring` | its owner and thieves, see `unyield_stealing::Ring` | |
//! | `place` | under the lists' lock; `Nowhere` last: no thief is at it any more | its owner's worker |
//! | `next`, `previous` | under the lists' lock | |
//!
//! The bounds of a lazy identity are the two words of its gate. Nothing here blocks, allocates or frees but `Forks::new`; all of it also masked.

use super::exposed::Place;
use super::job::Job;
use crate::identity::Identity;
use crate::preempt::Stealing;
use std::cell::Cell;
use std::num::NonZero;
use std::ptr::{NonNull, null};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use unyield_preempt::gate::{self, Word};
use unyield_stealing::lazy::{self, Bounds, Owner, StealLock};
use unyield_stealing::{Ring, fence};

pub(crate) struct Forks {
    lock: StealLock,
    ring: Option<Box<Ring<Job>>>,
    /// A `Place`.
    pub(super) place: AtomicU8,
    pub(super) next: Cell<*const Identity>,
    pub(super) previous: Cell<*const Identity>,
}

impl Forks {
    pub(crate) fn new(stealing: Stealing) -> Forks {
        Forks {
            lock: StealLock::new(),
            ring: (stealing == Stealing::Eager).then(|| Box::new(Ring::new())),
            place: AtomicU8::new(Place::Nowhere as u8),
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

/// What marks a job in a slot that was taken before, and put there to be run with others.
const RELAYED: usize = 1;

fn untagged(job: NonNull<Job>) -> NonNull<Job> {
    job.map_addr(|address| NonZero::new(address.get() & !RELAYED).unwrap_or(address))
}

/// # Safety
/// It was just found in a slot; nobody else uses it.
unsafe fn take(job: NonNull<Job>) {
    // Whoever has taken it first has done so, and the fiber that forked may wait for it already.
    if job.addr().get() & RELAYED == 0 {
        // SAFETY: as promised.
        unsafe { Job::taken(job) };
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
    #[inline(always)]
    unsafe fn lower(&self, value: usize) -> usize {
        // SAFETY: as promised. The owner's side of the asymmetric fence is no instruction.
        unsafe { gate::set_first_get_second(value) }
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

    /// True if it seems to be inside a fork-join. As [`Identity::shows_forks`].
    #[inline]
    pub(crate) fn is_forking(&self) -> bool {
        match &self.forks.ring {
            Some(ring) => !ring.is_empty(),
            None => self.bounds().is_some_and(Bounds::in_use),
        }
    }

    /// True if halves can be taken while it runs, without its help.
    pub(crate) fn can_be_robbed(&self) -> bool {
        self.forks.ring.is_some() || fence::is_asymmetric()
    }

    /// Takes the oldest half.
    ///
    /// # Safety
    /// Masked. In an interrupt of this identity, or while it is at rest and cannot be resumed.
    pub(crate) unsafe fn take_fork(&self) -> Option<NonNull<Job>> {
        match &self.forks.ring {
            Some(ring) => ring.steal(),
            // SAFETY: as promised; jobs are what is pushed, and nobody else has what was just taken.
            None => unsafe { self.bounds()?.take(&self.forks.lock, |job| take(job)) }.map(untagged),
        }
    }

    /// How many halves it seems to have. As [`Identity::shows_forks`].
    pub(crate) fn fork_count(&self) -> usize {
        match &self.forks.ring {
            Some(ring) => ring.len(),
            None => self.bounds().map_or(0, Bounds::count),
        }
    }

    /// Puts stolen jobs where its own forks go, oldest first: it runs them after what it is bound to ([`Identity::next_relayed`]), unless others take them.
    ///
    /// # Safety
    /// Masked; it is at rest with nothing forked, lazy, and the caller's; the jobs were taken by the caller.
    pub(crate) unsafe fn relay(&self, jobs: impl Iterator<Item = NonNull<Job>>) {
        if let Some(bounds) = self.bounds() {
            let jobs = jobs.map(|job| job.as_ptr().map_addr(|address| address | RELAYED));
            // SAFETY: as promised.
            unsafe { bounds.fill(&self.forks.lock, self.stack.first_slot(), jobs) };
            self.forks.place.store(Place::Away as u8, Relaxed); // so that the watch is told when it is resumed
        }
    }

    /// The newest job that was given to [`Identity::relay`] and that nobody else has taken. `last` is called if it was the last of all.
    ///
    /// # Safety
    /// Masked, by this identity, which runs no task.
    #[inline]
    pub(crate) unsafe fn next_relayed(&self, last: impl FnOnce()) -> Option<NonNull<Job>> {
        match Own.bottom() {
            0 => None,
            // SAFETY: as promised.
            bottom => unsafe { self.pop_relayed(bottom, last) },
        }
    }

    #[cold]
    unsafe fn pop_relayed(&self, mut bottom: usize, last: impl FnOnce()) -> Option<NonNull<Job>> {
        let first = self.stack.first_slot();
        let mut found = None;
        while found.is_none() && bottom > first {
            bottom -= size_of::<usize>();
            // SAFETY: what is in the slots was relayed: every fork of an ended task has been popped.
            unsafe {
                if lazy::pop(&Own, bottom) || lazy::settle(&Own, &self.forks.lock, bottom) {
                    found = NonNull::new(lazy::read::<Job>(bottom)).map(untagged);
                }
            }
        }
        if bottom == first {
            // SAFETY: empty.
            unsafe { Own.set_bottom(0) };
            last();
        }
        found
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
                self.bounds()?.take_remotely(&self.forks.lock, |job| take(job)).map(untagged)
            },
            None => None,
        }
    }
}
