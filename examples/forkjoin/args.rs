//! The command line of `forkjoin`: what may be asked for, and a one-line error with exit code 2 for everything else.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use unyield_benches::forkjoin::catalogue::{CASES, Case};
use unyield_benches::forkjoin::contender::Options;
use unyield_benches::forkjoin::runner::Plan;
use unyield_examples::args::{self, refuse, target_dir, writable_dir};

const MAX_ROUNDS: usize = 1_000;
const MAX_FIBERS: usize = 10_000;
/// What the runtime takes for a quantum, µs.
const QUANTA: (usize, usize) = (20, 10_000_000);
/// After so long a measurement hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fork-join on unyield beside rayon, chili and the serial program.
#[derive(Parser, Debug)]
#[command(name = "forkjoin", disable_version_flag = true, max_term_width = 100)]
struct Raw {
    /// Rounds; each measures the serial program, then every contender with every number of workers [default: 5; 3 with --quick]
    #[arg(long, value_name = "N", value_parser = rounds, allow_negative_numbers = true)]
    rounds: Option<usize>,
    /// Only these workloads, separated by commas; see --list
    #[arg(long, value_name = "WORKLOADS")]
    only: Option<String>,
    /// Numbers of workers, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2", value_parser = workers, allow_negative_numbers = true)]
    workers: Vec<usize>,
    /// Quantum of our runtime in µs [default: the runtime's]
    #[arg(long, value_name = "US", value_parser = quantum, allow_negative_numbers = true)]
    quantum: Option<Duration>,
    /// So many fibers compute beside the workload on our runtime; its times say little then
    #[arg(long, value_name = "N", default_value = "0", value_parser = fibers, allow_negative_numbers = true)]
    fibers: usize,
    /// Folder for the picture and the figures [default: forkjoin in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Small sizes: shows that everything works, and little about speed
    #[arg(long)]
    quick: bool,
    /// Prints the workloads and measures nothing
    #[arg(long)]
    list: bool,
}

/// What to run, checked.
#[derive(Debug)]
pub(crate) struct Args {
    pub plan: Plan,
    pub out: PathBuf,
}

/// Ends the process when there is nothing to run: code 0 after `--help` and `--list`, code 2 after nonsense.
pub(crate) fn parse() -> Args {
    let raw: Raw = args::parse();
    if raw.list {
        for case in CASES {
            println!("{:10} {}, {}", case.id, case.title, case.full.text);
        }
        std::process::exit(0);
    }
    let cases = match &raw.only {
        None => CASES.iter().collect(),
        Some(names) => chosen(names).unwrap_or_else(|why| refuse(&format!("--only: {why}"))),
    };
    let mut workers = raw.workers;
    workers.sort_unstable();
    workers.dedup();
    let out = raw.out.unwrap_or_else(|| target_dir().join("forkjoin"));
    // Found out now, not after minutes of measuring.
    if let Err(why) = writable_dir(&out) {
        refuse(&format!("--out {}: {why}", out.display()));
    }
    let plan = Plan {
        cases,
        workers,
        rounds: raw.rounds.unwrap_or(if raw.quick { 3 } else { 5 }),
        quick: raw.quick,
        limit: PATIENCE,
        options: Options { quantum: raw.quantum, fibers: raw.fibers },
    };
    Args { plan, out }
}

/// In the order of the list, each once.
fn chosen(names: &str) -> Result<Vec<&'static Case>, String> {
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    match names.iter().find(|name| !CASES.iter().any(|case| case.id == **name)) {
        Some(name) => Err(format!("there is no workload {name:?}; --list shows all")),
        None => Ok(CASES.iter().filter(|case| names.contains(&case.id)).collect()),
    }
}

fn number(s: &str, from: usize, to: usize) -> Result<usize, String> {
    match s.trim().parse::<usize>() {
        Ok(n) if (from..=to).contains(&n) => Ok(n),
        _ => Err(format!("a whole number from {from} to {to}")),
    }
}

fn rounds(s: &str) -> Result<usize, String> {
    number(s, 1, MAX_ROUNDS)
}

fn workers(s: &str) -> Result<usize, String> {
    let most = 8 * std::thread::available_parallelism().map_or(1, usize::from);
    number(s, 1, most).map_err(|why| format!("{why}, which is 8 for each CPU here"))
}

fn fibers(s: &str) -> Result<usize, String> {
    number(s, 0, MAX_FIBERS)
}

fn quantum(s: &str) -> Result<Duration, String> {
    let us = number(s, QUANTA.0, QUANTA.1)?;
    Ok(Duration::from_micros(us as u64))
}
