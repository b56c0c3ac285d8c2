//! Fork-join: the same workloads, generic over who forks, on rayon, chili and our runtime, beside the serial program.
//!
//! All of them run in this process, one after the other, in interleaved rounds; `forkjoin.rs` (`cargo bench --bench
//! forkjoin`) and the example of that name drive it.
//!
//! | module | what it is |
//! |---|---|
//! | [`join`] | the traits: forks, regions of parallel code, pools; the serial program |
//! | [`rayon`], [`chili`], [`ours`] | the contenders |
//! | [`contender`], [`place`] | one measurement of one of them; CPUs and stacks |
//! | [`catalogue`] | the list of workloads with sizes and known results |
//! | [`fib`], [`queens`], [`uts`], [`hashtree`], [`tree`], [`sort`], [`matrix`] | the workloads |
//! | [`children`] | what the tree searches share |
//! | [`runner`], [`outcome`], [`tables`] | rounds, figures, what is shown |

pub mod catalogue;
pub mod children;
pub mod chili;
pub mod contender;
pub mod fib;
pub mod hashtree;
pub mod join;
pub mod matrix;
pub mod ours;
pub mod outcome;
pub mod place;
pub mod queens;
pub mod rayon;
pub mod runner;
pub mod sort;
pub mod tables;
pub mod tree;
pub mod uts;
