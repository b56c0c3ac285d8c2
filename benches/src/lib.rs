//! Benchmarks of unyield beside its peers.
//!
//! `cargo bench` runs two drivers. `forkjoin.rs` measures fork-join in its own process, see [`forkjoin`]. `fibers.rs` measures
//! all the rest, and nothing itself: each thing that is measured runs in a child
//! process (a `workload` program for what is written in Rust, one program each for Go and Boost.Fiber), so that a
//! contender that hangs or dies costs its own figure and no other, and memory is counted from a fresh start.
//!
//! | module | what it is |
//! |---|---|
//! | [`args`] | the command line, the same for both |
//! | [`forkjoin`] | all of the fork-join benchmarks |
//! | [`rows`] | the table of what is measured, against whom, and what was asked for |
//! | [`harness`] | rounds: every contender of a row once per round, in rotating order |
//! | [`peers`] | child processes: building, pinning, asking, time limits |
//! | [`stats`], [`report`] | medians, ratios within rounds; the table, CSV and JSON |
//! | [`proto`] | the lines children print: `name metric value unit` |
//! | [`os`] | clocks, pinning, `/proc` |
//! | [`scaling`] | not a measurement: a simulation of work stealing on more workers than a machine has |
//! | [`work`] | the workloads, one file per family; each says what it measures and what not |
//!
//! What to keep in mind when reading results: contenders are compared within a round (ratios are medians of per-round
//! ratios), CPU time stands beside wall time, and both together tell a slow contender from a disturbed machine.

pub mod args;
pub mod forkjoin;
pub mod harness;
pub mod os;
pub mod peers;
pub mod proto;
pub mod report;
pub mod rows;
pub mod scaling;
pub mod stats;
pub mod work;
