//! Something that is done once. The state is one byte; those that come while it is being done queue.
//!
//! The one that has done it writes the state and then takes the queue's lock to wake; one that waits looks at the state under
//! that lock before it queues. So it either sees the new state or is woken.

use std::fmt;

use super::atomic::{AtomicU8, Ordering};
use super::wait_queue::{Patience, Place, WaitQueue, Waited};
use crate::park::unwind_cancelled;

/// Runs an initialisation once: `parking_lot`'s `Once`.
///
/// # Contexts
/// Fibers and plain threads. Inside a critical section it works if nobody else is at it, and panics if it would have to wait. Not in
/// handlers. Waiting for another's initialisation is a cancellation point.
///
/// # Examples
/// ```
/// use unyield::sync::Once;
///
/// static START: Once = Once::new();
///
/// START.call_once(|| println!("once"));
/// START.call_once(|| println!("never"));
/// assert!(START.is_completed());
/// ```
pub struct Once {
    state: AtomicU8,
    queue: WaitQueue<()>,
}

const NEW: u8 = 0;
const POISONED: u8 = 1;
const IN_PROGRESS: u8 = 2;
const DONE: u8 = 3;

/// How far a [`Once`] has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnceState {
    /// Nothing has been run.
    New,
    /// A closure was run and panicked.
    Poisoned,
    /// A closure is running.
    InProgress,
    /// A closure has been run.
    Done,
}

impl OnceState {
    /// True for [`OnceState::Poisoned`].
    #[must_use]
    pub fn poisoned(self) -> bool {
        self == OnceState::Poisoned
    }

    /// True for [`OnceState::Done`].
    #[must_use]
    pub fn done(self) -> bool {
        self == OnceState::Done
    }
}

impl Once {
    /// Nothing has been run.
    #[must_use]
    pub const fn new() -> Once {
        Once { state: AtomicU8::new(NEW), queue: WaitQueue::new(()) }
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> OnceState {
        // Acquire: as in `is_completed`.
        match self.state.load(Ordering::Acquire) {
            NEW => OnceState::New,
            POISONED => OnceState::Poisoned,
            IN_PROGRESS => OnceState::InProgress,
            _ => OnceState::Done,
        }
    }

    /// Whether a closure has been run to its end; what it did is visible then.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        // Acquire: pairs with the Release in `Run::drop`.
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Runs `f` if nothing has been run yet; else waits until that is done.
    ///
    /// # Panics
    /// If `f` does, which poisons it; if it is poisoned already; if it has to wait inside a critical section. Calling it from
    /// within `f` deadlocks.
    #[inline]
    pub fn call_once(&self, f: impl FnOnce()) {
        if !self.is_completed() {
            let mut f = Some(f);
            self.call_slow(false, &mut |_| {
                if let Some(f) = f.take() {
                    f();
                }
            });
        }
    }

    /// As [`Once::call_once`], but runs `f` also if it is poisoned. `f` is told.
    ///
    /// # Panics
    /// If `f` does, which poisons it; if it has to wait inside a critical section. Calling it from within `f` deadlocks.
    #[inline]
    pub fn call_once_force(&self, f: impl FnOnce(OnceState)) {
        if !self.is_completed() {
            let mut f = Some(f);
            self.call_slow(true, &mut |state| {
                if let Some(f) = f.take() {
                    f(state);
                }
            });
        }
    }

    #[cold]
    fn call_slow(&self, force: bool, f: &mut dyn FnMut(OnceState)) {
        loop {
            // Acquire: as in `is_completed`.
            let before = self.state.load(Ordering::Acquire);
            match before {
                DONE => return,
                POISONED if !force => panic!("Once instance has previously been poisoned"),
                IN_PROGRESS => {
                    let patience = Patience::new(None);
                    let queue = self.queue.lock();
                    // Acquire: as in `is_completed`.
                    if self.state.load(Ordering::Acquire) != IN_PROGRESS {
                        continue;
                    }
                    let what = "Once::call_once";
                    let waited = self.queue.wait(queue, patience, what, Place::Back(0), || (), |_, _| ());
                    if waited == Waited::Cancelled {
                        unwind_cancelled();
                    }
                }
                _ => {
                    // Acquire: pairs with the Release of one that panicked.
                    let ours = self.state.compare_exchange(
                        before,
                        IN_PROGRESS,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    );
                    if ours.is_ok() {
                        let mut run = Run { once: self, becomes: POISONED };
                        f(if before == NEW { OnceState::New } else { OnceState::Poisoned });
                        run.becomes = DONE;
                        return;
                    }
                }
            }
        }
    }
}

/// A closure that is running; however it ends, the others learn of it.
struct Run<'a> {
    once: &'a Once,
    becomes: u8,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire loads of the state.
        self.once.state.store(self.becomes, Ordering::Release);
        self.once.queue.wake_all(0);
    }
}

impl Default for Once {
    fn default() -> Once {
        Once::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("state", &self.state()).finish()
    }
}
