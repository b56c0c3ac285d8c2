//! The reader-writer lock: one word, and one queue for readers and writers alike.
//!
//! ```text
//!   WRITER     held exclusively
//!   WAITERS    the queue is not empty (set and cleared under the queue's lock)
//!   WOKEN      a waiter was woken and competes for the lock; nobody else is woken until it has won or lost
//!   READER × n held by n readers
//! ```
//!
//! **Order.** While the lock is read-held and somebody waits, new readers queue: so writers are not starved. A reader that gets the
//! lock out of the queue brings those along that wait right behind it (`admit_readers`).
//!
//! **Fairness** is the mutex's: the last holder wakes the first waiter and lets it compete; one that loses goes back to the front
//! and is handed the lock next time.
//!
//! Responsibility: whenever the lock is free and the queue is not empty, a woken waiter is on its way (WOKEN), or the one that
//! freed it is on its way into the queue's lock. Whenever the lock is read-held and the first waiter is a reader, whoever made
//! that so (the waiter before it got the lock or gave up) is on its way into `admit_readers`.
//!
//! From fibers and plain threads; not from handlers.

use std::fmt;
use std::time::{Duration, Instant};

use super::atomic::{AtomicUsize, Ordering};
use super::spin::Spin;
use super::wait_queue::{self, Batch, Patience, Place, Queue, WaitQueue, Waited, locked_in_section};
use crate::lock::LockGuard;
use crate::park::in_critical_section;

const WRITER: usize = 1;
const WAITERS: usize = 2;
const WOKEN: usize = 4;
const READER: usize = 8;

/// Tokens from the waiter to its waker: bits.
const LOST: usize = 1;
const WRITES: usize = 2;
/// Tokens from the waker: compete (WOKEN is yours to clear), try again, the lock is yours.
const COMPETE: usize = 0;
const RETRY: usize = 1;
const YOURS: usize = 2;

/// The raw lock under [`RwLock`], for use with `lock_api`.
///
/// It implements [`lock_api::RawRwLock`] and its `Fair`, `Timed`, `Recursive` and `Downgrade` extensions. Locking from a fiber
/// parks the fiber, from a plain thread blocks the thread. See [`RwLock`] for what holds in critical sections.
pub struct RawRwLock {
    /// Written by all; the bits are explained in the module's header.
    state: AtomicUsize,
    spin: Spin,
    queue: WaitQueue<()>,
}

/// A reader-writer lock that parks the fiber, or blocks the plain thread, that has to wait: `parking_lot`'s `RwLock`.
///
/// No poisoning. Guards are not `Send`. While a writer waits, new readers wait behind it, so reading again in a fiber that reads
/// already may deadlock: use `read_recursive` there.
///
/// # Contexts
/// Fibers and plain threads. Inside a critical section the `try_` forms and locking a free lock work; locking one that is held
/// **aborts**, and the timed forms panic. Waiting for it is no cancellation point. Not in handlers.
///
/// # Examples
/// ```
/// use unyield::sync::RwLock;
///
/// let limits = RwLock::new((1, 10));
/// {
///     let (a, b) = (limits.read(), limits.read());
///     assert_eq!(a.0 + b.1, 11);
/// }
/// limits.write().1 = 20;
/// assert_eq!(*limits.read(), (1, 20));
/// ```
pub type RwLock<T> = lock_api::RwLock<RawRwLock, T>;

/// Shared access to what a [`RwLock`] protects; unlocks it when dropped.
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRwLock, T>;

/// Exclusive access to what a [`RwLock`] protects; unlocks it when dropped.
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRwLock, T>;

/// Shared access to a part of what a [`RwLock`] protects.
pub type MappedRwLockReadGuard<'a, T> = lock_api::MappedRwLockReadGuard<'a, RawRwLock, T>;

/// Exclusive access to a part of what a [`RwLock`] protects.
pub type MappedRwLockWriteGuard<'a, T> = lock_api::MappedRwLockWriteGuard<'a, RawRwLock, T>;

impl fmt::Debug for RawRwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: a look, nothing depends on it.
        let state = self.state.load(Ordering::Relaxed);
        f.debug_struct("RawRwLock")
            .field("writer", &(state & WRITER != 0))
            .field("readers", &(state / READER))
            .field("waiters", &(state & WAITERS != 0))
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    /// Does not wait for writers that only wait.
    ReadAgain,
}

/// The word after a lock of `kind`, if `state` allows it. `first`: for one from the front of the queue, whom nobody precedes.
#[inline]
fn locked(state: usize, kind: Kind, first: bool) -> Option<usize> {
    let free = state < READER;
    match kind {
        _ if state & WRITER != 0 => None,
        Kind::Write => free.then_some(state | WRITER),
        Kind::Read if state & WAITERS != 0 && !free && !first => None,
        Kind::Read | Kind::ReadAgain => Some(state + READER),
    }
}

// SAFETY: WRITER is set only by a compare-and-swap that has seen neither WRITER nor readers, and readers are added only by one
// that has seen no WRITER, or by the holder of WRITER as it gives it up. Unlocking clears exactly what locking has set, or leaves
// it to one claimed waiter (`YOURS`).
unsafe impl lock_api::RawRwLock for RawRwLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: RawRwLock =
        RawRwLock { state: AtomicUsize::new(0), spin: Spin::new(), queue: WaitQueue::new(()) };

    // The holder is a fiber: it may migrate, but another fiber must not unlock for it.
    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock_shared(&self) {
        if !self.try_lock_as(Kind::Read) {
            self.lock_forever(Kind::Read);
        }
    }

    #[inline]
    fn try_lock_shared(&self) -> bool {
        self.try_lock_as(Kind::Read)
    }

    #[inline]
    unsafe fn unlock_shared(&self) {
        self.release_shared(false);
    }

    #[inline]
    fn lock_exclusive(&self) {
        // Acquire: as in `try_lock_as`.
        if self.state.compare_exchange_weak(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_forever(Kind::Write);
        }
    }

    #[inline]
    fn try_lock_exclusive(&self) -> bool {
        self.try_lock_as(Kind::Write)
    }

    #[inline]
    unsafe fn unlock_exclusive(&self) {
        self.release_exclusive(false);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        // Relaxed: the answer is old when it arrives.
        let state = self.state.load(Ordering::Relaxed);
        state & WRITER != 0 || state >= READER
    }

    #[inline]
    fn is_locked_exclusive(&self) -> bool {
        // Relaxed: as above.
        self.state.load(Ordering::Relaxed) & WRITER != 0
    }
}

// SAFETY: as the unfair ones, and the first waiter is handed the lock.
unsafe impl lock_api::RawRwLockFair for RawRwLock {
    #[inline]
    unsafe fn unlock_shared_fair(&self) {
        self.release_shared(true);
    }

    #[inline]
    unsafe fn unlock_exclusive_fair(&self) {
        self.release_exclusive(true);
    }

    #[inline]
    unsafe fn bump_shared(&self) {
        // Relaxed: a waiter that comes now is for the next bump.
        if self.state.load(Ordering::Relaxed) & WAITERS != 0 {
            // While the lock is still held, so that the guard of a caller that unwinds is right.
            Patience::stubborn(None).check("RwLockReadGuard::bump");
            self.release_shared(true);
            lock_api::RawRwLock::lock_shared(self);
        }
    }

    #[inline]
    unsafe fn bump_exclusive(&self) {
        // Relaxed: as above.
        if self.state.load(Ordering::Relaxed) & WAITERS != 0 {
            // As above.
            Patience::stubborn(None).check("RwLockWriteGuard::bump");
            self.release_exclusive(true);
            lock_api::RawRwLock::lock_exclusive(self);
        }
    }
}

// SAFETY: true only if the lock has been taken.
unsafe impl lock_api::RawRwLockTimed for RawRwLock {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_shared_for(&self, timeout: Duration) -> bool {
        self.try_lock_as(Kind::Read) || self.lock_slow(Kind::Read, wait_queue::deadline(timeout))
    }

    fn try_lock_shared_until(&self, timeout: Instant) -> bool {
        self.try_lock_as(Kind::Read) || self.lock_slow(Kind::Read, Some(timeout))
    }

    fn try_lock_exclusive_for(&self, timeout: Duration) -> bool {
        self.try_lock_as(Kind::Write) || self.lock_slow(Kind::Write, wait_queue::deadline(timeout))
    }

    fn try_lock_exclusive_until(&self, timeout: Instant) -> bool {
        self.try_lock_as(Kind::Write) || self.lock_slow(Kind::Write, Some(timeout))
    }
}

// SAFETY: succeeds whenever no writer holds the lock.
unsafe impl lock_api::RawRwLockRecursive for RawRwLock {
    #[inline]
    fn lock_shared_recursive(&self) {
        if !self.try_lock_as(Kind::ReadAgain) {
            self.lock_forever(Kind::ReadAgain);
        }
    }

    #[inline]
    fn try_lock_shared_recursive(&self) -> bool {
        self.try_lock_as(Kind::ReadAgain)
    }
}

// SAFETY: the writer becomes a reader in one step.
unsafe impl lock_api::RawRwLockDowngrade for RawRwLock {
    unsafe fn downgrade(&self) {
        // Release: pairs with the Acquire of the readers that come now.
        if self.state.fetch_add(READER - WRITER, Ordering::Release) & WAITERS != 0 {
            self.admit_readers();
        }
    }
}

impl RawRwLock {
    #[inline]
    fn try_lock_as(&self, kind: Kind) -> bool {
        self.take(kind, false, 0)
    }

    /// Takes the lock if the word allows it, and clears `mine`.
    #[inline]
    fn take(&self, kind: Kind, first: bool, mine: usize) -> bool {
        // Relaxed: the compare-and-swap decides.
        let mut state = self.state.load(Ordering::Relaxed);
        while let Some(new) = locked(state, kind, first) {
            // Acquire: pairs with the Release of the unlocks; the bits' other writers are read-modify-writes and so continue
            // their release sequences.
            match self.state.compare_exchange_weak(state, new & !mine, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[cold]
    fn lock_forever(&self, kind: Kind) {
        // With others waiting, the lock is contended enough.
        // Relaxed: a hint.
        let hopeless = || self.state.load(Ordering::Relaxed) & WAITERS != 0;
        if !self.spin.run(|| self.try_lock_as(kind), hopeless) {
            // A panic is no way out of here: see the module `sync`.
            if in_critical_section() {
                locked_in_section("RwLock");
            }
            self.lock_slow(kind, None);
        }
    }

    /// Waits for the lock. False: the deadline passed.
    #[cold]
    fn lock_slow(&self, kind: Kind, deadline: Option<Instant>) -> bool {
        let token = if kind == Kind::Write { WRITES } else { 0 };
        // WOKEN while it is ours to clear, and whether we have lost.
        let (mut mine, mut lost) = (0, false);
        let patience = Patience::stubborn(deadline);
        loop {
            if self.take(kind, lost, mine) {
                if lost && kind != Kind::Write {
                    self.admit_readers();
                }
                return true;
            }
            patience.check("RwLock");
            let queue = self.queue.lock();
            if !self.announce(kind, lost, mine) {
                continue;
            }
            let place = if lost { Place::Front(token | LOST) } else { Place::Back(token) };
            let undo = |q: &mut Queue<()>, _| {
                if q.waiters.is_empty() {
                    // Relaxed: no data goes with this bit.
                    self.state.fetch_and(!WAITERS, Ordering::Relaxed);
                }
            };
            match self.queue.wait(queue, patience, "RwLock", place, || (), undo) {
                // What the last holders did comes before their unlocks, those before our waker's claim, that before our return.
                Waited::Notified(YOURS) => return true,
                Waited::Notified(RETRY) => (mine, lost) = (0, true),
                Waited::Notified(_) => (mine, lost) = (WOKEN, true),
                Waited::TimedOut | Waited::Cancelled => {
                    // Readers may have waited only because we did.
                    self.admit_readers();
                    return false;
                }
            }
        }
    }

    /// Under the queue's lock: says that we are about to wait, and that we no longer compete (`mine`). False: no need to wait.
    fn announce(&self, kind: Kind, first: bool, mine: usize) -> bool {
        // Relaxed: the word's bits are all that these tell; whoever unlocks sees them in its own read-modify-write.
        let mut state = self.state.load(Ordering::Relaxed);
        while locked(state, kind, first).is_none() {
            let new = state & !mine | WAITERS;
            match self.state.compare_exchange_weak(state, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Unlocks for one reader, which the caller is.
    #[inline]
    fn release_shared(&self, fair: bool) {
        // Release: pairs with the Acquire of the next writer.
        let state = self.state.fetch_sub(READER, Ordering::Release) - READER;
        if state < READER && state & WAITERS != 0 && (state & WOKEN == 0 || fair) {
            self.release_shared_slow(fair);
        }
    }

    /// The last reader has left a lock that is waited for: wakes the first waiter, if it is still so.
    #[cold]
    fn release_shared_slow(&self, fair: bool) {
        let queue = self.queue.lock();
        // Relaxed: the compare-and-swap decides.
        let mut state = self.state.load(Ordering::Relaxed);
        // Whoever has locked it meanwhile, or competes for it, does what is to do.
        while state & WRITER == 0 && state < READER && state & WAITERS != 0 && (state & WOKEN == 0 || fair) {
            // Acquire: pairs with the Release of the other readers, for the waiter that we may hand the lock to.
            match self.state.compare_exchange_weak(
                state,
                state | WRITER,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return self.pass_on(queue, fair),
                Err(now) => state = now,
            }
        }
    }

    /// Unlocks for the writer, which the caller is.
    #[inline]
    fn release_exclusive(&self, fair: bool) {
        // The load saves an exchange that must fail; the line is ours, as the lock is.
        // Release: pairs with the Acquire of whoever locks next.
        if self.state.load(Ordering::Relaxed) != WRITER
            || self.state.compare_exchange(WRITER, 0, Ordering::Release, Ordering::Relaxed).is_err()
        {
            self.release_exclusive_slow(fair);
        }
    }

    #[cold]
    fn release_exclusive_slow(&self, fair: bool) {
        // Relaxed: the compare-and-swap decides.
        let mut state = self.state.load(Ordering::Relaxed);
        // Nobody waits, or one competes already: it will take the lock, or be handed it.
        while state & WAITERS == 0 || (state & WOKEN != 0 && !fair) {
            // Release: as in `release_exclusive`.
            match self.state.compare_exchange_weak(
                state,
                state & !WRITER,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
        self.pass_on(self.queue.lock(), fair);
    }

    /// Gives WRITER, which the caller holds, to the first waiter, or gives it up and wakes the first waiter.
    fn pass_on(&self, mut queue: LockGuard<'_, Queue<()>>, fair: bool) {
        let Some(first) = queue.waiters.pop() else {
            // Release: pairs with the Acquire of whoever locks next.
            self.state.fetch_and(!(WRITER | WAITERS), Ordering::Release);
            return;
        };
        let rest = if queue.waiters.is_empty() { WAITERS } else { 0 };
        let handed = fair || first.token() & LOST != 0;
        let writes = first.token() & WRITES != 0;
        // What the word becomes apart from `rest`: another writer's, a reader's, or free and competed for.
        let next = |state: usize| match (handed, writes) {
            (true, true) => state,
            (true, false) => state - WRITER + READER,
            (false, _) => state & !WRITER | WOKEN,
        };
        // Relaxed: the compare-and-swap decides.
        let mut state = self.state.load(Ordering::Relaxed);
        // Release: as above. WRITER is ours, so only the other bits can change meanwhile.
        while let Err(now) =
            self.state.compare_exchange_weak(state, next(state) & !rest, Ordering::Release, Ordering::Relaxed)
        {
            state = now;
        }
        drop(queue);
        first.wake(if handed { YOURS } else { COMPETE });
        if handed && !writes {
            self.admit_readers();
        }
    }

    /// Lets the readers at the front of the queue in, unless a writer holds the lock.
    #[cold]
    fn admit_readers(&self) {
        loop {
            let mut batch = Batch::new();
            let mut refused = None;
            let mut queue = self.queue.lock();
            while !batch.is_full()
                && let Some(reader) = queue.waiters.pop_if(|token| token & WRITES == 0)
            {
                // Acquire, in `take`: pairs with the last writer's Release, for the reader.
                if self.take(Kind::ReadAgain, true, 0) {
                    batch.push(reader);
                } else {
                    refused = Some(reader);
                    break;
                }
            }
            if queue.waiters.is_empty() {
                // Relaxed: no data goes with this bit.
                self.state.fetch_and(!WAITERS, Ordering::Relaxed);
            }
            drop(queue);
            let done = !batch.is_full();
            batch.wake(YOURS);
            if let Some(reader) = refused {
                reader.wake(RETRY);
            }
            if done {
                return;
            }
        }
    }
}
