//! Who may say that he is which thread of a pool.
//!
//! Programs index buffers by `current_thread_index()`, some of them without locks, and rely on two things: between two calls into rayon nobody else has their
//! index, and it stays the same for ever. Fibers are more than threads, are preempted, and migrate. So an index is leased:
//!
//! - a fiber that has an index keeps it until it ends, and nobody else has it meanwhile,
//! - except while the fiber waits in a call where a thread of rayon's would run other jobs on top of the one that waits: `join`, a scope, `install`, `broadcast`,
//!   `yield_now`. Then it is *lent*: another fiber may take it, *on top*, and the one below goes on when those on top of it have ended. That is the order in which
//!   jobs lie on the stack of a thread.
//!
//! ```text
//!   index 0:  │ A, lent │ B, lent │ C │     C runs; B has waited and goes on when C has ended; then A
//!   index 1:  │ D │
//!   index 2:                                free
//! ```
//!
//! Nobody needs an index until the first call of `current_thread_index` in a pool. From then on every fiber of the pool takes one when it begins, before it runs anything of
//! the program's: at most as many of them as there are threads are between two waits, as in rayon. So a program that never asks is not held back by any of this.
//!
//! **No deadlock that rayon would not have.** Fibers are numbered as they begin, so whoever is waited for has a higher number than who waits. In a stack the numbers grow upwards: most
//! fibers take their index when they begin; one that began before indices were used, and asks in its middle, goes only on top of those with lower numbers. Let now
//! nobody go on, for no other reason than these waits: then each top is lent, so whoever has not begun gets an index, and all that is waited for has begun. Take
//! the fiber with the highest number. It does not wait for one on top of it, nor for one that it has waited for in rayon: these have higher ones. If it waits for an index in its middle, the
//! tops have lower ones: it gets it. Contradiction. What remains are waits for things that rayon does not know (locks, channels). Where a fiber begins it holds
//! none of those, so the rules are rayon's there, deadlocks included.
//!
//! The exception is the transition: a fiber that asks in its middle may have to wait there, with locks held. The README says how to avoid it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use unyield::raw::Latch;
use unyield::sync::Mutex;

/// A place in the stack of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    index: u32,
    depth: u32,
}

impl Lease {
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }
}

struct Frame {
    /// The fiber's number: higher than those below.
    began: u64,
    lent: bool,
    /// Its wait is over: it goes on as soon as it is on top.
    resume: Option<Arc<Latch>>,
}

struct Applicant {
    /// `None`: any index.
    wants: Option<usize>,
    /// `None`: it begins.
    began: Option<u64>,
    granted: Mutex<Option<Lease>>,
    latch: Latch,
}

struct State {
    stacks: Box<[Vec<Frame>]>,
    applicants: VecDeque<Arc<Applicant>>,
    /// Jobs that found no index and are still in their queues.
    owed: usize,
    numbers: Arc<AtomicU64>,
}

/// The indices of a pool.
pub(crate) struct Indices {
    used: AtomicBool,
    /// Of the fibers, as they begin.
    numbers: Arc<AtomicU64>,
    state: Mutex<State>,
}

/// What somebody who changes the state owes the others, without the lock.
#[must_use]
#[derive(Default)]
pub(crate) struct Owed {
    resume: Option<Arc<Latch>>,
    grant: Option<Arc<Applicant>>,
    /// A job must be begun.
    pub(crate) begin_one: bool,
}

impl Owed {
    /// Wakes whoever goes on; true: a job is to be begun.
    pub(crate) fn settle(self) -> bool {
        if let Some(latch) = self.resume {
            latch.end();
        }
        if let Some(applicant) = self.grant {
            applicant.latch.end();
        }
        self.begin_one
    }
}

impl State {
    /// To a fiber with the number `began`, or to one that begins.
    fn is_available(&self, index: usize, began: Option<u64>) -> bool {
        self.stacks[index].last().is_none_or(|top| top.lent && began.is_none_or(|began| began > top.began))
    }

    /// A free one, best `hint`; else one that is lent.
    fn find(&self, wants: Option<usize>, began: Option<u64>, hint: usize) -> Option<usize> {
        if let Some(index) = wants {
            return self.is_available(index, began).then_some(index);
        }
        let n = self.stacks.len();
        let mut all = (hint..n).chain(0..hint);
        all.clone()
            .find(|&index| self.stacks[index].is_empty())
            .or_else(|| all.find(|&index| self.is_available(index, began)))
    }

    fn push(&mut self, index: usize, began: Option<u64>) -> Lease {
        let began = began.unwrap_or_else(|| self.numbers.fetch_add(1, Relaxed));
        let stack = &mut self.stacks[index];
        debug_assert!(stack.last().is_none_or(|below| below.began < began));
        stack.push(Frame { began, lent: false, resume: None });
        Lease { index: index as u32, depth: stack.len() as u32 - 1 }
    }

    /// The top of a stack has changed.
    fn changed(&mut self, index: usize) -> Owed {
        if let Some(top) = self.stacks[index].last_mut()
            && let Some(latch) = top.resume.take()
        {
            top.lent = false;
            return Owed { resume: Some(latch), ..Owed::default() };
        }
        if !self.is_available(index, None) {
            return Owed::default();
        }
        let suits = |applicant: &Arc<Applicant>| {
            applicant.wants.is_none_or(|wanted| wanted == index) && self.is_available(index, applicant.began)
        };
        if let Some(at) = self.applicants.iter().position(suits) {
            let applicant = self.applicants.remove(at).expect("just found");
            *applicant.granted.lock() = Some(self.push(index, applicant.began));
            return Owed { grant: Some(applicant), ..Owed::default() };
        }
        let begin_one = self.owed > 0;
        self.owed -= usize::from(begin_one);
        Owed { begin_one, ..Owed::default() }
    }
}

impl Indices {
    pub(crate) fn new(n: usize) -> Indices {
        let numbers = Arc::new(AtomicU64::new(0));
        let state = State {
            stacks: (0..n).map(|_| Vec::new()).collect(),
            applicants: VecDeque::new(),
            owed: 0,
            numbers: numbers.clone(),
        };
        Indices { used: AtomicBool::new(false), numbers, state: Mutex::new(state) }
    }

    /// True if every fiber of the pool takes an index when it begins.
    #[inline]
    pub(crate) fn are_used(&self) -> bool {
        // Relaxed: a fiber that misses it began before.
        self.used.load(Relaxed)
    }

    pub(crate) fn use_from_now_on(&self) {
        if !self.are_used() {
            self.used.store(true, Relaxed);
        }
    }

    /// A number for a fiber that begins without an index.
    pub(crate) fn number(&self) -> u64 {
        // Relaxed: a fiber that another one has made begins after that one.
        self.numbers.fetch_add(1, Relaxed)
    }

    /// Waits for an index: a certain one, or any, best `hint`. First come, first served. `began`: the number of a fiber that has begun without one.
    pub(crate) fn acquire(&self, wants: Option<usize>, began: Option<u64>, hint: usize) -> Lease {
        let applicant = {
            let mut state = self.state.lock();
            if let Some(index) = state.find(wants, began, hint) {
                return state.push(index, began);
            }
            let applicant =
                Arc::new(Applicant { wants, began, granted: Mutex::new(None), latch: Latch::new() });
            applicant.latch.begin();
            state.applicants.push_back(applicant.clone());
            applicant
        };
        applicant.latch.wait();
        let granted = applicant.granted.lock().take();
        granted.expect("woken when granted")
    }

    /// For a job: does not wait. If there is no index, one job is begun when there is.
    pub(crate) fn acquire_or_owe(&self, hint: usize) -> Option<Lease> {
        let mut state = self.state.lock();
        match state.find(None, None, hint) {
            Some(index) => Some(state.push(index, None)),
            None => {
                state.owed += 1;
                None
            }
        }
    }

    /// The fiber ends: it is on top, or it would still wait.
    pub(crate) fn release(&self, lease: Lease) -> Owed {
        let mut state = self.state.lock();
        let stack = &mut state.stacks[lease.index()];
        debug_assert_eq!(stack.len(), lease.depth as usize + 1, "it is on top");
        stack.pop();
        state.changed(lease.index())
    }

    /// The fiber is about to wait.
    pub(crate) fn lend(&self, lease: Lease) -> Owed {
        let mut state = self.state.lock();
        state.stacks[lease.index()][lease.depth as usize].lent = true;
        state.changed(lease.index())
    }

    /// The fiber has waited: goes on when those on top of it have ended.
    pub(crate) fn resume(&self, lease: Lease) {
        let latch = {
            let mut state = self.state.lock();
            let stack = &mut state.stacks[lease.index()];
            let is_top = stack.len() == lease.depth as usize + 1;
            let frame = &mut stack[lease.depth as usize];
            if is_top {
                frame.lent = false;
                return;
            }
            let latch = Arc::new(Latch::new());
            latch.begin();
            frame.resume = Some(latch.clone());
            latch
        };
        latch.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_lent_and_comes_back_in_the_order_of_a_stack() {
        let indices = Indices::new(1);
        let a = indices.acquire(None, None, 0);
        assert!(indices.acquire_or_owe(0).is_none(), "A has it");
        assert!(indices.lend(a).settle(), "the job that was owed may begin");
        let b = indices.acquire_or_owe(0).expect("lent");
        assert_eq!((b.index(), b.depth), (0, 1));
        assert!(!indices.lend(b).settle());
        let c = indices.acquire(Some(0), None, 0);
        assert_eq!(c.depth, 2);
        assert!(!indices.release(c).settle());
        indices.resume(b);
        assert!(indices.acquire_or_owe(0).is_none());
        assert!(indices.release(b).settle(), "A's is lent still");
        indices.resume(a);
        assert!(!indices.release(a).settle());
    }

    #[test]
    fn whoever_waits_below_goes_on_before_anybody_else() {
        let indices = Arc::new(Indices::new(1));
        let a = indices.acquire(None, None, 0);
        assert!(!indices.lend(a).settle());
        let b = indices.acquire(None, None, 0);
        assert!(indices.acquire_or_owe(0).is_none());
        let resumed = std::thread::spawn({
            let indices = indices.clone();
            move || indices.resume(a)
        });
        while indices.state.lock().stacks[0][0].resume.is_none() {
            std::thread::yield_now();
        }
        assert!(!indices.release(b).settle(), "A goes on, the job waits");
        resumed.join().expect("it goes on");
        assert!(indices.release(a).settle(), "now the job");
    }

    #[test]
    fn free_indices_go_before_lent_ones_and_the_hint_first() {
        let indices = Indices::new(3);
        let first = indices.acquire(None, None, 1);
        assert_eq!(first.index(), 1);
        assert!(!indices.lend(first).settle());
        assert_eq!(indices.acquire(None, None, 1).index(), 2);
        assert_eq!(indices.acquire(None, None, 1).index(), 0);
        assert_eq!(indices.acquire(None, None, 2).index(), 1);
    }

    #[test]
    fn whoever_began_before_does_not_go_on_top() {
        let indices = Arc::new(Indices::new(1));
        let early = indices.number();
        let a = indices.acquire(None, None, 0);
        let late = indices.number();
        assert!(!indices.lend(a).settle());
        let waits = std::thread::spawn({
            let indices = indices.clone();
            move || indices.acquire(None, Some(early), 0)
        });
        while indices.state.lock().applicants.is_empty() {
            std::thread::yield_now();
        }
        let b = indices.acquire(None, Some(late), 0);
        assert_eq!(b.depth, 1);
        assert!(!indices.release(b).settle());
        indices.resume(a);
        assert!(!waits.is_finished());
        assert!(!indices.release(a).settle());
        assert_eq!(waits.join().expect("granted").depth, 0);
    }
}
