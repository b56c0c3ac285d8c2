//! One worker, an endless loop on it, then 1,000 short fibers: how many quanta until all are done?
//!
//! `cargo run --release --example starve`; exit code 1 if it took more than 20.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use unyield::runtime::Runtime;

const QUANTUM: Duration = Duration::from_millis(1);
const FIBERS: u64 = 1_000;
const MOST_QUANTA: f64 = 20.0;

fn main() -> ExitCode {
    let runtime = match Runtime::builder().workers(1).quantum(QUANTUM).build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let spinning = Arc::new(AtomicBool::new(false));
    let started = Arc::clone(&spinning);
    runtime.spawn(move || {
        started.store(true, Ordering::Relaxed);
        let mut n = 0u64;
        loop {
            n = black_box(n).wrapping_add(1);
        }
    });
    while !spinning.load(Ordering::Relaxed) {
        std::thread::sleep(QUANTUM);
    }

    let start = Instant::now();
    let fibers: Vec<_> =
        (0..FIBERS).map(|n| runtime.spawn(move || (0..100).fold(n, |a, b| black_box(a ^ b)))).collect();
    let spawned = start.elapsed();
    let done = fibers.into_iter().filter_map(|fiber| fiber.join().ok()).count() as u64;
    let took = start.elapsed();

    let quanta = took.as_secs_f64() / QUANTUM.as_secs_f64();
    println!("one worker, an endless loop, then {FIBERS} short fibers:");
    println!("spawned within {spawned:.2?}, {done} done after {took:.2?}: {quanta:.1} quanta of {QUANTUM:?}");
    runtime.shutdown_timeout(Duration::from_millis(100)); // false: the endless loop is still there
    if done == FIBERS && quanta <= MOST_QUANTA {
        ExitCode::SUCCESS
    } else {
        eprintln!("error: more than {MOST_QUANTA} quanta, or not all of them done");
        ExitCode::FAILURE
    }
}
