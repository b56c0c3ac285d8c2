//! One blocked caller, fiber or plain thread, and who ends its wait. Every blocking operation of the crate goes through here.
//!
//! Who ends a wait and who makes the waiter runnable is settled by its `wait_state`.
//!
//! Blocking is for fibers and plain threads outside critical sections; claiming and unparking may be done from anywhere but a signal handler.

use crate::fiber::task::{self, Task};
use crate::time::wheel;
pub(crate) use crate::wait_state::Outcome;
use crate::wait_state::{End, WaitState};
use crate::worker::{After, enqueue, resume};
use std::cell::Cell;
use std::ptr::{NonNull, null};
use std::time::Instant;
use unyield_preempt::{mask, tick, unmask};

#[repr(C)]
pub(crate) struct Waiter {
    /// First: the timer finds the waiter by its entry.
    timer: wheel::Entry,
    state: WaitState,
    /// The task whose waiter this is; null for a plain thread's.
    task: *const Task,
    /// These belong to the queue that the waiter is on, under that queue's lock.
    pub(crate) next: Cell<*const Waiter>,
    pub(crate) prev: Cell<*const Waiter>,
    pub(crate) queued: Cell<bool>,
    /// What waker and waiter tell each other: written before queueing or between claim and unpark, read after `block` has returned.
    pub(crate) token: Cell<usize>,
}

impl Waiter {
    pub(crate) const fn new(task: *const Task) -> Self {
        Waiter {
            timer: wheel::Entry::new(),
            state: WaitState::new(),
            task,
            next: Cell::new(null()),
            prev: Cell::new(null()),
            queued: Cell::new(false),
            token: Cell::new(0),
        }
    }

    /// Calls `f` with the caller's own waiter (a fiber's lives in its task, a thread's on its stack), freshly set to WAITING. Not nested.
    #[inline]
    pub(crate) fn with<R>(f: impl FnOnce(&Waiter) -> R) -> R {
        let own;
        let waiter = match task::current() {
            Some(task) => {
                task.waiter.state.reset();
                &task.waiter
            }
            None => {
                own = Waiter::new(null());
                &own
            }
        };
        f(waiter)
    }

    /// Blocks until claimed and unparked, until `deadline`, or (if `cancellable`) until the fiber is cancelled.
    ///
    /// # Panics
    /// Inside a critical section.
    #[inline]
    pub(crate) fn block(&self, deadline: Option<Instant>, cancellable: bool) -> Outcome {
        self.block_until(deadline.map(nanoseconds), cancellable)
    }

    /// As [`Waiter::block`]; the deadline in nanoseconds of CLOCK_MONOTONIC.
    pub(crate) fn block_until(&self, deadline: Option<u64>, cancellable: bool) -> Outcome {
        assert_may_wait("blocking");
        self.wait(deadline, cancellable)
    }

    /// Blocks until claimed and unparked, for a wait that lends the caller's stack (rule 9): it cannot end early, not even by a panic, so
    /// inside a critical section the process ends.
    pub(crate) fn block_lent(&self) {
        if in_critical_section() {
            crate::observe::report::say(
                "waiting for a fiber that borrows from this stack, inside a critical section (a forgotten CriticalSection guard)",
            );
            std::process::abort();
        }
        self.wait(None, false);
    }

    /// For a wait that lends the caller's stack, also inside a critical section: there it blocks the OS thread. `register` makes the waiter known to who will call
    /// [`Waiter::hand_over`]; false: there is nothing to wait for any more.
    pub(crate) fn with_lent(register: impl FnOnce(&Waiter) -> bool) {
        if in_critical_section() {
            let own = Waiter::new(null());
            if register(&own) {
                own.block_thread(None);
            }
            return;
        }
        Waiter::with(|waiter| {
            if register(waiter) {
                waiter.wait(None, false);
            }
        });
    }

    fn wait(&self, deadline: Option<u64>, cancellable: bool) -> Outcome {
        if self.task.is_null() || !crate::runtime::fork::alive() {
            return self.block_thread(deadline);
        }
        // SAFETY: a waiter with a task is that task's, and the task is running: it calls us.
        let task = unsafe { &*self.task };
        if cancellable {
            self.state.allow_cancel();
            if task.is_cancelled() {
                self.finish(End::Cancel);
            }
        }
        if let Some(outcome) = self.state.outcome() {
            return outcome;
        }
        let timers = &task.runtime().timers;
        if let Some(deadline) = deadline {
            timers.insert(NonNull::from(&self.timer), deadline, &task.runtime().armed);
        }
        mask();
        // SAFETY: masked, on a fiber, outside any other section; unmasked again when somebody has made us runnable.
        unsafe {
            resume::leave(After::Park(NonNull::from(self)));
            unmask();
        }
        if deadline.is_some() {
            timers.remove(NonNull::from(&self.timer));
        }
        self.state.outcome().expect("a parked fiber runs only when its wait has ended")
    }

    fn block_thread(&self, deadline: Option<u64>) -> Outcome {
        loop {
            let word = match self.state.publish() {
                Ok(outcome) => return outcome,
                Err(word) => word,
            };
            let timeout = match deadline {
                None => None,
                Some(deadline) => match deadline.checked_sub(tick::now()) {
                    Some(left) if left > 0 => Some(left),
                    _ if self.state.finish(End::Deadline).is_some() => return Outcome::TimedOut,
                    _ => None, // claimed: the end comes at once
                },
            };
            futex_wait(self.state.word(), word, timeout);
        }
    }

    /// Ends the wait for a reason other than a waker, unless a waker or another reason was first.
    fn finish(&self, end: End) {
        let (task, word) = (self.task, self.state.word()); // before: afterwards `self` may be gone
        if self.state.finish(end) == Some(true) {
            make_runnable(task, word);
        }
    }

    /// The deadline of a fiber has come. Called under the timers' lock, so that the entry's owner is still there. Returns a task that the caller must make
    /// runnable.
    ///
    /// # Safety
    /// `entry` is the timer entry of a live task's waiter.
    pub(crate) unsafe fn expire(entry: NonNull<wheel::Entry>) -> Option<NonNull<Task>> {
        // SAFETY: the entry is the first field of a waiter.
        let waiter = unsafe { entry.cast::<Waiter>().as_ref() };
        let task = NonNull::new(waiter.task.cast_mut());
        if waiter.state.finish(End::Deadline) == Some(true) { task } else { None }
    }

    /// Cancels the wait if it may be cancelled.
    pub(crate) fn cancel(&self) {
        self.finish(End::Cancel);
    }

    /// After the stack was left: marks the waiter parked. True: its wait has ended meanwhile, so the caller must make it runnable.
    pub(crate) fn publish(&self) -> bool {
        self.state.publish().is_ok()
    }

    /// The task whose waiter this is.
    ///
    /// # Safety
    /// It has one, and its fiber is parked.
    pub(crate) unsafe fn task(&self) -> &Task {
        // SAFETY: a parked fiber's task lives.
        unsafe { &*self.task }
    }

    /// Ends a wait that nobody else can end: claim and unpark in one. It may be gone as soon as this is called.
    ///
    /// # Safety
    /// The waiter waits without deadline, cannot be cancelled, and only the caller knows it.
    #[inline]
    pub(crate) unsafe fn notify(waiter: *const Waiter) {
        // SAFETY: it does not return before the phase is NOTIFIED, which happens here and once.
        let (state, task) = unsafe { (&(*waiter).state, (*waiter).task) };
        let word = state.word();
        if state.notify() {
            make_runnable(task, word);
        }
    }

    /// As [`Waiter::notify`], by a fiber that is about to end: the waiter's fiber goes on next, here.
    ///
    /// # Safety
    /// As for [`Waiter::notify`].
    pub(crate) unsafe fn hand_over(waiter: *const Waiter) {
        // SAFETY: as in `notify`.
        let (state, task) = unsafe { (&(*waiter).state, (*waiter).task) };
        let word = state.word();
        if state.notify() {
            if task.is_null() || !crate::runtime::fork::alive() {
                make_runnable(task, word);
            } else {
                // SAFETY: as in `make_runnable`.
                unsafe { enqueue::next(&*task) }
            }
        }
    }

    /// Settles, under the lock of the queue that `waiter` is on, that the caller ends the wait. None: its deadline or a cancel came first; it will
    /// unlink itself.
    ///
    /// # Safety
    /// `waiter` is queued, and the queue's lock is held.
    pub(crate) unsafe fn claim(waiter: *const Waiter) -> Option<Claimed> {
        // SAFETY: a queued waiter is alive: it unlinks itself under the lock before it goes.
        let this = unsafe { &*waiter };
        this.state.claim().map(|parked| Claimed { waiter, task: this.task, parked })
    }
}

/// The right, and the duty, to end one wait.
#[must_use]
#[derive(Debug)]
pub(crate) struct Claimed {
    waiter: *const Waiter,
    task: *const Task,
    parked: bool,
}

impl Claimed {
    /// Makes the waiter runnable. It may be gone as soon as this is called.
    #[inline]
    pub(crate) fn unpark(self) {
        // SAFETY: a claimed waiter does not return before the phase is NOTIFIED, which happens here and once.
        let state = unsafe { &(*self.waiter).state };
        let word = state.word();
        if state.notify_claimed(self.parked) {
            make_runnable(self.task, word);
        }
    }
}

/// The wait of a PARKED waiter has ended: queue its fiber, or wake its thread. For a thread only the address is used: its frame may be gone,
/// and a wake-up at an address that is something else by now is a spurious one there.
#[inline]
fn make_runnable(task: *const Task, address: *mut u32) {
    if task.is_null() || !crate::runtime::fork::alive() {
        // SAFETY: FUTEX_WAKE does not touch the word.
        unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    } else {
        // SAFETY: a parked fiber's task lives, and is ours to queue, since we ended its wait.
        unsafe { enqueue::woken(&*task) }
    }
}

fn futex_wait(word: *mut u32, expected: u32, timeout_ns: Option<u64>) {
    let timeout = timeout_ns.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    let timeout = timeout.as_ref().map_or(null(), |timeout| timeout as *const libc::timespec);
    // SAFETY: waits on a word of the caller's; a spurious return is the caller's to handle.
    unsafe {
        libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, expected, timeout)
    };
}

/// `Instant` is CLOCK_MONOTONIC on Linux, but does not say its number: measure from now.
pub(crate) fn nanoseconds(at: Instant) -> u64 {
    let ahead = at.saturating_duration_since(Instant::now()).as_nanos();
    tick::now().saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
}

/// True where parking, sleeping and yielding are not allowed. Plain threads may nest sections without effect; blocking in one is refused there too.
#[inline]
pub(crate) fn in_critical_section() -> bool {
    unyield_preempt::gate::gate().depth() != 0
}

/// # Panics
/// Inside a critical section, where `what` is not allowed. Before anything of the wait is seen by others.
#[inline]
#[track_caller]
pub(crate) fn assert_may_wait(what: &str) {
    assert!(!in_critical_section(), "{what} inside a critical section");
}

/// Unwinds the running fiber because it was cancelled.
pub(crate) fn unwind_cancelled() -> ! {
    std::panic::resume_unwind(Box::new(crate::fiber::cancel::Cancelled))
}
