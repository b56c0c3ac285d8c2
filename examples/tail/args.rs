//! The command line of `tail`: what may be asked for, and a one-line error with exit code 2 for everything else.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use unyield_examples::args::{self, refuse, target_dir, writable_file};

const MIN_ROWS: u64 = 300_000;
const MAX_ROWS: u64 = 10_000_000;

/// Point reads beside analytic queries on SQLite: preemptive fibers, the same fibers without preemption, and
/// a pool of threads, one after the other under the same load.
#[derive(Parser, Debug)]
#[command(name = "tail", disable_version_flag = true, max_term_width = 100)]
struct Raw {
    /// Workers, and analytic queries that run at any time [default: all CPUs]
    #[arg(long, value_name = "N", value_parser = workers, allow_negative_numbers = true)]
    workers: Option<usize>,
    /// Measured seconds for each of the three ways [default: 20; 1 with --quick]
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Option<f64>,
    /// Share of the workers' CPU that the point reads ask for, in percent
    #[arg(long, value_name = "PERCENT", default_value = "20", value_parser = load, allow_negative_numbers = true)]
    load: f64,
    /// Rows of the table `orders` [default: 1000000; 400000 with --quick]
    #[arg(long, value_name = "N", value_parser = rows, allow_negative_numbers = true)]
    rows: Option<u64>,
    /// The database; made if it is missing [default: tail/orders-ROWS.sqlite in cargo's target directory]
    #[arg(long, value_name = "PATH")]
    db: Option<PathBuf>,
    /// Where the picture goes [default: tail/tail.svg in cargo's target directory]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// A short form for CI: at most 10 seconds in all
    #[arg(long)]
    quick: bool,
}

/// What to run, checked.
#[derive(Debug)]
pub(crate) struct Args {
    pub workers: usize,
    pub seconds: Duration,
    pub warm_up: Duration,
    /// A share, 0 < load < 1.
    pub load: f64,
    pub rows: u64,
    pub db: PathBuf,
    pub out: PathBuf,
    pub quick: bool,
}

/// Ends the process when there is nothing to run: code 0 after `--help`, code 2 after nonsense.
pub(crate) fn parse() -> Args {
    let raw: Raw = args::parse();
    let rows = raw.rows.unwrap_or(if raw.quick { 400_000 } else { 1_000_000 });
    let home = target_dir().join("tail");
    let seconds = Duration::from_secs_f64(raw.seconds.unwrap_or(if raw.quick { 1.0 } else { 20.0 }));
    let args = Args {
        workers: raw.workers.unwrap_or_else(cpus),
        seconds,
        warm_up: (seconds / 10).clamp(Duration::from_millis(200), Duration::from_secs(1)),
        load: raw.load / 100.0,
        rows,
        db: raw.db.unwrap_or_else(|| home.join(format!("orders-{rows}.sqlite"))),
        out: raw.out.unwrap_or_else(|| home.join("tail.svg")),
        quick: raw.quick,
    };
    if args.db == args.out {
        refuse("--db and --out name the same file");
    }
    // Found out now, not after a minute of measuring.
    if let Err(why) = writable_file(&args.out) {
        refuse(&format!("--out {}: {why}", args.out.display()));
    }
    if let Err(why) = writable_file(&args.db) {
        refuse(&format!("--db {}: {why}", args.db.display()));
    }
    args
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn workers(s: &str) -> Result<usize, String> {
    let most = 8 * cpus();
    match s.parse::<usize>() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("a whole number from 1 to {most}, which is 8 for each CPU here")),
    }
}

fn seconds(s: &str) -> Result<f64, String> {
    number(s, |v| (0.1..=3600.0).contains(&v)).ok_or_else(|| "a number from 0.1 to 3600".into())
}

fn load(s: &str) -> Result<f64, String> {
    number(s, |v| (0.01..100.0).contains(&v)).ok_or_else(|| "a percentage from 0.01 to below 100".into())
}

fn rows(s: &str) -> Result<u64, String> {
    match s.parse::<u64>() {
        Ok(n) if (MIN_ROWS..=MAX_ROWS).contains(&n) => Ok(n),
        _ => Err(format!("a whole number from {MIN_ROWS} to {MAX_ROWS}")),
    }
}

/// NaN and infinity fail every range.
fn number(s: &str, fits: impl Fn(f64) -> bool) -> Option<f64> {
    s.parse::<f64>().ok().filter(|&v| fits(v))
}
