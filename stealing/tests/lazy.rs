//! The fork-join deque against a plain deque, and on real threads: no half is lost, none is run twice.
//!
//! `UNYIELD_STRESS_SECONDS` makes the second longer, `UNYIELD_STRESS_SEED` repeats the decisions of a run (not its timing).

#![cfg(not(loom))]

mod common;

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Random, duration};
use proptest::prelude::*;
use unyield_stealing::fence;
use unyield_stealing::lazy::{self, Bounds, Owner, Slot, StealLock};

const ROOM: usize = 64;

/// A half: what it adds to the sum, and how often it was run.
struct Half {
    value: u64,
    runs: AtomicUsize,
    taken: Cell<bool>,
    done: AtomicBool,
}

// SAFETY: `taken` is written by who takes it, under the lock, and read by the owner after it has settled.
unsafe impl Sync for Half {}

impl Half {
    fn new(value: u64) -> Half {
        Half { value, runs: AtomicUsize::new(0), taken: Cell::new(false), done: AtomicBool::new(false) }
    }

    /// What a deque calls for who takes it.
    fn taken(this: NonNull<Half>) {
        // SAFETY: alive until it is done.
        assert!(!unsafe { this.as_ref() }.taken.replace(true), "taken twice");
    }

    fn run(&self, sum: &AtomicU64) {
        assert_eq!(self.runs.fetch_add(1, Ordering::Relaxed), 0, "run twice");
        sum.fetch_add(self.value, Ordering::Relaxed);
    }
}

/// What one owner has.
struct Deque {
    words: [AtomicUsize; 2],
    slots: Box<[Slot<Half>]>,
    lock: StealLock,
}

impl Deque {
    fn new() -> Deque {
        let slots = (0..ROOM).map(|_| AtomicPtr::default()).collect();
        let deque = Deque { words: Default::default(), slots, lock: StealLock::new() };
        deque.bounds().begin(deque.slot(0));
        deque
    }

    fn slot(&self, index: usize) -> usize {
        self.slots.as_ptr() as usize + index * size_of::<Slot<Half>>()
    }

    fn bounds(&self) -> &Bounds {
        Bounds::from_words(&self.words)
    }

    /// By a thief that the owner does not help.
    fn take_remotely(&self) -> Option<NonNull<Half>> {
        // SAFETY: the callers have registered the fence; a thread of a test is never interrupted by us.
        unsafe { self.bounds().take_remotely(&self.lock, Half::taken) }
    }

    /// Between two steps of the owner, on its thread.
    fn take(&self) -> Option<NonNull<Half>> {
        // SAFETY: on the owner's thread.
        unsafe { self.bounds().take(&self.lock, Half::taken) }
    }
}

impl Owner for Deque {
    fn bottom(&self) -> usize {
        self.words[0].load(Ordering::Relaxed)
    }
    unsafe fn set_bottom(&self, value: usize) {
        self.words[0].store(value, Ordering::Release);
    }
    fn top(&self) -> usize {
        self.words[1].load(Ordering::Relaxed)
    }
    unsafe fn set_top(&self, value: usize) {
        self.words[1].store(value, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Pop,
    Take,
    TakeRemotely,
    /// Out of the outermost fork-join, and into another.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Push),
        3 => Just(Step::Pop),
        1 => Just(Step::Take),
        1 => Just(Step::TakeRemotely),
        1 => Just(Step::Again),
    ];
    proptest::collection::vec(step, 0..200)
}

/// The owner's pushed halves, the oldest first; `stolen` of them are gone.
#[derive(Default)]
struct Model {
    pushed: VecDeque<usize>,
    stolen: usize,
}

impl Model {
    fn take(&mut self) -> Option<usize> {
        let half = self.pushed.get(self.stolen).copied();
        self.stolen += usize::from(half.is_some());
        half
    }

    /// The newest half, and whether it is still the owner's.
    fn pop(&mut self) -> (usize, bool) {
        let half = self.pushed.pop_back().expect("pushed");
        let mine = self.pushed.len() >= self.stolen;
        self.stolen = self.stolen.min(self.pushed.len());
        (half, mine)
    }
}

proptest! {
    #[test]
    fn as_a_plain_deque(steps in steps()) {
        fence::register();
        let deque = Deque::new();
        let mut model = Model::default();
        let halves: Vec<Half> = (0..steps.len()).map(|value| Half::new(value as u64)).collect();
        let number = |half: NonNull<Half>| {
            // SAFETY: in `halves`.
            unsafe { half.as_ref() }.value as usize
        };
        // SAFETY: this thread is the owner, and keeps the halves.
        unsafe {
            deque.set_bottom(deque.slot(0));
            let pop = |model: &mut Model| {
                let (half, mine) = model.pop();
                let bottom = deque.bottom() - size_of::<Slot<Half>>();
                let popped = lazy::pop(&deque, bottom);
                // Nobody is at it meanwhile, so a pop that says false has lost its half.
                prop_assert_eq!(popped, mine);
                prop_assert_eq!(popped || lazy::settle(&deque, &deque.lock, bottom), mine);
                prop_assert_eq!(halves[half].taken.get(), !mine);
                Ok(())
            };
            for (i, step) in steps.iter().enumerate() {
                match step {
                    Step::Push if model.pushed.len() < ROOM => {
                        model.pushed.push_back(i);
                        lazy::push(&deque, deque.bottom(), NonNull::from(&halves[i]));
                    }
                    Step::Pop if !model.pushed.is_empty() => pop(&mut model)?,
                    Step::Push | Step::Pop => {}
                    Step::Take => prop_assert_eq!(deque.take().map(number), model.take()),
                    Step::TakeRemotely => prop_assert_eq!(deque.take_remotely().map(number), model.take()),
                    Step::Again => {
                        while !model.pushed.is_empty() {
                            pop(&mut model)?;
                        }
                        deque.set_bottom(0);
                        prop_assert!(!deque.bounds().in_use());
                        prop_assert!(deque.take().is_none() && deque.take_remotely().is_none());
                        deque.set_bottom(deque.slot(0));
                    }
                }
                prop_assert!(deque.bounds().in_use());
                prop_assert_eq!(deque.bounds().show_work(), model.stolen < model.pushed.len());
                prop_assert_eq!(deque.bottom(), deque.slot(model.pushed.len()));
                prop_assert_eq!(deque.top(), deque.slot(model.stolen));
            }
        }
    }
}

/// The fork-joins of one thread.
struct Tree<'a> {
    deque: &'a Deque,
    sum: &'a AtomicU64,
    random: Random,
    forked: u64,
    stolen: u64,
}

impl Tree<'_> {
    fn grow(&mut self, depth: u64) {
        for _ in 0..self.random.below(3) {
            self.forked += 1;
            let half = Half::new(self.forked);
            let bottom = self.deque.bottom();
            // SAFETY: this thread is the owner; the half lives here until it was popped or is done.
            let mine = unsafe {
                lazy::push(self.deque, bottom, NonNull::from(&half));
                if depth > 0 {
                    self.grow(depth - 1);
                }
                if self.random.below(8) == 0
                    && let Some(half) = self.deque.take()
                {
                    // Handed over at once, to somebody who is done before we look.
                    half.as_ref().run(self.sum);
                    half.as_ref().done.store(true, Ordering::Release);
                }
                lazy::pop(self.deque, bottom) || lazy::settle(self.deque, &self.deque.lock, bottom)
            };
            assert_eq!(half.taken.get(), !mine);
            if mine {
                half.run(self.sum);
            } else {
                self.stolen += 1;
                let waiting = Instant::now();
                while !half.done.load(Ordering::Acquire) {
                    assert!(waiting.elapsed() < Duration::from_secs(20), "lost");
                    std::thread::yield_now();
                }
            }
            assert_eq!(half.runs.load(Ordering::Relaxed), 1);
        }
    }
}

#[test]
fn an_owner_and_two_thieves() {
    if !fence::register() {
        println!("no membarrier: nobody takes remotely");
        return;
    }
    let (deque, sum, stop) = (Deque::new(), AtomicU64::new(0), AtomicBool::new(false));
    let remotely = AtomicU64::new(0);
    std::thread::scope(|s| {
        for stream in 1..=2 {
            let (deque, sum, stop, remotely) = (&deque, &sum, &stop, &remotely);
            s.spawn(move || {
                let mut random = Random::new(stream);
                while !stop.load(Ordering::Relaxed) {
                    if let Some(half) = deque.take_remotely() {
                        // SAFETY: alive until it is done.
                        let half = unsafe { half.as_ref() };
                        half.run(sum);
                        remotely.fetch_add(1, Ordering::Relaxed);
                        half.done.store(true, Ordering::Release);
                    }
                    for _ in 0..random.below(200) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let mut tree = Tree { deque: &deque, sum: &sum, random: Random::new(0), forked: 0, stolen: 0 };
        let start = Instant::now();
        while start.elapsed() < duration() {
            // SAFETY: this thread is the owner.
            unsafe { deque.set_bottom(deque.slot(0)) };
            tree.grow(12);
            // SAFETY: as above; all was popped.
            unsafe { deque.set_bottom(0) };
        }
        stop.store(true, Ordering::Relaxed);
        println!("{} forked, {} stolen, of which {remotely:?} remotely", tree.forked, tree.stolen);
        assert_eq!(sum.load(Ordering::Relaxed), tree.forked * (tree.forked + 1) / 2);
    });
    assert_eq!(deque.top(), deque.slot(0));
}
