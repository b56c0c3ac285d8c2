//! The primitives of `unyield::sync`, from outside: each body runs with plain threads, with fibers on one and on two workers,
//! preempted every 100 µs, and with both mixed.

#[path = "sync/support.rs"]
mod support;

#[path = "sync/channel.rs"]
mod channel;
#[path = "sync/condvar.rs"]
mod condvar;
#[path = "sync/mutex.rs"]
mod mutex;
#[path = "sync/oneshot.rs"]
mod oneshot;
#[path = "sync/others.rs"]
mod others;
#[path = "sync/rwlock.rs"]
mod rwlock;
