//! Items for the tests of this crate.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::list::Link;

/// A numbered item.
pub(crate) struct Item {
    link: Cell<Option<NonNull<Item>>>,
    number: usize,
}

// SAFETY: the link is a field that only `Link` users touch; the number never changes.
unsafe impl Link for Item {
    fn link(this: NonNull<Self>) -> NonNull<Cell<Option<NonNull<Self>>>> {
        // SAFETY: `this` is live, so its fields have addresses.
        unsafe { NonNull::new_unchecked(&raw mut (*this.as_ptr()).link) }
    }
}

// SAFETY: see `Link`: what is shared is the number; the link belongs to one queue at a time.
unsafe impl Sync for Item {}
// SAFETY: as above.
unsafe impl Send for Item {}

impl Item {
    pub(crate) fn new(number: usize) -> Self {
        Item { link: Cell::new(None), number }
    }

    pub(crate) fn ptr(&self) -> NonNull<Item> {
        NonNull::from(self)
    }

    /// The number of a live item.
    pub(crate) fn number(this: NonNull<Item>) -> usize {
        // SAFETY: the tests keep their items until the end.
        unsafe { this.as_ref() }.number
    }
}

/// Items 0 to `n - 1`.
pub(crate) fn items(n: usize) -> Box<[Item]> {
    (0..n).map(Item::new).collect()
}
