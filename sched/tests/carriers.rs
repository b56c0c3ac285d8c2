//! System calls from fibers: that block, that are interrupted, that no signal ends; carriers and spare workers.

mod common;

use common::{Load, alone, busy_runtime, gettid, process_cpu, spin};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);

fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [0; 2];
    // SAFETY: two fresh descriptors, owned by the files.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1]))
    }
}

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

type Case = (&'static str, fn() -> bool);

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn fresh_path() -> std::path::PathBuf {
    static N: AtomicU64 = AtomicU64::new(0);
    std::env::temp_dir().join(format!("unyield-lock-{}-{}", std::process::id(), N.fetch_add(1, Relaxed)))
}

/// Every class of how the kernel restarts calls. Each returns whether it saw EINTR, and checks everything else.
const CLASSES: [Case; 13] = [
    ("read", || {
        let (mut reader, mut writer) = pipe();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            writer.write_all(b"x").unwrap();
        });
        let mut byte = [0];
        assert_eq!(reader.read(&mut byte).unwrap(), 1);
        assert_eq!(byte[0], b'x');
        helper.join().unwrap();
        false
    }),
    ("nanosleep", || {
        let (start, mut eintr) = (Instant::now(), false);
        let mut left = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        // SAFETY: a local that is read and written.
        while unsafe { libc::nanosleep(&left.clone(), &mut left) } != 0 {
            assert_eq!(errno(), libc::EINTR);
            eintr = true;
        }
        assert!(start.elapsed() >= 5 * MS);
        eintr
    }),
    ("poll", || {
        // SAFETY: no descriptors.
        let n = unsafe { libc::poll(std::ptr::null_mut(), 0, 5) };
        assert!(n == 0 || errno() == libc::EINTR);
        n != 0
    }),
    ("futex, relative", || {
        let (word, time) = (0u32, libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 });
        // SAFETY: a word that nobody changes.
        assert_eq!(
            // SAFETY: as above.
            unsafe {
                libc::syscall(libc::SYS_futex, &word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, &time)
            },
            -1
        );
        assert!([libc::ETIMEDOUT, libc::EINTR].contains(&errno()), "{}", errno());
        errno() == libc::EINTR
    }),
    ("futex, absolute", || {
        // SAFETY: locals; a word that nobody changes.
        unsafe {
            let (word, mut time) = (0u32, std::mem::zeroed::<libc::timespec>());
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
            time.tv_nsec += 5_000_000;
            time.tv_sec += time.tv_nsec / 1_000_000_000;
            time.tv_nsec %= 1_000_000_000;
            let call = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
            assert_eq!(libc::syscall(libc::SYS_futex, &word, call, 0, &time, 0, u32::MAX), -1);
        }
        assert!([libc::ETIMEDOUT, libc::EINTR].contains(&errno()), "{}", errno());
        errno() == libc::EINTR
    }),
    ("futex, for ever", || {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let other = pair.clone();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            *other.0.lock().unwrap() = true;
            other.1.notify_all();
        });
        drop(pair.1.wait_while(pair.0.lock().unwrap(), |ready| !*ready).unwrap());
        helper.join().unwrap();
        false
    }),
    ("ppoll", || {
        // SAFETY: locals.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut mask, libc::SIGUSR1);
            let time = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            let n = libc::ppoll(std::ptr::null_mut(), 0, &time, &mask);
            let eintr = n != 0 && errno() == libc::EINTR;
            assert!(n == 0 || eintr);
            let mut now: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut now);
            assert_eq!(libc::sigismember(&now, libc::SIGUSR1), 0, "the mask of a call leaks");
            eintr
        }
    }),
    ("epoll_wait", || {
        // SAFETY: a descriptor of our own, room for one event.
        unsafe {
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            let mut event: libc::epoll_event = std::mem::zeroed();
            let n = libc::epoll_wait(epoll, &mut event, 1, 5);
            let eintr = n != 0 && errno() == libc::EINTR;
            assert!(n == 0 || eintr);
            libc::close(epoll);
            eintr
        }
    }),
    ("accept and connect", || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(3 * MS);
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(b"hello").unwrap();
        });
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        helper.join().unwrap();
        let other = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(other.peer_addr().unwrap(), address);
        false
    }),
    ("wait4", || {
        let status =
            std::process::Command::new("/bin/sh").args(["-c", "sleep 0.01; exit 7"]).status().unwrap();
        assert_eq!(status.code(), Some(7));
        false
    }),
    ("flock", || {
        let path = fresh_path();
        let (a, b) = (std::fs::File::create(&path).unwrap(), std::fs::File::open(&path).unwrap());
        // SAFETY: descriptors of our own.
        assert_eq!(unsafe { libc::flock(a.as_raw_fd(), libc::LOCK_EX) }, 0);
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            drop(a);
        });
        // SAFETY: as above.
        assert_eq!(unsafe { libc::flock(b.as_raw_fd(), libc::LOCK_EX) }, 0);
        helper.join().unwrap();
        drop(std::fs::remove_file(&path));
        false
    }),
    ("fcntl locks", || {
        let path = fresh_path();
        let (a, b) = (
            std::fs::File::create(&path).unwrap(),
            std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap(),
        );
        // SAFETY: descriptors of our own; open-file-description locks, which exclude each other within a process.
        let lock = |file: &std::fs::File| unsafe {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as i16;
            libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &lock)
        };
        assert_eq!(lock(&a), 0);
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            drop(a);
        });
        assert_eq!(lock(&b), 0);
        helper.join().unwrap();
        drop(std::fs::remove_file(&path));
        false
    }),
    ("sigtimedwait", || {
        // SAFETY: locals; SIGUSR2 is blocked for the time, and nobody sends it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGUSR2);
            let time = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
            assert_eq!(libc::sigtimedwait(&set, std::ptr::null_mut(), &time), -1);
            assert!([libc::EAGAIN, libc::EINTR].contains(&errno()), "{}", errno());
            errno() == libc::EINTR
        }
    }),
];

fn all_classes(runtime: &Runtime, rounds: usize, copies: usize) {
    let background = Load::start(runtime, 3);
    let fibers: Vec<_> = CLASSES
        .iter()
        .flat_map(|case| std::iter::repeat_n(case, copies))
        .map(|(name, body)| runtime.spawn(move || (*name, (0..rounds).filter(|_| body()).count())))
        .collect();
    let mut seen = std::collections::BTreeMap::new();
    for fiber in fibers {
        let (name, eintr) = fiber.join().unwrap();
        *seen.entry(name).or_insert(0) += eintr;
    }
    println!("EINTR of {}: {seen:?}", rounds * copies);
    drop(background);
}

#[test]
fn every_class_of_call_gives_right_results() {
    alone("every_class_of_call_gives_right_results", || {
        for workers in [1, 2] {
            let runtime = busy_runtime(workers);
            all_classes(&runtime, 8, 2);
            let metrics = runtime.handle().metrics();
            assert!((0..workers).map(|w| metrics.worker_call_preempt_count(w)).sum::<u64>() > 20);
        }
    });
}

#[test]
fn few_carriers() {
    alone("few_carriers", || {
        for max in [0, 1, 3] {
            let runtime = Runtime::builder()
                .workers(1)
                .max_carriers(max)
                .quantum(Duration::from_micros(500))
                .build()
                .unwrap();
            all_classes(&runtime, 2, 1);
            let values: Vec<_> = (0..8)
                .map(|i| {
                    runtime.spawn(move || {
                        fiber::blocking(|| {
                            std::thread::sleep(2 * MS);
                            i
                        })
                    })
                })
                .collect();
            assert_eq!(values.into_iter().map(|fiber| fiber.join().unwrap()).sum::<i32>(), 28);
            if max > 0 {
                let fibers: Vec<_> = (0..4)
                    .map(|_| {
                        runtime.spawn(|| {
                            let _guard = fiber::lock_os_thread();
                            let tid = gettid();
                            unyield::sleep(2 * MS);
                            assert_eq!(gettid(), tid);
                        })
                    })
                    .collect();
                fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
            }
            assert!(runtime.handle().metrics().num_carriers() <= max);
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
        let cpu = process_cpu();
        std::thread::sleep(1000 * MS);
        let used = process_cpu() - cpu;
        println!("CPU of 20 fibers in a std condvar for 1 s: {used:?}");
        assert!(used < 20 * MS, "{used:?}");
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    });
}

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
        assert_eq!(most, 0, "a spare was sent to work though nothing was stuck");
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
