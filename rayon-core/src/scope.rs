//! Any number of jobs that borrow, and one wait for all of them.

use crate::broadcast::{BroadcastContext, Detached};
use crate::current::{self, Waiting};
use crate::queue::{Fifo, Job};
use crate::registry::{self, Registry};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use unyield::raw::Latch;

type Payload = Box<dyn Any + Send>;

/// Where jobs are spawned that may borrow for `'scope`: see [`scope()`].
pub struct Scope<'scope> {
    base: Base,
    #[expect(clippy::type_complexity, reason = "invariant in 'scope, Send and Sync as what is spawned")]
    spawned: PhantomData<Box<dyn FnOnce(&Scope<'scope>) + Send + Sync + 'scope>>,
}

/// As [`Scope`], but what it spawns is begun oldest first: see [`scope_fifo`].
pub struct ScopeFifo<'scope> {
    base: Base,
    jobs: Arc<Fifo>,
    #[expect(clippy::type_complexity, reason = "as for Scope")]
    spawned: PhantomData<Box<dyn FnOnce(&ScopeFifo<'scope>) + Send + Sync + 'scope>>,
}

struct Base {
    registry: &'static Registry,
    /// Jobs that have not ended. Shared: whoever opens it still has it in his hands when the scope may be gone.
    jobs: Arc<Latch>,
    first_panic: Mutex<Option<Payload>>,
}

/// Calls `op` with a scope in which jobs can be spawned that borrow what outlives it, and waits for all of them. Outside a pool all of it runs in the global one.
///
/// ```
/// let mut parts = [1, 2, 3];
/// rayon_core::scope(|s| {
///     for part in &mut parts {
///         s.spawn(move |_| *part *= 10);
///     }
/// });
/// assert_eq!(parts, [10, 20, 30]);
/// ```
///
/// What is borrowed must outlive the scope:
///
/// ```compile_fail,E0373
/// rayon_core::scope(|s| {
///     let local = 1;
///     s.spawn(|_| println!("{local}"));
/// });
/// ```
///
/// # Panics
/// With the first panic of `op` or of a job, after all have ended.
pub fn scope<'scope, OP, R>(op: OP) -> R
where
    OP: FnOnce(&Scope<'scope>) -> R + Send,
    R: Send,
{
    let registry = registry::current_or_global();
    registry.install(|_| in_place(registry, op))
}

/// As [`scope()`], but what a thread spawns in it is begun oldest first.
///
/// # Panics
/// As there.
pub fn scope_fifo<'scope, OP, R>(op: OP) -> R
where
    OP: FnOnce(&ScopeFifo<'scope>) -> R + Send,
    R: Send,
{
    let registry = registry::current_or_global();
    registry.install(|_| in_place_fifo(registry, op))
}

/// As [`scope()`], but `op` is called on the calling thread; the jobs run in the calling fiber's pool or in the global one.
///
/// # Panics
/// As there.
pub fn in_place_scope<'scope, OP, R>(op: OP) -> R
where
    OP: FnOnce(&Scope<'scope>) -> R,
{
    in_place(registry::current_or_global(), op)
}

/// As [`in_place_scope`], but what a thread spawns in it is begun oldest first.
///
/// # Panics
/// As there.
pub fn in_place_scope_fifo<'scope, OP, R>(op: OP) -> R
where
    OP: FnOnce(&ScopeFifo<'scope>) -> R,
{
    in_place_fifo(registry::current_or_global(), op)
}

pub(crate) fn in_place<'scope, OP, R>(registry: &'static Registry, op: OP) -> R
where
    OP: FnOnce(&Scope<'scope>) -> R,
{
    let scope = Scope { base: Base::new(registry), spawned: PhantomData };
    scope.base.complete(|| op(&scope))
}

pub(crate) fn in_place_fifo<'scope, OP, R>(registry: &'static Registry, op: OP) -> R
where
    OP: FnOnce(&ScopeFifo<'scope>) -> R,
{
    let scope = ScopeFifo { base: Base::new(registry), jobs: Arc::default(), spawned: PhantomData };
    scope.base.complete(|| op(&scope))
}

/// A scope that a job which it waits for may use.
struct Shared<T>(*const T);

// SAFETY: sharing it between threads is what `Sync` allows.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// By a job that the scope waits for, and only while it does.
    unsafe fn get<'a>(&self) -> &'a T {
        // SAFETY: as promised.
        unsafe { &*self.0 }
    }
}

impl<'scope> Scope<'scope> {
    /// Runs `body` some time before the scope ends, in its pool. `body` gets the scope, and may spawn more.
    pub fn spawn<BODY>(&self, body: BODY)
    where
        BODY: FnOnce(&Scope<'scope>) + Send + 'scope,
    {
        let scope = Shared(self);
        // SAFETY: the scope waits for what `job` makes, and 'scope outlives the scope.
        let job = unsafe {
            self.base.job(move || {
                let scope = scope.get();
                scope.base.contain(|| body(scope));
            })
        };
        self.base.registry.push(job);
    }

    /// Runs `body` once for each thread of the pool, see [`broadcast`](crate::broadcast()), some time before the scope ends.
    pub fn spawn_broadcast<BODY>(&self, body: BODY)
    where
        BODY: Fn(&Scope<'scope>, BroadcastContext<'_>) + Send + Sync + 'scope,
    {
        let scope = Shared(self);
        // SAFETY: as in `spawn`.
        unsafe {
            self.base.broadcast(move |context| {
                let scope = scope.get();
                scope.base.contain(|| body(scope, context));
            });
        }
    }
}

impl<'scope> ScopeFifo<'scope> {
    /// As [`Scope::spawn`], but what a thread spawns by this is begun oldest first.
    pub fn spawn_fifo<BODY>(&self, body: BODY)
    where
        BODY: FnOnce(&ScopeFifo<'scope>) + Send + 'scope,
    {
        let scope = Shared(self);
        // SAFETY: as in `Scope::spawn`.
        let job = unsafe {
            self.base.job(move || {
                let scope = scope.get();
                scope.base.contain(|| body(scope));
            })
        };
        self.base.registry.push_to_fifo(&self.jobs, job);
    }

    /// See [`Scope::spawn_broadcast`].
    pub fn spawn_broadcast<BODY>(&self, body: BODY)
    where
        BODY: Fn(&ScopeFifo<'scope>, BroadcastContext<'_>) + Send + Sync + 'scope,
    {
        let scope = Shared(self);
        // SAFETY: as in `Scope::spawn`.
        unsafe {
            self.base.broadcast(move |context| {
                let scope = scope.get();
                scope.base.contain(|| body(scope, context));
            });
        }
    }
}

impl Base {
    fn new(registry: &'static Registry) -> Base {
        Base { registry, jobs: Arc::default(), first_panic: Mutex::new(None) }
    }

    /// Calls the scope's own closure and waits for its jobs.
    fn complete<R>(&self, op: impl FnOnce() -> R) -> R {
        let result = self.contain(op);
        if self.jobs.running() > 0 {
            let _waiting = Waiting::begin();
            self.jobs.wait();
        }
        let first = self.first_panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        match (first, result) {
            (Some(payload), _) => resume_unwind(payload),
            (None, Some(value)) => value,
            (None, None) => unreachable!("what `op` has panicked with was kept"),
        }
    }

    /// A panic is kept, if it is the first one.
    fn contain<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let payload = match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => return Some(value),
            Err(payload) => payload,
        };
        let mut first = self.first_panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let surplus = match &*first {
            Some(_) => Some(payload),
            None => first.replace(payload),
        };
        drop(first);
        // Dropping it is the program's code: a panic of that goes nowhere.
        std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(surplus))));
        None
    }

    /// `body` as a job that is waited for.
    ///
    /// # Safety
    /// `body` does not unwind. It may use whatever lives until the scope has waited.
    unsafe fn job<'a>(&self, body: impl FnOnce() + Send + 'a) -> Job {
        let jobs = self.jobs.clone();
        jobs.begin();
        let job: Box<dyn FnOnce() + Send + 'a> = Box::new(move || {
            body();
            jobs.end();
        });
        // SAFETY: only the lifetime changes. The job is called once, and all that `body` has borrowed it has let go of before `end`, before which the scope does not end.
        unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + 'a>, Job>(job) }
    }

    /// `body`, once for each thread, waited for.
    ///
    /// # Safety
    /// As for [`Base::job`].
    unsafe fn broadcast<'a>(&self, body: impl Fn(BroadcastContext<'_>) + Send + Sync + 'a) {
        let n = self.registry.threads();
        for _ in 0..n {
            self.jobs.begin();
        }
        let jobs = self.jobs.clone();
        // SAFETY: as in `job`; the last one drops `body` before its `end`.
        unsafe { Detached::spawn(self.registry, body, move || jobs.end()) };
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("running", &self.jobs.running())
            .field("here", &current::is_in(self.registry))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("base", &self.base).finish()
    }
}

impl fmt::Debug for ScopeFifo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeFifo").field("base", &self.base).finish()
    }
}
