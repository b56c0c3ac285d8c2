//! Once for each thread.
//!
//! Fibers are not tied to threads, so there is nothing to run "on" one. What is kept of it: for each index there is one call, which has that index to itself (see `index`),
//! comes after what was spawned to that worker's queue or runs from there (see `flush`), and after earlier broadcasts to the same index.

use crate::current::{self, Entered, Waiting};
use crate::queue::Job;
use crate::registry::{Registry, current_or_global};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use unyield::raw::Latch;
use unyield::sync::Mutex;

/// Calls `op` once for each thread of the calling fiber's pool, or else of the global one, and waits for all; the results are in the order of the indices. Thread-local
/// data is that of the fibers which make the calls, not of threads that run jobs.
///
/// ```
/// let pool = rayon_core::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
/// assert_eq!(pool.broadcast(|context| context.index()), [0, 1, 2]);
/// ```
///
/// # Panics
/// With a panic of `op`, after all calls have ended.
pub fn broadcast<OP, R>(op: OP) -> Vec<R>
where
    OP: Fn(BroadcastContext<'_>) -> R + Sync,
    R: Send,
{
    broadcast_in(current_or_global(), op)
}

/// As [`broadcast`], and does not wait. Panics go to the pool's panic handler; without one the process ends.
pub fn spawn_broadcast<OP>(op: OP)
where
    OP: Fn(BroadcastContext<'_>) + Send + Sync + 'static,
{
    spawn_broadcast_in(current_or_global(), op);
}

/// Which call of a broadcast this is.
pub struct BroadcastContext<'a> {
    registry: &'static Registry,
    index: usize,
    /// It speaks of the running call.
    here: PhantomData<&'a mut dyn Fn()>,
}

impl BroadcastContext<'_> {
    /// The index: each from 0 below [`BroadcastContext::num_threads`] once. `current_thread_index` says the same.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many threads the pool has.
    #[inline]
    pub fn num_threads(&self) -> usize {
        self.registry.threads()
    }
}

impl fmt::Debug for BroadcastContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastContext")
            .field("index", &self.index)
            .field("num_threads", &self.num_threads())
            .finish_non_exhaustive()
    }
}

/// Calls that have not begun, for each index, in the order in which they came.
pub(crate) struct Broadcasts {
    calls: Box<[Mutex<VecDeque<Job>>]>,
    lens: Box<[AtomicUsize]>,
}

impl Broadcasts {
    pub(crate) fn new(n: usize) -> Broadcasts {
        Broadcasts {
            calls: (0..n).map(|_| Mutex::default()).collect(),
            lens: (0..n).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Racy.
    pub(crate) fn any(&self) -> bool {
        (0..self.lens.len()).any(|index| self.any_for(index))
    }

    /// Racy.
    pub(crate) fn any_for(&self, index: usize) -> bool {
        self.lens[index].load(Relaxed) > 0
    }

    fn push(&self, index: usize, call: Job) {
        let mut calls = self.calls[index].lock();
        calls.push_back(call);
        self.lens[index].store(calls.len(), Relaxed);
    }

    fn pop(&self, index: usize) -> Option<Job> {
        let mut calls = self.calls[index].lock();
        let call = calls.pop_front();
        self.lens[index].store(calls.len(), Relaxed);
        call
    }
}

/// Queues the calls and begins a fiber for each. They do not unwind.
fn inject(registry: &'static Registry, calls: impl Iterator<Item = Job>) {
    for (index, call) in calls.enumerate() {
        registry.broadcasts.push(index, call);
    }
    for index in 0..registry.threads() {
        registry.spawn_fiber(move |registry| run_one(registry, index));
    }
}

/// Runs the oldest call for `index`. At the beginning of a fiber; there are as many of them as calls.
fn run_one(registry: &'static Registry, index: usize) {
    let _entered = Entered::bare(registry);
    registry.flushes[index].wait();
    current::set_lease(registry.acquire(Some(index)));
    let call = registry.broadcasts.pop(index).expect("as many fibers as calls");
    call();
}

/// On a fiber that has the index.
fn context<'a>(registry: &'static Registry) -> BroadcastContext<'a> {
    BroadcastContext { registry, index: registry.own_index(), here: PhantomData }
}

pub(crate) fn broadcast_in<OP, R>(registry: &'static Registry, op: OP) -> Vec<R>
where
    OP: Fn(BroadcastContext<'_>) -> R + Sync,
    R: Send,
{
    let n = registry.threads();
    let results: Vec<_> = (0..n).map(|_| Mutex::new(None)).collect();
    let left = Arc::new(Latch::new());
    let (op, places) = (&op, &results);
    let calls: Vec<Job> = (0..n)
        .map(|index| {
            let left = left.clone();
            left.begin();
            let call: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
                let result = catch_unwind(AssertUnwindSafe(|| op(context(registry))));
                *places[index].lock() = Some(result);
                left.end();
            });
            // SAFETY: only the lifetime changes. We wait below until each call has been made and has let go of what it borrows; nothing in between unwinds.
            unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Job>(call) }
        })
        .collect();
    {
        let _waiting = Waiting::begin();
        inject(registry, calls.into_iter());
        left.wait();
    }
    let results = results.into_iter().map(|result| result.into_inner().expect("the call was made"));
    let mut panic = None;
    let mut values = Vec::with_capacity(n);
    for result in results {
        match (result, &panic) {
            (Ok(value), _) => values.push(value),
            (Err(payload), None) => panic = Some(payload),
            // Dropping it is the program's code.
            (Err(payload), Some(_)) => std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(payload)))),
        }
    }
    match panic {
        Some(payload) => resume_unwind(payload),
        None => values,
    }
}

pub(crate) fn spawn_broadcast_in<OP>(registry: &'static Registry, op: OP)
where
    OP: Fn(BroadcastContext<'_>) + Send + Sync + 'static,
{
    for _ in 0..registry.threads() {
        registry.keep();
    }
    let call = move |context: BroadcastContext<'_>| registry.handlers.contain(|| op(context));
    // SAFETY: 'static, and it does not unwind. What is kept above is let go of by a fiber of the pool's.
    unsafe { Detached::spawn(registry, call, move || Registry::let_go(NonNull::from(registry))) };
}

/// A broadcast that is not waited for here.
pub(crate) struct Detached<OP, END> {
    op: OP,
    end: END,
}

impl<OP, END> Detached<OP, END>
where
    OP: Fn(BroadcastContext<'_>) + Send + Sync,
    END: Fn() + Send + Sync + Clone + 'static,
{
    /// Calls `op` for each index, and `end` after each call; after the last one when `op` is dropped.
    ///
    /// # Safety
    /// What `op` borrows lives until `end` was called as many times as there are threads. Neither unwinds.
    pub(crate) unsafe fn spawn(registry: &'static Registry, op: OP, end: END) {
        let shared = Arc::new(Detached { op, end });
        let calls = (0..registry.threads()).map(|_| {
            let shared = shared.clone();
            let call: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
                (shared.op)(context(registry));
                let end = shared.end.clone();
                // Before `end`: if this was the last, `op` goes here.
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(shared)));
                std::mem::forget(dropped.err());
                end();
            });
            // SAFETY: only the lifetime changes; see above.
            unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Job>(call) }
        });
        let calls: Vec<Job> = calls.collect();
        drop(shared);
        inject(registry, calls.into_iter());
    }
}
