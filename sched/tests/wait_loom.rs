//! How a wait ends, how a task and its handle meet, and how a fiber waits for a half that was stolen (`wait_state`, `fiber::join_state`, `par::job_state`), under
//! loom: every interleaving, up to a number of preemptions, of a fiber that waits, a waker, the timer and a cancel; of a task that ends and a handle that joins,
//! polls or goes; of a thief and the fiber that forked.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p unyield --test wait_loom
//! ```
//!
//! What surrounds the words is modelled after `park`, `timers` and `task`: the queue's lock, the timers' lock, the task's cancel flag, the waker's lock.
//! `Gone` is the waiter's memory: it ends with a write, so that whoever may still look at it then fails the model.
#![cfg(loom)]
#![allow(dead_code, missing_docs)]

mod sync {
    pub mod atomic;
}
#[path = "../src/par/job_state.rs"]
mod job_state;
#[path = "../src/fiber/join_state.rs"]
mod join_state;
#[path = "sync/loom_model.rs"]
mod loom_model;
#[path = "../src/wait_state.rs"]
mod wait_state;

use job_state::JobState;
use join_state::{JoinState, Joiner, Left};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use loom_model::{Watched, model, start};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use wait_state::{End, Outcome, WaitState};

/// The run queue: a parked fiber is put into it once.
struct Runnable {
    times: Mutex<u32>,
    queued: Condvar,
}

impl Runnable {
    fn new() -> Self {
        Runnable { times: Mutex::new(0), queued: Condvar::new() }
    }
    fn make(&self) {
        let mut times = self.times.lock().unwrap();
        *times += 1;
        assert_eq!(*times, 1, "made runnable twice");
        self.queued.notify_one();
    }
    fn wait(&self) {
        let mut times = self.times.lock().unwrap();
        while *times == 0 {
            times = self.queued.wait(times).unwrap();
        }
    }
    fn times(&self) -> u32 {
        *self.times.lock().unwrap()
    }
}

/// A fiber's wait, and all that others may know of it.
struct Wait {
    state: WaitState,
    /// The waiter's other fields.
    fields: Watched,
    token: Watched,
    /// In the queue of a primitive; in the timers' wheel.
    queued: Mutex<bool>,
    timed: Mutex<bool>,
    cancelled: loom::sync::atomic::AtomicBool,
    runnable: Runnable,
}

impl Wait {
    fn new() -> Arc<Wait> {
        let wait = Wait {
            state: WaitState::new(),
            fields: Watched::default(),
            token: Watched::default(),
            queued: Mutex::new(true),
            timed: Mutex::new(false),
            cancelled: loom::sync::atomic::AtomicBool::new(false),
            runnable: Runnable::new(),
        };
        wait.state.reset();
        Arc::new(wait)
    }

    /// `Waiter::block` in a fiber that is queued already.
    fn block(&self, deadline: bool, cancellable: bool) -> Outcome {
        let outcome = self.park(deadline, cancellable);
        if deadline {
            *self.timed.lock().unwrap() = false;
        }
        if outcome == Outcome::Notified {
            assert_eq!(self.token.read(), 7, "what the waker wrote");
        } else {
            *self.queued.lock().unwrap() = false;
        }
        self.fields.write(1); // gone
        outcome
    }

    fn park(&self, deadline: bool, cancellable: bool) -> Outcome {
        if cancellable {
            self.state.allow_cancel();
            if self.cancelled.load(Acquire) && self.state.finish(End::Cancel) == Some(true) {
                self.runnable.make();
            }
        }
        if let Some(outcome) = self.state.outcome() {
            return outcome;
        }
        if deadline {
            *self.timed.lock().unwrap() = true;
        }
        if let Ok(outcome) = self.state.publish() {
            self.runnable.make(); // its successor does
            self.runnable.wait();
            return outcome;
        }
        self.runnable.wait();
        self.state.outcome().expect("runs only when the wait has ended")
    }

    /// A primitive's waker. True if it was this that ended the wait.
    fn wake(&self) -> bool {
        let mut queued = self.queued.lock().unwrap();
        if !*queued {
            return false;
        }
        self.fields.read();
        let Some(parked) = self.state.claim() else { return false };
        *queued = false;
        drop(queued);
        self.token.write(7);
        if self.state.notify_claimed(parked) {
            self.runnable.make();
        }
        true
    }

    /// The timer thread, at any time after the deadline.
    fn expire(&self) -> bool {
        let mut timed = self.timed.lock().unwrap();
        if !std::mem::replace(&mut *timed, false) {
            return false;
        }
        self.fields.read();
        let ended = self.state.finish(End::Deadline);
        drop(timed);
        if ended == Some(true) {
            self.runnable.make();
        }
        ended.is_some()
    }

    /// `Task::cancel`: the caller holds the task, so the word stays.
    fn cancel(&self) {
        self.cancelled.store(true, Release);
        if self.state.finish(End::Cancel) == Some(true) {
            self.runnable.make();
        }
    }
}

#[test]
fn a_waker_and_the_deadline() {
    model(4, || {
        let wait = Wait::new();
        let waker = start(&wait, Wait::wake);
        let timer = start(&wait, Wait::expire);
        let outcome = wait.block(true, false);
        let (woken, expired) = (waker.join().unwrap(), timer.join().unwrap());
        assert_eq!((woken, expired), (outcome == Outcome::Notified, outcome == Outcome::TimedOut));
        assert!(wait.runnable.times() <= 1);
    });
}

#[test]
fn a_waker_and_a_cancel() {
    model(4, || {
        let wait = Wait::new();
        let waker = start(&wait, Wait::wake);
        let canceller = start(&wait, Wait::cancel);
        let outcome = wait.block(false, true);
        canceller.join().unwrap();
        assert_eq!(waker.join().unwrap(), outcome == Outcome::Notified);
        assert_ne!(outcome, Outcome::TimedOut);
    });
}

#[test]
fn a_cancel_alone_is_not_lost() {
    model(5, || {
        let wait = Wait::new();
        let canceller = start(&wait, Wait::cancel);
        assert_eq!(wait.block(false, true), Outcome::Cancelled);
        canceller.join().unwrap();
    });
}

#[test]
fn a_wait_that_may_not_be_cancelled() {
    model(4, || {
        let wait = Wait::new();
        let canceller = start(&wait, Wait::cancel);
        let waker = start(&wait, Wait::wake);
        assert_eq!(wait.block(false, false), Outcome::Notified);
        canceller.join().unwrap();
        assert!(waker.join().unwrap());
    });
}

#[test]
fn a_waker_the_deadline_and_a_cancel() {
    model(2, || {
        let wait = Wait::new();
        let waker = start(&wait, Wait::wake);
        let timer = start(&wait, Wait::expire);
        let canceller = start(&wait, Wait::cancel);
        let outcome = wait.block(true, true);
        canceller.join().unwrap();
        let (woken, expired) = (waker.join().unwrap(), timer.join().unwrap());
        assert_eq!((woken, expired), (outcome == Outcome::Notified, outcome == Outcome::TimedOut));
    });
}

/// A task with its result and the place of its waker, and the only handle's waiter.
struct Join {
    join: JoinState,
    result: Watched,
    waker: Mutex<Option<u32>>,
    woken: Mutex<Vec<u32>>,
    waiter: WaitState,
    waiter_fields: Watched,
    runnable: Runnable,
}

impl Join {
    fn new() -> Arc<Join> {
        let join = Join {
            join: JoinState::new(),
            result: Watched::default(),
            waker: Mutex::new(None),
            woken: Mutex::new(Vec::new()),
            waiter: WaitState::new(),
            waiter_fields: Watched::default(),
            runnable: Runnable::new(),
        };
        assert!(!join.join.is_done());
        join.waiter.reset();
        Arc::new(join)
    }

    /// `Task::complete`. True: the result was the task's to drop.
    fn complete(&self) -> bool {
        self.result.write(42);
        match self.join.complete() {
            Joiner::Nobody => {}
            Joiner::Detached => {
                self.result.write(0);
                return true;
            }
            Joiner::Waker => {
                let waker = self.waker.lock().unwrap().take();
                self.woken.lock().unwrap().extend(waker);
            }
            Joiner::Waiter(address) => {
                assert_eq!(address, 64);
                self.waiter_fields.read();
                if self.waiter.notify() {
                    self.runnable.make();
                }
            }
        }
        false
    }

    /// `Task::wait_done` and `Task::take_result`.
    fn join(&self) {
        match self.join.wait(64) {
            Left::TooLate => {}
            left => {
                if left == Left::InPlaceOfWaker {
                    self.waker.lock().unwrap().take();
                }
                if self.waiter.publish().is_ok() {
                    self.runnable.make();
                }
                self.runnable.wait();
                assert_eq!(self.waiter.outcome(), Some(Outcome::Notified));
                self.waiter_fields.write(1); // gone
            }
        }
        assert_eq!(self.result.read(), 42);
        self.result.write(1); // taken
    }

    /// `Task::poll_done` with a waker of this number.
    fn poll(&self, waker: u32) -> bool {
        if self.join.is_done() {
            return true;
        }
        *self.waker.lock().unwrap() = Some(waker);
        let done = self.join.poll() == Left::TooLate;
        if done {
            self.waker.lock().unwrap().take();
        }
        done
    }

    /// `Task::detach`. True: the result was the handle's to drop.
    fn detach(&self) -> bool {
        match self.join.detach() {
            Left::TooLate => {
                self.result.write(0);
                true
            }
            Left::InPlaceOfWaker => {
                self.waker.lock().unwrap().take();
                false
            }
            Left::InTime => false,
        }
    }

    fn ends(join: &Arc<Join>) -> thread::JoinHandle<bool> {
        start(join, Join::complete)
    }
}

#[test]
fn a_join_and_the_end() {
    model(6, || {
        let join = Join::new();
        let task = Join::ends(&join);
        join.join();
        assert!(!task.join().unwrap());
        assert!(join.join.is_done());
    });
}

#[test]
fn a_handle_that_goes_and_the_end() {
    model(6, || {
        let join = Join::new();
        let task = Join::ends(&join);
        let by_handle = join.detach();
        assert_ne!(task.join().unwrap(), by_handle, "dropped once");
        assert_eq!(join.result.read(), 0);
    });
}

#[test]
fn the_last_waker_is_woken() {
    model(6, || {
        let join = Join::new();
        let task = Join::ends(&join);
        let ready = join.poll(1) || join.poll(2);
        task.join().unwrap();
        if ready {
            assert_eq!(join.result.read(), 42);
        } else {
            assert_eq!(join.woken.lock().unwrap().last(), Some(&2));
            assert!(join.poll(3));
        }
        assert!(join.waker.lock().unwrap().is_none(), "a waker stayed");
    });
}

#[test]
fn a_handle_that_was_polled_joins_or_goes() {
    model(6, || {
        let join = Join::new();
        let task = Join::ends(&join);
        if !join.poll(1) {
            join.join();
        }
        task.join().unwrap();
        assert!(join.waker.lock().unwrap().is_none(), "a waker stayed");
    });
    model(6, || {
        let join = Join::new();
        let task = Join::ends(&join);
        if join.poll(1) {
            task.join().unwrap();
            return;
        }
        let by_handle = join.detach();
        assert_ne!(task.join().unwrap(), by_handle, "dropped once");
        assert!(join.waker.lock().unwrap().is_none(), "a waker stayed");
    });
}

/// A half that was stolen, in the frame of the fiber that forked, with that fiber's waiter.
struct Stolen {
    state: JobState,
    result: Watched,
    waiter: WaitState,
    waiter_fields: Watched,
    runnable: Runnable,
}

impl Stolen {
    fn new() -> Arc<Stolen> {
        let stolen = Stolen {
            state: JobState::taken(),
            result: Watched::default(),
            waiter: WaitState::new(),
            waiter_fields: Watched::default(),
            runnable: Runnable::new(),
        };
        assert!(!stolen.state.is_done());
        Arc::new(stolen)
    }

    /// The thief: `Job::run` and `Job::complete`.
    fn run(&self) {
        self.result.write(42);
        if let Some(address) = self.state.complete() {
            assert_eq!(address, 64);
            assert_eq!(self.waiter_fields.read(), 7);
            if self.waiter.notify() {
                self.runnable.make();
            }
        }
    }

    /// The fiber that forked: `Job::wait`, and the end of its frame.
    fn wait(&self) {
        if !self.state.is_done() {
            self.waiter.reset();
            self.waiter_fields.write(7);
            if self.state.wait(64) {
                if self.waiter.publish().is_ok() {
                    self.runnable.make(); // its successor does
                }
                self.runnable.wait();
                assert_eq!(self.waiter.outcome(), Some(Outcome::Notified));
            }
            self.waiter_fields.write(1); // gone
        }
        assert_eq!(self.result.read(), 42);
        self.result.write(1); // gone
    }
}

#[test]
fn a_stolen_half_and_the_fiber_that_forked() {
    model(6, || {
        let stolen = Stolen::new();
        let thief = start(&stolen, Stolen::run);
        stolen.wait();
        thief.join().unwrap();
    });
}
