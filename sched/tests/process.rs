//! What concerns the process as a whole, done from a fiber while others compute: fork, commands, threads, credentials, exit, abort, dlopen.

mod common;

use common::{Load, alone, busy_runtime, crash, gettid, spin, text};
use std::ffi::CString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);

fn wait_for(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours; a local.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0 {
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
    }
    status
}

/// Forks; `body` runs in the child and gives its exit code. Returns the code.
fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: that a child forked from a fiber may go on like this is what is tested.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: a limit of the child's own: one that hangs is ended.
        unsafe { libc::alarm(20) };
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        std::process::exit(code);
    }
    let status = wait_for(pid);
    assert!(libc::WIFEXITED(status), "the child ended by signal {}", libc::WTERMSIG(status));
    libc::WEXITSTATUS(status)
}

/// What a fiber does in a forked child, as the plain thread that it is there. `others` is counted up by every other fiber.
fn in_child(others: &AtomicU64, lock: &Mutex<u64>, ours: &unyield::sync::Mutex<u64>, n: i32) -> i32 {
    let before = others.load(SeqCst);
    println!("child {n} prints");
    *lock.lock().unwrap() += 1;
    *ours.lock() += 1;
    let words: Vec<String> = (0..100).map(|i| format!("{i} {n}")).collect();
    let length = std::thread::spawn(move || words.concat().len()).join().unwrap();
    assert!(length > 300);
    unyield::yield_now();
    unyield::checkpoint();
    unyield::sleep(MS / 5);
    fiber::park_timeout(MS / 5);
    assert_eq!(fiber::blocking(|| 5), 5);
    drop(fiber::lock_os_thread());
    unyield::critical(|| spin(MS / 10));
    let (sender, receiver) = unyield::sync::channel::bounded(1);
    let sending = std::thread::spawn(move || sender.send(n).unwrap());
    assert_eq!(receiver.recv().unwrap(), n);
    sending.join().unwrap();
    let pair = (unyield::sync::Mutex::new(()), unyield::sync::Condvar::new());
    pair.1.wait_for(&mut pair.0.lock(), MS / 5);
    assert!(fiber::Builder::new().spawn(|| ()).is_err(), "no fiber can be spawned in a child");
    assert!(Runtime::builder().workers(1).build().is_err());
    assert!(unyield::runtime::Handle::try_current().is_none());
    spin(MS / 2);
    assert_eq!(
        std::fs::read_dir("/proc/self/task").unwrap().count(),
        1,
        "only the calling thread is in the child"
    );
    assert_eq!(others.load(SeqCst), before, "another fiber runs in the child");
    n & 0x7f
}

fn forks(workers: usize, from_carrier: bool) {
    let runtime = busy_runtime(workers);
    let (others, lock, ours) =
        (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(0)), Arc::new(unyield::sync::Mutex::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let counting: Vec<_> = (0..4)
        .map(|i| {
            let (others, stop) = (others.clone(), stop.clone());
            runtime.spawn(move || {
                while !stop.load(Relaxed) {
                    others.fetch_add(1, SeqCst);
                    if i == 0 {
                        drop(std::hint::black_box(vec![1u8; 3000]));
                    }
                }
            })
        })
        .collect();
    let count = others.clone();
    runtime
        .spawn(move || {
            for n in 0..100 {
                let before = count.load(SeqCst);
                let body = || fork(|| in_child(&count, &lock, &ours, n));
                assert_eq!(if from_carrier { fiber::blocking(body) } else { body() }, n & 0x7f);
                assert_eq!(
                    (*lock.lock().unwrap(), *ours.lock()),
                    (0, 0),
                    "what the child does stays in the child"
                );
                let start = Instant::now();
                while count.load(SeqCst) == before {
                    assert!(
                        start.elapsed() < Duration::from_secs(5),
                        "the parent's other fibers stand still"
                    );
                }
            }
        })
        .join()
        .unwrap();
    stop.store(true, Relaxed);
    counting.into_iter().for_each(|fiber| fiber.join().unwrap());
}

#[test]
fn fork_on_one_worker() {
    alone("fork_on_one_worker", || forks(1, false));
}

#[test]
fn fork_on_two_workers() {
    alone("fork_on_two_workers", || forks(2, false));
}

/// To libc the child's only thread is the fiber: it takes the stack of the worker's thread for one that nobody needs. When it unmaps that, the kernel must not
/// have anything of the thread there.
#[test]
fn the_childs_worker_stack_may_go() {
    alone("the_childs_worker_stack_may_go", || {
        let runtime = busy_runtime(2);
        for _ in 0..5 {
            let code = runtime.run(|| {
                fork(|| {
                    const THREADS: usize = 64; // libc keeps 40 MiB of stacks
                    let barrier = std::sync::Arc::new(std::sync::Barrier::new(THREADS));
                    let threads: Vec<_> = (0..THREADS)
                        .map(|_| {
                            let barrier = barrier.clone();
                            std::thread::spawn(move || _ = barrier.wait())
                        })
                        .collect();
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                    let start = Instant::now();
                    while start.elapsed() < 20 * MS {
                        std::thread::yield_now();
                    }
                    7
                })
            });
            assert_eq!(code, 7);
        }
    });
}

#[test]
fn fork_on_a_carrier() {
    alone("fork_on_a_carrier", || forks(1, true));
}

#[test]
fn fork_and_exec() {
    alone("fork_and_exec", || {
        let runtime = busy_runtime(2);
        let background = Load::start(&runtime, 3);
        runtime.run(|| {
            for _ in 0..20 {
                let code = fork(|| {
                    let arguments = [c"sh".as_ptr(), c"-c".as_ptr(), c"exit 9".as_ptr(), std::ptr::null()];
                    // SAFETY: terminated strings and a terminated array.
                    unsafe { libc::execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) };
                    1
                });
                assert_eq!(code, 9);
            }
        });
        drop(background);
    });
}

/// A child whose fiber comes to its end has no other thread: it ends, as a process does whose last thread returns.
#[test]
fn a_child_that_returns_from_its_fiber() {
    alone("a_child_that_returns_from_its_fiber", || {
        for workers in [1, 2] {
            let runtime = busy_runtime(workers);
            let background = Load::start(&runtime, 3);
            for panics in [false, true] {
                let parent = std::process::id();
                let status = runtime
                    .spawn(move || {
                        // SAFETY: as in `fork`.
                        let pid = unsafe { libc::fork() };
                        if std::process::id() != parent {
                            // SAFETY: as in `fork`.
                            unsafe { libc::alarm(20) };
                            assert!(!panics, "this panic is part of the test");
                            return -1;
                        }
                        wait_for(pid)
                    })
                    .join()
                    .unwrap();
                assert!(libc::WIFEXITED(status), "ended by signal {}", libc::WTERMSIG(status));
                assert_eq!(libc::WEXITSTATUS(status), if panics { 101 } else { 0 });
            }
            drop(background);
        }
    });
}

#[test]
fn commands_and_threads() {
    alone("commands_and_threads", || {
        for workers in [1, 2] {
            let runtime = busy_runtime(workers);
            let background = Load::start(&runtime, 3);
            let fibers: Vec<_> = (0..4)
                .map(|i| {
                    runtime.spawn(move || {
                        for n in 0..5 {
                            let output = std::process::Command::new("/bin/sh")
                                .args(["-c", &format!("echo out {i} {n}; echo err >&2; cat")])
                                .stdin(std::process::Stdio::null())
                                .output()
                                .unwrap();
                            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("out {i} {n}\n"));
                            assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
                            let mut child = std::process::Command::new("/bin/cat")
                                .stdin(std::process::Stdio::piped())
                                .stdout(std::process::Stdio::piped())
                                .spawn()
                                .unwrap();
                            child.stdin.take().unwrap().write_all(b"through a pipe").unwrap();
                            assert_eq!(child.wait_with_output().unwrap().stdout, b"through a pipe");
                            let (me, other) = (gettid(), std::thread::spawn(gettid).join().unwrap());
                            assert_ne!(me, other);
                            let sum = std::thread::scope(|s| {
                                (0..4)
                                    .map(|k| s.spawn(move || k * i))
                                    .collect::<Vec<_>>()
                                    .into_iter()
                                    .map(|t| t.join().unwrap())
                                    .sum::<i32>()
                            });
                            assert_eq!(sum, 6 * i);
                            let panic = std::thread::spawn(|| std::panic::resume_unwind(Box::new(3)))
                                .join()
                                .unwrap_err();
                            assert_eq!(*panic.downcast::<i32>().unwrap(), 3);
                        }
                    })
                })
                .collect();
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
            drop(background);
        }
    });
}

/// Sets the credentials that the process has; each call makes glibc ask every thread. Returns the longest time.
fn set_ids() -> Duration {
    let mut longest = Duration::ZERO;
    for call in 0..3 {
        let start = Instant::now();
        // SAFETY: sets what is set.
        let result = unsafe {
            match call {
                0 => libc::setgid(libc::getgid()),
                1 => libc::setuid(libc::getuid()),
                _ if libc::getuid() != 0 => 0,
                _ => {
                    let mut groups = [0; 64];
                    let n = libc::getgroups(64, groups.as_mut_ptr());
                    libc::setgroups(n.max(0) as usize, groups.as_ptr())
                }
            }
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        longest = longest.max(start.elapsed());
    }
    longest
}

fn quick(what: &str, mut call: impl FnMut() -> Duration) {
    let mut times: Vec<_> = (0..9).map(|_| call()).collect();
    times.sort();
    println!("{what}: median {:?}, longest {:?}", times[4], times[8]);
    assert!(times[4] < 100 * MS, "{what}: {times:?}");
}

#[test]
fn credentials() {
    alone("credentials", || {
        for workers in [1, 2] {
            let runtime = busy_runtime(workers);
            quick("idle, from a thread", set_ids);
            quick("idle, from a fiber", || runtime.run(set_ids));
            quick("from a carrier", || runtime.run(|| fiber::blocking(set_ids)));
            // fibers in calls that block, on carriers, in a std condvar, parked, owners of a thread
            let pair = Arc::new((Mutex::new(false), Condvar::new()));
            let waiting: Vec<_> = (0..12)
                .map(|i| {
                    let pair = pair.clone();
                    runtime.spawn(move || match i % 3 {
                        0 => drop(pair.1.wait_while(pair.0.lock().unwrap(), |ready| !*ready).unwrap()),
                        1 => fiber::blocking(|| {
                            drop(pair.1.wait_while(pair.0.lock().unwrap(), |ready| !*ready).unwrap())
                        }),
                        _ => {
                            let _guard = fiber::lock_os_thread();
                            while !*pair.0.lock().unwrap() {
                                unyield::sleep(MS);
                            }
                        }
                    })
                })
                .collect();
            std::thread::sleep(20 * MS);
            quick("carriers block, from a fiber", || runtime.run(set_ids));
            quick("carriers block, from a thread", set_ids);
            let background = Load::start(&runtime, 4);
            quick("workers compute, from a fiber", || runtime.run(set_ids));
            quick("workers compute, from a thread", set_ids);
            // identities that are made and retired meanwhile
            let stop = Arc::new(AtomicBool::new(false));
            let s = stop.clone();
            let maker = runtime.spawn(move || {
                while !s.load(Relaxed) {
                    let fibers: Vec<_> = (0..8)
                        .map(|_| fiber::Builder::new().stack_size(64 << 10).spawn(|| spin(MS / 20)).unwrap())
                        .collect();
                    fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
                }
            });
            quick("identities come and go, from a fiber", || runtime.run(set_ids));
            stop.store(true, Relaxed);
            maker.join().unwrap();
            *pair.0.lock().unwrap() = true;
            pair.1.notify_all();
            waiting.into_iter().for_each(|fiber| fiber.join().unwrap());
            drop(background);
        }
        // two runtimes, and a runtime that has gone
        let (a, b) = (busy_runtime(1), busy_runtime(1));
        quick("two runtimes", || a.run(|| b.run(set_ids)));
        drop((a, b));
        quick("after the runtimes", set_ids);
    });
}

#[test]
fn exit_from_a_fiber() {
    let output = crash("exit_from_a_fiber", || {
        extern "C" fn last_words() {
            // SAFETY: writes a constant.
            unsafe { libc::write(1, c"atexit has run\n".as_ptr().cast(), 15) };
        }
        // SAFETY: a function that lives for ever.
        unsafe { libc::atexit(last_words) };
        let runtime = busy_runtime(2);
        let _background = Load::start(&runtime, 4);
        runtime.run(|| {
            print!("buffered, ");
            std::process::exit(5)
        });
    });
    let text = text(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("buffered, ") && text.contains("atexit has run"), "{text}");
}

#[test]
fn exit_from_the_main_thread_while_fibers_run() {
    let output = crash("exit_from_the_main_thread_while_fibers_run", || {
        let runtime = busy_runtime(2);
        std::mem::forget(Load::start(&runtime, 4));
        for _ in 0..4 {
            drop(runtime.spawn(|| {
                loop {
                    drop(std::hint::black_box(format!("{:?}", gettid())))
                }
            }));
        }
        std::thread::sleep(20 * MS);
        std::process::exit(6);
    });
    assert_eq!(output.status.code(), Some(6), "{}", text(&output));
}

#[test]
fn abort_names_the_fiber() {
    let output = crash("abort_names_the_fiber", || {
        extern "C" fn program_s_own(_: i32) {
            let mut name = [0u8; 16];
            // SAFETY: 16 bytes are written; what was written is printed.
            unsafe {
                libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
                libc::write(2, c"comm=".as_ptr().cast(), 5);
                libc::write(2, name.as_ptr().cast(), libc::strlen(name.as_ptr().cast()));
            }
        }
        // SAFETY: a handler that only makes system calls; it was there before the runtime.
        unsafe { libc::signal(libc::SIGABRT, program_s_own as *const () as usize) };
        let runtime = busy_runtime(2);
        let _background = Load::start(&runtime, 3);
        runtime.run(|| {
            let doomed = fiber::Builder::new()
                .name("a doomed fiber of ours")
                .spawn(|| {
                    spin(MS);
                    std::process::abort()
                })
                .unwrap();
            doomed.join().unwrap()
        });
    });
    let text = text(&output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(
        text.contains("'a doomed fiber of ours', spawned at ")
            && text.contains("process.rs:")
            && text.contains("abort"),
        "{text}"
    );
    assert!(text.contains("comm=a doomed fiber"), "{text}");
}

#[test]
fn a_panic_that_may_not_unwind_aborts() {
    let output = crash("a_panic_that_may_not_unwind_aborts", || {
        extern "C" fn no_way_out() {
            panic!("out of an extern C function");
        }
        let runtime = busy_runtime(1);
        runtime.run(|| no_way_out());
    });
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", text(&output));
    assert!(text(&output).contains("unyield: fiber "), "{}", text(&output));
}

/// A library whose thread-local variable has a fixed place in the static TLS block, as libraries have that care for speed.
#[test]
fn dlopen_of_initial_exec_tls() {
    alone("dlopen_of_initial_exec_tls", || {
        let directory = std::env::temp_dir().join(format!("unyield-dlopen-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = busy_runtime(2);
        for (round, model) in ["initial-exec", "global-dynamic"].into_iter().enumerate() {
            let (source, library) = (directory.join("tls.c"), directory.join(format!("libtls{round}.so")));
            std::fs::write(&source, format!(
                "static __thread long value __attribute__((tls_model(\"{model}\"))) = 1234; static __thread long zero;\n\
                 long next(void) {{ return value++ + zero; }}\n")).unwrap();
            let gcc = std::process::Command::new("gcc")
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .arg(&library)
                .arg(&source)
                .status();
            if !gcc.is_ok_and(|status| status.success()) {
                println!("skipped: no working gcc");
                return;
            }
            static NEXT: AtomicU64 = AtomicU64::new(0);
            NEXT.store(0, SeqCst);
            fn check() {
                // SAFETY: the library's function, of this type.
                let next: extern "C" fn() -> i64 =
                    unsafe { std::mem::transmute(NEXT.load(Acquire) as usize) };
                // An identity keeps its thread-local values from task to task: each of them leaves a thousand more.
                let first = next();
                assert_eq!((first - 1234) % 1000, 0, "{first}");
                for i in 1..1000 {
                    assert_eq!(next(), first + i);
                    if i % 100 == 0 {
                        unyield::yield_now();
                    }
                }
            }
            // before the library is there; sizes of their own, so that some identities are older and some younger than it
            let size = (96 + 4 * round) << 10;
            let start = |size| {
                fiber::Builder::new()
                    .stack_size(size)
                    .spawn(|| {
                        while NEXT.load(Acquire) == 0 {
                            std::hint::spin_loop();
                        }
                        check();
                    })
                    .unwrap()
            };
            let mut fibers: Vec<_> = runtime.run(move || (0..8).map(|_| start(size)).collect());
            std::thread::sleep(5 * MS);
            let path = CString::new(library.to_str().unwrap()).unwrap();
            runtime.run(|| {
                // SAFETY: a library that does nothing when it is loaded.
                unsafe {
                    let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
                    assert!(!handle.is_null());
                    NEXT.store(libc::dlsym(handle, c"next".as_ptr()) as u64, Release);
                }
            });
            fibers.extend(runtime.run(move || (0..8).map(|_| start(size + 4096)).collect::<Vec<_>>()));
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        }
        drop(std::fs::remove_dir_all(&directory));
    });
}
