//! The identities that fork and do not run on a worker: parked, preempted, waiting for a carrier (these rest), or on one (these are carried). Thieves take
//! their halves.
//!
//! One that has unstarted halves is listed as resting when it leaves its worker, before it is published, and taken off when it is resumed. While it is listed so
//! it cannot be resumed behind the list's lock, and halves are taken under that lock by plain accesses. One that forks on a carrier is listed as carried, whether it has
//! unstarted halves or not, and robbed like any running fiber that is not interrupted; the timer's watch looks whether it is worth it.

use super::job::Job;
use crate::identity::Identity;
use crate::lock::Lock;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::cell::Cell;
use std::ptr::{NonNull, null};
use unyield_stealing::Looks;

/// Where an identity is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Place {
    Nowhere,
    Resting,
    Carried,
    /// In no list: it forks, but has nothing unstarted, and is not on a worker.
    Away,
}

#[derive(Default)]
struct Lists {
    resting: List,
    carried: List,
}

pub(crate) struct Exposed {
    lists: Lock<Lists>,
    /// How many are in each.
    resting: AtomicUsize,
    carried: AtomicUsize,
}

// SAFETY: pointers under the lock; identities are Sync.
unsafe impl Send for Exposed {}
// SAFETY: as above.
unsafe impl Sync for Exposed {}

struct List {
    first: Cell<*const Identity>,
    last: Cell<*const Identity>,
}

impl Default for List {
    fn default() -> Self {
        List { first: Cell::new(null()), last: Cell::new(null()) }
    }
}

impl List {
    /// # Safety
    /// Under the lock; in no list.
    unsafe fn push_back(&self, identity: &Identity) {
        let last = self.last.replace(identity);
        identity.forks.previous.set(last);
        identity.forks.next.set(null());
        // SAFETY: what is listed is alive.
        match unsafe { last.as_ref() } {
            Some(last) => last.forks.next.set(identity),
            None => self.first.set(identity),
        }
    }

    /// # Safety
    /// Under the lock; in this list.
    unsafe fn unlink(&self, identity: &Identity) {
        let (previous, next) = (identity.forks.previous.get(), identity.forks.next.get());
        // SAFETY: what is listed is alive.
        unsafe {
            match previous.as_ref() {
                Some(previous) => previous.forks.next.set(next),
                None => self.first.set(next),
            }
            match next.as_ref() {
                Some(next) => next.forks.previous.set(previous),
                None => self.last.set(previous),
            }
        }
    }

    /// The first, which becomes the last.
    ///
    /// # Safety
    /// Under the lock.
    unsafe fn rotate<'a>(&self) -> Option<&'a Identity> {
        // SAFETY: what is listed is alive.
        unsafe {
            let identity = self.first.get().as_ref()?;
            self.unlink(identity);
            self.push_back(identity);
            Some(identity)
        }
    }
}

impl Exposed {
    pub(crate) fn new() -> Exposed {
        Exposed { lists: Lock::default(), resting: AtomicUsize::new(0), carried: AtomicUsize::new(0) }
    }

    /// True if no fiber that rests has exposed something. Any context.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.resting.load(Relaxed) == 0
    }

    /// True if no fiber forks on a carrier. Any context.
    #[inline]
    pub(crate) fn carries_nobody(&self) -> bool {
        self.carried.load(Relaxed) == 0
    }

    /// # Safety
    /// Under the lock.
    unsafe fn list(&self, lists: &Lists, identity: &Identity, place: Place) {
        let before = identity.forks.place.load(Relaxed);
        if cfg!(unyield_mutant = "exposed-unlink-late") {
            identity.forks.place.store(place as u8, Release);
        }
        // SAFETY: where the identity says that it is.
        unsafe {
            if before == Place::Resting as u8 {
                lists.resting.unlink(identity);
                self.resting.fetch_sub(1, Relaxed);
            } else if before == Place::Carried as u8 {
                lists.carried.unlink(identity);
                self.carried.fetch_sub(1, Relaxed);
            }
            match place {
                Place::Nowhere | Place::Away => {}
                Place::Resting => {
                    lists.resting.push_back(identity);
                    self.resting.fetch_add(1, SeqCst); // Dekker with workers that go to sleep
                }
                Place::Carried => {
                    lists.carried.push_back(identity);
                    self.carried.fetch_add(1, SeqCst);
                }
            }
        }
        // Last: one that is nowhere may be resumed without the lock, end and be freed. Release pairs with the acquire in `resuming`.
        let order = if cfg!(unyield_mutant = "exposed-remove-relaxed") { Relaxed } else { Release };
        identity.forks.place.store(place as u8, order);
    }

    /// The running identity, which forks, is about to leave its stack. True: it has unstarted halves, which others can take from now on.
    ///
    /// # Safety
    /// Masked, by the running identity's worker.
    pub(crate) unsafe fn rests(&self, identity: &Identity) -> bool {
        let some = identity.shows_forks();
        if !some && identity.forks.place.load(Acquire) == Place::Nowhere as u8 {
            identity.forks.place.store(Place::Away as u8, Relaxed); // in no list: nobody else's
        } else {
            // SAFETY: under the lock.
            unsafe {
                self.list(&self.lists.lock(), identity, if some { Place::Resting } else { Place::Away })
            };
        }
        some
    }

    /// The running identity forks on a carrier.
    ///
    /// # Safety
    /// As for [`Exposed::rests`].
    pub(crate) unsafe fn is_carried(&self, identity: &Identity) {
        if identity.forks.place.load(Relaxed) != Place::Carried as u8 {
            // SAFETY: under the lock.
            unsafe { self.list(&self.lists.lock(), identity, Place::Carried) };
        }
    }

    /// The identity is about to be resumed, by a carrier or not, or has ended. True: it forks, and was away.
    ///
    /// # Safety
    /// Masked; the identity is the caller's to resume.
    #[inline]
    pub(crate) unsafe fn resuming(&self, identity: &Identity, on_carrier: bool) -> bool {
        // Only whoever has the identity lists it, so it is not listed behind our back. Thieves may take it off. Acquire pairs with the release in `list`: who has
        // done so has done with it, and what thieves took before is seen.
        let order = if cfg!(unyield_mutant = "exposed-resume-relaxed") { Relaxed } else { Acquire };
        if identity.forks.place.load(order) != Place::Nowhere as u8
            && !cfg!(unyield_mutant = "exposed-resume-blind")
        {
            // SAFETY: as promised.
            return unsafe { self.resuming_listed(identity, on_carrier) };
        }
        false
    }

    #[cold]
    unsafe fn resuming_listed(&self, identity: &Identity, on_carrier: bool) -> bool {
        let forks = identity.is_forking();
        let place = if on_carrier && forks { Place::Carried } else { Place::Nowhere };
        if place == Place::Nowhere && identity.forks.place.load(Acquire) == Place::Away as u8 {
            identity.forks.place.store(place as u8, Relaxed);
        } else {
            // SAFETY: under the lock.
            unsafe { self.list(&self.lists.lock(), identity, place) };
        }
        forks
    }

    /// Takes a half of one that rests.
    ///
    /// # Safety
    /// Masked, on a worker.
    pub(crate) unsafe fn take(&self) -> Option<NonNull<Job>> {
        let mut left = self.resting.load(Relaxed);
        while left > 0 {
            left -= 1;
            let lists = self.lists.lock();
            // SAFETY: what is listed is alive, at rest, and cannot be resumed while we have the lock.
            unsafe {
                let identity = lists.resting.rotate()?;
                if let Some(job) = identity.take_fork() {
                    return Some(job);
                }
                // Nothing left; or a thief is still at it, who found it running.
                if !identity.shows_forks() {
                    self.list(&lists, identity, Place::Away);
                }
            }
        }
        None
    }

    /// Takes a half of a fiber on a carrier. `looks` is the worker's own.
    ///
    /// # Safety
    /// As for [`Exposed::take`].
    pub(crate) unsafe fn take_carried(&self, looks: &Looks) -> Option<NonNull<Job>> {
        let mut left = self.carried.load(Relaxed);
        while left > 0 {
            left -= 1;
            let lists = self.lists.lock();
            // SAFETY: what is listed is alive, and is not freed before a look ends that has begun under the lock.
            let job = unsafe {
                let identity = lists.carried.rotate()?;
                if !identity.shows_forks() {
                    continue;
                }
                let take = || {
                    drop(lists);
                    identity.take_fork_remotely()
                };
                if cfg!(unyield_mutant = "exposed-no-look") { take() } else { looks.look(take) }
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    /// Whether a fiber on a carrier seems to fork, and whether one seems to have an unstarted half that can be taken. Any thread, masked.
    pub(crate) fn carried_forks(&self) -> (bool, bool) {
        let mut found = (false, false);
        for _ in 0..self.carried.load(Relaxed) {
            let lists = self.lists.lock();
            // SAFETY: under the lock; what is listed is alive.
            if let Some(identity) = unsafe { lists.carried.rotate() }.filter(|identity| identity.is_forking())
            {
                found = (true, found.1 || identity.shows_forks() && identity.can_be_robbed());
            }
        }
        found
    }
}
