//! The other two ways to preempt: at checkpoints only, where fibers share their worker's thread identity, and never.

mod common;

use common::{alone, crash, gettid, spin, text};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use unyield::preempt::Preemption;
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);

fn runtime(workers: usize, preemption: Preemption) -> Runtime {
    Runtime::builder().workers(workers).preemption(preemption).quantum(MS).build().unwrap()
}

/// What does not depend on where fibers are preempted.
fn everything(workers: usize, preemption: Preemption) {
    let rt = runtime(workers, preemption);
    assert_eq!(rt.run(|| 6 * 7), 42);
    assert_eq!(rt.spawn(|| "x".repeat(3)).join().unwrap(), "xxx");
    // spawning from fibers, trees of them
    let sum = rt.run(|| {
        let handles: Vec<_> = (0..1000u64).map(|i| unyield::spawn(move || i)).collect();
        handles.into_iter().map(|h| h.join().unwrap()).sum::<u64>()
    });
    assert_eq!(sum, 499_500);
    fn tree(depth: u32) -> u64 {
        if depth == 0 {
            return 1;
        }
        let (a, b) = (unyield::spawn(move || tree(depth - 1)), unyield::spawn(move || tree(depth - 1)));
        a.join().unwrap() + b.join().unwrap()
    }
    assert_eq!(rt.run(|| tree(7)), 128);
    // sleeping, parking, timeouts
    let start = Instant::now();
    let handles: Vec<_> = (0..50)
        .map(|i| {
            rt.spawn(move || {
                let (d, t) = (Duration::from_micros(500 + 100 * i), Instant::now());
                unyield::sleep(d);
                assert!(t.elapsed() >= d);
            })
        })
        .collect();
    handles.into_iter().for_each(|h| h.join().unwrap());
    assert!(start.elapsed() < Duration::from_secs(2));
    let count = Arc::new(AtomicUsize::new(0));
    let c = count.clone();
    let h = rt.spawn(move || {
        for _ in 0..100 {
            unyield::park();
            c.fetch_add(1, SeqCst);
        }
    });
    let f = h.fiber().clone();
    while !h.is_finished() {
        f.unpark();
        std::thread::sleep(Duration::from_micros(50));
    }
    h.join().unwrap();
    assert_eq!(count.load(SeqCst), 100);
    rt.run(|| {
        let t = Instant::now();
        fiber::park_timeout(3 * MS);
        assert!(t.elapsed() >= 3 * MS);
    });
    // yielding
    let log = Mutex::new(Vec::new());
    rt.run(|| {
        unyield::scope(|s| {
            for name in ["a", "b"] {
                let log = &log;
                s.spawn(move || {
                    for _ in 0..3 {
                        log.lock().unwrap().push(name);
                        unyield::yield_now();
                    }
                });
            }
        })
    });
    assert_eq!(log.into_inner().unwrap().len(), 6);
    // panics
    let error = rt.spawn(|| std::panic::resume_unwind(Box::new("boom"))).join().unwrap_err();
    assert!(error.is_panic() && !error.is_cancelled());
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(
            || rt.run(|| std::panic::resume_unwind(Box::new(())))
        ))
        .is_err()
    );
    // a panic that is on its way while others run and panic on the same thread
    let handles: Vec<_> = (0..8)
        .map(|i| {
            rt.spawn(move || {
                struct Yields;
                impl Drop for Yields {
                    fn drop(&mut self) {
                        unyield::yield_now();
                        unyield::sleep(MS / 2);
                    }
                }
                let caught = std::panic::catch_unwind(move || {
                    let _yields = Yields;
                    std::panic::resume_unwind(Box::new(i));
                })
                .unwrap_err();
                assert_eq!(*caught.downcast::<i32>().unwrap(), i);
                // where identities are shared, so is what std counts of the panics of others that wait in a destructor
                assert!(preemption == Preemption::AtCheckpoints || !std::thread::panicking());
            })
        })
        .collect();
    handles.into_iter().for_each(|h| h.join().unwrap());
    // cancelling
    let h = rt.spawn(|| unyield::sleep(Duration::from_secs(1000)));
    std::thread::sleep(5 * MS);
    h.fiber().cancel();
    assert!(h.join().unwrap_err().is_cancelled());
    // our own locks may be held across anything
    let total = Arc::new(unyield::sync::Mutex::new(0u64));
    let handles: Vec<_> = (0..8)
        .map(|_| {
            let total = total.clone();
            rt.spawn(move || {
                for _ in 0..50 {
                    let mut guard = total.lock();
                    unyield::checkpoint();
                    unyield::yield_now();
                    *guard += 1;
                }
            })
        })
        .collect();
    handles.into_iter().for_each(|h| h.join().unwrap());
    assert_eq!(*total.lock(), 400);
    let (sender, receiver) = unyield::sync::channel::bounded(3);
    let h = rt.spawn(move || (0..200u64).for_each(|i| sender.send(i).unwrap()));
    assert_eq!(rt.run(move || receiver.iter().sum::<u64>()), 19_900);
    h.join().unwrap();
    // threads for calls that block
    assert_eq!(rt.run(|| fiber::blocking(|| 5)), 5);
    rt.run(|| {
        let _guard = fiber::lock_os_thread();
        let tid = gettid();
        for _ in 0..5 {
            unyield::sleep(MS / 5);
            unyield::yield_now();
            assert_eq!(gettid(), tid);
        }
    });
    // other runtimes, futures
    assert_eq!(
        rt.run(|| {
            let inner = runtime(1, Preemption::Anywhere);
            inner.run(|| inner.handle().spawn(|| 7).join().unwrap())
        }),
        7
    );
    let h = rt.spawn(|| {
        unyield::sleep(2 * MS);
        5
    });
    assert_eq!(fiber::block_on(h).unwrap(), 5);
    assert_eq!(rt.block_on(async { unyield::spawn(|| 8).await.unwrap() }), 8);
    // floating-point state is a fiber's own
    let handles: Vec<_> = (0..4)
        .map(|i| {
            rt.spawn(move || {
                let mut x = f64::from(i);
                for k in 0..200 {
                    x += 0.5 * f64::from(k);
                    if k % 7 == 0 {
                        unyield::yield_now();
                    }
                    unyield::checkpoint();
                }
                assert_eq!(x, f64::from(i) + 0.5 * 19_900.0);
            })
        })
        .collect();
    handles.into_iter().for_each(|h| h.join().unwrap());
    for _ in 0..10 {
        drop(rt.spawn(|| unyield::sleep(Duration::from_secs(100))));
    }
    std::thread::sleep(5 * MS);
    assert!(rt.shutdown_timeout(Duration::from_secs(5)));
}

#[test]
fn everything_at_checkpoints() {
    alone("everything_at_checkpoints", || {
        [1, 2, 4].into_iter().for_each(|n| everything(n, Preemption::AtCheckpoints))
    });
}

#[test]
fn everything_without_preemption() {
    alone("everything_without_preemption", || {
        [1, 2, 4].into_iter().for_each(|n| everything(n, Preemption::Off))
    });
}

#[test]
fn fibers_share_their_worker_s_identity_and_stay() {
    thread_local!(static VISITS: Cell<u64> = const { Cell::new(0) });
    alone("fibers_share_their_worker_s_identity_and_stay", || {
        let rt = runtime(2, Preemption::AtCheckpoints);
        let threads = Arc::new(Mutex::new(BTreeSet::new()));
        let visits = Arc::new(AtomicU64::new(0));
        let handles: Vec<_> = (0..40)
            .map(|i| {
                let (threads, visits) = (threads.clone(), visits.clone());
                rt.spawn(move || {
                    let (tid, address) = (gettid(), VISITS.with(|v| v.as_ptr() as usize));
                    threads.lock().unwrap().insert((tid, address));
                    for k in 0..20 {
                        VISITS.set(VISITS.get() + 1);
                        visits.fetch_max(VISITS.get(), Relaxed);
                        match (i + k) % 4 {
                            0 => unyield::yield_now(),
                            1 => unyield::sleep(MS / 10),
                            2 => fiber::park_timeout(MS / 10),
                            _ => {
                                let start = Instant::now();
                                while start.elapsed() < MS / 2 {
                                    unyield::checkpoint();
                                }
                            }
                        }
                        assert_eq!(gettid(), tid, "a started fiber has moved");
                    }
                })
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
        let threads = threads.lock().unwrap();
        assert_eq!(threads.len(), 2, "one block of thread-local storage for each worker: {threads:?}");
        assert!(visits.load(Relaxed) > 100, "fibers do not share their worker's thread-local values");
        assert_eq!(
            rt.handle().metrics().worker_migration_count(0) + rt.handle().metrics().worker_migration_count(1),
            0
        );
    });
}

#[test]
fn checkpoints_give_way_and_nothing_else_does() {
    alone("checkpoints_give_way_and_nothing_else_does", || {
        let rt = runtime(1, Preemption::AtCheckpoints);
        // without checkpoints: the other one has to wait
        let h = rt.spawn(|| spin(50 * MS));
        std::thread::sleep(5 * MS);
        let start = Instant::now();
        rt.run(|| ());
        assert!(start.elapsed() > 20 * MS, "{:?}", start.elapsed());
        h.join().unwrap();
        // with: a few quanta at most
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let h = rt.spawn(move || {
            while !s.load(Relaxed) {
                unyield::checkpoint();
            }
        });
        std::thread::sleep(5 * MS);
        let mut times: Vec<_> = (0..20)
            .map(|_| {
                let start = Instant::now();
                rt.run(|| ());
                start.elapsed()
            })
            .collect();
        times.sort();
        assert!(times[10] < 20 * MS, "{times:?}");
        // not inside a critical section
        let inside = Arc::new(AtomicBool::new(false));
        let i = inside.clone();
        let section = rt.spawn(move || {
            unyield::critical(|| {
                i.store(true, SeqCst);
                let start = Instant::now();
                while start.elapsed() < 20 * MS {
                    unyield::checkpoint();
                }
                i.store(false, SeqCst);
            });
        });
        for _ in 0..20 {
            let i = inside.clone();
            assert!(
                !rt.run(move || i.load(SeqCst)),
                "a fiber ran while another was in a critical section on the only worker"
            );
            std::thread::sleep(MS);
        }
        section.join().unwrap();
        stop.store(true, Relaxed);
        h.join().unwrap();
        // a checkpoint is where a cancel arrives
        let h = rt.spawn(|| {
            loop {
                unyield::checkpoint();
            }
        });
        std::thread::sleep(MS);
        h.fiber().cancel();
        assert!(h.join().unwrap_err().is_cancelled());
    });
}

/// A std lock held across a checkpoint, and another fiber on the same worker that wants it: nobody can know of the lock, but a worker that sleeps in a
/// futex while fibers wait that only it can run is noticed.
#[test]
fn a_std_lock_held_across_a_checkpoint_is_reported() {
    let output = crash("a_std_lock_held_across_a_checkpoint_is_reported", || {
        let rt = runtime(1, Preemption::AtCheckpoints);
        let (lock, wanted) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let (l, w) = (lock.clone(), wanted.clone());
        drop(rt.spawn(move || {
            let guard = l.lock().unwrap();
            while !w.load(SeqCst) {
                unyield::yield_now();
            }
            drop(guard);
        }));
        std::thread::sleep(5 * MS);
        drop(rt.spawn(move || {
            wanted.store(true, SeqCst);
            drop(lock.lock().unwrap());
        }));
        std::thread::sleep(3000 * MS);
        std::process::exit(0);
    });
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("was a std lock held across a checkpoint?"), "{}", text(&output));
}

#[test]
fn computing_without_checkpoints_is_not_reported() {
    let output = crash("computing_without_checkpoints_is_not_reported", || {
        let rt = runtime(1, Preemption::AtCheckpoints);
        let h = rt.spawn(|| spin(800 * MS));
        std::thread::sleep(10 * MS);
        drop(rt.spawn(|| ()));
        h.join().unwrap();
        drop(rt);
        std::process::exit(0);
    });
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("unyield:"), "{}", text(&output));
}

#[test]
fn off_is_off() {
    alone("off_is_off", || {
        let rt = runtime(1, Preemption::Off);
        let h = rt.spawn(|| spin(50 * MS));
        std::thread::sleep(5 * MS);
        let start = Instant::now();
        rt.run(unyield::checkpoint);
        assert!(start.elapsed() > 20 * MS, "{:?}", start.elapsed());
        h.join().unwrap();
        let metrics = rt.handle().metrics();
        assert_eq!(
            (metrics.ticks_sent(), metrics.worker_interrupt_count(0), metrics.worker_preempt_count(0)),
            (0, 0, 0)
        );
        // identities are fibers' own all the same
        thread_local!(static X: Cell<u64> = const { Cell::new(0) });
        let handles: Vec<_> = (0..10)
            .map(|i| {
                rt.spawn(move || {
                    for _ in 0..10 {
                        X.set(i);
                        unyield::yield_now();
                        assert_eq!(X.get(), i);
                    }
                })
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
    });
}

#[test]
fn probe_says_what_and_why() {
    let probe = unyield::preempt::probe();
    let table = probe.to_string();
    for name in ["fsgsbase", "xsavec", "no shadow stack", "glibc", "membarrier"] {
        assert!(
            probe.findings().iter().any(|finding| finding.name == name && !finding.detail.is_empty()),
            "{name}"
        );
        assert!(table.contains(name), "{table}");
    }
    match probe.identity_obstacle() {
        None => assert!(table.contains("anywhere: every fiber has its own thread identity")),
        Some(why) => {
            assert!(table.contains("at checkpoints only") && table.contains(why));
            let error = Runtime::builder().workers(1).build().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(runtime(1, Preemption::AtCheckpoints).run(|| 5), 5);
        }
    }
}
