//! Identities at rest that no worker keeps, and the registry of all that exist.

use super::Identity;
use crate::fiber::task::Task;
use crate::lock::Lock;
use std::cell::Cell;
use std::ptr::null;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicUsize, fence};
use unyield_stealing::fence as asymmetric;

pub(crate) struct Pool {
    first: Lock<Cell<*const Identity>>,
    len: AtomicUsize,
    /// All identities of the runtime. A plain thread's lock: only the service, shutdown and walks take it, never masked code.
    all: parking_lot::Mutex<Vec<&'static Identity>>,
}

// SAFETY: pointers under the lock; identities are Sync.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// How many walks are going on in the process: a task that ends meanwhile waits before it lets go of its memory.
static WALKS: AtomicUsize = AtomicUsize::new(0);

impl Pool {
    pub(crate) fn new() -> Self {
        Pool {
            first: Lock::new(Cell::new(null())),
            len: AtomicUsize::new(0),
            all: parking_lot::Mutex::new(Vec::new()),
        }
    }

    /// Last in, first out: what was used last has its pages and its allocator's cache warm.
    pub(crate) fn push(&self, identity: &Identity) {
        let first = self.first.lock();
        identity.next_free.set(first.get());
        first.set(identity);
        self.len.fetch_add(1, SeqCst); // Dekker with a worker that goes to sleep for want of one
    }

    pub(crate) fn pop(&self) -> Option<&'static Identity> {
        if self.len.load(Relaxed) == 0 {
            return None;
        }
        let first = self.first.lock();
        // SAFETY: pooled identities are alive.
        let identity = unsafe { first.get().as_ref() }?;
        first.set(identity.next_free.get());
        self.len.fetch_sub(1, Relaxed);
        Some(identity)
    }

    /// True if an identity rests here.
    pub(crate) fn has_some(&self) -> bool {
        self.len.load(SeqCst) != 0
    }

    /// Plain threads only.
    pub(crate) fn register(&self, identity: &'static Identity) {
        self.all.lock().push(identity);
    }

    /// Plain threads only.
    pub(crate) fn unregister(&self, identity: &Identity) {
        self.all.lock().retain(|other| !std::ptr::eq(*other, identity));
    }

    /// Takes all identities: the end of the runtime.
    pub(crate) fn take_all(&self) -> Vec<&'static Identity> {
        std::mem::take(&mut *self.all.lock())
    }

    pub(crate) fn registered(&self) -> usize {
        self.all.lock().len()
    }

    /// Calls `f` for the task of every started fiber. Plain threads only; `f` must not block for long: fibers that end meanwhile wait for it.
    ///
    /// An asymmetric Dekker pair with `Identity::wait_for_walk`: either the walk sees that the task has ended, or the fiber sees the walk and waits.
    pub(crate) fn for_each_task(&self, mut f: impl FnMut(&Task)) {
        let all = self.all.lock();
        WALKS.fetch_add(1, SeqCst);
        asymmetric::heavy();
        for identity in all.iter() {
            // SAFETY: see above: while the walk goes on, a task that an identity names is not released by its fiber.
            if let Some(task) = unsafe { identity.task.load(Acquire).as_ref() } {
                f(task);
            }
        }
        WALKS.fetch_sub(1, SeqCst);
    }
}

impl Identity {
    /// The fiber has let go of its task: if a walk may still look at it, wait.
    #[inline]
    pub(crate) fn wait_for_walk(&self) {
        asymmetric::light();
        if WALKS.load(Relaxed) != 0 {
            Self::wait_for_walk_slowly();
        }
    }

    #[cold]
    fn wait_for_walk_slowly() {
        while WALKS.load(SeqCst) != 0 {
            // SAFETY: gives the CPU to the walking thread; unmasked.
            unsafe { libc::sched_yield() };
        }
        fence(Acquire);
    }
}
