//! The mutex: one word, and a queue for those that wait.
//!
//! ```text
//!   LOCKED   somebody holds it
//!   WAITERS  the queue may have waiters (set and cleared under the queue's lock; never clear while it has)
//!   WOKEN    a waiter was woken and competes for the lock; nobody else is woken until it has won or lost
//! ```
//!
//! **Fairness.** An unlock does not hand the lock over at first: it wakes the first waiter and lets it compete, while the
//! fiber that runs goes on, perhaps through the same lock, without a switch. The loser of that race goes back to the front of
//! the queue and is marked: the next unlock hands it the lock. So each waiter loses at most once after it was woken, and no
//! clock is read. Rejected: handing over always (two fibers that lock in turn then switch at every single lock, and each
//! lock waits in the run queue behind computing fibers: a convoy that never ends), and parking_lot's hand-off after
//! 0.5 ms of waiting (with many computing fibers a waiter has always waited longer than that before it runs even once, so it
//! is the same convoy).
//!
//! Before it parks, a waiter watches the lock for a moment if that has paid off before (`spin`).
//!
//! A waiter holds no reference to the lock's holder, and a waiter that gives up (timeout) leaves the word as if it had never
//! waited. From fibers and plain threads; not from handlers.

use std::fmt;
use std::time::{Duration, Instant};

use super::atomic::{AtomicU32, Ordering};
use super::spin::Spin;
use super::wait_queue::{self, Patience, Place, WaitQueue, Waited, locked_in_section};
use crate::park::in_critical_section;

const LOCKED: u32 = 1;
const WAITERS: u32 = 2;
const WOKEN: u32 = 4;

/// Tokens from the waiter to its waker: whether it has lost a race for the lock after it was woken.
const FIRST: usize = 0;
const LOST: usize = 1;
/// Tokens from the waker: compete, or the lock is yours.
const COMPETE: usize = 0;
const YOURS: usize = 1;

/// The raw lock under [`Mutex`], for use with `lock_api`.
///
/// It implements [`lock_api::RawMutex`], [`lock_api::RawMutexFair`] and [`lock_api::RawMutexTimed`]. Locking from a fiber
/// parks the fiber, from a plain thread blocks the thread. See [`Mutex`] for what holds in critical sections.
pub struct RawMutex {
    /// Written by all; the bits are explained in the module's header.
    state: AtomicU32,
    spin: Spin,
    queue: WaitQueue<()>,
}

/// A mutual exclusion lock that parks the fiber, or blocks the plain thread, that has to wait: `parking_lot`'s `Mutex`.
///
/// No poisoning: a panic while it is held unlocks it. Its guard is not `Send`: the fiber that locks unlocks (it may have moved
/// to another worker in between). It is held across preemption, yields and waits like any other lock. Waiters are
/// served in order, with barging: one that has been woken and found the lock taken again gets it at the next unlock.
///
/// # Contexts
/// Fibers and plain threads. Inside a critical section `try_lock` and locking a free mutex work; locking one that is held
/// **aborts**, and the timed forms panic. Waiting for it is no cancellation point. Not in handlers.
///
/// # Examples
/// ```
/// use unyield::sync::Mutex;
///
/// static TOTAL: Mutex<u64> = Mutex::new(0);
///
/// let adders: Vec<_> = (1..=4).map(|i| std::thread::spawn(move || *TOTAL.lock() += i)).collect();
/// for a in adders {
///     a.join().unwrap();
/// }
/// assert_eq!(*TOTAL.lock(), 10);
/// ```
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;

/// Access to what a [`Mutex`] protects; unlocks it when dropped.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;

/// Access to a part of what a [`Mutex`] protects.
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawMutex, T>;

impl fmt::Debug for RawMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: a look, nothing depends on it.
        let state = self.state.load(Ordering::Relaxed);
        f.debug_struct("RawMutex")
            .field("locked", &(state & LOCKED != 0))
            .field("waiters", &(state & WAITERS != 0))
            .finish_non_exhaustive()
    }
}

// SAFETY: exclusive: LOCKED is set only by a compare-and-swap that has seen it clear, and it is cleared only by the holder's
// unlock, which either does that or leaves it set for exactly one claimed waiter (`YOURS`).
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: RawMutex =
        RawMutex { state: AtomicU32::new(0), spin: Spin::new(), queue: WaitQueue::new(()) };

    // The holder is a fiber: it may migrate, but another fiber must not unlock for it.
    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock_free() && !self.spin() {
            // A panic is no way out of here: see the module `sync`.
            if in_critical_section() {
                locked_in_section("Mutex");
            }
            self.lock_slow(None);
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // Relaxed: the compare-and-swap decides.
        let mut state = self.state.load(Ordering::Relaxed);
        while state & LOCKED == 0 {
            // Acquire: pairs with the Release of the unlock that cleared LOCKED; the bits' other writers are
            // read-modify-writes and so continue its release sequence.
            match self.state.compare_exchange_weak(
                state,
                state | LOCKED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[inline]
    unsafe fn unlock(&self) {
        if !self.unlock_unwanted() {
            self.unlock_slow(false);
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        // Relaxed: the answer is old when it arrives.
        self.state.load(Ordering::Relaxed) & LOCKED != 0
    }
}

// SAFETY: `unlock_fair` unlocks as `unlock` does, and hands the lock to the first waiter if there is one.
unsafe impl lock_api::RawMutexFair for RawMutex {
    #[inline]
    unsafe fn unlock_fair(&self) {
        if !self.unlock_unwanted() {
            self.unlock_slow(true);
        }
    }

    #[inline]
    unsafe fn bump(&self) {
        // Relaxed: a waiter that comes now is for the next bump.
        if self.state.load(Ordering::Relaxed) & WAITERS != 0 {
            // While the lock is still held, so that the guard of a caller that unwinds is right.
            Patience::stubborn(None).check("MutexGuard::bump");
            self.unlock_slow(true);
            lock_api::RawMutex::lock(self);
        }
    }
}

// SAFETY: true only if `try_lock` or `lock_slow` has taken the lock.
unsafe impl lock_api::RawMutexTimed for RawMutex {
    type Duration = Duration;
    type Instant = Instant;

    #[inline]
    fn try_lock_for(&self, timeout: Duration) -> bool {
        self.try_lock_free() || self.spin() || self.lock_slow(wait_queue::deadline(timeout))
    }

    #[inline]
    fn try_lock_until(&self, timeout: Instant) -> bool {
        self.try_lock_free() || self.spin() || self.lock_slow(Some(timeout))
    }
}

impl RawMutex {
    /// Takes the lock if nobody holds or wants it.
    #[inline]
    fn try_lock_free(&self) -> bool {
        // Acquire: as in `try_lock`.
        self.state.compare_exchange_weak(0, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Unlocks if nobody wants the lock. The caller holds it.
    #[inline]
    fn unlock_unwanted(&self) -> bool {
        // The load saves an exchange that must fail; the line is ours, as the lock is.
        // Release: pairs with the Acquire of whoever locks next.
        self.state.load(Ordering::Relaxed) == LOCKED
            && self.state.compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock if it comes free while we watch it, for as long as that seems to pay.
    #[cold]
    fn spin(&self) -> bool {
        // With others parked, the lock is contended enough.
        // Relaxed: a hint.
        self.spin
            .run(|| lock_api::RawMutex::try_lock(self), || self.state.load(Ordering::Relaxed) & WAITERS != 0)
    }

    /// Waits for the lock. False: the deadline passed.
    #[cold]
    fn lock_slow(&self, deadline: Option<Instant>) -> bool {
        // WOKEN while it is ours to clear, and whether we have lost.
        let (mut mine, mut lost) = (0, false);
        let patience = Patience::stubborn(deadline);
        loop {
            // Relaxed: the compare-and-swap decides.
            let mut state = self.state.load(Ordering::Relaxed);
            while state & LOCKED == 0 {
                let new = state & !mine | LOCKED;
                // Acquire: as in `try_lock`.
                match self.state.compare_exchange_weak(state, new, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return true,
                    Err(now) => state = now,
                }
            }
            patience.check("Mutex");
            let queue = self.queue.lock();
            if !self.announce(mine) {
                continue;
            }
            let waited = self.queue.wait(
                queue,
                patience,
                "Mutex",
                if lost { Place::Front(LOST) } else { Place::Back(FIRST) },
                || (),
                |q, _| {
                    if q.waiters.is_empty() {
                        // Relaxed: no data goes with this bit. The lock is held, or a woken waiter is about to take it.
                        self.state.fetch_and(!WAITERS, Ordering::Relaxed);
                    }
                },
            );
            match waited {
                // The last holder left LOCKED set for us; its unpark and our return from the wait order its writes before us.
                Waited::Notified(YOURS) => return true,
                Waited::Notified(_) => (mine, lost) = (WOKEN, true),
                Waited::TimedOut | Waited::Cancelled => return false,
            }
        }
    }

    /// Under the queue's lock: says that we are about to wait, and that we no longer compete (`mine`). False: the lock is free.
    fn announce(&self, mine: u32) -> bool {
        // Relaxed: the word's bits are all that these tell; whoever unlocks sees them in its own compare-and-swap.
        let mut state = self.state.load(Ordering::Relaxed);
        while state & LOCKED != 0 {
            let new = state & !mine | WAITERS;
            if new == state {
                return true;
            }
            match self.state.compare_exchange_weak(state, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Unlocks when there is more to do than to clear LOCKED. The caller holds the lock.
    #[cold]
    fn unlock_slow(&self, fair: bool) {
        // Relaxed: the compare-and-swap decides.
        let mut state = self.state.load(Ordering::Relaxed);
        // Nobody waits, or one competes already: it will take the lock, or be handed it.
        while state & WAITERS == 0 || (state & WOKEN != 0 && !fair) {
            // Release: as in `unlock_unwanted`.
            match self.state.compare_exchange_weak(
                state,
                state & !LOCKED,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
        // From here on WOKEN can only be cleared: only the holder, which we are, sets it.
        let mut queue = self.queue.lock();
        let Some(first) = queue.waiters.pop() else {
            // Release: as in `unlock_unwanted`.
            self.state.fetch_and(!(LOCKED | WAITERS), Ordering::Release);
            return;
        };
        let token = if fair || first.token() == LOST {
            // It stays held: the unpark carries our writes to the next holder. WAITERS stays as well, even if it is the last one, for
            // the next waiter is likely to come at once: the unlock after finds out.
            YOURS
        } else {
            let rest = if queue.waiters.is_empty() { WAITERS } else { 0 };
            // Relaxed: the compare-and-swap decides.
            let mut state = self.state.load(Ordering::Relaxed);
            // Release: as in `unlock_unwanted`.
            while let Err(now) = self.state.compare_exchange_weak(
                state,
                state & !(LOCKED | rest) | WOKEN,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                state = now;
            }
            COMPETE
        };
        drop(queue);
        first.wake(token);
    }
}
