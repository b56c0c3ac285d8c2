//! Primitives that park the fiber, or block the plain thread, that has to wait.
//!
//! Everything here works between fibers and plain threads in any mix, on one runtime or on several, and carries the names
//! and the semantics of a model that programs know already: `parking_lot` for the locks, `crossbeam-channel` for the
//! [`channel`]s, the standard library for [`Barrier`] and [`Once`]. The locks do not poison.
//!
//! # Where it may be called
//!
//! | from | what does not wait (`try_…`, `notify_…`, `release`, `send` into a free slot) | what has to wait |
//! |---|---|---|
//! | a fiber | yes | parks the fiber; the worker runs others |
//! | a plain thread | yes | blocks the thread |
//! | a critical section | yes | panics: nothing would ever end the wait. Locks: see below |
//! | a raw interrupt handler, a signal handler | no | no |
//!
//! Locking a [`Mutex`] or an [`RwLock`] that is held by somebody else inside a critical section *aborts* the process, where
//! all others panic. `lock_api` locks again inside [`MutexGuard::unlocked`](lock_api::MutexGuard::unlocked); a panic there
//! would drop the guard of a lock that is not held. The timed forms panic.
//!
//! # Cancellation
//!
//! A wait in a channel, on a condition variable, a semaphore, a barrier, a wait group or a [`Once`] ends when the fiber is
//! cancelled: the fiber unwinds from the call. A value that was being sent is dropped by that. Waiting for a [`Mutex`] or an
//! [`RwLock`] is no cancellation point, again because of `unlocked`; the next wait is. A fiber that unwinds already is not
//! cancelled a second time.
//!
//! # How it is built
//!
//! `wait_queue` has the intrusive FIFO that all of them share. Whoever waits links its own waiter into a queue, under a
//! spinlock that masks interrupts; whoever wakes takes the first waiter out and *claims* it, under the same lock, and
//! unparks it after. A claim succeeds for one waker only, and never for a waiter that has timed out or was cancelled: hence
//! a permit, a lock or a value that is handed to a waiter always arrives. Nothing is allocated, freed, dropped or called
//! back under these spinlocks.

pub(crate) mod atomic;
mod barrier;
mod condvar;
mod once;
mod raw_mutex;
mod raw_rwlock;
mod semaphore;
mod spin;
mod wait_group;
mod wait_queue;

pub mod channel;
pub mod oneshot;

pub use barrier::{Barrier, BarrierWaitResult};
pub use condvar::{Condvar, WaitTimeoutResult};
pub use once::{Once, OnceState};
pub use raw_mutex::{MappedMutexGuard, Mutex, MutexGuard, RawMutex};
pub use raw_rwlock::{
    MappedRwLockReadGuard, MappedRwLockWriteGuard, RawRwLock, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub use semaphore::{Semaphore, SemaphoreGuard};
pub use wait_group::WaitGroup;
