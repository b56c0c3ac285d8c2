//! A fiber that computes with few bytes left above its guard page while it is ticked: it survives, and is not switched away where a frame has no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::Duration;
use unyield::preempt::Mechanism;
use unyield::{Runtime, testing};

/// Computes with the stack pointer at `sp`.
fn compute_at(sp: usize, rounds: u64) {
    // SAFETY: nothing in between uses the stack; `sp` lies in the caller's stack, below all that is in use.
    unsafe {
        std::arch::asm!("mov r14, rsp", "mov rsp, {sp}", "2: dec {n}", "jnz 2b", "mov rsp, r14",
            sp = in(reg) sp, n = inout(reg) rounds => _, out("r14") _);
    }
}

/// What one attempt has shown: None, if the fiber moved to another worker, else switches of its worker and interrupts that were refused.
fn attempt(runtime: &Runtime, left: usize) -> Option<(u64, u64)> {
    let rounds = if cfg!(debug_assertions) { 20_000_000 } else { 60_000_000 };
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let edge = runtime.spawn(move || {
        let (low, _) = testing::stack_bounds().unwrap();
        let (worker, switches, refused) = testing::here();
        compute_at(low + left, rounds);
        let after = testing::here();
        finished.store(true, SeqCst);
        (worker == after.0).then(|| (after.1 - switches, after.2 - refused))
    });
    // Wants the same worker; a spare one serves it as long as that is stuck.
    let other = runtime.spawn(move || while !done.load(SeqCst) {});
    other.join().unwrap();
    edge.join().unwrap()
}

#[test]
fn little_room() {
    /// Before and after the loop there is room, so a switch or two may happen there.
    const OUTSIDE: u64 = 4;
    let runtime = Runtime::builder().workers(1).quantum(Duration::from_micros(50)).build().unwrap();
    let room = runtime.run(|| testing::stack_bounds().map(|(low, lowest)| lowest - low).unwrap());
    // The CPU pushes its frame before anybody can look: so many bytes are always needed, or it is an overflow.
    let least = if runtime.handle().mechanism() == Mechanism::Signal { 0 } else { 128 + 15 + 32 + 24 };
    for left in [16, 64, 256, 1024, 4096, room - 64, room - 16, room, room + 256, room + 16384] {
        if left < least {
            continue;
        }
        let results: Vec<_> = (0..5).filter_map(|_| attempt(&runtime, left)).collect();
        println!(
            "{left:6} bytes left of {room} needed: (switches of its worker, interrupts refused) {results:?}"
        );
        if left < room {
            assert!(
                results.iter().any(|(_, refused)| *refused > 0),
                "{left} bytes left: no interrupt was refused"
            );
            assert!(
                results.iter().all(|(switches, _)| *switches <= OUTSIDE),
                "{left} bytes left: switched away without room for a frame"
            );
        } else {
            let switched = results.len() < 5 || results.iter().any(|(switches, _)| *switches > OUTSIDE);
            assert!(switched, "{left} bytes left: not switched away, though there is room");
        }
    }
}
