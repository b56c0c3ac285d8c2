//! Deep recursion: the stack overflows before the slots do, and neither corrupts anything.

use crate::common::{crash, text};
use crate::{runtime, serial_fib};
use std::os::unix::process::ExitStatusExt;
use unyield::preempt::Stealing;
use unyield::{Runtime, join};

/// Without optimisation each fork is several frames.
const STACK: usize = if cfg!(debug_assertions) { 512 << 20 } else { 64 << 20 };

/// `n` forks inside one another.
fn chain(n: u64) -> u64 {
    if n == 0 {
        return 0;
    }
    let (a, b) = join(|| chain(n - 1), || 1);
    a + b
}

/// … down the other half.
fn other_chain(n: u64) -> u64 {
    if n == 0 {
        return 0;
    }
    let (a, b) = join(|| 1, || other_chain(n - 1));
    a + b
}

#[test]
fn a_hundred_thousand_deep() {
    for workers in [1, 2] {
        for stealing in [Stealing::Lazy, Stealing::Eager] {
            let runtime =
                Runtime::builder().workers(workers).stealing(stealing).stack_size(STACK).build().unwrap();
            for _ in 0..5 {
                assert_eq!(runtime.run(|| chain(100_000)), 100_000);
                assert_eq!(runtime.run(|| other_chain(100_000)), 100_000);
            }
        }
    }
}

/// A fiber with a larger stack than the runtime's: its halves are as deep, so nobody runs them on a smaller one.
#[test]
fn a_fiber_with_a_larger_stack() {
    for stealing in [Stealing::Lazy, Stealing::Eager] {
        let runtime = runtime(2, stealing);
        let handle = runtime.handle().clone();
        for _ in 0..5 {
            let large = runtime.run(|| {
                unyield::fiber::Builder::new()
                    .stack_size(STACK / 8)
                    .spawn(|| join(|| chain(5_000), || other_chain(5_000)))
                    .unwrap()
                    .join()
                    .unwrap()
            });
            assert_eq!(large, (5_000, 5_000));
        }
        assert_eq!(handle.metrics().forks_stolen(), 0);
    }
}

#[test]
fn stealing_does_not_deepen_the_recursion() {
    // Each level of the tree is on the stack once, however much is stolen: with 64 KB and a depth of 30 there is no room for more (rayon #854).
    let runtime = Runtime::builder()
        .workers(4)
        .stack_size(if cfg!(debug_assertions) { 256 << 10 } else { 64 << 10 })
        .build()
        .unwrap();
    fn tree(n: u64) -> u64 {
        let room = std::hint::black_box([n; 64]);
        if n < 2 {
            return n;
        }
        let (a, b) = join(|| tree(n - 1), || tree(n - 2));
        a + b + room[0] - n
    }
    for _ in 0..10 {
        assert_eq!(runtime.run(|| tree(22)), serial_fib(22));
    }
}

#[test]
fn too_deep_is_reported_as_an_overflow() {
    for workers in [1, 2] {
        let output = crash("depth::too_deep_is_reported_as_an_overflow", || {
            let runtime = runtime(workers, Stealing::Lazy);
            runtime.run(|| chain(u64::MAX));
        });
        let text = text(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
        assert!(text.contains("has overflowed its stack"), "{text}");
    }
}

/// The slots are used up only if forks lie on stacks that are not the fiber's: here one after the other, in one frame that is never left.
#[test]
fn the_end_of_the_slots_is_a_guard() {
    let output = crash("depth::the_end_of_the_slots_is_a_guard", || {
        let runtime = runtime(1, Stealing::Lazy);
        runtime.run(|| on_other_stacks(0));
    });
    let text = text(&output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("has overflowed its stack") || text.contains("more forks"), "{text}");
}

/// Each fork on a fresh piece of another stack, as a program that grows its stack does.
fn on_other_stacks(n: u64) -> u64 {
    extern "C" fn entry(transfer: context::Transfer) -> ! {
        // SAFETY: `on_other_stacks` passes its number; it never comes back.
        let n = transfer.data as u64;
        let (a, _) = join(|| on_other_stacks(n + 1), || 1);
        unreachable!("{a}");
    }
    let stack = context::stack::FixedSizeStack::new(16 << 10).unwrap();
    // SAFETY: a fresh stack, which is leaked.
    let context = unsafe { context::Context::new(&stack, entry) };
    std::mem::forget(stack);
    // SAFETY: entered once.
    unsafe { context.resume(n as usize) };
    n
}
