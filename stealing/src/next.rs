//! The slot for the item that a worker runs next.
//!
//! For: the partner of a hand-over (a fiber that has just been woken by the one that is about to wait), which finds
//! its data in the cache. Not for: anything that must wait its turn. One worker puts, anyone takes; every access
//! that moves an item is a swap, so an item has one taker.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::list::Link;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::{const_fn, mutant};

/// A place for one item, or none.
pub(crate) struct NextSlot<T: Link> {
    item: AtomicPtr<T>,
    marker: PhantomData<NonNull<T>>,
}

// SAFETY: the slot moves pointers to items from thread to thread, which `Link` allows.
unsafe impl<T: Link> Send for NextSlot<T> {}
// SAFETY: as above; all access is atomic.
unsafe impl<T: Link> Sync for NextSlot<T> {}

impl<T: Link> NextSlot<T> {
    const_fn! {
        pub(crate) fn new() -> Self {
            NextSlot { item: AtomicPtr::new(ptr::null_mut()), marker: PhantomData }
        }
    }

    /// Puts an item in and returns the one that was there. One thread only, the owner of the slot.
    #[inline]
    pub(crate) fn replace(&self, item: NonNull<T>) -> Option<NonNull<T>> {
        if self.is_empty() {
            // Nobody else puts, so it stays empty. Release: as below.
            self.item.store(item.as_ptr(), Ordering::Release);
            return None;
        }
        // Release: what the owner wrote to the item is seen by its taker. Acquire: the same for what was displaced.
        NonNull::new(self.item.swap(item.as_ptr(), Ordering::AcqRel))
    }

    /// Takes the item out. Any thread. Costs one load if there is none.
    #[inline]
    pub(crate) fn take(&self) -> Option<NonNull<T>> {
        if self.is_empty() {
            return None;
        }
        if mutant!("next-load-store") {
            let item = self.item.load(Ordering::Acquire);
            self.item.store(ptr::null_mut(), Ordering::Release);
            return NonNull::new(item);
        }
        // Acquire pairs with the release of `replace`.
        NonNull::new(self.item.swap(ptr::null_mut(), Ordering::Acquire))
    }

    /// True if there was none. Anywhere.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: a hint; the taker's swap pairs.
        self.item.load(Ordering::Relaxed).is_null()
    }
}

impl<T: Link> fmt::Debug for NextSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NextSlot").field(&self.item.load(Ordering::Relaxed)).finish()
    }
}
