//! Deadlines of fibers: a timing wheel under a lock, driven by the runtime's timer thread.

pub(crate) mod timers;
pub(crate) mod wheel;
