//! Spawning.

use super::JoinHandle;
use super::task::{Spec, Task};
use crate::identity::stack;
use crate::runtime::{Shared, fork};
use crate::worker::enqueue;
use std::io;
use std::panic::Location;
use std::ptr::NonNull;

/// Spawns a fiber on the runtime of the caller (the global one on a plain thread). Any fiber or thread, also inside a critical section.
///
/// Its panic goes to who joins it. If the handle was dropped before the fiber ended, it goes to `Builder::panic_handler`; if the handle was dropped
/// afterwards, without a join, to nobody.
///
/// # Panics
/// In a forked child, where no runtime lives; if the runtime was shut down; if the global runtime cannot be built.
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Shared::with_current(|runtime| spawn_on(runtime, f))
}

/// As [`spawn`], on `runtime`, which is alive and whose pointer comes from its `Arc`.
#[track_caller]
pub(crate) fn spawn_on<F, T>(runtime: NonNull<Shared>, f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: alive, as promised.
    let stack_size = unsafe { runtime.as_ref() }.stack_size;
    let spec = Spec { name: None, stack_size, spawned_at: Location::caller(), scope: None };
    // SAFETY: 'static closure and result.
    unsafe { start(runtime, spec, f) }
}

/// Makes a task and queues it.
///
/// # Safety
/// As for [`Task::create`].
pub(crate) unsafe fn start<F, T>(runtime: NonNull<Shared>, spec: Spec, f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    assert!(fork::alive(), "no fiber can be spawned in a forked child");
    // SAFETY: as promised by the caller; the handle takes over the caller's reference.
    unsafe {
        let task = Task::create(runtime, spec, f);
        let handle = JoinHandle::new(task);
        if !enqueue::spawned(runtime.as_ref(), task) {
            Task::refuse(task, Box::new("the runtime was shut down"));
            drop(handle);
            panic!("a fiber was spawned on a runtime that was shut down");
        }
        handle
    }
}

/// Settings of one fiber, as `std::thread::Builder`. Any context but a signal handler.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until spawn is called"]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<usize>,
}

impl Builder {
    /// No name, the runtime's stack size.
    pub fn new() -> Self {
        Builder::default()
    }

    /// A name, for dumps and reports.
    pub fn name(mut self, n: impl Into<String>) -> Self {
        self.name = Some(n.into());
        self
    }

    /// Bytes of stack (virtual; TLS lies on it too), 16 KiB to 1 TiB; [`spawn`](Builder::spawn) checks. Other sizes than the runtime's are not pooled: such
    /// a fiber costs 20–40 µs more.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// As [`spawn`], with these settings. Any fiber or thread, also inside a critical section.
    ///
    /// # Errors
    /// `InvalidInput` for a stack of under 16 KiB or over 1 TiB; `Unsupported` in a forked child.
    ///
    /// # Panics
    /// If the runtime was shut down; if the global runtime cannot be built.
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.stack_size.is_some_and(|size| !(stack::MIN..=stack::MAX).contains(&size)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "stack size must be between 16 KiB and 1 TiB",
            ));
        }
        if !fork::alive() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "no fiber can be spawned in a forked child",
            ));
        }
        let spawned_at = Location::caller();
        Ok(Shared::with_current(|runtime| {
            let spec = Spec {
                name: self.name.map(String::into_boxed_str),
                // SAFETY: the caller's runtime, or the global one: alive.
                stack_size: self.stack_size.unwrap_or(unsafe { runtime.as_ref() }.stack_size),
                spawned_at,
                scope: None,
            };
            // SAFETY: 'static closure and result.
            unsafe { start(runtime, spec, f) }
        }))
    }
}
