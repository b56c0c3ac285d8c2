//! Run queues and sleep/wake protocols of a work-stealing runtime that never allocates while it schedules.
//!
//! What is here: intrusive lists ([`List`]), a spinlock ([`SpinLock`]), the queue that every worker can reach
//! ([`Injector`]), the queues of one worker ([`RunQueue`]), who sleeps and who wakes whom ([`Idle`]), the switch
//! between a ticking and a sleeping timer ([`Armed`]) and the asymmetric fence under it ([`fence`]); for fork-join the deque whose
//! owner needs no fence ([`lazy`]), the one whose thieves need no help ([`Ring`]), and what thieves and victims say to each other ([`Mailbox`], [`Looks`],
//! [`victim`]).
//!
//! What is not here: threads, fibers, stacks, assembly, any policy that needs to know what an item is. Items are
//! `NonNull<T>` with a link inside ([`Link`]); whoever owns them keeps them alive while they are queued.
//!
//! # Contexts
//!
//! The runtime that uses this crate preempts its fibers at any instruction, so every method says from where it may
//! be called:
//!
//! - **owner**: the thread of the worker to which a [`RunQueue`] belongs, *masked* (it cannot be preempted in the
//!   middle of the call). Its thread-local data may be that of a fiber.
//! - **any thread, masked**: the call may take a [`SpinLock`]. Were the holder preempted, its successor on the same
//!   thread could spin on the lock for ever.
//! - **anywhere**: loads only; also from a signal handler, masked or not.
//!
//! This crate does not know how masking is done and cannot check it: it is the caller's duty. No method allocates
//! or frees except the constructors (and the drop glue) of [`RunQueue`].

#![warn(missing_docs)]

pub mod armed;
pub mod deque;
pub mod fence;
mod futex;
pub mod idle;
pub mod injector;
pub mod lazy;
pub mod list;
pub mod looks;
pub mod mailbox;
#[cfg(all(test, loom))]
mod models;
mod next;
pub mod ring;
pub mod spin;
mod sync;
#[cfg(all(test, not(loom)))]
mod testing;
pub mod victim;

pub use armed::Armed;
pub use deque::RunQueue;
pub use idle::{Idle, Ticket};
pub use injector::Injector;
pub use list::{Link, List};
pub use looks::Looks;
pub use mailbox::{Answer, Mailbox};
pub use ring::Ring;
pub use spin::{SpinLock, SpinLockGuard};
pub use sync::relax;

/// True when this build carries the deliberate error `$name`: `RUSTFLAGS='--cfg unyield_mutant="name"'`.
///
/// The mutants prove that the model tests can fail; `mutants.sh` runs them all and expects each to be caught.
macro_rules! mutant {
    ($name:literal) => {
        cfg!(unyield_mutant = $name)
    };
}
pub(crate) use mutant;

/// `const fn` in a real build. The constructors of loom's types are not const.
macro_rules! const_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $ty),*) -> $ret $body
        #[cfg(loom)]
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}
pub(crate) use const_fn;
