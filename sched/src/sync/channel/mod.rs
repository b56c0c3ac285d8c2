//! Channels: many senders, many receivers, bounded or not; `crossbeam-channel`'s names and semantics.
//!
//! [`bounded`] channels hold a fixed number of values; with capacity 0, a send waits until a receiver takes the value
//! (rendezvous). [`unbounded`] ones hold any number, and sending never waits. Both ends can be cloned, and shared, between
//! fibers and plain threads in any mix. Values arrive in the order in which they were sent, and waiters are served in the order
//! in which they came. When the last sender is gone, receivers get what is left and then an error; when the last receiver is
//! gone, senders get their values back.
//!
//! Receiving from and sending to an end that has to wait parks a fiber and blocks a plain thread; it panics inside a critical
//! section, and is a cancellation point. What does not have to wait works in critical sections too (an unbounded
//! send may allocate there). Not for handlers.
//!
//! # Examples
//! ```
//! use unyield::sync::channel;
//!
//! let (sender, receiver) = channel::bounded(4);
//! let squares = std::thread::spawn(move || {
//!     for i in 0..10 {
//!         sender.send(i * i).unwrap();
//!     }
//! });
//! assert_eq!(receiver.iter().sum::<i32>(), 285);
//! squares.join().unwrap();
//! ```

mod buffer;
mod core;
mod error;
mod iter;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::core::{Chan, Limit, Unreceived, Unsent};
use super::wait_queue;

pub use error::{RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError};
pub use iter::{IntoIter, Iter, TryIter};

/// A channel for at most `capacity` values at a time. With capacity 0 each send waits for a receiver.
///
/// # Panics
/// If the values do not fit into the address space.
///
/// # Examples
/// ```
/// use unyield::sync::channel::{TrySendError, bounded};
///
/// let (sender, receiver) = bounded(1);
/// sender.try_send(1).unwrap();
/// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
/// assert_eq!(receiver.recv(), Ok(1));
/// ```
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    ends(Some(capacity))
}

/// A channel that holds any number of values.
///
/// # Examples
/// ```
/// use unyield::sync::channel::unbounded;
///
/// let (sender, receiver) = unbounded();
/// for i in 0..1000 {
///     sender.send(i).unwrap();
/// }
/// drop(sender);
/// assert_eq!(receiver.into_iter().count(), 1000);
/// ```
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    ends(None)
}

fn ends<T>(capacity: Option<usize>) -> (Sender<T>, Receiver<T>) {
    let chan = Arc::new(Chan::new(capacity));
    (Sender { chan: Arc::clone(&chan) }, Receiver { chan })
}

/// The sending end of a channel. Clone it to send from several places.
pub struct Sender<T> {
    chan: Arc<Chan<T>>,
}

/// The receiving end of a channel. Clone it to receive in several places; each value goes to one of them.
pub struct Receiver<T> {
    chan: Arc<Chan<T>>,
}

impl<T> Sender<T> {
    /// Sends `value`, and waits for room if the channel is full.
    ///
    /// # Errors
    /// All receivers are gone; the error has the value.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        match self.chan.send(value, Limit::Deadline(None)) {
            Ok(()) => Ok(()),
            Err(Unsent::Full(value) | Unsent::Disconnected(value)) => Err(SendError(value)),
        }
    }

    /// Sends `value` if that needs no waiting: there is room, or, with capacity 0, a receiver waits.
    ///
    /// # Errors
    /// The channel is full, or all receivers are gone; the error has the value.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.chan.send(value, Limit::Now).map_err(|e| match e {
            Unsent::Full(value) => TrySendError::Full(value),
            Unsent::Disconnected(value) => TrySendError::Disconnected(value),
        })
    }

    /// Sends `value`, and waits for room for at most `timeout`.
    ///
    /// # Errors
    /// The time is over, or all receivers are gone; the error has the value.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        self.send_until(value, wait_queue::deadline(timeout))
    }

    /// Sends `value`, and waits for room until `deadline` at most.
    ///
    /// # Errors
    /// The time is over, or all receivers are gone; the error has the value.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn send_deadline(&self, value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.send_until(value, Some(deadline))
    }

    fn send_until(&self, value: T, deadline: Option<Instant>) -> Result<(), SendTimeoutError<T>> {
        self.chan.send(value, Limit::Deadline(deadline)).map_err(|e| match e {
            Unsent::Full(value) => SendTimeoutError::Timeout(value),
            Unsent::Disconnected(value) => SendTimeoutError::Disconnected(value),
        })
    }
}

impl<T> Receiver<T> {
    /// Takes the next value, and waits for one if the channel is empty.
    ///
    /// # Errors
    /// The channel is empty and all senders are gone.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.chan.receive(Limit::Deadline(None)).map_err(|_| RecvError)
    }

    /// Takes the next value if there is one, or, with capacity 0, if a sender waits.
    ///
    /// # Errors
    /// There is none; whether one may still come.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.chan.receive(Limit::Now).map_err(|e| match e {
            Unreceived::Empty => TryRecvError::Empty,
            Unreceived::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// Takes the next value, and waits for one for at most `timeout`.
    ///
    /// # Errors
    /// The time is over, or the channel is empty and all senders are gone.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.recv_until(wait_queue::deadline(timeout))
    }

    /// Takes the next value, and waits for one until `deadline` at most.
    ///
    /// # Errors
    /// The time is over, or the channel is empty and all senders are gone.
    ///
    /// # Panics
    /// If it has to wait inside a critical section.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.recv_until(Some(deadline))
    }

    fn recv_until(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        self.chan.receive(Limit::Deadline(deadline)).map_err(|e| match e {
            Unreceived::Empty => RecvTimeoutError::Timeout,
            Unreceived::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// The values as they come, waiting for each, until all senders are gone.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter::new(self)
    }

    /// The values that are there, without waiting.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter::new(self)
    }
}

/// What both ends can tell.
macro_rules! both_ends {
    ($($end:ident),*) => {$(
        impl<T> $end<T> {
            /// How many values wait in the channel.
            #[must_use]
            pub fn len(&self) -> usize {
                self.chan.len()
            }

            /// Whether no value waits in the channel. Always true with capacity 0.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Whether there is no room in the channel. Always true with capacity 0.
            #[must_use]
            pub fn is_full(&self) -> bool {
                self.capacity() == Some(self.len())
            }

            /// How many values the channel holds at most; `None` if it is unbounded.
            #[must_use]
            pub fn capacity(&self) -> Option<usize> {
                self.chan.capacity
            }

            /// Whether both are ends of one channel.
            #[must_use]
            pub fn same_channel(&self, other: &$end<T>) -> bool {
                Arc::ptr_eq(&self.chan, &other.chan)
            }
        }

        impl<T> fmt::Debug for $end<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(concat!(stringify!($end), " { .. }"))
            }
        }

        // No code of `T` runs while the channel's state is in between.
        impl<T> UnwindSafe for $end<T> {}
        impl<T> RefUnwindSafe for $end<T> {}
    )*};
}
both_ends!(Sender, Receiver);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.chan.add_sender();
        Sender { chan: Arc::clone(&self.chan) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        self.chan.add_receiver();
        Receiver { chan: Arc::clone(&self.chan) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.chan.drop_sender();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.chan.drop_receiver();
    }
}
