//! What programs should not do, or do where nobody expects it: waiting inside critical sections, guards that outlive their fiber or are forgotten,
//! destructors, wakers and payloads that panic or wait. It panics or aborts with a message, or works; nothing is corrupted.

mod common;

use common::{alone, crash, gettid, text};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use unyield::preempt::CriticalSection;
use unyield::{Runtime, critical, fiber};

const MS: Duration = Duration::from_millis(1);

fn runtime(workers: usize) -> Runtime {
    Runtime::builder().workers(workers).max_carriers(2).build().unwrap()
}

/// The message of the panic that `f` ends with.
fn panics<R>(f: impl FnOnce() -> R) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(f)) else { panic!("no panic") };
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast::<&str>().expect("a message")).to_string(),
    }
}

/// As [`panics`], in a critical section, which is left properly.
fn panics_in_section<R>(f: impl FnOnce() -> R) {
    let message = panics(|| critical(f));
    assert!(message.contains("critical section"), "{message}");
    assert!(!CriticalSection::is_active());
}

fn aborted(output: &Output, message: &str) {
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}\n{}", output.status, text(output));
    assert!(text(output).contains(message), "{}", text(output));
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if done() {
            return true;
        }
        std::thread::sleep(MS);
    }
    false
}

/// Spawns a fiber whose handle is gone before `f` runs.
fn detached<T: Send + 'static>(runtime: &Runtime, f: impl FnOnce() -> T + Send + 'static) -> fiber::Fiber {
    let handle = runtime.spawn(move || {
        unyield::park();
        f()
    });
    let fiber = handle.fiber().clone();
    drop(handle);
    fiber.unpark();
    fiber
}

/// Panics when it is dropped, and counts that.
struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
        panic_any("a bomb, part of the test");
    }
}

/// Forks; the child runs `body` and ends with its code, or by a signal if it hangs.
fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: that a child forked from a fiber may go on like this is what is tested.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: a limit of the child's own.
        unsafe { libc::alarm(10) };
        std::process::exit(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101));
    }
    code_of(pid)
}

fn code_of(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours; a local.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0 {
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
    }
    assert!(libc::WIFEXITED(status), "the child ended by signal {}", libc::WTERMSIG(status));
    libc::WEXITSTATUS(status)
}

#[test]
fn waits_that_lend_the_stack_panic_in_a_section_before_anything_runs() {
    alone("waits_that_lend_the_stack_panic_in_a_section_before_anything_runs", || {
        let runtime = runtime(1);
        let ran = AtomicBool::new(false);
        let tries = || {
            panics_in_section(|| unyield::scope(|s| drop(s.spawn(|| ran.store(true, SeqCst)))));
            panics_in_section(|| unyield::scope(|_| ran.store(true, SeqCst)));
            panics_in_section(|| runtime.run(|| ran.store(true, SeqCst)));
            panics_in_section(|| runtime.block_on(async { ran.store(true, SeqCst) }));
            unyield::sleep(5 * MS);
            unyield::yield_now();
            assert!(!ran.load(SeqCst), "a fiber runs that nobody waits for");
        };
        tries();
        runtime.run(tries);
    });
}

#[test]
fn join_panics_in_a_section() {
    alone("join_panics_in_a_section", || {
        let runtime = runtime(1);
        let tries = || {
            let ended = Arc::new(AtomicBool::new(false));
            let end = ended.clone();
            let handle = unyield::runtime::Handle::spawn(runtime.handle(), move || {
                unyield::sleep(5 * MS);
                end.store(true, SeqCst);
            });
            panics_in_section(|| handle.join());
            while !ended.load(SeqCst) {
                unyield::sleep(MS);
            }
            let handle = runtime.spawn(|| ());
            while !handle.is_finished() {
                unyield::sleep(MS);
            }
            panics_in_section(|| handle.join());
            assert_eq!(runtime.spawn(|| 7).join().unwrap(), 7);
        };
        tries();
        runtime.run(tries);
    });
}

fn forgets_a_section_in_a_scope() {
    unyield::scope(|s| {
        s.spawn(|| unyield::sleep(Duration::MAX));
        std::mem::forget(CriticalSection::enter());
    });
}

#[test]
fn a_section_forgotten_in_a_scope_aborts() {
    let output =
        crash("a_section_forgotten_in_a_scope_aborts", || runtime(1).run(forgets_a_section_in_a_scope));
    aborted(&output, "borrows from this stack, inside a critical section");
}

#[test]
fn a_section_forgotten_in_a_scope_of_a_thread_aborts() {
    let output = crash("a_section_forgotten_in_a_scope_of_a_thread_aborts", forgets_a_section_in_a_scope);
    aborted(&output, "borrows from this stack, inside a critical section");
}

#[test]
fn park_in_a_section_leaves_nothing_behind() {
    alone("park_in_a_section_leaves_nothing_behind", || {
        let runtime = runtime(1);
        for timeout in [false, true] {
            let fiber = runtime.spawn(move || {
                panics_in_section(|| if timeout { fiber::park_timeout(MS) } else { unyield::park() });
                let start = Instant::now();
                unyield::sleep(100 * MS);
                assert!(start.elapsed() >= 100 * MS, "unpark has ended a sleep");
                unyield::park(); // its token is still there
            });
            std::thread::sleep(30 * MS);
            fiber.fiber().unpark();
            fiber.join().unwrap();
        }
    });
}

struct WaitsInDrop(Arc<AtomicUsize>);

impl Drop for WaitsInDrop {
    fn drop(&mut self) {
        unyield::sleep(MS);
        fiber::sleep_until(Instant::now() + MS);
        fiber::park_timeout(MS);
        fiber::current().unwrap().unpark();
        unyield::park();
        fiber::block_on(async { unyield::spawn(|| ()).await.unwrap() });
        unyield::yield_now();
        unyield::checkpoint();
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn destructors_of_a_cancelled_fiber_may_wait() {
    alone("destructors_of_a_cancelled_fiber_may_wait", || {
        for workers in [1, 2] {
            let runtime = runtime(workers);
            let ended = Arc::new(AtomicUsize::new(0));
            for i in 0..3 {
                let waits = WaitsInDrop(ended.clone());
                let started = Arc::new(AtomicBool::new(false));
                let start = started.clone();
                let fiber = runtime.spawn(move || {
                    let _waits = waits;
                    start.store(true, SeqCst);
                    match i {
                        0 => unyield::park(),
                        1 => unyield::sleep(Duration::MAX),
                        _ => loop {
                            unyield::checkpoint();
                        },
                    }
                });
                assert!(within(Duration::from_secs(20), || started.load(SeqCst)));
                std::thread::sleep(5 * MS);
                fiber.fiber().cancel();
                assert!(fiber.join().unwrap_err().is_cancelled());
            }
            assert_eq!(ended.load(SeqCst), 3);
        }
    });
}

thread_local! {
    static KEPT: RefCell<Option<fiber::OsThreadGuard>> = const { RefCell::new(None) };
}

#[test]
fn a_thread_guard_that_outlives_its_identity() {
    alone("a_thread_guard_that_outlives_its_identity", || {
        for _ in 0..3 {
            let runtime = runtime(1);
            runtime.run(|| KEPT.set(Some(fiber::lock_os_thread())));
            runtime.run(|| drop(fiber::lock_os_thread()));
            drop(runtime);
        }
    });
}

/// A guard that another task left in the identity does not take this task's thread away.
#[test]
fn a_thread_guard_that_outlives_its_task() {
    alone("a_thread_guard_that_outlives_its_task", || {
        let runtime = runtime(1);
        runtime.run(|| KEPT.set(Some(fiber::lock_os_thread())));
        let found = Arc::new(AtomicUsize::new(0));
        let (all_here, lock) =
            (Arc::new(unyield::sync::Barrier::new(64)), Arc::new(unyield::sync::Mutex::new(())));
        let fibers: Vec<_> = (0..64)
            .map(|_| {
                let (found, all_here, lock) = (found.clone(), all_here.clone(), lock.clone());
                runtime.spawn(move || {
                    all_here.wait(); // so every identity has one of us
                    let _one = lock.lock();
                    if KEPT.with_borrow(Option::is_some) {
                        let ours = fiber::lock_os_thread();
                        let thread = gettid();
                        drop(KEPT.take());
                        for _ in 0..10 {
                            unyield::sleep(MS);
                            assert_eq!(gettid(), thread, "the thread is still ours");
                        }
                        drop(ours);
                        found.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(found.load(SeqCst), 1);
    });
}

#[test]
fn forgotten_thread_guards() {
    alone("forgotten_thread_guards", || {
        let runtime = runtime(1);
        for round in 0..10 {
            let fiber = runtime.spawn(move || {
                for _ in 0..=round % 3 {
                    std::mem::forget(fiber::lock_os_thread());
                }
            });
            assert!(
                within(Duration::from_secs(10), || fiber.is_finished()),
                "no carrier is left in round {round}"
            );
            fiber.join().unwrap();
        }
        let workers: Vec<_> = (0..20)
            .map(|_| {
                runtime.run(|| {
                    unyield::yield_now();
                    gettid()
                })
            })
            .collect();
        assert!(
            workers.iter().all(|thread| *thread == workers[0]),
            "a later task is pinned to a carrier: {workers:?}"
        );
        runtime.run(|| {
            let thread = fiber::lock_os_thread();
            assert_ne!(gettid(), workers[0]);
            drop(thread);
            assert_eq!(fiber::blocking(|| 5), 5);
        });
    });
}

#[test]
fn a_thread_guard_dropped_in_a_section() {
    alone("a_thread_guard_dropped_in_a_section", || {
        for workers in [1, 2] {
            let runtime = runtime(workers);
            let fibers: Vec<_> = (0..4)
                .map(|_| {
                    runtime.spawn(|| {
                        for _ in 0..20 {
                            let thread = fiber::lock_os_thread();
                            critical(|| {
                                let before = gettid();
                                drop(thread);
                                assert_eq!(gettid(), before, "a section ends where it began");
                            });
                            assert!(!CriticalSection::is_active());
                            unyield::yield_now();
                            unyield::sleep(MS / 10);
                        }
                    })
                })
                .collect();
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
            // Neither carrier is lost.
            let both = Arc::new(unyield::sync::Barrier::new(2));
            let fibers: Vec<_> = (0..2)
                .map(|_| {
                    let both = both.clone();
                    runtime.spawn(move || {
                        let _thread = fiber::lock_os_thread();
                        both.wait();
                    })
                })
                .collect();
            assert!(within(Duration::from_secs(10), || fibers.iter().all(|fiber| fiber.is_finished())));
        }
    });
}

/// Notes the identity that it is dropped on.
struct Tells(Arc<Mutex<Vec<ThreadId>>>, #[allow(dead_code, reason = "not Send")] *const ());

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(std::thread::current().id());
    }
}

unyield::fiber_local! {
    static TELLS: RefCell<Option<Tells>> = RefCell::new(None);
    static BOMB: RefCell<Option<Bomb>> = RefCell::new(None);
    static LATER: RefCell<Option<Tells>> = RefCell::new(None);
    static FIRST: Cell<u32> = Cell::new(1);
    static SECOND: Cell<u32> = Cell::new(2);
}

#[test]
fn neighbouring_fiber_locals_are_two() {
    assert_eq!((FIRST.with(Cell::get), SECOND.with(Cell::get)), (1, 2));
    runtime(1).run(|| assert_eq!((FIRST.with(Cell::get), SECOND.with(Cell::get)), (1, 2)));
}

#[test]
fn fiber_locals_are_dropped_on_their_fiber_even_if_one_panics() {
    alone("fiber_locals_are_dropped_on_their_fiber_even_if_one_panics", || {
        let runtime = runtime(1);
        let (dropped, bombs) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (at, bomb, expected) = (dropped.clone(), bombs.clone(), Arc::new(Mutex::new(None)));
        let own = expected.clone();
        let handle = runtime.spawn(move || {
            *own.lock().unwrap() = Some(std::thread::current().id());
            TELLS.with(|tells| *tells.borrow_mut() = Some(Tells(at.clone(), std::ptr::null())));
            BOMB.with(|place| *place.borrow_mut() = Some(Bomb(bomb)));
            LATER.with(|tells| *tells.borrow_mut() = Some(Tells(at, std::ptr::null())));
        });
        let fiber = handle.fiber().clone();
        assert!(handle.join().unwrap_err().is_panic(), "the destructor's panic is the fiber's");
        let own = expected.lock().unwrap().unwrap();
        assert_eq!(*dropped.lock().unwrap(), [own, own]);
        drop(fiber);
        assert_eq!((dropped.lock().unwrap().len(), bombs.load(SeqCst)), (2, 1));
    });
}

/// Makes fiber-local values when it is dropped.
struct MakesLocals(Arc<Mutex<Vec<ThreadId>>>, Arc<AtomicUsize>);

impl Drop for MakesLocals {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(std::thread::current().id());
        TELLS.with(|tells| *tells.borrow_mut() = Some(Tells(self.0.clone(), std::ptr::null())));
        BOMB.with(|place| *place.borrow_mut() = Some(Bomb(self.1.clone())));
    }
}

#[test]
fn fiber_locals_made_by_a_detached_result_are_dropped_on_the_fiber() {
    alone("fiber_locals_made_by_a_detached_result_are_dropped_on_the_fiber", || {
        let runtime = runtime(1);
        let (dropped, bombs) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let result = MakesLocals(dropped.clone(), bombs.clone());
        let fiber = detached(&runtime, move || result);
        assert!(within(Duration::from_secs(20), || dropped.lock().unwrap().len() == 2));
        assert!(within(Duration::from_secs(20), || bombs.load(SeqCst) == 1));
        runtime.run(|| ());
        drop(fiber);
        let dropped = dropped.lock().unwrap();
        assert!(dropped.len() == 2 && dropped[0] == dropped[1], "{dropped:?}");
    });
}

struct Forks(Arc<AtomicUsize>, u32);

impl Drop for Forks {
    fn drop(&mut self) {
        if std::process::id() != self.1 {
            return;
        }
        // SAFETY: as in `fork`; the child goes on to the end of its fiber.
        match unsafe { libc::fork() } {
            // SAFETY: a limit of the child's own.
            0 => _ = unsafe { libc::alarm(10) },
            pid => _ = self.0.fetch_add(1 + code_of(pid) as usize, SeqCst),
        }
    }
}

#[test]
fn a_child_forked_by_a_detached_result_ends_with_its_fiber() {
    alone("a_child_forked_by_a_detached_result_ends_with_its_fiber", || {
        let (runtime, forked) = (runtime(1), Arc::new(AtomicUsize::new(0)));
        let result = Forks(forked.clone(), std::process::id());
        let parent = std::process::id();
        detached(&runtime, move || {
            unyield::spawn(move || assert_eq!(std::process::id(), parent, "another fiber runs in the child"));
            result
        });
        assert!(within(Duration::from_secs(20), || forked.load(SeqCst) == 1), "{forked:?}");
    });
}

#[test]
fn a_scope_in_a_forked_child_panics() {
    alone("a_scope_in_a_forked_child_panics", || {
        unyield::spawn(|| ()).join().unwrap();
        let child = || {
            let message = panics(|| unyield::scope(|s| drop(s.spawn(|| ()))));
            assert!(message.contains("forked child"), "{message}");
            let message = panics(|| unyield::spawn(|| ()));
            assert!(message.contains("forked child"), "{message}");
            assert_eq!(unyield::scope(|_| 4), 4);
            3
        };
        assert_eq!(fork(child), 3);
        assert_eq!(runtime(1).run(|| fork(child)), 3);
        assert_eq!(unyield::spawn(move || fork(child)).join().unwrap(), 3);
    });
}

struct PanickingWaker(AtomicUsize);

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
        panic_any("a waker's panic, part of the test");
    }
}

#[test]
fn a_waker_that_panics() {
    alone("a_waker_that_panics", || {
        let runtime = runtime(1);
        let waker = Arc::new(PanickingWaker(AtomicUsize::new(0)));
        let mut handle = runtime.spawn(unyield::park);
        let polled = Pin::new(&mut handle).poll(&mut Context::from_waker(&Waker::from(waker.clone())));
        assert!(polled.is_pending());
        handle.fiber().unpark();
        assert!(within(Duration::from_secs(20), || waker.0.load(SeqCst) == 1));
        handle.join().unwrap();
        assert_eq!(runtime.run(|| 1), 1);
    });
}

#[test]
fn payloads_results_and_closures_whose_destructors_panic() {
    alone("payloads_results_and_closures_whose_destructors_panic", || {
        let (runtime, bombs) = (runtime(1), Arc::new(AtomicUsize::new(0)));
        let handler_saw = Arc::new(AtomicUsize::new(0));
        let seen = handler_saw.clone();
        let handled = Runtime::builder()
            .workers(1)
            .panic_handler(move |payload| {
                seen.fetch_add(1, SeqCst);
                panic_any(payload);
            })
            .build()
            .unwrap();
        let bomb = || Bomb(bombs.clone());
        let count = |n| within(Duration::from_secs(20), || bombs.load(SeqCst) == n);

        // a detached fiber's payload
        let payload = bomb();
        detached(&runtime, move || panic_any(payload));
        assert!(count(1));
        // … given to a handler that panics with it
        let payload = bomb();
        detached(&handled, move || panic_any(payload));
        assert!(count(2));
        assert_eq!(handler_saw.load(SeqCst), 1);
        // a detached fiber's result
        let result = bomb();
        detached(&runtime, move || result);
        assert!(count(3));
        // results and payloads dropped with the handle
        let (result, payload) = (bomb(), bomb());
        let handles = (runtime.spawn(move || result), runtime.spawn(move || panic_any(payload)));
        assert!(within(Duration::from_secs(20), || handles.0.is_finished() && handles.1.is_finished()));
        drop(handles);
        assert_eq!(bombs.load(SeqCst), 5);
        // a result given up for the panic of a fiber-local value, and a payload kept in spite of one
        let (result, local) = (bomb(), bomb());
        let fiber = runtime.spawn(move || {
            BOMB.with(|place| *place.borrow_mut() = Some(local));
            result
        });
        assert!(fiber.join().is_err_and(|error| error.is_panic()));
        assert_eq!(bombs.load(SeqCst), 7);
        let local = bomb();
        let fiber = runtime.spawn(move || {
            BOMB.with(|place| *place.borrow_mut() = Some(local));
            panic_any(5);
        });
        assert_eq!(*fiber.join().unwrap_err().into_panic().downcast::<i32>().unwrap(), 5);
        assert_eq!(bombs.load(SeqCst), 8);
        // in scopes, which end all the same
        let payload = bomb();
        let message =
            panics(|| runtime.run(|| unyield::scope(|s| drop(s.spawn(move || panic_any(payload))))));
        assert_eq!(message, "a scoped fiber panicked");
        let result = bomb();
        let message = panics(|| {
            runtime.run(|| {
                unyield::scope(|s| {
                    drop(s.spawn(move || {
                        unyield::sleep(5 * MS);
                        result
                    }))
                })
            })
        });
        assert_eq!(message, "a scoped fiber panicked");
        assert_eq!(bombs.load(SeqCst), 10);
        // a closure that never runs
        let (closure, handle) = (bomb(), Arc::new(Mutex::new(None)));
        let cancelled = handle.clone();
        runtime.run(move || {
            let never = unyield::spawn(move || drop(closure));
            never.fiber().cancel();
            *cancelled.lock().unwrap() = Some(never);
        });
        let never = handle.lock().unwrap().take().unwrap();
        assert!(never.join().unwrap_err().is_panic());
        assert_eq!(bombs.load(SeqCst), 11);
        assert_eq!(runtime.run(|| 1), 1);
    });
}

#[test]
fn a_result_is_taken_once() {
    let runtime = runtime(1);
    let mut handle = runtime.spawn(|| 5);
    let mut context = Context::from_waker(Waker::noop());
    let result = loop {
        match Pin::new(&mut handle).poll(&mut context) {
            Poll::Ready(result) => break result,
            Poll::Pending => std::thread::sleep(MS),
        }
    };
    assert_eq!(result.unwrap(), 5);
    let message = panics(|| Pin::new(&mut handle).poll(&mut context));
    assert!(message.contains("after it was ready"), "{message}");
    let message = panics(|| handle.join());
    assert!(message.contains("after it was ready"), "{message}");
}

#[test]
fn run_of_a_fiber_that_is_cancelled_panics() {
    let (runtime, other) = (runtime(1), runtime(1));
    let cancelled = || {
        runtime.run(|| {
            fiber::current().unwrap().cancel();
            unyield::yield_now();
        })
    };
    let message = panics(cancelled);
    assert!(message.contains("cancelled"), "{message}");
    let outer = other.spawn({
        let runtime = Arc::new(Runtime::builder().workers(1).build().unwrap());
        move || {
            runtime.run(|| {
                fiber::current().unwrap().cancel();
                unyield::yield_now();
            })
        }
    });
    assert!(outer.join().unwrap_err().is_panic(), "the caller was not cancelled itself");
}
