//! A queue that every thread can reach: a list under a spinlock, and its length outside of it.
//!
//! For: work from outside the workers, overflow, and the two lists of a worker that others push to. Not for: the
//! hot path of a worker that feeds itself ([`RunQueue`](crate::RunQueue) has rings for that). The length can be
//! read from anywhere, so nobody takes the lock to find the queue empty.
//!
//! Rejected: crossbeam's injector, which allocates a block every 63 items.

use core::fmt;
use core::ptr::NonNull;

use crate::const_fn;
use crate::list::{Link, List};
use crate::spin::SpinLock;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// An unbounded first-in first-out queue of intrusive items.
///
/// | field | who writes | who reads | when |
/// |---|---|---|---|
/// | `list` | any thread, masked | the same | under the lock |
/// | `len` | the lock's holder | anyone, also signal handlers | any time; a hint except under the lock |
pub struct Injector<T: Link> {
    list: SpinLock<List<T>>,
    len: AtomicUsize,
}

impl<T: Link> Injector<T> {
    const_fn! {
        /// An empty queue.
        pub fn new() -> Self {
            Injector { list: SpinLock::new(List::new()), len: AtomicUsize::new(0) }
        }
    }

    /// Adds an item at the end. Any thread, masked.
    ///
    /// # Safety
    /// `item` is live, stays so until it is taken out, and is in no list or queue of this crate.
    #[inline]
    pub unsafe fn push(&self, item: NonNull<T>) {
        let mut list = self.list.lock();
        // SAFETY: the caller's promise.
        unsafe { list.push_back(item) };
        // Release: who reads the new length and then takes the lock finds at least what was counted (the lock
        // itself orders the rest). For sleepers, the fence of `Idle::notify_one` orders it.
        self.len.store(list.len(), Ordering::Release);
    }

    /// Adds an item at the front. Any thread, masked.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    #[inline]
    pub unsafe fn push_front(&self, item: NonNull<T>) {
        let mut list = self.list.lock();
        // SAFETY: the caller's promise.
        unsafe { list.push_front(item) };
        // Release: as in `push`.
        self.len.store(list.len(), Ordering::Release);
    }

    /// Adds all items of a list at the end, under one locking. Any thread, masked.
    #[inline]
    pub fn push_all(&self, items: List<T>) {
        if items.is_empty() {
            return;
        }
        let mut list = self.list.lock();
        list.append(items);
        // Release: as in `push`.
        self.len.store(list.len(), Ordering::Release);
    }

    /// Takes the oldest item out. Any thread, masked. Costs one load if the queue is empty.
    #[inline]
    pub fn pop(&self) -> Option<NonNull<T>> {
        if self.is_empty() {
            return None;
        }
        let mut list = self.list.lock();
        let item = list.pop_front();
        // Release: as in `push`.
        self.len.store(list.len(), Ordering::Release);
        item
    }

    /// Adds `item` at the end and takes the oldest out, under one locking: `item` itself if it is alone. Any thread,
    /// masked.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    #[inline]
    pub unsafe fn rotate(&self, item: NonNull<T>) -> NonNull<T> {
        let mut list = self.list.lock();
        match list.pop_front() {
            Some(oldest) => {
                // SAFETY: the caller's promise.
                unsafe { list.push_back(item) };
                oldest
            }
            None => item,
        }
    }

    /// Takes up to `max` of the oldest items out. Any thread, masked.
    #[inline]
    pub fn pop_many(&self, max: usize) -> List<T> {
        let mut taken = List::new();
        if self.is_empty() {
            return taken;
        }
        let mut list = self.list.lock();
        while taken.len() < max
            && let Some(item) = list.pop_front()
        {
            // SAFETY: it was queued, so it is live; it has just been taken out.
            unsafe { taken.push_back(item) };
        }
        // Release: as in `push`.
        self.len.store(list.len(), Ordering::Release);
        taken
    }

    /// Number of items, perhaps out of date. Anywhere.
    #[inline]
    pub fn len(&self) -> usize {
        // Acquire pairs with the releases above.
        self.len.load(Ordering::Acquire)
    }

    /// True if there were no items. Anywhere.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Link> Default for Injector<T> {
    fn default() -> Self {
        Injector::new()
    }
}

impl<T: Link> fmt::Debug for Injector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::{Item, items};

    #[test]
    fn keeps_order_and_counts() {
        let items = items(5);
        let q: Injector<Item> = Injector::new();
        let mut list = List::new();
        // SAFETY: the items outlive the queue and are pushed once.
        unsafe {
            q.push(items[0].ptr());
            list.push_back(items[1].ptr());
            list.push_back(items[2].ptr());
        }
        q.push_all(list);
        assert_eq!(q.len(), 3);
        assert_eq!(q.pop().map(Item::number), Some(0));
        // SAFETY: as above.
        assert_eq!(Item::number(unsafe { q.rotate(items[3].ptr()) }), 1);
        assert_eq!(q.len(), 2);
        let mut two = q.pop_many(9);
        assert_eq!(two.len(), 2);
        assert_eq!(two.pop_front().map(Item::number), Some(2));
        assert_eq!(two.pop_front().map(Item::number), Some(3));
        assert!(q.is_empty() && q.pop().is_none());
        // SAFETY: as above.
        assert_eq!(Item::number(unsafe { q.rotate(items[4].ptr()) }), 4);
        assert!(q.is_empty());
    }
}
