//! Rounds: within a round every contender of a row is measured once, in an order that rotates from round to round, so
//! that a disturbance of the machine falls on all of them alike.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    os,
    peers::{Children, Cpus, Paths, Programs},
    proto::Sample,
    rows::{Contender, Row},
};

/// What to run and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rows, in order.
    pub rows: Vec<&'static Row>,
    /// Rounds per row, unless the row limits them.
    pub rounds: usize,
    /// Worker counts for rows that have several.
    pub workers: Vec<usize>,
    /// Small sizes.
    pub quick: bool,
    /// Time limit of one measurement.
    pub limit: Duration,
}

/// What became of one row with one number of workers.
#[derive(Clone, Debug)]
pub struct RowResult {
    /// Which.
    pub row: &'static Row,
    /// Workers.
    pub workers: usize,
    /// Size handed to the workloads.
    pub n: u64,
    /// Rounds done.
    pub rounds: usize,
    /// Round and sample.
    pub samples: Vec<(usize, Sample)>,
    /// Contenders whose program cannot be had here, and why.
    pub missing: Vec<(&'static str, String)>,
    /// Contender, round, and what went wrong.
    pub failures: Vec<(&'static str, usize, String)>,
}

impl RowResult {
    /// Values of one metric of one contender, by round.
    pub fn values(&self, contender: &str, metric: &str) -> Vec<(usize, f64)> {
        let wanted = |s: &Sample| s.contender == contender && s.metric == metric;
        self.samples.iter().filter(|(_, s)| wanted(s)).map(|(round, s)| (*round, s.value)).collect()
    }
}

/// A contender that failed this often is left out of the rounds that remain.
const MAX_FAILURES: usize = 2;

impl Plan {
    fn workers_of(&self, row: &Row) -> Vec<usize> {
        if row.workers.len() > 1 { self.workers.clone() } else { row.workers.to_vec() }
    }

    fn rounds_of(&self, row: &Row) -> usize {
        self.rounds.min(row.max_rounds)
    }

    /// Runs everything; hands each finished row to `done`.
    pub fn run(&self, paths: Paths, mut done: impl FnMut(&RowResult)) -> Vec<RowResult> {
        let all = os::allowed_cpus();
        let mut programs = Programs::new(paths);
        let per_round = |r: &Row| self.workers_of(r).len() * r.contenders.len();
        let total: usize = self.rows.iter().map(|r| self.rounds_of(r) * per_round(r)).sum();
        let bar = progress_bar(total as u64);
        let mut results = Vec::new();
        for &row in &self.rows {
            for workers in self.workers_of(row) {
                let cpus = Cpus::choose(&all, workers, row.placement);
                let mut children = Children::new(row, workers, cpus, self.limit * row.patience);
                let result = self.run_row(row, workers, &mut children, &mut programs, &bar);
                bar.suspend(|| done(&result));
                results.push(result);
            }
        }
        bar.finish_and_clear();
        results
    }

    fn run_row(
        &self,
        row: &'static Row,
        workers: usize,
        children: &mut Children<'_>,
        programs: &mut Programs,
        bar: &ProgressBar,
    ) -> RowResult {
        let n = if self.quick { row.quick } else { row.n };
        let rounds = self.rounds_of(row);
        let mut result = RowResult {
            row,
            workers,
            n,
            rounds,
            samples: Vec::new(),
            missing: Vec::new(),
            failures: Vec::new(),
        };
        for c in row.contenders {
            bar.set_message(format!("{}: finding {}", row.id, c.name));
            bar.tick();
            result.missing.extend(programs.get(c.program).err().map(|why| (c.name, why)));
        }
        let count = row.contenders.len();
        for round in 0..rounds {
            for c in (0..count).map(|i| &row.contenders[(i + round) % count]) {
                bar.set_message(format!("{} ({workers}): {}", row.id, c.name));
                bar.tick();
                if wanted(&result, c, round) {
                    match children.measure(programs, c.name, c.program, n) {
                        Ok(samples) => result.samples.extend(samples.into_iter().map(|s| (round, s))),
                        Err(why) => result.failures.push((c.name, round, why)),
                    }
                }
                bar.inc(1);
            }
        }
        result
    }
}

fn wanted(so_far: &RowResult, c: &Contender, round: usize) -> bool {
    if so_far.missing.iter().any(|(name, _)| *name == c.name) {
        return false;
    }
    let failures = so_far.failures.iter().filter(|(name, ..)| *name == c.name).count();
    failures < MAX_FAILURES && (round == 0 || !c.once)
}

/// A bar on stderr that only its caller moves, so that it asks for no CPU while something is measured.
pub fn progress_bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {eta:>4} left  {msg}");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
