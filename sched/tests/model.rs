//! The runtime on the real User Interrupt instructions, trapped: frames that the model of the CPU pushes, fibers that go on by UIRET on other threads, computations that
//! must not notice. Debug builds assert at every switch that UIF is 1.
//!
//! The other tests run under the model as well: `UNYIELD_MECHANISM=model cargo test -p unyield`.

mod common;

use common::alone;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};
use unyield::preempt::{Masking, Mechanism};
use unyield::{Runtime, testing};

/// Integers, floating-point numbers and errno that live across many interrupts.
fn compute(seed: u64, rounds: u64) -> (u64, u64, i32) {
    // SAFETY: errno of the running fiber.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = seed as i32 & 0x7f };
    let (mut x, mut sums) = (seed, [seed as f64 * 1e-3 + 1.0; 8]);
    for i in 0..rounds {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i | 1);
        for (k, sum) in sums.iter_mut().enumerate() {
            *sum = (*sum * 1.000_000_3 + k as f64 * 1e-7).sqrt() + 0.25;
        }
    }
    // SAFETY: as above; the address is the fiber's, wherever it runs.
    (x, sums.iter().sum::<f64>().to_bits(), unsafe { *errno })
}

fn frames(masking: Masking, wanted: u64) {
    if unyield::preempt::probe().has("uintr (kernel)") {
        println!("skipped: on this machine the instructions do not trap");
        return;
    }
    let runtime = Runtime::builder()
        .workers(2)
        .mechanism(Mechanism::Model)
        .masking(masking)
        .quantum(Duration::from_micros(200))
        .build()
        .unwrap();
    assert_eq!(runtime.handle().mechanism(), Mechanism::Model);
    let stop = Arc::new(AtomicBool::new(false));
    let posting: Vec<_> = (0..2)
        .map(|w| {
            let (handle, stop) = (runtime.handle().clone(), stop.clone());
            std::thread::spawn(move || {
                for n in 0u64.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    if n % 4 == 0 {
                        testing::post_tick(&handle, w)
                    } else {
                        testing::post_counting(&handle, w)
                    }
                    std::thread::sleep(Duration::from_micros(1)); // 60 µs here
                }
            })
        })
        .collect();
    // Three on two workers, one of which now and then has nothing to do and takes a preempted one over.
    let fibers: Vec<_> = (0..3)
        .map(|seed| {
            let stop = stop.clone();
            runtime.spawn(move || {
                let expected = compute(seed, 20_000);
                let mut wrong = 0;
                while !stop.load(Relaxed) {
                    wrong += u64::from(compute(seed, 20_000) != expected);
                    // Sections in both forms, beside everything.
                    unyield::critical(|| unyield::critical(|| std::hint::black_box(seed)));
                    unyield::sleep(Duration::from_micros(500));
                }
                wrong
            })
        })
        .collect();
    let start = Instant::now();
    while testing::modelled(runtime.handle()).0 < wanted {
        assert!(start.elapsed() < Duration::from_secs(240), "{:?}", testing::modelled(runtime.handle()));
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Relaxed);
    posting.into_iter().for_each(|thread| thread.join().unwrap());
    let wrong: u64 = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    let metrics = runtime.handle().metrics();
    let count = |f: &dyn Fn(usize) -> u64| f(0) + f(1);
    let (preemptions, migrations) =
        (count(&|w| metrics.worker_preempt_count(w)), count(&|w| metrics.worker_migration_count(w)));
    let (frames, traps) = testing::modelled(runtime.handle());
    println!(
        "{masking:?}: {frames} frames, {traps} instructions, {preemptions} preemptions, {migrations} migrations"
    );
    assert_eq!(wrong, 0, "a computation has noticed that it was interrupted");
    assert!(preemptions > frames / 100, "{preemptions} preemptions");
    assert!(migrations > 20, "{migrations} fibers resumed on another thread");
}

#[test]
fn a_hundred_thousand_frames() {
    alone("a_hundred_thousand_frames", || frames(Masking::Word, 100_000));
}

#[test]
fn sections_by_clui_and_stui() {
    alone("sections_by_clui_and_stui", || frames(Masking::CluiStui, 20_000));
}

#[test]
fn what_is_missing_is_said() {
    let error = Runtime::builder().workers(1).mechanism(Mechanism::Uintr).build();
    if let Err(error) = error {
        let text = error.to_string();
        assert!(text.contains("CPU") || text.contains("kernel"), "{text}");
    }
}
