//! The driver: `cargo bench`, or `cargo bench --bench fibers -- --help`. See the crate's documentation.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use unyield_benches::{
    harness::Plan,
    os,
    peers::Paths,
    report,
    rows::{ROWS, Row},
};

/// Measures unyield beside Go, tokio, may, Boost.Fiber and kernel threads, in interleaved rounds.
#[derive(Parser, Debug)]
struct Args {
    /// Rounds; each measures every contender of a row once.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Only rows whose id contains one of these (see --list).
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// Worker counts for the rows that scale.
    #[arg(long, value_delimiter = ',', default_values = ["1", "2"])]
    workers: Vec<std::num::NonZeroUsize>,
    /// Small sizes and 3 rounds: shows that everything works, and little about speed.
    #[arg(long)]
    quick: bool,
    /// List the rows and stop.
    #[arg(long)]
    list: bool,
    /// Seconds after which a measurement counts as hung.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Where results.csv, results.json and the children's stderr go [default: unyield-benches in the target folder].
    #[arg(long)]
    out: Option<PathBuf>,
    /// What cargo passes to every bench; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Cargo names the path even of a program whose features are missing; what lies there then is old or nothing.
fn allocator(path: Option<&str>) -> Option<PathBuf> {
    path.filter(|_| cfg!(feature = "allocators")).map(PathBuf::from)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let chosen = |r: &&Row| args.filter.is_empty() || args.filter.iter().any(|f| r.id.contains(f.as_str()));
    let rows: Vec<&'static Row> = ROWS.iter().filter(chosen).collect();
    if rows.is_empty() {
        eprintln!("no row matches {:?}; --list shows them", args.filter);
        return ExitCode::from(2);
    }
    if args.list {
        rows.iter().for_each(|r| println!("{:18} {}", r.id, r.title));
        return ExitCode::SUCCESS;
    }
    // Cargo gives benches a folder `tmp` inside the target folder.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("");
    let out = args.out.unwrap_or_else(|| target.join("unyield-benches"));
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
        rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 15 }) as usize,
        workers: args.workers.iter().map(|w| w.get()).collect(),
        quick: args.quick,
        limit: Duration::from_secs(args.timeout),
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
