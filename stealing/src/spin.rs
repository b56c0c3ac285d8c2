//! A spinlock: the only kind of lock that masked code may take.
//!
//! For: a few instructions around a list. Not for: anything that calls out, allocates or waits. It must be taken
//! *masked* (or by a thread that is never preempted by the runtime): if the holder could be preempted, the next
//! fiber on its thread could spin for a lock that only the preempted one can release. Never from a signal handler,
//! unless by [`try_lock`](SpinLock::try_lock): the handler may have interrupted the holder.
//!
//! Not fair and not a queue lock: sections are of a few nanoseconds and holders are never descheduled by us.

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{UnsafeCell, relax};
use crate::{const_fn, mutant};

/// Mutual exclusion by spinning. See the rules above: masked callers only.
pub struct SpinLock<T> {
    /// Written by whoever takes (true) or releases (false) the lock.
    locked: AtomicBool,
    /// Touched by the holder only.
    data: UnsafeCell<T>,
}

// SAFETY: the lock hands `T` to one thread at a time, which is what `T: Send` allows.
unsafe impl<T: Send> Send for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// Releases the lock when dropped.
#[must_use]
pub struct SpinLockGuard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> SpinLock<T> {
    const_fn! {
        /// A free lock around `data`.
        pub fn new(data: T) -> Self {
            SpinLock { locked: AtomicBool::new(false), data: UnsafeCell::new(data) }
        }
    }

    /// Takes the lock, waiting for it if need be. Any thread, masked.
    #[inline]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        if self.acquire() {
            return SpinLockGuard { lock: self };
        }
        self.lock_contended()
    }

    /// Takes the lock if it is free. Any thread, masked.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        // Not `then_some`: that would make a guard, and with it a release, in either case.
        self.acquire().then(|| SpinLockGuard { lock: self })
    }

    /// The data, without locking: the borrow proves that there is no other user.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: `&mut self` excludes guards and other threads.
        unsafe { &mut *self.data.with_mut(|data| data) }
    }

    /// One attempt. Acquire pairs with the release in the guard's drop.
    #[inline(always)]
    fn acquire(&self) -> bool {
        if mutant!("spin-relaxed") {
            return self.locked.compare_exchange(false, true, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        }
        self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_contended(&self) -> SpinLockGuard<'_, T> {
        let mut round = 0;
        loop {
            // Spin on a load, so that the line stays shared until the holder writes it. Relaxed: `acquire` pairs.
            while self.locked.load(Ordering::Relaxed) {
                relax(round);
                round = round.saturating_add(1);
            }
            if self.acquire() {
                return SpinLockGuard { lock: self };
            }
        }
    }
}

impl<T> Deref for SpinLockGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this thread holds the lock and nobody else touches `data`.
        unsafe { &*self.lock.data.with(|data| data) }
    }
}

impl<T> DerefMut for SpinLockGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` excludes a second reference through this guard.
        unsafe { &mut *self.lock.data.with_mut(|data| data) }
    }
}

impl<T> Drop for SpinLockGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release pairs with the acquire of the next holder.
        self.lock.locked.store(false, Ordering::Release);
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock")
            .field("locked", &self.locked.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for SpinLockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLockGuard").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn excludes() {
        static LOCK: SpinLock<u64> = SpinLock::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..50_000 {
                        *LOCK.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*LOCK.lock(), 150_000);
    }

    #[test]
    fn try_lock_fails_only_while_held() {
        let mut lock = SpinLock::new(1);
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "a failed attempt must not release it");
        drop(guard);
        *lock.try_lock().expect("free") += 1;
        assert_eq!(*lock.get_mut(), 2);
    }
}
