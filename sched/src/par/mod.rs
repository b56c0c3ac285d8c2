//! Fork-join: [`join`] and [`scope()`], with rayon's signatures and panic rules.
//!
//! Forking costs a few plain instructions (no atomic read-modify-write, no fence, no poll): the second half is noted where an idle worker finds it, and handed over
//! when that worker asks, by an interrupt. A fiber that waits for a half that another worker runs is parked, so the worker goes on with other work, and nothing is
//! ever run on top of a waiting stack: locks may be held across `join`, and recursion does not grow by stealing. Parallel iterators come from rayon itself, over
//! the drop-in `rayon-core` of this project.
//!
//! `join` is the fork, `job` a half, `job_state` its state word, `forks` what one fiber has exposed, `exposed` the fibers that do not run and have exposed something, `scope` any number of
//! fibers that borrow; the thief is `worker::thief`, the victim's side `worker::victim`, the protocols are in `unyield-stealing`.
//!
//! ```
//! fn sum(values: &[u64]) -> u64 {
//!     if values.len() <= 2 {
//!         return values.iter().sum();
//!     }
//!     let (left, right) = values.split_at(values.len() / 2);
//!     let (left, right) = unyield::join(|| sum(left), || sum(right));
//!     left + right
//! }
//! assert_eq!(sum(&(1..=1000).collect::<Vec<_>>()), 500_500);
//! ```

pub(crate) mod exposed;
pub(crate) mod forks;
pub(crate) mod job;
mod job_state;
pub(crate) mod join;
mod scope;

pub use join::{join, join_context};
pub use scope::{Scope, scope};

use std::marker::PhantomData;

/// What a half of [`join_context`] is told.
#[derive(Debug)]
pub struct Ctx {
    migrated: bool,
    /// Where it runs is a property of the running call: it is neither sent nor shared.
    here: PhantomData<*mut ()>,
}

impl Ctx {
    #[inline(always)]
    pub(crate) fn new(migrated: bool) -> Ctx {
        Ctx { migrated, here: PhantomData }
    }

    /// True if this half runs on another fiber than the call of [`join_context`]: it was stolen, or the call came from a plain thread.
    #[inline]
    pub fn migrated(&self) -> bool {
        self.migrated
    }
}
