//! Numbers of a running runtime, one method each. Reading never stops a worker: the figures are read one after the other, each as it is then.

use crate::runtime::Handle;
use crate::worker::Counters;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use unyield_preempt::tick;

/// See the module. From [`Handle::metrics`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct RuntimeMetrics {
    handle: Handle,
}

macro_rules! per_worker {
    ($($(#[$attribute:meta])* $name:ident = |$worker:ident| $value:expr;)+) => {
        $($(#[$attribute])*
        ///
        /// # Panics
        /// If there is no worker `w`.
        pub fn $name(&self, w: usize) -> u64 {
            let $worker = &self.handle.shared().workers[w];
            $value.load(Relaxed)
        })+
    };
}

impl RuntimeMetrics {
    pub(crate) fn new(handle: Handle) -> Self {
        RuntimeMetrics { handle }
    }

    /// Workers of the runtime, without carriers.
    pub fn num_workers(&self) -> usize {
        self.handle.shared().workers.len()
    }

    /// Fibers spawned and not ended, started or not.
    pub fn num_alive_fibers(&self) -> usize {
        self.handle.shared().alive_fibers() as usize
    }

    /// Stacks with a thread identity that exist, in use or pooled.
    pub fn num_identities(&self) -> usize {
        self.handle.shared().pool.registered()
    }

    /// OS threads beside the workers for fibers that block in the kernel.
    pub fn num_carriers(&self) -> usize {
        self.handle.shared().carriers.count.load(Relaxed)
    }

    /// Spare workers that stand in for stuck ones at the moment.
    pub fn num_spares(&self) -> usize {
        self.handle.shared().spares.num_awake()
    }

    /// Interrupts that idle workers have sent to be handed halves of fork-joins, all workers together.
    pub fn steal_requests(&self) -> u64 {
        self.sum(|counters| &counters.fork_requests)
    }

    /// Halves of fork-joins that were run elsewhere than where they were forked.
    pub fn forks_stolen(&self) -> u64 {
        self.sum(|counters| &counters.forks_stolen)
    }

    /// … of these, halves that the thief took by itself: with `Stealing::Eager`, or from a victim that did not answer in time.
    pub fn forks_taken_remotely(&self) -> u64 {
        self.sum(|counters| &counters.forks_taken_remotely)
    }

    /// Requests that came too late: the victim had nothing left.
    pub fn steals_refused(&self) -> u64 {
        self.sum(|counters| &counters.fork_refusals)
    }

    /// Requests that were taken back, because the victim did not answer in time.
    pub fn steals_withdrawn(&self) -> u64 {
        self.sum(|counters| &counters.fork_withdrawals)
    }

    fn sum(&self, of: fn(&Counters) -> &AtomicU64) -> u64 {
        self.handle.shared().slots().map(|worker| of(&worker.counters).load(Relaxed)).sum()
    }

    /// Ticks that the timer thread has sent, all workers together.
    pub fn ticks_sent(&self) -> u64 {
        self.handle.shared().ticks_sent.load(Relaxed)
    }

    per_worker! {
        /// Handler entries on worker `w`.
        worker_interrupt_count = |worker| worker.receiver.counters.interrupts;
        /// Fibers preempted on worker `w`: at any instruction, at the end of a critical section, in a system call.
        worker_preempt_count = |worker| worker.counters.preemptions;
        /// … of these, fibers found inside a system call that blocks.
        worker_call_preempt_count = |worker| worker.counters.preemptions_in_calls;
        /// Interrupts that found a critical section and waited for its end.
        worker_deferred_count = |worker| worker.receiver.counters.deferred;
        /// Interrupts refused because the stack pointer was not on the fiber's stack, or there was no room for a frame.
        worker_misplaced_count = |worker| worker.receiver.counters.misplaced;
        /// Interrupts refused because the signal mask was not the worker's own.
        worker_foreign_mask_count = |worker| worker.receiver.counters.foreign_mask;
        /// Interrupts that had nothing left to do.
        worker_stale_count = |worker| worker.receiver.counters.stale;
        /// Interrupts that found a half-done return and completed it.
        worker_completed_count = |worker| worker.receiver.counters.completed;
        /// Runnables that worker `w` took from another one.
        worker_steal_count = |worker| worker.counters.steals;
        /// Fibers that worker `w` resumed and another thread had run before.
        worker_migration_count = |worker| worker.counters.migrations;
        /// Fibers resumed on worker `w` (tasks run back to back on one identity count once).
        worker_switch_count = |worker| worker.counters.switches;
    }

    /// From the timer's system call to the handler's entry, all workers together: (upper bound in ns, how many took less than that and not less than the
    /// bound before). The last bound is `u64::MAX`.
    pub fn interrupt_latency(&self) -> Vec<(u64, u64)> {
        let mut total: Vec<(u64, u64)> = Vec::new();
        for worker in &self.handle.shared().workers {
            for (i, (bound, count)) in worker.receiver.latency.counts().enumerate() {
                match total.get_mut(i) {
                    Some(sum) => sum.1 += count,
                    None => total.push((bound, count)),
                }
            }
        }
        total
    }

    /// How long worker `w` has not been asleep since it started.
    ///
    /// # Panics
    /// If there is no worker `w`.
    pub fn worker_busy(&self, w: usize) -> Duration {
        let worker = &self.handle.shared().workers[w];
        let alive = tick::now().saturating_sub(worker.started_ns.load(Relaxed));
        Duration::from_nanos(alive.saturating_sub(worker.counters.idle_ns.load(Relaxed)))
    }
}
