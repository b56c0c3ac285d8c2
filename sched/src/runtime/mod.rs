//! A runtime: its workers, its threads beside them, and what they share.
//!
//! `builder` starts it, `handle` reaches it, `timer` drives its ticks and deadlines, `shutdown` ends it, `fork` and `fault` deal with what happens to the
//! process as a whole.

pub(crate) mod builder;
pub(crate) mod fault;
pub(crate) mod fork;
pub(crate) mod handle;
pub(crate) mod shutdown;
pub(crate) mod stuck;
pub(crate) mod timer;
pub(crate) mod watch;

pub use builder::{BuildError, Builder};
pub use handle::Handle;

use crate::fiber::task::{self, Payload, Spec, Task};
use crate::fiber::{JoinError, JoinHandle, builder as spawn};
use crate::identity::pool::Pool;
use crate::identity::service::Service;
use crate::par::exposed::Exposed;
use crate::preempt::{Preemption, Stealing};
use crate::time::timers::Timers;
use crate::worker::Worker;
use crate::worker::carrier::Carriers;
use crate::worker::runnable::Runnable;
use crate::worker::spare::Spares;
use std::any::Any;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;
use unyield_preempt::Mechanism;
use unyield_stealing::{Armed, Idle, Injector, Looks};
use watch::Watch;

type PanicHandler = Box<dyn Fn(Box<dyn Any + Send>) + Send + Sync>;
type WorkerHook = Box<dyn Fn(usize) + Send + Sync>;

/// What workers, fibers and the threads of a runtime share.
pub(crate) struct Shared {
    pub(crate) workers: Box<[Worker]>,
    pub(crate) carriers: Carriers,
    pub(crate) spares: Spares,
    /// Runnables from outside, and what does not fit into a worker's queue.
    pub(crate) injector: Injector<Runnable>,
    /// Tasks that wait for an identity.
    pub(crate) hungry: Injector<Runnable>,
    pub(crate) idle: Idle,
    pub(crate) armed: Armed,
    pub(crate) timers: Timers,
    pub(crate) pool: Pool,
    pub(crate) service: Service,
    pub(crate) stack_size: usize,
    pub(crate) quantum_ns: u64,
    pub(crate) preemption: Preemption,
    pub(crate) stealing: Stealing,
    /// Fibers that do not run and have exposed halves of fork-joins.
    pub(crate) exposed: Exposed,
    /// Identities with stolen halves that wait for the one that runs there: the timer sees that others get at them if that takes long.
    pub(crate) relaying: AtomicUsize,
    /// Whether the timer looks for fork-joins that idle workers could help with.
    pub(crate) watch: Watch,
    pub(crate) mechanism: Mechanism,
    pub(crate) signal: i32,
    /// The signal mask of every thread that runs fibers: what a fiber saves on one it may restore on another.
    pub(crate) signal_mask: u64,
    pub(crate) panic_handler: Option<PanicHandler>,
    pub(crate) on_stop: Option<WorkerHook>,
    /// Shutdown has begun: tasks that have not started never run.
    pub(crate) cancelling: AtomicBool,
    /// Shutdown has given up: workers leave, with fibers in their queues.
    pub(crate) leaving: AtomicBool,
    /// Workers leave when they find nothing more to run.
    pub(crate) stopping: AtomicBool,
    /// The service threads and the timer leave.
    pub(crate) halted: AtomicBool,
    /// No task is taken any more.
    pub(crate) closed: AtomicBool,
    /// Threads that are queueing a runnable from outside: shutdown waits for them before memory may go.
    pub(crate) visitors: AtomicUsize,
    /// Bodies of workers on threads that somebody else made: shutdown waits for them.
    pub(crate) foreign_workers: AtomicUsize,
    /// Tasks spawned by threads that are no regular worker, and ended there.
    pub(crate) spawned_outside: AtomicU64,
    pub(crate) ended_outside: AtomicU64,
    pub(crate) ticks_sent: AtomicU64,
}

impl Shared {
    pub(crate) fn shares_identities(&self) -> bool {
        self.preemption == Preemption::AtCheckpoints
    }

    /// Queues a runnable for any worker. Masked, or on a plain thread.
    ///
    /// # Safety
    /// It is in no queue, and the caller has the right to queue it.
    pub(crate) unsafe fn inject(&self, runnable: NonNull<Runnable>) {
        unyield_preempt::mask();
        // The caller may be a thread that keeps nothing of this runtime alive but the fiber it queues, and that may end at once.
        self.visitors.fetch_add(1, SeqCst);
        // SAFETY: as promised; masked here.
        unsafe {
            self.injector.push(runnable);
            if !self.idle.notify_one() {
                self.armed.enqueue_check();
            }
            self.visitors.fetch_sub(1, SeqCst); // the last access
            unyield_preempt::unmask();
        }
    }

    /// Something was queued on the calling worker: wake a sleeper for it, or see that it will be ticked.
    #[inline]
    pub(crate) fn announce(&self, wake: bool) {
        let woken = wake && self.several_slots() && self.idle.notify_one();
        if !woken {
            self.armed.enqueue_check();
        }
    }

    /// No identity is free for this task. Masked.
    pub(crate) fn starve(&self, task: NonNull<Runnable>) {
        // SAFETY: it was taken out of a queue by the caller.
        unsafe { self.hungry.push(task) };
        self.service.wake();
    }

    /// The workers that run what is queued: the regular ones, and spares that stand in for some. Any context.
    #[inline]
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().chain(self.spares.awake())
    }

    /// True if a worker could wake another one. Any context.
    #[inline]
    pub(crate) fn several_slots(&self) -> bool {
        self.workers.len() > 1 || self.spares.any_awake()
    }

    /// Everybody who looks at what running fibers have exposed.
    pub(crate) fn lookers(&self) -> impl Iterator<Item = &Looks> {
        let workers = self.workers.iter().chain(self.spares.all());
        workers.map(|worker| &worker.looks).chain([self.watch.looks()])
    }

    /// True if any queue holds something that any worker may take, or a fiber that does not run has exposed something.
    pub(crate) fn has_queued_work(&self) -> bool {
        !self.injector.is_empty()
            || !self.exposed.is_empty()
            || self.slots().any(|worker| worker.queue.has_stealable())
    }

    /// Fibers spawned and not ended. Ends are read first, so that the difference is never too small.
    pub(crate) fn alive_fibers(&self) -> u64 {
        let sum = |read: fn(&Worker) -> &AtomicU64| {
            self.workers.iter().map(|worker| read(worker).load(Relaxed)).sum::<u64>()
        };
        let ended = sum(|worker| &worker.counters.ended) + self.ended_outside.load(Relaxed);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        let spawned = sum(|worker| &worker.counters.spawned) + self.spawned_outside.load(Relaxed);
        spawned.saturating_sub(ended)
    }

    /// Calls `f` with the runtime of the running fiber, or the global one; the pointer comes from the runtime's `Arc`.
    ///
    /// # Panics
    /// In a forked child, before `f` is called.
    pub(crate) fn with_current<R>(f: impl FnOnce(NonNull<Shared>) -> R) -> R {
        match task::current() {
            Some(task) if fork::alive() => f(task.runtime_ptr()),
            _ => {
                assert!(fork::alive(), "no fiber can be spawned in a forked child");
                f(handle::global().shared_ptr())
            }
        }
    }
}

/// A detached fiber panicked: tell the runtime's handler. Unmasked, on a fiber.
pub(crate) fn detached_panic(task: &Task, payload: Payload) {
    if let Some(handler) = &task.runtime().panic_handler {
        // A handler that panics itself has been told; there is nobody else to tell.
        drop(catch_unwind(AssertUnwindSafe(|| handler(payload))));
    }
}

/// A pool of workers (OS threads) that run fibers. Dropping it cancels what is left and waits for at most `Builder::shutdown_timeout` (default 10 s); fibers
/// that ignore that are leaked and reported. Runtimes nest: a fiber of one may build, use and drop another.
///
/// ```
/// let runtime = unyield::Runtime::builder().workers(2).build().unwrap();
/// let answer = runtime.run(|| {
///     let handle = unyield::spawn(|| 6 * 7);
///     handle.join().unwrap()
/// });
/// assert_eq!(answer, 42);
/// ```
///
/// # Panics
/// Dropping it inside one of its own fibers panics.
#[derive(Debug)]
pub struct Runtime {
    handle: Handle,
    threads: Option<builder::Threads>,
    shutdown_timeout: Duration,
}

impl Runtime {
    /// With the default settings.
    ///
    /// # Errors
    /// See [`Builder::build`].
    pub fn new() -> Result<Runtime, BuildError> {
        Builder::default().build()
    }

    /// Settings, to be changed by value.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs `f` as a fiber and waits for it: blocks a plain thread, parks a fiber (of this or another runtime). `f` may borrow. The wait cannot be cancelled.
    ///
    /// # Panics
    /// With the panic of `f`; inside a critical section; in a forked child.
    #[track_caller]
    pub fn run<F: FnOnce() -> R + Send, R: Send>(&self, f: F) -> R {
        self.handle.run(f)
    }

    /// Drives a future in a fiber of this runtime, and waits for it.
    ///
    /// # Panics
    /// As [`Runtime::run`].
    #[track_caller]
    pub fn block_on<F: Future + Send>(&self, f: F) -> F::Output
    where
        F::Output: Send,
    {
        self.run(|| crate::fiber::block_on(f))
    }

    /// Spawns a fiber on this runtime, from anywhere.
    ///
    /// # Panics
    /// In a forked child.
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.handle.spawn(f)
    }

    /// The runtime's handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Cancels what is left and waits for at most `d`. True if every fiber ended; the others are leaked, never unmapped, and reported.
    ///
    /// # Panics
    /// Inside one of the runtime's own fibers.
    pub fn shutdown_timeout(mut self, d: Duration) -> bool {
        self.shut_down(d)
    }

    fn shut_down(&mut self, timeout: Duration) -> bool {
        let Some(threads) = self.threads.take() else { return true };
        if !fork::alive() {
            // In a forked child nothing of the runtime lives but its memory.
            std::mem::forget(threads);
            return false;
        }
        let shared = self.handle.shared();
        let own = task::current().is_some_and(|task| std::ptr::eq(task.runtime(), shared));
        if own {
            std::mem::forget(threads);
            panic!("a runtime was dropped inside one of its own fibers");
        }
        shutdown::shut_down(&self.handle, threads, timeout)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shut_down(self.shutdown_timeout);
    }
}

impl Handle {
    /// See [`Runtime::run`].
    #[track_caller]
    pub(crate) fn run<F: FnOnce() -> R + Send, R: Send>(&self, f: F) -> R {
        crate::park::assert_may_wait("Runtime::run"); // before anything is spawned that borrows
        let spec = Spec {
            name: None,
            stack_size: self.shared().stack_size,
            spawned_at: Location::caller(),
            scope: None,
        };
        // SAFETY: we wait for the end below, whatever happens: `finish` is not cancelled and does not panic, and nothing in between unwinds. The handle
        // takes the result before this frame ends.
        let handle = unsafe { spawn::start(self.shared_ptr(), spec, f) };
        match handle.finish().map_err(JoinError::try_into_panic) {
            Ok(value) => value,
            Err(Ok(payload)) => resume_unwind(payload),
            // Not with the payload of its unwinding: the caller was not cancelled.
            Err(Err(_)) => panic!("the fiber of Runtime::run was cancelled"),
        }
    }
}

/// The global runtime, built on first use with defaults or by `Builder::build_global`.
pub(crate) static GLOBAL: OnceLock<Runtime> = OnceLock::new();
