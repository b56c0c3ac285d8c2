//! How lazy stealing scales past the cores of this machine, by simulation. See `unyield_benches::scaling`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use indicatif::{ProgressBar, ProgressStyle};
use unyield_benches::scaling::{
    calibration,
    costs::{Costs, NS, Protocol, Ps, US, sets},
    plot,
    sweep::sweep,
    table,
    work::{Case, KINDS},
};

/// Simulates lazy (interrupt-driven) and eager work stealing on up to 256 workers; the same arguments, the same results.
#[derive(Parser, Debug)]
struct Args {
    /// Kinds of work: fib, coarse, geometric, binomial, regions [default: all].
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    work: Vec<&'static str>,
    /// Sets of costs: uipi, signal, signal-vm, eager, eager-vm [default: all].
    #[arg(long, value_delimiter = ',', value_parser = known_costs)]
    costs: Vec<&'static str>,
    /// Numbers of workers.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=4096),
          default_values = ["1", "2", "4", "8", "16", "32", "64", "128", "256"])]
    workers: Vec<u64>,
    /// The first seed: of the trees, and of the thieves' choices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1 << 62))]
    seed: u64,
    /// Seeds per point; reported is the run with the median time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The smallest size of each kind only.
    #[arg(long)]
    quick: bool,
    /// Cost of a spawn with lazy stealing, in ns.
    #[arg(long, value_parser = nanoseconds, allow_negative_numbers = true)]
    lazy_spawn: Option<Ps>,
    /// Cost of a spawn with eager stealing, in ns.
    #[arg(long, value_parser = nanoseconds, allow_negative_numbers = true)]
    eager_spawn: Option<Ps>,
    /// Sleepers woken after a successful steal, with lazy stealing.
    #[arg(long)]
    wakes: Option<u32>,
    /// All workers search when the program begins; otherwise all but one sleep.
    #[arg(long)]
    awake: bool,
    /// How long a victim is left alone after an interrupt, with lazy stealing, in multiples of what an interrupt costs it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    rest: Option<u64>,
    /// How long a worker searches before it sleeps, in µs.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    spin: Option<u64>,
    /// Threads that simulate [default: one per CPU].
    #[arg(long)]
    threads: Option<std::num::NonZeroUsize>,
    /// Where the CSV goes.
    #[arg(long, default_value = "target/scaling.csv")]
    csv: PathBuf,
    /// Where the picture goes.
    #[arg(long, default_value = "target/scaling.svg")]
    svg: PathBuf,
}

fn kind(name: &str) -> Result<&'static str, String> {
    one_of(name, KINDS.iter().map(|k| k.0))
}

fn known_costs(name: &str) -> Result<&'static str, String> {
    one_of(name, sets().iter().map(|c| c.name))
}

fn one_of(name: &str, names: impl Iterator<Item = &'static str>) -> Result<&'static str, String> {
    let names: Vec<_> = names.collect();
    names.iter().copied().find(|&n| n == name).ok_or_else(|| format!("choose from {}", names.join(", ")))
}

fn nanoseconds(value: &str) -> Result<Ps, String> {
    match value.parse::<f64>() {
        Ok(ns) if (0.0..=1e6).contains(&ns) => Ok((ns * NS as f64).round() as Ps),
        _ => Err("a number from 0 to 1000000".into()),
    }
}

impl Args {
    fn costs(&self) -> Vec<Costs> {
        let mut costs = sets();
        costs.retain(|c| self.costs.is_empty() || self.costs.contains(&c.name));
        for c in &mut costs {
            let spawn = match c.protocol {
                Protocol::Lazy => self.lazy_spawn,
                Protocol::Eager => self.eager_spawn,
            };
            c.spawn = spawn.unwrap_or(c.spawn);
            c.awake = self.awake;
            c.spin = self.spin.map_or(c.spin, |us| us * US);
            if c.protocol == Protocol::Lazy {
                c.wakes = self.wakes.unwrap_or(c.wakes);
                c.rest = self.rest.map_or(c.rest, |times| times * c.handler);
            }
        }
        costs
    }

    fn workers(&self) -> Vec<usize> {
        let mut workers: Vec<usize> = self.workers.iter().map(|&p| p as usize).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }
}

/// What would otherwise be found out after minutes: a folder that cannot be made, or one where the file should be.
fn prepare(path: &Path) -> Result<(), clap::Error> {
    if path.is_dir() {
        return Err(clap::Error::raw(ErrorKind::Io, format!("{} is a folder\n", path.display())));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| {
        clap::Error::raw(ErrorKind::Io, format!("cannot make the folder of {}: {e}\n", path.display()))
    })
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let (costs, workers) = (args.costs(), args.workers());
    let kinds = KINDS.iter().map(|k| k.0).filter(|k| args.work.is_empty() || args.work.contains(k));
    let cases: Vec<Case> = kinds.flat_map(|k| Case::of(k, args.quick, args.seed)).collect();
    let bar = ProgressBar::new((cases.len() * costs.len() * workers.len()) as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} points, {eta} left").expect("a valid template"),
    );
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, |n| n.get());
    let points = sweep(&cases, &costs, &workers, args.seed..args.seed + args.seeds, threads, &|| bar.inc(1));
    bar.finish_and_clear();
    print!("{}", table::summary(&cases, &costs, &points, &workers));
    print!("{}", calibration::report());
    std::fs::write(&args.csv, table::csv(&cases, &costs, &points, args.seeds))
        .map_err(|e| format!("cannot write {}: {e}", args.csv.display()))?;
    plot::write(&args.svg, &cases, &costs, &points, args.seeds)
        .map_err(|e| format!("cannot write {}: {e}", args.svg.display()))?;
    println!("{}, {}", args.csv.display(), args.svg.display());
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    [&args.csv, &args.svg].iter().for_each(|path| prepare(path).unwrap_or_else(|e| e.exit()));
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
