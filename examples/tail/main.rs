//! Point reads beside analytic queries on one SQLite database: what preemption does for the tail of the latencies.
//!
//! W analytic clients in a closed loop keep W workers busy with queries of 100 ms and more, while point reads of a few
//! microseconds arrive in a Poisson process. Three ways to run this, one after the other: preemptive fibers, the same
//! program without preemption, and a pool of threads that takes requests in order. `--help` tells what can be varied.
//!
//! | file | what it is |
//! |---|---|
//! | args | the command line |
//! | model, db, pool | what the database holds; its file; connections and queries |
//! | load | what a read and an analytic client do, and what is noted of them |
//! | arrivals | the generator of point reads |
//! | ways | fibers and threads |
//! | run | one way from start to drain; calibration |
//! | report, plot, progress | what is shown |
//!
//! Exit code 0: every answer was right, whatever the speeds; 1: not so; 2: nonsense was asked for.

mod args;
mod arrivals;
mod db;
mod load;
mod model;
mod plot;
mod pool;
mod progress;
mod report;
mod run;
mod ways;

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use unyield::preempt::Preemption;
use unyield_examples::args::{refuse, shown};

use crate::args::Args;
use crate::pool::Pool;
use crate::progress::Phase;
use crate::run::{Bench, Outcome};
use crate::ways::{Fibers, QUANTUM, Threads, Way as _};

fn main() -> ExitCode {
    let args = args::parse();
    match tail(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// True if every answer was right.
fn tail(args: &Args) -> Result<bool, String> {
    let bench = prepare(args)?;
    let preemptive = fibers(args.workers, Preemption::Anywhere)?;
    println!(
        "{} on {}, quantum {}, mechanism {}; each way {} + {} warm-up\n",
        counted(args.workers, "worker"),
        counted(thread::available_parallelism().map_or(1, usize::from), "CPU"),
        report::duration(QUANTUM),
        preemptive.mechanism(),
        report::duration(args.seconds),
        report::duration(args.warm_up)
    );
    let outcomes = [
        bench.run("preemptive fibers", preemptive),
        bench.run("fibers, preemption off", fibers(args.workers, Preemption::Off)?),
        bench.run("threads, in order", Box::new(Threads::new(args.workers).map_err(|e| e.to_string())?)),
    ];
    report::table(&outcomes);
    if bench.pool.waits() > 0 {
        println!("{} requests waited for one of the connections", bench.pool.waits());
    }
    report::goals(&outcomes[0], &outcomes[1]);
    plot::write(&args.out, &outcomes, &subtitle(args, &outcomes)).map_err(about(&args.out))?;
    println!("picture: {}", shown(&args.out));
    Ok(report::sound(&outcomes))
}

/// The database, queries of the right length, and the rate of reads that asks for `args.load`.
fn prepare(args: &Args) -> Result<Bench, String> {
    match db::ensure(&args.db, args.rows) {
        Err(db::Error::NotOurs) => refuse(&format!("--db {}: {}", args.db.display(), db::Error::NotOurs)),
        made => made.map_err(about(&args.db))?,
    }
    // As many as can be in use: a fiber that is preempted keeps its connection.
    let pool = Arc::new(Pool::open(&args.db, 2 * args.workers + 32).map_err(about(&args.db))?);
    println!("database: {}, {} orders", shown(&args.db), args.rows);

    let phase = Phase::new("calibrating", 3, "");
    let bare = run::bare_read(&pool, args.rows)?;
    phase.at(1);
    let (queries, shortest) = run::plan_queries(&pool, args.rows)?;
    phase.at(2);
    let mut bench = Bench {
        pool,
        queries,
        workers: args.workers,
        rows: args.rows,
        rate: 0.0,
        warm_up: args.warm_up,
        seconds: args.seconds,
    };
    let calm = fibers(args.workers, Preemption::Off)?;
    let cost = bench.cost_of_read(&calm, if args.quick { 5_000 } else { 50_000 });
    calm.end();
    let cost = cost.map_err(|e| format!("calibration: {e}"))?;
    bench.rate = args.load * args.workers as f64 / cost.as_secs_f64();
    phase.done();

    let orders = || bench.queries.iter().map(model::Analysis::rows);
    println!(
        "analytic queries: {} to {} orders each; the shortest takes {} alone",
        orders().min().unwrap_or(0),
        orders().max().unwrap_or(0),
        report::duration(shortest)
    );
    if shortest.as_millis() < 100 {
        println!("note: less than the 100 ms that the comparison is meant for; raise --rows");
    }
    println!(
        "point reads: {} of CPU each ({} for the bare query), so {:.0} a second ask for {} % of {}",
        report::duration(cost),
        report::duration(bare),
        bench.rate,
        percent(args.load),
        counted(args.workers, "worker")
    );
    Ok(bench)
}

/// Without the digits that only the division by 100 made.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// "1 worker", "2 workers".
fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn fibers(workers: usize, preemption: Preemption) -> Result<Box<Fibers>, String> {
    Fibers::new(workers, preemption).map(Box::new).map_err(|e| format!("cannot start the runtime: {e}"))
}

fn subtitle(args: &Args, outcomes: &[Outcome]) -> String {
    format!(
        "{}, {} in a closed loop, {} reads in {} for each way ({} % load)",
        counted(args.workers, "worker"),
        counted(args.workers, "analytic client"),
        outcomes[0].latency.len(),
        report::duration(args.seconds),
        percent(args.load)
    )
}

fn about<E: Display>(path: &Path) -> impl Fn(E) -> String {
    move |e| format!("{}: {e}", path.display())
}
