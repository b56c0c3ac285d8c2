//! What the running fiber, or a pool's thread in one of its handlers, is a part of.
//!
//! The cells are thread-local, and each fiber is a thread to them. They are set when a fiber begins as something of a pool's (a job, an `install`, the stolen half of
//! a join, a broadcast) and cleared when that ends, so that whatever the same identity runs next finds them empty.
//!
//! | cell | set by | cleared by |
//! |---|---|---|
//! | `registry` | [`Entered`] | its drop |
//! | `lease` | [`Entered`], or later `index` | its drop |
//! | `began` | [`Entered`], if it has got no lease | |
//! | `ticket` | who begins a job | its drop, or a wait, which sets a new one afterwards |
//! | `handler` | [`InHandlers`], on a pool's own threads | its drop |

use crate::flush::Ticket;
use crate::index::Lease;
use crate::registry::Registry;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::null;
use unyield::raw::Rules;

struct Current {
    registry: Cell<*const Registry>,
    lease: Cell<Option<Lease>>,
    began: Cell<u64>,
    ticket: Cell<Option<Ticket>>,
    handler: Cell<Option<usize>>,
}

thread_local! {
    static CURRENT: Current = const {
        Current {
            registry: Cell::new(null()),
            lease: Cell::new(None),
            began: Cell::new(0),
            ticket: Cell::new(None),
            handler: Cell::new(None),
        }
    };
}

/// The pool that the calling fiber belongs to.
#[inline]
pub(crate) fn registry() -> Option<&'static Registry> {
    let registry = CURRENT.with(|current| current.registry.get());
    // SAFETY: set by `Entered`, on a fiber of the pool's, and a registry outlives all its fibers. As long as the caller uses it, it runs on that fiber, or has
    // something of the pool's that keeps it.
    unsafe { registry.as_ref() }
}

/// True if the calling fiber belongs to this pool.
#[inline]
pub(crate) fn is_in(registry: &Registry) -> bool {
    std::ptr::eq(CURRENT.with(|current| current.registry.get()), registry)
}

/// The index by which the calling thread, which belongs to a pool and runs no fiber, is known to the pool's handlers.
pub(crate) fn handler_index() -> Option<usize> {
    CURRENT.with(|current| current.handler.get())
}

#[inline]
pub(crate) fn lease() -> Option<Lease> {
    CURRENT.with(|current| current.lease.get())
}

/// The calling fiber, of a pool, has got this.
pub(crate) fn set_lease(lease: Lease) {
    let had = CURRENT.with(|current| current.lease.replace(Some(lease)));
    debug_assert!(had.is_none(), "one index for a fiber");
}

/// The calling fiber has begun without an index.
pub(crate) fn number(registry: &Registry) {
    CURRENT.with(|current| current.began.set(registry.indices.number()));
}

/// What [`number`] gave it.
pub(crate) fn began() -> u64 {
    CURRENT.with(|current| current.began.get())
}

/// The calling fiber is running what this was given for.
pub(crate) fn set_ticket(ticket: Ticket) {
    let had = CURRENT.with(|current| current.ticket.replace(Some(ticket)));
    debug_assert!(had.is_none(), "one job at a time");
}

/// While it lives, the calling fiber belongs to a pool.
pub(crate) struct Entered {
    registry: &'static Registry,
    here: PhantomData<*mut ()>,
}

impl Entered {
    /// The calling fiber runs on the registry's runtime and has just begun. If indices are in use there, it has none yet.
    pub(crate) fn bare(registry: &'static Registry) -> Entered {
        let had = CURRENT.with(|current| current.registry.replace(registry));
        debug_assert!(had.is_null(), "a fiber begins once");
        Entered { registry, here: PhantomData }
    }

    /// As [`Entered::bare`]; waits for an index if they are in use.
    #[inline]
    pub(crate) fn new(registry: &'static Registry) -> Entered {
        let entered = Entered::bare(registry);
        if registry.indices.are_used() {
            set_lease(registry.acquire(None));
        } else {
            number(registry);
        }
        entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (lease, ticket) = CURRENT.with(|current| {
            current.registry.set(null());
            (current.lease.take(), current.ticket.take())
        });
        if let Some(lease) = lease {
            self.registry.release(lease);
        }
        if let Some(ticket) = ticket {
            self.registry.flushes[ticket.queue()].leave(ticket);
        }
    }
}

/// While it lives, the calling fiber waits where a thread of rayon's would run other jobs: it gives its index to whoever needs one, and is not what a
/// broadcast has to come after. On other threads it means nothing.
pub(crate) struct Waiting(PhantomData<*mut ()>);

impl Waiting {
    pub(crate) fn begin() -> Waiting {
        Waits::before_wait();
        Waiting(PhantomData)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        Waits::after_wait();
    }
}

/// The same, where `unyield` waits for a stolen half.
pub(crate) struct Waits;

// SAFETY: they lock and wait; nothing in them panics.
unsafe impl Rules for Waits {
    const RUN_BOTH: bool = true;

    fn before_wait() {
        let Some(registry) = registry() else { return };
        // The ticket stays in its cell, to say whose it was.
        if let Some(ticket) = CURRENT.with(|current| current.ticket.get()) {
            registry.flushes[ticket.queue()].leave(ticket);
        }
        if let Some(lease) = lease() {
            registry.lend(lease);
        }
    }

    fn after_wait() {
        let Some(registry) = registry() else { return };
        if let Some(lease) = lease() {
            registry.indices.resume(lease);
        }
        if let Some(ticket) = CURRENT.with(|current| current.ticket.take()) {
            set_ticket(registry.flushes[ticket.queue()].enter(ticket.queue()));
        }
    }
}

/// While it lives, the calling thread is a pool's thread with this index.
pub(crate) struct InHandlers(PhantomData<*mut ()>);

impl InHandlers {
    pub(crate) fn new(index: usize) -> InHandlers {
        CURRENT.with(|current| current.handler.set(Some(index)));
        InHandlers(PhantomData)
    }
}

impl Drop for InHandlers {
    fn drop(&mut self) {
        CURRENT.with(|current| current.handler.set(None));
    }
}
