//! One fiber computes for n ms while the other workers have nothing to do: nothing else could run, so nothing may
//! interrupt it. Counted: handler entries of all workers, thieves' and timer's alike; and, for the eye, the CPU time that
//! the rest of the process took.

use std::time::{Duration, Instant};

use super::{Env, compute::spin, hosts};
use crate::{os, peers::Answer, proto::Sample};

pub fn measure(env: &Env, n: u64) -> Answer {
    let rt = hosts::unyield(env, hosts::Mode::Default);
    let entries = || {
        let m = rt.handle().metrics();
        (0..m.num_workers()).map(|w| m.worker_interrupt_count(w)).sum::<u64>()
    };
    let (interrupts, rest) = rt.run(|| {
        spin(1_000_000); // lets whatever the start set off settle
        let end = Instant::now() + Duration::from_millis(n);
        let (before, process, own) = (entries(), os::process_cpu(), os::thread_cpu());
        while Instant::now() < end {
            spin(1_000);
        }
        let rest = (os::process_cpu() - process).saturating_sub(os::thread_cpu() - own);
        (entries() - before, rest)
    });
    Ok(vec![
        Sample::new("unyield", "interrupts", interrupts as f64, "each"),
        Sample::new("unyield", "rest-cpu", rest as f64 / 1e4 / n as f64, "%"),
    ])
}
