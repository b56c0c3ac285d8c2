//! A message there and an answer back, between two threads on two CPUs: what a round trip costs over each of the ways
//! in which one thread can tell another that something has happened.
//!
//! `cargo run --release --example pingpong`; `--help` tells what can be varied.
//!
//! The table follows the one in the cover letter of the patch set that brought user interrupts to Linux, and shows its
//! figures beside those measured here: S. Mehta, "[RFC PATCH 00/13] x86 User Interrupts support", 13 September 2021,
//! message <20210913200132.3396598-1-sohil.mehta@intel.com>, <https://lkml.iu.edu/hypermail/linux/kernel/2109.1/07335.html>:
//! one million ping-pongs of message size 1, averages, normalised to the user IPI: user IPI 1.0, signal 14.8, eventfd 9.7, pipe
//! 16.3, domain (a UNIX socket) 17.3. The author added "User IPI (blocked) 8.9" in the same thread.
//!
//! What was compared there: the user IPI's receiver spun in user code; all the others blocked (the signal in sigwait). And its
//! eventfd benchmark used ONE eventfd for both directions, so that either side may read what it has just written itself, and
//! has to write it back. S. Hajnoczi pointed out both (30 September 2021, <YVXlQIt/oWQlIupu@stefanha-x1.localdomain>). Hence
//! there are an eventfd as first published and a pair of them here, and whatever can be spun on is spun on as well.
//!
//! | file | what it is |
//! |---|---|
//! | args | the command line |
//! | kinds | the list of what is measured |
//! | ends, signal | the two ends of each but the user IPI |
//! | ipi | the user IPI, and the cost of one to oneself; all that knows `unyield-preempt` |
//! | run | two threads, their CPUs, and the watch over them |
//! | report, chart | what is shown |
//!
//! Exit code 0: every message arrived once and in order, whatever the speeds; 1: not so, or one did not arrive; 2: nonsense
//! was asked for.

mod args;
mod chart;
mod ends;
mod ipi;
mod kinds;
mod report;
mod run;
mod signal;

use std::process::ExitCode;

use unyield_examples::args::shown;

use crate::args::{Args, SELF};
use crate::report::Row;

fn main() -> ExitCode {
    let args = args::parse();
    match pingpong(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn pingpong(args: &Args) -> Result<(), String> {
    let place = args.place;
    report::heading(args.rounds, place);
    let mut progress = run::Progress::new(args.kinds.len(), args.rounds);
    let mut rows = Vec::new();
    for &kind in &args.kinds {
        let outcome = kinds::measure(kind, args.rounds, place, &mut progress)
            .map_err(|why| format!("{}, {}: {why}", kind.name(), kind.mode.receiver()))?;
        rows.push(Row { kind, outcome });
    }
    progress.done();
    if !rows.is_empty() {
        report::table(&rows);
        let svg = args.out.join("pingpong.svg");
        let about = |e: &dyn std::fmt::Display| format!("{}: {e}", args.out.display());
        chart::write(&svg, &rows, &report::subtitle(args.rounds, place)).map_err(|e| about(&e))?;
        report::csv(&args.out.join("pingpong.csv"), &rows).map_err(|e| about(&e))?;
        println!("\npicture: {}; figures: pingpong.csv beside it", shown(&svg));
    }
    if args.to_self {
        eprintln!("{SELF} …");
        report::to_self(&ipi::to_self(place.ping)?);
    }
    Ok(())
}
