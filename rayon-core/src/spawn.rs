//! Jobs that nothing waits for.

use crate::registry::{Registry, current_or_global};
use std::ptr::NonNull;

/// Runs `func` some time, in the calling fiber's pool, or else in the global one. Its panic goes to the pool's panic handler; without one the process ends.
///
/// What a thread spawns is begun newest first, if nobody else takes it.
///
/// ```
/// let (sender, receiver) = std::sync::mpsc::channel();
/// rayon_core::spawn(move || sender.send(1).unwrap());
/// assert_eq!(receiver.recv(), Ok(1));
/// ```
pub fn spawn<F>(func: F)
where
    F: FnOnce() + Send + 'static,
{
    spawn_in(current_or_global(), func);
}

/// As [`spawn`], but what a thread spawns by this is begun oldest first.
pub fn spawn_fifo<F>(func: F)
where
    F: FnOnce() + Send + 'static,
{
    spawn_fifo_in(current_or_global(), func);
}

pub(crate) fn spawn_in<F>(registry: &'static Registry, func: F)
where
    F: FnOnce() + Send + 'static,
{
    registry.push(Box::new(detached(registry, func)));
}

pub(crate) fn spawn_fifo_in<F>(registry: &'static Registry, func: F)
where
    F: FnOnce() + Send + 'static,
{
    registry.push_fifo(Box::new(detached(registry, func)));
}

/// `func` as something that keeps the pool until it has been called, and does not unwind.
fn detached<F>(registry: &'static Registry, func: F) -> impl FnOnce() + Send + 'static
where
    F: FnOnce() + Send + 'static,
{
    registry.keep();
    move || {
        registry.handlers.contain(func);
        // SAFETY: kept above; from here on it is used on this fiber only, which is one of its own.
        unsafe { Registry::let_go(NonNull::from(registry)) };
    }
}
