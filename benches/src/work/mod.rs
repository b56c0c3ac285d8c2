//! The workloads: what a `workload` process does when the driver asks for a row and a contender.
//!
//! Every workload checks its own result (a count, a sum) and takes its clocks inside the fiber, task or thread that
//! drives it, so that entering a runtime from outside is not part of a figure. Each measurement is preceded by a tenth of
//! it to warm up.

mod blocking;
mod compute;
mod critical;
mod handoff;
mod hosts;
mod lone;
mod malloc;
mod memory;
mod preempt;
mod skynet;
mod spawn;
mod starve;
mod yields;

use std::io::{BufRead, Write, stdin, stdout};

use crate::peers::Answer;

/// What a request is about, apart from contender and size.
#[derive(Clone, Debug)]
pub struct Env {
    /// Row id.
    pub row: String,
    /// Number of workers.
    pub workers: usize,
    /// One CPU for each.
    pub cpus: Vec<usize>,
}

/// Measures a contender once.
pub type Measure = fn(&Env, &str, u64) -> Answer;

/// All workloads.
pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    match env.row.as_str() {
        "yield" => yields::measure(env, contender, n),
        "spawn-batch" => spawn::measure(env, contender, n, 1_000),
        "spawn-one" => spawn::measure(env, contender, n, 1),
        "channel" => handoff::channel(env, contender, n),
        "mutex" => handoff::mutex(env, contender, n),
        "skynet" => skynet::measure(env, contender, n),
        "starve" => starve::measure(env, contender, n),
        "preempt" => preempt::measure(env, contender, n),
        "critical" => critical::measure(env, contender, n),
        "blocking" => blocking::measure(env, contender, n),
        "lone" => lone::measure(env, n),
        _ => measure_allocating(env, contender, n),
    }
}

/// The workloads that are about allocators; all that the programs with other allocators contain.
pub fn measure_allocating(env: &Env, contender: &str, n: u64) -> Answer {
    match env.row.as_str() {
        "malloc" => malloc::measure(env, contender, n),
        "parked" | "parked-mprotect" => memory::parked(env, contender, n),
        "parked-allocated" => memory::allocated(env, contender, n),
        row => Err(format!("no such row here: {row}")),
    }
}

fn unknown(contender: &str) -> Answer {
    Err(format!("no such contender here: {contender}"))
}

/// The main function of a workload process: `row workers cpu,cpu` as arguments, then requests on stdin.
pub fn serve(measure: Measure) -> ! {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match args.as_slice() {
        [row, workers, cpus] => {
            let cpus = cpus.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
            workers.parse().ok().zip(cpus.ok()).map(|(workers, cpus)| Env { row: row.clone(), workers, cpus })
        }
        _ => None,
    };
    let Some(env) = parsed else {
        eprintln!("started by `cargo bench`; usage: ROW WORKERS CPU,CPU, then `CONTENDER N` on stdin");
        std::process::exit(2);
    };
    for line in stdin().lock().lines().map_while(Result::ok) {
        let answer = match line.split_once(' ').and_then(|(name, n)| Some((name, n.trim().parse().ok()?))) {
            Some((name, n)) => measure(&env, name, n),
            None => Err("a request is `CONTENDER N`".into()),
        };
        let mut out = stdout().lock();
        let written = match answer {
            Ok(samples) => samples.iter().try_for_each(|s| writeln!(out, "{s}")),
            Err(why) => writeln!(out, "! {why}"),
        };
        if written.and_then(|()| writeln!(out, ".")).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    // Nothing is shut down: a runtime that hangs in its destructor must not hold up the driver.
    std::process::exit(0)
}
