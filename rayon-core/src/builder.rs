//! How a pool is to be.

use crate::error::ThreadPoolBuildError;
use crate::pool::ThreadPool;
use crate::registry::{self, Registry};
use crate::thread::{CustomSpawn, DefaultSpawn, Handlers, ThreadBuilder, ThreadSpawn};
use std::any::Any;
use std::{env, fmt, io, thread};

/// As many as a runtime has workers at most.
const MAX_THREADS: usize = 4096;
/// Virtual memory; what a fiber does not touch costs nothing. Threads have 2 MiB, but what fits into them there need not here: nothing lies on top of something
/// that waits, yet frames of debug builds and of C libraries are large, and a stack that is too small ends the process.
const FIBER_STACK: usize = 8 << 20;
const LEAST_STACK: usize = 64 << 10;

/// The most threads that a pool can have; more are reduced to it.
pub fn max_num_threads() -> usize {
    MAX_THREADS
}

/// Makes a [`ThreadPool`], or configures the global one.
///
/// ```
/// let pool = rayon_core::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
/// assert_eq!(pool.install(rayon_core::current_num_threads), 2);
/// ```
pub struct ThreadPoolBuilder<S = DefaultSpawn> {
    num_threads: usize,
    use_current_thread: bool,
    thread_name: Option<Box<dyn FnMut(usize) -> String>>,
    stack_size: Option<usize>,
    breadth_first: bool,
    handlers: Handlers,
    pub(crate) spawn_handler: S,
}

impl Default for ThreadPoolBuilder {
    fn default() -> Self {
        ThreadPoolBuilder {
            num_threads: 0,
            use_current_thread: false,
            thread_name: None,
            stack_size: None,
            breadth_first: false,
            handlers: Handlers::default(),
            spawn_handler: DefaultSpawn,
        }
    }
}

impl ThreadPoolBuilder {
    /// The defaults: as many threads as `RAYON_NUM_THREADS` says, or as the machine can run at a time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a pool whose threads are of a [`std::thread::scope`], calls `with_pool` with it, and ends the pool. Each of them calls `wrapper`, which must call
    /// [`ThreadBuilder::run`]. Fibers are threads of their own to thread-local data, so what `wrapper` sets there the pool's jobs do not see.
    ///
    /// # Errors
    /// As [`ThreadPoolBuilder::build`].
    pub fn build_scoped<W, F, R>(self, wrapper: W, with_pool: F) -> Result<R, ThreadPoolBuildError>
    where
        W: Fn(ThreadBuilder) + Sync,
        F: FnOnce(&ThreadPool) -> R,
    {
        thread::scope(|scope| {
            let wrapper = &wrapper;
            let spawn = |thread: ThreadBuilder| {
                let mut builder = thread::Builder::new();
                if let Some(name) = thread.name() {
                    builder = builder.name(name.to_owned());
                }
                builder.spawn_scoped(scope, move || wrapper(thread)).map(drop)
            };
            let pool = self.spawn_handler(spawn).build()?;
            Ok(with_pool(&pool))
        })
    }
}

#[allow(private_bounds, reason = "rayon's interface: whatever is set by `spawn_handler`, or nothing")]
impl<S: ThreadSpawn> ThreadPoolBuilder<S> {
    /// Makes the pool.
    ///
    /// # Errors
    /// If a thread or a stack cannot be had; of kind `Unsupported` for what cannot be had at all: `use_current_thread`, a stack of more than 1 TiB, a machine
    /// on which fibers cannot have thread identities.
    pub fn build(self) -> Result<ThreadPool, ThreadPoolBuildError> {
        Registry::start(self).map(ThreadPool::with)
    }

    /// Makes the global pool, which is otherwise made with the defaults when it is first used.
    ///
    /// # Errors
    /// As [`ThreadPoolBuilder::build`], and if there is one.
    pub fn build_global(self) -> Result<(), ThreadPoolBuildError> {
        registry::make_global(self)
    }
}

impl<S> ThreadPoolBuilder<S> {
    /// How many threads, that is, workers. 0: as many as `RAYON_NUM_THREADS` says, or as the machine can run at a time.
    pub fn num_threads(mut self, num_threads: usize) -> Self {
        self.num_threads = num_threads;
        self
    }

    /// Is refused when the pool is made: a thread of the program's cannot become a worker of preemptible fibers without leaving what it does.
    pub fn use_current_thread(mut self) -> Self {
        self.use_current_thread = true;
        self
    }

    /// Names the pool's threads. Jobs run on fibers, which have no names of their own.
    pub fn thread_name<F>(mut self, closure: F) -> Self
    where
        F: FnMut(usize) -> String + 'static,
    {
        self.thread_name = Some(Box::new(closure));
        self
    }

    /// Bytes of stack of each fiber (virtual), at least 64 KiB; default 8 MiB, or `RUST_MIN_STACK` if that is more.
    pub fn stack_size(mut self, stack_size: usize) -> Self {
        self.stack_size = Some(stack_size);
        self
    }

    /// Begins what a thread has spawned oldest first.
    #[deprecated(note = "`scope_fifo` and `spawn_fifo` have a similar effect")]
    pub fn breadth_first(mut self) -> Self {
        self.breadth_first = true;
        self
    }

    /// Gets what is panicked with where nobody waits: in spawned jobs and in the handlers below. Without one the process ends.
    pub fn panic_handler<H>(mut self, panic_handler: H) -> Self
    where
        H: Fn(Box<dyn Any + Send>) + Send + Sync + 'static,
    {
        self.handlers.panic = Some(Box::new(panic_handler));
        self
    }

    /// Called on each of the pool's threads when it begins; no fiber runs there before it returns.
    pub fn start_handler<H>(mut self, start_handler: H) -> Self
    where
        H: Fn(usize) + Send + Sync + 'static,
    {
        self.handlers.start = Some(Box::new(start_handler));
        self
    }

    /// Called on each of the pool's threads when it ends.
    pub fn exit_handler<H>(mut self, exit_handler: H) -> Self
    where
        H: Fn(usize) + Send + Sync + 'static,
    {
        self.handlers.exit = Some(Box::new(exit_handler));
        self
    }

    /// Makes the pool's threads: `spawn` is called once for each and sees to it that [`ThreadBuilder::run`] is called on a thread of its own.
    pub fn spawn_handler<F>(self, spawn: F) -> ThreadPoolBuilder<CustomSpawn<F>>
    where
        F: FnMut(ThreadBuilder) -> io::Result<()>,
    {
        ThreadPoolBuilder {
            num_threads: self.num_threads,
            use_current_thread: self.use_current_thread,
            thread_name: self.thread_name,
            stack_size: self.stack_size,
            breadth_first: self.breadth_first,
            handlers: self.handlers,
            spawn_handler: CustomSpawn(spawn),
        }
    }

    pub(crate) fn chosen_threads(&self) -> usize {
        let machine = || thread::available_parallelism().map_or(1, usize::from);
        let asked = match self.num_threads {
            0 => [("RAYON_NUM_THREADS", true), ("RAYON_RS_NUM_CPUS", false)]
                .into_iter()
                .find_map(|(name, zero_counts)| match env::var(name).ok()?.parse().ok()? {
                    0 => zero_counts.then(machine),
                    n => Some(n),
                })
                .unwrap_or_else(machine),
            n => n,
        };
        asked.min(MAX_THREADS)
    }

    pub(crate) fn uses_current_thread(&self) -> bool {
        self.use_current_thread
    }

    pub(crate) fn is_breadth_first(&self) -> bool {
        self.breadth_first
    }

    pub(crate) fn name_of(&mut self, index: usize) -> Option<String> {
        self.thread_name.as_mut().map(|name| name(index))
    }

    pub(crate) fn asked_stack(&self) -> Option<usize> {
        self.stack_size
    }

    pub(crate) fn fiber_stack(&self) -> usize {
        let default = || {
            let asked = env::var("RUST_MIN_STACK").ok().and_then(|bytes| bytes.parse().ok());
            FIBER_STACK.max(asked.unwrap_or(0))
        };
        self.stack_size.unwrap_or_else(default).max(LEAST_STACK)
    }

    pub(crate) fn take_handlers(&mut self) -> Handlers {
        std::mem::take(&mut self.handlers)
    }
}

impl<S> fmt::Debug for ThreadPoolBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPoolBuilder")
            .field("num_threads", &self.num_threads)
            .field("use_current_thread", &self.use_current_thread)
            .field("thread_name", &self.thread_name.is_some())
            .field("panic_handler", &self.handlers.panic.is_some())
            .field("stack_size", &self.stack_size)
            .field("start_handler", &self.handlers.start.is_some())
            .field("exit_handler", &self.handlers.exit.is_some())
            .field("breadth_first", &self.breadth_first)
            .finish_non_exhaustive()
    }
}
