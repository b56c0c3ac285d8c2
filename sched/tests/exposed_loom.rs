//! The list of identities that do not run and have unstarted halves (`par::exposed`), under loom: thieves take halves while the identity is resumed, ends and is
//! freed.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p unyield --test exposed_loom
//! ```
//!
//! The source of the list is compiled into this test, over the deque, the looks and the fences of `unyield-stealing` under loom. An identity here is what
//! `par::forks` makes of one. It is freed by a write to memory that whoever uses it reads.
#![cfg(loom)]
#![allow(dead_code, missing_docs)]

mod sync {
    pub mod atomic;
}
#[path = "../src/par"]
mod par {
    pub mod exposed;
    /// A half of a fork-join.
    pub mod job {
        use crate::loom_model::Watched;
        use loom::sync::atomic::AtomicBool;

        pub struct Job {
            /// How often it was run. Written a last time when the frame goes.
            pub runs: Watched,
            /// Written by who takes it.
            pub taken: Watched,
            pub done: AtomicBool,
        }
    }
}
#[path = "sync/loom_lock.rs"]
mod lock;
#[path = "sync/loom_model.rs"]
mod loom_model;

mod identity {
    use crate::loom_model::Watched;
    use crate::par::job::Job;
    use loom::cell::Cell;
    use loom::sync::atomic::{AtomicU8, AtomicUsize};
    use std::ptr::{NonNull, null};
    use unyield_stealing::lazy::{Bounds, Slot, StealLock};

    pub struct Forks {
        pub place: AtomicU8,
        pub next: Cell<*const Identity>,
        pub previous: Cell<*const Identity>,
    }

    pub struct Identity {
        pub forks: Forks,
        pub words: [AtomicUsize; 2],
        pub slots: [Slot<Job>; 2],
        pub lock: StealLock,
        pub memory: Watched,
    }

    // SAFETY: loom checks the accesses.
    unsafe impl Send for Identity {}
    // SAFETY: as above.
    unsafe impl Sync for Identity {}

    impl Identity {
        /// Never really freed.
        pub fn new() -> &'static Identity {
            let identity: &Identity = Box::leak(Box::new(Identity {
                forks: Forks {
                    place: AtomicU8::new(0),
                    next: Cell::new(null()),
                    previous: Cell::new(null()),
                },
                words: Default::default(),
                slots: Default::default(),
                lock: StealLock::new(),
                memory: Watched::default(),
            }));
            identity.bounds().begin(identity.first_slot());
            identity
        }
        pub fn first_slot(&self) -> usize {
            &raw const self.slots[0] as usize
        }
        fn bounds(&self) -> &Bounds {
            assert_eq!(self.memory.read(), 0, "freed");
            Bounds::from_words(&self.words)
        }
        pub fn shows_forks(&self) -> bool {
            self.bounds().show_work()
        }
        pub fn is_forking(&self) -> bool {
            self.bounds().in_use()
        }
        pub fn can_be_robbed(&self) -> bool {
            true
        }
        pub unsafe fn take_fork(&self) -> Option<NonNull<Job>> {
            // SAFETY: at rest, says the caller.
            unsafe { self.bounds().take(&self.lock, |job: NonNull<Job>| job.as_ref().taken.write(1)) }
        }
        pub unsafe fn take_fork_remotely(&self) -> Option<NonNull<Job>> {
            // SAFETY: it is not freed meanwhile, says the caller.
            let job = unsafe {
                self.bounds().take_remotely(&self.lock, |job: NonNull<Job>| job.as_ref().taken.write(1))
            };
            self.memory.read();
            job
        }
        /// By whoever has it for himself.
        pub fn free(&self) {
            self.forks.next.set(null());
            self.forks.previous.set(null());
            self.memory.write(1);
        }
    }
}

use identity::Identity;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use loom_model::{Watched, model, start};
use par::exposed::Exposed;
use par::job::Job;
use std::ptr::NonNull;
use std::sync::Arc;
use unyield_stealing::Looks;
use unyield_stealing::lazy::{self, Owner};

struct Runtime {
    exposed: Exposed,
    identity: &'static Identity,
    /// Of two thieves.
    looks: [Looks; 2],
    /// The identity is in a run queue.
    published: AtomicBool,
}

/// The running identity's bounds.
struct Own(&'static Identity);

impl Owner for Own {
    fn bottom(&self) -> usize {
        self.0.words[0].load(Ordering::Relaxed)
    }
    unsafe fn set_bottom(&self, value: usize) {
        self.0.words[0].store(value, Ordering::Release);
    }
    fn top(&self) -> usize {
        self.0.words[1].load(Ordering::Relaxed)
    }
    unsafe fn set_top(&self, value: usize) {
        self.0.words[1].store(value, Ordering::Relaxed);
    }
}

fn run(job: &Job) {
    assert_eq!(job.runs.read(), 0, "run twice");
    job.runs.write(1);
}

impl Runtime {
    fn new() -> Arc<Runtime> {
        let runtime = Runtime {
            exposed: Exposed::new(),
            identity: Identity::new(),
            looks: Default::default(),
            published: AtomicBool::new(false),
        };
        assert!(runtime.exposed.is_empty() && runtime.exposed.carries_nobody()); // registers its counters with loom
        Arc::new(runtime)
    }

    fn own(&self) -> Own {
        Own(self.identity)
    }

    /// The fiber forks.
    fn push(&self) {
        let job = Box::leak(Box::new(Job {
            runs: Watched::default(),
            taken: Watched::default(),
            done: AtomicBool::new(false),
        }));
        let own = self.own();
        // SAFETY: by the owner; never freed.
        unsafe {
            if own.bottom() == 0 {
                own.set_bottom(self.identity.first_slot());
            }
            lazy::push(&own, own.bottom(), NonNull::from(job));
        }
    }

    /// … and takes the newest half back, or waits for it.
    fn pop(&self) {
        let own = self.own();
        let bottom = own.bottom() - size_of::<lazy::Slot<Job>>();
        let slot = (bottom - self.identity.first_slot()) / size_of::<lazy::Slot<Job>>();
        // SAFETY: what was pushed is never freed.
        let job = unsafe { &*self.identity.slots[slot].load(Ordering::Relaxed) };
        // SAFETY: by the owner.
        if unsafe { lazy::pop(&own, bottom) || lazy::settle(&own, &self.identity.lock, bottom) } {
            run(job);
        } else {
            assert_eq!(job.taken.read(), 1, "nobody has it");
            while !job.done.load(Ordering::Acquire) {
                thread::yield_now();
            }
        }
        assert_eq!(job.runs.read(), 1, "no result");
        job.runs.write(2); // gone
    }

    /// A thief looks for a half.
    fn steal(&self, thief: usize) {
        // SAFETY: a thread that is not the fiber's.
        if let Some(job) =
            unsafe { self.exposed.take().or_else(|| self.exposed.take_carried(&self.looks[thief])) }
        {
            // SAFETY: never freed.
            let job = unsafe { job.as_ref() };
            run(job);
            job.done.store(true, Ordering::Release);
        }
    }

    /// The fiber leaves its worker.
    fn rest(&self) {
        // SAFETY: by the fiber's worker, before it is published.
        unsafe { self.exposed.rests(self.identity) };
        self.published.store(true, Ordering::Release);
    }

    /// A worker or a carrier resumes it.
    fn resume(&self, on_carrier: bool) {
        while !self.published.load(Ordering::Acquire) {
            thread::yield_now();
        }
        // SAFETY: the caller has it for itself.
        unsafe { self.exposed.resuming(self.identity, on_carrier) };
        if !on_carrier {
            // Nobody else is at it now, and what thieves did came before: without the help of any fence that may follow.
            self.identity.memory.write(0);
        }
    }

    /// The fiber ends, and its identity is freed.
    fn end(&self) {
        // SAFETY: by the owner, which has popped everything.
        unsafe { self.own().set_bottom(0) };
        // SAFETY: at rest, by its worker.
        unsafe { self.exposed.resuming(self.identity, false) };
        Looks::wait(self.looks.iter());
        self.identity.free();
        assert_eq!(self.own().top(), self.identity.first_slot());
    }
}

#[test]
fn a_fiber_at_rest_a_thief_and_who_resumes_it() {
    model(4, || {
        let runtime = Runtime::new();
        let thief = start(&runtime, |runtime| {
            runtime.steal(0);
            runtime.steal(0);
        });
        runtime.push();
        runtime.rest();
        runtime.resume(false);
        runtime.pop();
        runtime.end();
        thief.join().unwrap();
        assert!(runtime.exposed.is_empty() && runtime.exposed.carries_nobody());
    });
}

#[test]
fn a_fiber_that_moves_and_two_thieves() {
    model(2, || {
        let runtime = Runtime::new();
        let thief = start(&runtime, |runtime| {
            runtime.steal(0);
            runtime.steal(0);
        });
        let worker = start(&runtime, |runtime| {
            runtime.resume(false);
            runtime.pop();
            runtime.pop();
            runtime.end();
        });
        runtime.push();
        runtime.push();
        runtime.rest();
        runtime.steal(1);
        worker.join().unwrap();
        thief.join().unwrap();
        assert!(runtime.exposed.is_empty() && runtime.exposed.carries_nobody());
    });
}

/// A fiber that forks on a carrier: halves are taken while it runs.
#[test]
fn a_fiber_on_a_carrier() {
    model(4, || {
        let runtime = Runtime::new();
        let thief = start(&runtime, |runtime| {
            runtime.steal(0);
            runtime.steal(0);
        });
        runtime.push();
        // SAFETY: by the fiber's worker.
        unsafe { runtime.exposed.is_carried(runtime.identity) };
        runtime.pop();
        runtime.end();
        thief.join().unwrap();
        assert!(runtime.exposed.is_empty() && runtime.exposed.carries_nobody());
    });
}

#[test]
fn a_fiber_that_goes_on_on_a_carrier() {
    model(3, || {
        let runtime = Runtime::new();
        let thief = start(&runtime, |runtime| {
            runtime.steal(0);
            runtime.steal(0);
        });
        runtime.push();
        runtime.push();
        runtime.rest();
        runtime.resume(true);
        runtime.pop();
        runtime.pop();
        runtime.end();
        thief.join().unwrap();
        assert!(runtime.exposed.is_empty() && runtime.exposed.carries_nobody());
    });
}
