//! The command line of `pingpong`: what may be asked for, and a one-line error with exit code 2 for everything else.

use std::path::PathBuf;

use clap::Parser;
use unyield_examples::args::{self, refuse, target_dir, writable_dir};

use crate::kinds::{KINDS, Kind};
use crate::run::{self, Place};

const MAX_ROUNDS: u32 = 1_000_000_000;
/// What `--only` calls the comparison of a frame injected with a plain signal.
pub(crate) const SELF: &str = "self";

/// Round trips of a one-byte message, or of a bare notification, between two threads on two CPUs.
#[derive(Parser, Debug)]
#[command(name = "pingpong", disable_version_flag = true, max_term_width = 100)]
struct Raw {
    /// Measured round trips of each kind [default: 1000000; 20000 with --quick]
    #[arg(long, value_name = "N", value_parser = rounds, allow_negative_numbers = true)]
    rounds: Option<u32>,
    /// Only these, separated by commas: a kind (pipe), or a kind and how its receiver waits (pipe-spin); see --list
    #[arg(long, value_name = "KINDS")]
    only: Option<String>,
    /// The CPUs of the two threads [default: the first that may be used, and the next on another core]
    #[arg(long, value_name = "A,B")]
    cpus: Option<String>,
    /// Folder for the picture and the figures [default: pingpong in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// 20000 round trips of each kind
    #[arg(long)]
    quick: bool,
    /// Prints the kinds and measures nothing
    #[arg(long)]
    list: bool,
}

/// What to run, checked.
#[derive(Debug)]
pub(crate) struct Args {
    pub rounds: u32,
    pub kinds: Vec<&'static Kind>,
    /// The cost of an injected frame beside that of a plain signal.
    pub to_self: bool,
    pub place: Place,
    pub out: PathBuf,
}

/// Ends the process when there is nothing to run: code 0 after `--help` and `--list`, code 2 after nonsense.
pub(crate) fn parse() -> Args {
    let raw: Raw = args::parse();
    if raw.list {
        for kind in KINDS {
            println!("{:20} {}, {}", kind.id(), kind.name(), kind.mode.receiver());
        }
        println!(
            "{SELF:20} a frame injected over a signal to oneself, beside a signal with an empty handler"
        );
        std::process::exit(0);
    }
    let (kinds, to_self) = match &raw.only {
        None => (KINDS.iter().collect(), true),
        Some(names) => chosen(names).unwrap_or_else(|why| refuse(&format!("--only: {why}"))),
    };
    let allowed = run::allowed();
    let place = match &raw.cpus {
        None => run::choose(&allowed),
        Some(pair) => cpus(pair, &allowed).unwrap_or_else(|why| refuse(&format!("--cpus {pair}: {why}"))),
    };
    let out = raw.out.unwrap_or_else(|| target_dir().join("pingpong"));
    // Found out now, not after minutes of measuring.
    if let Err(why) = writable_dir(&out) {
        refuse(&format!("--out {}: {why}", out.display()));
    }
    let rounds = raw.rounds.unwrap_or(if raw.quick { 20_000 } else { 1_000_000 });
    Args { rounds, kinds, to_self, place, out }
}

fn rounds(s: &str) -> Result<u32, String> {
    match s.parse::<u32>() {
        Ok(n) if (1..=MAX_ROUNDS).contains(&n) => Ok(n),
        _ => Err(format!("a whole number from 1 to {MAX_ROUNDS}")),
    }
}

/// In the order of the list, each once.
fn chosen(names: &str) -> Result<(Vec<&'static Kind>, bool), String> {
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    for name in &names {
        if *name != SELF && !KINDS.iter().any(|kind| kind.answers_to(name)) {
            return Err(format!("there is no kind {name:?}; --list shows all"));
        }
    }
    let kinds = KINDS.iter().filter(|kind| names.iter().any(|name| kind.answers_to(name))).collect();
    Ok((kinds, names.contains(&SELF)))
}

fn cpus(pair: &str, allowed: &[usize]) -> Result<Place, String> {
    let numbers: Option<Vec<usize>> = pair.split(',').map(|s| s.trim().parse().ok()).collect();
    let Some([ping, pong]) = numbers.as_deref() else {
        return Err("two numbers are wanted, as in 0,1".into());
    };
    if ping == pong {
        return Err("two different CPUs are wanted".into());
    }
    match [ping, pong].into_iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(format!("CPU {cpu} is not among those that may be used here: {allowed:?}")),
        None => Ok(Place { ping: Some(*ping), pong: Some(*pong) }),
    }
}
