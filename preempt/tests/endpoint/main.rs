//! Plain threads as receivers: what `unyield_preempt::endpoint` promises.
//!
//! The storm is short unless `UNYIELD_STORM_SECONDS` says how long (10 for the figures), the stress tests unless `UNYIELD_STRESS_SECONDS` does.
//! `UNYIELD_TEST_MECHANISM=model` runs all on the model of User Interrupts.
//! `cargo test --release -p unyield-preempt --test endpoint storm -- --nocapture` prints what was measured.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{hint, thread};
use unyield_preempt::endpoint::{Builder, MailError, Registration, SendError, Sender, Vector};
use unyield_preempt::{Mechanism, critical};

mod delivery;
mod remote;
mod stress;

const LOW: Vector = Vector::LOWEST;
const HIGH: Vector = Vector::HIGHEST;
/// How long anything may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The tests measure time and count signals: one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A builder, of the mechanism that the environment asks for.
fn builder() -> Builder {
    let mut builder = Builder::new();
    match std::env::var("UNYIELD_TEST_MECHANISM").as_deref() {
        Ok("model") => _ = builder.mechanism(Mechanism::Model),
        Ok("signal") => _ = builder.mechanism(Mechanism::Signal),
        _ => {}
    }
    builder
}

fn vector(number: u8) -> Vector {
    Vector::new(number).unwrap()
}

fn seconds(variable: &str, otherwise: f64) -> Duration {
    let given = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(given.unwrap_or(otherwise))
}

/// Ordinary code that computes until `done`, or fails.
#[track_caller]
fn compute_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        for _ in 0..100 {
            hint::spin_loop();
        }
        assert!(start.elapsed() < PATIENCE, "nothing came");
    }
}
