//! Every half is run once, by its owner or by a thief, who sees what was written to it; an owner that has lost a half gets its result.

use super::*;
use crate::lazy::{self, Bounds, Owner, Slot, StealLock};
use crate::{Answer, Mailbox};
use loom::sync::atomic::AtomicBool;

/// A half on its owner's stack, as `Job` is in the runtime.
struct Half {
    /// What it adds to the sum; then its negative, as the result. Written a last time when the owner's frame goes: who touches it later fails.
    body: loom::cell::UnsafeCell<isize>,
    /// Not initialised by the owner: by who takes the half, before the owner can find it gone.
    taken: loom::cell::UnsafeCell<bool>,
    done: AtomicBool,
}

impl Half {
    fn new(value: isize) -> NonNull<Half> {
        NonNull::from(Box::leak(Box::new(Half {
            body: loom::cell::UnsafeCell::new(value),
            taken: loom::cell::UnsafeCell::new(false),
            done: AtomicBool::new(false),
        })))
    }

    /// What a deque calls for who takes it.
    fn taken(this: NonNull<Half>) {
        // SAFETY: leaked; loom checks the access.
        unsafe { this.as_ref() }.taken.with_mut(|taken| unsafe {
            assert!(!*taken, "taken twice");
            *taken = true;
        });
    }

    fn body(&self, f: impl FnOnce(&mut isize)) {
        // SAFETY: loom checks the access.
        self.body.with_mut(|body| f(unsafe { &mut *body }));
    }

    /// By whoever has it.
    fn run(&self, sum: &AtomicUsize) {
        self.body(|body| {
            assert!(*body > 0, "run twice, or its frame is gone");
            sum.fetch_add(*body as usize, Ordering::Relaxed);
            *body = -*body;
        });
    }

    /// By a thief.
    fn run_stolen(this: NonNull<Half>, sum: &AtomicUsize) {
        // SAFETY: leaked.
        let half = unsafe { this.as_ref() };
        half.run(sum);
        half.done.store(true, Ordering::Release);
    }

    /// By the owner, which has found it stolen.
    fn wait(&self) {
        // SAFETY: loom checks the access.
        assert!(self.taken.with(|taken| unsafe { *taken }), "nobody has it");
        while !self.done.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

/// The bounds and the slots of one owner.
struct Deque {
    words: [AtomicUsize; 2],
    slots: &'static [Slot<Half>; 2],
    lock: StealLock,
    /// The owner's, and those of two thieves.
    mailboxes: [Mailbox<Half>; 3],
}

impl Deque {
    fn new() -> Deque {
        let deque = Deque {
            words: Default::default(),
            slots: Box::leak(Default::default()),
            lock: StealLock::new(),
            mailboxes: Default::default(),
        };
        deque.bounds().begin(deque.first());
        deque
    }

    fn first(&self) -> usize {
        &raw const self.slots[0] as usize
    }

    fn bounds(&self) -> &Bounds {
        Bounds::from_words(&self.words)
    }
}

impl Shared<Deque> {
    /// A thief that cannot interrupt the owner.
    fn steal_remotely(&self) {
        // SAFETY: the slots are leaked.
        if let Some(half) = unsafe { self.queue.bounds().take_remotely(&self.queue.lock, Half::taken) } {
            Half::run_stolen(half, &self.sum);
        }
    }

    /// A thief that asks, and loses its patience after `patience` looks.
    fn steal(&self, thief: usize, patience: usize) {
        let [owner, me] = [&self.queue.mailboxes[0], &self.queue.mailboxes[thief]];
        // SAFETY: asks nobody else; the mailboxes lie side by side.
        if !unsafe { me.ask(owner, 1) } {
            return;
        }
        let mut looks = 0;
        loop {
            match me.poll() {
                Some(Answer::Item(half)) => return Half::run_stolen(half, &self.sum),
                Some(Answer::Refused) => return,
                None => {}
            }
            looks += 1;
            if looks == patience && me.withdraw(owner) {
                return self.steal_remotely();
            }
            thread::yield_now();
        }
    }
}

/// The owner, which runs. An interrupt comes as soon as it sees that somebody asks, before any access to the bounds.
struct Running<'a> {
    shared: &'a Shared<Deque>,
    masked: Cell<bool>,
}

impl Running<'_> {
    fn interruptible(&self) {
        let mailbox = &self.shared.queue.mailboxes[0];
        if !self.masked.get() && mailbox.is_asked() {
            // SAFETY: the owner's thread, at a point where it can be interrupted.
            unsafe {
                mailbox.respond(|| self.shared.queue.bounds().take(&self.shared.queue.lock, Half::taken))
            };
        }
    }

    fn region(&self, f: impl FnOnce()) {
        // SAFETY: the owner.
        unsafe { self.set_bottom(self.shared.queue.first()) };
        f();
        // SAFETY: the owner; all that was pushed was popped.
        unsafe { self.set_bottom(0) };
    }

    fn push(&self, value: isize) -> Pushed {
        let pushed = Pushed { half: Half::new(value), bottom: self.bottom() };
        // SAFETY: the owner; halves are leaked.
        unsafe { lazy::push(self, pushed.bottom, pushed.half) };
        pushed
    }

    /// Takes back the newest half, or waits for it.
    fn pop(&self, pushed: Pushed) {
        // SAFETY: leaked.
        let half = unsafe { pushed.half.as_ref() };
        // SAFETY: the owner, of its newest half.
        if unsafe { lazy::pop(self, pushed.bottom) } || self.settle(pushed.bottom) {
            half.run(&self.shared.sum);
        } else {
            half.wait();
        }
        half.body(|body| {
            assert!(*body < 0, "no result");
            *body = 0;
        });
    }

    fn settle(&self, bottom: usize) -> bool {
        self.masked.set(true);
        // SAFETY: as for the pop; masked.
        let mine = unsafe { lazy::settle(self, &self.shared.queue.lock, bottom) };
        self.masked.set(false);
        mine
    }

    fn fork(&self, value: isize, a: impl FnOnce()) {
        let pushed = self.push(value);
        a();
        self.pop(pushed);
    }
}

/// A half in its slot.
struct Pushed {
    half: NonNull<Half>,
    bottom: usize,
}

// SAFETY: moved from one owner's thread to the next, with the owner.
unsafe impl Send for Pushed {}

impl Owner for Running<'_> {
    fn bottom(&self) -> usize {
        self.interruptible();
        self.shared.queue.words[0].load(Ordering::Relaxed)
    }
    unsafe fn set_bottom(&self, value: usize) {
        self.interruptible();
        self.shared.queue.words[0].store(value, Ordering::Release);
    }
    fn top(&self) -> usize {
        self.interruptible();
        self.shared.queue.words[1].load(Ordering::Relaxed)
    }
    unsafe fn set_top(&self, value: usize) {
        self.shared.queue.words[1].store(value, Ordering::Relaxed);
    }
}

type Thief = fn(&Shared<Deque>);

/// `owner` against thieves on threads of their own. The sum of all halves is `sum`.
fn owner_and_thieves(
    preemptions: usize,
    thieves: &'static [Thief],
    sum: usize,
    owner: impl Fn(&Running<'_>) + Send + Sync + 'static,
) {
    model_within(preemptions, move || {
        let shared = Shared::new(Deque::new());
        let thieves: Vec<_> = thieves.iter().map(|thief| spawn(&shared, thief)).collect();
        owner(&Running { shared: &shared, masked: Cell::new(false) });
        for thief in thieves {
            thief.join().unwrap();
        }
        assert_eq!(shared.sum(), sum);
        assert!(!shared.queue.bounds().show_work() && !shared.queue.bounds().in_use());
        assert_eq!(
            shared.queue.words[1].load(Ordering::Relaxed),
            shared.queue.first(),
            "top does not lie at the first slot"
        );
    });
}

/// Two halves at once, then the first slot a second time, then in another region.
fn deep_and_again(owner: &Running<'_>) {
    owner.region(|| {
        owner.fork(1, || owner.fork(10, || {}));
        owner.fork(100, || {});
    });
    owner.region(|| owner.fork(1000, || {}));
}

/// The same slot twice.
fn again(owner: &Running<'_>) {
    owner.region(|| {
        owner.fork(1, || {});
        owner.fork(10, || {});
    });
}

fn deep(owner: &Running<'_>) {
    owner.region(|| owner.fork(1, || owner.fork(10, || {})));
}

#[test]
fn a_remote_thief() {
    owner_and_thieves(4, &[|s| s.steal_remotely()], 1111, deep_and_again);
}

#[test]
fn a_remote_thief_comes_twice() {
    owner_and_thieves(
        4,
        &[|s| {
            s.steal_remotely();
            s.steal_remotely();
        }],
        11,
        again,
    );
}

#[test]
fn two_remote_thieves() {
    owner_and_thieves(3, &[|s| s.steal_remotely(), |s| s.steal_remotely()], 11, deep);
    owner_and_thieves(3, &[|s| s.steal_remotely(), |s| s.steal_remotely()], 11, again);
}

#[test]
fn a_thief_that_interrupts() {
    owner_and_thieves(4, &[|s| s.steal(1, 3)], 1111, deep_and_again);
}

#[test]
fn a_thief_that_interrupts_and_a_remote_one() {
    owner_and_thieves(2, &[|s| s.steal(1, 2), |s| s.steal_remotely()], 11, deep);
}

#[test]
fn two_thieves_that_interrupt() {
    owner_and_thieves(2, &[|s| s.steal(1, 2), |s| s.steal(2, 2)], 11, deep);
}
