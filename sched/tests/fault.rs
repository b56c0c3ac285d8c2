//! Stack overflow and other faults: the report names the fiber, and everything else is as without a runtime.

#![allow(dropping_copy_types, reason = "closures without a result")]
#![allow(clippy::manual_dangling_ptr, reason = "an address that faults is what is wanted")]

mod common;

use common::{Load, alone, busy_runtime, crash, spin, text};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::Duration;
use unyield::preempt::Preemption;
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);

/// Overflows the stack with small frames.
#[inline(never)]
fn small_frames(n: u64) -> u64 {
    let frame = [n; 16];
    black_box(&frame);
    if n == u64::MAX { 0 } else { small_frames(n + 1) + frame[3] }
}

/// … with frames of 40 KB, which the guard page is smaller than.
#[inline(never)]
fn big_frames(n: u64) -> u64 {
    let mut frame = [0u64; 5000];
    frame[(n % 5000) as usize] = n;
    black_box(&mut frame);
    if n == u64::MAX { 0 } else { big_frames(n + 1) + frame[3] }
}

/// … in C code, with frames of ours between libc's.
extern "C" fn through_c(_: *const libc::c_void, _: *const libc::c_void) -> i32 {
    let mut pair = [2u64, 1];
    // SAFETY: two elements of eight bytes.
    unsafe { libc::qsort(pair.as_mut_ptr().cast(), 2, 8, Some(through_c)) };
    black_box(pair[0]) as i32
}

/// … and gives way all the time, so that it is switched away at every depth.
#[inline(never)]
fn with_yields(n: u64) -> u64 {
    let frame = [n; 16];
    black_box(&frame);
    unyield::yield_now();
    if n == u64::MAX { 0 } else { with_yields(n + 1) + frame[3] }
}

fn check(output: &Output, name: &str, size: usize) {
    let text = text(output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    let line = text
        .lines()
        .find(|line| line.contains("has overflowed its stack"))
        .unwrap_or_else(|| panic!("no report: {text}"));
    assert!(line.starts_with("unyield: fiber "), "{text}");
    assert!(line.contains(name) && line.contains("spawned at ") && line.contains("fault.rs:"), "{text}");
    assert!(line.contains(&format!(" {size} bytes")), "{text}");
    let id: u64 =
        line["unyield: fiber ".len()..].split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert!(id > 0);
}

fn overflow(runtime: Runtime, name: &'static str, size: Option<usize>, how: fn()) {
    std::mem::forget(Load::start(&runtime, 3));
    runtime.run(move || {
        let mut builder = fiber::Builder::new().name(name);
        if let Some(size) = size {
            builder = builder.stack_size(size);
        }
        builder
            .spawn(move || {
                spin(MS);
                how();
            })
            .unwrap()
            .join()
            .unwrap();
    });
}

#[test]
fn overflow_with_small_frames() {
    let output = crash("overflow_with_small_frames", || {
        overflow(busy_runtime(2), "deep", None, || drop(black_box(small_frames(0))))
    });
    check(&output, "'deep'", 256 << 10);
}

#[test]
fn overflow_with_big_frames_and_a_size_of_its_own() {
    let output = crash("overflow_with_big_frames_and_a_size_of_its_own", || {
        overflow(busy_runtime(1), "wide", Some(100_000), || drop(black_box(big_frames(0))))
    });
    check(&output, "'wide'", 100_000);
}

#[test]
fn overflow_in_c() {
    let output = crash("overflow_in_c", || {
        overflow(busy_runtime(2), "c", Some(64 << 10), || drop(through_c(std::ptr::null(), std::ptr::null())))
    });
    check(&output, "'c'", 64 << 10);
}

#[test]
fn overflow_with_yields() {
    let output = crash("overflow_with_yields", || {
        overflow(busy_runtime(2), "polite", Some(32 << 10), || drop(black_box(with_yields(0))))
    });
    check(&output, "'polite'", 32 << 10);
}

#[test]
fn overflow_on_a_carrier() {
    let output = crash("overflow_on_a_carrier", || {
        overflow(busy_runtime(1), "carried", Some(32 << 10), || {
            fiber::blocking(|| drop(black_box(small_frames(0))))
        })
    });
    check(&output, "'carried'", 32 << 10);
}

fn overflow_with(preemption: Preemption) {
    let runtime = Runtime::builder().workers(1).preemption(preemption).stack_size(48 << 10).build().unwrap();
    runtime.run(|| {
        fiber::Builder::new()
            .name("unpreempted")
            .spawn(|| drop(black_box(small_frames(0))))
            .unwrap()
            .join()
            .unwrap()
    });
}

#[test]
fn overflow_at_checkpoints() {
    let output = crash("overflow_at_checkpoints", || overflow_with(Preemption::AtCheckpoints));
    check(&output, "'unpreempted'", 48 << 10);
}

#[test]
fn overflow_without_preemption() {
    let output = crash("overflow_without_preemption", || overflow_with(Preemption::Off));
    check(&output, "'unpreempted'", 48 << 10);
}

#[test]
fn overflow_on_plain_threads_is_std_s_affair() {
    let output = crash("overflow_on_plain_threads_is_std_s_affair", || {
        let runtime = busy_runtime(2);
        std::mem::forget(Load::start(&runtime, 3));
        runtime.run(|| {
            // a plain thread, though spawned by a fiber
            std::thread::Builder::new()
                .name("plain one".into())
                .spawn(|| drop(black_box(small_frames(0))))
                .unwrap()
                .join()
                .unwrap();
        });
    });
    let text = text(&output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("thread 'plain one'") && text.contains("has overflowed its stack"), "{text}");
    assert!(!text.contains("unyield: fiber"), "{text}");
}

fn segfault() {
    // SAFETY: none: this is the fault that is tested.
    unsafe { black_box(8 as *const u64).read_volatile() };
}

#[test]
fn a_segfault_in_a_fiber_is_a_segfault() {
    let output =
        crash("a_segfault_in_a_fiber_is_a_segfault", || overflow(busy_runtime(2), "reader", None, segfault));
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", text(&output));
    assert!(!text(&output).contains("overflowed"), "{}", text(&output));
}

/// Programs that handle SIGSEGV themselves (null checks of a JIT, memory mapped files) still do.
#[test]
fn a_program_s_own_segv_handler_is_asked() {
    extern "C" fn skip(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the third argument of a handler; the faulting load is skipped by going on at the address in RCX, with RAX = 77.
        unsafe {
            assert_eq!((*info).si_addr() as usize, 8);
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            registers[libc::REG_RIP as usize] = registers[libc::REG_RCX as usize];
            registers[libc::REG_RAX as usize] = 77;
        }
    }
    alone("a_program_s_own_segv_handler_is_asked", || {
        // SAFETY: a handler with three arguments, as SA_SIGINFO says.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = skip as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        }
        let runtime = busy_runtime(2);
        let background = Load::start(&runtime, 3);
        let fibers: Vec<_> = (0..4).map(|_| runtime.spawn(|| for _ in 0..500 {
            let value: u64;
            // SAFETY: the handler goes on at the label.
            unsafe { std::arch::asm!("lea rcx, [rip + 2f]", "mov rax, [{a}]", "2:", a = in(reg) 8u64, out("rax") value, out("rcx") _) };
            assert_eq!(value, 77);
        })).collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        drop(background);
    });
}

/// Uses about `bytes` of stack.
#[inline(never)]
fn use_stack(bytes: usize) -> usize {
    let frame = [1u8; 1024];
    black_box(&frame);
    if bytes < 2048 { usize::from(frame[9]) } else { use_stack(bytes - 1024) + usize::from(frame[7]) }
}

#[test]
fn a_fiber_has_the_stack_that_it_asked_for() {
    alone("a_fiber_has_the_stack_that_it_asked_for", || {
        let runtime = Runtime::builder()
            .workers(2)
            .stack_size(32 << 10)
            .quantum(Duration::from_micros(100))
            .build()
            .unwrap();
        for _ in 0..20 {
            let fibers: Vec<_> = (0..40)
                .map(|i| {
                    let size: usize = if i % 2 == 0 { 32 << 10 } else { (1 << 20) + 4096 * (i % 3) };
                    let body = move || black_box(use_stack(if size > 1 << 19 { 400 << 10 } else { 4 << 10 }));
                    runtime.run(|| fiber::Builder::new().stack_size(size).spawn(body).unwrap())
                })
                .collect();
            fibers.into_iter().for_each(|fiber| drop(fiber.join().unwrap()));
        }
        for bytes in [0, 1, (16 << 10) - 1, usize::MAX] {
            assert!(runtime.run(|| fiber::Builder::new().stack_size(bytes).spawn(|| ()).is_err()), "{bytes}");
        }
    });
}
