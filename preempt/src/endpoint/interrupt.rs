//! What a sub-handler is given: which vector, what was interrupted, and the way to let other interrupts in.

use super::Vector;
use super::port::Port;
use crate::frame::Frame;
use core::fmt;

/// One interrupt, while its sub-handler runs.
pub struct Interrupt<'a> {
    port: &'a Port,
    vector: Vector,
    frame: Option<&'a mut Frame>,
}

impl fmt::Debug for Interrupt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("vector", &self.vector).field("frame", &self.frame).finish()
    }
}

impl<'a> Interrupt<'a> {
    pub(super) fn new(port: &'a Port, vector: Vector, frame: Option<&'a mut Frame>) -> Self {
        Interrupt { port, vector, frame }
    }

    /// Posts the vector once more: there is more to do than one stay should take.
    pub(super) fn post_again(&self) {
        self.port.post_again(self.vector);
    }

    /// The vector.
    pub fn vector(&self) -> Vector {
        self.vector
    }

    /// Registers of the interrupted code. `None` where nothing was interrupted between two instructions: at the end of a critical section, in a wait, inside
    /// [`unmask`](Interrupt::unmask).
    pub fn frame(&self) -> Option<&Frame> {
        self.frame.as_deref()
    }

    /// The instruction at which the thread was interrupted; `None` as for [`frame`](Interrupt::frame).
    pub fn interrupted_at(&self) -> Option<usize> {
        self.frame.as_ref().map(|frame| frame.rip as usize)
    }

    /// Runs `f` with interrupts let in, of any vector, also this one; then holds them back again. Sub-handlers nest nowhere else. What is posted already
    /// runs before `f`. In a sub-handler that is nested as deep as [`Builder::nesting`](super::Builder::nesting) allows, `f` runs with
    /// interrupts still held back.
    ///
    /// Anything that the sub-handler was doing may be found half done by the ones that nest.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    /// use unyield_preempt::endpoint::{Builder, Vector};
    ///
    /// let (low, high) = (Vector::new(1).unwrap(), Vector::new(2).unwrap());
    /// let seen = Arc::new(AtomicU32::new(0));
    /// let count = Arc::new(AtomicU32::new(0));
    /// let mut builder = Builder::new();
    /// // SAFETY: both handlers touch atomics and spin, which is async-signal-safe.
    /// unsafe {
    ///     builder.handler(low, (count.clone(), seen.clone()), |(count, seen), interrupt| {
    ///         interrupt.unmask(|| while count.load(Relaxed) == 0 {}); // ends when `high` has run, on this thread
    ///         seen.store(1, Relaxed);
    ///     });
    ///     builder.handler(high, count.clone(), |count, _| { count.fetch_add(1, Relaxed); });
    /// }
    /// let registration = builder.register()?;
    /// let sender = registration.sender(high);
    /// let other = std::thread::spawn(move || {
    ///     std::thread::sleep(std::time::Duration::from_millis(10));
    ///     sender.send().unwrap();
    /// });
    /// registration.sender(low).send().unwrap(); // interrupts at once: it is this thread
    /// assert!(registration.wait_until(None, || seen.load(Relaxed) == 1));
    /// assert_eq!(registration.statistics().deepest, 2);
    /// other.join().unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn unmask<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.port.unmasked(f)
    }
}
