//! An intrusive singly-linked FIFO list.
//!
//! For: queues that must hold any number of items without allocating. Not for: sharing; put it into a
//! [`SpinLock`](crate::SpinLock) or use [`Injector`](crate::Injector). May be used from anywhere that owns it.
//!
//! # Invariants
//!
//! - `head` is `None` exactly if `tail` is `None` exactly if `len` is 0.
//! - From `head`, `len - 1` links lead to `tail`; the link of `tail` is `None`.
//! - An item that is in a list is in no other, and its owner keeps it alive and leaves its link alone until it is
//!   taken out (promised by the caller of each push).

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

/// An item that can be queued: it has room for one pointer to the next item.
///
/// # Safety
///
/// - `link` returns the same place for the same item every time, inside memory that lives as long as the item, and
///   nothing but this crate writes to it while the item is queued.
/// - `link` does not panic, allocate, block or look at thread-local data.
/// - Pointers to items may be sent to other threads: who takes an item out of a queue may use it there.
pub unsafe trait Link: Sized {
    /// The place of the link of `this`.
    fn link(this: NonNull<Self>) -> NonNull<Cell<Option<NonNull<Self>>>>;
}

/// Reads the link of an item.
///
/// # Safety
/// `item` is live, and nobody else uses its link during the call.
#[inline(always)]
unsafe fn get<T: Link>(item: NonNull<T>) -> Option<NonNull<T>> {
    // SAFETY: `Link` promises a valid place for a live item; the caller promises that we are alone.
    unsafe { T::link(item).as_ref() }.get()
}

/// Writes the link of an item.
///
/// # Safety
/// As for [`get`].
#[inline(always)]
unsafe fn set<T: Link>(item: NonNull<T>, next: Option<NonNull<T>>) {
    // SAFETY: `Link` promises a valid place for a live item; the caller promises that we are alone.
    unsafe { T::link(item).as_ref() }.set(next);
}

/// A first-in first-out list that is threaded through its items.
///
/// Dropping a list forgets what is in it: the items belong to whoever queued them.
pub struct List<T: Link> {
    head: Option<NonNull<T>>,
    tail: Option<NonNull<T>>,
    len: usize,
}

// SAFETY: a list owns the right to use the links of its items, wherever it goes; `Link` says that the items
// themselves may go too.
unsafe impl<T: Link> Send for List<T> {}

impl<T: Link> List<T> {
    /// An empty list.
    pub const fn new() -> Self {
        List { head: None, tail: None, len: 0 }
    }

    /// Number of items.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if there are no items.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item at the end.
    ///
    /// # Safety
    /// `item` is live, stays so until it is taken out, and is in no list or queue of this crate.
    #[inline]
    pub unsafe fn push_back(&mut self, item: NonNull<T>) {
        // SAFETY: the caller's promise is the one that `set` asks for.
        unsafe { set(item, None) };
        match self.tail {
            // SAFETY: an item of this list is live, and its link is ours (module invariants).
            Some(tail) => unsafe { set(tail, Some(item)) },
            None => self.head = Some(item),
        }
        self.tail = Some(item);
        self.len += 1;
    }

    /// Adds an item at the front: the next one that [`pop_front`](Self::pop_front) returns.
    ///
    /// # Safety
    /// As for [`push_back`](Self::push_back).
    #[inline]
    pub unsafe fn push_front(&mut self, item: NonNull<T>) {
        // SAFETY: the caller's promise is the one that `set` asks for.
        unsafe { set(item, self.head) };
        self.head = Some(item);
        if self.tail.is_none() {
            self.tail = Some(item);
        }
        self.len += 1;
    }

    /// Takes the oldest item out.
    #[inline]
    pub fn pop_front(&mut self) -> Option<NonNull<T>> {
        let item = self.head?;
        // SAFETY: an item of this list is live, and its link is ours (module invariants).
        self.head = unsafe { get(item) };
        if self.head.is_none() {
            self.tail = None;
        }
        self.len -= 1;
        Some(item)
    }

    /// Moves all items of `other` behind those of this list, in their order. Takes constant time.
    #[inline]
    pub fn append(&mut self, other: List<T>) {
        let Some(head) = other.head else { return };
        match self.tail {
            // SAFETY: an item of this list is live, and its link is ours (module invariants).
            Some(tail) => unsafe { set(tail, Some(head)) },
            None => self.head = Some(head),
        }
        self.tail = other.tail;
        self.len += other.len;
    }

    /// Takes all items out, as a list of their own.
    #[inline]
    pub fn take(&mut self) -> List<T> {
        core::mem::take(self)
    }
}

impl<T: Link> Default for List<T> {
    fn default() -> Self {
        List::new()
    }
}

impl<T: Link> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::{Item, items};

    fn numbers(list: &mut List<Item>) -> Vec<usize> {
        std::iter::from_fn(|| list.pop_front()).map(Item::number).collect()
    }

    #[test]
    fn is_first_in_first_out() {
        let items = items(3);
        let mut list = List::new();
        assert!(list.pop_front().is_none());
        for item in &items {
            // SAFETY: the items outlive the list and are pushed once.
            unsafe { list.push_back(item.ptr()) };
        }
        assert_eq!(list.len(), 3);
        assert_eq!(numbers(&mut list), [0, 1, 2]);
        assert!(list.is_empty());
        // SAFETY: as above; it has been taken out.
        unsafe { list.push_back(items[1].ptr()) };
        assert_eq!(numbers(&mut list), [1]);
    }

    #[test]
    fn front_goes_first() {
        let items = items(3);
        let mut list = List::new();
        // SAFETY: the items outlive the list and are pushed once.
        unsafe {
            list.push_front(items[0].ptr());
            list.push_back(items[1].ptr());
            list.push_front(items[2].ptr());
        }
        assert_eq!(numbers(&mut list), [2, 0, 1]);
    }

    #[test]
    fn append_keeps_the_order() {
        let items = items(4);
        let (mut a, mut b) = (List::new(), List::new());
        a.append(List::new());
        // SAFETY: the items outlive the lists and are pushed once.
        unsafe {
            b.push_back(items[0].ptr());
            b.push_back(items[1].ptr());
        }
        a.append(b.take());
        assert!(b.is_empty());
        // SAFETY: as above.
        unsafe {
            b.push_back(items[2].ptr());
            b.push_back(items[3].ptr());
        }
        a.append(b);
        a.append(List::new());
        assert_eq!(a.len(), 4);
        assert_eq!(numbers(&mut a), [0, 1, 2, 3]);
    }
}
