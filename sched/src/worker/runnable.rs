//! What a run queue holds: a task that has not started, or an identity with a started fiber on it. Both begin with this header.

use std::cell::Cell;
use std::ptr::NonNull;
use unyield_stealing::list::Link;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Task,
    Identity,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct Runnable {
    link: Cell<Option<NonNull<Runnable>>>,
    pub(crate) kind: Kind,
}

impl Runnable {
    pub(crate) const fn new(kind: Kind) -> Self {
        Runnable { link: Cell::new(None), kind }
    }
}

// SAFETY: the link is a field of its own that only the list which holds the item touches.
unsafe impl Link for Runnable {
    fn link(this: NonNull<Self>) -> NonNull<Cell<Option<NonNull<Self>>>> {
        // SAFETY: `this` is live while it is in a list.
        unsafe { NonNull::from(&(*this.as_ptr()).link) }
    }
}
