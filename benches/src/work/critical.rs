//! An empty critical section, entered and left in a tight loop by a lone fiber, and what else a program could use to
//! keep interrupts out: a plain thread-local counter, as the compiler translates `Cell<u32>` and, `-rmw`, as one
//! instruction each way (the least any such section can do; on some processors much faster); an atomic flag of the whole
//! process; the signal mask; and, for those who would rather look than mask, a poll. `clui-stui` is the section of a
//! runtime on User Interrupts with `Masking::CluiStui`: where the CPU has none, both instructions trap and are carried out
//! in software, which says nothing about hardware.
//!
//! Not measured: a section that something arrived in (that is a preemption, see `preempt`).

use std::{
    arch::asm,
    cell::Cell,
    hint::black_box,
    ptr,
    sync::atomic::{AtomicBool, Ordering::SeqCst, compiler_fence},
};

use super::{Env, hosts, unknown};
use crate::{os::Clocks, peers::Answer, proto::Sample};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

static FLAG: AtomicBool = AtomicBool::new(false);

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    if contender == "clui-stui" {
        return hosts::unyield(env, hosts::Mode::CluiStui).run(|| {
            Ok(timed(contender, n / 2000, |i| {
                unyield::critical(|| {
                    black_box(i);
                })
            }))
        });
    }
    hosts::in_unyield(env, || match contender {
        "unyield" => Ok(timed(contender, n, |i| {
            unyield::critical(|| {
                black_box(i);
            })
        })),
        "counter-pair" => Ok(timed(contender, n, |i| {
            DEPTH.with(|d| d.set(d.get() + 1));
            compiler_fence(SeqCst);
            black_box(i);
            compiler_fence(SeqCst);
            DEPTH.with(|d| d.set(d.get() - 1));
        })),
        "counter-pair-rmw" => Ok(timed(contender, n, |i| {
            DEPTH.with(|d| {
                // SAFETY: one read-modify-write of a `u32` that outlives the call.
                unsafe { asm!("inc dword ptr [{}]", in(reg) d.as_ptr(), options(nostack)) };
                black_box(i);
                // SAFETY: as above.
                unsafe { asm!("dec dword ptr [{}]", in(reg) d.as_ptr(), options(nostack)) };
            });
        })),
        "atomic-flag-pair" => Ok(timed(contender, n / 10, |i| {
            FLAG.swap(true, SeqCst);
            black_box(i);
            FLAG.swap(false, SeqCst);
        })),
        "polling" => Ok(timed(contender, n, |i| {
            black_box(i);
            unyield::checkpoint(); // one for each section that needs none
        })),
        "sigmask-pair" => Ok(timed(contender, n / 100, |i| {
            let before = block_usr2();
            black_box(i);
            restore(&before);
        })),
        "empty-loop" => Ok(timed(contender, n, |i| {
            black_box(i);
        })),
        other => unknown(other),
    })
}

#[inline(always)]
fn timed(contender: &str, n: u64, one: impl Fn(u64)) -> Vec<Sample> {
    (0..n / 10).for_each(&one);
    let clocks = Clocks::start();
    for i in 0..n {
        one(i);
    }
    clocks.per_op(contender, n)
}

fn block_usr2() -> libc::sigset_t {
    // SAFETY: all-zero bytes are a valid signal set.
    let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid signal set.
    unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
    // SAFETY: both sets are valid for the call.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before) };
    before
}

fn restore(before: &libc::sigset_t) {
    // SAFETY: `before` is a valid signal set; a null third argument is allowed.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}
