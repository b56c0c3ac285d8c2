//! What the two ends of a channel share, and how a value gets from one to the other.
//!
//! One lock protects the buffer, the waiting senders and the waiting receivers. Between operations:
//!
//! - Receivers wait only if there is nothing to receive: the buffer is empty and no sender waits. So a sender that finds a
//!   waiting receiver gives it the value directly, and order is kept.
//! - Senders wait only if there is no room. A receiver that takes a value lets the first of them in.
//! - A waiter's token is the address of a [`Slot`] in its own frame. Who claims the waiter moves the value into it or out of
//!   it, before the unpark. A waiter that has timed out cannot be claimed, so a value never goes to it, and never leaves it.
//!
//! | field | who writes | who reads | when |
//! |---|---|---|---|
//! | `Core` | both ends | both ends | under the lock |
//! | `senders`, `receivers` | clone and drop of the ends | drop of the ends | the last one disconnects |
//! | a waiter's `Slot` | the waiter before it queues; then its waker, once | the waiter, after the wait | ordered by claim and unpark |

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::buffer::{Block, Blocks, Buffer, Drained, Refused, Ring};
use crate::lock::{Lock, LockGuard};
use crate::park::{Waiter, unwind_cancelled};
use crate::sync::wait_queue::{List, Patience, Waited, Woken, wait_in, wake_all_in};

/// A channel.
pub(super) struct Chan<T> {
    core: Lock<Core<T>>,
    /// `None`: unbounded.
    pub(super) capacity: Option<usize>,
    pub(super) senders: AtomicUsize,
    pub(super) receivers: AtomicUsize,
}

struct Core<T> {
    buffer: Buffer<T>,
    sending: List,
    receiving: List,
    no_senders: bool,
    no_receivers: bool,
}

// SAFETY: values of `T` move between the threads that hold the ends, one at a time and never shared; the rest is under the lock.
unsafe impl<T: Send> Send for Chan<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Chan<T> {}

/// How long an operation may wait.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    Now,
    Deadline(Option<Instant>),
}

impl Limit {
    #[inline]
    fn patience(self) -> Option<Patience> {
        match self {
            Limit::Now => None,
            Limit::Deadline(deadline) => Some(Patience::new(deadline)),
        }
    }
}

/// Why a value was not sent.
pub(super) enum Unsent<T> {
    Full(T),
    Disconnected(T),
}

/// Why none was received.
pub(super) enum Unreceived {
    Empty,
    Disconnected,
}

/// A place for one value in the frame of a waiter.
struct Slot<T>(UnsafeCell<Option<T>>);

impl<T> Slot<T> {
    fn token(&self) -> usize {
        (&raw const *self).expose_provenance()
    }

    /// The slot of a claimed waiter of this channel.
    ///
    /// # Safety
    /// `T` is the type of the channel that the waiter waits in.
    unsafe fn of(w: &Woken) -> &UnsafeCell<Option<T>> {
        let slot: *const Slot<T> = std::ptr::with_exposed_provenance(w.token());
        // SAFETY: the waiter's frame stays while it is claimed and not unparked, which `w` stands for.
        unsafe { &(*slot).0 }
    }
}

/// Gives `value` to a waiting receiver. Outside the lock.
fn give<T>(receiver: Woken, value: T) {
    // SAFETY: the receiver waits for a `T`, here.
    let slot = unsafe { Slot::of(&receiver) };
    // SAFETY: the slot is ours alone until the unpark; it is empty, so nothing is dropped.
    unsafe { slot.get().write(Some(value)) };
    receiver.wake(0);
}

/// Takes the value of a waiting sender; may be called under the lock. The sender must be woken after.
fn take<T>(sender: &Woken) -> T {
    // SAFETY: the sender waits with a `T`, here.
    let slot = unsafe { Slot::of(sender) };
    // SAFETY: the slot is ours alone until the unpark.
    match unsafe { (*slot.get()).take() } {
        Some(value) => value,
        None => unreachable!("a waiting sender has a value"),
    }
}

/// What a look at the channel, under the lock, came to.
enum Sent<T> {
    Done,
    /// Give it to this receiver.
    To(Woken, T),
    /// It has to wait.
    Full(T),
    NeedsBlock(T),
    Disconnected(T),
}

enum Received<T> {
    /// From the buffer. Wake the sender that took the place, free the block.
    Value(T, Option<Woken>, Drained<T>),
    /// Take it from this sender.
    From(Woken),
    /// It has to wait.
    Empty,
    Disconnected,
}

impl<T> Core<T> {
    #[inline]
    fn send(&mut self, value: T, spare: &mut Option<Box<Block<T>>>) -> Sent<T> {
        if self.no_receivers {
            return Sent::Disconnected(value);
        }
        if let Some(receiver) = self.receiving.pop() {
            return Sent::To(receiver, value);
        }
        match self.buffer.push(value, spare) {
            Ok(()) => Sent::Done,
            Err(Refused::Full(value)) => Sent::Full(value),
            Err(Refused::NeedsBlock(value)) => Sent::NeedsBlock(value),
        }
    }

    #[inline]
    fn receive(&mut self) -> Received<T> {
        if let Some((value, drained)) = self.buffer.pop() {
            let sender = self.sending.pop();
            if let Some(sender) = &sender {
                // Only a bounded channel has waiting senders, and it has a free slot now.
                let refused = self.buffer.push(take(sender), &mut None);
                debug_assert!(refused.is_ok());
            }
            return Received::Value(value, sender, drained);
        }
        match self.sending.pop() {
            Some(sender) => Received::From(sender),
            None if self.no_senders => Received::Disconnected,
            None => Received::Empty,
        }
    }
}

impl<T> Chan<T> {
    /// With one end of each kind.
    pub(super) fn new(capacity: Option<usize>) -> Chan<T> {
        let buffer = match capacity {
            Some(capacity) => Buffer::Bounded(Ring::new(capacity)),
            None => Buffer::Unbounded(Blocks::new()),
        };
        let (sending, receiving) = (List::new(), List::new());
        Chan {
            core: Lock::new(Core { buffer, sending, receiving, no_senders: false, no_receivers: false }),
            capacity,
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.core.lock().buffer.len()
    }

    pub(super) fn send(&self, mut value: T, limit: Limit) -> Result<(), Unsent<T>> {
        let patience = limit.patience();
        let mut spare = None;
        loop {
            let mut core = self.core.lock();
            match core.send(value, &mut spare) {
                Sent::Done => return Ok(()),
                Sent::To(receiver, value) => {
                    drop(core);
                    give(receiver, value);
                    return Ok(());
                }
                Sent::Disconnected(value) => return Err(Unsent::Disconnected(value)),
                Sent::NeedsBlock(back) => {
                    drop(core);
                    spare = Some(Block::boxed());
                    value = back;
                }
                Sent::Full(back) => {
                    return match patience {
                        None => Err(Unsent::Full(back)),
                        Some(patience) => self.send_waiting(core, back, patience),
                    };
                }
            }
        }
    }

    #[cold]
    fn send_waiting(
        &self,
        core: LockGuard<'_, Core<T>>,
        value: T,
        patience: Patience,
    ) -> Result<(), Unsent<T>> {
        let slot = Slot(UnsafeCell::new(Some(value)));
        // SAFETY: the waiter is fresh, and `undo` unlinks it from this list.
        let link = |core: &mut Core<T>, w: &Waiter| unsafe { core.sending.push_back(w, slot.token()) };
        let undo = |core: &mut Core<T>, w: &Waiter| {
            // SAFETY: it was linked into this list.
            unsafe { core.sending.unlink(w) };
        };
        // SAFETY: both use the one list.
        let waited = unsafe { wait_in(&self.core, core, patience, "Sender::send", link, || (), undo) };
        if waited == Waited::Cancelled {
            unwind_cancelled();
        }
        match (slot.0.into_inner(), waited) {
            (None, _) => Ok(()),
            (Some(value), Waited::TimedOut) => Err(Unsent::Full(value)),
            (Some(value), _) => Err(Unsent::Disconnected(value)),
        }
    }

    pub(super) fn receive(&self, limit: Limit) -> Result<T, Unreceived> {
        let patience = limit.patience();
        let mut core = self.core.lock();
        match core.receive() {
            Received::Value(value, sender, drained) => {
                drop(core);
                if let Some(sender) = sender {
                    sender.wake(0);
                }
                drop(drained);
                Ok(value)
            }
            Received::From(sender) => {
                drop(core);
                let value = take(&sender);
                sender.wake(0);
                Ok(value)
            }
            Received::Disconnected => Err(Unreceived::Disconnected),
            Received::Empty => match patience {
                None => Err(Unreceived::Empty),
                Some(patience) => self.receive_waiting(core, patience),
            },
        }
    }

    fn receive_waiting(&self, core: LockGuard<'_, Core<T>>, patience: Patience) -> Result<T, Unreceived> {
        let slot = Slot(UnsafeCell::new(None));
        // SAFETY: the waiter is fresh, and `undo` unlinks it from this list.
        let link = |core: &mut Core<T>, w: &Waiter| unsafe { core.receiving.push_back(w, slot.token()) };
        let undo = |core: &mut Core<T>, w: &Waiter| {
            // SAFETY: it was linked into this list.
            unsafe { core.receiving.unlink(w) };
        };
        // SAFETY: both use the one list.
        let waited = unsafe { wait_in(&self.core, core, patience, "Receiver::recv", link, || (), undo) };
        if waited == Waited::Cancelled {
            unwind_cancelled();
        }
        match (slot.0.into_inner(), waited) {
            (Some(value), _) => Ok(value),
            (None, Waited::TimedOut) => Err(Unreceived::Empty),
            (None, _) => Err(Unreceived::Disconnected),
        }
    }

    pub(super) fn add_sender(&self) {
        count_up(&self.senders);
    }

    pub(super) fn add_receiver(&self) {
        count_up(&self.receivers);
    }

    /// The last one wakes all receivers: they find nothing.
    pub(super) fn drop_sender(&self) {
        // AcqRel: the last decrement comes after all that the other senders did.
        if self.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.core.lock().no_senders = true;
            wake_all_in(&self.core, |core| &mut core.receiving, 0);
        }
    }

    /// The last one wakes all senders, which keep their values, and drops what is in the buffer: nobody will ask for it.
    pub(super) fn drop_receiver(&self) {
        // AcqRel: as above.
        if self.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.core.lock().no_receivers = true;
            wake_all_in(&self.core, |core| &mut core.sending, 0);
            loop {
                // The senders that waited have been woken, and new ones are refused: the buffer only shrinks.
                let value = self.core.lock().buffer.pop();
                if value.is_none() {
                    break;
                }
            }
        }
    }
}

/// One more end; as `Arc` does, gives up where leaked clones could wrap the count.
fn count_up(ends: &AtomicUsize) {
    // Relaxed: whoever clones an end holds one.
    if ends.fetch_add(1, Ordering::Relaxed) > isize::MAX as usize {
        std::process::abort();
    }
}
