//! Workers, the clock and joins: what lazy and eager stealing have in common.
//!
//! A program is a number of regions, each a whole tree, with serial work before each. One event is under way for every
//! worker that is not asleep or waiting for an answer; a worker that runs a fiber has the event of its segment's end, which
//! is looked at again if the fiber was disturbed meanwhile, and is void if it was stolen from (`version`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::costs::{Costs, Protocol, Ps};
use super::fiber::{Fiber, FiberId, Pace, Segment};
use super::rng::Rng;
use super::tree::{Extent, Tree};

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Time of a unit of work.
    pub grain: Ps,
    /// How many times the tree is run, one after the other.
    pub regions: u64,
    /// Serial work before each region.
    pub gap: Ps,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// From the beginning to the end of the last region.
    pub time: Ps,
    /// Descriptors that were handed over.
    pub steals: u64,
    /// Interrupts sent.
    pub interrupts: u64,
    /// Requests that were not answered with work.
    pub refusals: u64,
    /// Time that interrupts took from workers that ran a fiber.
    pub lost: Ps,
    /// Time that workers lost to thieves that read their bounds, or took from their deque.
    pub disturbed: Ps,
    /// Sleepers woken.
    pub wakes: u64,
    /// Fibers that came to a join whose other half was not done.
    pub waits: u64,
    /// What the workers did, all together.
    pub done: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The region's serial work is done.
    Region(usize),
    /// The worker begins the fiber, or goes on with it after a join.
    Go(usize, FiberId),
    /// The worker's segment is done, if the version is still the same.
    Done(usize, u64),
    /// The worker has read a victim's bounds.
    Probe(usize),
    /// An interrupt arrives; its request counts if the mailbox still holds this ticket.
    Deliver(usize, u64),
    /// A thief sees the answer of this victim.
    Answer(usize, usize, Option<FiberId>),
    /// A sleeper has woken up.
    Woken(usize),
    /// The timer.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Runs a fiber.
    Run(FiberId),
    /// Serial work, or a step between two fibers; an event is under way.
    Busy,
    /// Looks for work; the time is when it gives up and sleeps.
    Search(Ps),
    /// Has interrupted a victim and waits; searching ends when it would have ended.
    Ask(Ps),
    /// Sleeps.
    Sleep,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub doing: Doing,
    pub version: u64,
    /// Lazy: the thief that has claimed it, and the ticket of its interrupt.
    pub mailbox: Option<(usize, u64)>,
    /// Lazy: it is not interrupted before.
    pub rested_from: Ps,
    /// Eager: a thief's CAS is under way until then.
    pub taken_until: Ps,
    /// From when on another look at its bounds costs it a cache miss again.
    pub clean_from: Ps,
    /// Eager: fibers blocked on its stack, innermost last.
    pub blocked: Vec<FiberId>,
}

pub(super) struct Machine<'a, T: Tree> {
    pub tree: &'a T,
    pub costs: &'a Costs,
    pub pace: Pace,
    pub program: Program,
    pub now: Ps,
    pub workers: Vec<Worker>,
    pub fibers: Vec<Fiber<T::Task>>,
    pub sleepers: Vec<usize>,
    /// Workers that search, ask or are being woken.
    pub searching: usize,
    pub region_since: Ps,
    pub tickets: u64,
    /// How long a worker searches before it sleeps.
    pub spin: Ps,
    /// Time between two writes of a worker to its bounds, on average.
    pub write_period: Ps,
    pub rng: Rng,
    pub out: Outcome,
    pub regions_left: u64,
    pub over: bool,
    events: BinaryHeap<Reverse<(Ps, u64, Event)>>,
    scheduled: u64,
}

/// Runs `program` on `workers`; the first one begins it.
///
/// # Panics
///
/// If work is lost, done twice, or a stolen descriptor is not run exactly once: a bug of the model.
pub fn simulate<T: Tree>(tree: &T, program: Program, costs: &Costs, workers: usize, seed: u64) -> Outcome {
    let root = tree.extent(tree.root());
    let pace = Pace { grain: program.grain, spawn: costs.spawn };
    let worker = |doing| Worker {
        doing,
        version: 0,
        mailbox: None,
        rested_from: 0,
        taken_until: 0,
        clean_from: 0,
        blocked: Vec::new(),
    };
    let mut machine = Machine {
        tree,
        costs,
        pace,
        program,
        now: 0,
        workers: (0..workers)
            .map(|w| worker(if w == 0 || costs.awake { Doing::Busy } else { Doing::Sleep }))
            .collect(),
        fibers: Vec::new(),
        sleepers: if costs.awake { Vec::new() } else { (1..workers).rev().collect() },
        searching: 0,
        region_since: 0,
        tickets: 0,
        spin: match costs.protocol {
            Protocol::Lazy => costs.spin,
            // rayon: 32 fruitless rounds, each over all victims.
            Protocol::Eager => costs.spin.max(32 * workers as u64 * costs.probe),
        },
        // A join writes twice: at push and at pop.
        write_period: pace.time(root) / (2 * root.forks).max(1),
        rng: Rng::new(seed),
        out: Outcome::default(),
        regions_left: program.regions,
        over: program.regions == 0,
        events: BinaryHeap::new(),
        scheduled: 0,
    };
    machine.at(program.gap, Event::Region(0));
    if costs.awake {
        (1..workers).for_each(|w| machine.search(w, 0));
    }
    if costs.protocol == Protocol::Lazy && workers > 1 {
        machine.at(costs.tick, Event::Tick);
    }
    machine.run();
    let all = Extent { nodes: root.nodes * program.regions, forks: root.forks * program.regions };
    assert_eq!(machine.out.done, all, "the work done is not the program's");
    machine.out
}

impl<T: Tree> Machine<'_, T> {
    fn run(&mut self) {
        while !self.over {
            let Reverse((time, _, event)) =
                self.events.pop().expect("a program that is not over has an event under way");
            self.now = time;
            match event {
                Event::Region(w) => self.begin_region(w),
                Event::Go(w, f) => self.go(w, f),
                Event::Done(w, version) if version == self.workers[w].version => self.done(w),
                Event::Done(..) => {}
                Event::Probe(w) => self.probe(w),
                Event::Deliver(w, ticket) => self.deliver(w, ticket),
                Event::Answer(w, victim, answer) => self.answered(w, victim, answer),
                Event::Woken(w) => self.search(w, 0),
                Event::Tick => self.tick(),
            }
        }
    }

    pub(super) fn at(&mut self, time: Ps, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((time, self.scheduled, event)));
    }

    pub(super) fn after(&mut self, time: Ps, event: Event) {
        self.at(self.now + time, event);
    }

    /// The worker has nothing to run: it looks for work after `delay`.
    pub(super) fn search(&mut self, w: usize, delay: Ps) {
        self.withdraw(w);
        if self.workers[w].doing != Doing::Sleep {
            self.searching += 1;
        }
        self.workers[w].doing = Doing::Search(self.now + delay + self.spin);
        self.after(delay + self.costs.probe, Event::Probe(w));
    }

    /// Puts a worker that has found nothing to sleep.
    pub(super) fn sleep(&mut self, w: usize) {
        self.searching -= 1;
        self.workers[w].doing = Doing::Sleep;
        self.sleepers.push(w);
    }

    /// Wakes up to `n` sleepers; what that costs the waker.
    pub(super) fn wake_some(&mut self, n: u32) -> Ps {
        let mut cost = 0;
        for _ in 0..n {
            let Some(w) = self.sleepers.pop() else { break };
            self.woken(w, cost);
            cost += self.costs.wake_send;
        }
        cost
    }

    /// `w`, no longer among the sleepers, is woken by a call that begins after `delay`.
    pub(super) fn woken(&mut self, w: usize, delay: Ps) {
        self.out.wakes += 1;
        self.searching += 1;
        self.after(delay + self.costs.wake, Event::Woken(w));
    }

    /// Some other worker.
    pub(super) fn any_other(&mut self, w: usize) -> usize {
        let v = self.rng.below(self.workers.len() as u64 - 1) as usize;
        v + usize::from(v >= w)
    }

    /// A thief has read the bounds of `v`: does it run a fiber with a pending descriptor?
    pub(super) fn looked_at(&mut self, v: usize) -> bool {
        let Doing::Run(f) = self.workers[v].doing else { return false };
        let pending = self.pending(f);
        if self.now >= self.workers[v].clean_from {
            // However many look, the line is lost once per write of its owner.
            self.workers[v].clean_from = self.now + self.write_period.max(2 * self.costs.disturb);
            self.out.disturbed += self.costs.disturb;
            self.fibers[f].segment.stall(self.now, self.costs.disturb);
        }
        pending
    }

    pub(super) fn pending(&mut self, f: FiberId) -> bool {
        self.fibers[f].segment.advance(self.tree, self.pace, self.now, &mut self.out.done)
    }

    /// The oldest descriptor of the fiber that `v` runs, made a fiber.
    pub(super) fn take(&mut self, v: usize) -> Option<FiberId> {
        let Doing::Run(f) = self.workers[v].doing else { return None };
        let task = self.fibers[f].segment.take(self.tree, self.pace, self.now, &mut self.out.done)?;
        let half = self.fibers.len();
        self.fibers.push(Fiber::new(Segment::new(self.tree, self.pace, task)));
        self.fibers[f].joins.push(half);
        self.schedule_end(v, f);
        Some(half)
    }

    /// What a searcher does next.
    fn probe(&mut self, w: usize) {
        match self.costs.protocol {
            Protocol::Lazy => self.probe_lazily(w),
            Protocol::Eager => self.probe_eagerly(w),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::costs::{NS, US, sets};
    use crate::scaling::fib::Fib;
    use crate::scaling::uts::Uts;

    const ONCE: Program = Program { grain: NS, regions: 1, gap: 0 };

    #[test]
    fn one_worker_takes_the_serial_time_and_the_spawns() {
        let tree = Fib::new(22, 2);
        let Extent { nodes, forks } = tree.extent(tree.root());
        let program = Program { grain: 3 * NS, regions: 7, gap: 11 * US };
        for costs in sets() {
            let out = simulate(&tree, program, &costs, 1, 1);
            assert_eq!(out.time, 7 * (11 * US + nodes * 3 * NS + forks * costs.spawn), "{}", costs.name);
            assert_eq!((out.steals, out.interrupts, out.lost, out.disturbed), (0, 0, 0, 0));
        }
    }

    /// `simulate` itself asserts that all work is done once and that every stolen descriptor is run.
    #[test]
    fn work_is_conserved_and_the_seed_decides_everything() {
        let (fib, uts) = (Fib::new(24, 2), Uts::binomial(30_000, 5));
        for costs in sets() {
            for workers in [2, 3, 16, 256] {
                let program = Program { grain: 10 * NS, regions: 3, gap: 10 * US };
                let runs = |seed| {
                    (
                        simulate(&fib, program, &costs, workers, seed),
                        simulate(&uts, program, &costs, workers, seed),
                    )
                };
                let (a, b) = runs(9);
                assert_eq!((a, b), runs(9), "{} on {workers}", costs.name);
                assert!(a.steals > 0 && b.steals > 0, "{} on {workers}", costs.name);
                for o in [a, b] {
                    if costs.protocol == Protocol::Lazy {
                        // Requests may be open at the end, one a worker.
                        let open = o.interrupts - (o.steals + o.refusals);
                        assert!(open < workers as u64, "{} on {workers}: {open}", costs.name);
                    } else {
                        assert_eq!(o.interrupts, 0);
                    }
                }
            }
            let at = |seed| simulate(&fib, ONCE, &costs, 16, seed).time;
            assert!((1..20).any(|seed| at(seed) != at(0)), "{}: the seed has no effect", costs.name);
        }
    }

    /// What any schedule is bound to: no faster than the work (with its spawns) divided by the workers.
    #[test]
    fn no_run_beats_the_ideal() {
        let tree = Fib::new(25, 2);
        let work = |costs: &Costs| {
            let e = tree.extent(tree.root());
            e.nodes * NS + e.forks * costs.spawn
        };
        for costs in sets() {
            for workers in [1, 2, 8, 64] {
                let out = simulate(&tree, ONCE, &costs, workers, 3);
                let busy = work(&costs) + out.lost + out.disturbed;
                assert!(out.time * workers as u64 >= busy, "{} on {workers}", costs.name);
            }
        }
    }

    #[test]
    fn two_workers_share_a_long_computation_evenly() {
        let tree = Fib::new(32, 2);
        for costs in sets() {
            let one = simulate(&tree, ONCE, &costs, 1, 1).time as f64;
            let two = simulate(&tree, ONCE, &costs, 2, 1).time as f64;
            assert!((0.5..0.56).contains(&(two / one)), "{}: {}", costs.name, two / one);
        }
    }

    #[test]
    fn regions_shorter_than_a_tick_wake_nobody() {
        let tree = Fib::new(18, 2);
        let program = Program { grain: NS, regions: 50, gap: 10 * US };
        for costs in sets() {
            let out = simulate(&tree, program, &costs, 8, 1);
            assert_eq!(out.wakes == 0, costs.protocol == Protocol::Lazy, "{}", costs.name);
        }
    }
}
