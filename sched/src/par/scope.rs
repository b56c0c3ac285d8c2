//! Any number of fibers that borrow and spawn more of their kind, and one wait for all of them.

use crate::fiber::builder;
use crate::fiber::cancel::Cancelled;
use crate::fiber::scope::ScopeData;
use crate::fiber::task::{self, Payload, Spec, dispose};
use crate::lock::Lock;
use crate::park::assert_may_wait;
use crate::runtime::{Shared, handle};
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::Arc;

/// Where fibers are spawned that may borrow for `'scope`: see [`scope()`].
pub struct Scope<'scope> {
    data: Arc<ScopeData>,
    panic: Lock<Option<Payload>>,
    #[expect(
        clippy::type_complexity,
        reason = "invariant in 'scope, Send and Sync as far as what is spawned is"
    )]
    spawned: PhantomData<fn(Box<dyn FnOnce(&Scope<'scope>) + Send + 'scope>)>,
}

/// Calls `op` with a scope in which fibers can be spawned that borrow what outlives the scope, and waits for all of them. Each spawned closure gets the scope
/// too, and may spawn more. For a tree of halves [`join`](crate::join) costs far less.
///
/// Any fiber; a plain thread has `op` run on the global runtime, and blocks. The wait lends the caller's stack, so it is not cancelled.
///
/// ```
/// let mut parts = vec![1, 2, 3];
/// unyield::par::scope(|s| {
///     for part in &mut parts {
///         s.spawn(move |_| *part *= 10);
///     }
/// });
/// assert_eq!(parts, [10, 20, 30]);
/// ```
///
/// What is borrowed must outlive the scope:
///
/// ```compile_fail,E0597
/// unyield::par::scope(|s| {
///     let local = 1;
///     s.spawn(|_| println!("{}", &local));
/// });
/// ```
///
/// # Panics
/// With the first panic of `op` or of a spawned closure, after all have ended. Inside a critical section, before `op` is called.
///
/// # Aborts
/// If `op` has left a critical section open (a forgotten guard) while fibers still run: the wait can neither be done nor be given up.
#[track_caller]
pub fn scope<'scope, OP, R>(op: OP) -> R
where
    OP: FnOnce(&Scope<'scope>) -> R + Send,
    R: Send,
{
    assert_may_wait("a scope"); // before anything is spawned that borrows
    match task::current() {
        Some(_) => in_place(op),
        None => handle::global().run(|| in_place(op)),
    }
}

/// As [`scope()`], with `op` called here, whatever thread this is.
fn in_place<'scope, R>(op: impl FnOnce(&Scope<'scope>) -> R) -> R {
    let scope = Scope { data: Arc::default(), panic: Lock::new(None), spawned: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| op(&scope)));
    scope.data.wait();
    let panic = scope.panic.lock().take();
    match (panic, result) {
        (Some(first), result) => {
            if let Err(second) = result {
                dispose(second);
            }
            resume_unwind(first)
        }
        (None, Err(payload)) => resume_unwind(payload),
        (None, Ok(value)) => value,
    }
}

/// A scope that a fiber which it waits for may use.
struct Shares<'scope>(*const Scope<'scope>);

// SAFETY: what a scope gives to other threads is behind its lock and its `Arc`.
unsafe impl Send for Shares<'_> {}

impl<'scope> Shares<'scope> {
    fn get(&self) -> *const Scope<'scope> {
        self.0
    }
}

impl<'scope> Scope<'scope> {
    /// Spawns a fiber, on the runtime of the caller (the global one on a plain thread). Any fiber or thread, also inside a critical section.
    ///
    /// # Panics
    /// In a forked child; if the runtime was shut down.
    #[track_caller]
    pub fn spawn<BODY>(&self, body: BODY)
    where
        BODY: FnOnce(&Scope<'scope>) + Send + 'scope,
    {
        let spawned_at = Location::caller();
        let scope = Shares(self);
        let run = move || {
            // SAFETY: the scope waits until this fiber has ended.
            let scope = unsafe { &*scope.get() };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(scope))) {
                scope.panicked(payload);
            }
        };
        let handle = Shared::with_current(|runtime| {
            self.data.begin();
            // SAFETY: the caller's runtime, or the global one: alive.
            let stack_size = unsafe { runtime.as_ref() }.stack_size;
            let spec = Spec { name: None, stack_size, spawned_at, scope: Some(self.data.clone()) };
            // SAFETY: the scope waits until the task has ended.
            unsafe { builder::start(runtime, spec, run) }
        });
        drop(handle);
    }

    fn panicked(&self, payload: Payload) {
        let surplus = if payload.is::<Cancelled>() {
            Some(payload)
        } else {
            let mut first = self.panic.lock();
            match &*first {
                Some(_) => Some(payload),
                None => first.replace(payload),
            }
        };
        if let Some(payload) = surplus {
            dispose(payload); // user code: not under the lock
        }
    }
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("running", &self.data.running()).finish_non_exhaustive()
    }
}
