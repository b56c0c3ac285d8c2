//! What this machine has for unyield, what is missing and why: `cargo run --release --example probe`.
//!
//! Ends with 0 if fibers can be preempted anywhere, with 1 if only at checkpoints.

use clap::Parser;
use unyield::preempt::probe;

/// Says what CPU, kernel and libc offer, and what follows from it.
#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// Findings as lines of three fields between tabs: name, yes or no, detail
    #[arg(long)]
    plain: bool,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let probe = probe();
    if arguments.plain {
        for finding in probe.findings() {
            println!("{}\t{}\t{}", finding.name, if finding.present { "yes" } else { "no" }, finding.detail);
        }
    } else {
        print!("{probe}");
    }
    u8::from(probe.identity_obstacle().is_some()).into()
}
