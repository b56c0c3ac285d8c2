//! The run queues of one worker.
//!
//! For: what a worker runs next, and what thieves may take from it. Not for: deciding what is fair between workers,
//! nor for knowing what an item is. Owner methods are `unsafe`: the calling thread is the owner, masked.
//!
//! | queue | holds | owner takes | thieves take |
//! |---|---|---|---|
//! | next | one item that was handed over | first, at most 16 times in a row | last |
//! | woken | started items that were woken, at most 64 | oldest | oldest, second |
//! | fresh | unstarted items, at most 64 | newest: keeps the number of live fibers small in fork trees | oldest, first |
//! | expired | preempted and yielded items, no limit | oldest | oldest, third |
//! | pinned | started items that may not migrate, no limit | oldest | never |
//!
//! Nothing starves: every 31st pop looks at pinned and expired first, every 13th takes fresh before woken, and every
//! 61st the oldest fresh item, which a flood of new ones would bury.
//!
//! No call but [`RunQueue::new`] and the drop glue allocates or frees, and none looks at thread-local data.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use crossbeam_utils::CachePadded;

use crate::injector::Injector;
use crate::list::Link;
use crate::next::NextSlot;
use crate::ring::Ring;

/// How often in a row the next slot goes first.
const NEXT_LIMIT: u8 = 16;
/// Every how many pops pinned and expired items go first.
const AGED_EVERY: u8 = 31;
/// Every how many pops fresh items go before woken ones.
const FRESH_EVERY: u8 = 13;
/// Every how many pops the oldest fresh item goes first.
const OLDEST_EVERY: u8 = 61;

/// Counters of the owner: nobody else touches them.
struct Turns {
    /// How often in a row the next slot went first.
    next_run: Cell<u8>,
    /// Pops left until pinned and expired go first.
    aged: Cell<u8>,
    /// Pops left until fresh goes before woken; stays at 0 until that has been done.
    fresh: Cell<u8>,
    /// Pops left until the oldest fresh item goes first; stays at 0 until that has been done.
    oldest: Cell<u8>,
    /// Whether expired goes before pinned the next time: they take turns.
    expired_first: Cell<bool>,
}

/// Counts down; true (and starts again) every `every` calls.
#[inline(always)]
fn turn(cell: &Cell<u8>, every: u8) -> bool {
    let left = cell.get() - 1;
    cell.set(if left == 0 { every } else { left });
    left == 0
}

/// The run queues of one worker. See the table above for what is in them.
pub struct RunQueue<T: Link> {
    turns: CachePadded<Turns>,
    next: CachePadded<NextSlot<T>>,
    woken: Ring<T>,
    fresh: Ring<T>,
    expired: CachePadded<Injector<T>>,
    pinned: CachePadded<Injector<T>>,
}

// SAFETY: `turns` is touched only by the owner's unsafe methods, whose callers promise to be on one thread; the rest
// is Sync.
unsafe impl<T: Link> Sync for RunQueue<T> {}

impl<T: Link> RunQueue<T> {
    /// Empty queues. Allocates: not while masked.
    pub fn new() -> Self {
        RunQueue {
            turns: CachePadded::new(Turns {
                next_run: Cell::new(0),
                aged: Cell::new(AGED_EVERY),
                fresh: Cell::new(FRESH_EVERY),
                oldest: Cell::new(OLDEST_EVERY),
                expired_first: Cell::new(false),
            }),
            next: CachePadded::new(NextSlot::new()),
            woken: Ring::new(),
            fresh: Ring::new(),
            expired: CachePadded::new(Injector::new()),
            pinned: CachePadded::new(Injector::new()),
        }
    }

    /// Makes an item the next one to run; returns the one that it displaces, which the caller queues elsewhere.
    ///
    /// # Safety
    /// The calling thread is the owner, masked, on any identity. `item` may migrate; it is live, stays so until it
    /// is taken out, and is in no list or queue of this crate.
    #[inline]
    pub unsafe fn set_next(&self, item: NonNull<T>) -> Option<NonNull<T>> {
        self.next.replace(item)
    }

    /// Queues a started item that was woken. `Err(item)`: full, it goes to the injector.
    ///
    /// # Safety
    /// As for [`set_next`](Self::set_next).
    #[inline]
    pub unsafe fn push_woken(&self, item: NonNull<T>) -> Result<(), NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.woken.push(item) }
    }

    /// Queues an unstarted item. `Err(item)`: full, it goes to the injector.
    ///
    /// # Safety
    /// As for [`set_next`](Self::set_next).
    #[inline]
    pub unsafe fn push_fresh(&self, item: NonNull<T>) -> Result<(), NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.fresh.push(item) }
    }

    /// Queues an item that was preempted or yielded. Any thread, masked.
    ///
    /// # Safety
    /// `item` may migrate; it is live, stays so until it is taken out, and is in no list or queue of this crate.
    #[inline]
    pub unsafe fn push_expired(&self, item: NonNull<T>) {
        // SAFETY: the caller's promise.
        unsafe { self.expired.push(item) };
    }

    /// Queues a started item that only this worker may run. Any thread, masked.
    ///
    /// # Safety
    /// `item` is live, stays so until it is taken out, and is in no list or queue of this crate.
    #[inline]
    pub unsafe fn push_pinned(&self, item: NonNull<T>) {
        // SAFETY: the caller's promise.
        unsafe { self.pinned.push(item) };
    }

    /// Takes the next item to run, by the policy in the module's header.
    ///
    /// # Safety
    /// The calling thread is the owner, masked, on any identity.
    #[inline]
    pub unsafe fn pop(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.pop_with::<true>() }
    }

    /// As [`pop`](Self::pop), but leaves fresh items alone: for a worker that has no stack to start one on.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    pub unsafe fn pop_started(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.pop_with::<false>() }
    }

    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline(always)]
    unsafe fn pop_with<const FRESH: bool>(&self) -> Option<NonNull<T>> {
        let turns = &*self.turns;
        // These stay at 0: a turn that falls on an item from another queue is not lost.
        turns.fresh.set(turns.fresh.get().saturating_sub(1));
        turns.oldest.set(turns.oldest.get().saturating_sub(1));
        if turn(&turns.aged, AGED_EVERY)
            && let Some(item) = self.pop_aged()
        {
            return Some(item);
        }
        let Some(item) = self.next.take() else {
            turns.next_run.set(0);
            // SAFETY: the caller's promise.
            return unsafe { self.pop_queued::<FRESH>() };
        };
        let run = turns.next_run.get();
        if run < NEXT_LIMIT {
            turns.next_run.set(run + 1);
            return Some(item);
        }
        turns.next_run.set(0);
        // SAFETY: the caller's promise.
        let Some(other) = (unsafe { self.pop_queued::<FRESH>() }) else {
            return Some(item);
        };
        // SAFETY: the caller's promise; the item is live and has just been taken out.
        if let Err(item) = unsafe { self.woken.push(item) } {
            // SAFETY: as above.
            unsafe { self.expired.push(item) };
        }
        Some(other)
    }

    /// The same as [`pop`](Self::pop), which needs no native identity either.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline]
    pub unsafe fn pop_native(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.pop() }
    }

    /// Queues `item` as expired and takes the next item to run, which may be `item` itself: what a worker does when
    /// its fiber yields. As [`push_expired`](Self::push_expired) and [`pop`](Self::pop), but with one locking if only
    /// expired items are queued. `None`: a thief was faster.
    ///
    /// # Safety
    /// As for [`set_next`](Self::set_next).
    #[inline]
    pub unsafe fn rotate(&self, item: NonNull<T>) -> Option<NonNull<T>> {
        let only_expired =
            self.next.is_empty() && self.woken.is_empty() && self.fresh.is_empty() && self.pinned.is_empty();
        if only_expired {
            self.turns.next_run.set(0);
            // SAFETY: the caller's promise.
            return Some(unsafe { self.expired.rotate(item) });
        }
        // SAFETY: the caller's promise.
        unsafe { self.expired.push(item) };
        // SAFETY: the caller's promise.
        unsafe { self.pop() }
    }

    /// Everything but the next slot.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline(always)]
    unsafe fn pop_queued<const FRESH: bool>(&self) -> Option<NonNull<T>> {
        let turns = &*self.turns;
        if FRESH && turns.oldest.get() == 0 {
            turns.oldest.set(OLDEST_EVERY);
            // SAFETY: the caller's promise.
            if let Some(item) = unsafe { self.fresh.pop_oldest() } {
                return Some(item);
            }
        }
        if FRESH && turns.fresh.get() == 0 {
            turns.fresh.set(FRESH_EVERY);
            // SAFETY: the caller's promise.
            if let Some(item) = unsafe { self.fresh.pop_newest() } {
                return Some(item);
            }
        }
        // SAFETY: the caller's promise.
        if let Some(item) = unsafe { self.woken.pop_oldest() } {
            return Some(item);
        }
        if FRESH {
            // SAFETY: the caller's promise.
            if let Some(item) = unsafe { self.fresh.pop_newest() } {
                return Some(item);
            }
        }
        self.pop_aged()
    }

    /// Pinned and expired, in turns.
    #[inline]
    fn pop_aged(&self) -> Option<NonNull<T>> {
        let expired_first = self.turns.expired_first.replace(!self.turns.expired_first.get());
        if expired_first {
            self.expired.pop().or_else(|| self.pinned.pop())
        } else {
            self.pinned.pop().or_else(|| self.expired.pop())
        }
    }

    /// Takes an item for another worker. Any thread, masked, on any identity.
    ///
    /// `None` does not prove that there was nothing: under contention it gives up after a few attempts.
    pub fn steal(&self) -> Option<NonNull<T>> {
        self.fresh
            .steal()
            .or_else(|| self.woken.steal())
            .or_else(|| self.expired.pop())
            .or_else(|| self.next.take())
    }

    /// True if there seemed to be anything for the owner. Anywhere.
    pub fn has_work(&self) -> bool {
        self.has_started() || !self.fresh.is_empty()
    }

    /// True if there seemed to be anything for [`pop_started`](Self::pop_started). Anywhere.
    pub fn has_started(&self) -> bool {
        !self.next.is_empty() || !self.woken.is_empty() || !self.expired.is_empty() || !self.pinned.is_empty()
    }

    /// True if there seemed to be anything for thieves. Anywhere.
    pub fn has_stealable(&self) -> bool {
        !self.next.is_empty() || !self.expired.is_empty() || !self.woken.is_empty() || !self.fresh.is_empty()
    }

    /// Number of items, perhaps out of date. Anywhere.
    pub fn len(&self) -> usize {
        usize::from(!self.next.is_empty())
            + self.woken.len()
            + self.fresh.len()
            + self.expired.len()
            + self.pinned.len()
    }

    /// True if there seemed to be nothing. Anywhere.
    pub fn is_empty(&self) -> bool {
        !self.has_work()
    }

    /// Nothing: these queues need no preparation of a thread. A place for one, should they ever.
    pub fn prewarm() {}

    /// Takes everything out, in no particular order: for shutdown.
    ///
    /// # Safety
    /// The calling thread is the owner, masked, on any identity; or there are no other users any more.
    pub unsafe fn drain(&self, mut f: impl FnMut(NonNull<T>)) {
        // SAFETY: the caller's promise.
        while let Some(item) = unsafe { self.pop() } {
            f(item);
        }
    }
}

impl<T: Link> Default for RunQueue<T> {
    fn default() -> Self {
        RunQueue::new()
    }
}

impl<T: Link> fmt::Debug for RunQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunQueue")
            .field("next", &!self.next.is_empty())
            .field("woken", &self.woken.len())
            .field("fresh", &self.fresh.len())
            .field("expired", &self.expired.len())
            .field("pinned", &self.pinned.len())
            .finish()
    }
}
