//! What a pool is inside: a runtime, the queues of its jobs, its end.
//!
//! A registry lives in a box of its own. It is kept by a count: one for the `ThreadPool` (the global one is never given back) and one for each job that nothing waits for.
//! Whoever brings the count to 0 hands the registry to a plain thread, which ends the runtime and then frees it: not before its last fiber has ended.

use crate::broadcast::Broadcasts;
use crate::builder::ThreadPoolBuilder;
use crate::current::{self, Entered, Waiting};
use crate::error::{Kind, ThreadPoolBuildError};
use crate::flush::{Flush, Ticket};
use crate::index::{Indices, Lease};
use crate::queue::{Entry, Fifo, Job, Queue};
use crate::thread::{Handlers, ThreadBuilder, ThreadSpawn};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{io, thread};
use unyield::preempt::Preemption;
use unyield::{Handle, Runtime, raw};

pub(crate) struct Registry {
    runtime: ManuallyDrop<Runtime>,
    handle: Handle,
    pub(crate) handlers: Arc<Handlers>,
    breadth_first: bool,
    /// One for each worker. The worker is only a hint which one to use.
    queues: Box<[Queue]>,
    /// From outside, oldest first.
    injected: Queue,
    /// For `spawn_fifo`, one for each worker.
    fifos: Box<[Arc<Fifo>]>,
    pub(crate) flushes: Box<[Flush]>,
    pub(crate) broadcasts: Broadcasts,
    pub(crate) indices: Indices,
    /// See the header.
    keepers: AtomicUsize,
    /// The box, as its end needs it.
    itself: AtomicPtr<Registry>,
}

/// How long the end of a runtime may take, when all jobs are done: what still runs are fibers that the program has spawned by other ways.
const END: Duration = Duration::from_secs(10);

impl Registry {
    /// Starts a pool. The count is 1.
    pub(crate) fn start<S: ThreadSpawn>(
        mut builder: ThreadPoolBuilder<S>,
    ) -> Result<&'static Registry, ThreadPoolBuildError> {
        if builder.uses_current_thread() {
            let inside = current::registry().is_some() || current::handler_index().is_some();
            return Err(if inside {
                ThreadPoolBuildError::new(Kind::ThreadInPool)
            } else {
                ThreadPoolBuildError::unsupported(
                    "use_current_thread: a thread of the program's cannot become a worker of preemptible fibers",
                )
            });
        }
        let n = builder.chosen_threads();
        let handlers = Arc::new(builder.take_handlers());
        let settings = Runtime::builder()
            .workers(n)
            .stack_size(builder.fiber_stack())
            // Where fibers shared the workers' thread-local data, a borrow of it across a join would be seen by others, and not in the order of a stack.
            .preemption(Preemption::Anywhere);
        let mut panicked = None;
        let runtime = raw::build_on(settings, |body| {
            let spawned = catch_unwind(AssertUnwindSafe(|| {
                let name = builder.name_of(body.index());
                let thread = ThreadBuilder::new(name, builder.asked_stack(), handlers.clone(), body);
                builder.spawn_handler.spawn(thread)
            }));
            spawned.unwrap_or_else(|payload| {
                panicked = Some(payload);
                Err(io::Error::other("the program's code panicked"))
            })
        });
        if let Some(payload) = panicked {
            resume_unwind(payload);
        }
        let runtime = runtime?;
        let registry = Registry {
            handle: runtime.handle().clone(),
            runtime: ManuallyDrop::new(runtime),
            handlers,
            breadth_first: builder.is_breadth_first(),
            queues: (0..n).map(|_| Queue::new()).collect(),
            injected: Queue::new(),
            fifos: (0..n).map(|_| Arc::default()).collect(),
            flushes: (0..n).map(|_| Flush::new()).collect(),
            broadcasts: Broadcasts::new(n),
            indices: Indices::new(n),
            keepers: AtomicUsize::new(1),
            itself: AtomicPtr::new(null_mut()),
        };
        let itself = Box::into_raw(Box::new(registry));
        // SAFETY: just made; nobody else has it yet.
        let registry: &'static Registry = unsafe { &*itself };
        registry.itself.store(itself, Relaxed);
        Ok(registry)
    }

    pub(crate) fn threads(&self) -> usize {
        self.queues.len()
    }

    /// One more job that nothing waits for.
    pub(crate) fn keep(&self) {
        self.keepers.fetch_add(1, Relaxed); // whoever calls has one
    }

    /// One less; the last one ends the pool.
    ///
    /// # Safety
    /// The caller has one, and uses the registry afterwards only on a fiber of its.
    pub(crate) unsafe fn let_go(this: NonNull<Registry>) {
        let this = this.as_ptr();
        // SAFETY: kept by the caller until the count says otherwise; from then on `this` is not used.
        let (itself, left) =
            unsafe { ((*this).itself.load(Relaxed), (*this).keepers.fetch_sub(1, AcqRel) - 1) };
        if left > 0 {
            return;
        }
        struct Last(*mut Registry);
        // SAFETY: nobody else has it but its own fibers, and what they use is Sync.
        unsafe impl Send for Last {}
        impl Last {
            fn end(self) {
                // SAFETY: boxed by `start`. Nobody has it any more but fibers of its own that are about to end; they use the handle, not the runtime, which is taken here
                // and once. When the runtime says that all have ended, nobody has it at all.
                unsafe {
                    let runtime = (&raw const (*self.0).runtime).cast::<Runtime>().read();
                    if runtime.shutdown_timeout(END) {
                        drop(Box::from_raw(self.0));
                    }
                }
            }
        }
        let last = Last(itself);
        // Not here: this may be one of the pool's own fibers, or a thread that an exit handler waits for. If there is no thread to be had the pool stays for ever.
        drop(thread::Builder::new().name("rayon-core-end".into()).spawn(move || last.end()));
    }

    /// Calls `op` on a fiber of the pool, this one if it is, and waits for it.
    pub(crate) fn install<OP, R>(&'static self, op: OP) -> R
    where
        OP: FnOnce(bool) -> R + Send,
        R: Send,
    {
        if current::is_in(self) {
            return op(false);
        }
        let _waiting = Waiting::begin();
        self.runtime.run(|| {
            let _entered = Entered::new(self);
            op(true)
        })
    }

    /// The queue of the worker that the calling fiber runs on, if it belongs to the pool.
    fn own_queue(&self) -> Option<usize> {
        current::is_in(self).then(|| self.hint())
    }

    /// A queue, an index: the worker's, if that is a regular one.
    pub(crate) fn hint(&self) -> usize {
        raw::worker_index().unwrap_or(0) % self.threads()
    }

    /// Queues a job: on the calling fiber's queue, or from outside.
    pub(crate) fn push(&'static self, job: Job) {
        self.push_entry(self.own_queue(), Entry::Job(job));
    }

    /// As [`Registry::push`], after those that were spawned here before.
    pub(crate) fn push_fifo(&'static self, job: Job) {
        match self.own_queue() {
            Some(own) => self.push_to(own, &self.fifos[own], job),
            None => self.push_entry(None, Entry::Job(job)),
        }
    }

    /// As [`Registry::push_fifo`], after those of `fifo`.
    pub(crate) fn push_to_fifo(&'static self, fifo: &Arc<Fifo>, job: Job) {
        match self.own_queue() {
            Some(own) => self.push_to(own, fifo, job),
            None => self.push_entry(None, Entry::Job(job)),
        }
    }

    fn push_to(&'static self, own: usize, fifo: &Arc<Fifo>, job: Job) {
        fifo.lock().push_back(job);
        self.push_entry(Some(own), Entry::OldestOf(fifo.clone()));
    }

    fn push_entry(&'static self, own: Option<usize>, entry: Entry) {
        match own {
            Some(own) => self.queues[own].push(entry, Some(self.flushes[own].enter(own))),
            None => self.injected.push(entry, None),
        }
        self.begin_one();
    }

    /// A fiber for some job: there are as many of them, or of jobs that are owed one, as entries in the queues.
    fn begin_one(&'static self) {
        self.spawn_fiber(|registry| registry.run_one());
    }

    pub(crate) fn spawn_fiber(&'static self, body: impl FnOnce(&'static Registry) + Send + 'static) {
        drop(self.handle.spawn(move || body(self)));
    }

    /// Runs the job whose turn it is. At the beginning of a fiber.
    fn run_one(&'static self) {
        let _entered = Entered::bare(self);
        if self.indices.are_used() {
            match self.indices.acquire_or_owe(self.hint()) {
                Some(lease) => current::set_lease(lease),
                None => return,
            }
        } else {
            current::number(self);
        }
        let (entry, ticket) = self.take();
        let job = entry.into_job();
        current::set_ticket(ticket);
        job();
    }

    /// There is an entry for the caller, see `begin_one`.
    fn take(&self) -> (Entry, Ticket) {
        let n = self.threads();
        loop {
            let own = self.hint();
            let first = if self.breadth_first {
                self.queues[own].pop_oldest()
            } else {
                self.queues[own].pop_newest()
            };
            let found = first
                .or_else(|| (own + 1..n).chain(0..own).find_map(|other| self.queues[other].pop_oldest()))
                .or_else(|| self.injected.pop_oldest());
            // It may have moved while we looked: the one that was to be ours was taken by somebody who has left us another.
            if let Some((entry, ticket)) = found {
                return (entry, ticket.unwrap_or_else(|| self.flushes[own].enter(own)));
            }
        }
    }

    /// True if a job that is spawned and not begun seems to be in any queue.
    pub(crate) fn has_jobs(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
            || !self.injected.is_empty()
            || self.broadcasts.any()
    }

    /// As [`Registry::has_jobs`], in the queues of the calling fiber's worker.
    pub(crate) fn has_own_jobs(&self) -> bool {
        let own = self.hint();
        !self.queues[own].is_empty() || self.broadcasts.any_for(own)
    }

    /// For a fiber that begins.
    pub(crate) fn acquire(&'static self, wants: Option<usize>) -> Lease {
        self.indices.acquire(wants, None, self.hint())
    }

    pub(crate) fn release(&'static self, lease: Lease) {
        if self.indices.release(lease).settle() {
            self.begin_one();
        }
    }

    pub(crate) fn lend(&'static self, lease: Lease) {
        if self.indices.lend(lease).settle() {
            self.begin_one();
        }
    }

    /// The calling fiber's index; it belongs to the pool.
    #[inline]
    pub(crate) fn own_index(&'static self) -> usize {
        current::lease().unwrap_or_else(|| self.first_index()).index()
    }

    #[cold]
    fn first_index(&'static self) -> Lease {
        self.indices.use_from_now_on();
        let lease = {
            // A broadcast does not come after a fiber that waits here: whoever has the index may wait for that broadcast.
            let _waiting = Waiting::begin();
            self.indices.acquire(None, Some(current::began()), self.hint())
        };
        current::set_lease(lease);
        lease
    }
}

/// The calling fiber's pool, or else the global one.
#[inline]
pub(crate) fn current_or_global() -> &'static Registry {
    current::registry().unwrap_or_else(global)
}

static GLOBAL: OnceLock<&'static Registry> = OnceLock::new();
/// Somebody asked for an index before the global pool was there.
static GLOBAL_INDICES: AtomicBool = AtomicBool::new(false);

/// Indices are used in the global pool, also if it is made later.
pub(crate) fn use_global_indices() {
    GLOBAL_INDICES.swap(true, SeqCst);
    if let Some(registry) = GLOBAL.get() {
        registry.indices.use_from_now_on();
    }
}

/// The global pool, made at its first use.
///
/// # Panics
/// If it cannot be made.
pub(crate) fn global() -> &'static Registry {
    #[cold]
    fn make() -> &'static Registry {
        match make_global(ThreadPoolBuilder::new()) {
            Ok(()) | Err(_) if GLOBAL.get().is_some() => {}
            Err(error) => panic!("the global thread pool cannot be made: {error}"),
            Ok(()) => unreachable!("it was made"),
        }
        GLOBAL.get().expect("just looked")
    }
    GLOBAL.get().copied().unwrap_or_else(make)
}

/// Makes the global pool, unless it is there.
pub(crate) fn make_global<S: ThreadSpawn>(builder: ThreadPoolBuilder<S>) -> Result<(), ThreadPoolBuildError> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if GLOBAL.get().is_some() {
        return Err(ThreadPoolBuildError::new(Kind::GlobalExists));
    }
    let registry = Registry::start(builder)?; // the count that it begins with is never given back
    let set = GLOBAL.set(registry);
    debug_assert!(set.is_ok(), "only who has the lock sets it");
    if GLOBAL_INDICES.load(SeqCst) {
        registry.indices.use_from_now_on();
    }
    Ok(())
}
