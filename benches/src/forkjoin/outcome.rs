//! What was measured of a workload, and the figures that come of it. Whatever compares two contenders is formed within each
//! round first.

use super::{catalogue::Case, contender::Contender, join::Counters};
use crate::stats::{Summary, paired, summarise};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Which round.
    pub round: usize,
    /// Who.
    pub who: Contender,
    /// How many workers; 1 for the serial program.
    pub workers: usize,
    /// Wall time, ns.
    pub wall: f64,
    /// CPU time of the process, ns.
    pub cpu: f64,
    /// What ours counts.
    pub counters: Option<Counters>,
}

/// By which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The time of day.
    Wall,
    /// CPU time of the process: on a machine with other work it says more.
    Cpu,
}

/// A workload and its measurements.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub case: &'static Case,
    /// Its size, for people.
    pub size: &'static str,
    /// Forks of one run.
    pub spawns: u64,
    /// Who was measured with how many workers, without the serial program.
    pub lines: Vec<(Contender, usize)>,
    /// All measurements.
    pub runs: Vec<Run>,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// Values by round.
pub type Values = Vec<(usize, f64)>;

/// With fewer forks than this, the time of a fork drowns in that of the work.
const FEW: u64 = 10_000;

impl Outcome {
    fn values(&self, (who, workers): (Contender, usize), of: impl Fn(&Run) -> f64) -> Values {
        let runs = self.runs.iter().filter(|run| run.who == who && run.workers == workers);
        runs.map(|run| (run.round, of(run))).collect()
    }

    /// Wall times in ns.
    pub fn wall(&self, line: (Contender, usize)) -> Values {
        self.values(line, |run| run.wall)
    }

    /// CPU times of the process in ns.
    pub fn cpu(&self, line: (Contender, usize)) -> Values {
        self.values(line, |run| run.cpu)
    }

    fn serial(&self) -> Values {
        self.wall((Contender::Serial, 1))
    }

    /// Wall time over that of the serial program.
    pub fn over_serial(&self, line: (Contender, usize)) -> Option<Summary> {
        paired(&self.wall(line), &self.serial(), |t, serial| t / serial)
    }

    /// Wall time over that of the same contender with one worker; `None` for one worker.
    pub fn over_one(&self, (who, workers): (Contender, usize)) -> Option<Summary> {
        let one = if workers == 1 { Values::new() } else { self.wall((who, 1)) };
        paired(&self.wall((who, workers)), &one, |t, one| t / one)
    }

    /// Wall time over that of rayon with as many workers; `None` for rayon.
    pub fn over_rayon(&self, (who, workers): (Contender, usize)) -> Option<Summary> {
        let rayon =
            if who == Contender::Rayon { Values::new() } else { self.wall((Contender::Rayon, workers)) };
        paired(&self.wall((who, workers)), &rayon, |t, rayon| t / rayon)
    }

    /// What a fork costs on one worker: (time − serial time) / forks, ns; none with few forks.
    pub fn ns_per_fork(&self, who: Contender, clock: Clock) -> Values {
        if self.spawns < FEW {
            return Values::new();
        }
        let of = |who| self.values((who, 1), |run| if clock == Clock::Wall { run.wall } else { run.cpu });
        let serial = of(Contender::Serial);
        let at = |round| serial.iter().find(|&&(r, _)| r == round).map(|&(_, v)| v);
        let times = of(who).into_iter();
        times.filter_map(|(round, t)| Some((round, (t - at(round)?) / self.spawns as f64))).collect()
    }

    /// [`Outcome::ns_per_fork`] over rayon's; `None` for rayon.
    pub fn fork_over_rayon(&self, who: Contender, clock: Clock) -> Option<Summary> {
        let of = |who| self.ns_per_fork(who, clock);
        let rayon = if who == Contender::Rayon { Values::new() } else { of(Contender::Rayon) };
        paired(&of(who), &rayon, |ns, rayon| ns / rayon)
    }

    /// Counters, all rounds together.
    pub fn counters(&self, (who, workers): (Contender, usize)) -> Option<Counters> {
        let runs = self.runs.iter().filter(|run| run.who == who && run.workers == workers);
        runs.filter_map(|run| run.counters).reduce(|a, b| Counters {
            steal_requests: a.steal_requests + b.steal_requests,
            forks_stolen: a.forks_stolen + b.forks_stolen,
        })
    }
}

/// The summary of values without their rounds.
pub fn summary(values: &[(usize, f64)]) -> Option<Summary> {
    summarise(values.iter().map(|&(_, v)| v))
}

#[cfg(test)]
mod tests {
    use super::{super::catalogue::CASES, *};

    #[test]
    fn figures_are_formed_within_rounds() {
        let run = |round, who, workers, wall| Run { round, who, workers, wall, cpu: wall, counters: None };
        let (rayon, lazy) = (Contender::Rayon, Contender::Lazy);
        let outcome = Outcome {
            case: &CASES[0],
            size: "",
            spawns: 100_000,
            lines: vec![(rayon, 1), (lazy, 1), (lazy, 2)],
            runs: vec![
                run(0, Contender::Serial, 1, 1e6),
                run(0, rayon, 1, 3e6),
                run(0, lazy, 1, 2e6),
                run(0, lazy, 2, 1e6),
                // Twice as slow a round, in which rayon failed.
                run(1, Contender::Serial, 1, 2e6),
                run(1, lazy, 1, 4e6),
                run(1, lazy, 2, 2e6),
            ],
            failures: Vec::new(),
        };
        let median = |s: Option<Summary>| s.map(|s| (s.median, s.count));
        assert_eq!(median(outcome.over_serial((lazy, 1))), Some((2.0, 2)));
        assert_eq!(median(outcome.over_one((lazy, 2))), Some((0.5, 2)));
        assert_eq!(median(outcome.over_one((lazy, 1))), None);
        assert_eq!(outcome.ns_per_fork(lazy, Clock::Wall), [(0, 10.0), (1, 20.0)]);
        assert_eq!(median(outcome.fork_over_rayon(lazy, Clock::Cpu)), Some((0.5, 1)));
        assert_eq!(median(outcome.fork_over_rayon(rayon, Clock::Wall)), None);
    }
}
