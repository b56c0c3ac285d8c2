//! Interrupt a running thread at any instruction, and hold interrupts back where it must not happen.
//!
//! This is the delivery half of [unyield](https://docs.rs/unyield): it knows threads, vectors and frames, and nothing of fibers.
//! The path of an interrupt: [`Receiver::post`] → `upid` → [`backend::signal`] → `arch::inject` → `arch::stub` → [`vector`] → the
//! handler that was installed with [`Receiver::on_vector`] → back through the stub.
//!
//! [`endpoint`] is the crate for programs without a scheduler: plain threads that take interrupts, senders, mailboxes, waits.

#[macro_use]
pub mod arch;
pub mod backend;
pub mod endpoint;
pub mod foreign;
pub mod frame;
pub mod gate;
pub mod latency;
pub mod probe;
pub mod receiver;
pub mod tick;
mod upid;
pub mod vector;

pub use backend::Mechanism;
pub use backend::uintr::Masking;
pub use frame::{Frame, Syscall};
pub use gate::{CriticalSection, critical, mask, unmask};
pub use receiver::Receiver;
