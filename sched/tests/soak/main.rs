//! Soak: many kinds of ordinary code on fibers that are preempted at any instruction and move between threads; every result is checked.
//!
//! ```text
//! cargo test --release --test soak                                            # short form: 2 and 4 workers, 20 s in all
//! cargo test --release --test soak -- --seconds 1800                          # the long form: half an hour each, memory is judged, too
//! cargo test --release --test soak -- --seconds 10 --kinds malloc,pipe --seed 7
//! ```
//!
//! Each task runs three kinds of work, chosen by the seed and the task's number alone: the same seed gives the same tasks in the same order (when
//! they are interrupted is the machine's business). Ends with 1 if a result was wrong, a task panicked or did not end, or memory kept growing;
//! aborts after printing what every thread does if no task ends for a minute (`--patience`).

#[macro_use]
mod kinds;
mod allocator;
mod args;
mod fibers;
mod forks;
mod machine;
mod ordinary;
mod print;
mod waits;
mod watch;

use args::Options;
use kinds::{Cx, KINDS, Kind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};
use unyield::Runtime;
use unyield::metrics::RuntimeMetrics;

static ENDED: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

fn main() -> ExitCode {
    let options = match args::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("soak: {message}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    if options.seconds >= watch::JUDGED {
        watch::without_thread_caches();
    }
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<kinds::Planned>().is_none() {
            kinds::wrong(format_args!("panic: {info}"));
        }
    }));
    let report = print::capture();
    watch::start(options.patience, options.hold);
    let mut good = true;
    for &workers in &options.workers {
        good &= soak(&options, workers, &report);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run on so many workers; true if all was right.
fn soak(options: &Options, workers: usize, report: &print::Report) -> bool {
    let chosen: Arc<Vec<&'static Kind>> = Arc::new(options.kinds.clone());
    report.line(format_args!(
        "soak: {workers} workers, quantum {:?}, {} s, seed {}, {} kinds",
        options.quantum,
        options.seconds,
        options.seed,
        chosen.len()
    ));
    let (wrong_before, ended_before) = (kinds::wrong_count(), ENDED.load(Relaxed));
    COUNTS.iter().for_each(|count| count.store(0, Relaxed));
    let runtime = Runtime::builder()
        .workers(workers)
        .quantum(options.quantum)
        .rng_seed(options.seed)
        .max_carriers(options.carriers)
        .panic_handler(|_| kinds::wrong(format_args!("a task of the soak panicked")))
        .build()
        .expect("the runtime starts");
    let metrics = runtime.handle().metrics();
    let start = Instant::now();
    let length = Duration::from_secs(options.seconds);
    let mut memory = watch::Memory::new();
    let mut spawned = 0u64;
    let ended = || ENDED.load(Acquire) - ended_before;
    while start.elapsed() < length || ended() < spawned {
        while start.elapsed() < length && spawned - ended() < options.fibers {
            let (seed, number, chosen) = (options.seed, spawned, chosen.clone());
            drop(runtime.spawn(move || task(seed, number, &chosen)));
            spawned += 1;
        }
        watch::progress(ENDED.load(Relaxed));
        if memory.sample(start.elapsed(), metrics.num_identities(), if options.verbose { 10 } else { 60 }) {
            let now = watch::resident_kib();
            let (held, free) = allocator::arenas_kib();
            report.line(format_args!(
                "  {:>4} s: {} tasks, {}, {now} KiB resident ({} of files, {} allocated; arenas: {held} in use or cached, {free} free), {} identities, {} threads",
                start.elapsed().as_secs(), ended(), totals(&metrics), watch::file_kib(), allocator::live_kib(), metrics.num_identities(), watch::threads_now()
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let elapsed = start.elapsed();
    let totals = totals(&metrics);
    let (identities, carriers) = (metrics.num_identities(), metrics.num_carriers());
    if options.verbose {
        for w in 0..workers {
            report.line(format_args!("  worker {w}: {}", figures(&metrics, w)));
        }
    }
    if !runtime.shutdown_timeout(Duration::from_secs(30)) {
        kinds::wrong(format_args!("fibers were left at shutdown"));
    }
    report.settle();
    kinds::check_hub();
    watch::progress(u64::MAX);
    let masked = allocator::masked_calls();
    check!(masked == 0, "{masked} calls of the allocator in critical sections");
    let wrong = kinds::wrong_count() - wrong_before;
    let by_kind: Vec<String> = KINDS
        .iter()
        .zip(&COUNTS)
        .filter(|(_, n)| n.load(Relaxed) > 0)
        .map(|(kind, n)| format!("{} {}", kind.name, n.load(Relaxed)))
        .collect();
    report.line(format_args!("  {} tasks in {elapsed:.1?}: {}", spawned, by_kind.join(", ")));
    report.line(format_args!(
        "  {totals}, {identities} identities, {carriers} carriers, {} lines printed",
        report.lines()
    ));
    let mut good = wrong == 0;
    if let Some(slope) = memory.slope() {
        let enforced = options.seconds >= watch::JUDGED;
        report.line(format_args!(
            "  memory after minute 5: {slope:+.2} MiB in 10 minutes while the pool stands still{}",
            if enforced { "" } else { " (too short to judge)" }
        ));
        good &= !enforced || slope < 1.0;
    }
    report.line(format_args!("  {wrong} wrong results: {}", if good { "ok" } else { "FAILED" }));
    good
}

/// One task: three kinds of work, with a yield and a look at the x87 stack after each.
fn task(seed: u64, number: u64, chosen: &[&'static Kind]) {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            ENDED.fetch_add(1, Release);
        }
    }
    let _ended = Ended;
    machine::touch_stack();
    check!(machine::x87_is_empty(), "x87 stack at the start of task {number}");
    let mut cx = Cx::new(seed, number);
    for _ in 0..3 {
        let kind = kinds::choose(&mut cx, chosen);
        COUNTS[kind.index()].fetch_add(1, Relaxed);
        (kind.body)(&mut cx);
        unyield::yield_now();
        check!(machine::x87_is_empty(), "x87 stack after {} and a yield", kind.name);
    }
}

fn sum(metrics: &RuntimeMetrics, read: fn(&RuntimeMetrics, usize) -> u64) -> u64 {
    (0..metrics.num_workers()).map(|w| read(metrics, w)).sum()
}

fn totals(metrics: &RuntimeMetrics) -> String {
    format!(
        "{} preemptions ({} in system calls), {} migrations",
        sum(metrics, RuntimeMetrics::worker_preempt_count),
        sum(metrics, RuntimeMetrics::worker_call_preempt_count),
        sum(metrics, RuntimeMetrics::worker_migration_count)
    )
}

fn figures(metrics: &RuntimeMetrics, w: usize) -> String {
    format!(
        "interrupts {}, preempted {}, in calls {}, deferred {}, misplaced {}, other mask {}, stale {}, returns completed {}, steals {}, migrations {}, switches {}",
        metrics.worker_interrupt_count(w),
        metrics.worker_preempt_count(w),
        metrics.worker_call_preempt_count(w),
        metrics.worker_deferred_count(w),
        metrics.worker_misplaced_count(w),
        metrics.worker_foreign_mask_count(w),
        metrics.worker_stale_count(w),
        metrics.worker_completed_count(w),
        metrics.worker_steal_count(w),
        metrics.worker_migration_count(w),
        metrics.worker_switch_count(w)
    )
}
