//! The two plain threads that make and retire identities, and start carriers: what masked code must not do itself. A TLS destructor that blocks stops
//! retirement only, never creation.
//!
//! Masked code asks by a word in memory and a futex wake; the threads look at all there is to do each time they are woken.

use super::{Identity, ghost};
use crate::fiber::helper;
use crate::fiber::task::Task;
use crate::lock::Lock;
use crate::runtime::Shared;
use crate::worker::{carrier, spare};
use std::cell::Cell;
use std::ptr::{NonNull, null};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32};
use unyield_stealing::Looks;

/// A word that threads sleep on until it changes.
#[derive(Default)]
pub(crate) struct Bell(AtomicU32);

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.fetch_add(1, SeqCst);
        // SAFETY: FUTEX_WAKE does not touch the word.
        unsafe {
            libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
        };
    }

    pub(crate) fn read(&self) -> u32 {
        self.0.load(Acquire)
    }

    pub(crate) fn wait(&self, seen: u32, timeout_ns: Option<u64>) {
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let timeout = timeout.as_ref().map_or(null(), |timeout| timeout as *const libc::timespec);
        // SAFETY: waits on a live word.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                seen,
                timeout,
            )
        };
    }
}

pub(crate) struct Service {
    create: Bell,
    retire: Bell,
    /// A worker waits for an identity in the pool.
    wanted: AtomicBool,
    /// Identities to retire, linked by `next_free`.
    retired: Lock<Cell<*const Identity>>,
}

// SAFETY: the pointer is used under the lock.
unsafe impl Send for Service {}
// SAFETY: as above.
unsafe impl Sync for Service {}

/// Nanoseconds between attempts to make an identity when there is no memory or no thread to be had; after so many of them the task fails.
const RETRY: u64 = 2_000_000;
const ATTEMPTS: u32 = 1000;
/// Nanoseconds between trimmings of a rich pool, and how many identities go each time at most.
const TRIM_EVERY: u64 = 1_000_000_000;
const TRIM_MOST: usize = 16384;
/// Identities made for one request at most.
const BATCH: usize = 64;

impl Service {
    pub(crate) fn new() -> Self {
        Service {
            wanted: AtomicBool::new(false),
            create: Bell::default(),
            retire: Bell::default(),
            retired: Lock::new(Cell::new(null())),
        }
    }

    /// A worker has a task and no identity for it. Masked code.
    pub(crate) fn want_identity(&self) {
        if !self.wanted.swap(true, SeqCst) {
            self.create.ring();
        }
    }

    /// There is something to make. Masked code.
    pub(crate) fn wake(&self) {
        self.create.ring();
    }

    /// The pool has become rich: it is to be trimmed some time. Masked code.
    pub(crate) fn pool_is_rich(&self) {
        self.retire.ring();
    }

    /// There is something to make or an end. Any thread.
    pub(crate) fn stop(&self) {
        self.create.ring();
        self.retire.ring();
    }

    /// Masked code.
    pub(crate) fn retire(&self, identity: &Identity) {
        identity.retire.set(true);
        {
            let retired = self.retired.lock();
            identity.next_free.set(retired.get());
            retired.set(identity);
        }
        self.retire.ring();
    }

    fn take_retired(&self) -> Option<&'static Identity> {
        let retired = self.retired.lock();
        // SAFETY: identities that wait here are alive and nobody else's.
        let identity = unsafe { retired.get().as_ref() }?;
        retired.set(identity.next_free.get());
        Some(identity)
    }

    /// An identity of this size that is about to be retired: it may as well run one more task.
    fn reuse(&self, size: usize) -> Option<&'static Identity> {
        const LOOK_AT: usize = 32;
        let retired = self.retired.lock();
        let mut place: &Cell<*const Identity> = &retired;
        for _ in 0..LOOK_AT {
            // SAFETY: identities that wait here are alive, and linked under the lock.
            let identity: &'static Identity = unsafe { place.get().as_ref() }?;
            if identity.stack.asked() == size {
                place.set(identity.next_free.get());
                identity.retire.set(false);
                return Some(identity);
            }
            place = &identity.next_free;
        }
        None
    }

    /// The body of the thread that creates.
    pub(crate) fn create_loop(runtime: &Shared) {
        let mut trouble = Trouble::default();
        loop {
            let seen = runtime.service.create.read();
            if runtime.halted.load(Acquire) {
                return;
            }
            let mut failed = false;
            while !failed && runtime.spares.wants_more() {
                failed = spare::start_one(runtime).is_err();
            }
            while !failed && runtime.carriers.wants_more() {
                failed = carrier::start_one(runtime).is_err();
            }
            if runtime.service.wanted.swap(false, SeqCst) && !stock(runtime) {
                runtime.service.wanted.store(true, SeqCst); // again, until one is made or given back
                failed = true;
            }
            while !failed && let Some(task) = runtime.hungry.pop() {
                match feed(runtime, task.cast()) {
                    Ok(()) => trouble = Trouble::default(),
                    Err(error) => {
                        trouble.with(runtime, task.cast(), &error);
                        failed = true;
                    }
                }
            }
            runtime.service.create.wait(seen, failed.then_some(RETRY));
        }
    }

    /// The body of the thread that retires.
    pub(crate) fn retire_loop(runtime: &Shared) {
        let retire = |identity: &'static Identity| {
            runtime.pool.unregister(identity);
            // A thief may have seen it run on some worker and look at what it has exposed.
            Looks::wait(runtime.lookers());
            // SAFETY: at rest, out of every list.
            unsafe { ghost::retire(identity) };
        };
        loop {
            let seen = runtime.service.retire.read();
            while let Some(identity) = runtime.service.take_retired() {
                retire(identity);
            }
            if runtime.halted.load(Acquire) {
                return;
            }
            // While the pool is rich, what was not needed for a while goes.
            let rich = runtime.pool.is_rich();
            runtime.service.retire.wait(seen, rich.then_some(TRIM_EVERY));
            if rich && runtime.service.retire.read() == seen {
                runtime.pool.trim(TRIM_MOST).into_iter().for_each(retire);
            }
        }
    }
}

/// Fills the pool: at least one, the more the more there are. False: none could be made, and none is there.
fn stock(runtime: &Shared) -> bool {
    let mut some = runtime.pool.has_some();
    if !some {
        for _ in 0..(runtime.pool.registered() / 8).clamp(1, BATCH) {
            let Ok(identity) = make(runtime, runtime.stack_size) else { break };
            runtime.pool.push(identity);
            some = true;
            runtime.idle.notify_all(); // the first is handed out before the rest is made
        }
    }
    if some {
        runtime.idle.notify_all();
    }
    if runtime.pool.is_rich() {
        runtime.service.pool_is_rich();
    }
    some
}

/// An identity for one task that waits.
fn feed(runtime: &Shared, task: NonNull<Task>) -> std::io::Result<()> {
    // SAFETY: a task that waits is alive.
    let size = unsafe { task.as_ref() }.stack_size;
    let pooled = if size == runtime.stack_size { runtime.pool.pop() } else { runtime.service.reuse(size) };
    let identity = pooled.map_or_else(|| make(runtime, size), Ok)?;
    // SAFETY: both are ours: the identity is new or out of the pool, the task out of its list.
    unsafe {
        identity.take_task(task);
        runtime.inject(NonNull::from(&identity.head));
    }
    Ok(())
}

/// A task for which no identity could be made, and how often in a row that has failed.
#[derive(Default)]
struct Trouble {
    task: Option<NonNull<Task>>,
    failures: u32,
}

impl Trouble {
    /// `task` could not be fed: it waits again, behind the others, or is refused after so many attempts.
    fn with(&mut self, runtime: &Shared, task: NonNull<Task>, error: &std::io::Error) {
        if self.task == Some(task) || self.task.is_none() {
            self.task = Some(task);
            self.failures += 1;
        }
        if self.task == Some(task) && self.failures >= ATTEMPTS {
            *self = Trouble::default();
            let message = format!("no stack or thread identity could be made for a fiber: {error}");
            // SAFETY: it was not started, and is in no queue any more.
            unsafe { Task::refuse(task, Box::new(message)) };
            runtime.ended_outside.fetch_add(1, Relaxed);
        } else {
            // SAFETY: taken out of this list.
            unsafe { runtime.hungry.push(task.cast()) };
        }
    }
}

/// Makes an identity of the kind that the runtime uses. Plain threads.
pub(crate) fn make(runtime: &Shared, size: usize) -> std::io::Result<&'static Identity> {
    let identity = if runtime.shares_identities() {
        ghost::create_shared(size)?
    } else {
        let identity = ghost::create(size, runtime.stealing)?;
        // SAFETY: its kernel task has ended; nobody else knows it yet.
        unsafe { (*identity.gate.get()).return_by_uiret(runtime.mechanism.has_uif()) };
        identity
    };
    identity.helper.set(helper::create(NonNull::from(runtime), size).as_ptr());
    runtime.pool.register(identity);
    Ok(identity)
}
