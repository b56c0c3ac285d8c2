//! The threads of a pool: its workers, on threads that are made by default or by the program.

use crate::current::InHandlers;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{fmt, io, process, thread};
use unyield::raw::WorkerBody;

type OnPanic = Box<dyn Fn(Box<dyn Any + Send>) + Send + Sync>;
type OnThread = Box<dyn Fn(usize) + Send + Sync>;

/// What the program wants to be told.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) panic: Option<OnPanic>,
    pub(crate) start: Option<OnThread>,
    pub(crate) exit: Option<OnThread>,
}

impl Handlers {
    /// Calls what nobody waits for. A panic goes to the panic handler; without one, and if that panics too, the process ends.
    pub(crate) fn contain(&self, f: impl FnOnce()) {
        let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else { return };
        let told = match &self.panic {
            Some(handler) => catch_unwind(AssertUnwindSafe(|| handler(payload))).is_ok(),
            None => false,
        };
        if !told {
            eprintln!(
                "rayon: a panic that nobody waits for, and no panic handler that deals with it; aborting"
            );
            process::abort();
        }
    }
}

/// One thread of a pool that is being made, for [`spawn_handler`](crate::ThreadPoolBuilder::spawn_handler).
pub struct ThreadBuilder {
    name: Option<String>,
    stack_size: Option<usize>,
    handlers: Arc<Handlers>,
    body: WorkerBody,
}

impl ThreadBuilder {
    pub(crate) fn new(
        name: Option<String>,
        stack_size: Option<usize>,
        handlers: Arc<Handlers>,
        body: WorkerBody,
    ) -> Self {
        ThreadBuilder { name, stack_size, handlers, body }
    }

    /// Which thread of the pool it is to be.
    pub fn index(&self) -> usize {
        self.body.index()
    }

    /// Its name, if the pool's builder was given [`thread_name`](crate::ThreadPoolBuilder::thread_name).
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What the pool's builder was given as [`stack_size`](crate::ThreadPoolBuilder::stack_size). It is the size of the fibers' stacks; the thread's own is
    /// hardly used.
    pub fn stack_size(&self) -> Option<usize> {
        self.stack_size
    }

    /// Makes the calling thread this thread of the pool; returns when the pool has ended.
    pub fn run(self) {
        let ThreadBuilder { handlers, body, .. } = self;
        let index = body.index();
        let _here = InHandlers::new(index);
        if let Some(start) = &handlers.start {
            handlers.contain(|| start(index));
        }
        if let Err(error) = body.run() {
            // The pool has said that it has so many threads; some of its jobs might never be run.
            eprintln!("rayon: thread {index} of a pool cannot run fibers: {error}; aborting");
            process::abort();
        }
        if let Some(exit) = &handlers.exit {
            handlers.contain(|| exit(index));
        }
    }
}

impl fmt::Debug for ThreadBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadBuilder")
            .field("index", &self.index())
            .field("name", &self.name)
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}

mod sealed {
    pub trait Sealed {}
}

/// How a pool makes its threads: not for programs, which have [`spawn_handler`](crate::ThreadPoolBuilder::spawn_handler).
pub trait ThreadSpawn: sealed::Sealed {
    #[doc(hidden)]
    fn spawn(&mut self, thread: ThreadBuilder) -> io::Result<()>;
}

/// Threads of std's.
#[derive(Debug, Default)]
pub struct DefaultSpawn;

impl sealed::Sealed for DefaultSpawn {}

impl ThreadSpawn for DefaultSpawn {
    fn spawn(&mut self, thread: ThreadBuilder) -> io::Result<()> {
        let mut builder = thread::Builder::new();
        if let Some(name) = thread.name() {
            builder = builder.name(name.to_owned());
        }
        builder.spawn(|| thread.run())?;
        Ok(())
    }
}

/// Threads of the program's.
pub struct CustomSpawn<F>(pub(crate) F);

impl<F> fmt::Debug for CustomSpawn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomSpawn")
    }
}

impl<F> sealed::Sealed for CustomSpawn<F> {}

impl<F: FnMut(ThreadBuilder) -> io::Result<()>> ThreadSpawn for CustomSpawn<F> {
    fn spawn(&mut self, thread: ThreadBuilder) -> io::Result<()> {
        (self.0)(thread)
    }
}
