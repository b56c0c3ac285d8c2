//! Regions and joins: what a fiber comes to when its segment is done, and what its worker does then.

use super::costs::Protocol;
use super::fiber::{Fiber, FiberId, Joiner, Segment};
use super::machine::{Doing, Event, Machine};
use super::tree::Tree;

impl<T: Tree> Machine<'_, T> {
    /// A region begins on `w`; pushing its first descriptor eagerly may wake a worker.
    pub(super) fn begin_region(&mut self, w: usize) {
        self.fibers.clear();
        self.fibers.push(Fiber::new(Segment::new(self.tree, self.pace, self.tree.root())));
        self.region_since = self.now;
        let delay = match self.costs.protocol {
            Protocol::Eager if self.searching == 0 => self.wake_some(1),
            _ => 0,
        };
        self.after(delay, Event::Go(w, 0));
    }

    /// The region's root is done, on `w`.
    fn end_region(&mut self, w: usize) {
        assert!(self.fibers.iter().all(|f| f.begun && f.finished), "a stolen descriptor was not run");
        self.regions_left -= 1;
        self.out.time = self.now;
        self.over = self.regions_left == 0;
        self.workers[w].doing = Doing::Busy;
        self.withdraw(w);
        self.after(self.program.gap, Event::Region(w));
    }

    /// Begins a fiber, or goes on with one whose innermost half is done.
    pub(super) fn go(&mut self, w: usize, f: FiberId) {
        if self.fibers[f].begun {
            return self.go_on(w, f);
        }
        self.fibers[f].begun = true;
        self.fibers[f].segment.begin(self.now);
        self.workers[w].doing = Doing::Run(f);
        self.schedule_end(w, f);
    }

    /// The end of the segment of `f`, which `w` runs; an earlier plan is void.
    pub(super) fn schedule_end(&mut self, w: usize, f: FiberId) {
        self.workers[w].version += 1;
        self.at(self.fibers[f].segment.end(), Event::Done(w, self.workers[w].version));
    }

    /// The segment that `w` runs is done, unless it was disturbed.
    pub(super) fn done(&mut self, w: usize) {
        let Doing::Run(f) = self.workers[w].doing else { unreachable!("its version says that it runs") };
        let end = self.fibers[f].segment.end();
        if end > self.now {
            return self.at(end, Event::Done(w, self.workers[w].version));
        }
        self.out.done.add(self.fibers[f].segment.rest(self.tree));
        self.workers[w].version += 1;
        self.workers[w].doing = Doing::Busy;
        self.go_on(w, f);
    }

    /// A fiber without a segment: its joins, innermost first.
    fn go_on(&mut self, w: usize, f: FiberId) {
        while let Some(&half) = self.fibers[f].joins.last() {
            if !self.fibers[half].finished {
                self.out.waits += u64::from(self.fibers[half].joiner.is_none());
                return match self.costs.protocol {
                    Protocol::Lazy => {
                        self.fibers[half].joiner = Some(Joiner::Parked(f));
                        self.search(w, self.costs.park);
                    }
                    Protocol::Eager => {
                        self.fibers[half].joiner = Some(Joiner::Blocked(w));
                        self.workers[w].blocked.push(f);
                        self.search(w, 0);
                    }
                };
            }
            self.fibers[f].joins.pop();
        }
        self.fibers[f].finished = true;
        if f == 0 {
            return self.end_region(w);
        }
        match self.fibers[f].joiner {
            Some(Joiner::Parked(joiner)) => self.after(self.costs.park, Event::Go(w, joiner)),
            Some(Joiner::Blocked(other)) => {
                let delay = self.rouse(other);
                self.return_to_blocked(w, delay);
            }
            None => self.return_to_blocked(w, 0),
        }
    }
}
