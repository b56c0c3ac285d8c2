//! Waiting until a number of things, not known in advance, are over.

use std::fmt;
use std::sync::Arc;

use super::wait_queue::{Patience, Place, WaitQueue, Waited};
use crate::park::unwind_cancelled;

/// Waits until all clones of it are gone: `crossbeam`'s `WaitGroup`.
///
/// # Contexts
/// Waiting: fibers (parks) and plain threads (blocks); panics inside a critical section if it has to wait; a cancellation
/// point. Cloning and dropping: also inside critical sections. None in handlers.
///
/// # Examples
/// ```
/// use unyield::sync::WaitGroup;
///
/// let group = WaitGroup::new();
/// for i in 0..4 {
///     let member = group.clone();
///     std::thread::spawn(move || {
///         println!("{i} works");
///         drop(member);
///     });
/// }
/// group.wait();
/// ```
pub struct WaitGroup {
    inner: Arc<Inner>,
}

/// How many are left.
struct Inner(WaitQueue<usize>);

impl WaitGroup {
    /// A group with one member, the one that is returned.
    #[must_use]
    pub fn new() -> WaitGroup {
        WaitGroup { inner: Arc::new(Inner(WaitQueue::new(1))) }
    }

    /// Leaves the group, and waits until all others have left it. Several members may wait.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn wait(self) {
        let inner = Arc::clone(&self.inner);
        drop(self);
        let patience = Patience::new(None);
        let queue = inner.0.lock();
        if queue.state == 0 {
            return;
        }
        let waited = inner.0.wait(queue, patience, "WaitGroup::wait", Place::Back(0), || (), |_, _| ());
        if waited == Waited::Cancelled {
            unwind_cancelled();
        }
    }
}

impl Clone for WaitGroup {
    fn clone(&self) -> WaitGroup {
        // No more members than references, and those `Arc` keeps from wrapping.
        let inner = Arc::clone(&self.inner);
        inner.0.lock().state += 1;
        WaitGroup { inner }
    }
}

impl Drop for WaitGroup {
    fn drop(&mut self) {
        let mut queue = self.inner.0.lock();
        queue.state -= 1;
        let last = queue.state == 0;
        drop(queue);
        if last {
            self.inner.0.wake_all(0);
        }
    }
}

impl Default for WaitGroup {
    fn default() -> WaitGroup {
        WaitGroup::new()
    }
}

impl fmt::Debug for WaitGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitGroup").field("members", &self.inner.0.lock().state).finish()
    }
}
