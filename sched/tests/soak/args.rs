//! The soak's command line. `cargo test` hands the same arguments to every test program, so what is not ours means the short form.

use crate::kinds::{KINDS, Kind};
use std::time::Duration;

pub const USAGE: &str = "usage: soak [--seconds N] [--workers N[,N…]] [--quantum-us N] [--seed N] [--kinds name[,name…]] [--without name[,name…]]
            [--fibers N] [--carriers N] [--patience N] [--verbose] [--hold]
  --seconds     of each run (default 10, the short form)
  --workers     one run for each number (default 2,4)
  --quantum-us  20 to 1000000 (default 100)
  --fibers      tasks at a time (default 200)
  --carriers    at most so many (default 512): few make blocked fibers take turns
  --kinds       only these; --without: all but these
  --patience    seconds without the end of a task that are a stall (default 60)
  --verbose     reports every ten seconds, figures of each worker
  --hold        on a stall wait for a debugger instead of aborting";

pub struct Options {
    pub seconds: u64,
    pub workers: Vec<usize>,
    pub quantum: Duration,
    pub seed: u64,
    pub kinds: Vec<&'static Kind>,
    pub fibers: u64,
    pub carriers: usize,
    pub patience: u64,
    pub verbose: bool,
    pub hold: bool,
}

/// `None`: nothing to do (another test's name was asked for).
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        seconds: 10,
        workers: vec![2, 4],
        quantum: Duration::from_micros(100),
        seed: u64::from(std::process::id())
            ^ std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_micros() as u64),
        kinds: KINDS.iter().collect(),
        fibers: 200,
        carriers: 512,
        patience: 60,
        verbose: false,
        hold: false,
    };
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => options.seconds = number(&argument, &value()?, 1, 1_000_000)?,
            "--workers" => {
                let list = value()?;
                options.workers = list
                    .split(',')
                    .map(|n| number(&argument, n, 1, 256).map(|n| n as usize))
                    .collect::<Result<_, _>>()?;
            }
            "--quantum-us" => {
                options.quantum = Duration::from_micros(number(&argument, &value()?, 20, 1_000_000)?)
            }
            "--seed" => options.seed = number(&argument, &value()?, 0, u64::MAX)?,
            "--fibers" => options.fibers = number(&argument, &value()?, 1, 1_000_000)?,
            "--kinds" => options.kinds = named(&value()?)?,
            "--without" => {
                let not = named(&value()?)?;
                options.kinds.retain(|kind| !not.iter().any(|other| other.name == kind.name));
            }
            "--carriers" => options.carriers = number(&argument, &value()?, 1, 4096)? as usize,
            "--patience" => options.patience = number(&argument, &value()?, 1, 1_000_000)?,
            "--verbose" => options.verbose = true,
            "--hold" => options.hold = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(None);
            }
            "--list" => {
                println!("soak: test");
                return Ok(None);
            }
            // libtest's own flags, which cargo passes to all test programs
            "--test-threads" | "--color" | "--format" | "--skip" | "--logfile" | "-Z" => drop(value()?),
            filter if !filter.starts_with('-') && !"soak".contains(filter) => return Ok(None),
            _ => {}
        }
    }
    if options.kinds.is_empty() {
        return Err("no kinds are left".into());
    }
    Ok(Some(options))
}

fn number(flag: &str, text: &str, low: u64, high: u64) -> Result<u64, String> {
    match text.parse() {
        Ok(n) if (low..=high).contains(&n) => Ok(n),
        _ => Err(format!("{flag} takes a number from {low} to {high}, not {text:?}")),
    }
}

fn named(list: &str) -> Result<Vec<&'static Kind>, String> {
    let all = || KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    list.split(',')
        .map(|name| {
            KINDS
                .iter()
                .find(|kind| kind.name == name)
                .ok_or_else(|| format!("no kind {name:?}; there are {}", all()))
        })
        .collect()
}
