//! Green threads that never have to yield.
//!
//! A timer thread interrupts the worker that runs a long fiber, at any instruction, and another fiber goes on; every fiber has its own thread identity
//! (TLS and thread control block), so that any code, safe or C, can be preempted anywhere and resumed on another worker. Critical
//! sections replace polling points.
//!
//! ```
//! let runtime = unyield::Runtime::builder().workers(1).build().unwrap();
//! runtime.run(|| {
//!     let stop = std::sync::atomic::AtomicBool::new(false);
//!     unyield::scope(|s| {
//!         s.spawn(|| while !stop.load(std::sync::atomic::Ordering::Relaxed) {}); // never yields
//!         s.spawn(|| stop.store(true, std::sync::atomic::Ordering::Relaxed)); // still runs
//!     });
//! });
//! ```
//!
//! What a fiber may rely on is in `docs/soundness.md`, the design in `docs/design.md`, limits in `CAVEATS.md`.

// The models of the lock-free parts include their files by path; the rest needs constructors that loom's types do not have as constants.
#![cfg(not(loom))]

pub mod alloc;
pub mod fiber;
mod identity;
mod lock;
mod observe;
pub mod par;
mod park;
pub mod preempt;
#[doc(hidden)]
pub mod raw;
pub mod runtime;
mod switch;
pub mod sync;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod time;
mod wait_state;
mod worker;

/// See [`metrics::RuntimeMetrics`].
pub mod metrics {
    pub use crate::observe::metrics::RuntimeMetrics;
}

pub use fiber::{JoinError, JoinHandle, checkpoint, park, scope, sleep, spawn, yield_now};
pub use par::join;
pub use preempt::{CriticalSection, critical};
pub use runtime::{Handle, Runtime};
