//! A simulation of work stealing: how interrupt-driven ("lazy") stealing scales beside stealing from deques ("eager").
//!
//! Everything is deterministic: integers for time, one seeded generator for the choice of victims and one for the trees,
//! ties between events broken by the order in which they were scheduled.
//!
//! | module | what it is |
//! |---|---|
//! | [`tree`], [`fib`], [`uts`] | the work: task trees whose extents are known |
//! | [`costs`] | what each step costs, and where the figures come from |
//! | [`fiber`] | a fiber's place in its tree, advanced by arithmetic |
//! | [`machine`], `joins` | workers, events, regions, joins; what both protocols share |
//! | [`lazy`], [`eager`] | the two protocols |
//! | [`work`] | the trees and sizes that are run |
//! | [`sweep`] | all of them, on all numbers of workers |
//! | [`calibration`] | what was measured on two workers, beside the model |
//! | [`table`], [`plot`] | CSV and SVG |
//!
//! Not modelled: memory bandwidth, sockets and NUMA, hyper-threads, other load, and what preemption does beside stealing.

pub mod calibration;
pub mod costs;
pub mod eager;
pub mod fib;
pub mod fiber;
mod joins;
pub mod lazy;
pub mod machine;
pub mod plot;
pub mod rng;
pub mod sweep;
pub mod table;
pub mod tree;
pub mod uts;
pub mod work;
