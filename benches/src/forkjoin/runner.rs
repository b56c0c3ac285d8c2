//! Rounds: the serial program, then every contender with every number of workers, in an order that rotates from round to
//! round. Every result is compared with the serial one. Plain thread, one at a time in a process: it moves between CPUs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use indicatif::ProgressBar;

use super::{
    catalogue::{Case, Work},
    contender::{Contender, Measured, Options, PARALLEL, measure},
    join::Count,
    outcome::{Outcome, Run},
};
use crate::os;

/// What to run and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Workloads, in order.
    pub cases: Vec<&'static Case>,
    /// Numbers of workers.
    pub workers: Vec<usize>,
    /// Rounds.
    pub rounds: usize,
    /// Small sizes.
    pub quick: bool,
    /// A measurement that takes longer ends the process: it hangs.
    pub limit: Duration,
    /// For ours.
    pub options: Options,
}

/// A contender that failed this often with a workload is left out of the rounds that remain.
const MAX_FAILURES: usize = 2;

impl Plan {
    /// Who is measured with how many workers.
    pub fn lines(&self) -> Vec<(Contender, usize)> {
        PARALLEL.iter().flat_map(|&who| self.workers.iter().map(move |&workers| (who, workers))).collect()
    }

    /// What a reader of the figures has to know about this plan, a line each.
    pub fn remarks(&self) -> String {
        let cpus = os::allowed_cpus();
        let mut remarks =
            vec![format!("{} rounds; worker i pinned to the i-th of the CPUs {cpus:?}", self.rounds)];
        let most = self.workers.iter().copied().max().unwrap_or(0);
        if most > cpus.len() {
            remarks.push(format!("note: {most} workers share {} CPUs", cpus.len()));
        }
        if let Some(quantum) = self.options.quantum {
            remarks.push(format!("unyield's quantum: {quantum:?}"));
        }
        if self.options.fibers > 0 {
            let fibers = self.options.fibers;
            remarks.push(format!(
                "{fibers} fibers compute beside the workload on unyield: its times say little"
            ));
        }
        remarks.join("\n")
    }

    /// How far [`Plan::run`] moves its bar.
    pub fn steps(&self) -> u64 {
        (self.cases.len() * (1 + self.rounds * (1 + self.lines().len()))) as u64
    }

    /// Runs everything; hands each finished workload to `done`.
    pub fn run(&self, bar: &ProgressBar, mut done: impl FnMut(&Outcome)) -> Vec<Outcome> {
        let watch = Watch::start(self.limit);
        let mut outcomes = Vec::new();
        for &case in &self.cases {
            let outcome = self.run_case(case, bar, &watch);
            bar.suspend(|| done(&outcome));
            outcomes.push(outcome);
        }
        bar.finish_and_clear();
        outcomes
    }

    fn run_case(&self, case: &'static Case, bar: &ProgressBar, watch: &Watch) -> Outcome {
        let size = if self.quick { &case.quick } else { &case.full };
        let lines = self.lines();
        let say = |what: &str| {
            bar.set_message(format!("{}: {what}", case.id));
            bar.tick();
        };
        say("making it");
        let mut work = (size.make)();
        let mut outcome = Outcome {
            case,
            size: size.text,
            spawns: 0,
            lines: lines.clone(),
            runs: Vec::new(),
            failures: Vec::new(),
        };
        let (spawns, want) = match reference(&mut work, size.known) {
            Ok(reference) => reference,
            Err(why) => {
                outcome.failures.push(format!("reference: {why}"));
                return outcome;
            }
        };
        outcome.spawns = spawns;
        bar.inc(1);
        let cpus = os::allowed_cpus();
        let mut failed = vec![0; lines.len() + 1];
        for round in 0..self.rounds {
            let rotated = (0..lines.len()).map(|i| (i + round) % lines.len());
            let order = rotated.map(|i| (i, lines[i]));
            for (i, (who, workers)) in std::iter::once((lines.len(), (Contender::Serial, 1))).chain(order) {
                let name = format!("{}, {workers}", who.name());
                say(&name);
                if failed[i] < MAX_FAILURES {
                    let once = || measure(who, workers, &mut work, &cpus, self.options);
                    match watch.over(&format!("{}: {name}", case.id), || caught(once)) {
                        Ok(m) if m.result == want => {
                            let Measured { wall, cpu, counters, .. } = m;
                            outcome.runs.push(Run { round, who, workers, wall, cpu, counters });
                        }
                        Ok(m) => {
                            failed[i] += 1;
                            outcome.failures.push(format!("{name}: {} came out, not {want}", m.result));
                        }
                        Err(why) => {
                            failed[i] += 1;
                            outcome.failures.push(format!("{name}: {why}"));
                        }
                    }
                }
                bar.inc(1);
            }
        }
        outcome
    }
}

/// Forks and result of the serial program.
fn reference(work: &mut Work, known: Option<u64>) -> Result<(u64, u64), String> {
    work.reset();
    let mut count = Count::default();
    let got = work.run(&mut count);
    let got = work.check(got)?;
    match known {
        Some(known) if got != known => Err(format!("{got} came out, not {known}")),
        _ => Ok((count.0, got)),
    }
}

/// A panic as an error; its message is on stderr already.
fn caught<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err("panicked".into()))
}

/// Ends the process, with a word on stderr and code 1, when a measurement hangs: its threads cannot be ended one by one.
#[derive(Debug)]
struct Watch(Sender<Option<String>>);

impl Watch {
    fn start(limit: Duration) -> Watch {
        let (tell, told) = mpsc::channel::<Option<String>>();
        // Sleeps while something is measured. Ends when its `Watch` is dropped.
        thread::spawn(move || {
            while let Ok(begun) = told.recv() {
                let Some(name) = begun else { continue };
                if let Err(RecvTimeoutError::Timeout) = told.recv_timeout(limit) {
                    eprintln!("error: {name}: hangs, no end after {limit:?}");
                    std::process::exit(1);
                }
            }
        });
        Watch(tell)
    }

    fn over<T>(&self, name: &str, f: impl FnOnce() -> T) -> T {
        // It listens as long as `self` lives.
        let _ = self.0.send(Some(name.to_owned()));
        let result = f();
        let _ = self.0.send(None);
        result
    }
}
