//! A run queue against a plain model of the policy, and against floods.

#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;
use std::ptr::NonNull;

use common::{Item, items, number};
use proptest::prelude::*;
use unyield_stealing::RunQueue;

/// The policy, in words that are easy to check: every queue a deque, every turn a modulus.
#[derive(Default)]
struct Model {
    next: Option<usize>,
    woken: VecDeque<usize>,
    fresh: VecDeque<usize>,
    expired: VecDeque<usize>,
    pinned: VecDeque<usize>,
    pops: usize,
    next_in_a_row: usize,
    /// Pops until which no turn of fresh (or of the oldest fresh) was due.
    fresh_since: usize,
    oldest_since: usize,
    aged_looks: usize,
}

const ROOM: usize = 64;

impl Model {
    fn aged(&mut self) -> Option<usize> {
        self.aged_looks += 1;
        if self.aged_looks % 2 == 1 {
            self.pinned.pop_front().or_else(|| self.expired.pop_front())
        } else {
            self.expired.pop_front().or_else(|| self.pinned.pop_front())
        }
    }

    fn queued(&mut self, fresh: bool) -> Option<usize> {
        let mut item = None;
        if fresh && self.pops >= self.oldest_since + 61 {
            self.oldest_since = self.pops;
            item = self.fresh.pop_front();
        }
        if item.is_none() && fresh && self.pops >= self.fresh_since + 13 {
            self.fresh_since = self.pops;
            item = self.fresh.pop_back();
        }
        item = item.or_else(|| self.woken.pop_front());
        if fresh {
            item = item.or_else(|| self.fresh.pop_back());
        }
        item.or_else(|| self.aged())
    }

    fn pop(&mut self, fresh: bool) -> Option<usize> {
        self.pops += 1;
        if self.pops.is_multiple_of(31)
            && let Some(item) = self.aged()
        {
            return Some(item);
        }
        let Some(next) = self.next.take() else {
            self.next_in_a_row = 0;
            return self.queued(fresh);
        };
        self.next_in_a_row += 1;
        if self.next_in_a_row <= 16 {
            return Some(next);
        }
        self.next_in_a_row = 0;
        let Some(other) = self.queued(fresh) else { return Some(next) };
        if self.woken.len() < ROOM {
            self.woken.push_back(next)
        } else {
            self.expired.push_back(next)
        }
        Some(other)
    }

    fn rotate(&mut self, item: usize) -> Option<usize> {
        self.expired.push_back(item);
        if self.len() == self.expired.len() {
            self.next_in_a_row = 0;
            return self.expired.pop_front();
        }
        self.pop(true)
    }

    fn steal(&mut self) -> Option<usize> {
        self.fresh
            .pop_front()
            .or_else(|| self.woken.pop_front())
            .or_else(|| self.expired.pop_front())
            .or_else(|| self.next.take())
    }

    fn len(&self) -> usize {
        usize::from(self.next.is_some())
            + self.woken.len()
            + self.fresh.len()
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
    Pop,
    PopNative,
    PopStarted,
    Rotate,
    Steal,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        3 => Just(SetNext), 3 => Just(Woken), 3 => Just(Fresh), 2 => Just(Expired), 1 => Just(Pinned),
        6 => Just(Pop), 2 => Just(PopNative), 1 => Just(PopStarted), 1 => Just(Rotate), 2 => Just(Steal),
    ]
}

/// A few steps, many times over: long runs of the same reach the limits.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run = (proptest::collection::vec(step(), 1..6), 1..100_usize);
    proptest::collection::vec(run, 1..12)
        .prop_map(|runs| runs.into_iter().flat_map(|(steps, times)| steps.repeat(times)).collect())
}

fn room(queue: &VecDeque<usize>) -> bool {
    queue.len() < ROOM
}

fn agree(steps: &[Step]) {
    let all = items(600);
    let mut idle: Vec<usize> = (0..all.len()).collect();
    let queue: RunQueue<Item> = RunQueue::new();
    let mut model = Model::default();
    for &step in steps {
        let (got, expected): (Option<NonNull<Item>>, Option<usize>) = match step {
            // SAFETY: this thread is the owner; an item is pushed while it is in no queue.
            Step::Pop => (unsafe { queue.pop() }, model.pop(true)),
            // SAFETY: as above.
            Step::PopNative => (unsafe { queue.pop_native() }, model.pop(true)),
            // SAFETY: as above.
            Step::PopStarted => (unsafe { queue.pop_started() }, model.pop(false)),
            Step::Steal => (queue.steal(), model.steal()),
            push => {
                let Some(i) = idle.pop() else { continue };
                let item = all[i].ptr();
                // SAFETY: as above.
                unsafe {
                    match push {
                        Step::SetNext => (queue.set_next(item), model.next.replace(i)),
                        Step::Woken if room(&model.woken) => {
                            model.woken.push_back(i);
                            (queue.push_woken(item).err(), None)
                        }
                        Step::Woken => (queue.push_woken(item).err(), Some(i)),
                        Step::Fresh if room(&model.fresh) => {
                            model.fresh.push_back(i);
                            (queue.push_fresh(item).err(), None)
                        }
                        Step::Fresh => (queue.push_fresh(item).err(), Some(i)),
                        Step::Expired => {
                            model.expired.push_back(i);
                            queue.push_expired(item);
                            (None, None)
                        }
                        Step::Pinned => {
                            model.pinned.push_back(i);
                            queue.push_pinned(item);
                            (None, None)
                        }
                        _ => (queue.rotate(item), model.rotate(i)),
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
        assert_eq!(queue.has_started(), model.len() > model.fresh.len());
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

/// Pops until item 0 comes, with `refill` adding work before each pop. Returns how many other items came first.
fn waits(
    push: impl Fn(&RunQueue<Item>, NonNull<Item>),
    refill: impl Fn(&RunQueue<Item>, NonNull<Item>),
) -> usize {
    let all = items(3_000);
    let queue = RunQueue::new();
    push(&queue, all[0].ptr());
    for i in 1..all.len() {
        refill(&queue, all[i].ptr());
        // SAFETY: this thread is the owner.
        if unsafe { queue.pop() }.map(number) == Some(0) {
            return i - 1;
        }
    }
    usize::MAX
}

fn next(queue: &RunQueue<Item>, item: NonNull<Item>) {
    // SAFETY: the tests' thread is the owner, and they push new items only.
    let displaced = unsafe { queue.set_next(item) };
    assert!(displaced.is_none());
}

fn woken(queue: &RunQueue<Item>, item: NonNull<Item>) {
    // SAFETY: as above.
    let _ = unsafe { queue.push_woken(item) };
}

fn fresh(queue: &RunQueue<Item>, item: NonNull<Item>) {
    // SAFETY: as above.
    let _ = unsafe { queue.push_fresh(item) };
}

fn expired(queue: &RunQueue<Item>, item: NonNull<Item>) {
    // SAFETY: as above.
    unsafe { queue.push_expired(item) };
}

fn pinned(queue: &RunQueue<Item>, item: NonNull<Item>) {
    // SAFETY: as above.
    unsafe { queue.push_pinned(item) };
}

#[test]
fn nothing_starves() {
    // A partner that is handed over again and again lets others through.
    assert!(waits(woken, next) <= 16);
    assert!(waits(fresh, next) <= 16);
    assert!(waits(expired, next) <= 31);
    assert!(waits(pinned, next) <= 31);
    // Fibers that are woken again and again.
    assert!(waits(fresh, woken) <= 13);
    assert!(waits(expired, woken) <= 31);
    assert!(waits(pinned, woken) <= 31);
    // New tasks without end: the newest goes first, but the oldest is not buried.
    assert!(waits(fresh, fresh) <= 61);
    assert!(waits(expired, fresh) <= 31);
    assert!(waits(pinned, fresh) <= 31);
    // Fibers that compute without end take turns with those that are bound to this worker.
    assert!(waits(pinned, expired) <= 2);
    assert!(waits(expired, pinned) <= 2);
    // Behind a flood of pinned and woken ones an expired one gets every second of the turns for both.
    let flood = |queue: &RunQueue<Item>, item| {
        if number(item).is_multiple_of(2) { pinned(queue, item) } else { woken(queue, item) }
    };
    assert!(waits(expired, flood) <= 93);
}

#[test]
fn fork_trees_stay_narrow() {
    // Each of the first ten generations has two children; depth first, few are ever queued.
    let all = items(1 << 11);
    let queue: RunQueue<Item> = RunQueue::new();
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
                // SAFETY: as above; a new item.
                assert!(unsafe { queue.push_fresh(all[used].ptr()) }.is_ok());
                used += 1;
            }
        }
        most = most.max(queue.len());
    }
    assert_eq!(run, 2047);
    assert!(most <= 30, "{most}");
}
