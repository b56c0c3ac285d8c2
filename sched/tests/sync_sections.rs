//! Critical sections: what waits panics, locks abort, the rest works; and nothing of a primitive allocates, frees or drops while it
//! is masked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use unyield::preempt::CriticalSection;
use unyield::sync::{
    Barrier, Condvar, Mutex, MutexGuard, Once, RwLock, RwLockWriteGuard, Semaphore, WaitGroup, channel,
    oneshot,
};
use unyield::{Runtime, critical};

/// Notes allocator calls in critical sections, which the runtime's spinlocks are too, by those that are WATCHED.
struct Watch;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}
static MASKED: AtomicUsize = AtomicUsize::new(0);

fn watched(f: impl FnOnce()) {
    WATCHED.set(true);
    f();
    WATCHED.set(false);
}

fn note() {
    if WATCHED.get() && CriticalSection::is_active() {
        MASKED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the system's allocator does it.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller's.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watch = Watch;

fn panics<R>(what: &str, f: impl FnOnce() -> R) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| critical(f))) else { panic!("{what} does not panic") };
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains(what) && message.contains("critical section"), "{message}");
    assert!(!CriticalSection::is_active());
}

/// Everything that would have to wait, tried in a critical section, does nothing but panic.
fn waits_panic() {
    let (sender, receiver) = channel::bounded(1);
    panics("Receiver::recv", || receiver.recv());
    panics("Receiver::recv", || receiver.recv_timeout(Duration::ZERO));
    sender.send(Box::new(1)).unwrap();
    panics("Sender::send", || sender.send(Box::new(2)));
    assert_eq!((receiver.recv().unwrap(), receiver.len()), (Box::new(1), 0));

    let semaphore = Semaphore::new(0);
    panics("Semaphore::acquire", || semaphore.acquire());
    semaphore.release();
    assert_eq!(semaphore.available_permits(), 1);

    let barrier = Barrier::new(2);
    panics("Barrier::wait", || barrier.wait());
    std::thread::scope(|s| {
        s.spawn(|| barrier.wait());
        barrier.wait();
    });

    let (_sender, mut other) = oneshot::channel::<()>();
    panics("oneshot::Receiver::recv", || other.recv_timeout(Duration::MAX));
    let group = WaitGroup::new();
    let member = group.clone();
    panics("WaitGroup::wait", || member.wait());
    group.wait();

    let (mutex, condvar) = (Mutex::new(0), Condvar::new());
    let mut guard = mutex.lock();
    panics("Condvar", || condvar.wait(&mut guard));
    assert!(mutex.is_locked() && !condvar.notify_one());
    panics("Mutex", || mutex.try_lock_for(Duration::MAX));
    critical(|| MutexGuard::bump(&mut guard));
    drop(guard);
    assert!(mutex.try_lock().is_some());

    let rwlock = RwLock::new(0);
    let guard = rwlock.write();
    panics("RwLock", || rwlock.try_read_for(Duration::MAX));
    panics("RwLock", || rwlock.try_write_for(Duration::MAX));
    let guard = RwLockWriteGuard::downgrade(guard);
    assert!(rwlock.try_read().is_some());
    drop(guard);
    assert!(rwlock.try_write().is_some());
}

/// What need not wait.
fn the_rest_works() {
    critical(|| {
        let (sender, receiver) = channel::bounded(1);
        sender.send(1).unwrap();
        assert!(sender.try_send(2).is_err());
        assert_eq!(receiver.recv(), Ok(1));
        let semaphore = Semaphore::new(1);
        semaphore.acquire();
        semaphore.release();
        let mutex = Mutex::new(0);
        *mutex.lock() += 1;
        assert!(mutex.try_lock_for(Duration::ZERO).is_some());
        let rwlock = RwLock::new(0);
        drop((rwlock.read(), rwlock.read()));
        *rwlock.write() += 1;
        let condvar = Condvar::new();
        assert_eq!((condvar.notify_one(), condvar.notify_all()), (false, 0));
        let once = Once::new();
        once.call_once(|| ());
        assert!(once.is_completed());
        let (sender, receiver) = oneshot::channel();
        sender.send(1).unwrap();
        assert_eq!(receiver.recv(), Ok(1));
        WaitGroup::new().wait();
    });
}

#[test]
fn in_a_thread() {
    waits_panic();
    the_rest_works();
}

#[test]
fn in_a_fiber() {
    let runtime = Runtime::builder().workers(1).build().unwrap();
    runtime.run(|| {
        waits_panic();
        the_rest_works();
    });
}

#[test]
fn a_held_lock_aborts() {
    const CHILD: &str = "SYNC_SECTIONS_CHILD";
    if let Ok(which) = std::env::var(CHILD) {
        let (mutex, rwlock) = (Mutex::new(()), RwLock::new(()));
        let _guards = (mutex.lock(), rwlock.write());
        critical(|| match which.as_str() {
            "Mutex" => drop(mutex.lock()),
            _ => drop(rwlock.read()),
        });
        return;
    }
    for which in ["Mutex", "RwLock"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_held_lock_aborts", "--nocapture"])
            .env(CHILD, which)
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGABRT));
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(said.contains(&format!("fatal: a {which} that is held elsewhere")), "{said}");
    }
}

/// Allocates, and frees when it is dropped.
#[derive(Debug)]
struct Heavy(#[expect(dead_code, reason = "held to be dropped")] Box<u64>);

fn heavy() -> Heavy {
    Heavy(Box::new(0))
}

/// Values go through every path of channels and oneshots, with waiting and timeouts, between fibers and a thread.
#[test]
fn nothing_allocates_frees_or_drops_masked() {
    watched(|| critical(|| drop(std::hint::black_box(heavy()))));
    assert_eq!(MASKED.swap(0, Ordering::Relaxed), 2, "the watch works");
    let runtime = Runtime::builder().workers(2).quantum(Duration::from_micros(100)).build().unwrap();
    for capacity in [Some(0), Some(1), Some(40), None] {
        let (sender, receiver) = capacity.map_or_else(channel::unbounded, channel::bounded);
        let send = move |sender: &channel::Sender<Heavy>, n: u64| {
            drop(sender.send_timeout(heavy(), Duration::from_micros(n % 50)));
            if capacity.is_none() {
                (0..100).for_each(|_| sender.send(heavy()).unwrap());
            }
        };
        let receive = move |receiver: &channel::Receiver<Heavy>, n: u64| {
            drop(receiver.recv_timeout(Duration::from_micros(n % 50)));
            receiver.try_iter().take(100).for_each(drop);
        };
        let mut fibers = Vec::new();
        for _ in 0..2 {
            let sender = sender.clone();
            fibers.push(runtime.spawn(move || watched(|| (0..1_000).for_each(|n| send(&sender, n)))));
            let receiver = receiver.clone();
            fibers.push(runtime.spawn(move || watched(|| (0..1_000).for_each(|n| receive(&receiver, n)))));
        }
        watched(|| {
            for n in 0..1_000 {
                if n % 3 == 0 {
                    drop(receiver.try_recv());
                }
                drop(sender.try_send(heavy()));
            }
        });
        fibers.into_iter().for_each(|f| f.join().unwrap());
        watched(|| {
            drop(sender.try_send(heavy()));
            drop(receiver);
            drop(sender);
        });
    }
    for n in 0..1_000 {
        let (sender, mut receiver) = oneshot::channel();
        let fiber = runtime.spawn(move || watched(|| drop(sender.send(heavy()))));
        watched(|| {
            if n % 2 == 0 {
                let waker = Waker::from(Arc::new(Nothing(heavy())));
                let polled = std::pin::pin!(&mut receiver).poll(&mut Context::from_waker(&waker));
                drop((polled, waker));
            }
            if n % 3 == 0 {
                drop(receiver.recv_timeout(Duration::from_micros(20)));
            }
            drop(receiver);
        });
        fiber.join().unwrap();
    }
    assert_eq!(MASKED.load(Ordering::Relaxed), 0);
}

struct Nothing(#[expect(dead_code, reason = "held to be dropped")] Heavy);

impl std::task::Wake for Nothing {
    fn wake(self: Arc<Self>) {
        assert!(!CriticalSection::is_active());
    }
}
