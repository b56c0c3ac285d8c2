//! Items for the black-box tests.

#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]

use std::cell::Cell;
use std::ptr::NonNull;

use unyield_stealing::Link;

/// A numbered item.
pub struct Item {
    link: Cell<Option<NonNull<Item>>>,
    number: usize,
}

// SAFETY: the link is a field that only the queues touch; the number never changes.
unsafe impl Link for Item {
    fn link(this: NonNull<Self>) -> NonNull<Cell<Option<NonNull<Self>>>> {
        // SAFETY: `this` is live, so its fields have addresses.
        unsafe { NonNull::new_unchecked(&raw mut (*this.as_ptr()).link) }
    }
}

// SAFETY: what is shared is the number; the link belongs to one queue at a time.
unsafe impl Sync for Item {}

impl Item {
    pub fn ptr(&self) -> NonNull<Item> {
        NonNull::from(self)
    }
}

/// The number of a live item.
pub fn number(item: NonNull<Item>) -> usize {
    // SAFETY: the tests keep their items until the end.
    unsafe { item.as_ref() }.number
}

/// Items 0 to `n - 1`.
pub fn items(n: usize) -> Box<[Item]> {
    (0..n).map(|number| Item { link: Cell::new(None), number }).collect()
}
