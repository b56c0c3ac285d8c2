//! Programs that show the runtime at work; run one with `cargo run --release --example NAME`.
//!
//! Here is what several of them share: [`args`] for command lines, [`chart`] for pictures.

pub mod args;
pub mod chart;
