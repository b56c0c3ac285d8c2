//! Giving way.

use crate::current::{self, Waiting};

/// What came of [`yield_now`] or [`yield_local`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yield {
    /// There was something to run, and the fiber gave way to it.
    Executed,
    /// There was nothing.
    Idle,
}

/// Lets other fibers run first: spawned jobs, and whatever else the pool has. `None` outside a pool. Nothing has to call it, since fibers are preempted.
pub fn yield_now() -> Option<Yield> {
    let registry = current::registry()?;
    Some(give_way(registry.has_jobs()))
}

/// As [`yield_now`]; tells only of what was spawned on the calling fiber's worker.
pub fn yield_local() -> Option<Yield> {
    let registry = current::registry()?;
    Some(give_way(registry.has_own_jobs()))
}

fn give_way(to_something: bool) -> Yield {
    let _waiting = Waiting::begin();
    unyield::yield_now();
    if to_something { Yield::Executed } else { Yield::Idle }
}
