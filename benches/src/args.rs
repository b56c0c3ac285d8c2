//! The command line of the benches. One for all of them: `cargo bench -- FLAGS` hands the same flags to each.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, value_parser};

use crate::{forkjoin::catalogue::CASES, rows::ROWS};

/// Flags of every bench.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Rounds; each measures every contender of a row once [default: 15; 3 with --quick].
    #[arg(long, value_parser = value_parser!(u64).range(1..))]
    pub rounds: Option<u64>,
    /// Only rows whose id contains one of these (see --list).
    #[arg(long, value_delimiter = ',')]
    pub filter: Vec<String>,
    /// Worker counts for the rows that scale.
    #[arg(long, value_delimiter = ',', default_values = ["1", "2"])]
    pub workers: Vec<NonZeroUsize>,
    /// Small sizes and 3 rounds: shows that everything works, and little about speed.
    #[arg(long)]
    pub quick: bool,
    /// List the rows and stop.
    #[arg(long)]
    pub list: bool,
    /// Seconds after which a measurement counts as hung.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Where results and the children's stderr go [default: unyield-benches in the target folder].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Fork-join only: our runtime's quantum in µs, 20 to 10000000 [default: the runtime's].
    #[arg(long, value_name = "µs", value_parser = value_parser!(u64).range(20..=10_000_000))]
    pub quantum: Option<u64>,
    /// Fork-join only: so many fibers compute beside the workload on our runtime; its times are informative then.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u64).range(0..=10_000))]
    pub fibers: u64,
    /// What cargo passes to every bench; ignored.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// What a filter leaves of a bench's rows.
#[derive(Debug, PartialEq, Eq)]
pub enum Chosen<T> {
    /// These.
    Some(Vec<T>),
    /// None, but rows of another bench.
    Elsewhere,
    /// Nothing anywhere.
    Nothing,
}

impl Flags {
    /// As asked for, else by `--quick`.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 15 }) as usize
    }

    /// Numbers of workers.
    pub fn workers(&self) -> Vec<usize> {
        self.workers.iter().map(|w| w.get()).collect()
    }

    /// After which a measurement counts as hung.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Our quantum for the fork-join benchmarks.
    pub fn quantum(&self) -> Option<Duration> {
        self.quantum.map(Duration::from_micros)
    }

    /// Those of `mine` that the filter names.
    pub fn choose<T: Copy>(
        &self,
        mine: impl Iterator<Item = T>,
        id: impl Fn(T) -> &'static str,
    ) -> Chosen<T> {
        let named = |id: &str| self.filter.is_empty() || self.filter.iter().any(|f| id.contains(f.as_str()));
        let chosen: Vec<T> = mine.filter(|&row| named(id(row))).collect();
        let mut all = ROWS.iter().map(|row| row.id).chain(CASES.iter().map(|case| case.id));
        match chosen.is_empty() {
            false => Chosen::Some(chosen),
            true if all.any(named) => Chosen::Elsewhere,
            true => Chosen::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn a_filter_may_mean_another_bench() {
        let choose = |filter: &str| {
            let flags = Program::parse_from(["bench", "--filter", filter]).flags;
            flags.choose(CASES.iter().map(|case| case.id), |id| id)
        };
        assert_eq!(choose("nqueens,fib"), Chosen::Some(vec!["fib", "nqueens"]));
        assert_eq!(choose(ROWS[0].id), Chosen::Elsewhere);
        assert_eq!(choose("no such row"), Chosen::Nothing);
    }
}
