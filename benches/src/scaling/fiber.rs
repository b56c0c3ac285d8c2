//! A fiber's place in the tree.
//!
//! Only the oldest descriptor of a fiber is ever stolen, so a fiber is two things: the subtree it is in (a [`Segment`],
//! nothing above which is pending), and below it the joins whose `b` was stolen, innermost last. When the segment is done,
//! those joins are all that is left to do.

use super::costs::Ps;
use super::tree::{Extent, Next, Step, Tree};

/// How fast work is done without disturbance.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time of a unit of work.
    pub grain: Ps,
    /// Time of a fork.
    pub spawn: Ps,
}

impl Pace {
    /// The time for all of `extent`.
    pub fn time(self, extent: Extent) -> Ps {
        extent.nodes * self.grain + extent.forks * self.spawn
    }
}

/// A subtree that a worker is in the middle of.
#[derive(Clone, Copy, Debug)]
pub struct Segment<T> {
    task: T,
    /// How much of `length` was done at `since`.
    done: Ps,
    /// From when on it goes on (in the future while its worker handles an interrupt).
    since: Ps,
    length: Ps,
}

impl<T: Copy + std::fmt::Debug> Segment<T> {
    /// `task`, not begun.
    pub fn new<R: Tree<Task = T>>(tree: &R, pace: Pace, task: T) -> Self {
        Segment { task, done: 0, since: 0, length: pace.time(tree.extent(task)) }
    }

    /// The subtree it is.
    pub fn task(&self) -> T {
        self.task
    }

    /// It runs from `now` on.
    pub fn begin(&mut self, now: Ps) {
        self.since = now;
    }

    /// When it is done, unless it is disturbed or stolen from.
    pub fn end(&self) -> Ps {
        self.since + (self.length - self.done)
    }

    /// Its worker does something else for `time`.
    pub fn stall(&mut self, now: Ps, time: Ps) {
        self.done = self.elapsed(now);
        self.since = self.since.max(now) + time;
    }

    fn elapsed(&self, now: Ps) -> Ps {
        (self.done + now.saturating_sub(self.since)).min(self.length)
    }

    /// Drops what is finished, down to the oldest pending descriptor or, without one, to the task whose own work is being
    /// done; adds it to `credit`. True if a descriptor is pending.
    pub fn advance<R: Tree<Task = T>>(&mut self, tree: &R, pace: Pace, now: Ps, credit: &mut Extent) -> bool {
        let mut at = self.elapsed(now);
        let mut task = self.task;
        let pending = loop {
            let Step { own, next } = tree.step(task);
            let before = own * pace.grain;
            match next {
                Next::One(child) if at >= before => {
                    credit.add(Extent { nodes: own, forks: 0 });
                    at -= before;
                    task = child;
                }
                Next::Fork(a, b) if at >= before + pace.spawn => {
                    let first = before + pace.spawn + pace.time(tree.extent(a));
                    if at < first {
                        break true;
                    }
                    credit.add(tree.extent(task).without(tree.extent(b)));
                    at -= first;
                    task = b;
                }
                _ => break false,
            }
        };
        self.since = self.since.max(now);
        self.task = task;
        self.done = at;
        self.length = pace.time(tree.extent(task));
        pending
    }

    /// Takes the oldest pending descriptor, if there is one; what is finished is added to `credit` in either case.
    pub fn take<R: Tree<Task = T>>(
        &mut self,
        tree: &R,
        pace: Pace,
        now: Ps,
        credit: &mut Extent,
    ) -> Option<T> {
        if !self.advance(tree, pace, now, credit) {
            return None;
        }
        let Step { own, next: Next::Fork(a, b) } = tree.step(self.task) else {
            unreachable!("only a fork has a pending descriptor");
        };
        credit.add(Extent { nodes: own, forks: 1 });
        self.done -= own * pace.grain + pace.spawn;
        self.task = a;
        self.length = pace.time(tree.extent(a));
        Some(b)
    }

    /// What is in it that was not counted yet: all of it, once it is done.
    pub fn rest<R: Tree<Task = T>>(&self, tree: &R) -> Extent {
        tree.extent(self.task)
    }
}

/// The number of a fiber. Every stolen descriptor becomes a fiber, so it also names the stolen half.
pub type FiberId = usize;

/// What one worker runs at a time.
#[derive(Debug)]
pub struct Fiber<T> {
    /// Where it is.
    pub segment: Segment<T>,
    /// The stolen halves it has to wait for, innermost last.
    pub joins: Vec<FiberId>,
    /// It has been begun (once).
    pub begun: bool,
    /// It is done.
    pub finished: bool,
    /// Who waits for it at its join.
    pub joiner: Option<Joiner>,
}

/// A fiber that has come to a join whose other half is not done.
#[derive(Clone, Copy, Debug)]
pub enum Joiner {
    /// Parked; whoever finishes the half goes on with it.
    Parked(FiberId),
    /// Blocked on the stack of this worker, which alone can go on with it.
    Blocked(usize),
}

impl<T> Fiber<T> {
    /// A fiber for a descriptor.
    pub fn new(segment: Segment<T>) -> Self {
        Fiber { segment, joins: Vec::new(), begun: false, finished: false, joiner: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::fib::Fib;

    const PACE: Pace = Pace { grain: 10, spawn: 3 };

    #[test]
    fn the_oldest_descriptor_is_taken_and_nothing_is_lost() {
        let tree = Fib::new(12, 2);
        let all = tree.extent(tree.root());
        for now in (0..PACE.time(all) + 20).step_by(7) {
            let mut seen = Segment::new(&tree, PACE, tree.root());
            let end = seen.end();
            let mut credit = Extent::default();
            let pending = seen.advance(&tree, PACE, now, &mut credit);
            assert_eq!(seen.end().max(now), end.max(now), "looking changes nothing, at {now}");

            let taken = seen.take(&tree, PACE, now, &mut credit);
            assert_eq!(taken.is_some(), pending);
            let stolen = taken.map_or(Extent::default(), |t| tree.extent(t));
            if pending {
                assert_eq!(seen.end() + PACE.time(stolen), end, "the victim is done earlier by what it lost");
            }
            credit.add(stolen);
            credit.add(seen.rest(&tree));
            assert_eq!(credit, all);
        }
    }

    #[test]
    fn the_first_theft_is_the_root_s() {
        let tree = Fib::new(20, 2);
        let mut s = Segment::new(&tree, PACE, tree.root());
        let mut credit = Extent::default();
        assert_eq!(s.take(&tree, PACE, 12, &mut credit), None, "not pushed yet");
        assert_eq!(s.take(&tree, PACE, 13, &mut credit), Some(18));
        assert_eq!(s.take(&tree, PACE, 26, &mut credit), Some(17));
    }

    #[test]
    fn a_stalled_fiber_stands_still() {
        let tree = Fib::new(10, 2);
        let mut s = Segment::new(&tree, PACE, tree.root());
        s.begin(100);
        let end = s.end();
        s.stall(150, 40);
        s.stall(160, 5);
        let mut credit = Extent::default();
        s.advance(&tree, PACE, 170, &mut credit);
        assert_eq!(s.end(), end + 45);
    }
}
