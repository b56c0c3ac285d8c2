//! Carriers: fibers that block in the kernel cost the others nothing, and may have an OS thread of their own.

mod common;

use common::{Load, alone, busy_runtime, gettid, pipe, process_cpu, spin};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);

/// Rounds of work that a fiber does per millisecond of the process's CPU time: what others cost it shows in this, what other programs do does not.
fn speed(runtime: &Runtime) -> f64 {
    runtime.run(|| {
        let (cpu, start) = (process_cpu(), Instant::now());
        let mut rounds = 0u64;
        while start.elapsed() < 300 * MS {
            for i in 0..1000u64 {
                std::hint::black_box(i);
            }
            rounds += 1;
        }
        rounds as f64 / (process_cpu() - cpu).as_secs_f64() / 1000.0
    })
}

#[test]
fn fifty_fibers_in_reads_beside_one_that_computes() {
    alone("fifty_fibers_in_reads_beside_one_that_computes", || {
        let runtime = Runtime::builder().workers(1).build().unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let before = speed(&runtime);
        let (mut ends, mut fibers) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            let (mut reader, writer) = pipe();
            ends.push(writer);
            let woken = woken.clone();
            fibers.push(runtime.spawn(move || {
                let mut byte = [0];
                assert_eq!(reader.read(&mut byte).unwrap(), 1, "read is restarted, it does not fail");
                woken.fetch_add(1, SeqCst);
                byte[0]
            }));
        }
        std::thread::sleep(100 * MS);
        let share = (0..5).map(|_| speed(&runtime) / before).fold(0.0, f64::max);
        println!("speed beside 50 blocked fibers: {share:.3} of the speed alone");
        assert!(share > 0.9, "{share}");
        std::thread::sleep(50 * MS);
        let cpu = process_cpu();
        std::thread::sleep(Duration::from_secs(2));
        let used = process_cpu() - cpu;
        println!("CPU of 50 blocked fibers in 2 s: {used:?}");
        assert!(used < 20 * MS, "{used:?}");
        for (i, end) in ends.iter_mut().enumerate() {
            assert_eq!(woken.load(SeqCst), i);
            end.write_all(&[i as u8]).unwrap();
            let start = Instant::now();
            while woken.load(SeqCst) != i + 1 {
                assert!(start.elapsed() < Duration::from_secs(5), "fiber {i} does not wake");
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        for (i, fiber) in fibers.into_iter().enumerate() {
            assert_eq!(fiber.join().unwrap() as usize, i);
        }
    });
}

/// At start there is one carrier and one spare in advance, not a crowd.
#[test]
fn threads_in_advance() {
    alone("threads_in_advance", || {
        for _ in 0..20 {
            let runtime = Runtime::builder().workers(1).build().unwrap();
            runtime.run(|| ());
            std::thread::sleep(5 * MS);
            assert!(
                runtime.handle().metrics().num_carriers() <= 2,
                "{}",
                runtime.handle().metrics().num_carriers()
            );
        }
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().count();
        assert!(tasks <= 3, "threads are left after shutdown: {tasks}");
    });
}

/// A call that has returned EINTR once is repeated by most programs; it must not be interrupted again and again.
#[test]
fn one_eintr_per_call() {
    alone("one_eintr_per_call", || {
        for load in [0, 2] {
            let runtime = busy_runtime(1);
            let eintr = Arc::new(AtomicU64::new(0));
            let waiters: Vec<_> = (0..10)
                .map(|i| {
                    let eintr = eintr.clone();
                    runtime.spawn(move || {
                        let end = Instant::now() + 1000 * MS;
                        let mut calls = 0;
                        while Instant::now() < end {
                            calls += 1;
                            let left = (end - Instant::now()).as_millis() as i32 + 1;
                            // SAFETY: no descriptors; a timeout.
                            let n = unsafe {
                                if i % 2 == 0 {
                                    libc::poll(std::ptr::null_mut(), 0, left)
                                } else {
                                    libc::usleep(left as u32 * 1000)
                                }
                            };
                            if n != 0 {
                                assert_eq!(
                                    std::io::Error::last_os_error().kind(),
                                    std::io::ErrorKind::Interrupted
                                );
                                eintr.fetch_add(1, SeqCst);
                            }
                        }
                        calls
                    })
                })
                .collect();
            let background = Load::start(&runtime, load);
            let calls: u64 = waiters.into_iter().map(|fiber| fiber.join().unwrap()).sum();
            drop(background);
            println!("load {load}: {calls} calls, {} EINTR", eintr.load(SeqCst));
            assert!(calls <= 10 * 5, "calls are interrupted again and again: {calls}");
        }
    });
}

#[test]
fn blocking_and_os_thread_nest() {
    alone("blocking_and_os_thread_nest", || {
        let runtime = busy_runtime(1);
        let background = Load::start(&runtime, 2);
        let fibers: Vec<_> = (0..6)
            .map(|i| {
                runtime.spawn(move || {
                    for _ in 0..10 {
                        assert_eq!(fiber::blocking(|| fiber::blocking(|| i) + 1), i + 1);
                        let outer = fiber::lock_os_thread();
                        let tid = gettid();
                        let inner = fiber::lock_os_thread();
                        assert_eq!(
                            fiber::blocking(gettid),
                            tid,
                            "blocking on an OS thread of one's own stays there"
                        );
                        unyield::yield_now();
                        drop(inner);
                        spin(MS / 5);
                        assert_eq!(gettid(), tid, "the inner guard does not give the thread back");
                        drop(outer);
                        // guards dropped in the other order
                        let (outer, inner) = (fiber::lock_os_thread(), fiber::lock_os_thread());
                        let tid = gettid();
                        drop(outer);
                        unyield::sleep(MS / 5);
                        spin(MS / 5);
                        assert_eq!(gettid(), tid, "a guard that is left keeps the thread");
                        drop(inner);
                        // panics go through
                        let panic = std::panic::catch_unwind(|| {
                            fiber::blocking(|| {
                                let _guard = fiber::lock_os_thread();
                                std::panic::panic_any(i);
                            })
                        })
                        .unwrap_err();
                        assert_eq!(*panic.downcast::<i32>().unwrap(), i);
                        let panic = std::panic::catch_unwind(|| {
                            let _guard = fiber::lock_os_thread();
                            fiber::blocking(|| std::panic::panic_any(i));
                        })
                        .unwrap_err();
                        assert_eq!(*panic.downcast::<i32>().unwrap(), i);
                        // lock_os_thread inside blocking, kept after it
                        let guard = fiber::blocking(fiber::lock_os_thread);
                        let tid = gettid();
                        unyield::yield_now();
                        spin(MS / 5);
                        assert_eq!(gettid(), tid);
                        drop(guard);
                    }
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        // Everything was given back: a computing fiber is on the worker.
        let worker = runtime.run(gettid);
        assert_eq!(runtime.run(gettid), worker);
        drop(background);
    });
}

#[test]
fn carriers_cancel_and_shutdown() {
    alone("carriers_cancel_and_shutdown", || {
        let runtime = Runtime::builder().workers(1).build().unwrap();
        let parked = runtime.spawn(|| {
            let _guard = fiber::lock_os_thread();
            unyield::park();
        });
        let blocked = runtime.spawn(|| {
            fiber::blocking(|| std::thread::sleep(30 * MS));
            unyield::yield_now();
            "not cancelled"
        });
        std::thread::sleep(10 * MS);
        parked.fiber().cancel();
        blocked.fiber().cancel();
        assert!(parked.join().unwrap_err().is_cancelled());
        assert!(blocked.join().unwrap_err().is_cancelled(), "a cancel is delivered after the call");
        for _ in 0..4 {
            drop(runtime.spawn(|| {
                let _guard = fiber::lock_os_thread();
                unyield::sleep(Duration::from_secs(100));
            }));
            drop(runtime.spawn(|| fiber::blocking(|| std::thread::sleep(20 * MS))));
        }
        std::thread::sleep(5 * MS);
        assert!(runtime.shutdown_timeout(Duration::from_secs(5)));
        // One that never returns is leaked, and the process goes on.
        let runtime = Runtime::builder().workers(1).build().unwrap();
        drop(runtime.spawn(|| fiber::blocking(|| std::thread::sleep(Duration::from_secs(1000)))));
        std::thread::sleep(10 * MS);
        let start = Instant::now();
        assert!(!runtime.shutdown_timeout(20 * MS));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    });
}

#[test]
fn waiting_in_std_costs_nothing() {
    alone("waiting_in_std_costs_nothing", || {
        let runtime = Runtime::builder().workers(1).build().unwrap();
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let fibers: Vec<_> = (0..20)
            .map(|i| {
                let pair = pair.clone();
                runtime.spawn(move || {
                    let guard = pair.0.lock().unwrap();
                    if i % 2 == 0 {
                        drop(pair.1.wait_while(guard, |ready| !*ready).unwrap());
                    } else {
                        // with a timeout the call returns EINTR once, and std makes it again
                        let (_guard, timeout) = pair
                            .1
                            .wait_timeout_while(guard, Duration::from_secs(100), |ready| !*ready)
                            .unwrap();
                        assert!(!timeout.timed_out());
                    }
                })
            })
            .collect();
        std::thread::sleep(200 * MS);
        // On a full machine it may take longer until all are where they wait.
        let seconds: Vec<_> = (0..5)
            .map(|_| {
                let cpu = process_cpu();
                std::thread::sleep(1000 * MS);
                process_cpu() - cpu
            })
            .scan(false, |quiet, used| (!std::mem::replace(quiet, used < 20 * MS)).then_some(used))
            .collect();
        println!("CPU of 20 fibers in a std condvar, second by second: {seconds:?}");
        assert!(*seconds.last().unwrap() < 20 * MS, "{seconds:?}");
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    });
}
