//! preempt
