//! Eager stealing, as in rayon: thieves take from the victim's deque; a joiner whose half was stolen steals others on top of
//! its own stack, and can go on only when it is back at the bottom of what it stole.

use super::costs::Ps;
use super::machine::{Doing, Event, Machine};
use super::tree::Tree;

impl<T: Tree> Machine<'_, T> {
    /// A worker looks at the half it waits for, then at a victim, and takes what it finds.
    pub(super) fn probe_eagerly(&mut self, w: usize) {
        let Doing::Search(until) = self.workers[w].doing else { unreachable!("only a searcher probes") };
        if self.may_go_on(w) {
            self.searching -= 1;
            self.workers[w].doing = Doing::Busy;
            return self.return_to_blocked(w, 0);
        }
        // Every push looks for sleepers, so somebody searches as long as there is work: the last one does not sleep.
        if self.now >= until && self.searching > 1 {
            return self.sleep(w);
        }
        let v = self.any_other(w);
        if !self.looked_at(v) || self.now < self.workers[v].taken_until {
            return self.after(self.costs.probe, Event::Probe(w));
        }
        self.workers[v].taken_until = self.now + self.costs.claim;
        let half = self.take(v).expect("it was pending at this moment");
        self.out.steals += 1;
        self.searching -= 1;
        self.workers[w].doing = Doing::Busy;
        let Doing::Run(f) = self.workers[v].doing else { unreachable!("it was just taken from") };
        self.out.disturbed += self.costs.disturb;
        let mut stall = self.costs.disturb;
        // A push onto a deque that is not empty wakes a sleeper: the victim's next one, and the thief's second one.
        if self.pending(f) {
            stall += self.wake_some(1);
        }
        self.fibers[f].segment.stall(self.now, stall);
        let forks = self.tree.extent(self.fibers[half].segment.task()).forks;
        let delay = if forks > 1 { self.wake_some(1) } else { 0 };
        self.after(delay + self.costs.claim + self.costs.start, Event::Go(w, half));
    }

    fn may_go_on(&self, w: usize) -> bool {
        let half = self.workers[w].blocked.last().and_then(|&f| self.fibers[f].joins.last());
        half.is_some_and(|&h| self.fibers[h].finished)
    }

    /// The fiber below on this worker's stack goes on after `delay`; without one, or if its half is not done, the worker
    /// searches.
    pub(super) fn return_to_blocked(&mut self, w: usize, delay: Ps) {
        if self.may_go_on(w) {
            let f = self.workers[w].blocked.pop().expect("a blocked fiber may go on");
            self.after(delay, Event::Go(w, f));
        } else {
            self.search(w, delay);
        }
    }

    /// Wakes `w` if it sleeps while the half it waits for is done; what that costs the waker.
    pub(super) fn rouse(&mut self, w: usize) -> Ps {
        let Some(i) = self.sleepers.iter().position(|&s| s == w) else { return 0 };
        self.sleepers.remove(i);
        self.woken(w, 0);
        self.costs.wake_send
    }
}
