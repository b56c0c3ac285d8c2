//! The table of what is measured: rows, their contenders, sizes, and what was asked of ours.
//!
//! A row does not know how its contenders work; [`crate::work`] and the programs under `go/` and `cpp/` do, by the row's
//! id and the contender's name.

use Bound::{AtLeast, AtMost, Plus, Times};
use Program::{Boost, Go, Jemalloc, Masked, Mimalloc, System};

/// The program that runs a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// The Rust workloads with the system's allocator.
    System,
    /// The same with `unyield::alloc::Masked` around it.
    Masked,
    /// The same with jemalloc.
    Jemalloc,
    /// The same with mimalloc.
    Mimalloc,
    /// `go/main.go`.
    Go,
    /// `cpp/boost_fiber.cpp`.
    Boost,
}

/// Who is measured.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// Its name, in reports and in requests.
    pub name: &'static str,
    /// Where it runs.
    pub program: Program,
    /// Measured in the first round only: what it shows does not vary.
    pub once: bool,
}

impl Contender {
    /// Whether our runtime is measured, so that a failure is ours.
    pub fn is_ours(&self) -> bool {
        !PEERS.contains(&self.name)
    }
}

const PEERS: &[&str] =
    &["go", "may", "tokio", "tokio-ct", "boost", "threads", "ticker-1ms", "ticker-100us", "glibc-threads"];

const fn of(name: &'static str, program: Program) -> Contender {
    Contender { name, program, once: false }
}

const fn once(name: &'static str, program: Program) -> Contender {
    Contender { name, program, once: true }
}

/// Which CPUs a row may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// As many CPUs as workers, worker i on the i-th of them; every other thread of the process shares these.
    Tight,
    /// Worker i on the i-th CPU from the end; other threads (timers, generators, drivers) go where they like.
    Loose,
}

/// What was asked of one of our contenders.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Whose figure.
    pub ours: &'static str,
    /// Which figure.
    pub metric: &'static str,
    /// The limit.
    pub bound: Bound,
}

/// A limit.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// At most this many times the peer's, by the median over rounds.
    Times(f64, &'static str),
    /// At most this much more than the peer's, by the median over rounds.
    Plus(f64, &'static str),
    /// At most this, by the median.
    AtMost(f64),
    /// At least this, by the median.
    AtLeast(f64),
}

/// One row: a workload and who is measured on it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Names the row in `--filter`, in requests and in the CSV.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// Worker counts; those the user asked for instead if there are several.
    pub workers: &'static [usize],
    /// CPUs.
    pub placement: Placement,
    /// Size handed to the workload, and the one for `--quick`.
    pub n: u64,
    /// See `n`.
    pub quick: u64,
    /// Upper limit of rounds, for rows that take long or do not vary.
    pub max_rounds: usize,
    /// A fresh process for every measurement.
    pub fresh: bool,
    /// How many times the usual time limit a measurement may take.
    pub patience: u32,
    /// Who.
    pub contenders: &'static [Contender],
    /// What was asked.
    pub targets: &'static [Target],
}

const PER_OP: Row = Row {
    id: "",
    title: "",
    workers: &[1],
    placement: Placement::Tight,
    n: 0,
    quick: 0,
    max_rounds: usize::MAX,
    fresh: false,
    patience: 1,
    contenders: &[],
    targets: &[],
};

const fn ours(metric: &'static str, bound: Bound) -> Target {
    Target { ours: "unyield", metric, bound }
}

/// All rows, in the order in which they run.
pub const ROWS: &[Row] = &[
    Row {
        id: "yield",
        title: "yield between 2 fibers, per yield",
        n: 200_000,
        quick: 20_000,
        contenders: &[
            of("unyield", System),
            of("go", Go),
            of("may", System),
            of("tokio-ct", System),
            of("boost", Boost),
            of("threads", System),
        ],
        targets: &[ours("cpu", Times(0.8, "go")), ours("cpu", Times(0.8, "may"))],
        ..PER_OP
    },
    Row {
        id: "spawn-batch",
        title: "spawn 1,000 empty tasks from a fiber, then join them, per task",
        n: 100_000,
        quick: 10_000,
        contenders: SPAWNERS,
        targets: &[ours("cpu", Times(0.7, "tokio-ct")), ours("cpu", Times(0.7, "go"))],
        ..PER_OP
    },
    Row {
        id: "spawn-one",
        title: "spawn an empty task from a fiber and join it, one at a time",
        n: 100_000,
        quick: 10_000,
        contenders: SPAWNERS,
        targets: &[ours("cpu", Times(0.7, "tokio-ct")), ours("cpu", Times(0.7, "go"))],
        ..PER_OP
    },
    Row {
        id: "channel",
        title: "channel round trip between 2 fibers",
        n: 100_000,
        quick: 10_000,
        contenders: HANDERS,
        targets: &[ours("cpu", Times(1.0, "boost"))],
        ..PER_OP
    },
    Row {
        id: "mutex",
        title: "mutex hand-off between 2 fibers (each yields while it holds), per lock",
        n: 100_000,
        quick: 10_000,
        contenders: HANDERS,
        targets: &[ours("cpu", Times(1.0, "boost"))],
        ..PER_OP
    },
    Row {
        id: "skynet",
        title: "skynet: a tree of tasks, 10 children each, sums over channels, per leaf",
        workers: &[1, 2],
        n: 1_000_000,
        quick: 10_000,
        contenders: &[
            of("unyield", System),
            of("unyield-join", System),
            of("tokio", System),
            of("go", Go),
            of("may", System),
        ],
        targets: &[ours("wall", Times(0.8, "tokio")), ours("cpu", Times(0.8, "tokio"))],
        ..PER_OP
    },
    Row {
        id: "starve",
        title: "one worker: an endless loop, then 1,000 short fibers; time until all are done",
        placement: Placement::Loose,
        n: 1_000,
        quick: 1_000,
        contenders: &[
            of("unyield", System),
            of("go", Go),
            of("threads", System),
            once("tokio", System),
            once("may", System),
        ],
        targets: &[ours("quanta", AtMost(20.0))],
        ..PER_OP
    },
    Row {
        id: "preempt",
        title: "cost of a preemption: 2 computing fibers on 1 worker, against a thread that is sent as many signals",
        placement: Placement::Loose,
        n: 1_000,
        quick: 200,
        contenders: &[
            of("unyield-1ms", System),
            of("ticker-1ms", System),
            of("unyield-100us", System),
            of("ticker-100us", System),
        ],
        targets: &[
            Target { ours: "unyield-1ms", metric: "worker", bound: Plus(2.0, "ticker-1ms") },
            Target { ours: "unyield-100us", metric: "worker", bound: Plus(2.0, "ticker-100us") },
        ],
        ..PER_OP
    },
    Row {
        id: "malloc",
        title: "200 fibers that allocate and free on one worker, per pair",
        placement: Placement::Loose,
        n: 400,
        quick: 50,
        contenders: &[
            of("off", System),
            of("1ms", System),
            of("100us", System),
            of("masked-off", Masked),
            of("masked-1ms", Masked),
            of("masked-100us", Masked),
        ],
        targets: &[
            Target { ours: "1ms", metric: "wall", bound: Times(1.3, "off") },
            Target { ours: "masked-1ms", metric: "wall", bound: Times(1.3, "masked-off") },
        ],
        ..PER_OP
    },
    Row {
        id: "parked",
        title: "100,000 parked fibers, memory of each (may 30,000, threads 10,000: more do not fit)",
        placement: Placement::Loose,
        n: 100_000,
        quick: 2_000,
        max_rounds: 3,
        fresh: true,
        patience: 3,
        contenders: &[
            of("unyield", System),
            of("go", Go),
            of("tokio", System),
            of("may", System),
            of("boost", Boost),
            of("threads", System),
        ],
        targets: &[ours("total", AtMost(10_240.0))],
        ..PER_OP
    },
    Row {
        id: "parked-mprotect",
        title: "30,000 parked fibers whose guard pages are made by mprotect, memory of each",
        placement: Placement::Loose,
        n: 30_000,
        quick: 2_000,
        max_rounds: 3,
        fresh: true,
        patience: 3,
        contenders: &[of("unyield", System)],
        ..PER_OP
    },
    Row {
        id: "parked-allocated",
        title: "10,000 parked fibers that have allocated, memory of each, by allocator",
        placement: Placement::Loose,
        n: 10_000,
        quick: 500,
        max_rounds: 3,
        fresh: true,
        patience: 3,
        contenders: &[
            of("glibc", System),
            of("jemalloc", Jemalloc),
            of("mimalloc", Mimalloc),
            of("glibc-threads", System),
        ],
        ..PER_OP
    },
    Row {
        id: "critical",
        title: "an empty critical section in a fiber, and what else could mask (clui-stui traps where there are no User Interrupts)",
        fresh: true,
        n: 20_000_000,
        quick: 1_000_000,
        contenders: &[
            of("unyield", System),
            of("counter-pair", System),
            of("counter-pair-rmw", System),
            of("atomic-flag-pair", System),
            of("sigmask-pair", System),
            of("clui-stui", System),
            of("polling", System),
            of("empty-loop", System),
        ],
        targets: &[ours("cpu", Times(1.1, "counter-pair")), ours("cpu", Times(1.1, "counter-pair-rmw"))],
        ..PER_OP
    },
    Row {
        id: "blocking",
        title: "50 fibers in blocking reads beside a computing one on one worker: its speed, and CPU when all are blocked",
        placement: Placement::Loose,
        n: 1_000,
        quick: 200,
        max_rounds: 5,
        contenders: &[of("unyield", System), of("go", Go), of("threads", System)],
        targets: &[ours("speed", AtLeast(90.0)), ours("idle-cpu", AtMost(0.1))],
        ..PER_OP
    },
    Row {
        id: "lone",
        title: "a lone computing fiber, the other workers idle: handler entries",
        workers: &[2],
        placement: Placement::Loose,
        n: 10_000,
        quick: 500,
        max_rounds: 1,
        contenders: &[of("unyield", System)],
        targets: &[ours("interrupts", AtMost(0.0))],
        ..PER_OP
    },
];

const SPAWNERS: &[Contender] = &[
    of("unyield", System),
    of("tokio-ct", System),
    of("tokio", System),
    of("go", Go),
    of("may", System),
    of("boost", Boost),
];

const HANDERS: &[Contender] = &[
    of("unyield", System),
    of("boost", Boost),
    of("go", Go),
    of("may", System),
    of("tokio-ct", System),
    of("tokio", System),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_targets_name_contenders() {
        let ids: HashSet<_> = ROWS.iter().map(|r| r.id).collect();
        assert_eq!(ids.len(), ROWS.len());
        for row in ROWS {
            let has = |name| row.contenders.iter().any(|c| c.name == name);
            for t in row.targets {
                assert!(has(t.ours), "{}: {}", row.id, t.ours);
                if let Times(_, peer) | Plus(_, peer) = t.bound {
                    assert!(has(peer), "{}: {peer}", row.id);
                }
            }
        }
    }
}
