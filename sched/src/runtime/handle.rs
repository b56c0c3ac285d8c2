//! A reference to a running runtime.

use super::{GLOBAL, Runtime, Shared, fork};
use crate::fiber::{JoinHandle, builder, task};
use crate::observe::metrics::RuntimeMetrics;
use crate::preempt::{Mechanism, Preemption, Stealing};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// A cheap, cloneable reference to a running [`Runtime`]. Keeps memory alive, not workers: spawning on a runtime that was shut down panics.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("workers", &self.shared.workers.len()).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Handle { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// As the `Arc` gives it: for the whole allocation, so that a task can make a handle of it.
    pub(crate) fn shared_ptr(&self) -> NonNull<Shared> {
        // SAFETY: never null.
        unsafe { NonNull::new_unchecked(Arc::as_ptr(&self.shared).cast_mut()) }
    }

    pub(crate) fn shared_arc(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The runtime of the running fiber.
    ///
    /// # Panics
    /// Outside a runtime; [`Handle::try_current`] does not.
    pub fn current() -> Handle {
        Handle::try_current().expect("not inside a fiber of a runtime")
    }

    /// The runtime of the running fiber; `None` on a plain thread.
    pub fn try_current() -> Option<Handle> {
        let task = task::current().filter(|_| fork::alive())?;
        let shared = task.runtime_ptr().as_ptr().cast_const();
        // SAFETY: the pointer comes from `shared_ptr`, that is, from the runtime's `Arc`, whose count is raised for the new handle.
        unsafe {
            Arc::increment_strong_count(shared);
            Some(Handle { shared: Arc::from_raw(shared) })
        }
    }

    /// Spawns a fiber on this runtime, from any fiber or OS thread.
    ///
    /// # Panics
    /// If the runtime was shut down; in a forked child.
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        builder::spawn_on(self.shared_ptr(), f)
    }

    /// Workers of the runtime.
    pub fn num_workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// Numbers about what the runtime does.
    pub fn metrics(&self) -> RuntimeMetrics {
        RuntimeMetrics::new(self.clone())
    }

    /// Where its fibers are preempted: what [`Builder::preemption`](crate::runtime::Builder::preemption) asked for, or what is possible here if nothing was asked for.
    pub fn preemption(&self) -> Preemption {
        self.shared.preemption
    }

    /// How the halves of fork-joins become known to idle workers here.
    pub fn stealing(&self) -> Stealing {
        self.shared.stealing
    }

    /// How interrupts are delivered.
    pub fn mechanism(&self) -> Mechanism {
        self.shared.mechanism.into()
    }
}

/// The global runtime's handle.
///
/// # Panics
/// If it cannot be built.
pub(crate) fn global() -> &'static Handle {
    GLOBAL.get_or_init(|| Runtime::new().expect("the global runtime cannot be built")).handle()
}
