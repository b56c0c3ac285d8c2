//! Spare workers: fibers that keep their worker do not keep it from the others; and every kind of runnable gets its turn.

mod common;

use common::{Load, alone, busy_runtime, process_cpu, spin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};
use unyield::Runtime;
use unyield::preempt::Mechanism;

const MS: Duration = Duration::from_millis(1);

/// Blocks every signal for the OS thread that the fiber is on, without libc's exceptions.
fn block_everything() -> u64 {
    let (all, mut before) = (!0u64, 0u64);
    // SAFETY: two words of our own.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &all, &mut before, 8) };
    before
}

fn restore_mask(mask: u64) {
    // SAFETY: a word of our own.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask, 0, 8) };
}

/// What others do while one fiber holds the only worker: all of it must get done.
fn others_run(runtime: &Runtime) {
    let start = Instant::now();
    let fibers: Vec<_> = (0..20u64)
        .map(|i| {
            runtime.spawn(move || {
                for _ in 0..3 {
                    unyield::sleep(MS);
                    spin(MS / 2);
                    unyield::yield_now();
                }
                unyield::spawn(move || i).join().unwrap()
            })
        })
        .collect();
    assert_eq!(fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum::<u64>(), 190);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

fn stuck_case(hold: impl Fn(&AtomicBool) + Send + Sync + 'static) {
    let runtime = Runtime::builder().workers(1).build().unwrap();
    let hold = Arc::new(hold);
    for stuck in [1, 3] {
        let stop = Arc::new(AtomicBool::new(false));
        let fibers: Vec<_> = (0..stuck)
            .map(|_| {
                let (stop, hold) = (stop.clone(), hold.clone());
                runtime.spawn(move || hold(&stop))
            })
            .collect();
        std::thread::sleep(5 * MS);
        for _ in 0..3 {
            others_run(&runtime);
        }
        assert!(runtime.handle().metrics().num_spares() >= 1);
        stop.store(true, SeqCst);
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        // The worker has answered: spares go back to rest, and one worker does all the work again.
        let background = Load::start(&runtime, 3);
        let start = Instant::now();
        while runtime.handle().metrics().num_spares() > 0 {
            assert!(start.elapsed() < Duration::from_secs(5), "spares do not retire");
            std::thread::sleep(MS);
        }
        drop(background);
        let cpu = process_cpu();
        std::thread::sleep(200 * MS);
        assert!(process_cpu() - cpu < 40 * MS, "the runtime does not come to rest");
    }
}

#[test]
fn a_spare_beside_an_endless_loop_with_signals_blocked() {
    alone("a_spare_beside_an_endless_loop_with_signals_blocked", || {
        stuck_case(|stop| {
            let mask = block_everything();
            while !stop.load(Relaxed) {}
            restore_mask(mask);
        })
    });
}

#[test]
fn a_spare_beside_a_read_with_signals_blocked() {
    alone("a_spare_beside_a_read_with_signals_blocked", || {
        stuck_case(|stop| {
            let mask = block_everything();
            while !stop.load(Relaxed) {
                // SAFETY: no descriptors.
                unsafe { libc::poll(std::ptr::null_mut(), 0, 20) };
            }
            restore_mask(mask);
        })
    });
}

#[test]
fn a_spare_beside_a_critical_section_that_takes_long() {
    alone("a_spare_beside_a_critical_section_that_takes_long", || {
        stuck_case(|stop| {
            unyield::critical(|| while !stop.load(Relaxed) {});
        })
    });
}

/// vfork suspends the caller until the child has ended: no signal ends that.
#[test]
fn a_spare_beside_a_call_that_no_signal_ends() {
    alone("a_spare_beside_a_call_that_no_signal_ends", || {
        let runtime = Runtime::builder().workers(1).build().unwrap();
        let fiber = runtime.spawn(|| {
            // SAFETY: the child, which borrows this stack, only makes system calls and ends.
            unsafe {
                let mut child: i64;
                std::arch::asm!("syscall", "test rax, rax", "jnz 2f",
                    "mov eax, 35", "mov rdi, {time}", "xor esi, esi", "syscall", // nanosleep
                    "mov eax, 60", "mov edi, 5", "syscall", // exit
                    "2:", time = in(reg) &libc::timespec { tv_sec: 0, tv_nsec: 700_000_000 },
                    inlateout("rax") libc::SYS_vfork => child, out("rcx") _, out("r11") _, out("rdi") _, out("rsi") _);
                let mut status = 0;
                assert_eq!(libc::waitpid(child as i32, &mut status, 0), child as i32);
                libc::WEXITSTATUS(status)
            }
        });
        std::thread::sleep(10 * MS);
        let start = Instant::now();
        others_run(&runtime);
        assert!(
            !fiber.is_finished() && start.elapsed() < 600 * MS,
            "the others waited for the call: {:?}",
            start.elapsed()
        );
        assert_eq!(fiber.join().unwrap(), 5);
    });
}

#[test]
fn no_spares_for_a_machine_that_is_merely_full() {
    alone("no_spares_for_a_machine_that_is_merely_full", || {
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..12)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || while !stop.load(Relaxed) {})
            })
            .collect();
        let runtime = busy_runtime(2);
        let modelled = runtime.handle().mechanism() == Mechanism::Model; // its traps use CPU time of their own
        let background = Load::start(&runtime, 6);
        let start = Instant::now();
        let mut most = 0;
        while start.elapsed() < 1000 * MS {
            most = most.max(runtime.handle().metrics().num_spares());
            std::thread::sleep(MS);
        }
        drop(background);
        stop.store(true, SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(most == 0 || modelled, "a spare was sent to work though nothing was stuck");
    });
}

/// Nothing is queued any more once the spare has taken it: the stuck worker must be asked all the same whether it answers again.
#[test]
fn a_spare_that_has_taken_everything_retires() {
    alone("a_spare_that_has_taken_everything_retires", || {
        let runtime = Runtime::builder().workers(1).build().unwrap();
        let (release, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (r, s) = (release.clone(), stop.clone());
        let holder = runtime.spawn(move || {
            let mask = block_everything();
            while !r.load(Relaxed) {}
            restore_mask(mask);
            while !s.load(Relaxed) {}
        });
        let s = stop.clone();
        let other = runtime.spawn(move || while !s.load(Relaxed) {});
        let wait = |what: &str, n: usize| {
            let start = Instant::now();
            while runtime.handle().metrics().num_spares() != n {
                assert!(start.elapsed() < Duration::from_secs(5), "{what}");
                std::thread::sleep(MS);
            }
        };
        wait("no spare goes to work", 1);
        std::thread::sleep(50 * MS);
        release.store(true, Relaxed);
        wait("the spare does not retire", 0);
        let before = runtime.handle().metrics().worker_preempt_count(0);
        let start = Instant::now();
        while runtime.handle().metrics().worker_preempt_count(0) < before + 5 {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "the two do not take turns on the worker again"
            );
            std::thread::sleep(MS);
        }
        stop.store(true, Relaxed);
        holder.join().unwrap();
        other.join().unwrap();
    });
}

/// Slices that are longer than the period of the timer's ageing (a long quantum, or a full machine): each kind of runnable gets its turn all the same.
#[test]
fn long_quanta_starve_nobody() {
    alone("long_quanta_starve_nobody", || {
        let runtime = Runtime::builder().workers(1).quantum(20 * MS).build().unwrap();
        let background = Load::start(&runtime, 2);
        std::thread::sleep(30 * MS);
        // many at once from outside: what does not run at once waits in a worker's queue
        let start = Instant::now();
        let fibers: Vec<_> = (0..6)
            .map(|i| {
                runtime.spawn(move || {
                    // woken by a fiber, by a deadline
                    let other = unyield::spawn(unyield::park);
                    unyield::sleep(MS);
                    other.fiber().unpark();
                    other.join().unwrap();
                    i
                })
            })
            .collect();
        assert_eq!(fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum::<i32>(), 15);
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        drop(background);
    });
}
