//! A half of a fork-join, on the stack of the fiber that forked, and how it is run by somebody else.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `run` | the fork | who takes the job |
//! | `state` | who takes it, the fiber that forked (its waiter), who has run it: see `job_state` | the same |
//! | `body` | the fork (the closure); who runs it (the result), before DONE | who runs it; the fiber that forked, if nobody has taken it, or after DONE |
//!
//! Whoever takes a job out of a deque runs it, and nobody else does. After DONE nobody but the fiber that forked touches it: its frame may be gone.

use super::Ctx;
use super::job_state::JobState;
use crate::fiber::task::{self, Payload};
use crate::identity::stack::SLOT_SHARE;
use crate::park::Waiter;
use crate::runtime::fork;
use std::cell::UnsafeCell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

#[repr(C, align(16))]
pub(crate) struct Job {
    run: unsafe fn(NonNull<Job>),
    /// Not initialised by the fork: whoever takes the job does it, before the fiber that forked can find it taken.
    state: MaybeUninit<JobState>,
}

union Body<B, R> {
    closure: ManuallyDrop<B>,
    result: ManuallyDrop<Result<R, Payload>>,
}

#[repr(C)]
pub(super) struct StackJob<B, R> {
    head: Job,
    body: UnsafeCell<Body<B, R>>,
}

impl Job {
    /// It is being taken out of a deque: before the fiber that forked can know.
    ///
    /// # Safety
    /// It lives, and nobody else uses it yet.
    pub(super) unsafe fn taken(this: NonNull<Job>) {
        // SAFETY: as promised.
        unsafe { (&raw mut (*this.as_ptr()).state).write(MaybeUninit::new(JobState::taken())) };
    }

    /// # Safety
    /// It was taken.
    unsafe fn state(&self) -> &JobState {
        // SAFETY: whoever has taken it has written the state.
        unsafe { self.state.assume_init_ref() }
    }

    /// Runs it: the result goes where the fiber that forked finds it. Unmasked, on a fiber.
    ///
    /// # Safety
    /// Taken by the caller; once.
    pub(crate) unsafe fn run(this: NonNull<Job>) {
        // SAFETY: the fiber that forked waits for DONE.
        unsafe { (this.as_ref().run)(this) }
    }

    /// The result is in place: whoever waits may go on, at once and here. The job may be gone afterwards.
    ///
    /// # Safety
    /// As for [`Job::run`], which has returned.
    pub(crate) unsafe fn complete(this: NonNull<Job>) {
        // SAFETY: alive until DONE is stored; a waiter is there until it is notified.
        unsafe {
            if let Some(waiter) = this.as_ref().state().complete() {
                Waiter::hand_over(waiter as *const Waiter);
            }
        }
    }

    /// Waits until whoever has taken it has run it.
    ///
    /// # Safety
    /// Somebody else has taken it; by the fiber that forked.
    #[cold]
    pub(super) unsafe fn wait(&self) {
        // SAFETY: as promised.
        let state = unsafe { self.state() };
        if state.is_done() {
            return;
        }
        if !fork::alive() {
            crate::observe::report::say(
                "a forked child waits for a half of a fork-join that runs in its parent",
            );
            std::process::abort();
        }
        Waiter::with_lent(|waiter| state.wait(waiter as *const Waiter as usize));
    }
}

impl<B, R> StackJob<B, R>
where
    B: FnOnce(Ctx) -> R + Send,
    R: Send,
{
    #[inline(always)]
    pub(super) fn new(closure: B) -> Self {
        const {
            assert!(
                size_of::<Self>() >= SLOT_SHARE * size_of::<usize>(),
                "the slots would be used up before the stack"
            )
        };
        StackJob {
            head: Job { run: run::<B, R>, state: MaybeUninit::uninit() },
            body: UnsafeCell::new(Body { closure: ManuallyDrop::new(closure) }),
        }
    }

    /// As a deque knows it: derived from the whole, which who runs it reaches through it.
    #[inline(always)]
    pub(super) fn pointer(&self) -> NonNull<Job> {
        NonNull::from(self).cast()
    }

    /// The closure, to be run here.
    ///
    /// # Safety
    /// Nobody has taken the job, or can any more; once.
    #[inline(always)]
    pub(super) unsafe fn closure(&self) -> B {
        // SAFETY: as promised: it is still there.
        unsafe { ManuallyDrop::take(&mut (*self.body.get()).closure) }
    }

    /// True if there is nothing to wait for.
    ///
    /// # Safety
    /// Somebody else has taken the job.
    pub(super) unsafe fn is_done(&self) -> bool {
        // SAFETY: as promised.
        unsafe { self.head.state() }.is_done()
    }

    /// What somebody else has made of it: waits for it.
    ///
    /// # Safety
    /// Somebody else has taken the job; once.
    #[cold]
    pub(super) unsafe fn result(&self) -> Result<R, Payload> {
        // SAFETY: as promised; when it is done, the result is there, and ours.
        unsafe {
            self.head.wait();
            ManuallyDrop::take(&mut (*self.body.get()).result)
        }
    }
}

/// A panic of the closure becomes the result.
///
/// # Safety
/// As for [`Job::run`].
unsafe fn run<B, R>(this: NonNull<Job>)
where
    B: FnOnce(Ctx) -> R + Send,
    R: Send,
{
    let job = this.cast::<StackJob<B, R>>();
    // SAFETY: the head is the first field; taken, so the body is ours until DONE.
    unsafe {
        let body = job.as_ref().body.get();
        let closure = ManuallyDrop::take(&mut (*body).closure);
        let result = catch_unwind(AssertUnwindSafe(|| closure(Ctx::new(true))));
        let result = match task::current() {
            Some(task) => task::clear_locals(task, result),
            None => result, // in a forked child
        };
        (*body).result = ManuallyDrop::new(result);
    }
}
