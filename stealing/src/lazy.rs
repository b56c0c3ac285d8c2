//! The unstarted halves of one fiber's fork-joins, exposed when a thief asks: push and pop without read-modify-write, fence or poll.
//!
//! For: fork-join. Not for: anything that is not last in, first out. It is the deque of Cilk's THE protocol (Frigo, Leiserson, Randall: "The
//! Implementation of the Cilk-5 Multithreaded Language", PLDI 1998), with two changes: a thief that can interrupt the owner needs no fence on the owner's side
//! at all, since the interrupt runs on the owner's thread ([`Bounds::take`]); and a thief that cannot ([`Bounds::take_remotely`]) brings the owner's fence along (the
//! asymmetric one of [`fence`]).
//!
//! # Protocol
//!
//! Items are pointers in an array of slots, the oldest at `top`, the newest below `bottom`. Both bounds are addresses of slots.
//!
//! ```text
//!   owner: push      slot[bottom] = item;  bottom += 1
//!          pop       bottom -= 1;  then look at top:  top <= bottom: mine.  Else settle.
//!          settle    (locked)  top <= bottom: mine, a thief has thought better of it.  Else stolen, and all older ones too: top = bottom
//!   take             (locked, on the owner's thread, or while the owner is at rest)   top < bottom:  item = slot[top];  top += 1
//!   take_remotely    (locked)  top < bottom:  top += 1;  HEAVY FENCE;  bottom < top now: top -= 1, nothing.  Else item = slot[top - 1]
//! ```
//!
//! - One thief at a time: the lock. The owner takes it only in `settle`, masked.
//! - The owner writes `top` only in `settle`, where it holds the lock, never when it starts afresh: a remote thief may be about to raise it.
//!   So an array that has been emptied has `top` at its first slot, but for the moment in which a thief is at it.
//! - `take` on the owner's thread (an interrupt) finds the owner between two instructions: before `bottom -= 1` the item is there to be taken, and the owner will
//!   see `top`; after it, it is not.
//! - `take_remotely` and `pop` are a Dekker pair: thief: raise `top`, heavy fence, load `bottom`; owner: lower `bottom`, light fence, load `top`. One of the two
//!   sees the other.
//!
//! | word | who writes | who reads |
//! |---|---|---|
//! | `bottom` | the owner; 0 while it has no fork-join | owner, thieves |
//! | `top` | whoever holds the lock | owner, thieves |
//! | slots | the owner, at `bottom` | whoever takes |

use crate::spin::SpinLock;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::{const_fn, fence, mutant};
use core::ptr::NonNull;

/// What the array is made of.
pub type Slot<T> = AtomicPtr<T>;

/// Excludes thieves from each other, and from an owner that has lost its newest item.
#[derive(Debug)]
pub struct StealLock {
    lock: SpinLock<()>,
    /// While a remote thief is at it: the slot that it wants; else 0. For a forked child, in which that thief does not exist.
    raised: AtomicUsize,
}

impl Default for StealLock {
    fn default() -> Self {
        StealLock::new()
    }
}

impl StealLock {
    const_fn! {
        /// Free.
        pub fn new() -> Self {
            StealLock { lock: SpinLock::new(()), raised: AtomicUsize::new(0) }
        }
    }

    /// The slot that a remote thief is at, and has not taken yet; 0 if there is none. Only of use where that thief cannot go on: in a child forked meanwhile.
    pub fn contested(&self) -> usize {
        self.raised.load(Ordering::Relaxed)
    }
}

/// The bounds, as thieves see them: two words side by side, `bottom` first.
#[repr(C)]
#[derive(Debug)]
pub struct Bounds {
    bottom: AtomicUsize,
    top: AtomicUsize,
}

/// The bounds, as their owner reaches them: in its thread-local storage.
pub trait Owner {
    /// Address of the slot for the next item; 0: the owner has no array, or has not begun to use it.
    fn bottom(&self) -> usize;
    /// # Safety
    /// The owner's fiber; the value follows the protocol. What was stored before is seen by whoever reads the value and acquires: release order.
    unsafe fn set_bottom(&self, value: usize);
    /// Address of the oldest item's slot.
    fn top(&self) -> usize;
    /// # Safety
    /// The owner's fiber, under the lock.
    unsafe fn set_top(&self, value: usize);
    /// Lowers `bottom` to `value`, and only then reads `top`.
    ///
    /// # Safety
    /// As for [`set_bottom`](Owner::set_bottom).
    #[inline(always)]
    unsafe fn lower(&self, value: usize) -> usize {
        // SAFETY: as promised.
        unsafe { self.set_bottom(value) };
        // Pairs with the heavy fence of `take_remotely`.
        if !mutant!("lazy-no-light-fence") {
            fence::assumed();
        }
        self.top()
    }
}

/// Adds an item. `bottom` is what [`Owner::bottom`] says, and not 0.
///
/// # Safety
/// The owner's fiber; the array has room (or is followed by memory whose writing stops the program). The item lives until it was popped or, if it was taken,
/// until its taker has done with it.
#[inline(always)]
pub unsafe fn push<T>(owner: &impl Owner, bottom: usize, item: NonNull<T>) {
    // Relaxed: published by the store of `bottom`.
    // SAFETY: a slot of the owner's array.
    unsafe { (*(bottom as *const Slot<T>)).store(item.as_ptr(), Ordering::Relaxed) };
    // SAFETY: the slot is filled.
    unsafe { owner.set_bottom(bottom + size_of::<Slot<T>>()) };
}

/// Takes back the newest item, which is in the slot at `bottom`: that of [`push`]. False: ask [`settle`].
///
/// # Safety
/// The owner's fiber; all that was pushed after it has been popped.
#[inline(always)]
pub unsafe fn pop(owner: &impl Owner, bottom: usize) -> bool {
    if mutant!("lazy-top-first") {
        let top = owner.top();
        // SAFETY: as promised.
        unsafe { owner.set_bottom(bottom) };
        return top <= bottom;
    }
    // SAFETY: as promised.
    unsafe { owner.lower(bottom) <= bottom }
}

/// The item in the slot at `bottom`.
///
/// # Safety
/// The owner's fiber; the slot was filled, and `T` is what was put there.
pub unsafe fn read<T>(bottom: usize) -> *mut T {
    // SAFETY: a slot of the owner's array. Relaxed: the owner's own, or filled before it was resumed.
    unsafe { (*(bottom as *const Slot<T>)).load(Ordering::Relaxed) }
}

/// After [`pop`] has said false: true if the item is the owner's after all. If not, it and all older ones were stolen.
///
/// # Safety
/// As for [`pop`], and masked.
#[cold]
pub unsafe fn settle(owner: &impl Owner, lock: &StealLock, bottom: usize) -> bool {
    let _guard = (!mutant!("lazy-no-settle-lock")).then(|| lock.lock.lock());
    if owner.top() <= bottom {
        return true;
    }
    if !mutant!("lazy-settle-keeps-top") {
        // SAFETY: under the lock.
        unsafe { owner.set_top(bottom) };
    }
    false
}

impl Bounds {
    /// Two words that hold bounds, where somebody else keeps them.
    #[inline(always)]
    pub fn from_words(words: &[AtomicUsize; 2]) -> &Bounds {
        // SAFETY: two words side by side, of the same type.
        unsafe { &*(words as *const [AtomicUsize; 2]).cast::<Bounds>() }
    }

    /// Says where the array begins: once, before its owner runs.
    pub fn begin(&self, first: usize) {
        self.bottom.store(0, Ordering::Relaxed);
        self.top.store(first, Ordering::Relaxed);
    }

    /// Fills the empty array of an owner that is at rest, oldest item first.
    ///
    /// # Safety
    /// Masked; the owner is at rest and cannot be resumed; `first` is what [`begin`](Self::begin) was told, and there is room. The items are as for [`push`].
    pub unsafe fn fill<T>(&self, lock: &StealLock, first: usize, items: impl Iterator<Item = *mut T>) {
        let _guard = lock.lock.lock(); // a thief may be at it still, who saw it before it came to rest
        let mut bottom = first;
        for item in items {
            // SAFETY: a slot of the owner's array.
            unsafe { (*(bottom as *const Slot<T>)).store(item, Ordering::Relaxed) };
            bottom += size_of::<Slot<T>>();
        }
        if bottom > first {
            self.bottom.store(bottom, Ordering::Release);
        }
    }

    /// How many there seem to be. Any thread, racily.
    #[inline]
    pub fn count(&self) -> usize {
        let top = self.top.load(Ordering::Relaxed);
        self.bottom.load(Ordering::Relaxed).saturating_sub(top) / size_of::<usize>()
    }

    /// True if there seems to be something to take. Any thread, racily.
    #[inline]
    pub fn show_work(&self) -> bool {
        self.top.load(Ordering::Relaxed) < self.bottom.load(Ordering::Relaxed)
    }

    /// True if the owner seems to be inside a fork-join. Any thread, racily.
    #[inline]
    pub fn in_use(&self) -> bool {
        self.bottom.load(Ordering::Relaxed) != 0
    }

    /// Takes the oldest item; `taken` is called with it before the owner can find it gone. `None` if there is none, or a thief is at it.
    ///
    /// # Safety
    /// Masked. On the owner's thread, in an interrupt of the owner; or the owner is at rest, and what it did last happened before this call. `T` is what the
    /// owner pushes, and the slots are mapped.
    pub unsafe fn take<T>(&self, lock: &StealLock, taken: impl FnOnce(NonNull<T>)) -> Option<NonNull<T>> {
        let guard = lock.lock.try_lock();
        if guard.is_none() && !mutant!("lazy-take-unlocked") {
            return None;
        }
        let top = self.top.load(Ordering::Relaxed);
        if top >= self.bottom.load(Ordering::Relaxed) {
            return None;
        }
        self.top.store(top + size_of::<Slot<T>>(), Ordering::Relaxed);
        // SAFETY: between the bounds.
        let item = NonNull::new(unsafe { (*(top as *const Slot<T>)).load(Ordering::Relaxed) })?;
        taken(item);
        Some(item)
    }

    /// As [`Bounds::take`], from any other thread while the owner runs: costs a heavy fence if there seems to be something.
    ///
    /// # Safety
    /// Masked; [`fence::is_asymmetric`]. The bounds and the slots stay mapped during the call; `T` is what the owner pushes.
    pub unsafe fn take_remotely<T>(
        &self,
        lock: &StealLock,
        taken: impl FnOnce(NonNull<T>),
    ) -> Option<NonNull<T>> {
        let guard = lock.lock.try_lock();
        if guard.is_none() && !mutant!("lazy-remote-unlocked") {
            return None;
        }
        let top = self.top.load(Ordering::Relaxed);
        if top >= self.bottom.load(Ordering::Relaxed) {
            return None;
        }
        lock.raised.store(top, Ordering::Relaxed);
        if !mutant!("lazy-raise-late") {
            self.top.store(top + size_of::<Slot<T>>(), Ordering::Relaxed);
        }
        // Pairs with the light fence in `pop`.
        if !mutant!("lazy-no-heavy-fence") {
            fence::heavy();
        }
        // Acquire pairs with the release in `push`: the slot and the item in it.
        let order = if mutant!("lazy-relaxed-bottom") { Ordering::Relaxed } else { Ordering::Acquire };
        if self.bottom.load(order) <= top && !mutant!("lazy-no-second-look") {
            if !mutant!("lazy-no-put-back") {
                // Relaxed: nothing was read that the owner may write again.
                self.top.store(top, Ordering::Relaxed);
            }
            lock.raised.store(0, Ordering::Relaxed);
            return None;
        }
        if mutant!("lazy-raise-late") {
            self.top.store(top + size_of::<Slot<T>>(), Ordering::Relaxed);
        }
        // SAFETY: between the bounds; the owner cannot pop it now without the lock, nor put another item here.
        let item = NonNull::new(unsafe { (*(top as *const Slot<T>)).load(Ordering::Relaxed) })?;
        taken(item);
        lock.raised.store(0, Ordering::Relaxed);
        Some(item)
    }
}
