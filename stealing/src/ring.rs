//! A bounded ring that its owner fills and empties and thieves take the oldest item of.
//!
//! Built on crossbeam-deque, held to at most `ROOM` items: below its minimal capacity it neither grows nor shrinks, so
//! it never allocates or frees after construction. Its owner's end does not touch thread-local data; its thieves'
//! end pins an epoch, which does.

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;

use crossbeam_deque::{Steal, Stealer, Worker};

use crate::list::Link;

/// What a ring holds at most.
pub(crate) const ROOM: usize = 63;

/// A pointer to an item, which may go to other threads.
struct Ptr<T>(NonNull<T>);
// SAFETY: `Link` says that pointers to items may be sent.
unsafe impl<T: Link> Send for Ptr<T> {}

/// Which end the owner takes from. Thieves always take the oldest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// The owner takes the oldest.
    Fifo,
    /// The owner takes the newest.
    Lifo,
}

/// See the module's header.
pub(crate) struct Ring<T: Link> {
    /// The owner's end: used by the owner only.
    worker: UnsafeCell<Worker<Ptr<T>>>,
    /// The thieves' end: shared.
    stealer: Stealer<Ptr<T>>,
}

// SAFETY: `worker` is used by the owner only (unsafe methods), `stealer` is Sync.
unsafe impl<T: Link> Sync for Ring<T> {}
// SAFETY: both ends are Send for items that are.
unsafe impl<T: Link> Send for Ring<T> {}

impl<T: Link> Ring<T> {
    pub(crate) fn new(order: Order) -> Self {
        let worker = match order {
            Order::Fifo => Worker::new_fifo(),
            Order::Lifo => Worker::new_lifo(),
        };
        let stealer = worker.stealer();
        Ring { worker: UnsafeCell::new(worker), stealer }
    }

    /// # Safety
    /// The caller is the owner, masked.
    #[inline(always)]
    unsafe fn worker(&self) -> &Worker<Ptr<T>> {
        // SAFETY: only the owner makes such a reference, and only a shared one.
        unsafe { &*self.worker.get() }
    }

    /// Adds an item, or gives it back if the ring is full.
    ///
    /// # Safety
    /// The caller is the owner, masked; the item is live until taken out.
    #[inline]
    pub(crate) unsafe fn push(&self, item: NonNull<T>) -> Result<(), NonNull<T>> {
        // SAFETY: the caller's promise.
        let worker = unsafe { self.worker() };
        if worker.len() >= ROOM {
            return Err(item);
        }
        worker.push(Ptr(item));
        Ok(())
    }

    /// Takes an item out at the owner's end.
    ///
    /// # Safety
    /// The caller is the owner, masked.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.worker() }.pop().map(|p| p.0)
    }

    /// As [`is_empty`](Self::is_empty), for the owner: without a fence.
    ///
    /// # Safety
    /// The caller is the owner, masked.
    #[inline]
    pub(crate) unsafe fn owner_is_empty(&self) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.worker() }.is_empty()
    }

    /// Takes the oldest item out. Any thread, on a native identity.
    #[inline]
    pub(crate) fn steal(&self) -> Option<NonNull<T>> {
        if self.is_empty() {
            return None;
        }
        for _ in 0..4 {
            match self.stealer.steal() {
                Steal::Success(p) => return Some(p.0),
                Steal::Empty => return None,
                Steal::Retry => core::hint::spin_loop(),
            }
        }
        None
    }

    pub(crate) fn len(&self) -> usize {
        self.stealer.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stealer.is_empty()
    }
}

/// Registers the calling thread with the epoch collector, which allocates.
pub(crate) fn prewarm() {
    let worker: Worker<u8> = Worker::new_fifo();
    let _ = worker.stealer().steal();
}

impl<T: Link> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("len", &self.len()).finish_non_exhaustive()
    }
}
