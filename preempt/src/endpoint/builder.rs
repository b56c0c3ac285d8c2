//! What is collected before a thread becomes a receiver: its sub-handlers and settings. For the thread that will register.

use super::Vector;
use super::interrupt::Interrupt;
use super::mailbox::{Letter, MailRoute, Mailbox};
use super::port::{Handlers, Run};
use super::registration::{self, Registration};
use crate::Mechanism;
use core::fmt;
use core::sync::atomic::Ordering::{AcqRel, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use std::io;
use std::sync::Arc;

/// Collects sub-handlers, then makes the calling thread a receiver.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use unyield_preempt::endpoint::{Builder, Vector};
///
/// let vector = Vector::new(9).unwrap();
/// let count = Arc::new(AtomicU64::new(0));
/// let registration = Builder::new().counter(vector, count.clone()).register()?;
/// registration.sender(vector).send().unwrap();
/// assert!(registration.wait_until(None, || count.load(Relaxed) == 1));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Builder {
    handlers: Handlers,
    pub(super) settings: Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) mechanism: Mechanism,
    pub(super) nesting: u32,
    pub(super) handler_stack: usize,
    pub(super) remote: bool,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vectors: Vec<usize> = (0..63).filter(|i| self.handlers[*i].is_some()).collect();
        f.debug_struct("Builder").field("handlers", &vectors).field("settings", &self.settings).finish()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// No sub-handlers.
    pub fn new() -> Self {
        let settings =
            Settings { mechanism: Mechanism::best(), nesting: 2, handler_stack: 16 << 10, remote: false };
        Builder { handlers: [const { None }; 63], settings }
    }

    fn set(&mut self, vector: Vector, run: Run) -> &mut Self {
        let entry = &mut self.handlers[vector.get() as usize];
        assert!(entry.is_none(), "vector {vector} has a sub-handler already");
        *entry = Some(run);
        self
    }

    /// `flag` becomes true (release order) when `vector` is sent.
    ///
    /// # Panics
    /// If the vector has a sub-handler.
    pub fn flag(&mut self, vector: Vector, flag: Arc<AtomicBool>) -> &mut Self {
        self.set(vector, Box::new(move |_| flag.store(true, Release)))
    }

    /// `counter` goes up by one for each delivery of `vector` (not for each send: several before a delivery are one).
    ///
    /// # Panics
    /// If the vector has a sub-handler.
    pub fn counter(&mut self, vector: Vector, counter: Arc<AtomicU64>) -> &mut Self {
        self.set(
            vector,
            Box::new(move |_| {
                counter.fetch_add(1, AcqRel);
            }),
        )
    }

    /// A mailbox for at most `senders` senders at a time, to be emptied by the thread's ordinary code (or another thread's); the interrupt ends a
    /// [`Registration::wait`]. See [`Mailbox`] for an example.
    ///
    /// # Panics
    /// If the vector has a sub-handler; if `senders` is 0 or above 65536.
    pub fn mailbox(&mut self, vector: Vector, senders: usize) -> Mailbox {
        let mailbox = Mailbox::new(vector, senders);
        self.set(vector, Box::new(|_| {}));
        mailbox
    }

    /// A mailbox that is emptied by `handler`, inside the interrupt, called for each letter with `state`. What is returned only makes senders.
    ///
    /// # Panics
    /// As for [`mailbox`](Builder::mailbox).
    ///
    /// # Safety
    /// As for [`handler`](Builder::handler).
    pub unsafe fn mail_handler<T, F>(
        &mut self,
        vector: Vector,
        senders: usize,
        state: T,
        handler: F,
    ) -> MailRoute
    where
        T: Send + Sync + 'static,
        F: Fn(&T, &mut Interrupt<'_>, Letter) + Send + Sync + 'static,
    {
        let mailbox = Mailbox::new(vector, senders);
        let route = mailbox.route().clone();
        self.set(
            vector,
            Box::new(move |interrupt| {
                // One for each sender; those that have sent again meanwhile come after the throttle has had its say.
                for _ in 0..senders {
                    let Some(letter) = mailbox.take() else { return };
                    handler(&state, interrupt, letter);
                }
                interrupt.post_again();
            }),
        );
        route
    }

    /// Runs `handler` with `state` at each delivery of `vector`.
    ///
    /// # Panics
    /// If the vector has a sub-handler.
    ///
    /// # Safety
    /// `handler` runs between any two instructions of the thread, and must be async-signal-safe: it must not allocate or free, take a lock that anybody
    /// waits for with interrupts let in, or call what is not reentrant. It should not panic: that aborts. It must leave the thread's signal
    /// mask and alternate stack as they are, and use no more stack than [`handler_stack`](Builder::handler_stack) says. Creating and dropping it
    /// and its state is ordinary code.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// use unyield_preempt::endpoint::{Builder, Vector};
    ///
    /// struct Profile { last: AtomicUsize }
    ///
    /// let vector = Vector::new(40).unwrap();
    /// let profile = Arc::new(Profile { last: AtomicUsize::new(0) });
    /// let mut builder = Builder::new();
    /// // SAFETY: one store to an atomic.
    /// unsafe {
    ///     builder.handler(vector, profile.clone(), |profile, interrupt| {
    ///         profile.last.store(interrupt.interrupted_at().unwrap_or(1), Relaxed);
    ///     });
    /// }
    /// let registration = builder.register()?;
    /// registration.sender(vector).send().unwrap();
    /// assert!(registration.wait_until(None, || profile.last.load(Relaxed) != 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn handler<T, F>(&mut self, vector: Vector, state: T, handler: F) -> &mut Self
    where
        T: Send + Sync + 'static,
        F: Fn(&T, &mut Interrupt<'_>) + Send + Sync + 'static,
    {
        self.set(vector, Box::new(move |interrupt| handler(&state, interrupt)))
    }

    /// How the thread is interrupted. Unless set: the best that the machine can do, which is a signal where there are no User Interrupts.
    ///
    /// A user interrupt, unlike a signal, does not end system calls in which the thread is blocked. [`Registration::wait`] ends all the same.
    pub fn mechanism(&mut self, mechanism: Mechanism) -> &mut Self {
        self.settings.mechanism = mechanism;
        self
    }

    /// How deep sub-handlers may nest by [`Interrupt::unmask`], the outermost included. 2 unless set; 1 makes `unmask` ineffective.
    ///
    /// # Panics
    /// If it is 0.
    pub fn nesting(&mut self, depth: u32) -> &mut Self {
        assert!(depth > 0, "the outermost is one");
        self.settings.nesting = depth;
        self
    }

    /// Bytes of stack that a sub-handler may use: the thread is not interrupted where less is left. 16 KiB unless set.
    pub fn handler_stack(&mut self, bytes: usize) -> &mut Self {
        self.settings.handler_stack = bytes;
        self
    }

    /// Lets [`Registration::right`] hand out rights to other processes. Installs a handler for one real-time signal, see [`remote`](super::remote).
    pub fn accept_remote(&mut self) -> &mut Self {
        self.settings.remote = true;
        self
    }

    /// Makes the calling thread a receiver, until the guard is dropped. The builder is left without sub-handlers.
    ///
    /// The thread's mask is changed so that it takes the signal, and it has an alternate stack of 124 KiB until the guard drops.
    ///
    /// # Errors
    /// `Unsupported` where the machine cannot do it (no XSAVEC, a CET shadow stack, not the mechanism); `AlreadyExists` on a thread that is a receiver, as workers of
    /// `unyield` are; `InvalidInput` inside a critical section; `QuotaExceeded` beyond 1024 receivers in one process; what the kernel says when it gives
    /// no timer or memory. `InvalidInput` also if [`handler_stack`](Builder::handler_stack) leaves nothing of the thread's stack.
    pub fn register(&mut self) -> io::Result<Registration> {
        let handlers = core::mem::replace(&mut self.handlers, [const { None }; 63]);
        registration::register(handlers, &self.settings)
    }
}
