//! The driver: `cargo bench`, or `cargo bench --bench fibers -- --help`. See the crate's documentation.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use unyield_benches::{
    args::{Chosen, Flags},
    harness::Plan,
    os,
    peers::Paths,
    report,
    rows::ROWS,
};

/// Measures unyield beside Go, tokio, may, Boost.Fiber and kernel threads, in interleaved rounds.
#[derive(Parser, Debug)]
struct Args {
    #[command(flatten)]
    flags: Flags,
}

/// Cargo names the path even of a program whose features are missing; what lies there then is old or nothing.
fn allocator(path: Option<&str>) -> Option<PathBuf> {
    path.filter(|_| cfg!(feature = "allocators")).map(PathBuf::from)
}

fn main() -> ExitCode {
    let Args { flags } = Args::parse();
    let rows = match flags.choose(ROWS.iter(), |row| row.id) {
        Chosen::Some(rows) => rows,
        Chosen::Elsewhere => return ExitCode::SUCCESS,
        Chosen::Nothing => {
            eprintln!("no row matches {:?}; --list shows them", flags.filter);
            return ExitCode::from(2);
        }
    };
    if flags.list {
        rows.iter().for_each(|r| println!("{:18} {}", r.id, r.title));
        return ExitCode::SUCCESS;
    }
    // Cargo gives benches a folder `tmp` inside the target folder.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("");
    let out = flags.out.clone().unwrap_or_else(|| target.join("unyield-benches"));
    if let Err(e) = std::fs::create_dir_all(&out) {
        eprintln!("{}: {e}", out.display());
        return ExitCode::FAILURE;
    }
    let paths = Paths {
        system: env!("CARGO_BIN_EXE_workload").into(),
        masked: env!("CARGO_BIN_EXE_workload-masked").into(),
        jemalloc: allocator(option_env!("CARGO_BIN_EXE_workload-jemalloc")),
        mimalloc: allocator(option_env!("CARGO_BIN_EXE_workload-mimalloc")),
        sources: env!("CARGO_MANIFEST_DIR").into(),
        peers: target.join("peers"),
        log: out.join("stderr.log"),
    };
    let plan = Plan {
        rows,
        rounds: flags.rounds(),
        workers: flags.workers(),
        quick: flags.quick,
        limit: flags.limit(),
    };
    println!(
        "{}\nmedian (min–max) over rounds; ratios are medians of the ratios within rounds",
        os::machine()
    );
    let results = plan.run(paths, |r| print!("{}", report::row(r)));
    match report::save(&out, &results) {
        Ok(()) => println!("\nevery sample: {}", out.join("results.csv").display()),
        Err(e) => {
            eprintln!("{}: {e}", out.display());
            return ExitCode::FAILURE;
        }
    }
    // Figures decide nothing about the exit code, failures of ours do: CI runs `--quick`.
    let mut code = ExitCode::SUCCESS;
    for r in &results {
        let is_ours = |name| r.row.contenders.iter().any(|c| c.name == name && c.is_ours());
        for (name, round, why) in r.failures.iter().filter(|(name, ..)| is_ours(*name)) {
            eprintln!("{}: {name} failed in round {round}: {why}", r.row.id);
            code = ExitCode::FAILURE;
        }
    }
    code
}
