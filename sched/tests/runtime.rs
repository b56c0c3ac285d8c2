//! The runtime from outside: spawning, joining, preemption, panics, cancelling, shutdown.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

fn runtime(workers: usize) -> Runtime {
    Runtime::builder().workers(workers).build().unwrap()
}

#[test]
fn runs_and_returns() {
    let rt = runtime(2);
    assert_eq!(rt.run(|| 6 * 7), 42);
    assert_eq!(rt.spawn(|| "x".repeat(3)).join().unwrap(), "xxx");
}

#[test]
fn spawns_from_fibers() {
    let rt = runtime(2);
    let sum = rt.run(|| {
        let handles: Vec<_> = (0..1000u64).map(|i| unyield::spawn(move || i)).collect();
        handles.into_iter().map(|h| h.join().unwrap()).sum::<u64>()
    });
    assert_eq!(sum, 499_500);
}

#[test]
fn an_endless_loop_does_not_stop_others() {
    let rt = runtime(1);
    let stop = Arc::new(AtomicBool::new(false));
    let s = stop.clone();
    let endless = rt.spawn(move || while !s.load(Relaxed) {});
    let start = Instant::now();
    let done: usize =
        (0..1000).map(|_| rt.spawn(|| 1)).collect::<Vec<_>>().into_iter().map(|h| h.join().unwrap()).sum();
    assert_eq!(done, 1000);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    stop.store(true, Relaxed);
    endless.join().unwrap();
    let metrics = rt.handle().metrics();
    assert!(metrics.worker_preempt_count(0) >= 1);
    let latency = metrics.interrupt_latency();
    assert!(latency.iter().map(|(_, count)| count).sum::<u64>() >= 1 && latency.is_sorted(), "{latency:?}");
}

#[test]
fn yields_alternate() {
    let rt = runtime(1);
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
        });
    });
    let log = log.into_inner().unwrap();
    assert_eq!(log.len(), 6);
    assert!(log.windows(2).all(|w| w[0] != w[1]), "{log:?}");
}

#[test]
fn sleeps_in_time() {
    let rt = runtime(2);
    let start = Instant::now();
    let handles: Vec<_> = (0..100)
        .map(|i| {
            rt.spawn(move || {
                let d = Duration::from_micros(500 + 100 * i);
                let t = Instant::now();
                unyield::sleep(d);
                assert!(t.elapsed() >= d);
            })
        })
        .collect();
    for h in handles {
        h.join().unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn park_and_unpark() {
    let rt = runtime(2);
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
        fiber::park_timeout(Duration::from_millis(3));
        assert!(t.elapsed() >= Duration::from_millis(3));
    });
}

#[test]
fn panics_arrive_at_join() {
    let rt = runtime(1);
    let error = rt.spawn(|| panic!("boom {}", 1)).join().unwrap_err();
    assert!(error.is_panic() && !error.is_cancelled());
    assert_eq!(error.to_string(), format!("fiber {} panicked: boom 1", error.id()));
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rt.run(|| panic!("through run")))).is_err()
    );
    assert_eq!(rt.run(|| 1), 1);
}

#[test]
fn a_detached_panic_reaches_the_handler() {
    let seen = Arc::new(Mutex::new(None));
    let s = seen.clone();
    let rt = Runtime::builder()
        .workers(1)
        .panic_handler(move |p| *s.lock().unwrap() = p.downcast_ref::<&str>().map(|s| s.to_string()))
        .build()
        .unwrap();
    drop(rt.spawn(|| {
        unyield::sleep(Duration::from_millis(5));
        panic!("detached")
    }));
    let start = Instant::now();
    while seen.lock().unwrap().is_none() && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(seen.lock().unwrap().as_deref(), Some("detached"));
}

#[test]
fn cancel_unwinds_a_waiting_fiber() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let rt = runtime(1);
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Dropped(dropped.clone());
    let h = rt.spawn(move || {
        let _guard = guard;
        unyield::sleep(Duration::from_secs(1000));
    });
    std::thread::sleep(Duration::from_millis(5));
    h.fiber().cancel();
    assert!(h.join().unwrap_err().is_cancelled());
    assert!(dropped.load(SeqCst));
}

#[test]
fn fibers_have_thread_locals_of_their_own() {
    thread_local!(static X: Cell<u64> = const { Cell::new(0) });
    let rt = Runtime::builder().workers(2).quantum(Duration::from_micros(100)).build().unwrap();
    let handles: Vec<_> = (0..20u64)
        .map(|i| {
            rt.spawn(move || {
                X.set(i);
                let t = Instant::now();
                while t.elapsed() < Duration::from_millis(5) {
                    assert_eq!(X.get(), i);
                }
            })
        })
        .collect();
    for h in handles {
        h.join().unwrap();
    }
    let m = rt.handle().metrics();
    assert!((0..2).map(|w| m.worker_preempt_count(w)).sum::<u64>() > 10);
}

#[test]
fn std_locks_on_one_worker() {
    let rt = Runtime::builder().workers(1).quantum(Duration::from_micros(100)).build().unwrap();
    let m = Arc::new(Mutex::new(0u64));
    let handles: Vec<_> = (0..8)
        .map(|_| {
            let m = m.clone();
            rt.spawn(move || {
                for _ in 0..200 {
                    let mut g = m.lock().unwrap();
                    let t = Instant::now();
                    while t.elapsed() < Duration::from_micros(20) {}
                    *g += 1;
                }
            })
        })
        .collect();
    for h in handles {
        h.join().unwrap();
    }
    assert_eq!(*m.lock().unwrap(), 1600);
}

#[test]
fn blocking_and_os_thread() {
    let rt = runtime(1);
    rt.run(|| {
        // SAFETY: no preconditions.
        let tid = || unsafe { libc::syscall(libc::SYS_gettid) };
        let before = tid();
        let inside = fiber::blocking(tid);
        assert_ne!(before, inside);
        assert_eq!(tid(), before);
        let guard = fiber::lock_os_thread();
        let bound = tid();
        assert_ne!(bound, before);
        for _ in 0..10 {
            unyield::yield_now();
            unyield::sleep(Duration::from_micros(200));
            assert_eq!(tid(), bound);
        }
        drop(guard);
        assert_eq!(tid(), before);
    });
}

#[test]
fn nested_runtimes() {
    let outer = runtime(1);
    let answer = outer.run(|| {
        let inner = runtime(1);
        inner.run(|| inner.handle().spawn(|| 7).join().unwrap())
    });
    assert_eq!(answer, 7);
}

#[test]
fn a_handle_is_a_future() {
    let rt = runtime(2);
    let h = rt.spawn(|| {
        unyield::sleep(Duration::from_millis(2));
        5
    });
    assert_eq!(fiber::block_on(h).unwrap(), 5);
    assert_eq!(rt.block_on(async { unyield::spawn(|| 8).await.unwrap() }), 8);
}

#[test]
fn shutdown_cancels_and_leaks_what_ignores_it() {
    let rt = runtime(1);
    for _ in 0..10 {
        drop(rt.spawn(|| unyield::sleep(Duration::from_secs(100))));
    }
    std::thread::sleep(Duration::from_millis(10));
    assert!(rt.shutdown_timeout(Duration::from_secs(5)));
    let rt = runtime(1);
    drop(rt.spawn(|| {
        loop {
            std::hint::spin_loop()
        }
    }));
    std::thread::sleep(Duration::from_millis(10));
    let start = Instant::now();
    assert!(!rt.shutdown_timeout(Duration::from_millis(50)));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn the_pool_is_trimmed() {
    let rt = runtime(1);
    let m = rt.handle().metrics();
    rt.run(|| {
        let go = AtomicBool::new(false);
        unyield::scope(|s| {
            for _ in 0..500 {
                s.spawn(|| {
                    while !go.load(Acquire) {
                        unyield::yield_now();
                    }
                });
            }
            while m.num_identities() < 500 {
                unyield::yield_now();
            }
            go.store(true, Release);
        });
    });
    assert!(m.num_identities() >= 500);
    let start = Instant::now();
    while m.num_identities() > 200 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(m.num_identities() <= 200, "{}", m.num_identities());
    assert_eq!(rt.run(|| 1), 1);
}

/// The kernel knows the owner of such a mutex by the thread id in its word: it must be the OS thread's.
#[test]
fn priority_inheritance_under_lock_os_thread() {
    struct Shared(std::cell::UnsafeCell<libc::pthread_mutex_t>, AtomicUsize);
    // SAFETY: used through pthread's own calls only.
    unsafe impl Sync for Shared {}
    // SAFETY: as above.
    unsafe impl Send for Shared {}
    let rt = Runtime::builder().workers(2).quantum(Duration::from_micros(100)).build().unwrap();
    // SAFETY: plain initialisation of a mutex that stays at its place in the Arc.
    let shared = unsafe {
        let shared = Arc::new(Shared(std::mem::zeroed(), AtomicUsize::new(0)));
        let mut attributes = std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut attributes);
        assert_eq!(libc::pthread_mutexattr_setprotocol(&mut attributes, libc::PTHREAD_PRIO_INHERIT), 0);
        assert_eq!(libc::pthread_mutex_init(shared.0.get(), &attributes), 0);
        shared
    };
    let handles: Vec<_> = (0..3)
        .map(|_| {
            let shared = shared.clone();
            rt.spawn(move || {
                let _thread = fiber::lock_os_thread();
                for _ in 0..50 {
                    // SAFETY: locked and unlocked by the same fiber, which owns its thread.
                    unsafe {
                        assert_eq!(libc::pthread_mutex_lock(shared.0.get()), 0);
                        shared.1.store(shared.1.load(Relaxed) + 1, Relaxed);
                        std::thread::sleep(Duration::from_micros(50));
                        assert_eq!(libc::pthread_mutex_unlock(shared.0.get()), 0);
                    }
                }
                // SAFETY: writes to a local set.
                unsafe {
                    let mut set: libc::cpu_set_t = std::mem::zeroed();
                    assert_eq!(
                        libc::pthread_getaffinity_np(libc::pthread_self(), size_of_val(&set), &mut set),
                        0
                    );
                }
            })
        })
        .collect();
    for handle in handles {
        handle.join().unwrap();
    }
    assert_eq!(shared.1.load(Relaxed), 150);
}
