//! Random trees of everything at once, with a seed that replays them: UNYIELD_PAR_SECONDS=600 UNYIELD_PAR_SEED=1 for the long form.

use crate::common::{Load, spin};
use crate::{MS, runtime, serial_fib};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use unyield::join;
use unyield::par::scope;
use unyield::preempt::Stealing;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

thread_local!(static LOCAL: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) });

struct World {
    lock: Mutex<u64>,
    locked: AtomicU64,
    nodes: AtomicU64,
}

/// A tree that the seed determines; returns its number of leaves.
fn grow(world: &World, seed: u64, budget: u64) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    world.nodes.fetch_add(1, Relaxed);
    if budget <= 1 {
        leaf(world, &mut rng);
        return 1;
    }
    let part = rng.random_range(1..budget);
    let (left, right) = (rng.random(), rng.random());
    let texts = (seed.to_string(), vec![seed; 3]);
    let total = match rng.random_range(0..12) {
        0 => {
            let mut sums = [0; 2];
            let (a, b) = sums.split_at_mut(1);
            scope(|s| {
                s.spawn(|_| a[0] = grow(world, left, part));
                s.spawn(|_| b[0] = grow(world, right, budget - part));
            });
            sums[0] + sums[1]
        }
        1 => {
            // a half that panics, and what it borrows lives
            let caught = catch_unwind(AssertUnwindSafe(|| {
                join(|| grow(world, left, part), || -> u64 { resume_unwind(Box::new(texts.0.clone())) })
            }));
            assert_eq!(*caught.unwrap_err().downcast::<String>().unwrap(), texts.0);
            part + grow(world, right, budget - part)
        }
        2 => {
            let guard = world.lock.lock().unwrap();
            world.locked.fetch_add(1, Relaxed);
            drop(guard);
            let (a, b) = join(|| grow(world, left, part), || grow(world, right, budget - part));
            a + b
        }
        _ => {
            let (a, b) = join(|| grow(world, left, part), || grow(world, right, budget - part));
            a + b
        }
    };
    assert_eq!(texts, (seed.to_string(), vec![seed; 3]));
    total
}

fn leaf(world: &World, rng: &mut SmallRng) {
    match rng.random_range(0..40) {
        0 => unyield::sleep(MS / 20),
        1 => unyield::yield_now(),
        2 => {
            *world.lock.lock().unwrap() += 1;
            world.locked.fetch_add(1, Relaxed);
        }
        3 => spin(MS / 20),
        4 => std::thread::sleep(MS / 50),
        5 => unyield::critical(|| spin(MS / 50)),
        6 => LOCAL.with_borrow_mut(|local| {
            local.clear();
            local.extend(0..100);
            spin(MS / 100);
            assert_eq!(local.iter().sum::<u64>(), 4950);
        }),
        7 => unyield::fiber::blocking(|| spin(MS / 50)),
        n => {
            let text: String = (0..n).map(|i| char::from(b'a' + i as u8 % 26)).collect();
            assert_eq!(text.len(), n as usize);
            assert_eq!(serial_fib(8), 21);
        }
    }
}

fn stress(workers: usize, stealing: Stealing, others: usize) {
    let seconds = number("UNYIELD_PAR_SECONDS", 4);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("UNYIELD_PAR_SEED", clock.as_micros() as u64);
    println!("{workers} workers, {stealing:?}, {others} other fibers, {seconds} s, seed {seed}");
    let runtime = runtime(workers, stealing);
    let load = Load::start(&runtime, others);
    let mut rng = SmallRng::seed_from_u64(seed);
    let (start, mut trees) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let (seed, leaves) = (rng.random(), rng.random_range(1..3000));
        let world = World { lock: Mutex::new(0), locked: AtomicU64::new(0), nodes: AtomicU64::new(0) };
        let got = runtime.run(|| grow(&world, seed, leaves));
        assert_eq!(got, leaves, "tree {seed}");
        trees += 1;
    }
    let metrics = runtime.handle().metrics();
    println!(
        "  {trees} trees, {} halves stolen ({} without help), {} requests, {} refused, {} withdrawn, {} preemptions",
        metrics.forks_stolen(),
        metrics.forks_taken_remotely(),
        metrics.steal_requests(),
        metrics.steals_refused(),
        metrics.steals_withdrawn(),
        (0..workers).map(|w| metrics.worker_preempt_count(w)).sum::<u64>(),
    );
    for w in 0..workers {
        println!(
            "  worker {w}: {} interrupts, {} deferred, {} misplaced, {} on a foreign mask, {} stale",
            metrics.worker_interrupt_count(w),
            metrics.worker_deferred_count(w),
            metrics.worker_misplaced_count(w),
            metrics.worker_foreign_mask_count(w),
            metrics.worker_stale_count(w),
        );
    }
    drop(load);
}

#[test]
fn one_worker() {
    stress(1, Stealing::Lazy, 3);
}

#[test]
fn two_workers() {
    stress(2, Stealing::Lazy, 0);
}

#[test]
fn four_workers_beside_a_hundred_other_fibers() {
    stress(4, Stealing::Lazy, 100);
}

#[test]
fn eagerly() {
    stress(3, Stealing::Eager, 2);
}
