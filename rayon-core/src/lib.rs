//! A drop-in for rayon's core whose pools run preemptible fibers: see the README beside this crate's manifest for how a program takes it, what
//! differs, and what cannot be had.
//!
//! | module | |
//! |---|---|
//! | `join`, `scope`, `spawn`, `broadcast`, `yields` | what programs call |
//! | `pool`, `builder`, `thread`, `configuration`, `error` | pools and how they are made |
//! | `registry` | what a pool is inside: its runtime, its queues of jobs, its end |
//! | `queue`, `flush` | the order of jobs; what a broadcast comes after |
//! | `current` | what the running fiber is a part of |
//! | `index` | who may say that he is which thread |

mod broadcast;
mod builder;
mod configuration;
mod current;
mod error;
mod flush;
mod index;
mod join;
mod pool;
mod queue;
mod registry;
mod scope;
mod spawn;
mod thread;
mod yields;

pub use broadcast::{BroadcastContext, broadcast, spawn_broadcast};
pub use builder::{ThreadPoolBuilder, max_num_threads};
#[allow(deprecated)]
pub use configuration::{Configuration, initialize};
pub use error::ThreadPoolBuildError;
pub use join::{FnContext, join, join_context};
pub use pool::{ThreadPool, current_num_threads, current_thread_has_pending_tasks, current_thread_index};
pub use scope::{Scope, ScopeFifo, in_place_scope, in_place_scope_fifo, scope, scope_fifo};
pub use spawn::{spawn, spawn_fifo};
pub use thread::ThreadBuilder;
pub use yields::{Yield, yield_local, yield_now};
