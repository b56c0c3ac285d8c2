//! The protocols of this crate under loom: all interleavings (up to a bound) of two or three threads.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p unyield-stealing --release --lib`; `mutants.sh` shows that each of them can
//! fail. A lost wake-up shows as a deadlock, a doubled item as an assertion, a missing order as a data race of a cell.
//!
//! The bound is on involuntary switches (3, or 2 for three threads that do much): protocols of this size are known to fail within 2 if they fail at all, and
//! the mutants do.

use core::cell::Cell;
use core::ptr::NonNull;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::list::Link;
use crate::next::NextSlot;
use crate::ring::Ring;
use crate::{Armed, Idle, Injector};

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_within(3, f);
}

/// As [`model`], with another bound.
fn model_within(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(f);
}

/// An item with contents, which loom watches for unordered access.
struct Item {
    link: Cell<Option<NonNull<Item>>>,
    contents: loom::cell::UnsafeCell<usize>,
}

// SAFETY: the link is a field that only queues touch.
unsafe impl Link for Item {
    fn link(this: NonNull<Self>) -> NonNull<Cell<Option<NonNull<Self>>>> {
        // SAFETY: `this` is live, so its fields have addresses.
        unsafe { NonNull::new_unchecked(&raw mut (*this.as_ptr()).link) }
    }
}

impl Item {
    /// A new item, never freed by the queues.
    fn new() -> NonNull<Item> {
        NonNull::from(Box::leak(Box::new(Item {
            link: Cell::new(None),
            contents: loom::cell::UnsafeCell::new(0),
        })))
    }

    /// Writes what a taker will read.
    fn fill(this: NonNull<Item>, value: usize) {
        // SAFETY: live; loom checks that nobody else has access.
        unsafe { this.as_ref() }.contents.with_mut(|contents| unsafe { *contents = value });
    }

    /// Takes the contents out, and frees the item: it has one taker.
    fn consume(this: NonNull<Item>) -> usize {
        // SAFETY: as above. A second taker would find 0 or be reported by loom.
        let value = unsafe { this.as_ref() }.contents.with_mut(|contents| unsafe { contents.replace(0) });
        assert_ne!(value, 0, "taken twice");
        value
    }
}

/// Takers add the contents of what they took: each item once makes the sum of all.
struct Shared<Q> {
    queue: Q,
    sum: AtomicUsize,
}

impl<Q> Shared<Q> {
    fn new(queue: Q) -> Arc<Self> {
        Arc::new(Shared { queue, sum: AtomicUsize::new(0) })
    }

    fn took(&self, item: NonNull<Item>) {
        self.sum.fetch_add(Item::consume(item), Ordering::Relaxed);
    }

    fn sum(&self) -> usize {
        self.sum.load(Ordering::Relaxed)
    }
}

/// Runs `f` on a thread of its own.
fn spawn<Q: Sync + Send + 'static>(
    shared: &Arc<Shared<Q>>,
    f: impl FnOnce(&Shared<Q>) + 'static,
) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || f(&shared))
}

fn filled(value: usize) -> NonNull<Item> {
    let item = Item::new();
    Item::fill(item, value);
    item
}

mod armed;
mod idle;
mod lazy;
mod looks;
mod mailbox;
mod queues;
