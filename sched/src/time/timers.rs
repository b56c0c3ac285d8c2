//! The wheel, its lock, and when the timer thread must look at it next.

use super::wheel::{Entry, Wheel};
use crate::identity::service::Bell;
use crate::lock::Lock;
use crate::park::Waiter;
use crate::worker::enqueue;
use crate::worker::runnable::Runnable;
use std::ptr::NonNull;
use unyield_preempt::tick;
use unyield_stealing::{Armed, List};

struct State {
    wheel: Wheel,
    /// The timer thread is awake, or will be by then (ns).
    wake_at: u64,
}

pub(crate) struct Timers {
    state: Lock<Box<State>>,
    /// Rung when the timer naps for longer than a new deadline allows.
    nap: Bell,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Timers {
            state: Lock::new(Box::new(State { wheel: Wheel::new(tick::now()), wake_at: 0 })),
            nap: Bell::default(),
        }
    }

    /// Has `entry`'s waiter expired at `deadline` (ns). The caller removes it before the waiter goes.
    pub(crate) fn insert(&self, entry: NonNull<Entry>, deadline: u64, armed: &Armed) {
        let early = {
            let mut state = self.state.lock();
            // SAFETY: the entry lives until `remove`.
            unsafe { state.wheel.insert(entry, deadline) };
            deadline < state.wake_at
        };
        if early {
            self.nap.ring();
            armed.rouse();
        }
    }

    /// Afterwards the timer thread does not know the entry any more.
    pub(crate) fn remove(&self, entry: NonNull<Entry>) {
        // SAFETY: the entry was inserted by the caller, or is not queued any more.
        unsafe { self.state.lock().wheel.remove(entry) };
    }

    /// Timer thread: ends the waits whose time has come. The fibers that it makes runnable are in the list.
    pub(crate) fn expire(&self, now: u64) -> List<Runnable> {
        let mut due = List::new();
        // SAFETY: entries are waiters' of tasks, which stay until they have taken this lock in `remove`. Whoever ended a parked fiber's wait may link its
        // identity, which is at rest and in no queue.
        self.state.lock().wheel.expire(now, |entry| unsafe {
            if let Some(task) = Waiter::expire(entry) {
                due.push_back(enqueue::runnable(task.as_ref()));
            }
        });
        due
    }

    /// Timer thread: until when may it sleep, at most until `limit`? Also a token for [`Timers::nap`].
    pub(crate) fn plan(&self, limit: u64) -> (u64, u32) {
        let mut state = self.state.lock();
        let until = state.wheel.next_deadline().unwrap_or(u64::MAX).min(limit);
        state.wake_at = until;
        (until, self.nap.read())
    }

    /// Timer thread: sleeps until `until`, or until an earlier deadline is inserted.
    pub(crate) fn nap(&self, until: u64, token: u32) {
        let now = tick::now();
        if until > now {
            self.nap.wait(token, (until != u64::MAX).then(|| until - now));
        }
    }

    /// Ends a nap.
    pub(crate) fn wake(&self) {
        self.nap.ring();
    }
}
