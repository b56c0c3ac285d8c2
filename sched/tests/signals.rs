//! Signal handlers, masks and alternate stacks that are not the runtime's, beside preemption: rule 7.

#![allow(dropping_copy_types, reason = "closures without a result")]

mod common;

use common::{Load, alone, busy_runtime, gettid, install, spin, work};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);
const QUANTUM: Duration = Duration::from_micros(100);

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
extern "C" fn watchful(signal: i32) {
    let before = gettid();
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(20) {}
    HANDLED.fetch_add(1, Relaxed);
    if gettid() != before {
        MOVED.fetch_add(1, Relaxed);
    }
    for (worker, on_its_way) in WATCHED.iter().zip(&ON_THEIR_WAY) {
        if worker.load(Relaxed) == before {
            on_its_way.fetch_and(!(1 << signal), SeqCst);
        }
    }
}

/// Thread ids of the two workers, and for each the signals that it was sent and has not handled to the end: one of a kind at a time, or those with SA_NODEFER
/// would pile up on a machine that is too slow, until their stack is full.
static WATCHED: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2];
static ON_THEIR_WAY: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

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
        workers.iter().zip(&WATCHED).for_each(|(&tid, watched)| watched.store(tid, Relaxed));
        let sender = std::thread::spawn(move || {
            let mut sent = 0u64;
            while !s.load(Relaxed) {
                for (&tid, on_their_way) in workers.iter().zip(&ON_THEIR_WAY) {
                    for &(signal, _) in BEFORE.iter().chain(&AFTER) {
                        if on_their_way.fetch_or(1 << signal, SeqCst) & 1 << signal == 0 {
                            send(tid, signal);
                        }
                    }
                    sent += 1;
                }
                std::thread::sleep(MS * 3 / 4); // a round a millisecond, with what the rest takes
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
            count(&|w| metrics.worker_foreign_mask_count(w) + metrics.worker_misplaced_count(w)) > 0,
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
