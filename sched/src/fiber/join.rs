//! Waiting for a fiber's result.

use super::{
    Fiber, FiberId, cancel,
    task::{Payload, Task},
};
use crate::park::assert_may_wait;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Why a fiber has no result: it panicked, or it was cancelled. A panic in a destructor of its closure or of its fiber-local values counts as its own.
pub struct JoinError {
    id: FiberId,
    payload: Payload,
}

impl JoinError {
    pub(crate) fn new(id: FiberId, payload: Payload) -> Self {
        JoinError { id, payload }
    }

    /// True if the fiber was cancelled and unwound for it, or never started.
    pub fn is_cancelled(&self) -> bool {
        self.payload.is::<cancel::Cancelled>()
    }

    /// True if the fiber panicked.
    pub fn is_panic(&self) -> bool {
        !self.is_cancelled()
    }

    /// The panic's payload.
    ///
    /// # Panics
    /// If the fiber was cancelled.
    pub fn into_panic(self) -> Box<dyn Any + Send + 'static> {
        self.try_into_panic().expect("the fiber was cancelled, it did not panic")
    }

    /// The panic's payload.
    ///
    /// # Errors
    /// Gives itself back if the fiber was cancelled.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send + 'static>, JoinError> {
        if self.is_panic() { Ok(self.payload) } else { Err(self) }
    }

    /// Which fiber it was.
    pub fn id(&self) -> FiberId {
        self.id
    }

    fn message(&self) -> Option<&str> {
        self.payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| self.payload.downcast_ref::<String>().map(String::as_str))
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinError")
            .field("id", &self.id)
            .field("cancelled", &self.is_cancelled())
            .field("message", &self.message())
            .finish()
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_cancelled(), self.message()) {
            (true, _) => write!(f, "fiber {} was cancelled", self.id),
            (false, Some(message)) => write!(f, "fiber {} panicked: {message}", self.id),
            (false, None) => write!(f, "fiber {} panicked", self.id),
        }
    }
}

impl std::error::Error for JoinError {}

/// Waits for a fiber's result; also a [`Future`], usable from any executor; a waker that panics does no harm to the fiber. Detaches on drop, which may
/// happen on any fiber or thread: the fiber goes on. A fiber that has ended then: its result is dropped by the caller, a panic (also one of dropping the
/// result) in silence, without a call of `Builder::panic_handler`.
///
/// ```
/// let handle = unyield::spawn(|| 6 * 7);
/// assert_eq!(handle.join().unwrap(), 42);
/// ```
pub struct JoinHandle<T> {
    fiber: Fiber,
    taken: bool,
    result: PhantomData<fn() -> T>,
}

impl<T> JoinHandle<T> {
    /// # Safety
    /// The only handle of a task whose result is a `T`; takes over one reference.
    pub(crate) unsafe fn new(task: std::ptr::NonNull<Task>) -> Self {
        // SAFETY: the caller passes a reference on.
        JoinHandle { fiber: unsafe { Fiber::from_raw(task) }, taken: false, result: PhantomData }
    }

    /// Waits for the fiber to end: parks a fiber, blocks a plain thread. A cancel of the waiting fiber is delivered at its next cancellable wait.
    ///
    /// # Errors
    /// The fiber panicked or was cancelled.
    ///
    /// # Panics
    /// Inside a critical section, even if the fiber has ended; if the handle was polled and has given the result already.
    pub fn join(self) -> Result<T, JoinError> {
        assert_may_wait("JoinHandle::join");
        assert!(!self.taken, "JoinHandle joined after it was ready");
        self.finish()
    }

    /// As [`JoinHandle::join`], for a caller that must not unwind before the end: never polled, and outside critical sections, or the process aborts.
    pub(crate) fn finish(mut self) -> Result<T, JoinError> {
        self.fiber.task().wait_done();
        self.taken = true;
        // SAFETY: done, and `self` was the only handle.
        unsafe { Task::take_result(self.fiber.raw()) }
    }

    /// True if the fiber has ended: joining does not wait. Any context, also a signal handler.
    pub fn is_finished(&self) -> bool {
        self.fiber.task().is_done()
    }

    /// The fiber that is waited for. Any context.
    pub fn fiber(&self) -> &Fiber {
        &self.fiber
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// Any fiber or thread. The waker of the last call is woken on the fiber that ends.
    ///
    /// # Panics
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.taken, "JoinHandle polled after it was ready");
        if !self.fiber.task().poll_done(context.waker()) {
            return Poll::Pending;
        }
        self.taken = true;
        // SAFETY: done, and this is the only handle.
        Poll::Ready(unsafe { Task::take_result(self.fiber.raw()) })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.taken {
            // SAFETY: the only handle goes.
            unsafe { Task::detach(self.fiber.raw()) }
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("fiber", &self.fiber).finish_non_exhaustive()
    }
}
