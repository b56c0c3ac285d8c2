//! x86-64 Linux: the entry stub and its returns, frame injection, extended state, single instructions.

pub(crate) mod inject;
pub mod insn;
pub(crate) mod stub;
pub(crate) mod xstate;
