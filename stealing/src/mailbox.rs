//! Request and answer between a thief and the victim that it interrupts.
//!
//! For: asking a busy worker for the oldest of its unstarted halves. Not for: whom to ask ([`victim`](crate::victim)), the interrupt itself, what is handed over.
//!
//! Every worker has one mailbox, and uses it in both roles: as a victim it finds a request there, as a thief an answer. One thief at a time asks a
//! victim, so that so many items serve so many workers.
//!
//! ```text
//!   thief                                       victim, interrupted (or idle itself: a thief that waits answers too)
//!     answer = WAITING
//!     victim.request: null → me   (CAS)
//!     interrupt the victim
//!     wait for the answer                         request: thief → null   (CAS)
//!       too long: request: me → null (CAS)        thief.answer = item, or REFUSED
//! ```
//!
//! One item at a time is best where the oldest is the largest. A thief whose last ones were tiny asks for several.
//!
//! Withdrawal and acceptance are compare-and-swaps of the same word: exactly one of them succeeds. After a withdrawal that fails the answer is on its way,
//! and the thief waits for it, since it may be an item.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `request` | a thief: null → itself, and back; the victim: thief → null | both |
//! | `answer` | the thief before it asks; the victim that has accepted | the thief; of `want`, the victim |

use crate::mutant;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use core::ptr::{NonNull, null_mut};
use crossbeam_utils::CachePadded;

/// See the module.
#[derive(Debug)]
pub struct Mailbox<T> {
    request: CachePadded<AtomicPtr<Mailbox<T>>>,
    answer: CachePadded<Reply<T>>,
}

#[derive(Debug)]
struct Reply<T> {
    first: AtomicPtr<T>,
    /// How many the thief would like.
    want: AtomicUsize,
    /// Further items, up to the first null.
    more: [AtomicPtr<T>; MORE],
}

// SAFETY: all access is atomic; what an answer points to is handed over from victim to thief, which `respond`'s contract allows.
unsafe impl<T> Send for Mailbox<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mailbox<T> {}

/// How many items a victim hands over at most beside the first.
pub const MORE: usize = if cfg!(loom) { 1 } else { 15 };

/// What a victim has answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It is the thief's now.
    Item(NonNull<T>),
    /// There was nothing.
    Refused,
}

/// No address of an item.
fn refused<T>() -> *mut T {
    core::ptr::without_provenance_mut(1)
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox::new()
    }
}

impl<T> Mailbox<T> {
    /// Nobody asks.
    pub fn new() -> Self {
        Mailbox {
            request: CachePadded::new(AtomicPtr::new(null_mut())),
            answer: CachePadded::new(Reply {
                first: AtomicPtr::new(null_mut()),
                want: AtomicUsize::new(1),
                more: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            }),
        }
    }

    /// Thief, whose mailbox this is: asks `victim` for up to `want` items. False: somebody else does. True must be followed by [`poll`](Self::poll)s until an answer, or by a
    /// [`withdraw`](Self::withdraw) that succeeds.
    ///
    /// # Safety
    /// The thief asks nobody else, and its mailbox lives as long as the victim's.
    pub unsafe fn ask(&self, victim: &Mailbox<T>, want: usize) -> bool {
        if !mutant!("mailbox-no-reset") {
            // Relaxed: published by the swap.
            self.answer.first.store(null_mut(), Ordering::Relaxed);
        }
        self.answer.want.store(want.clamp(1, MORE + 1), Ordering::Relaxed);
        // Release pairs with the acquire in `respond`: the victim writes the answer after it was reset.
        let order = if mutant!("mailbox-relaxed-ask") { Ordering::Relaxed } else { Ordering::Release };
        if mutant!("mailbox-ask-blind") {
            victim.request.store(self.address(), order);
            return true;
        }
        victim.request.compare_exchange(null_mut(), self.address(), order, Ordering::Relaxed).is_ok()
    }

    /// Thief: takes its request back. False: the answer is on its way.
    pub fn withdraw(&self, victim: &Mailbox<T>) -> bool {
        if mutant!("mailbox-withdraw-blind") {
            victim.request.store(null_mut(), Ordering::Relaxed);
            return true;
        }
        // Relaxed: nothing is handed over. Failure: the answer's own acquire orders it.
        victim
            .request
            .compare_exchange(self.address(), null_mut(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Thief: the answer, if it has come.
    pub fn poll(&self) -> Option<Answer<T>> {
        // Acquire pairs with the release in `respond`: the item's contents.
        let order = if mutant!("mailbox-relaxed-poll") { Ordering::Relaxed } else { Ordering::Acquire };
        let answer = self.answer.first.load(order);
        if answer == refused() { Some(Answer::Refused) } else { NonNull::new(answer).map(Answer::Item) }
    }

    /// Thief: what came with the item that [`poll`](Self::poll) has given, before anything else is asked for.
    pub fn more(&self) -> impl Iterator<Item = NonNull<T>> {
        // Relaxed: ordered by the answer.
        self.answer.more.iter().map_while(|item| NonNull::new(item.load(Ordering::Relaxed)))
    }

    /// True if somebody asks. Anywhere, also in a handler.
    #[inline]
    pub fn is_asked(&self) -> bool {
        // Relaxed: `respond` looks again.
        !self.request.load(Ordering::Relaxed).is_null()
    }

    /// Victim, whose mailbox this is: accepts the request that there is, if any, and answers with what `take` gives: it is called until it
    /// gives nothing, as often as the thief would like. True: something was handed over.
    ///
    /// # Safety
    /// The victim's thread, masked. What `take` gives may be used by the thief's thread, and by nobody else.
    pub unsafe fn respond(&self, mut take: impl FnMut() -> Option<NonNull<T>>) -> bool {
        let thief = self.request.load(Ordering::Relaxed);
        if thief.is_null() {
            return false;
        }
        // Acquire pairs with the release in `ask`.
        let order = if mutant!("mailbox-relaxed-accept") { Ordering::Relaxed } else { Ordering::Acquire };
        if mutant!("mailbox-accept-blind") {
            self.request.store(null_mut(), Ordering::Relaxed);
        } else if self.request.compare_exchange(thief, null_mut(), order, Ordering::Relaxed).is_err() {
            return false; // withdrawn; whoever asks after that interrupts anew
        }
        let item = take();
        // SAFETY: the thief waits for the answer, and mailboxes live as long as each other.
        let reply = unsafe { &(*thief).answer };
        if item.is_some() {
            let want = reply.want.load(Ordering::Relaxed);
            // Relaxed: published by the answer.
            for (n, place) in reply.more.iter().enumerate() {
                let another = if n + 1 < want { take() } else { None };
                place.store(another.map_or(null_mut(), NonNull::as_ptr), Ordering::Relaxed);
                if another.is_none() {
                    break;
                }
            }
        }
        let order = if mutant!("mailbox-relaxed-answer") { Ordering::Relaxed } else { Ordering::Release };
        reply.first.store(item.map_or_else(refused, NonNull::as_ptr), order);
        item.is_some()
    }

    fn address(&self) -> *mut Mailbox<T> {
        (self as *const Self).cast_mut()
    }
}
