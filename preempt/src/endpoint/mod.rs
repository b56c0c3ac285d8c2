//! Interrupts for plain threads, without the scheduler: register a receiver, hand out senders, wait.
//!
//! A thread that calls [`Builder::register`] can be interrupted at any instruction until the [`Registration`] is dropped. What runs then is a
//! *sub-handler*, one for each [`Vector`] 0 to 62, the highest posted one first. A [`Sender`] posts one vector, from any thread; the request is
//! a bit, so sends that arrive before the sub-handler has run are one. Registers and the floating-point state of the interrupted code
//! (x87, SSE, AVX, AVX-512) are saved and restored around all sub-handlers.
//!
//! | file | noun |
//! |---|---|
//! | `builder`, `registration` | what is collected before a thread becomes a receiver; the guard, from then on |
//! | `sender` | the right to post one vector, and the terms under which it was granted |
//! | `interrupt` | what a sub-handler is given |
//! | `mailbox` | a sub-handler that knows who sent, and a word of what |
//! | `wait` | the words through which a sleeping receiver and its senders meet |
//! | `throttle` | why a storm of sends does not starve the receiver |
//! | `remote` | the right to post, in another process |
//! | `port` | what all of them share: posted bits, bell, dispatch |
//! | `queued` | signals that carry a value of ours: timers, remote sends |
//!
//! Not for fibers: a worker of `unyield` is a receiver already, and `register` refuses there.
//!
//! # What a sub-handler may do
//! It runs between any two instructions of its thread, perhaps inside `malloc`, with any lock held. So everything it does must be
//! async-signal-safe: no allocation, no lock, no panic (which aborts), nothing that is not reentrant. Code of that kind cannot be told from other
//! code by its type; [`Builder::handler`] is therefore `unsafe`. The ready-made ones are safe: [`Builder::flag`],
//! [`Builder::counter`], [`Builder::mailbox`], and no sub-handler at all (a send still ends a [`Registration::wait`]).
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicBool, Ordering};
//! use unyield_preempt::endpoint::{Builder, Vector};
//!
//! let stop = Arc::new(AtomicBool::new(false));
//! let vector = Vector::new(3).unwrap();
//! let registration = Builder::new().flag(vector, stop.clone()).register()?;
//! let sender = registration.sender(vector);
//! let other = std::thread::spawn(move || sender.send().unwrap());
//! let mut rounds = 0u64;
//! while !stop.load(Ordering::Relaxed) {
//!     rounds += 1; // interrupted at any instruction
//! }
//! other.join().unwrap();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Delivery
//! As the rest of the crate does it: by a user interrupt where the machine has them, else by a signal (SIGURG) whose handler builds the same frame on the
//! interrupted stack and returns at once, so sub-handlers do not run in signal context. A signal is delivered only where the thread has the signal mask and the alternate stack that it had when it registered; change
//! them before. Elsewhere (inside another signal handler, in a [`critical`](crate::critical) section, on a stack that is not the
//! thread's) an interrupt waits: it comes at the end of the section, or is tried again each millisecond. (A user interrupt that the CPU delivers in such
//! a place is not tried again by itself: it comes at the end of the thread's next critical section, with the next signal, or with a send that finds it unanswered after 5 ms.)
//!
//! # Storms
//! Frames are at most one deep, and two with [`Interrupt::unmask`] (more with [`Builder::nesting`]), however many senders there are. And the thread's ordinary code keeps
//! most of the thread's time (80 % by its own book-keeping, see `throttle`): a thread that has spent 0.4 ms on sub-handlers beyond their share is left alone for
//! up to 4 ms, and what is sent meanwhile comes together, afterwards. A sender can be [slowed down or revoked](Grant).
//!
//! # Fork
//! A registration does not survive into a child process: sends there reach nobody, and waits end at once, with false.

mod builder;
mod interrupt;
mod mailbox;
mod port;
pub(crate) mod queued;
mod registration;
pub mod remote;
mod sender;
mod throttle;
mod wait;

pub use builder::Builder;
pub use interrupt::Interrupt;
pub use mailbox::{Letter, MailError, MailRoute, MailSender, Mailbox, SenderId};
pub use registration::{Registration, Statistics};
pub use sender::{Grant, SendError, Sender};

use core::fmt;

/// The number of an interrupt, 0 to 62, and its priority: higher ones run first.
///
/// ```
/// use unyield_preempt::endpoint::Vector;
/// assert_eq!(Vector::new(62).unwrap().get(), 62);
/// assert!(Vector::new(63).is_none());
/// assert!(Vector::HIGHEST > Vector::LOWEST);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vector(u8);

impl Vector {
    /// Runs after all others.
    pub const LOWEST: Vector = Vector(0);
    /// Runs before all others.
    pub const HIGHEST: Vector = Vector(62);

    /// The vector of this number, if there is one.
    pub const fn new(number: u8) -> Option<Vector> {
        if number < 63 { Some(Vector(number)) } else { None }
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u8> for Vector {
    type Error = std::io::Error;

    fn try_from(number: u8) -> std::io::Result<Vector> {
        let error = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "vectors are 0..=62");
        Vector::new(number).ok_or_else(error)
    }
}
