//! Fork-join on unyield beside rayon, chili and the serial program: small tasks by the million, each result checked.
//!
//! `cargo run --release --example forkjoin`; `--help` tells what can be varied. The workloads, and how they are measured, are
//! those of `cargo bench --bench forkjoin`: see `benches/src/forkjoin`.
//!
//! | file | what it is |
//! |---|---|
//! | args | the command line |
//! | chart | the picture |
//!
//! Exit code 0: every result was right, whatever the speeds; 1: not so; 2: nonsense was asked for.

mod args;
mod chart;

use std::process::ExitCode;

use unyield_benches::forkjoin::tables;
use unyield_benches::{harness, os};
use unyield_examples::args::shown;

use crate::args::Args;

fn main() -> ExitCode {
    let args = args::parse();
    match forkjoin(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// True if every result was right.
fn forkjoin(args: &Args) -> Result<bool, String> {
    println!("{}\n{}\n{}", os::machine(), tables::LEGEND, args.plan.remarks());
    let bar = harness::progress_bar(args.plan.steps());
    let outcomes = args.plan.run(&bar, |outcome| print!("{}", tables::table(outcome)));
    let about = |e: &dyn std::fmt::Display| format!("{}: {e}", args.out.display());
    let svg = args.out.join("forkjoin.svg");
    chart::write(&svg, &outcomes, &args.plan).map_err(|e| about(&e))?;
    std::fs::write(args.out.join("forkjoin.csv"), tables::csv(&outcomes)).map_err(|e| about(&e))?;
    println!("\npicture: {}; figures: forkjoin.csv beside it", shown(&svg));
    let mut right = true;
    for outcome in &outcomes {
        for why in &outcome.failures {
            eprintln!("error: {}: {why}", outcome.case.id);
            right = false;
        }
    }
    Ok(right)
}
