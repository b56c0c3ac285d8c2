//! The protocols of `unyield::sync` under loom: every interleaving (up to a number of preemptions) of the few threads of each model,
//! and every value that the memory orderings allow the atomics to have. Lost wake-ups show as deadlocks.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p unyield --test sync_loom
//! ```
//!
//! The sources of the primitives are compiled into this test, over checked stand-ins for what lies below them: `park`, `lock` and
//! the atomics. A deadline counts as passed whenever the waiter gets to look, so that it races with every wake-up.
#![cfg(loom)]
#![allow(dead_code, missing_docs, unused_imports)]

mod sync {
    #[path = "../../src/sync/channel/mod.rs"]
    pub mod channel;
    #[path = "../../src/sync/condvar.rs"]
    mod condvar;
    #[path = "../../src/sync/once.rs"]
    mod once;
    #[path = "../../src/sync/oneshot.rs"]
    pub mod oneshot;
    #[path = "../../src/sync/raw_mutex.rs"]
    mod raw_mutex;
    #[path = "../../src/sync/raw_rwlock.rs"]
    mod raw_rwlock;
    #[path = "../../src/sync/semaphore.rs"]
    mod semaphore;
    #[path = "../../src/sync/wait_queue.rs"]
    mod wait_queue;

    pub mod atomic;
    pub mod spin {
        /// Looks once: more often is no new interleaving.
        pub struct Spin;
        impl Spin {
            pub const fn new() -> Spin {
                Spin
            }
            pub fn run(&self, try_lock: impl Fn() -> bool, _: impl Fn() -> bool) -> bool {
                try_lock()
            }
        }
    }

    pub use condvar::Condvar;
    pub use once::Once;
    pub use raw_mutex::{Mutex, MutexGuard};
    pub use raw_rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub use semaphore::Semaphore;
}

#[path = "sync/loom_lock.rs"]
mod lock;
#[path = "sync/loom_park.rs"]
mod park;

use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::thread;
use sync::channel::{RecvTimeoutError, SendTimeoutError, bounded, unbounded};
use sync::{Condvar, Mutex, MutexGuard, Once, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, oneshot};

/// Passes at once, see above.
const AT_ONCE: Duration = Duration::ZERO;

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(preemptions);
    model.max_branches = 10_000;
    model.check(f);
}

/// Data that loom watches: two accesses at once, one of them writing, fail the model.
#[derive(Default)]
struct Watched(UnsafeCell<usize>);

// SAFETY: loom checks it.
unsafe impl Sync for Watched {}

impl Watched {
    fn add(&self) {
        // SAFETY: loom checks it.
        self.0.with_mut(|n| unsafe { *n += 1 });
    }
    fn get(&self) -> usize {
        // SAFETY: loom checks it.
        self.0.with(|n| unsafe { *n })
    }
}

fn spawn<S: Send + Sync + 'static>(shared: &Arc<S>, f: impl FnOnce(&S) + 'static) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || f(&shared))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// What is shared. Everything in it is used once before the threads start: loom's atomics are made by their first use here, and what
/// others see of that must not depend on who was first.
trait Shared: Default {
    fn touch(&self);
    fn shared() -> Arc<Self> {
        let shared = Self::default();
        shared.touch();
        Arc::new(shared)
    }
}

impl Shared for Locked {
    fn touch(&self) {
        drop(self.0.try_lock());
    }
}

impl Shared for RwLocked {
    fn touch(&self) {
        drop(self.0.try_write());
    }
}

impl<T: Default> Shared for (Mutex<T>, Condvar) {
    fn touch(&self) {
        drop(self.0.try_lock());
        self.1.notify_one();
    }
}

impl Shared for (Once, Watched) {
    fn touch(&self) {
        assert!(!self.0.is_completed());
    }
}

type Locked = (Mutex<()>, Watched);

fn mutex_state(s: &Locked) -> String {
    // SAFETY: only to look.
    format!("{:?}", unsafe { s.0.raw() })
}

fn check_mutex(s: &Locked, n: usize) {
    assert_eq!(mutex_state(s), "RawMutex { locked: false, waiters: false, .. }");
    let _guard = s.0.try_lock().unwrap();
    assert_eq!(s.1.get(), n);
}

#[test]
fn mutex_two_threads_twice() {
    model(4, || {
        let s = Locked::shared();
        let lock_twice = |s: &Locked| {
            for _ in 0..2 {
                let _guard = s.0.lock();
                s.1.add();
            }
        };
        let t = spawn(&s, lock_twice);
        lock_twice(&s);
        join([t]);
        check_mutex(&s, 4);
    });
}

#[test]
fn mutex_three_threads() {
    model(3, || {
        let s = Locked::shared();
        let lock = |s: &Locked| {
            let _guard = s.0.lock();
            s.1.add();
        };
        let (a, b) = (spawn(&s, lock), spawn(&s, lock));
        lock(&s);
        join([a, b]);
        check_mutex(&s, 3);
    });
}

#[test]
fn mutex_barging_and_losing() {
    model(3, || {
        let s = Locked::shared();
        let waiter = spawn(&s, |s: &Locked| {
            let _guard = s.0.lock();
            s.1.add();
        });
        for _ in 0..3 {
            let _guard = s.0.lock();
            s.1.add();
        }
        join([waiter]);
        check_mutex(&s, 4);
    });
}

#[test]
fn mutex_timeouts() {
    model(3, || {
        let s = Locked::shared();
        let impatient = |s: &Locked| {
            if let Some(_guard) = s.0.try_lock_for(AT_ONCE) {
                s.1.add();
            }
        };
        let lock = |s: &Locked| {
            let _guard = s.0.lock();
            s.1.add();
        };
        let (a, b) = (spawn(&s, impatient), spawn(&s, lock));
        lock(&s);
        join([a, b]);
        let n = if s.1.get() == 3 { 3 } else { 2 };
        check_mutex(&s, n);
    });
}

#[test]
fn mutex_fair() {
    model(3, || {
        let s = Locked::shared();
        let fair = |s: &Locked| {
            let mut guard = s.0.lock();
            s.1.add();
            MutexGuard::bump(&mut guard);
            s.1.add();
            MutexGuard::unlock_fair(guard);
        };
        let t = spawn(&s, fair);
        fair(&s);
        join([t]);
        check_mutex(&s, 4);
    });
}

type RwLocked = (RwLock<()>, Watched);

fn check_rwlock(s: &RwLocked, n: usize) {
    // SAFETY: only to look.
    let state = format!("{:?}", unsafe { s.0.raw() });
    assert_eq!(state, "RawRwLock { writer: false, readers: 0, waiters: false, .. }");
    let _guard = s.0.try_write().unwrap();
    assert_eq!(s.1.get(), n);
}

fn read(s: &RwLocked) {
    let _guard = s.0.read();
    s.1.get();
}

fn write(s: &RwLocked) {
    let _guard = s.0.write();
    s.1.add();
}

#[test]
fn rwlock_writer_and_readers() {
    model(3, || {
        let s = RwLocked::shared();
        let (a, b) = (spawn(&s, read), spawn(&s, read));
        write(&s);
        join([a, b]);
        check_rwlock(&s, 1);
    });
}

#[test]
fn rwlock_writers_and_reader() {
    model(3, || {
        let s = RwLocked::shared();
        let (a, b) = (spawn(&s, write), spawn(&s, write));
        read(&s);
        join([a, b]);
        check_rwlock(&s, 2);
    });
}

#[test]
fn rwlock_again_and_again() {
    model(3, || {
        let s = RwLocked::shared();
        let t = spawn(&s, |s: &RwLocked| {
            write(s);
            read(s);
            write(s);
        });
        read(&s);
        write(&s);
        read(&s);
        join([t]);
        check_rwlock(&s, 3);
    });
}

#[test]
fn rwlock_timeouts() {
    model(2, || {
        let s = RwLocked::shared();
        let (a, b) = (
            spawn(&s, |s: &RwLocked| drop(s.0.try_write_for(AT_ONCE))),
            spawn(&s, |s: &RwLocked| {
                read(s);
                drop(s.0.try_read_for(AT_ONCE));
            }),
        );
        read(&s);
        write(&s);
        join([a, b]);
        check_rwlock(&s, 1);
    });
}

#[test]
fn rwlock_downgrade_and_fair() {
    model(3, || {
        let s = RwLocked::shared();
        let a = spawn(&s, read);
        let b = spawn(&s, |s: &RwLocked| {
            let mut guard = s.0.read();
            s.1.get();
            RwLockReadGuard::bump(&mut guard);
            RwLockReadGuard::unlock_fair(guard);
        });
        let guard = s.0.write();
        s.1.add();
        let guard = RwLockWriteGuard::downgrade(guard);
        s.1.get();
        drop(guard);
        join([a, b]);
        check_rwlock(&s, 1);
    });
}

#[test]
fn condvar_hand_over() {
    model(3, || {
        let s = <(Mutex<usize>, Condvar)>::shared();
        let t = spawn(&s, |s: &(Mutex<usize>, Condvar)| {
            let mut n = s.0.lock();
            while *n != 1 {
                s.1.wait(&mut n);
            }
            *n = 2;
            drop(n);
            s.1.notify_all();
        });
        *s.0.lock() = 1;
        s.1.notify_one();
        let mut n = s.0.lock();
        while *n != 2 {
            s.1.wait(&mut n);
        }
        drop(n);
        join([t]);
    });
}

#[test]
fn condvar_timeouts() {
    model(3, || {
        let s = <(Mutex<()>, Condvar)>::shared();
        let wait = |s: &(Mutex<()>, Condvar)| s.1.wait_for(&mut s.0.lock(), AT_ONCE).timed_out();
        let t = thread::spawn({
            let s = Arc::clone(&s);
            move || wait(&s)
        });
        let notified = s.1.notify_one();
        assert_eq!(t.join().unwrap(), !notified);
    });
}

#[test]
fn once_runs_once() {
    model(3, || {
        let s = <(Once, Watched)>::shared();
        let call = |s: &(Once, Watched)| {
            s.0.call_once(|| s.1.add());
            assert_eq!(s.1.get(), 1);
        };
        let (a, b) = (spawn(&s, call), spawn(&s, call));
        call(&s);
        join([a, b]);
    });
}

#[test]
fn semaphore_timeouts() {
    model(3, || {
        let s = Arc::new((Semaphore::new(1), Watched::default()));
        let t = spawn(&s, |s: &(Semaphore, Watched)| {
            if s.0.acquire_timeout(AT_ONCE) {
                s.1.add();
                s.0.release();
            }
        });
        let u = spawn(&s, |s: &(Semaphore, Watched)| {
            s.0.acquire();
            s.1.add();
            s.0.release();
        });
        s.0.acquire();
        s.1.add();
        s.0.release();
        join([t, u]);
        assert_eq!(s.0.available_permits(), 1);
    });
}

/// A value that is sent is received, one that is not comes back, whatever times out.
fn channel_timeouts(capacity: usize) {
    model(3, move || {
        let (sender, receiver) = bounded(capacity);
        let t = thread::spawn(move || {
            let mut sent = 0;
            for i in 0..2 {
                match sender.send_timeout(Box::new(i), AT_ONCE) {
                    Ok(()) => sent += 1,
                    Err(SendTimeoutError::Timeout(back)) => assert_eq!(*back, i),
                    Err(SendTimeoutError::Disconnected(_)) => panic!("the receiver is there"),
                }
            }
            sent
        });
        let mut received = 0;
        match receiver.recv_timeout(AT_ONCE) {
            Ok(_) => received += 1,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        received += receiver.iter().count();
        assert_eq!(t.join().unwrap(), received);
    });
}

#[test]
fn channel_timeouts_0() {
    channel_timeouts(0);
}

#[test]
fn channel_timeouts_1() {
    channel_timeouts(1);
}

#[test]
fn channel_ends_that_go() {
    model(3, || {
        let (sender, receiver) = bounded(1);
        let t = thread::spawn(move || (0..3).take_while(|&i| sender.send(i).is_ok()).count());
        assert_eq!(receiver.recv(), Ok(0));
        drop(receiver);
        assert!(t.join().unwrap() >= 1);

        let (sender, receiver) = unbounded();
        let t = thread::spawn(move || receiver.iter().sum::<usize>());
        sender.send(1).unwrap();
        drop(sender);
        assert_eq!(t.join().unwrap(), 1);
    });
}

#[test]
fn oneshot_meets() {
    model(4, || {
        let (sender, mut receiver) = oneshot::channel();
        let t = thread::spawn(move || sender.send(Box::new(1)).is_ok());
        match receiver.recv_timeout(AT_ONCE) {
            Ok(value) => assert_eq!(*value, 1),
            Err(RecvTimeoutError::Timeout) => drop(receiver),
            Err(RecvTimeoutError::Disconnected) => panic!("it is sent"),
        }
        t.join().unwrap();
    });
}
