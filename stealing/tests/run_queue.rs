//! A run queue against a plain model of the policy, and against floods.

#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;
use std::ptr::NonNull;

use common::{Item, items, number};
use proptest::prelude::*;
use unyield_stealing::RunQueue;

/// The policy, in words that are easy to check: every queue a deque, every turn a count since the last one.
#[derive(Default)]
struct Model {
    next: Option<usize>,
    woken: VecDeque<usize>,
    fresh: VecDeque<usize>,
    old: VecDeque<usize>,
    expired: VecDeque<usize>,
    pinned: VecDeque<usize>,
    pops: usize,
    next_in_a_row: usize,
    fresh_since: usize,
    aged_since: usize,
    age: bool,
    /// Pinned and expired items that go first.
    aged: usize,
    /// They have gone: no ageing at the next pop.
    rest: bool,
    expired_first: bool,
}

const ROOM: usize = 64;

impl Model {
    fn push_fresh(&mut self, item: usize) {
        if self.fresh.len() == ROOM {
            self.old.extend(self.fresh.drain(..ROOM / 2));
        }
        self.fresh.push_back(item);
    }

    fn pop_aged(&mut self) -> Option<usize> {
        let (first, second) = match self.expired_first {
            true => (&mut self.expired, &mut self.pinned),
            false => (&mut self.pinned, &mut self.expired),
        };
        // They take turns only while there are pinned ones.
        if !(first.is_empty() && second.is_empty()) {
            let pinned_waits = if self.expired_first { !second.is_empty() } else { !first.is_empty() };
            let item = first.pop_front().or_else(|| second.pop_front());
            if pinned_waits {
                self.expired_first = !self.expired_first;
            }
            return item;
        }
        None
    }

    fn pop_fresh(&mut self) -> Option<usize> {
        self.fresh.pop_back().or_else(|| self.old.pop_front())
    }

    fn pop_rings(&mut self) -> Option<usize> {
        if self.pops >= self.fresh_since + 13 {
            self.fresh_since = self.pops;
            if let Some(item) = self.pop_fresh() {
                return Some(item);
            }
        }
        self.woken.pop_front().or_else(|| self.pop_fresh())
    }

    fn pop_urgent(&mut self) -> Option<usize> {
        self.pops += 1;
        let due = (self.age || self.pops >= self.aged_since + 65_521) && self.aged == 0;
        if due && !std::mem::take(&mut self.rest) {
            self.age = false;
            self.aged_since = self.pops;
            let waiting = self.expired.len() + self.pinned.len();
            self.aged = if waiting == 0 { 0 } else { 1 + waiting / 16 };
            if let Some(item) = self.old.pop_front().or_else(|| self.fresh.pop_front()) {
                self.rest = self.aged == 0;
                return Some(item);
            }
        }
        if self.aged > 0 {
            self.aged -= 1;
            match self.pop_aged() {
                Some(item) => {
                    self.rest = self.aged == 0;
                    return Some(item);
                }
                None => self.aged = 0,
            }
        }
        let Some(next) = self.next.take() else {
            self.next_in_a_row = 0;
            return self.pop_rings();
        };
        self.next_in_a_row += 1;
        if self.next_in_a_row <= 16 {
            return Some(next);
        }
        self.next_in_a_row = 0;
        let Some(other) = self.pop_rings() else { return Some(next) };
        if self.woken.len() < ROOM {
            self.woken.push_back(next)
        } else {
            self.expired.push_back(next)
        }
        Some(other)
    }

    fn pop(&mut self) -> Option<usize> {
        self.pop_urgent().or_else(|| self.pop_aged())
    }

    fn pop_started(&mut self) -> Option<usize> {
        self.next.take().or_else(|| self.woken.pop_front()).or_else(|| self.pop_aged())
    }

    fn steal(&mut self) -> Option<usize> {
        let fresh = self.old.pop_front().or_else(|| self.fresh.pop_front());
        fresh
            .or_else(|| self.woken.pop_front())
            .or_else(|| self.expired.pop_front())
            .or_else(|| self.next.take())
    }

    fn unstarted(&self) -> usize {
        self.fresh.len() + self.old.len()
    }

    fn len(&self) -> usize {
        usize::from(self.next.is_some())
            + self.woken.len()
            + self.unstarted()
            + self.expired.len()
            + self.pinned.len()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    SetNext,
    Woken,
    Fresh,
    Expired,
    Pinned,
    Age,
    Pop,
    PopUrgent,
    PopAged,
    PopStarted,
    Steal,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        3 => Just(SetNext), 3 => Just(Woken), 3 => Just(Fresh), 2 => Just(Expired), 1 => Just(Pinned), 1 => Just(Age),
        6 => Just(Pop), 2 => Just(PopUrgent), 1 => Just(PopAged), 1 => Just(PopStarted), 2 => Just(Steal),
    ]
}

/// A few steps, many times over: long runs of the same reach the limits.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run = (proptest::collection::vec(step(), 1..6), 1..100_usize);
    proptest::collection::vec(run, 1..12)
        .prop_map(|runs| runs.into_iter().flat_map(|(steps, times)| steps.repeat(times)).collect())
}

fn agree(steps: &[Step]) {
    let all = items(600);
    let mut idle: Vec<usize> = (0..all.len()).collect();
    let queue: Queue = RunQueue::new();
    let mut model = Model::default();
    for &step in steps {
        let (got, expected): (Option<NonNull<Item>>, Option<usize>) = match step {
            // SAFETY: this thread is the owner; an item is pushed while it is in no queue.
            Step::Pop => (unsafe { queue.pop() }, model.pop()),
            // SAFETY: as above.
            Step::PopUrgent => (unsafe { queue.pop_urgent() }, model.pop_urgent()),
            // SAFETY: as above.
            Step::PopAged => (unsafe { queue.pop_aged() }, model.pop_aged()),
            // SAFETY: as above.
            Step::PopStarted => (unsafe { queue.pop_started() }, model.pop_started()),
            Step::Steal => (queue.steal(), model.steal()),
            Step::Age => {
                model.age = true;
                queue.age();
                (None, None)
            }
            push => {
                let Some(i) = idle.pop() else { continue };
                let item = all[i].ptr();
                // SAFETY: as above.
                unsafe {
                    match push {
                        Step::SetNext => (queue.set_next(item), model.next.replace(i)),
                        Step::Woken if model.woken.len() < ROOM => {
                            model.woken.push_back(i);
                            (queue.push_woken(item).err(), None)
                        }
                        Step::Woken => (queue.push_woken(item).err(), Some(i)),
                        Step::Fresh => {
                            model.push_fresh(i);
                            queue.push_fresh(item);
                            (None, None)
                        }
                        Step::Expired => {
                            model.expired.push_back(i);
                            queue.push_expired(item);
                            (None, None)
                        }
                        _ => {
                            model.pinned.push_back(i);
                            queue.push_pinned(item);
                            (None, None)
                        }
                    }
                }
            }
        };
        let got = got.map(number);
        assert_eq!(got, expected, "{step:?}");
        idle.extend(got);
        assert_eq!(queue.len(), model.len());
        assert_eq!(queue.is_empty(), model.len() == 0);
        assert_eq!(queue.has_work(), model.len() > 0);
        assert_eq!(queue.has_stealable(), model.len() > model.pinned.len());
        assert_eq!(queue.has_started(), model.len() > model.unstarted());
    }
    // SAFETY: as above.
    unsafe { queue.drain(|item| idle.push(number(item))) };
    idle.sort_unstable();
    assert!(idle.into_iter().eq(0..all.len()), "each item is back once");
    assert!(queue.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(steps in steps()) {
        agree(&steps);
    }
}

/// Pops until item 0 comes, with `refill` adding work before each pop, and ageing every `age` pops. Returns how many
/// other items came first.
fn waits(push: impl Fn(&Queue, Ptr), refill: impl Fn(&Queue, Ptr), age: usize) -> usize {
    let all = items(if age == usize::MAX { 70_000 } else { 3_000 });
    let queue = RunQueue::new();
    push(&queue, all[0].ptr());
    for i in 1..all.len() {
        refill(&queue, all[i].ptr());
        if i % age == 0 {
            queue.age();
        }
        // SAFETY: this thread is the owner.
        if unsafe { queue.pop() }.map(number) == Some(0) {
            return i - 1;
        }
    }
    usize::MAX
}

type Queue = RunQueue<Item>;
type Ptr = NonNull<Item>;

fn next(queue: &Queue, item: Ptr) {
    // SAFETY: the tests' thread is the owner, and they push new items only.
    let displaced = unsafe { queue.set_next(item) };
    assert!(displaced.is_none());
}

fn woken(queue: &Queue, item: Ptr) {
    // SAFETY: as above.
    let _ = unsafe { queue.push_woken(item) };
}

fn fresh(queue: &Queue, item: Ptr) {
    // SAFETY: as above.
    unsafe { queue.push_fresh(item) };
}

fn expired(queue: &Queue, item: Ptr) {
    // SAFETY: as above.
    unsafe { queue.push_expired(item) };
}

fn pinned(queue: &Queue, item: Ptr) {
    // SAFETY: as above.
    unsafe { queue.push_pinned(item) };
}

#[test]
fn nothing_starves() {
    // A partner that is handed over again and again lets others through, and woken ones let new ones through.
    assert!(waits(woken, next, 100) <= 16);
    assert!(waits(fresh, next, 100) <= 16);
    assert!(waits(fresh, woken, 100) <= 13);
    // Without a timer, and with one that comes every 100 pops.
    for (age, within) in [(usize::MAX, 65_521), (100, 100)] {
        // New tasks without end: the newest goes first, but the oldest is not buried.
        assert!(waits(fresh, fresh, age) <= within);
        for flood in [next, woken, fresh] {
            assert!(waits(expired, flood, age) <= within);
            assert!(waits(pinned, flood, age) <= within);
        }
    }
    // The timer may come between any two pops: where slices are longer than its period, or the machine is full.
    for flood in [woken, fresh, expired, pinned] {
        for victim in [next, woken, fresh, expired, pinned] {
            let others = waits(victim, flood, 1);
            assert!(others <= 40, "{others}");
        }
    }
    // Fibers that compute without end take turns with those that are bound to this worker.
    assert!(waits(pinned, expired, usize::MAX) <= 2);
    assert!(waits(expired, pinned, usize::MAX) <= 2);
}

#[test]
fn new_tasks_without_end_bury_none() {
    // Two new ones for each that runs, then one for one: with ageing, the oldest leave in the order in which they came. Every
    // other pop is an ordinary one, which takes the newest.
    let all = items(20_000);
    let queue = RunQueue::new();
    let (mut new, mut started) = (all.iter(), vec![false; all.len()]);
    let mut pops = 0;
    let mut oldest = 0;
    while let Some(item) = new.next() {
        fresh(&queue, item.ptr());
        if pops < 500 {
            fresh(&queue, new.next().unwrap().ptr());
        }
        queue.age();
        // SAFETY: this thread is the owner.
        started[number(unsafe { queue.pop() }.unwrap())] = true;
        pops += 1;
        while started[oldest] {
            oldest += 1;
        }
        assert!(oldest >= pops / 2, "{oldest} was buried");
    }
}

#[test]
fn fork_trees_stay_narrow() {
    // Each of the first ten generations has two children; depth first, few are ever queued.
    let all = items(1 << 11);
    let queue: Queue = RunQueue::new();
    let (mut used, mut run, mut most) = (1, 0, 0);
    let mut generation = vec![0; all.len()];
    fresh(&queue, all[0].ptr());
    // SAFETY: this thread is the owner.
    while let Some(item) = unsafe { queue.pop() } {
        run += 1;
        let parent = number(item);
        if generation[parent] < 10 {
            for _ in 0..2 {
                generation[used] = generation[parent] + 1;
                fresh(&queue, all[used].ptr());
                used += 1;
            }
        }
        most = most.max(queue.len());
    }
    assert_eq!(run, 2047);
    assert!(most <= 30, "{most}");
}
