//! Programs that show the runtime at work; run one with `cargo run --release --example NAME`.
