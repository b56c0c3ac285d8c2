//! Identities at rest that no worker keeps, and the registry of all that exist.

use super::Identity;
use crate::fiber::task::Task;
use crate::lock::Lock;
use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ptr::null;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicUsize, fence};
use unyield_stealing::fence as asymmetric;

pub(crate) struct Pool {
    first: Lock<Cell<*const Identity>>,
    len: AtomicUsize,
    /// The least that has been here since the last trimming; written under the lock.
    unused: AtomicUsize,
    /// All identities of the runtime. A plain thread's lock: only the service, shutdown and walks take it, never masked code.
    all: parking_lot::Mutex<HashSet<ByAddress>>,
}

/// An identity as a member of a set.
#[derive(Clone, Copy)]
struct ByAddress(&'static Identity);

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for ByAddress {}

impl Hash for ByAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&raw const *self.0).hash(state);
    }
}

/// So many identities stay in the pool however long they are not used.
pub(crate) const KEEP: usize = 64;

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
            unused: AtomicUsize::new(0),
            all: parking_lot::Mutex::new(HashSet::new()),
        }
    }

    /// Takes out, oldest use last, what has not been needed since the last call; at most `limit`, and never the last [`KEEP`]. Plain threads.
    pub(crate) fn trim(&self, limit: usize) -> Vec<&'static Identity> {
        let (len, unused) = {
            let _first = self.first.lock();
            let len = self.len.load(Relaxed);
            (len, self.unused.swap(len, Relaxed))
        };
        let surplus = unused.min(len.saturating_sub(KEEP)).min(limit);
        (0..surplus).map_while(|_| self.pop()).collect()
    }

    /// True if there is enough to trim.
    pub(crate) fn is_rich(&self) -> bool {
        self.len.load(Relaxed) > KEEP
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
        let left = self.len.fetch_sub(1, Relaxed) - 1;
        if left < self.unused.load(Relaxed) {
            self.unused.store(left, Relaxed);
        }
        Some(identity)
    }

    /// True if an identity rests here.
    pub(crate) fn has_some(&self) -> bool {
        self.len.load(SeqCst) != 0
    }

    /// Plain threads only.
    pub(crate) fn register(&self, identity: &'static Identity) {
        self.all.lock().insert(ByAddress(identity));
    }

    /// Plain threads only.
    pub(crate) fn unregister(&self, identity: &'static Identity) {
        self.all.lock().remove(&ByAddress(identity));
    }

    /// Takes all identities: the end of the runtime.
    pub(crate) fn take_all(&self) -> Vec<&'static Identity> {
        std::mem::take(&mut *self.all.lock()).into_iter().map(|member| member.0).collect()
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
        for ByAddress(identity) in all.iter() {
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
