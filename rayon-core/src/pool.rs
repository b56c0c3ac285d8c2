//! A pool, as programs hold it.

use crate::broadcast::{BroadcastContext, broadcast_in, spawn_broadcast_in};
use crate::current;
use crate::join::join;
use crate::registry::{self, Registry};
use crate::scope::{self, Scope, ScopeFifo};
use crate::spawn::{spawn_fifo_in, spawn_in};
use crate::yields::{self, Yield};
use std::error::Error;
use std::fmt;
use std::ptr::NonNull;

/// Workers, and the fibers that run on them. Made by [`ThreadPoolBuilder`](crate::ThreadPoolBuilder).
///
/// Dropping it ends the pool as soon as all jobs that were spawned in it are done; the drop does not wait for that. Fibers that were spawned there by other ways
/// (`unyield::spawn` in a job) are cancelled then.
pub struct ThreadPool {
    registry: NonNull<Registry>,
}

// SAFETY: a registry is for all threads.
unsafe impl Send for ThreadPool {}
// SAFETY: as above.
unsafe impl Sync for ThreadPool {}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: our own, from `with`; nobody has `self` any more.
        unsafe { Registry::let_go(self.registry) };
    }
}

impl ThreadPool {
    pub(crate) fn with(registry: &'static Registry) -> ThreadPool {
        ThreadPool { registry: NonNull::from(registry) }
    }

    /// By its older builder.
    ///
    /// # Errors
    /// As [`ThreadPoolBuilder::build`](crate::ThreadPoolBuilder::build).
    #[deprecated(note = "use `ThreadPoolBuilder::build`")]
    #[allow(deprecated)]
    pub fn new(configuration: crate::Configuration) -> Result<ThreadPool, Box<dyn Error>> {
        Ok(configuration.into_builder().build()?)
    }

    /// For as long as `self`, and then on the pool's own fibers and in what keeps it: jobs that were spawned.
    #[inline]
    fn registry(&self) -> &'static Registry {
        // SAFETY: kept until our drop; those who have it longer see to it, as said.
        unsafe { &*self.registry.as_ptr() }
    }

    /// Calls `op` in the pool, on a fiber of its own (on the calling one, if that belongs to the pool), and waits for it: a fiber of another pool parks.
    ///
    /// # Panics
    /// With the panic of `op`.
    pub fn install<OP, R>(&self, op: OP) -> R
    where
        OP: FnOnce() -> R + Send,
        R: Send,
    {
        self.registry().install(|_| op())
    }

    /// See [`broadcast`](crate::broadcast()).
    ///
    /// # Panics
    /// As there.
    pub fn broadcast<OP, R>(&self, op: OP) -> Vec<R>
    where
        OP: Fn(BroadcastContext<'_>) -> R + Sync,
        R: Send,
    {
        broadcast_in(self.registry(), op)
    }

    /// How many threads, that is, workers, the pool has.
    #[inline]
    pub fn current_num_threads(&self) -> usize {
        self.registry().threads()
    }

    /// The index of the calling fiber, if it belongs to this pool: see [`current_thread_index`].
    #[inline]
    pub fn current_thread_index(&self) -> Option<usize> {
        let registry = self.registry();
        if current::is_in(registry) {
            return Some(registry.own_index());
        }
        registry.indices.use_from_now_on(); // whoever asks here will ask inside
        None
    }

    /// See [`current_thread_has_pending_tasks`]; `None` outside this pool.
    #[inline]
    pub fn current_thread_has_pending_tasks(&self) -> Option<bool> {
        current::is_in(self.registry()).then(current_thread_has_pending_tasks).flatten()
    }

    /// See [`join`](crate::join()).
    ///
    /// # Panics
    /// As there.
    pub fn join<A, B, RA, RB>(&self, oper_a: A, oper_b: B) -> (RA, RB)
    where
        A: FnOnce() -> RA + Send,
        B: FnOnce() -> RB + Send,
        RA: Send,
        RB: Send,
    {
        self.install(|| join(oper_a, oper_b))
    }

    /// See [`scope`](crate::scope()).
    ///
    /// # Panics
    /// As there.
    pub fn scope<'scope, OP, R>(&self, op: OP) -> R
    where
        OP: FnOnce(&Scope<'scope>) -> R + Send,
        R: Send,
    {
        self.install(|| scope::scope(op))
    }

    /// See [`scope_fifo`](crate::scope_fifo).
    ///
    /// # Panics
    /// As there.
    pub fn scope_fifo<'scope, OP, R>(&self, op: OP) -> R
    where
        OP: FnOnce(&ScopeFifo<'scope>) -> R + Send,
        R: Send,
    {
        self.install(|| scope::scope_fifo(op))
    }

    /// See [`in_place_scope`](crate::in_place_scope).
    ///
    /// # Panics
    /// As there.
    pub fn in_place_scope<'scope, OP, R>(&self, op: OP) -> R
    where
        OP: FnOnce(&Scope<'scope>) -> R,
    {
        scope::in_place(self.registry(), op)
    }

    /// See [`in_place_scope_fifo`](crate::in_place_scope_fifo).
    ///
    /// # Panics
    /// As there.
    pub fn in_place_scope_fifo<'scope, OP, R>(&self, op: OP) -> R
    where
        OP: FnOnce(&ScopeFifo<'scope>) -> R,
    {
        scope::in_place_fifo(self.registry(), op)
    }

    /// See [`spawn`](crate::spawn()).
    pub fn spawn<OP>(&self, op: OP)
    where
        OP: FnOnce() + Send + 'static,
    {
        spawn_in(self.registry(), op);
    }

    /// See [`spawn_fifo`](crate::spawn_fifo).
    pub fn spawn_fifo<OP>(&self, op: OP)
    where
        OP: FnOnce() + Send + 'static,
    {
        spawn_fifo_in(self.registry(), op);
    }

    /// See [`spawn_broadcast`](crate::spawn_broadcast).
    pub fn spawn_broadcast<OP>(&self, op: OP)
    where
        OP: Fn(BroadcastContext<'_>) + Send + Sync + 'static,
    {
        spawn_broadcast_in(self.registry(), op);
    }

    /// See [`yield_now`](crate::yield_now); `None` outside this pool.
    pub fn yield_now(&self) -> Option<Yield> {
        current::is_in(self.registry()).then(yields::yield_now).flatten()
    }

    /// See [`yield_local`](crate::yield_local); `None` outside this pool.
    pub fn yield_local(&self) -> Option<Yield> {
        current::is_in(self.registry()).then(yields::yield_local).flatten()
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("num_threads", &self.current_num_threads())
            .field("id", &self.registry)
            .finish()
    }
}

/// How many threads the calling fiber's pool has, or else the global one.
pub fn current_num_threads() -> usize {
    registry::current_or_global().threads()
}

/// Which thread of its pool the calling fiber may say that it is; `None` outside pools.
///
/// The fiber keeps the index until it ends, and has it to itself except while it waits in this crate. The first call in a pool has consequences for all its
/// fibers: see the README.
#[inline]
pub fn current_thread_index() -> Option<usize> {
    match current::registry() {
        Some(registry) => Some(registry.own_index()),
        None => outside(),
    }
}

#[cold]
fn outside() -> Option<usize> {
    let index = current::handler_index();
    if index.is_none() {
        registry::use_global_indices(); // whoever asks here will ask inside
    }
    index
}

/// True if the calling fiber has halves of joins, or its worker has spawned jobs, that nobody has begun. A hint. `None` outside pools.
#[inline]
pub fn current_thread_has_pending_tasks() -> Option<bool> {
    let registry = current::registry()?;
    Some(unyield::raw::shows_forks() || registry.has_own_jobs())
}
