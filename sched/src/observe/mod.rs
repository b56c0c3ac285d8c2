//! What a runtime tells about itself.

pub mod metrics;
pub(crate) mod report;
