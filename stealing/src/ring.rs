//! A ring of fixed size that its owner fills, and empties at either end, and thieves take the oldest item of.
//!
//! For: the two hot queues of a worker, and the forks of a fiber that exposes them at once. Not for: more items than fit; the owner is told and queues them elsewhere. It
//! is the deque of Chase and Lev, in the C11 form of Lê and others ("Correct and Efficient Work-Stealing for Weak Memory
//! Models", PPoPP 2013), without the part that makes it difficult: as the ring never grows, no buffer is ever replaced,
//! so there is nothing to reclaim. No call allocates, frees or looks at thread-local data: thieves, too, may run on any
//! identity.
//!
//! Rejected: crossbeam's deque, held below the size at which it first grows. Each of its steals pins an epoch, and every
//! 128th pin of a thread runs what *anyone* in the process has deferred: it frees, and calls closures of the program, in
//! the middle of the scheduler (`tests/no_alloc.rs` shows it).
//!
//! # Protocol
//!
//! Items are at the positions `front .. back`, which only grow in the long run; position `p` is slot `p % ROOM`.
//!
//! | field | who writes | who reads | when |
//! |---|---|---|---|
//! | `back` | the owner | all | any time |
//! | `front` | whoever takes the oldest, by compare-and-swap from `p` to `p + 1` | all | any time |
//! | `slots[p]` | the owner, while `front > p - ROOM` and `back == p` | all | see below |
//!
//! - **Taking the oldest** (thieves, owner): read `front = p`, see `back > p`, read the slot, then swap `front`. Success
//!   proves that the slot was read before it was reused: the owner reuses it only after it has seen `front > p`.
//! - **Taking the newest** (owner): first lower `back` to `p`, then look at `front`. If `front < p`, no thief can get `p`:
//!   one that looks now sees `back == p`. If `front == p`, a thief may be at it: the swap of `front` decides. This is a
//!   Dekker pair (owner: store `back`, load `front`; thief: `front` loaded, load `back`), hence the two SeqCst fences.
//! - Positions are 64 bits wide and do not come round, so a swap cannot succeed by accident.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crossbeam_utils::CachePadded;

use crate::mutant;
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

/// What a ring holds at most.
#[cfg(not(loom))]
pub(crate) const ROOM: usize = 64;
/// Small enough for a model to fill it and come round.
#[cfg(loom)]
pub(crate) const ROOM: usize = 2;

/// How often a thief tries again after another one was faster. It then looks elsewhere: that there is such a crowd
/// means that this ring is being emptied well.
const ATTEMPTS: usize = 4;

/// See the module's header.
pub struct Ring<T> {
    front: CachePadded<AtomicU64>,
    back: CachePadded<AtomicU64>,
    slots: [AtomicPtr<T>; ROOM],
    marker: PhantomData<NonNull<T>>,
}

// SAFETY: a ring moves pointers to items from thread to thread, which the contract of `push` allows; all its fields are atomic, and what
// only the owner may do is in unsafe methods.
unsafe impl<T> Sync for Ring<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Ring<T> {}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Ring::new()
    }
}

impl<T> Ring<T> {
    /// An empty ring.
    pub fn new() -> Self {
        Ring {
            front: CachePadded::new(AtomicU64::new(0)),
            back: CachePadded::new(AtomicU64::new(0)),
            slots: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            marker: PhantomData,
        }
    }

    #[inline(always)]
    fn slot(&self, position: u64) -> &AtomicPtr<T> {
        &self.slots[position as usize % ROOM]
    }

    /// Adds an item, or gives it back if the ring is full.
    ///
    /// # Safety
    /// The caller is the owner: one thread, or one fiber on whichever thread it runs. The item is live until it is taken out, is in no other queue, and may be used by
    /// whichever thread takes it.
    #[inline]
    pub unsafe fn push(&self, item: NonNull<T>) -> Result<(), NonNull<T>> {
        // Relaxed: only this thread writes it.
        let back = self.back.load(Ordering::Relaxed);
        // Acquire pairs with the release of the swap that took the item which was in this slot: that thief has read it.
        let front = self.front.load(Ordering::Acquire);
        if back - front >= ROOM as u64 {
            return Err(item);
        }
        // Relaxed: published by the store below.
        self.slot(back).store(item.as_ptr(), Ordering::Relaxed);
        // Release, like each store of `back`: who sees a position below `back` sees the slot and the item in it.
        let order = if mutant!("ring-relaxed-publish") { Ordering::Relaxed } else { Ordering::Release };
        self.back.store(back + 1, order);
        Ok(())
    }

    /// Takes the newest item out.
    ///
    /// # Safety
    /// The caller is the owner, see [`push`](Self::push).
    #[inline]
    pub unsafe fn pop_newest(&self) -> Option<NonNull<T>> {
        let back = self.back.load(Ordering::Relaxed);
        // Relaxed: if it is out of date, there are fewer items than it says, and what follows finds out.
        if self.front.load(Ordering::Relaxed) == back {
            return None;
        }
        let last = back - 1;
        if self.front.load(Ordering::Relaxed) == last {
            // The only one is the oldest, too: the swap alone decides, and the fence is saved.
            // SAFETY: the caller's promise.
            return unsafe { self.pop_oldest() };
        }
        // Release: as in `push`.
        self.back.store(last, Ordering::Release);
        // Pairs with the fence in `steal`.
        if !mutant!("ring-no-pop-fence") {
            fence(Ordering::SeqCst);
        }
        // Relaxed: the fence pairs.
        let front = self.front.load(Ordering::Relaxed);
        if front < last {
            // Relaxed: this thread wrote it.
            return NonNull::new(self.slot(last).load(Ordering::Relaxed));
        }
        // The last item, or thieves were faster and `front` is `back`. In both cases the ring will be empty at `back`.
        let won = front == last && self.take(front);
        // Release: as in `push`.
        self.back.store(back, Ordering::Release);
        if won { NonNull::new(self.slot(last).load(Ordering::Relaxed)) } else { None }
    }

    /// Takes the oldest item out.
    ///
    /// # Safety
    /// The caller is the owner, see [`push`](Self::push).
    #[inline]
    pub unsafe fn pop_oldest(&self) -> Option<NonNull<T>> {
        let back = self.back.load(Ordering::Relaxed);
        // Each failure means that a thief has taken an item, and only this thread adds any: at most `ROOM` rounds.
        loop {
            // Relaxed: no data of thieves is used.
            let front = self.front.load(Ordering::Relaxed);
            if front == back {
                return None;
            }
            if self.take(front) {
                // Relaxed: this thread wrote it, and no other overwrites it.
                return NonNull::new(self.slot(front).load(Ordering::Relaxed));
            }
        }
    }

    /// Takes the oldest item out. Any thread, on any identity. `None` although there were some: other thieves were
    /// faster, several times.
    #[inline]
    pub fn steal(&self) -> Option<NonNull<T>> {
        if self.is_empty() {
            return None;
        }
        for _ in 0..ATTEMPTS {
            // Acquire: a later `front` comes with the `back` that it was taken under.
            let front = self.front.load(Ordering::Acquire);
            // Pairs with the fence in `pop_newest`.
            if !mutant!("ring-no-steal-fence") {
                fence(Ordering::SeqCst);
            }
            // Acquire pairs with the release in `push`: the slot, and the item in it.
            let back = self.back.load(Ordering::Acquire);
            if front >= back {
                return None;
            }
            // Relaxed: ordered by `back`. The value counts only if `front` has not moved on.
            let item = self.slot(front).load(Ordering::Relaxed);
            if self.take(front) {
                return NonNull::new(item);
            }
        }
        None
    }

    /// Claims the oldest item, at position `front`.
    #[inline(always)]
    fn take(&self, front: u64) -> bool {
        if mutant!("ring-no-swap") {
            self.front.store(front + 1, Ordering::SeqCst);
            return true;
        }
        // Release pairs with the acquire in `push`. SeqCst: as in the paper; on x86 it costs nothing.
        self.front.compare_exchange(front, front + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Number of items, perhaps out of date. Anywhere.
    #[inline]
    pub fn len(&self) -> usize {
        // `front` first: it does not go down, so a difference of 0 or less means that the ring was empty when `back` was
        // read, or that its owner was about to take the last item. Acquire keeps the order.
        let front = self.front.load(Ordering::Acquire);
        let back = self.back.load(Ordering::Acquire);
        back.saturating_sub(front) as usize
    }

    /// True if there were no items. Anywhere.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("len", &self.len()).finish_non_exhaustive()
    }
}
