//! Lazy stealing: the thief claims the victim's mailbox and interrupts it; the victim's handler hands over or refuses.

use super::costs::Ps;
use super::machine::{Doing, Event, Machine};
use super::tree::Tree;

impl<T: Tree> Machine<'_, T> {
    /// A thief asks the victim it has looked at, or tries another one.
    pub(super) fn probe_lazily(&mut self, w: usize) {
        let Doing::Search(until) = self.workers[w].doing else { unreachable!("only a searcher probes") };
        if self.now >= until {
            return self.sleep(w);
        }
        let v = self.any_other(w);
        let rested = self.now >= self.workers[v].rested_from;
        if self.looked_at(v) && self.workers[v].mailbox.is_none() && rested {
            self.tickets += 1;
            self.workers[v].rested_from = self.now + self.costs.rest;
            self.workers[v].mailbox = Some((w, self.tickets));
            self.workers[w].doing = Doing::Ask(until);
            self.out.interrupts += 1;
            self.after(self.costs.claim + self.costs.deliver, Event::Deliver(v, self.tickets));
        } else {
            self.after(self.costs.probe, Event::Probe(w));
        }
    }

    /// The handler of `v`. The interrupt costs it the same whether or not there is a request left to answer.
    pub(super) fn deliver(&mut self, v: usize, ticket: u64) {
        let answer =
            self.workers[v].mailbox.take_if(|m| m.1 == ticket).map(|(thief, _)| (thief, self.take(v)));
        if let Doing::Run(f) = self.workers[v].doing {
            self.out.lost += self.costs.handler;
            self.fibers[f].segment.stall(self.now, self.costs.handler);
        }
        if let Some((thief, half)) = answer {
            // The thief may still be in the call that sends.
            let sent = self.costs.send.saturating_sub(self.costs.deliver);
            self.after(self.costs.reply.max(sent), Event::Answer(thief, v, half));
        }
    }

    /// A worker that stops running answers its own mailbox, with no; the interrupt still comes.
    pub(super) fn withdraw(&mut self, w: usize) {
        if let Some((thief, _)) = self.workers[w].mailbox.take() {
            self.after(self.costs.reply.max(self.costs.send), Event::Answer(thief, w, None));
        }
    }

    /// The thief runs what it got, after waking others if there is more; or goes on searching.
    pub(super) fn answered(&mut self, w: usize, victim: usize, answer: Option<usize>) {
        let Doing::Ask(until) = self.workers[w].doing else { unreachable!("only who asks is answered") };
        let Some(half) = answer else {
            self.out.refusals += 1;
            self.workers[w].doing = Doing::Search(until);
            return self.after(self.costs.probe, Event::Probe(w));
        };
        self.out.steals += 1;
        self.searching -= 1;
        self.workers[w].doing = Doing::Busy;
        let delay = self.wake_if_more(victim);
        self.after(delay + self.costs.start, Event::Go(w, half));
    }

    fn wake_if_more(&mut self, victim: usize) -> Ps {
        let Doing::Run(f) = self.workers[victim].doing else { return 0 };
        if self.sleepers.is_empty() || !self.pending(f) { 0 } else { self.wake_some(self.costs.wakes) }
    }

    /// The timer wakes a sleeper if the region has lasted for a period and somebody shows work.
    pub(super) fn tick(&mut self) {
        if !self.sleepers.is_empty() && self.now - self.region_since >= self.costs.tick {
            let shows = (0..self.workers.len()).any(|w| match self.workers[w].doing {
                Doing::Run(f) => self.pending(f),
                _ => false,
            });
            if shows {
                self.wake_some(1);
            }
        }
        self.after(self.costs.tick, Event::Tick);
    }
}
