//! Who sends interrupts and who builds the frame. One file per backend with the same names; `signal` works everywhere.

pub mod signal;
