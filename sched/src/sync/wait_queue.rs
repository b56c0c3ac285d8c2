//! The queue of waiters that every primitive of this module is made of.
//!
//! A [`List`] links waiters that live on their own stacks or in their own tasks; it belongs to one [`Lock`], together with
//! whatever state the primitive keeps ([`WaitQueue`], or a structure of its own with several lists). The invariants:
//!
//! 1. A waiter's links are touched only under that lock, and `queued` is true exactly while it is linked.
//! 2. A waiter stays where it is until it has been claimed and unparked, or has taken the lock itself and seen that it is not
//!    linked (any more). [`wait_in`] sees to it.
//! 3. A waker pops under the lock and claims under the lock. If the claim succeeds, the waiter's `token` is the waker's until
//!    it unparks, and the wait returns [`Waited::Notified`] with it, always. If it fails, the waiter has timed out or was
//!    cancelled, and the waker goes on to the next.
//! 4. A waker unparks after it has released the lock ([`Woken::wake`], [`Batch`]).
//!
//! For fibers and plain threads; a wait panics inside a critical section, a wake-up does not. Not for handlers.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr;
use std::time::{Duration, Instant};

use crate::lock::{Lock, LockGuard};
use crate::park::{Claimed, Outcome, Waiter, in_critical_section};

/// A FIFO of waiters, linked through them. Its methods are called under the lock that it lies in.
#[derive(Debug)]
pub(super) struct List {
    head: *const Waiter,
    tail: *const Waiter,
    len: usize,
}

// SAFETY: the pointers are followed only under the lock that the list lies in, and what they point to stays in place while it
// is linked (invariants 1 and 2), whichever thread it belongs to.
unsafe impl Send for List {}

impl List {
    pub(super) const fn new() -> List {
        List { head: ptr::null(), tail: ptr::null(), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Links `w` at the end, with `token` for whoever wakes it.
    ///
    /// # Safety
    /// `w` is not linked, and keeps invariant 2.
    pub(super) unsafe fn push_back(&mut self, w: &Waiter, token: usize) {
        w.token.set(token);
        w.queued.set(true);
        w.next.set(ptr::null());
        w.prev.set(self.tail);
        // SAFETY: a linked waiter stays in place.
        match unsafe { self.tail.as_ref() } {
            Some(last) => last.next.set(w),
            None => self.head = w,
        }
        self.tail = w;
        self.len += 1;
    }

    /// Links `w` at the front, for one that waited before and has to wait again.
    ///
    /// # Safety
    /// As [`List::push_back`].
    pub(super) unsafe fn push_front(&mut self, w: &Waiter, token: usize) {
        w.token.set(token);
        w.queued.set(true);
        w.prev.set(ptr::null());
        w.next.set(self.head);
        // SAFETY: a linked waiter stays in place.
        match unsafe { self.head.as_ref() } {
            Some(first) => first.prev.set(w),
            None => self.tail = w,
        }
        self.head = w;
        self.len += 1;
    }

    /// Takes `w` out if it is linked, and says whether it was.
    ///
    /// # Safety
    /// If `w` is linked at all, it is in this list.
    pub(super) unsafe fn unlink(&mut self, w: &Waiter) -> bool {
        if !w.queued.replace(false) {
            return false;
        }
        let (prev, next) = (w.prev.get(), w.next.get());
        // SAFETY: a linked waiter's neighbours are linked too, so they stay in place.
        match unsafe { prev.as_ref() } {
            Some(prev) => prev.next.set(next),
            None => self.head = next,
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.prev.set(prev),
            None => self.tail = prev,
        }
        self.len -= 1;
        true
    }

    /// Takes out waiters from the front until one can be claimed.
    pub(super) fn pop(&mut self) -> Option<Woken> {
        self.pop_if(|_| true)
    }

    /// As [`List::pop`], but only as far as `admit` is true of the tokens that the waiters have written.
    pub(super) fn pop_if(&mut self, admit: impl Fn(usize) -> bool) -> Option<Woken> {
        loop {
            let waiter = self.head;
            // SAFETY: a linked waiter stays in place.
            let w = unsafe { waiter.as_ref() }?;
            if !admit(w.token.get()) {
                return None;
            }
            // SAFETY: it is this list's first.
            unsafe { self.unlink(w) };
            // SAFETY: the list's lock is held, and so a waiter that has just been linked cannot have gone.
            if let Some(claimed) = unsafe { Waiter::claim(waiter) } {
                return Some(Woken { waiter, claimed });
            }
        }
    }
}

/// A waiter that was claimed: it stays blocked, and in place, until [`Woken::wake`].
#[must_use = "a claimed waiter blocks until it is woken"]
pub(super) struct Woken {
    waiter: *const Waiter,
    claimed: Claimed,
}

impl Woken {
    /// What the waiter wrote for its waker.
    pub(super) fn token(&self) -> usize {
        // SAFETY: the claimed waiter stays in place until it is unparked, and its token is ours (invariant 3).
        unsafe { (*self.waiter).token.get() }
    }

    /// Ends the wait; it returns `token`. To be called after the queue's lock has been released.
    pub(super) fn wake(self, token: usize) {
        // SAFETY: as in `token`.
        unsafe { (*self.waiter).token.set(token) };
        self.claimed.unpark();
    }
}

/// Claimed waiters on their way from under the lock to where they may be woken. A queue longer than this is woken in several
/// rounds, so that the time under the lock is bounded.
pub(super) struct Batch {
    woken: [Option<Woken>; Batch::MAX],
    len: usize,
}

impl Batch {
    pub(super) const MAX: usize = 16;

    pub(super) const fn new() -> Batch {
        Batch { woken: [const { None }; Batch::MAX], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == Batch::MAX
    }

    /// Must not be full.
    pub(super) fn push(&mut self, w: Woken) {
        self.woken[self.len] = Some(w);
        self.len += 1;
    }

    /// Wakes all, in order, and is empty again. To be called after the queue's lock has been released.
    pub(super) fn wake(&mut self, token: usize) {
        for w in &mut self.woken[..self.len] {
            if let Some(w) = w.take() {
                w.wake(token);
            }
        }
        self.len = 0;
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waited {
    /// A waker has ended it, and says this.
    Notified(usize),
    /// The deadline passed. The waiter is not linked any more.
    TimedOut,
    /// The fiber is being cancelled. The waiter is not linked any more; the caller calls `unwind_cancelled` once all is in order.
    Cancelled,
}

/// How long a wait may take, and whether there may be one. Made before the lock is taken, which masks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    cancellable: bool,
    in_section: bool,
}

impl Patience {
    /// As long as it takes or until the deadline, but no longer than until a cancel.
    #[inline]
    pub(super) fn new(deadline: Option<Instant>) -> Patience {
        Patience { deadline, cancellable: true, in_section: in_critical_section() }
    }

    /// No cancel ends it.
    #[inline]
    pub(super) fn stubborn(deadline: Option<Instant>) -> Patience {
        Patience { cancellable: false, ..Patience::new(deadline) }
    }

    /// Panics where [`wait_in`] would: for callers that note something down before they wait. Outside the lock.
    #[inline]
    pub(super) fn check(&self, what: &str) {
        if self.in_section {
            blocked_in_section(what);
        }
    }
}

/// The instant `d` from now; `None`, which is never, if that cannot be told.
pub(super) fn deadline(d: Duration) -> Option<Instant> {
    Instant::now().checked_add(d)
}

#[cold]
#[inline(never)]
fn blocked_in_section(what: &str) -> ! {
    panic!("unyield: {what} would have to wait inside a critical section, where nothing could end the wait")
}

/// Ends the process because a lock that is held was locked inside a critical section.
#[cold]
pub(super) fn locked_in_section(what: &str) -> ! {
    // Masked, and another fiber may hold stderr's lock: straight to the descriptor.
    let text = [
        "unyield: fatal: a ",
        what,
        " that is held elsewhere was locked inside a critical section, where its holder may never run\n",
    ];
    for part in text {
        // SAFETY: the bytes of a live string.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}

/// The one way to wait, for a caller that has looked at the state under `lock` and found that it must: `link` links its waiter, the
/// lock is released, `unlocked` runs, and then it blocks. If the wait ends without a waker, `undo` unlinks the waiter, under the lock.
///
/// Panics inside a critical section, with the lock released and nothing done.
///
/// # Safety
/// `guard` is of `lock`. What `link` links the waiter into, `undo` unlinks it from.
#[inline]
pub(super) unsafe fn wait_in<S>(
    lock: &Lock<S>,
    mut guard: LockGuard<'_, S>,
    patience: Patience,
    what: &str,
    link: impl FnOnce(&mut S, &Waiter),
    unlocked: impl FnOnce(),
    undo: impl FnOnce(&mut S, &Waiter),
) -> Waited {
    if patience.in_section {
        // `block` would panic too, but with the waiter linked.
        drop(guard);
        blocked_in_section(what);
    }
    Waiter::with(|w| {
        link(&mut guard, w);
        drop(guard);
        unlocked();
        // One that unwinds already is not cancelled again.
        let cancellable = patience.cancellable && !std::thread::panicking();
        let ended = match w.block(patience.deadline, cancellable) {
            Outcome::Notified => return Waited::Notified(w.token.get()),
            Outcome::TimedOut => Waited::TimedOut,
            Outcome::Cancelled => Waited::Cancelled,
        };
        undo(&mut lock.lock(), w);
        ended
    })
}

/// Wakes, with `token`, all that are in the list now; those that come while it works wait for the next time, except that one
/// of them may be woken in the place of one that has timed out meanwhile. Returns how many.
pub(super) fn wake_all_in<S>(lock: &Lock<S>, list: impl Fn(&mut S) -> &mut List, token: usize) -> usize {
    let (mut woken, mut limit) = (0, None);
    let mut batch = Batch::new();
    loop {
        let mut state = lock.lock();
        let list = list(&mut state);
        let limit = *limit.get_or_insert(list.len);
        while !batch.is_full()
            && woken + batch.len() < limit
            && let Some(w) = list.pop()
        {
            batch.push(w);
        }
        let done = !batch.is_full() || woken + batch.len() == limit;
        drop(state);
        woken += batch.len();
        batch.wake(token);
        if done {
            return woken;
        }
    }
}

/// One list of waiters and the state that it waits for.
pub(super) struct WaitQueue<S> {
    queue: Lock<Queue<S>>,
}

/// What a [`WaitQueue`]'s lock protects.
pub(super) struct Queue<S> {
    pub(super) state: S,
    pub(super) waiters: List,
}

/// Where in the queue to wait, and with which token for the waker.
pub(super) enum Place {
    Back(usize),
    Front(usize),
}

// Whatever unwinds, unwinds outside the lock, with the state as it should be.
impl<S> UnwindSafe for WaitQueue<S> {}
impl<S> RefUnwindSafe for WaitQueue<S> {}

impl<S> WaitQueue<S> {
    pub(super) const fn new(state: S) -> WaitQueue<S> {
        WaitQueue { queue: Lock::new(Queue { state, waiters: List::new() }) }
    }

    pub(super) fn lock(&self) -> LockGuard<'_, Queue<S>> {
        self.queue.lock()
    }

    /// Waits at `place`; see [`wait_in`]. `undo` follows, under the lock and with the waiter unlinked, if no waker has ended the wait.
    /// It is told whether the waiter was still linked.
    #[inline]
    pub(super) fn wait<'a>(
        &'a self,
        guard: LockGuard<'a, Queue<S>>,
        patience: Patience,
        what: &str,
        place: Place,
        unlocked: impl FnOnce(),
        undo: impl FnOnce(&mut Queue<S>, bool),
    ) -> Waited {
        let link = |q: &mut Queue<S>, w: &Waiter| match place {
            // SAFETY: the waiter is fresh; `wait_in` keeps invariant 2.
            Place::Back(token) => unsafe { q.waiters.push_back(w, token) },
            // SAFETY: as above.
            Place::Front(token) => unsafe { q.waiters.push_front(w, token) },
        };
        let undo = |q: &mut Queue<S>, w: &Waiter| {
            // SAFETY: it was linked into this list.
            let was_linked = unsafe { q.waiters.unlink(w) };
            undo(q, was_linked);
        };
        // SAFETY: both use the one list of this queue; a guard of another queue would be this module's mistake.
        unsafe { wait_in(&self.queue, guard, patience, what, link, unlocked, undo) }
    }

    /// Wakes all that wait now.
    pub(super) fn wake_all(&self, token: usize) -> usize {
        wake_all_in(&self.queue, |q| &mut q.waiters, token)
    }
}
