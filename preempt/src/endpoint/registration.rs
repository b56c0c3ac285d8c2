//! The guard: from `register` to its drop the thread is a receiver. For the receiver's thread only, in ordinary code.

use super::Vector;
use super::builder::Settings;
use super::mailbox::{MailError, MailRoute, MailSender};
use super::port::{Handlers, Port};
use super::queued::{self, Token};
use super::remote::{self, Right};
use super::sender::{Grant, Sender};
use super::wait::window;
use crate::foreign::AlternateStack;
use crate::gate::{self, CriticalSection, gate};
use crate::{Mechanism, arch, backend, probe, tick};
use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::null;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Keeps the thread a receiver. Cannot leave it:
///
/// ```compile_fail
/// let registration = unyield_preempt::endpoint::Builder::new().register().unwrap();
/// std::thread::spawn(move || drop(registration));
/// ```
#[must_use = "the thread is a receiver until the guard is dropped"]
#[derive(Debug)]
pub struct Registration {
    port: Arc<Port>,
    remote: bool,
    /// A forked child has the guard, but no receiver, no timer and perhaps others' timer numbers.
    process: u32,
    /// `Port::handled` when a wait last returned because of it.
    seen: Cell<u64>,
    _alternate: AlternateStack,
    _thread: PhantomData<*mut ()>,
}

/// What has happened to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Vectors delivered.
    pub handled: u64,
    /// How deep sub-handlers were nested at most.
    pub deepest: u32,
    /// Notifications that reached the thread as signals.
    pub interrupts: u64,
    /// How often senders were kept from notifying, for the thread's ordinary code to go on.
    pub pauses: u64,
}

pub(super) fn register(handlers: Handlers, settings: &Settings) -> io::Result<Registration> {
    let refuse = |kind, why| Err(io::Error::new(kind, why));
    if !arch::xstate::supported() {
        return refuse(
            io::ErrorKind::Unsupported,
            "the CPU has no XSAVEC or the kernel has not enabled XSAVE",
        );
    }
    if probe::shadow_stack() {
        return refuse(io::ErrorKind::Unsupported, "a CET shadow stack is on for this thread");
    }
    if !gate().receiver().is_null() {
        return refuse(io::ErrorKind::AlreadyExists, "this thread is a receiver already");
    }
    if gate().depth() != 0 {
        return refuse(io::ErrorKind::InvalidInput, "inside a critical section");
    }
    let signal = backend::signal::DEFAULT_SIGNAL;
    settings.mechanism.install(signal)?;
    if settings.remote {
        backend::signal::install(remote::signal())?;
    }
    let (low, high) = stack_bounds()?;
    let lowest = low
        .checked_add(settings.handler_stack)
        .filter(|lowest| lowest.saturating_add(arch::xstate::room()) < high);
    let Some(lowest) = lowest else {
        return refuse(io::ErrorKind::InvalidInput, "the handlers' stack leaves nothing of the thread's");
    };
    let alternate = AlternateStack::install()?;
    let port = Arc::new(Port::new(handlers, settings.nesting));
    let Some(place) = queued::take(Arc::as_ptr(&port)) else {
        return refuse(io::ErrorKind::QuotaExceeded, "1024 threads are receivers already");
    };
    port.set_place(place);
    port.set_nonce(nonce());
    if let Err(error) = port.throttle.make_timer(signal, Token::timer(place)) {
        queued::leave(place);
        return Err(error);
    }
    if settings.remote {
        backend::signal::unblock(remote::signal()); // before `attach`, which notes the mask
    }
    // SAFETY: this thread's own gate, and the bounds of its stack.
    unsafe { gate().prepare(lowest, high) };
    // SAFETY: the thread's own gate, just closed; the port lives until the guard has taken it out of the gate, or for ever if the guard is forgotten.
    unsafe { gate().set_receiver(Arc::as_ptr(&port).cast()) };
    let attached = port.attach(settings.mechanism);
    // From here on the guard undoes it all.
    let registration = Registration {
        port,
        remote: settings.remote,
        process: std::process::id(),
        seen: Cell::new(0),
        _alternate: alternate,
        _thread: PhantomData,
    };
    // SAFETY: `prepare` closed it at a depth of 1.
    unsafe { gate::unmask() };
    attached.map(|()| registration)
}

/// The lowest and the highest address of the calling thread's stack.
fn stack_bounds() -> io::Result<(usize, usize)> {
    // SAFETY: libc fills the attributes of the calling thread, which are destroyed afterwards.
    unsafe {
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        let error = libc::pthread_getattr_np(libc::pthread_self(), &mut attributes);
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let (mut low, mut size, mut guard) = (core::ptr::null_mut(), 0, 0);
        libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
        libc::pthread_attr_getguardsize(&attributes, &mut guard);
        libc::pthread_attr_destroy(&mut attributes);
        // Whether the guard is part of the stack differs between versions of libc.
        Ok((low as usize + guard, low as usize + size))
    }
}

/// Tells grants of different registrations apart; not a secret.
fn nonce() -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: fills a local. If it fails, the clock does.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if filled == 4 { u32::from_ne_bytes(bytes) } else { tick::now() as u32 }
}

impl Registration {
    /// A sender of `vector`, without conditions.
    ///
    /// ```
    /// # use unyield_preempt::endpoint::{Builder, SendError, Vector};
    /// let vector = Vector::new(0).unwrap();
    /// let registration = Builder::new().register()?;
    /// let sender = registration.sender(vector);
    /// let clone = sender.clone();
    /// std::thread::spawn(move || clone.send()).join().unwrap().unwrap();
    /// assert!(registration.wait(None));
    /// drop(registration);
    /// assert_eq!(sender.send(), Err(SendError::Gone));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sender(&self, vector: Vector) -> Sender {
        self.grant(vector).0
    }

    /// A sender of `vector`, and the means to revoke it or to limit its rate. Clones of the sender are under the same terms.
    pub fn grant(&self, vector: Vector) -> (Sender, Grant) {
        Sender::new(self.port.clone(), vector)
    }

    /// A sender into a mailbox that this registration was built with.
    ///
    /// # Errors
    /// [`MailError::NoSlot`] if there are as many senders as the mailbox has slots.
    pub fn mail_sender(&self, route: &MailRoute) -> Result<MailSender, MailError> {
        self.mail_grant(route).map(|(sender, _)| sender)
    }

    /// The same, and the means to revoke it or to limit its rate.
    ///
    /// # Errors
    /// As [`mail_sender`](Registration::mail_sender).
    pub fn mail_grant(&self, route: &MailRoute) -> Result<(MailSender, Grant), MailError> {
        let (sender, grant) = self.grant(route.vector());
        Ok((MailSender::new(route, sender)?, grant))
    }

    /// The right to send `vector`, to be given to another process. See [`remote`].
    ///
    /// # Errors
    /// `InvalidInput` without [`Builder::accept_remote`](super::Builder::accept_remote); `Unsupported` on a kernel without pidfds of threads (before Linux 6.9).
    pub fn right(&self, vector: Vector) -> io::Result<Right> {
        if !self.remote {
            let why = "the receiver was not built with accept_remote";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Right::new(Token::remote(self.port.place(), self.port.nonce(), vector), self.port.receiver().tid())
    }

    /// Makes all rights worthless that were given to other processes so far: their sends are ignored.
    pub fn revoke_rights(&self) {
        self.port.set_nonce(self.port.nonce().wrapping_add(1));
    }

    /// Waits until a vector has been delivered since the last wait that returned true (the first time: since `register`), or until `timeout` is over.
    /// Returns whether one has. Cannot lose a wake-up: what comes before the call, and between a look of the caller's and the call, ends it at once.
    /// What is pending is handled before it returns, so with a timeout of zero it is a poll.
    ///
    /// # Panics
    /// Inside a critical section, where no interrupt could end it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use unyield_preempt::endpoint::{Builder, Vector};
    /// let registration = Builder::new().register()?;
    /// let sender = registration.sender(Vector::LOWEST);
    /// assert!(!registration.wait(Some(Duration::from_millis(1))));
    /// let other = std::thread::spawn(move || sender.send());
    /// assert!(registration.wait(None));
    /// other.join().unwrap().unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        assert!(!CriticalSection::is_active(), "a wait inside a critical section would not end");
        let deadline = timeout.and_then(|timeout| {
            u64::try_from(timeout.as_nanos()).ok().and_then(|timeout| tick::now().checked_add(timeout))
        });
        if !self.is_own() {
            return false;
        }
        loop {
            let word = self.port.wait.word(); // step 1 of the protocol in `wait`, before step 2
            window(0);
            if self.has_handled() {
                return true;
            }
            window(1);
            let left = deadline.map(|deadline| deadline.saturating_sub(tick::now()));
            if left == Some(0) {
                self.port.drain();
                return self.has_handled();
            }
            let word = if cfg!(unyield_mutant = "endpoint-late-word") { self.port.wait.word() } else { word };
            self.port.sleep(word, left);
        }
    }

    /// Waits until `condition` is true, which is asked now and after deliveries, or until `timeout` is over. Returns what it said last.
    ///
    /// # Panics
    /// As [`wait`](Registration::wait), and if `condition` does.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicU64, Ordering};
    /// # use unyield_preempt::endpoint::{Builder, Vector};
    /// let count = Arc::new(AtomicU64::new(0));
    /// let registration = Builder::new().counter(Vector::LOWEST, count.clone()).register()?;
    /// let sender = registration.sender(Vector::LOWEST);
    /// let other = std::thread::spawn(move || sender.send());
    /// assert!(registration.wait_until(None, || count.load(Ordering::Acquire) == 1));
    /// # other.join().unwrap().unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_until(&self, timeout: Option<Duration>, mut condition: impl FnMut() -> bool) -> bool {
        let start = tick::now();
        loop {
            if condition() {
                return true;
            }
            let passed = Duration::from_nanos(tick::now() - start);
            if !self.wait(timeout.map(|timeout| timeout.saturating_sub(passed))) {
                return condition();
            }
        }
    }

    /// False in a forked child.
    fn is_own(&self) -> bool {
        std::process::id() == self.process
    }

    fn has_handled(&self) -> bool {
        let handled = self.port.handled();
        handled != self.seen.replace(handled)
    }

    /// How the thread is interrupted.
    pub fn mechanism(&self) -> Mechanism {
        self.port.receiver().mechanism()
    }

    /// Counts of what has happened so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            handled: self.port.handled(),
            deepest: self.port.deepest(),
            interrupts: self.port.receiver().counters.interrupts.load(core::sync::atomic::Ordering::Relaxed),
            pauses: self.port.throttle.pauses(),
        }
    }
}

impl Drop for Registration {
    /// Later sends fail with [`SendError::Gone`](super::SendError::Gone); what was sent and not delivered is dropped.
    fn drop(&mut self) {
        if !self.is_own() {
            core::mem::forget(self.port.clone()); // the gate of the child's thread still names it
            return;
        }
        gate::mask();
        self.port.detach();
        self.port.throttle.delete_timer();
        queued::leave(self.port.place());
        // SAFETY: the thread's own gate, masked. Signals that still come find no receiver and are ignored.
        unsafe {
            gate().set_receiver(null());
            gate::unmask();
        }
        // SAFETY: the gate does not name the port any more.
        drop(unsafe { self.port.take_handlers() });
    }
}
