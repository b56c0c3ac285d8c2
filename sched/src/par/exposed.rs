//! The identities that have unstarted halves and do not run on a worker: parked, preempted, waiting for a carrier or on one. Thieves take from the first.
//!
//! An identity enters the list when it leaves its worker, before it is published, and leaves it when a worker resumes it. While it is at rest and listed it
//! cannot be resumed behind the list's lock, so halves are taken under that lock by plain accesses. One that runs on a carrier stays listed, and halves are taken from
//! it as from any running fiber that is not interrupted.

use super::job::Job;
use crate::identity::Identity;
use crate::lock::Lock;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::cell::Cell;
use std::ptr::{NonNull, null};
use unyield_stealing::Looks;

struct Ends {
    first: Cell<*const Identity>,
    last: Cell<*const Identity>,
}

pub(crate) struct Exposed {
    ends: Lock<Ends>,
    len: AtomicUsize,
}

// SAFETY: pointers under the lock; identities are Sync.
unsafe impl Send for Exposed {}
// SAFETY: as above.
unsafe impl Sync for Exposed {}

impl Default for Ends {
    fn default() -> Self {
        Ends { first: Cell::new(null()), last: Cell::new(null()) }
    }
}

impl Ends {
    /// # Safety
    /// Under the lock; not listed.
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
    /// Under the lock; listed.
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
}

impl Exposed {
    pub(crate) fn new() -> Exposed {
        Exposed { ends: Lock::default(), len: AtomicUsize::new(0) }
    }

    /// Any context.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Relaxed) == 0
    }

    /// The running identity is about to leave its stack, or runs on a carrier.
    ///
    /// # Safety
    /// Masked, by the running identity's worker.
    pub(crate) unsafe fn add(&self, identity: &Identity, carried: bool) {
        let ends = self.ends.lock();
        identity.forks.carried.set(carried);
        if !identity.forks.listed.swap(true, Relaxed) {
            // SAFETY: under the lock.
            unsafe { ends.push_back(identity) };
            self.len.fetch_add(1, SeqCst); // Dekker with workers that go to sleep
        }
    }

    /// The identity is about to be resumed, by a carrier or not.
    ///
    /// # Safety
    /// Masked; the identity is the caller's to resume.
    #[inline]
    pub(crate) unsafe fn resuming(&self, identity: &Identity, on_carrier: bool) {
        // Only whoever has the identity makes it listed. Acquire pairs with the release in `remove`: who has taken it off the list has done with it, and what
        // thieves took before is seen.
        let order = if cfg!(unyield_mutant = "exposed-resume-relaxed") { Relaxed } else { Acquire };
        if identity.forks.listed.load(order) && !cfg!(unyield_mutant = "exposed-resume-blind") {
            // SAFETY: as promised.
            unsafe { self.resuming_listed(identity, on_carrier) };
        }
    }

    #[cold]
    unsafe fn resuming_listed(&self, identity: &Identity, on_carrier: bool) {
        let ends = self.ends.lock();
        if on_carrier && identity.shows_forks() {
            identity.forks.carried.set(true);
        } else {
            // SAFETY: under the lock.
            unsafe { self.remove(&ends, identity) };
        }
    }

    /// # Safety
    /// Under the lock.
    unsafe fn remove(&self, ends: &Ends, identity: &Identity) {
        // Thieves may have been faster.
        if !identity.forks.listed.load(Relaxed) {
            return;
        }
        if cfg!(unyield_mutant = "exposed-unlink-late") {
            identity.forks.listed.store(false, Release);
        }
        // SAFETY: it was listed.
        unsafe { ends.unlink(identity) };
        self.len.fetch_sub(1, Relaxed);
        let order = if cfg!(unyield_mutant = "exposed-remove-relaxed") { Relaxed } else { Release };
        // Last: from here on the identity may be resumed without the lock, end and be freed.
        identity.forks.listed.store(false, order);
    }

    /// Takes a half of one of them. Any worker, masked, on its native stack; `looks` is the worker's own.
    ///
    /// # Safety
    /// As said.
    pub(crate) unsafe fn take(&self, looks: &Looks) -> Option<NonNull<Job>> {
        let mut left = self.len.load(Relaxed);
        while left > 0 {
            left -= 1;
            let ends = self.ends.lock();
            // SAFETY: what is listed is alive, and at rest unless it is carried. What is taken out under the lock is not freed before the look ends.
            unsafe {
                let identity = ends.first.get().as_ref()?;
                if !identity.shows_forks() {
                    self.remove(&ends, identity);
                    continue;
                }
                let job = if identity.forks.carried.get() {
                    let take = || {
                        ends.unlink(identity);
                        ends.push_back(identity);
                        drop(ends);
                        identity.take_fork_remotely()
                    };
                    if cfg!(unyield_mutant = "exposed-no-look") { take() } else { looks.look(take) }
                } else {
                    let job = identity.take_fork();
                    if job.is_none() {
                        // another thief is at it, who found it running: not the first any more
                        ends.unlink(identity);
                        ends.push_back(identity);
                    }
                    job
                };
                if job.is_some() {
                    return job;
                }
            }
        }
        None
    }
}
