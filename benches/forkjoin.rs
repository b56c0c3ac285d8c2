//! Fork-join beside rayon and chili: `cargo bench --bench forkjoin`, or with `-- --help`. See the module `forkjoin`.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use unyield_benches::{
    args::{Chosen, Flags},
    forkjoin::{catalogue::CASES, contender::Options, runner::Plan, tables},
    harness, os,
};

/// Measures fork-join on unyield beside rayon, chili and the serial program, in interleaved rounds.
#[derive(Parser, Debug)]
struct Args {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    let Args { flags } = Args::parse();
    let cases = match flags.choose(CASES.iter(), |case| case.id) {
        Chosen::Some(cases) => cases,
        Chosen::Elsewhere => return ExitCode::SUCCESS,
        Chosen::Nothing => {
            eprintln!("no row matches {:?}; --list shows them", flags.filter);
            return ExitCode::from(2);
        }
    };
    if flags.list {
        cases.iter().for_each(|case| println!("{:18} {}", case.id, case.title));
        return ExitCode::SUCCESS;
    }
    // Cargo gives benches a folder `tmp` inside the target folder.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("");
    let out = flags.out.clone().unwrap_or_else(|| target.join("unyield-benches"));
    let file = out.join("forkjoin.csv");
    if let Err(e) = std::fs::create_dir_all(&out) {
        eprintln!("{}: {e}", out.display());
        return ExitCode::FAILURE;
    }
    let plan = Plan {
        cases,
        workers: flags.workers(),
        rounds: flags.rounds(),
        quick: flags.quick,
        limit: flags.limit(),
        options: Options { quantum: flags.quantum(), fibers: flags.fibers as usize },
    };
    println!("{}\n{}", os::machine(), tables::LEGEND);
    println!("{}", plan.remarks());
    let bar = harness::progress_bar(plan.steps());
    let outcomes = plan.run(&bar, |o| print!("{}", tables::table(o)));
    if let Err(e) = std::fs::write(&file, tables::csv(&outcomes)) {
        eprintln!("{}: {e}", file.display());
        return ExitCode::FAILURE;
    }
    println!("\nevery sample: {}", file.display());
    // Figures decide nothing about the exit code, wrong results do.
    let mut code = ExitCode::SUCCESS;
    for o in &outcomes {
        for why in &o.failures {
            eprintln!("{}: {why}", o.case.id);
            code = ExitCode::FAILURE;
        }
    }
    code
}
