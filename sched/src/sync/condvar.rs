//! The condition variable, on the mutex of this module.
//!
//! Waiters queue before the mutex is unlocked, so a notification that follows the unlock finds them. A notified waiter locks
//! the mutex like anybody else. Rejected: moving waiters to the mutex's queue (parking_lot's requeueing), which saves a
//! switch only if the notifier holds the mutex, and would tie a condition variable to one mutex.

use std::fmt;
use std::ops::DerefMut;
use std::time::{Duration, Instant};

use lock_api::RawMutex as _;

use super::atomic::{AtomicBool, Ordering};
use super::raw_mutex::{MutexGuard, RawMutex};
use super::wait_queue::{self, Patience, Place, WaitQueue, Waited};
use crate::park::unwind_cancelled;

/// A condition variable: `parking_lot`'s, for the [`Mutex`](super::Mutex) of this module.
///
/// Wake-ups may be spurious: check the condition in a loop, or use [`Condvar::wait_while`]. Unlike `parking_lot`'s it may be
/// used with several mutexes at once.
///
/// # Contexts
/// Waiting: fibers (parks) and plain threads (blocks); panics inside a critical section, with the mutex still held. Notifying:
/// also inside critical sections. Neither in handlers. A fiber that is cancelled while it waits locks the mutex again and unwinds.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use unyield::sync::{Condvar, Mutex};
///
/// let pair = Arc::new((Mutex::new(false), Condvar::new()));
/// let setter = {
///     let pair = Arc::clone(&pair);
///     std::thread::spawn(move || {
///         *pair.0.lock() = true;
///         pair.1.notify_one();
///     })
/// };
/// let mut ready = pair.0.lock();
/// while !*ready {
///     pair.1.wait(&mut ready);
/// }
/// # drop(ready);
/// # setter.join().unwrap();
/// ```
pub struct Condvar {
    /// Whether the queue may have waiters: written under its lock, read without by notifiers.
    waiting: AtomicBool,
    queue: WaitQueue<()>,
}

/// Whether a timed wait on a [`Condvar`] ended by its timeout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// True if the time was over before a notification came.
    #[inline]
    #[must_use]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// A condition variable that nobody waits on.
    #[inline]
    #[must_use]
    pub const fn new() -> Condvar {
        Condvar { waiting: AtomicBool::new(false), queue: WaitQueue::new(()) }
    }

    /// Unlocks the mutex and waits for a notification, as one step, then locks the mutex again.
    ///
    /// # Panics
    /// Inside a critical section; the mutex stays held.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_deadline(guard, None);
    }

    /// As [`Condvar::wait`], for at most `timeout`. Locking the mutex again may take longer.
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    pub fn wait_for<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        self.wait_deadline(guard, wait_queue::deadline(timeout))
    }

    /// As [`Condvar::wait`], until `timeout` at most. Locking the mutex again may take longer.
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    pub fn wait_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: Instant,
    ) -> WaitTimeoutResult {
        self.wait_deadline(guard, Some(timeout))
    }

    /// Waits until `condition`, which is called with the mutex held, returns false.
    ///
    /// # Panics
    /// As [`Condvar::wait`], and if `condition` does.
    pub fn wait_while<T, F>(&self, guard: &mut MutexGuard<'_, T>, mut condition: F)
    where
        T: ?Sized,
        F: FnMut(&mut T) -> bool,
    {
        while condition(guard.deref_mut()) {
            self.wait(guard);
        }
    }

    /// As [`Condvar::wait_while`], for at most `timeout`. It has timed out only if the condition still holds.
    ///
    /// # Panics
    /// As [`Condvar::wait_while`].
    pub fn wait_while_for<T, F>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: F,
        timeout: Duration,
    ) -> WaitTimeoutResult
    where
        T: ?Sized,
        F: FnMut(&mut T) -> bool,
    {
        self.wait_while_deadline(guard, condition, wait_queue::deadline(timeout))
    }

    /// As [`Condvar::wait_while`], until `timeout` at most. It has timed out only if the condition still holds.
    ///
    /// # Panics
    /// As [`Condvar::wait_while`].
    pub fn wait_while_until<T, F>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: F,
        timeout: Instant,
    ) -> WaitTimeoutResult
    where
        T: ?Sized,
        F: FnMut(&mut T) -> bool,
    {
        self.wait_while_deadline(guard, condition, Some(timeout))
    }

    /// Wakes the one that has waited longest. False: nobody waits.
    #[inline]
    pub fn notify_one(&self) -> bool {
        // Relaxed: a waiter that the caller's change of the condition concerns has set this before it unlocked the mutex that
        // the change was made under.
        self.waiting.load(Ordering::Relaxed) && self.notify_one_slow()
    }

    #[cold]
    fn notify_one_slow(&self) -> bool {
        let mut queue = self.queue.lock();
        let first = queue.waiters.pop();
        self.note_waiting(!queue.waiters.is_empty());
        drop(queue);
        first.map(|w| w.wake(0)).is_some()
    }

    /// Wakes all that wait now, and says how many.
    #[inline]
    pub fn notify_all(&self) -> usize {
        // Relaxed: as in `notify_one`.
        if self.waiting.load(Ordering::Relaxed) { self.notify_all_slow() } else { 0 }
    }

    #[cold]
    fn notify_all_slow(&self) -> usize {
        let woken = self.queue.wake_all(0);
        let queue = self.queue.lock();
        self.note_waiting(!queue.waiters.is_empty());
        woken
    }

    /// Under the queue's lock.
    fn note_waiting(&self, waiting: bool) {
        // Relaxed: see `notify_one`.
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    fn wait_deadline<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Option<Instant>,
    ) -> WaitTimeoutResult {
        // SAFETY: the guard is borrowed for as long as we do anything to the lock, and the lock is held when we return or unwind.
        let mutex: &RawMutex = unsafe { MutexGuard::mutex(guard).raw() };
        let patience = Patience::new(deadline);
        patience.check("Condvar");
        let queue = self.queue.lock();
        self.note_waiting(true);
        let waited = self.queue.wait(
            queue,
            patience,
            "Condvar",
            Place::Back(0),
            // SAFETY: the guard says that we hold it.
            || unsafe { mutex.unlock() },
            |q, _| self.note_waiting(!q.waiters.is_empty()),
        );
        mutex.lock();
        match waited {
            Waited::Cancelled => unwind_cancelled(),
            waited => WaitTimeoutResult(waited == Waited::TimedOut),
        }
    }

    fn wait_while_deadline<T, F>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: F,
        deadline: Option<Instant>,
    ) -> WaitTimeoutResult
    where
        T: ?Sized,
        F: FnMut(&mut T) -> bool,
    {
        let mut result = WaitTimeoutResult(false);
        while !result.timed_out() && condition(guard.deref_mut()) {
            result = self.wait_deadline(guard, deadline);
        }
        // It timed out, but the condition may have changed at the last moment.
        WaitTimeoutResult(result.timed_out() && condition(guard.deref_mut()))
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}
