//! A channel for one value.
//!
//! [`channel`] makes the two ends. The receiver waits as a fiber or a plain thread ([`Receiver::recv`]), or is awaited as a future.
//! If the sender goes without sending, the receiver gets an error; if the receiver goes, the sender gets its value back.
//!
//! # Examples
//! ```
//! use unyield::sync::oneshot;
//!
//! let (sender, receiver) = oneshot::channel();
//! std::thread::spawn(move || sender.send(6 * 7));
//! assert_eq!(receiver.recv(), Ok(42));
//! ```
//!
//! # How it is built
//!
//! The value lies beside the lock, not under it: it belongs to the sender until the phase is `Sent`, and to the receiver from
//! then on, so that it is moved and dropped unmasked. So are wakers: cloned before the lock is taken, called and dropped after.
//!
//! | field | who writes | who reads | when |
//! |---|---|---|---|
//! | `value` | the sender, before `Sent` | the receiver, after `Sent` | once each |
//! | `phase` | both | both | under the lock |
//! | `waiters`, `waker` | the receiver | the sender, as it sends or goes | under the lock |

use std::cell::UnsafeCell;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::wait_queue::{self, Patience, Place, WaitQueue, Waited};
use crate::park::unwind_cancelled;

pub use super::channel::{RecvError, RecvTimeoutError, TryRecvError};

/// The two ends of a channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = WaitQueue::new(State { phase: Phase::Open, waker: None });
    let shared = Arc::new(Shared { state, value: UnsafeCell::new(None) });
    (Sender { shared: Some(Arc::clone(&shared)) }, Receiver { shared })
}

/// Sends the value. Dropping it instead tells the receiver that none will come.
pub struct Sender<T> {
    /// `None` once it has sent.
    shared: Option<Arc<Shared<T>>>,
}

/// Receives the value, by waiting as a fiber or thread, or as a future.
///
/// The future may be polled anywhere but in a critical section or a handler. Its output is that of [`Receiver::recv`].
#[must_use]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: WaitQueue<State>,
    value: UnsafeCell<Option<T>>,
}

struct State {
    phase: Phase,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was sent yet.
    Open,
    /// The value is the receiver's, if it has not taken it yet.
    Sent,
    /// None will be sent.
    NoSender,
    /// None is asked for.
    NoReceiver,
}

/// Tokens for the receiver that waits.
const GONE: usize = 0;
const SENT: usize = 1;

// SAFETY: the value moves from the sender to the receiver, and is never shared; the phase, under the lock, says whose it is.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Sender<T> {
    /// Sends `value`. Never waits; not for handlers.
    ///
    /// # Errors
    /// The receiver is gone; the error is the value.
    pub fn send(mut self, value: T) -> Result<(), T> {
        let Some(shared) = self.shared.take() else { unreachable!("sending consumes the sender") };
        // SAFETY: not sent yet, so the value is the sender's, which we are.
        unsafe { *shared.value.get() = Some(value) };
        if shared.finish(Phase::Sent) {
            return Ok(());
        }
        // SAFETY: it was not sent, so the value is still the sender's.
        match unsafe { (*shared.value.get()).take() } {
            Some(value) => Err(value),
            None => unreachable!("written above"),
        }
    }

    /// Whether the receiver is gone, so that sending would fail.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.phase() == Phase::NoReceiver)
    }
}

impl<T> Shared<T> {
    fn phase(&self) -> Phase {
        self.state.lock().state.phase
    }

    /// Ends the sender's part and wakes the receiver. False: the receiver is gone.
    fn finish(&self, phase: Phase) -> bool {
        let mut queue = self.state.lock();
        if queue.state.phase == Phase::NoReceiver {
            return false;
        }
        queue.state.phase = phase;
        let waiter = queue.waiters.pop();
        let waker = queue.state.waker.take();
        drop(queue);
        if let Some(waiter) = waiter {
            waiter.wake(if phase == Phase::Sent { SENT } else { GONE });
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.finish(Phase::NoSender);
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the value: parks a fiber, blocks a plain thread. A cancellation point.
    ///
    /// # Errors
    /// The sender is gone without sending, or the value was taken before.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn recv(mut self) -> Result<T, RecvError> {
        self.recv_until(None).map_err(|_| RecvError)
    }

    /// Takes the value if it is there. Never waits.
    ///
    /// # Errors
    /// It is not; whether it may still come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.take(self.shared.phase()) {
            Some(value) => value.map_err(|_| TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// As [`Receiver::recv`], for at most `timeout`. May be called again.
    ///
    /// # Errors
    /// The time is over, or as [`Receiver::recv`].
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.recv_until(wait_queue::deadline(timeout))
    }

    /// As [`Receiver::recv`], until `deadline` at most. May be called again.
    ///
    /// # Errors
    /// The time is over, or as [`Receiver::recv`].
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.recv_until(Some(deadline))
    }

    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let patience = Patience::new(deadline);
        let queue = self.shared.state.lock();
        let mut phase = queue.state.phase;
        if phase == Phase::Open {
            let what = "oneshot::Receiver::recv";
            match self.shared.state.wait(queue, patience, what, Place::Back(0), || (), |_, _| ()) {
                Waited::Notified(SENT) => phase = Phase::Sent,
                Waited::Notified(_) => phase = Phase::NoSender,
                Waited::TimedOut => {}
                Waited::Cancelled => unwind_cancelled(),
            }
        } else {
            drop(queue);
        }
        match self.take(phase) {
            Some(value) => value.map_err(|_| RecvTimeoutError::Disconnected),
            None => Err(RecvTimeoutError::Timeout),
        }
    }

    /// What a receiver gets in `phase`; `None` if it has to wait.
    fn take(&mut self, phase: Phase) -> Option<Result<T, RecvError>> {
        match phase {
            Phase::Open => None,
            // SAFETY: sent, so the value is the receiver's, which we are; the lock under which we have read the phase, or the wake-up, orders the
            // sender's write before.
            Phase::Sent => Some(unsafe { (*self.shared.value.get()).take() }.ok_or(RecvError)),
            Phase::NoSender | Phase::NoReceiver => Some(Err(RecvError)),
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // What is cloned, and what it replaces, is cloned and dropped outside the lock.
        let mut waker = Some(cx.waker().clone());
        let mut queue = self.shared.state.lock();
        let phase = queue.state.phase;
        if phase == Phase::Open {
            std::mem::swap(&mut queue.state.waker, &mut waker);
        }
        drop(queue);
        drop(waker);
        self.take(phase).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.shared.state.lock();
        let mut waker = None;
        if queue.state.phase == Phase::Open {
            queue.state.phase = Phase::NoReceiver;
            waker = queue.state.waker.take();
        }
        drop(queue);
        drop(waker);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
