//! The right to post one vector, and the terms under which it was granted.
//!
//! | field of `Terms` | who writes | who reads |
//! |---|---|---|
//! | `revoked`, `interval`, `burst` | the grant's holder | senders |
//! | `due` | senders | senders |
//!
//! `send` may be called from anywhere, also from signal handlers and sub-handlers. Cloning and making senders is ordinary code; so is dropping them, as the last one frees.

use super::Vector;
use super::port::Port;
use crate::tick;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::Arc;
use std::time::Duration;

/// Why a send did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver's registration has ended, for good.
    Gone,
    /// The receiver has revoked this sender, for good.
    Revoked,
    /// Sooner than the receiver allows; later it may succeed.
    RateLimited,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Gone => "the receiver has ended",
            SendError::Revoked => "the receiver has revoked this sender",
            SendError::RateLimited => "sent more often than the receiver allows",
        })
    }
}

impl std::error::Error for SendError {}

#[derive(Debug)]
struct Terms {
    revoked: AtomicBool,
    /// Nanoseconds a send costs; 0: no limit.
    interval: AtomicU64,
    burst: AtomicU32,
    /// When all sends so far will have been paid for.
    due: AtomicU64,
}

impl Terms {
    /// Whether a send is within the limit, which it then counts against. The generic cell rate algorithm: a token bucket in one word.
    fn admits(&self, now: u64) -> bool {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return true;
        }
        let ahead = interval.saturating_mul(u64::from(self.burst.load(Relaxed)) - 1);
        let admit =
            |due: u64| (due.saturating_sub(now) <= ahead).then(|| due.max(now).saturating_add(interval));
        // A counter that guards no data.
        self.due.fetch_update(Relaxed, Relaxed, admit).is_ok()
    }
}

/// Posts one vector to one receiver. Clones are the same sender to the receiver: revoked together, one limit.
///
/// It keeps the receiver's memory, not its thread.
#[derive(Clone, Debug)]
pub struct Sender {
    port: Arc<Port>,
    terms: Arc<Terms>,
    vector: Vector,
}

impl Sender {
    pub(super) fn new(port: Arc<Port>, vector: Vector) -> (Sender, Grant) {
        let terms = Arc::new(Terms {
            revoked: AtomicBool::new(false),
            interval: AtomicU64::new(0),
            burst: AtomicU32::new(1),
            due: AtomicU64::new(0),
        });
        (Sender { port, terms: terms.clone(), vector }, Grant(terms))
    }

    /// Posts the vector and interrupts the receiver, unless its sub-handlers are about to look anyway. What the caller wrote before is seen by the sub-handler. Any
    /// context, also a signal handler: takes no lock, allocates nothing, keeps errno.
    ///
    /// `Ok` means posted. If the registration ends before the sub-handler has run, it does not run.
    ///
    /// # Errors
    /// [`SendError`] says which.
    #[inline]
    pub fn send(&self) -> Result<(), SendError> {
        self.permit()?;
        self.post();
        Ok(())
    }

    /// Whether a send is permitted now; it counts as one.
    #[inline]
    pub(super) fn permit(&self) -> Result<(), SendError> {
        if self.port.is_closed() {
            return Err(SendError::Gone);
        }
        if self.terms.revoked.load(Acquire) {
            return Err(SendError::Revoked); // pairs with the release in `revoke`
        }
        if self.terms.interval.load(Relaxed) != 0 && !self.terms.admits(tick::now()) {
            return Err(SendError::RateLimited);
        }
        Ok(())
    }

    /// A send that is permitted.
    #[inline]
    pub(super) fn post(&self) {
        self.port.post(self.vector);
    }

    /// The vector that it sends.
    pub fn vector(&self) -> Vector {
        self.vector
    }
}

/// The receiver's hold on a [`Sender`]. Dropping it leaves the sender as it is.
///
/// ```
/// # use std::time::Duration;
/// # use unyield_preempt::endpoint::{Builder, SendError, Vector};
/// let registration = Builder::new().register()?;
/// let (sender, grant) = registration.grant(Vector::LOWEST);
/// grant.limit(Duration::from_secs(3600), 2);
/// assert_eq!(sender.send(), Ok(()));
/// assert_eq!(sender.send(), Ok(()));
/// assert_eq!(sender.send(), Err(SendError::RateLimited));
/// grant.revoke();
/// assert_eq!(sender.send(), Err(SendError::Revoked));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Grant(Arc<Terms>);

impl Grant {
    /// Sends that begin after this has returned fail. One that has begun may still post. Any context.
    pub fn revoke(&self) {
        self.0.revoked.store(true, Release); // pairs with the acquire in `send`
    }

    /// From now on the sender (with its clones) may send once each `interval`, and up to `burst` times at once if it has not done so for as long. An interval of zero
    /// takes the limit away. Any context.
    ///
    /// # Panics
    /// If `burst` is 0.
    pub fn limit(&self, interval: Duration, burst: u32) {
        assert!(burst > 0, "a burst of none would be no sends at all: revoke");
        self.0.burst.store(burst, Relaxed);
        self.0.due.store(0, Relaxed); // what was owed under the old limit is forgiven
        self.0.interval.store(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}
