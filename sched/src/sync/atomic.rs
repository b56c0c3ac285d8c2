//! The atomics of this module. The loom tests put checked ones with the same names in its place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
