//! A hierarchical timing wheel: what is to happen when.
//!
//! For: sleeping fibers and timeouts, under one spinlock, by fibers (masked) and the timer thread. Not for: knowing what
//! an entry means, reading a clock, or waking anyone: [`Wheel::expire`] hands the due entries out and its caller acts,
//! best after it has released the lock. Nothing here allocates, blocks or can panic. Times are nanoseconds of one
//! monotonic clock.
//!
//! # Structure
//!
//! Eight levels of 64 slots. A slot of level 0 is a tick, 2^16 ns (65.5 µs); a slot of the next level is a whole turn of
//! the level before it (4.2 ms, 268 ms, 17 s, 18 min, 20 h, 52 days, 9 years). Together they cover every `u64`.
//!
//! ```text
//! deadline   | 6 bits | 6 bits | ... | 6 bits | 16 bits |
//!  slot of    level 7  level 6        level 0   in tick
//! ```
//!
//! `now` is the tick up to which everything has been handed out. An entry lies at the highest level at which the tick of
//! its deadline differs from `now` (level 0 if nowhere), in the slot that its bits there name; if its deadline is past,
//! in the slot of `now` at level 0. Hence
//!
//! - a slot of level L > 0 that is in use lies ahead of that of `now` in the same turn, so the lowest bit of the level's
//!   bitmap is its earliest slot;
//! - everything at a level is earlier than everything at the levels above.
//!
//! When `now` reaches a slot of a higher level, its entries move down. Each entry moves at most seven times.
//!
//! Rejected: a heap (needs memory to grow, or O(log n) pointer chasing in an intrusive one); slots that round up to whole
//! ticks (every sleep 33 µs late on average; here an entry fires at the first `expire` that is not before its deadline).

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomPinned;
use core::ptr::NonNull;

/// log2 of a tick in nanoseconds.
const TICK_BITS: u32 = 16;
/// log2 of the slots of a level.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(SLOT_BITS) as usize;

/// In place of a slot number: not in a wheel.
const UNQUEUED: u16 = u16::MAX;

/// One timer, embedded in whatever waits for it and pinned there while it is queued.
///
/// All fields belong to the wheel that the entry is in: they are read and written under its lock only.
pub(crate) struct Entry {
    deadline_ns: Cell<u64>,
    next: Cell<Option<NonNull<Entry>>>,
    prev: Cell<Option<NonNull<Entry>>>,
    /// `level * SLOTS + slot`, or `UNQUEUED`.
    place: Cell<u16>,
    _pinned: PhantomPinned,
}

impl Entry {
    /// An entry that is in no wheel.
    pub(crate) const fn new() -> Self {
        Entry {
            deadline_ns: Cell::new(0),
            next: Cell::new(None),
            prev: Cell::new(None),
            place: Cell::new(UNQUEUED),
            _pinned: PhantomPinned,
        }
    }

    /// The deadline with which it was last inserted. Under the wheel's lock.
    #[allow(dead_code, reason = "for dumps")]
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.deadline_ns.get()
    }

    /// True while it is in a wheel. Under the wheel's lock.
    #[allow(dead_code, reason = "for assertions")]
    pub(crate) fn is_queued(&self) -> bool {
        self.place.get() != UNQUEUED
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No fields: they may only be read under the lock of the wheel.
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

/// The slots of one level.
#[derive(Clone, Copy)]
struct Level {
    /// Bit `i` is set exactly if `heads[i]` is `Some`.
    used: u64,
    /// Doubly-linked lists, without order.
    heads: [Option<NonNull<Entry>>; SLOTS],
}

/// The earliest slot in use.
#[derive(Clone, Copy)]
struct First {
    level: usize,
    slot: usize,
    /// The first tick of the slot.
    tick: u64,
}

/// The wheel. About 4 KiB; put it into a static or a box, not on a fiber's stack.
pub(crate) struct Wheel {
    /// Every entry whose tick is before this has been handed out, unless it was inserted late.
    now: u64,
    len: usize,
    levels: [Level; LEVELS],
}

// SAFETY: the wheel owns the links of its entries, and who inserts one promises that it lives until it has been taken
// out, on whatever thread that happens.
unsafe impl Send for Wheel {}

impl Wheel {
    /// An empty wheel that starts at `now_ns`.
    pub(crate) const fn new(now_ns: u64) -> Self {
        let level = Level { used: 0, heads: [None; SLOTS] };
        Wheel { now: now_ns >> TICK_BITS, len: 0, levels: [level; LEVELS] }
    }

    /// Number of entries.
    #[allow(dead_code, reason = "for dumps and tests")]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True if there are no entries.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry, which the first `expire` at or after `deadline_ns` will hand out. A deadline in the past is fine.
    /// Constant time.
    ///
    /// # Safety
    /// `entry` is in no wheel. It stays where it is, live, until it has been removed from this wheel or handed out by
    /// `expire`, and meanwhile only this wheel touches it.
    pub(crate) unsafe fn insert(&mut self, entry: NonNull<Entry>, deadline_ns: u64) {
        // SAFETY: the caller's promise.
        let fields = unsafe { entry.as_ref() };
        debug_assert!(!fields.is_queued(), "inserted twice");
        fields.deadline_ns.set(deadline_ns);
        self.len += 1;
        self.link(entry);
    }

    /// Takes an entry out; false if it was not in (it has been handed out, or was never inserted). Constant time.
    ///
    /// # Safety
    /// `entry` is live, and is in this wheel or in none.
    pub(crate) unsafe fn remove(&mut self, entry: NonNull<Entry>) -> bool {
        // SAFETY: the caller's promise.
        if unsafe { entry.as_ref() }.place.get() == UNQUEUED {
            return false;
        }
        self.unlink(entry);
        true
    }

    /// Moves on to `now_ns` and calls `f` for each entry whose deadline is not after it. When `f` is called, the entry is
    /// out of the wheel and may be reused or freed. Order: by ticks; within one tick none.
    ///
    /// `now_ns` may be older than that of the last call (read before the lock was taken, say).
    pub(crate) fn expire(&mut self, now_ns: u64, mut f: impl FnMut(NonNull<Entry>)) {
        let now = self.now.max(now_ns >> TICK_BITS);
        while let Some(first) = self.first()
            && first.tick <= now
        {
            self.now = first.tick;
            if first.level > 0 {
                self.cascade(first);
            } else if self.expire_tick(first.slot, now_ns, &mut f) {
                // What is left is in the current tick, but not due yet.
                break;
            }
        }
        self.now = now;
    }

    /// A time at which `expire` should be called next: the earliest deadline, or, if that is more than a turn of level 0
    /// away, a time before it. `None`: no entries.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let first = self.first()?;
        if first.level > 0 {
            return Some(first.tick << TICK_BITS);
        }
        let mut earliest = u64::MAX;
        let mut at = self.levels[0].heads[first.slot];
        while let Some(entry) = at {
            // SAFETY: an entry of this wheel is live (promised at its insertion).
            let fields = unsafe { entry.as_ref() };
            earliest = earliest.min(fields.deadline_ns.get());
            at = fields.next.get();
        }
        Some(earliest)
    }

    /// The earliest slot in use: by the invariants, the lowest one of the lowest level.
    fn first(&self) -> Option<First> {
        let level = self.levels.iter().position(|level| level.used != 0)?;
        let slot = self.levels[level].used.trailing_zeros();
        let shift = SLOT_BITS * level as u32;
        // The bits above the level are those of `now`.
        let turn = self.now >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some(First { level, slot: slot as usize, tick: turn | u64::from(slot) << shift })
    }

    /// Moves the entries of a slot of a higher level down. `now` is its first tick.
    fn cascade(&mut self, first: First) {
        let level = &mut self.levels[first.level];
        level.used &= !(1 << first.slot);
        let mut at = level.heads[first.slot].take();
        while let Some(entry) = at {
            // SAFETY: an entry of this wheel is live (promised at its insertion).
            at = unsafe { entry.as_ref() }.next.get();
            self.link(entry);
        }
    }

    /// Hands out what is due in a slot of level 0; true if something was left.
    fn expire_tick(&mut self, slot: usize, now_ns: u64, f: &mut impl FnMut(NonNull<Entry>)) -> bool {
        let mut at = self.levels[0].heads[slot];
        while let Some(entry) = at {
            // SAFETY: an entry of this wheel is live (promised at its insertion). The reference ends before `f`.
            let (next, deadline_ns) =
                unsafe { (entry.as_ref().next.get(), entry.as_ref().deadline_ns.get()) };
            at = next;
            if deadline_ns <= now_ns {
                self.unlink(entry);
                // `f` cannot reach the wheel, so `next` stays valid.
                f(entry);
            }
        }
        self.levels[0].used & (1 << slot) != 0
    }

    /// Puts a live entry that is in no slot where its deadline belongs.
    fn link(&mut self, entry: NonNull<Entry>) {
        // SAFETY: live, says the caller.
        let fields = unsafe { entry.as_ref() };
        // An overdue entry counts as one of the current tick.
        let tick = (fields.deadline_ns.get() >> TICK_BITS).max(self.now);
        // `| 1`: the same tick gives level 0.
        let level = ((tick ^ self.now | 1).ilog2() / SLOT_BITS) as usize;
        let slot = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let lv = &mut self.levels[level];
        let head = lv.heads[slot].replace(entry);
        lv.used |= 1 << slot;
        fields.place.set((level * SLOTS + slot) as u16);
        fields.prev.set(None);
        fields.next.set(head);
        if let Some(head) = head {
            // SAFETY: an entry of this wheel is live (promised at its insertion).
            unsafe { head.as_ref() }.prev.set(Some(entry));
        }
    }

    /// Takes out an entry that is in a slot of this wheel.
    fn unlink(&mut self, entry: NonNull<Entry>) {
        // SAFETY: an entry of this wheel is live (promised at its insertion).
        let fields = unsafe { entry.as_ref() };
        let place = usize::from(fields.place.replace(UNQUEUED));
        let (prev, next) = (fields.prev.take(), fields.next.take());
        if let Some(next) = next {
            // SAFETY: as above.
            unsafe { next.as_ref() }.prev.set(prev);
        }
        if let Some(prev) = prev {
            // SAFETY: as above.
            unsafe { prev.as_ref() }.next.set(next);
        } else {
            let level = &mut self.levels[place / SLOTS];
            level.heads[place % SLOTS] = next;
            if next.is_none() {
                level.used &= !(1 << (place % SLOTS));
            }
        }
        self.len -= 1;
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("now_ns", &(self.now << TICK_BITS)).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn boxes(n: usize) -> Box<[Entry]> {
        (0..n).map(|_| Entry::new()).collect()
    }

    fn index(all: &[Entry], entry: NonNull<Entry>) -> usize {
        (entry.as_ptr() as usize - all.as_ptr() as usize) / size_of::<Entry>()
    }

    fn insert(wheel: &mut Wheel, entry: &Entry, deadline_ns: u64) {
        // SAFETY: the tests keep their entries in place until the end.
        unsafe { wheel.insert(NonNull::from(entry), deadline_ns) };
    }

    fn remove(wheel: &mut Wheel, entry: &Entry) -> bool {
        // SAFETY: as above.
        unsafe { wheel.remove(NonNull::from(entry)) }
    }

    fn due(wheel: &mut Wheel, all: &[Entry], now_ns: u64) -> Vec<usize> {
        let mut due = vec![];
        wheel.expire(now_ns, |entry| {
            // SAFETY: as above.
            assert!(!unsafe { entry.as_ref() }.is_queued());
            due.push(index(all, entry));
        });
        due
    }

    #[test]
    fn fires_exactly_at_the_deadline() {
        let e = boxes(1);
        for start in [0, 1, 65_535, 65_536, 12_345_678_901, u64::MAX / 2] {
            for wait in [0, 1, 65_535, 65_536, 4_194_304, 1_000_000_007, 1 << 40, 1 << 62] {
                let mut wheel = Wheel::new(start);
                let deadline = start + wait;
                insert(&mut wheel, &e[0], deadline);
                if wait > 0 {
                    assert!(due(&mut wheel, &e, deadline - 1).is_empty(), "early: {start} + {wait}");
                    assert!(wheel.next_deadline().unwrap() == deadline, "near: {start} + {wait}");
                }
                assert_eq!(due(&mut wheel, &e, deadline), [0], "late: {start} + {wait}");
                assert!(wheel.is_empty() && wheel.next_deadline().is_none());
            }
        }
    }

    #[test]
    fn extremes() {
        let e = boxes(3);
        let mut wheel = Wheel::new(1 << 30);
        insert(&mut wheel, &e[0], 0);
        insert(&mut wheel, &e[1], u64::MAX);
        insert(&mut wheel, &e[2], 1 << 30);
        assert_eq!(wheel.next_deadline(), Some(0));
        // With an old time, what is overdue by it is handed out all the same.
        assert_eq!(due(&mut wheel, &e, 5), [0]);
        assert_eq!(due(&mut wheel, &e, 1 << 30), [2]);
        assert!(due(&mut wheel, &e, u64::MAX - 1).is_empty());
        assert_eq!(due(&mut wheel, &e, u64::MAX), [1]);
        insert(&mut wheel, &e[0], 7);
        assert_eq!(due(&mut wheel, &e, u64::MAX), [0]);
    }

    #[test]
    fn removes_from_any_position() {
        let e = boxes(3);
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut wheel = Wheel::new(0);
            for entry in &e {
                insert(&mut wheel, entry, 9 << 30);
            }
            for i in order {
                assert!(remove(&mut wheel, &e[i]));
                assert!(!remove(&mut wheel, &e[i]), "only once");
            }
            assert_eq!(wheel.next_deadline(), None);
            assert!(due(&mut wheel, &e, u64::MAX).is_empty());
        }
    }

    #[test]
    fn an_entry_may_be_reused_when_handed_out() {
        let e = boxes(1);
        let (mut wheel, mut other) = (Wheel::new(0), Wheel::new(0));
        insert(&mut wheel, &e[0], 10);
        // SAFETY: it is in no wheel any more when `f` gets it.
        wheel.expire(20, |entry| unsafe { other.insert(entry, 30) });
        assert_eq!((wheel.len(), other.len()), (0, 1));
        assert_eq!(due(&mut other, &e, 30), [0]);
    }

    /// splitmix64.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*seed ^ *seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A time span of a random order of magnitude.
    fn span(seed: &mut u64, max_bits: u64) -> u64 {
        let bits = random(seed) % (max_bits + 1);
        random(seed) & ((1u64 << bits) - 1)
    }

    /// Random inserts, removes and steps against an ordered set, over every order of magnitude.
    fn against_a_set(seed: u64, max_bits: u64) {
        let mut s = seed;
        let e = boxes(200);
        let mut now = span(&mut s, max_bits);
        let mut wheel = Wheel::new(now);
        let mut model = BTreeSet::new();
        for step in 0..5_000 {
            let i = (random(&mut s) % 200) as usize;
            let key = (e[i].deadline_ns(), i);
            match random(&mut s) % 8 {
                0..4 => {
                    if !model.contains(&key) {
                        let late = random(&mut s).is_multiple_of(10);
                        let by = span(&mut s, max_bits);
                        let deadline = if late { now.saturating_sub(by) } else { now.saturating_add(by) };
                        insert(&mut wheel, &e[i], deadline);
                        model.insert((deadline, i));
                    }
                }
                4..6 => assert_eq!(remove(&mut wheel, &e[i]), model.remove(&key), "seed {seed} step {step}"),
                what => {
                    now = match (what, wheel.next_deadline()) {
                        // To the time that the wheel asks for, as the timer does.
                        (6, Some(next)) => now.max(next),
                        _ => now.saturating_add(span(&mut s, max_bits)),
                    };
                    let later = model.split_off(&(now, usize::MAX));
                    let mut expected: Vec<_> =
                        std::mem::replace(&mut model, later).into_iter().map(|k| k.1).collect();
                    let before = wheel.now;
                    let mut got = due(&mut wheel, &e, now);
                    let tick = |&i: &usize| before.max(e[i].deadline_ns() >> TICK_BITS);
                    assert!(got.is_sorted_by_key(tick), "seed {seed} step {step}: out of order");
                    expected.sort_unstable();
                    got.sort_unstable();
                    assert_eq!(got, expected, "seed {seed} step {step} now {now}");
                }
            }
            assert_eq!(wheel.len(), model.len());
            let earliest = model.first().map(|k| k.0);
            match (wheel.next_deadline(), earliest) {
                (None, None) => {}
                (Some(asked), Some(earliest)) => {
                    assert!(
                        asked <= earliest,
                        "seed {seed} step {step}: asks for {asked}, needed at {earliest}"
                    );
                    let same_turn = earliest >> (TICK_BITS + SLOT_BITS) <= wheel.now >> SLOT_BITS;
                    assert!(asked == earliest || !same_turn, "seed {seed} step {step}: not exact nearby");
                    assert!(asked > now || same_turn, "seed {seed} step {step}: asks for the past");
                }
                other => panic!("seed {seed} step {step}: {other:?}"),
            }
        }
    }

    #[test]
    fn agrees_with_an_ordered_set() {
        for seed in 0..40 {
            against_a_set(seed, 17 + seed % 46);
        }
    }

    #[test]
    fn a_timer_that_follows_next_deadline_wakes_up_rarely() {
        let e = boxes(1);
        let mut wheel = Wheel::new(123);
        insert(&mut wheel, &e[0], 123 + 3_600_000_000_000);
        let (mut now, mut wakeups) = (123, 0);
        while let Some(next) = wheel.next_deadline() {
            assert!(next > now);
            (now, wakeups) = (next, wakeups + 1);
            due(&mut wheel, &e, now);
        }
        assert_eq!(now, 123 + 3_600_000_000_000);
        assert!(wakeups <= LEVELS, "{wakeups}");
    }
}
