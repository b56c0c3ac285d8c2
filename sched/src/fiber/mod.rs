//! Fibers, spelt like `std::thread`.
//!
//! Outside a runtime the free functions fall back to the OS thread or use a global runtime, built on first use with defaults. In a child forked from a
//! fiber that fiber is a plain thread: what waits falls back to the OS thread there too, and what spawns panics.
//!
//! Where each may be called is said at each: on a fiber, on a plain thread, inside a critical section ([`critical`](crate::critical)). Nothing here is
//! for signal handlers unless it says so. A cancelled fiber ([`Fiber::cancel`]) unwinds in the waits that say so; while it unwinds, destructors may
//! wait as if it were not cancelled.

pub(crate) mod block_on;
pub(crate) mod builder;
pub(crate) mod cancel;
pub(crate) mod helper;
pub(crate) mod join;
mod join_state;
pub(crate) mod local;
pub(crate) mod os_thread;
pub(crate) mod scope;
pub(crate) mod task;
pub(crate) mod wait;

pub use block_on::block_on;
pub use builder::{Builder, spawn};
pub use join::{JoinError, JoinHandle};
pub use local::LocalKey;
pub use os_thread::{OsThreadGuard, blocking, lock_os_thread};
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use wait::{checkpoint, is_cancelled, park, park_timeout, sleep, sleep_until, yield_now};

use std::fmt;
use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use task::Task;

/// A fiber's number: unique in the process, never reused, in the order of spawning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FiberId(NonZeroU64);

impl FiberId {
    pub(crate) fn next() -> FiberId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // 2^64 fibers are not spawned in the life of a process
        FiberId(NonZeroU64::new(NEXT.fetch_add(1, Relaxed)).unwrap_or(NonZeroU64::MAX))
    }

    /// As a number. Any context.
    pub fn as_u64(self) -> NonZeroU64 {
        self.0
    }
}

impl fmt::Display for FiberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reference to a fiber, as `std::thread::Thread` is to a thread: its name and id, and ways to wake and cancel it. Keeps neither result nor stack
/// alive, and may outlive fiber and runtime. Clone and drop on any fiber or thread.
pub struct Fiber(NonNull<Task>);

// SAFETY: what a reference gives access to is atomic, locked or constant.
unsafe impl Send for Fiber {}
// SAFETY: as above.
unsafe impl Sync for Fiber {}

impl Fiber {
    /// # Safety
    /// Takes over one reference of a live task.
    pub(crate) unsafe fn from_raw(task: NonNull<Task>) -> Fiber {
        Fiber(task)
    }

    pub(crate) fn raw(&self) -> NonNull<Task> {
        self.0
    }

    pub(crate) fn task(&self) -> &Task {
        // SAFETY: our reference keeps it alive.
        unsafe { self.0.as_ref() }
    }

    /// Which one. Any context.
    pub fn id(&self) -> FiberId {
        self.task().id
    }

    /// The name given to [`Builder::name`]. Any context.
    pub fn name(&self) -> Option<&str> {
        self.task().name()
    }

    /// Ends the fiber's [`park`], or makes its next one return at once; does nothing to a fiber that has ended. Tokens do not add up. Any fiber or
    /// thread, also inside a critical section; not a signal handler.
    pub fn unpark(&self) {
        self.task().unpark();
    }

    /// Asks the fiber to end: it unwinds at its next checkpoint or blocking operation, also at the one it waits in now. A fiber that reaches neither
    /// is only asked ([`is_cancelled`]): unwinding at an arbitrary instruction would be unsound. Waits that lend the caller's stack
    /// ([`scope`], [`JoinHandle::join`], `Runtime::run`) are not cancelled; the cancel is delivered after them. A task that has not started never runs.
    /// A call that blocks in the kernel is not interrupted, and a fiber that waits for an OS thread ([`blocking`], [`lock_os_thread`]) goes on waiting: the
    /// cancel takes effect at its first cancellable wait after it has got one. A fiber that unwinds, for whatever reason, is not unwound once more: its
    /// destructors may wait. Does nothing to a fiber that has ended. Any fiber or thread, also inside a critical section; not a signal handler.
    pub fn cancel(&self) {
        self.task().cancel();
    }
}

impl Clone for Fiber {
    fn clone(&self) -> Self {
        self.task().retain();
        Fiber(self.0)
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: our reference.
        unsafe { Task::release(self.0) }
    }
}

impl fmt::Debug for Fiber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fiber").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The running fiber; `None` on a plain thread. Also inside a critical section.
pub fn current() -> Option<Fiber> {
    task::current().map(|task| {
        task.retain();
        Fiber(NonNull::from(task))
    })
}
