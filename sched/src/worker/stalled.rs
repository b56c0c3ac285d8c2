//! Fibers that wait for a futex while the carriers are taken: they stay out of the run queues until their word has changed.
//!
//! In a queue each of them would cost its worker a quantum, turn after turn, only to be found waiting again, and the fiber that holds the lock would get
//! one turn in as many. The last eighth of the carriers is kept for calls other than these waits: a holder that needs a carrier gets one.
//!
//! The timer thread looks at them every few milliseconds. Whose word has changed is queued, so many at a time, and goes on with its call. A waker need
//! not change the word, so one that waits longest is queued in any case, and idle carriers take some to wait in the kernel.

use super::carrier::{self, Carriers};
use crate::identity::Identity;
use crate::runtime::Shared;
use std::ptr::NonNull;
use unyield_preempt::Syscall;
use unyield_preempt::arch::insn;

/// Between looks (ns).
const PERIOD: u64 = 5_000_000;
/// How many words are compared in one look: 0.3 µs each.
const COMPARED: usize = 512;
/// How many fibers a look queues for each worker.
const RELEASED: usize = 8;

/// The futex that a fiber waits for without a time limit: address, operation, expected value.
struct Wait {
    address: u64,
    operation: u64,
    expected: u64,
}

/// # Safety
/// The identity is at rest, and the caller's.
unsafe fn wait_of(identity: &Identity) -> Option<Wait> {
    // SAFETY: the frame of an identity at rest lies on its stack; it interrupted code whose text is mapped.
    match unsafe { identity.frame.get().as_ref()?.syscall()? } {
        Syscall::Restart { number, args } if number as i64 == libc::SYS_futex && args[3] == 0 => {
            let command = args[1] as i32 & libc::FUTEX_CMD_MASK;
            let wait = Wait { address: args[0], operation: args[1], expected: args[2] };
            [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].contains(&command).then_some(wait)
        }
        _ => None,
    }
}

/// True if the word is what the waiter expects. The kernel compares, so that an address that is mapped no more does no harm: a requeue of nobody to nowhere.
fn unchanged(wait: &Wait) -> bool {
    let operation = libc::FUTEX_CMP_REQUEUE as u64 | wait.operation & libc::FUTEX_PRIVATE_FLAG as u64;
    // SAFETY: wakes and moves no waiter; reads the word if it can.
    let result = unsafe {
        insn::syscall6(libc::SYS_futex as u64, [wait.address, operation, 0, 0, wait.address, wait.expected])
    };
    result == 0
}

/// Takes a fiber that was interrupted in a call, if it should wait here. False: it is still the caller's.
///
/// # Safety
/// Masked; the identity is at rest with its frame noted, may run anywhere, and is the caller's.
pub(super) unsafe fn take(runtime: &Shared, identity: &Identity) -> bool {
    let carriers = &runtime.carriers;
    // SAFETY: as promised.
    unsafe {
        if !crowded(carriers) || wait_of(identity).is_none() {
            return false;
        }
        carriers.stalled.push(NonNull::from(&identity.head));
    }
    runtime.armed.enqueue_check(); // the timer must not sleep now
    true
}

/// True if no carrier is left for a wait of this kind.
fn crowded(carriers: &Carriers) -> bool {
    carriers.busy() >= carriers.max - carriers.max / 8
}

/// Timer thread: when to look again at the latest, if it sleeps.
pub(crate) fn next_look(runtime: &Shared, now: u64) -> u64 {
    if runtime.carriers.stalled.is_empty() { u64::MAX } else { now + PERIOD }
}

/// Timer thread: looks at some of those that wait, if it is time to.
pub(crate) fn look(runtime: &Shared, now: u64, due: &mut u64) {
    let stalled = &runtime.carriers.stalled;
    if stalled.is_empty() || now < *due {
        return;
    }
    *due = now + PERIOD;
    let mut quota = RELEASED * runtime.workers.len();
    // SAFETY: what was taken out of the list is ours: nobody else knows it.
    unsafe {
        while !crowded(&runtime.carriers)
            && let Some(runnable) = stalled.pop()
        {
            if !carrier::offer(runtime, runnable.cast::<Identity>().as_ref()) {
                stalled.push_front(runnable);
                break;
            }
        }
        let mut released = 0;
        for _ in 0..stalled.len().min(COMPARED) {
            let Some(runnable) = stalled.pop() else { break };
            let waits = released > 0
                && wait_of(runnable.cast::<Identity>().as_ref()).is_some_and(|wait| unchanged(&wait));
            if waits {
                stalled.push(runnable);
                continue;
            }
            runtime.inject(runnable);
            released += 1;
            quota -= 1;
            if quota == 0 {
                break;
            }
        }
    }
}
