//! What the drop-in for rayon's core needs beyond the public interface. Not for programs.
//!
//! | | for |
//! |---|---|
//! | [`join_context_by`], [`Rules`] | rayon's rule for a panic of the first half; a fiber that waits gives way to others that want its index |
//! | [`build_on`], [`WorkerBody`] | `spawn_handler`: workers on threads that somebody else makes |
//! | [`Latch`] | waits that lend the caller's stack, also on plain threads: no cancel ends them |
//! | [`worker_index`], [`shows_forks`] | which queue a job goes to; hints |

pub use crate::par::join::{Rules, join_context_by};
pub use crate::runtime::builder::WorkerBody;

use crate::fiber::scope::ScopeData;
use crate::fiber::task;
use crate::runtime::{BuildError, Builder, Runtime};
use crate::worker::Worker;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// Builds a runtime whose workers run on threads that `spawn` makes. It does not wait for them. The hooks and names of the builder are not used.
///
/// # Errors
/// As [`Builder::build`], and those of `spawn`: then the workers that exist end.
pub fn build_on(
    builder: Builder,
    mut spawn: impl FnMut(WorkerBody) -> io::Result<()>,
) -> Result<Runtime, BuildError> {
    builder.build_on(&mut spawn)
}

/// A number of things that somebody waits for. Any fiber or thread, also inside a critical section, except for the wait.
#[derive(Default)]
pub struct Latch(ScopeData);

impl Latch {
    /// Nothing to wait for.
    pub fn new() -> Latch {
        Latch::default()
    }

    /// One more. Those that are counted keep the latch from opening, so they may add more.
    pub fn begin(&self) {
        self.0.begin();
    }

    /// One less. If it was the last one, whoever waits goes on: the caller keeps the latch alive by itself.
    pub fn end(&self) {
        self.0.ended();
    }

    /// How many there are.
    pub fn running(&self) -> usize {
        self.0.running()
    }

    /// Parks the fiber, or blocks the plain thread, until there are none. One waiter at a time; no cancel ends it.
    ///
    /// # Aborts
    /// Inside a critical section, if there are some.
    pub fn wait(&self) {
        self.0.wait();
    }
}

impl std::fmt::Debug for Latch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latch").field("running", &self.running()).finish()
    }
}

/// The worker that the calling fiber runs on; perhaps out of date when it returns. `None` on a plain thread. Those that are no regular workers have large numbers.
#[inline]
pub fn worker_index() -> Option<usize> {
    task::current()?;
    // SAFETY: masked.
    unyield_preempt::critical(|| unsafe { Worker::try_current() }.map(|worker| worker.index))
}

/// True if the calling fiber has halves of fork-joins that nobody has taken.
pub fn shows_forks() -> bool {
    task::current().is_some_and(|task| {
        // SAFETY: the running fiber's own identity.
        unsafe { &*task.identity.load(Relaxed) }.shows_forks()
    })
}
