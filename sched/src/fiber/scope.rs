//! Fibers that borrow from their spawner, as `std::thread::scope`.

use super::task::Spec;
use super::{Fiber, JoinHandle, builder};
use crate::lock::Lock;
use crate::park::{Waiter, assert_may_wait};
use crate::runtime::Shared;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[derive(Default)]
struct Count {
    running: usize,
    waiter: Option<*const Waiter>,
}

/// What a scope and its fibers share.
#[derive(Default)]
pub(crate) struct ScopeData {
    count: Lock<Count>,
    panicked: AtomicBool,
}

// SAFETY: the waiter pointer is used under the lock, while its owner waits.
unsafe impl Send for ScopeData {}
// SAFETY: as above.
unsafe impl Sync for ScopeData {}

impl ScopeData {
    /// A fiber's panic that nobody will join.
    pub(crate) fn unhandled_panic(&self) {
        self.panicked.store(true, Relaxed); // ordered by the lock in `ended`, or by being called inside the scope
    }

    /// A fiber has ended, and borrows nothing any more that a handle does not hold.
    pub(crate) fn ended(&self) {
        let claimed = {
            let mut count = self.count.lock();
            count.running -= 1;
            if count.running > 0 {
                None
            } else {
                // SAFETY: the waiter registered under this lock and waits without deadline or cancel.
                count.waiter.take().and_then(|waiter| unsafe { Waiter::claim(waiter) })
            }
        };
        if let Some(claimed) = claimed {
            claimed.unpark();
        }
    }

    /// One more fiber: from here on nothing unwinds without [`ScopeData::ended`].
    pub(crate) fn begin(&self) {
        self.count.lock().running += 1;
    }

    pub(crate) fn running(&self) -> usize {
        self.count.lock().running
    }

    /// Waits until all have ended.
    pub(crate) fn wait(&self) {
        Waiter::with(|waiter| {
            {
                let mut count = self.count.lock();
                if count.running == 0 {
                    return;
                }
                count.waiter = Some(waiter);
            }
            waiter.block_lent();
        });
    }
}

/// Where fibers are spawned that borrow: see [`scope`]. May be used by the fibers themselves.
pub struct Scope<'scope, 'env: 'scope> {
    data: Arc<ScopeData>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("running", &self.data.running()).finish_non_exhaustive()
    }
}

/// Runs `f` with a scope in which fibers may be spawned that borrow what outlives the scope; waits for all of them. The wait lends the caller's stack,
/// so it cannot be cancelled; a cancel is delivered at the next cancellable wait. On fibers and plain threads.
///
/// ```
/// let mut numbers = vec![3, 1, 2];
/// let sum: i32 = unyield::scope(|s| {
///     let first = s.spawn(|| numbers[0] + numbers[1]);
///     first.join().unwrap() + numbers[2]
/// });
/// numbers.push(sum);
/// assert_eq!(numbers, [3, 1, 2, 6]);
/// ```
///
/// # Panics
/// With `f`'s panic, or if a fiber panicked that was not joined. Inside a critical section, before `f` is called.
///
/// # Aborts
/// If `f` has left a critical section open (a forgotten guard) while fibers still run: the wait can neither be done nor be given up.
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    assert_may_wait("a scope"); // before anything is spawned that borrows
    let scope = Scope { data: Arc::new(ScopeData::default()), scope: PhantomData, env: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    scope.data.wait();
    match result {
        Err(payload) => resume_unwind(payload),
        Ok(_) if scope.data.panicked.load(Relaxed) => panic!("a scoped fiber panicked"),
        Ok(value) => value,
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Spawns a fiber that may borrow for `'scope`, on the runtime of the caller (the global one on a plain thread). Any fiber or thread, also inside a
    /// critical section.
    ///
    /// # Panics
    /// In a forked child; if the runtime was shut down; if the global runtime cannot be built.
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let spawned_at = Location::caller();
        let handle = Shared::with_current(|runtime| {
            self.data.begin();
            let scope = Some(self.data.clone());
            // SAFETY: the caller's runtime, or the global one: alive.
            let stack_size = unsafe { runtime.as_ref() }.stack_size;
            let spec = Spec { name: None, stack_size, spawned_at, scope };
            // SAFETY: the scope waits until the task has ended and its result is taken or dropped, or stays with a handle of this scope.
            unsafe { builder::start(runtime, spec, f) }
        });
        ScopedJoinHandle { handle, scope: PhantomData }
    }
}

/// Waits for a scoped fiber's result. Dropping it leaves the waiting to the scope, which panics then if the fiber does.
pub struct ScopedJoinHandle<'scope, T> {
    handle: JoinHandle<T>,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// True if the fiber has ended: joining does not wait. Any context, also a signal handler.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// The fiber that is waited for. Any context.
    pub fn fiber(&self) -> &Fiber {
        self.handle.fiber()
    }

    /// Waits for the fiber to end: parks a fiber, blocks a plain thread. A cancel of the waiting fiber is delivered at its next cancellable wait.
    ///
    /// # Errors
    /// The payload of its panic; a `JoinError` in a box if it was cancelled.
    ///
    /// # Panics
    /// Inside a critical section, even if the fiber has ended.
    pub fn join(self) -> std::thread::Result<T> {
        self.handle.join().map_err(|error| error.try_into_panic().unwrap_or_else(|error| Box::new(error)))
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle").field("fiber", self.fiber()).finish_non_exhaustive()
    }
}
