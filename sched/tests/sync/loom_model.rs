//! What the models of state machines share.

use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

pub fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(preemptions);
    model.max_branches = 10_000;
    model.check(f);
}

/// Memory that loom watches.
#[derive(Default)]
pub struct Watched(UnsafeCell<u32>);

// SAFETY: loom checks it.
unsafe impl Sync for Watched {}

impl Watched {
    pub fn read(&self) -> u32 {
        // SAFETY: loom checks it.
        self.0.with(|value| unsafe { *value })
    }
    pub fn write(&self, to: u32) {
        // SAFETY: loom checks it.
        self.0.with_mut(|value| unsafe { *value = to });
    }
}

pub fn start<S: Send + Sync + 'static, R: 'static>(shared: &Arc<S>, f: fn(&S) -> R) -> thread::JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || f(&shared))
}
