//! A counting semaphore. A permit that is released while somebody waits goes to the first waiter, never back to the count: so
//! permits are given out in the order in which they were asked for, and there are free ones only if nobody waits.

use std::fmt;
use std::time::{Duration, Instant};

use super::wait_queue::{self, Patience, Place, WaitQueue, Waited};
use crate::park::unwind_cancelled;

/// A counting semaphore: the old `std::sync::Semaphore`'s methods, first in, first out.
///
/// Permits are not bound to who took them: one fiber may acquire and another release. [`Semaphore::access`] ties a permit to a guard.
///
/// # Contexts
/// Acquiring: fibers (parks) and plain threads (blocks); panics inside a critical section if it has to wait; a
/// cancellation point, without a permit taken. `try_acquire` and `release`: also inside critical sections. None in handlers.
///
/// # Examples
/// ```
/// use unyield::sync::Semaphore;
///
/// static CONNECTIONS: Semaphore = Semaphore::new(2);
///
/// let _first = CONNECTIONS.access();
/// CONNECTIONS.acquire();
/// assert!(!CONNECTIONS.try_acquire());
/// CONNECTIONS.release();
/// assert_eq!(CONNECTIONS.available_permits(), 1);
/// ```
pub struct Semaphore {
    /// The free permits.
    queue: WaitQueue<usize>,
}

/// A permit of a [`Semaphore`], released when dropped.
#[must_use = "the permit is released at once if the guard is not kept"]
pub struct SemaphoreGuard<'a>(&'a Semaphore);

impl Semaphore {
    /// A semaphore with `permits` free permits.
    #[must_use]
    pub const fn new(permits: usize) -> Semaphore {
        Semaphore { queue: WaitQueue::new(permits) }
    }

    /// Takes a permit, and waits for one if none is free.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn acquire(&self) {
        self.acquire_until(None);
    }

    /// Takes a permit, and waits for one for at most `timeout`. False: the time is over.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    #[must_use = "false: no permit was taken"]
    pub fn acquire_timeout(&self, timeout: Duration) -> bool {
        self.try_acquire() || self.acquire_until(wait_queue::deadline(timeout))
    }

    /// Takes a permit, and waits for one until `deadline` at most. False: the time is over.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    #[must_use = "false: no permit was taken"]
    pub fn acquire_deadline(&self, deadline: Instant) -> bool {
        self.acquire_until(Some(deadline))
    }

    /// Takes a permit if one is free.
    #[must_use = "false: no permit was taken"]
    pub fn try_acquire(&self) -> bool {
        take(&mut self.queue.lock().state)
    }

    /// Gives a permit back, or adds one.
    ///
    /// # Panics
    /// If there are `usize::MAX` free permits already.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        let first = queue.waiters.pop();
        let mut fits = true;
        if first.is_none() {
            match queue.state.checked_add(1) {
                Some(permits) => queue.state = permits,
                None => fits = false,
            }
        }
        drop(queue);
        if let Some(first) = first {
            first.wake(0);
        }
        assert!(fits, "too many permits");
    }

    /// As [`Semaphore::acquire`]; the permit is released when the guard is dropped.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn access(&self) -> SemaphoreGuard<'_> {
        self.acquire();
        SemaphoreGuard(self)
    }

    /// As [`Semaphore::try_acquire`]; the permit is released when the guard is dropped.
    #[must_use]
    pub fn try_access(&self) -> Option<SemaphoreGuard<'_>> {
        self.try_acquire().then(|| SemaphoreGuard(self))
    }

    /// How many permits are free. Not 0 only if nobody waits.
    #[must_use]
    pub fn available_permits(&self) -> usize {
        self.queue.lock().state
    }

    fn acquire_until(&self, deadline: Option<Instant>) -> bool {
        let patience = Patience::new(deadline);
        let mut queue = self.queue.lock();
        if take(&mut queue.state) {
            return true;
        }
        let waited = self.queue.wait(queue, patience, "Semaphore::acquire", Place::Back(0), || (), |_, _| ());
        match waited {
            Waited::Notified(_) => true,
            Waited::TimedOut => false,
            Waited::Cancelled => unwind_cancelled(),
        }
    }
}

fn take(permits: &mut usize) -> bool {
    let free = *permits > 0;
    *permits -= usize::from(free);
    free
}

impl Drop for SemaphoreGuard<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available_permits", &self.available_permits()).finish()
    }
}

impl fmt::Debug for SemaphoreGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreGuard").finish_non_exhaustive()
    }
}
