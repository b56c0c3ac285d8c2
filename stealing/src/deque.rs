//! The run queues of one worker.
//!
//! For: what a worker runs next, and what thieves may take from it. Not for: deciding what is fair between workers,
//! nor for knowing what an item is. Owner methods are `unsafe`: the calling thread is the owner, masked.
//!
//! | queue | holds | owner takes | thieves take |
//! |---|---|---|---|
//! | next | one item that was handed over | first, at most 16 times in a row | last |
//! | woken | started items that were woken, at most 64 | oldest | oldest, second |
//! | fresh | unstarted items, the newest 64 or fewer | newest: depth first, which keeps a tree of them narrow | oldest, if nothing in old |
//! | old | unstarted items that fell out of fresh, no limit; older than those in fresh | oldest, when fresh is empty | oldest, first |
//! | expired | preempted and yielded items, 64 in a ring, more in a list | oldest | oldest, third |
//! | pinned | started items that may not migrate, no limit | oldest | never |
//!
//! The first four are urgent: they run before what has had its quantum, and the owner looks for more of that kind
//! elsewhere before it takes from the last two. Nothing starves: [`RunQueue::age`], which a timer calls every few
//! milliseconds, lets some of the last two and the oldest unstarted item go first; without a timer every 65,521st pop does
//! so. Counting pops alone is no measure: a thousand short items may go by in one quantum. Nor is time alone: where slices
//! are longer than the timer's period, ageing is always due, so each time it is followed by an ordinary pop.
//!
//! No call but [`RunQueue::new`] and the drop glue allocates or frees, and none looks at thread-local data.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use crossbeam_utils::CachePadded;

use crate::injector::Injector;
use crate::list::{Link, List};
use crate::next::NextSlot;
use crate::ring::{ROOM, Ring};
use crate::sync::atomic::{AtomicBool, Ordering};

/// How often in a row the next slot goes first.
const NEXT_LIMIT: u8 = 16;
/// Every how many pops fresh items go before woken ones.
const FRESH_EVERY: u8 = 13;
/// Every how many pops the queue ages by itself.
const AGE_EVERY: u32 = 65_521;
/// What part of the expired items may go first at each ageing, beside the first.
const AGED_SHARE: usize = 16;

/// Counters of the owner: nobody else touches them.
struct Turns {
    /// How often in a row the next slot went first.
    next_run: Cell<u8>,
    /// Pops left until fresh goes before woken; stays at 0 until that has been done.
    fresh: Cell<u8>,
    /// Pops left until the queue ages by itself.
    pops: Cell<u32>,
    /// Pinned and expired items that go first.
    aged: Cell<u32>,
    /// They have: the next pop is an ordinary one, even if ageing is due again.
    rest: Cell<bool>,
    /// Whether expired goes before pinned the next time: they take turns.
    expired_first: Cell<bool>,
}

/// The run queues of one worker. See the table above for what is in them.
pub struct RunQueue<T: Link> {
    turns: CachePadded<Turns>,
    /// Set by the timer, taken by the owner.
    age: AtomicBool,
    next: CachePadded<NextSlot<T>>,
    woken: Ring<T>,
    fresh: Ring<T>,
    /// What had to make room in `fresh`, oldest first: all older than what is there.
    old: CachePadded<Injector<T>>,
    expired: Ring<T>,
    /// Expired items that came when the ring was full or this was not empty: younger than those in the ring.
    expired_more: CachePadded<Injector<T>>,
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
                fresh: Cell::new(FRESH_EVERY),
                pops: Cell::new(AGE_EVERY),
                aged: Cell::new(0),
                rest: Cell::new(false),
                expired_first: Cell::new(false),
            }),
            age: AtomicBool::new(false),
            next: CachePadded::new(NextSlot::new()),
            woken: Ring::new(),
            fresh: Ring::new(),
            old: CachePadded::new(Injector::new()),
            expired: Ring::new(),
            expired_more: CachePadded::new(Injector::new()),
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

    /// Queues an unstarted item.
    ///
    /// # Safety
    /// As for [`set_next`](Self::set_next).
    #[inline]
    pub unsafe fn push_fresh(&self, item: NonNull<T>) {
        // SAFETY: the caller's promise.
        if let Err(item) = unsafe { self.fresh.push(item) } {
            // SAFETY: the caller's promise.
            unsafe { self.make_room(item) };
        }
    }

    /// Moves the older half of `fresh` to `old`, so that the lock is taken once in so many pushes, and adds `item`.
    ///
    /// # Safety
    /// As for [`set_next`](Self::set_next).
    #[cold]
    unsafe fn make_room(&self, item: NonNull<T>) {
        let mut older = List::new();
        for _ in 0..ROOM / 2 {
            // SAFETY: the caller's promise.
            let Some(item) = (unsafe { self.fresh.pop_oldest() }) else { break };
            // SAFETY: it was queued, so it is live, and has just been taken out.
            unsafe { older.push_back(item) };
        }
        self.old.push_all(older);
        // SAFETY: the caller's promise.
        if let Err(item) = unsafe { self.fresh.push(item) } {
            // There is room: only this thread adds. Were there none, the item would not be lost.
            debug_assert!(false, "no room");
            // SAFETY: as above.
            unsafe { self.push_expired(item) };
        }
    }

    /// Some of what waits longest is to go first: called every few milliseconds by a timer. Any thread; one store.
    #[inline]
    pub fn age(&self) {
        // Relaxed: a hint; that it comes late does not matter.
        self.age.store(true, Ordering::Relaxed);
    }

    /// True if ageing is due at the next pop. Anywhere.
    #[inline(always)]
    pub fn is_ageing(&self) -> bool {
        // Relaxed: a hint.
        self.age.load(Ordering::Relaxed)
    }

    /// Queues an item that was preempted or yielded.
    ///
    /// # Safety
    /// As for [`set_next`](Self::set_next).
    #[inline]
    pub unsafe fn push_expired(&self, item: NonNull<T>) {
        // SAFETY: the caller's promise.
        unsafe {
            if !self.expired_more.is_empty() {
                self.expired_more.push(item);
            } else if let Err(full) = self.expired.push(item) {
                self.expired_more.push(full);
            }
        }
    }

    #[inline(always)]
    unsafe fn pop_expired(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.expired.pop_oldest() }.or_else(|| self.expired_more.pop())
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

    /// Takes the next item to run, by the policy in the module's header: [`pop_urgent`](Self::pop_urgent), else
    /// [`pop_aged`](Self::pop_aged).
    ///
    /// # Safety
    /// The calling thread is the owner, masked, on any identity.
    #[inline]
    pub unsafe fn pop(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.pop_urgent().or_else(|| self.pop_aged()) }
    }

    /// Takes what should run before anything that has had its quantum.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline]
    pub unsafe fn pop_urgent(&self) -> Option<NonNull<T>> {
        let turns = &*self.turns;
        let pops = turns.pops.get();
        turns.pops.set((pops - 1).max(1)); // stays at 1 until it has aged
        // These stay at 0: a turn that falls on an item from another queue is not lost.
        turns.fresh.set(turns.fresh.get().saturating_sub(1));
        // SAFETY: the caller's promise.
        unsafe {
            if (pops == 1 || self.age.load(Ordering::Relaxed))
                && turns.aged.get() == 0
                && !turns.rest.replace(false)
                && let Some(item) = self.grow_old()
            {
                turns.rest.set(turns.aged.get() == 0);
                return Some(item);
            }
            if turns.aged.get() > 0 {
                turns.aged.set(turns.aged.get() - 1);
                if let Some(item) = self.pop_aged() {
                    turns.rest.set(turns.aged.get() == 0);
                    return Some(item);
                }
                turns.aged.set(0);
            }
            let Some(item) = self.next.take() else {
                turns.next_run.set(0);
                return self.pop_rings();
            };
            let run = turns.next_run.get();
            if run < NEXT_LIMIT {
                turns.next_run.set(run + 1);
                return Some(item);
            }
            turns.next_run.set(0);
            let Some(other) = self.pop_rings() else {
                return Some(item);
            };
            if let Err(item) = self.woken.push(item) {
                self.push_expired(item);
            }
            Some(other)
        }
    }

    /// Ageing is due: the oldest unstarted item, if any, now; some pinned and expired ones at the next pops.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[cold]
    unsafe fn grow_old(&self) -> Option<NonNull<T>> {
        self.age.store(false, Ordering::Relaxed);
        let turns = &*self.turns;
        turns.pops.set(AGE_EVERY);
        let old = self.expired.len() + self.expired_more.len() + self.pinned.len();
        turns.aged.set(if old == 0 { 0 } else { (1 + old / AGED_SHARE) as u32 });
        // SAFETY: the caller's promise.
        self.old.pop().or_else(|| unsafe { self.fresh.pop_oldest() })
    }

    /// As [`pop`](Self::pop), but leaves the fresh tasks alone: for a worker that has no stack to start one on.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    pub unsafe fn pop_started(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.next.take().or_else(|| self.woken.pop_oldest()).or_else(|| self.pop_aged()) }
    }

    /// Woken and fresh.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline(always)]
    unsafe fn pop_rings(&self) -> Option<NonNull<T>> {
        let turns = &*self.turns;
        // SAFETY: the caller's promise.
        unsafe {
            if turns.fresh.get() == 0 {
                turns.fresh.set(FRESH_EVERY);
                if let Some(item) = self.pop_fresh() {
                    return Some(item);
                }
            }
            self.woken.pop_oldest().or_else(|| self.pop_fresh())
        }
    }

    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline(always)]
    unsafe fn pop_fresh(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe { self.fresh.pop_newest() }.or_else(|| self.old.pop())
    }

    /// Takes a pinned or expired item, in turns, the oldest of its kind.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline]
    pub unsafe fn pop_aged(&self) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        unsafe {
            if self.pinned.is_empty() {
                return self.pop_expired();
            }
            let expired_first = self.turns.expired_first.replace(!self.turns.expired_first.get());
            if expired_first {
                self.pop_expired().or_else(|| self.pinned.pop())
            } else {
                self.pinned.pop().or_else(|| self.pop_expired())
            }
        }
    }

    /// Takes an item for another worker. Any thread, masked, on any identity.
    ///
    /// `None` does not prove that there was nothing: under contention it gives up after a few attempts.
    pub fn steal(&self) -> Option<NonNull<T>> {
        self.old
            .pop()
            .or_else(|| self.fresh.steal())
            .or_else(|| self.woken.steal())
            .or_else(|| self.expired.steal())
            .or_else(|| self.expired_more.pop())
            .or_else(|| self.next.take())
    }

    /// True if there seemed to be anything for the owner. Anywhere.
    pub fn has_work(&self) -> bool {
        self.has_started() || !self.fresh.is_empty() || !self.old.is_empty()
    }

    /// True if there seemed to be anything for [`pop_started`](Self::pop_started). Anywhere.
    pub fn has_started(&self) -> bool {
        !self.next.is_empty()
            || !self.woken.is_empty()
            || !self.expired.is_empty()
            || !self.expired_more.is_empty()
            || !self.pinned.is_empty()
    }

    /// True if there seemed to be anything for thieves. Anywhere.
    pub fn has_stealable(&self) -> bool {
        !self.next.is_empty()
            || !self.expired.is_empty()
            || !self.expired_more.is_empty()
            || !self.woken.is_empty()
            || !self.fresh.is_empty()
            || !self.old.is_empty()
    }

    /// Number of items, perhaps out of date. Anywhere.
    pub fn len(&self) -> usize {
        usize::from(!self.next.is_empty())
            + self.woken.len()
            + self.fresh.len()
            + self.old.len()
            + self.expired.len()
            + self.expired_more.len()
            + self.pinned.len()
    }

    /// True if there seemed to be nothing. Anywhere.
    pub fn is_empty(&self) -> bool {
        !self.has_work()
    }

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
            .field("old", &self.old.len())
            .field("expired", &self.expired.len())
            .field("pinned", &self.pinned.len())
            .finish()
    }
}
