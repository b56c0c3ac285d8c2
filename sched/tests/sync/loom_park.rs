//! `crate::park` over loom's mutex and condition variable.

use std::time::Instant;

use loom::cell::Cell;
use loom::sync::{Arc, Condvar, Mutex};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Notified,
    TimedOut,
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Waiting,
    Claimed,
    Notified,
    TimedOut,
}

#[derive(Debug)]
struct State(Mutex<Phase>, Condvar);

#[derive(Debug)]
pub struct Waiter {
    /// Counted, so that an unpark that comes after the waiter has gone is not our mistake but loom's to find.
    state: Arc<State>,
    pub next: Cell<*const Waiter>,
    pub prev: Cell<*const Waiter>,
    pub queued: Cell<bool>,
    pub token: Cell<usize>,
}

impl Waiter {
    pub fn with<R>(f: impl FnOnce(&Waiter) -> R) -> R {
        let waiter = Waiter {
            state: Arc::new(State(Mutex::new(Phase::Waiting), Condvar::new())),
            next: Cell::new(std::ptr::null()),
            prev: Cell::new(std::ptr::null()),
            queued: Cell::new(false),
            token: Cell::new(0),
        };
        let result = f(&waiter);
        assert!(!waiter.queued.get(), "left in a queue");
        result
    }

    pub fn block(&self, deadline: Option<Instant>, _cancellable: bool) -> Outcome {
        let mut phase = self.state.0.lock().unwrap();
        if *phase == Phase::Waiting && deadline.is_some() {
            *phase = Phase::TimedOut;
            return Outcome::TimedOut;
        }
        while *phase != Phase::Notified {
            phase = self.state.1.wait(phase).unwrap();
        }
        Outcome::Notified
    }

    /// # Safety
    /// As in the crate.
    pub unsafe fn claim(w: *const Waiter) -> Option<Claimed> {
        // SAFETY: the caller's.
        let state = unsafe { &(*w).state };
        let mut phase = state.0.lock().unwrap();
        (*phase == Phase::Waiting).then(|| {
            *phase = Phase::Claimed;
            Claimed(Arc::clone(state))
        })
    }
}

#[must_use]
pub struct Claimed(Arc<State>);

impl Claimed {
    pub fn unpark(self) {
        let mut phase = self.0.0.lock().unwrap();
        assert_eq!(*phase, Phase::Claimed);
        *phase = Phase::Notified;
        self.0.1.notify_one();
    }
}

pub fn unwind_cancelled() -> ! {
    unreachable!("nothing is cancelled here")
}

pub fn in_critical_section() -> bool {
    false
}
