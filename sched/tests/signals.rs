//! Signal handlers, masks and alternate stacks that are not the runtime's, beside preemption.

#![allow(dropping_copy_types, reason = "closures without a result")]

mod common;

use common::{Load, alone, busy_runtime, crash, gettid, spin, text};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);
const QUANTUM: Duration = Duration::from_micros(100);

/// Installs `handler` for `signal`; returns what was there.
fn install(signal: i32, flags: i32, handler: extern "C" fn(i32)) -> libc::sigaction {
    // SAFETY: zeroed structures; the handlers of this file are async-signal-safe.
    unsafe {
        let (mut action, mut previous): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, &mut previous), 0);
        previous
    }
}

fn send(tid: i32, signal: i32) {
    // SAFETY: a signal that the test handles, to a thread of this process.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
}

/// Signal mask and alternate stack of the calling OS thread.
fn state() -> (u64, usize, usize) {
    // SAFETY: only reads the settings, into locals.
    unsafe {
        let mut mask = 0u64;
        libc::syscall(libc::SYS_rt_sigprocmask, 0, 0, &mut mask, 8);
        let mut stack: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(null(), &mut stack);
        (mask, stack.ss_sp as usize, stack.ss_size)
    }
}

/// The name of the calling OS thread.
fn thread_name() -> String {
    let mut name = [0u8; 16];
    // SAFETY: 16 bytes are written.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_string()
}

type States = BTreeMap<i32, (u64, usize, usize)>;

/// The state of every worker, looked at by fibers on them.
fn states(runtime: &Runtime, workers: usize) -> States {
    let seen = Arc::new(Mutex::new(States::new()));
    let start = Instant::now();
    while seen.lock().unwrap().len() < workers {
        assert!(start.elapsed() < Duration::from_secs(10), "not every worker runs fibers");
        let fibers: Vec<_> = (0..2 * workers)
            .map(|_| {
                let seen = seen.clone();
                runtime.spawn(move || {
                    spin(MS / 2);
                    // a spare may stand in for a worker that many handlers have kept busy
                    let (name, tid, state) = unyield::critical(|| (thread_name(), gettid(), state()));
                    if !name.starts_with("unyield-spare") {
                        seen.lock().unwrap().insert(tid, state);
                    }
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    }
    let states = seen.lock().unwrap().clone();
    assert_eq!(states.len(), workers, "fibers ran on more threads than there are workers");
    states
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Notes whether it ends on the thread where it began. Long enough to be interrupted by ticks.
extern "C" fn watchful(_: i32) {
    let before = gettid();
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(20) {}
    HANDLED.fetch_add(1, Relaxed);
    if gettid() != before {
        MOVED.fetch_add(1, Relaxed);
    }
}

/// Work with results that are checked, on `n` fibers for `time`.
fn work(runtime: &Runtime, n: u64, time: Duration) {
    thread_local!(static LOCAL: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    let lock = Arc::new(Mutex::new(0u64));
    let fibers: Vec<_> = (0..n)
        .map(|i| {
            let lock = lock.clone();
            runtime.spawn(move || {
                let (start, mut rounds) = (Instant::now(), 0);
                while start.elapsed() < time {
                    LOCAL.set(i);
                    let text: String = (0..50).map(|k| char::from(b'a' + ((k + i) % 26) as u8)).collect();
                    let sum: u64 = text.bytes().map(u64::from).sum();
                    assert_eq!(sum, (0..50).map(|k| u64::from(b'a') + (k + i) % 26).sum::<u64>());
                    let float = (0..50).fold(0.0, |a: f64, k| a + f64::from(k) / 4.0);
                    assert_eq!(float, 306.25);
                    *lock.lock().unwrap() += 1;
                    assert_eq!(LOCAL.get(), i);
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    let rounds: u64 = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    assert_eq!(*lock.lock().unwrap(), rounds);
}

/// Handlers of every kind, at 1 kHz each to every worker. The one kind that is left out (SA_NODEFER, without SA_ONSTACK, installed
/// after the runtime) leaves no trace that could be seen from outside; the documentation says so.
#[test]
fn foreign_handlers_return_where_they_began() {
    alone("foreign_handlers_return_where_they_began", || {
        const BEFORE: [(i32, i32); 4] = [
            (libc::SIGUSR1, 0),
            (libc::SIGUSR2, libc::SA_ONSTACK),
            (libc::SIGWINCH, libc::SA_NODEFER),
            (libc::SIGHUP, libc::SA_NODEFER | libc::SA_ONSTACK),
        ];
        const AFTER: [(i32, i32); 3] = [
            (libc::SIGALRM, 0),
            (libc::SIGVTALRM, libc::SA_ONSTACK),
            (libc::SIGIO, libc::SA_NODEFER | libc::SA_ONSTACK),
        ];
        BEFORE.iter().for_each(|&(signal, flags)| drop(install(signal, flags, watchful)));
        let (begun, ended) = (Arc::new(Mutex::new(States::new())), Arc::new(Mutex::new(States::new())));
        let (b, e) = (begun.clone(), ended.clone());
        let runtime = Runtime::builder()
            .workers(2)
            .quantum(QUANTUM)
            .on_worker_start(move |_| drop(b.lock().unwrap().insert(gettid(), state())))
            .on_worker_stop(move |_| drop(e.lock().unwrap().insert(gettid(), state())))
            .build()
            .unwrap();
        AFTER.iter().for_each(|&(signal, flags)| drop(install(signal, flags, watchful)));
        let start = states(&runtime, 2);
        let stop = Arc::new(AtomicBool::new(false));
        let (s, workers) = (stop.clone(), start.keys().copied().collect::<Vec<_>>());
        let sender = std::thread::spawn(move || {
            let mut sent = 0u64;
            while !s.load(Relaxed) {
                for &tid in &workers {
                    BEFORE.iter().chain(&AFTER).for_each(|&(signal, _)| send(tid, signal));
                    sent += 1;
                }
                // A machine that is too slow for the handlers would pile up those with SA_NODEFER until their stack is full.
                let (due, start) = (HANDLED.load(Relaxed) + 7, Instant::now());
                std::thread::sleep(MS);
                while HANDLED.load(Relaxed) < due && start.elapsed() < 100 * MS {
                    std::thread::sleep(MS);
                }
            }
            sent
        });
        work(&runtime, 6, 3000 * MS);
        stop.store(true, Relaxed);
        let sent = sender.join().unwrap();
        let metrics = runtime.handle().metrics();
        let count = |f: &dyn Fn(usize) -> u64| f(0) + f(1);
        println!(
            "{sent} rounds sent, {} handled, {} preemptions, {} migrations, {} refused for the mask, {} for the stack",
            HANDLED.load(Relaxed),
            count(&|w| metrics.worker_preempt_count(w)),
            count(&|w| metrics.worker_migration_count(w)),
            count(&|w| metrics.worker_foreign_mask_count(w)),
            count(&|w| metrics.worker_misplaced_count(w))
        );
        assert_eq!(MOVED.load(Relaxed), 0, "handlers returned on other threads");
        assert!(HANDLED.load(Relaxed) > 200);
        assert!(count(&|w| metrics.worker_preempt_count(w)) > 100);
        assert!(
            count(&|w| metrics.worker_foreign_mask_count(w)) > 0
                && count(&|w| metrics.worker_misplaced_count(w)) > 0,
            "no handler was ever interrupted"
        );
        assert_eq!(states(&runtime, 2), start, "masks and alternate stacks are not as at start");
        drop(runtime);
        assert_eq!(
            *begun.lock().unwrap(),
            *ended.lock().unwrap(),
            "a worker's thread did not get its state back"
        );
    });
}

#[test]
fn a_profiler_beside_preemption() {
    alone("a_profiler_beside_preemption", || {
        for kind in 0..2 {
            HANDLED.store(0, Relaxed);
            let runtime = busy_runtime(2);
            let start = states(&runtime, 2);
            install(libc::SIGPROF, if kind == 0 { libc::SA_ONSTACK } else { 0 }, watchful);
            let period = libc::timeval { tv_sec: 0, tv_usec: 1000 };
            let off = libc::itimerval {
                it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
                it_value: libc::timeval { tv_sec: 0, tv_usec: 0 },
            };
            // SAFETY: timers of this process with a handled signal; each is ended below.
            unsafe {
                let mut timer: libc::timer_t = null_mut();
                if kind == 0 {
                    assert_eq!(
                        libc::setitimer(
                            libc::ITIMER_PROF,
                            &libc::itimerval { it_interval: period, it_value: period },
                            null_mut()
                        ),
                        0
                    );
                } else {
                    let mut event: libc::sigevent = std::mem::zeroed();
                    event.sigev_notify = libc::SIGEV_SIGNAL;
                    event.sigev_signo = libc::SIGPROF;
                    assert_eq!(libc::timer_create(libc::CLOCK_PROCESS_CPUTIME_ID, &mut event, &mut timer), 0);
                    let period = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                    assert_eq!(
                        libc::timer_settime(
                            timer,
                            0,
                            &libc::itimerspec { it_interval: period, it_value: period },
                            null_mut()
                        ),
                        0
                    );
                }
                work(&runtime, 6, 1500 * MS);
                if kind == 0 {
                    libc::setitimer(libc::ITIMER_PROF, &off, null_mut());
                } else {
                    libc::timer_delete(timer);
                }
            }
            let preemptions: u64 = (0..2).map(|w| runtime.handle().metrics().worker_preempt_count(w)).sum();
            println!("kind {kind}: {} samples, {preemptions} preemptions", HANDLED.load(Relaxed));
            assert!(HANDLED.load(Relaxed) > 30 && preemptions > 100);
            assert_eq!(MOVED.load(Relaxed), 0);
            assert_eq!(states(&runtime, 2), start);
        }
    });
}

fn set_mask(how: i32, signal: i32) {
    // SAFETY: a local set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        assert_eq!(libc::pthread_sigmask(how, &set, null_mut()), 0);
    }
}

#[test]
fn a_changed_mask_keeps_the_fiber_on_its_worker() {
    alone("a_changed_mask_keeps_the_fiber_on_its_worker", || {
        let runtime = busy_runtime(2);
        let start = states(&runtime, 2);
        let background = Load::start(&runtime, 5);
        let fibers: Vec<_> = (0..3)
            .map(|_| {
                runtime.spawn(|| {
                    let mut threads = BTreeSet::new();
                    for _ in 0..5 {
                        set_mask(libc::SIG_BLOCK, libc::SIGUSR1);
                        let tid = gettid();
                        for _ in 0..20 {
                            spin(MS / 4);
                            assert_eq!(gettid(), tid, "it has moved with its mask changed");
                            assert_ne!(
                                state().0 & (1 << (libc::SIGUSR1 - 1)),
                                0,
                                "the mask is not what it was set to"
                            );
                        }
                        set_mask(libc::SIG_UNBLOCK, libc::SIGUSR1);
                        threads.insert(tid);
                        spin(2 * MS);
                        assert_eq!(state().0 & (1 << (libc::SIGUSR1 - 1)), 0);
                    }
                    threads.len()
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| drop(fiber.join().unwrap()));
        drop(background);
        assert_eq!(states(&runtime, 2), start);
        assert!((0..2).map(|w| runtime.handle().metrics().worker_foreign_mask_count(w)).sum::<u64>() > 10);
    });
}

/// C libraries think that the thread is theirs: what they leave changed must not stay with the worker.
#[test]
fn what_a_fiber_leaves_changed_is_repaired() {
    alone("what_a_fiber_leaves_changed_is_repaired", || {
        let runtime = busy_runtime(1);
        let start = states(&runtime, 1);
        let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
        let (base, size) = (stack.as_mut_ptr() as usize, stack.len());
        for long in [true, false] {
            for what in 0..4 {
                let background = Load::start(&runtime, 1);
                runtime
                    .spawn(move || {
                        match what {
                            0 => set_mask(libc::SIG_BLOCK, libc::SIGPIPE),
                            1 => set_mask(libc::SIG_BLOCK, libc::SIGURG),
                            2 => unyield_preempt::tick::block_all_signals(),
                            _ => {
                                let mine =
                                    libc::stack_t { ss_sp: base as *mut _, ss_flags: 0, ss_size: size };
                                // SAFETY: memory that lives for ever.
                                assert_eq!(unsafe { libc::sigaltstack(&mine, null_mut()) }, 0);
                            }
                        }
                        if long {
                            spin(10 * MS); // long enough to be noticed
                        }
                    })
                    .join()
                    .unwrap();
                drop(background);
                // The fibers that come after: the first may have to suffer, the worker may not, and not for long.
                let begin = Instant::now();
                loop {
                    let before = runtime.handle().metrics().worker_preempt_count(0);
                    let background = Load::start(&runtime, 3);
                    std::thread::sleep(10 * MS);
                    drop(background);
                    let preempted = runtime.handle().metrics().worker_preempt_count(0) > before + 5;
                    if preempted && start.values().next() == Some(&worker_state(&runtime)) {
                        break;
                    }
                    assert!(
                        begin.elapsed() < Duration::from_secs(5),
                        "case {what}, long {long}: the worker stays altered"
                    );
                }
            }
        }
        // On a thread of its own a fiber keeps what it has set, also while it waits; the thread is given back as it was.
        runtime.run(|| {
            let guard = fiber::lock_os_thread();
            set_mask(libc::SIG_BLOCK, libc::SIGUSR1);
            for _ in 0..5 {
                unyield::sleep(2 * MS);
                assert_ne!(state().0 & (1 << (libc::SIGUSR1 - 1)), 0);
            }
            drop(guard);
            fiber::blocking(|| assert_eq!(state().0 & (1 << (libc::SIGUSR1 - 1)), 0));
        });
    });
}

/// The state of the regular worker, not a spare's: of a thread that is called unyield-0.
fn worker_state(runtime: &Runtime) -> (u64, usize, usize) {
    let start = Instant::now();
    loop {
        let (name, state) = runtime.run(|| unyield::critical(|| (thread_name(), state())));
        if name == "unyield-0" {
            return state;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "only spares run fibers");
        std::thread::sleep(MS);
    }
}

#[test]
fn sigaltstack_in_a_fiber() {
    alone("sigaltstack_in_a_fiber", || {
        static INSIDE: AtomicU64 = AtomicU64::new(0);
        static EXPECTED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
        extern "C" fn where_am_i(_: i32) {
            let here = 0u8;
            let at = &raw const here as u64;
            if (EXPECTED[0].load(Relaxed)..EXPECTED[1].load(Relaxed)).contains(&at) {
                INSIDE.fetch_add(1, Relaxed);
            }
        }
        let runtime = busy_runtime(2);
        let start = states(&runtime, 2);
        install(libc::SIGUSR1, libc::SA_ONSTACK, where_am_i);
        let background = Load::start(&runtime, 4);
        runtime.run(|| {
            for round in 0..10 {
                let memory = vec![0u8; 64 << 10];
                EXPECTED[0].store(memory.as_ptr() as u64, Relaxed);
                EXPECTED[1].store(memory.as_ptr() as u64 + memory.len() as u64, Relaxed);
                // SAFETY: a live stack, given back before it is freed.
                unsafe {
                    let mut before: libc::stack_t = std::mem::zeroed();
                    let mine = libc::stack_t {
                        ss_sp: memory.as_ptr() as *mut _,
                        ss_flags: 0,
                        ss_size: memory.len(),
                    };
                    assert_eq!(libc::sigaltstack(&mine, &mut before), 0);
                    let tid = gettid();
                    spin(5 * MS);
                    assert_eq!(gettid(), tid, "it has moved with its alternate stack changed");
                    send(tid, libc::SIGUSR1);
                    let begin = Instant::now();
                    while INSIDE.load(Relaxed) <= round {
                        assert!(
                            begin.elapsed() < Duration::from_secs(5),
                            "the handler did not run on the fiber's alternate stack"
                        );
                    }
                    assert_eq!(libc::sigaltstack(&before, null_mut()), 0);
                }
                spin(MS);
            }
        });
        drop(background);
        assert_eq!(states(&runtime, 2), start);
    });
}

#[test]
fn a_replaced_handler_is_reported() {
    let output = crash("a_replaced_handler_is_reported", || {
        extern "C" fn nothing(_: i32) {}
        let runtime = Runtime::builder().workers(1).build().unwrap();
        runtime.run(|| ());
        install(libc::SIGURG, 0, nothing);
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let endless = runtime.spawn(move || while !s.load(Relaxed) {});
        std::thread::sleep(5 * MS);
        assert_eq!(runtime.run(|| 5), 5, "a spare runs the others");
        std::thread::sleep(50 * MS);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            runtime.run(|| ());
            std::thread::sleep(MS);
            drop(runtime.spawn(|| spin(2 * MS)));
        }
        stop.store(true, Relaxed);
        endless.join().unwrap();
        std::process::exit(0);
    });
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("another handler was installed"), "{}", text(&output));
}

static FOREIGN: AtomicI32 = AtomicI32::new(0);
extern "C" fn count_foreign(_: i32) {
    FOREIGN.fetch_add(1, Relaxed);
}

fn wait_for_foreign(what: &str, trigger: impl FnOnce()) {
    let before = FOREIGN.load(Relaxed);
    trigger();
    let start = Instant::now();
    while FOREIGN.load(Relaxed) == before {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "the handler that was there before did not get {what}"
        );
        std::thread::sleep(MS / 10);
    }
}

#[test]
fn a_handler_that_was_there_before_gets_what_is_not_ours() {
    alone("a_handler_that_was_there_before_gets_what_is_not_ours", || {
        use std::os::fd::AsRawFd;
        for (signal, flags) in [(libc::SIGURG, 0), (libc::SIGUSR2, libc::SA_SIGINFO)] {
            install(signal, flags, count_foreign);
            let runtime = Runtime::builder().workers(2).quantum(QUANTUM).signal(signal).build().unwrap();
            let background = Load::start(&runtime, 4);
            std::thread::sleep(20 * MS);
            assert_eq!(FOREIGN.load(Relaxed), 0, "it gets the runtime's own");
            for _ in 0..20 {
                // SAFETY: a handled signal to this process.
                wait_for_foreign("a kill from inside", || {
                    // SAFETY: a signal to ourselves, for which a handler is installed.
                    assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0)
                });
                let pid = std::process::id().to_string();
                let number = signal.to_string();
                wait_for_foreign("a kill from outside", || {
                    assert!(
                        std::process::Command::new("/bin/sh")
                            .args(["-c", &format!("kill -{number} {pid}")])
                            .status()
                            .unwrap()
                            .success()
                    );
                });
            }
            if signal == libc::SIGURG {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let receiver = listener.accept().unwrap().0;
                // SAFETY: descriptors of our own, one byte.
                unsafe {
                    assert_eq!(libc::fcntl(receiver.as_raw_fd(), libc::F_SETOWN, libc::getpid()), 0);
                    wait_for_foreign("out-of-band data", || {
                        assert_eq!(libc::send(sender.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB), 1)
                    });
                }
            }
            drop(background);
            assert!(runtime.handle().metrics().worker_preempt_count(0) > 10);
            drop(runtime);
            FOREIGN.store(0, Relaxed);
        }
    });
}

fn preempts(runtime: &Runtime) {
    let workers = runtime.handle().num_workers();
    let count = || (0..workers).map(|w| runtime.handle().metrics().worker_preempt_count(w)).sum::<u64>();
    let before = count();
    let background = Load::start(runtime, 2 * workers);
    let start = Instant::now();
    while count() < before + 5 {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing is preempted");
        std::thread::sleep(MS);
    }
    drop(background);
}

#[test]
fn other_signals() {
    alone("other_signals", || {
        for signal in [
            libc::SIGUSR2,
            libc::SIGUSR1,
            libc::SIGIO,
            libc::SIGPROF,
            libc::SIGRTMIN(),
            libc::SIGRTMIN() + 5,
            libc::SIGRTMAX(),
        ] {
            let runtime = Runtime::builder().workers(1).signal(signal).build().unwrap();
            preempts(&runtime);
        }
        for signal in [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGABRT,
            libc::SIGTRAP,
            32,
            33,
            0,
            -1,
            65,
            1000,
        ] {
            let error = Runtime::builder().workers(1).signal(signal).build().unwrap_err();
            assert!(error.to_string().contains("signal"), "{signal}: {error}");
        }
    });
}

#[test]
fn a_thread_that_blocks_all_signals_may_start_a_runtime() {
    alone("a_thread_that_blocks_all_signals_may_start_a_runtime", || {
        std::thread::spawn(|| {
            unyield_preempt::tick::block_all_signals();
            let runtime = Runtime::builder().workers(2).build().unwrap();
            preempts(&runtime);
            // carriers, too
            let values: Vec<_> = (0..4).map(|i| runtime.spawn(move || fiber::blocking(|| i))).collect();
            assert_eq!(values.into_iter().map(|fiber| fiber.join().unwrap()).sum::<i32>(), 6);
            preempts(&runtime);
        })
        .join()
        .unwrap();
    });
}

#[test]
fn several_runtimes_at_once() {
    alone("several_runtimes_at_once", || {
        let settings =
            [(libc::SIGURG, 100), (libc::SIGUSR2, 1000), (libc::SIGRTMIN() + 3, 5000), (libc::SIGURG, 300)];
        let runtimes: Vec<_> = settings
            .iter()
            .map(|&(signal, quantum)| {
                Runtime::builder()
                    .workers(1)
                    .signal(signal)
                    .quantum(Duration::from_micros(quantum))
                    .build()
                    .unwrap()
            })
            .collect();
        let loads: Vec<_> = runtimes.iter().map(|runtime| Load::start(runtime, 2)).collect();
        runtimes.iter().for_each(preempts);
        std::thread::scope(|scope| {
            runtimes.iter().for_each(|runtime| drop(scope.spawn(|| work(runtime, 3, 300 * MS))))
        });
        // from one into the other
        let sum: u64 = runtimes[0]
            .run(|| runtimes[1].run(|| runtimes[2].run(|| runtimes[3].spawn(|| 40).join().unwrap() + 1) + 1));
        assert_eq!(sum, 42);
        drop(loads);
    });
}
