//! The two plain threads that make and retire identities, and start carriers: what masked code must not do itself. A TLS destructor that blocks stops
//! retirement only, never creation.
//!
//! Masked code asks by a word in memory and a futex wake; the threads look at all there is to do each time they are woken.

use super::{Identity, ghost};
use crate::fiber::task::Task;
use crate::lock::Lock;
use crate::runtime::Shared;
use crate::worker::{carrier, spare};
use std::cell::Cell;
use std::ptr::{NonNull, null};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

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

/// Between attempts to make an identity when there is no memory or no thread to be had; after so many of them the task fails.
const RETRY: Duration = Duration::from_millis(2);
const ATTEMPTS: u32 = 1000;
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

    /// The body of the thread that creates.
    pub(crate) fn create_loop(runtime: &Shared) {
        let mut failures = 0;
        loop {
            let seen = runtime.service.create.read();
            if runtime.halted.load(Acquire) {
                return;
            }
            while runtime.spares.wants_more() {
                if spare::start_one(runtime).is_err() {
                    break;
                }
            }
            while runtime.carriers.wants_more() {
                if carrier::start_one(runtime).is_err() {
                    break;
                }
            }
            if runtime.service.wanted.swap(false, SeqCst) && !runtime.pool.has_some() {
                // The more there are, the more will be wanted; the first is handed out before the rest is made.
                for _ in 0..(runtime.pool.registered() / 8).clamp(1, BATCH) {
                    if let Ok(identity) = make(runtime, runtime.stack_size) {
                        runtime.pool.push(identity);
                        runtime.idle.notify_all();
                    } else {
                        // tried again, until one is made or given back
                        runtime.service.wanted.store(true, SeqCst);
                        std::thread::sleep(RETRY);
                        break;
                    }
                }
                continue;
            }
            if runtime.hungry.is_empty() {
                runtime.service.create.wait(seen, None);
                continue;
            }
            match Self::feed_one(runtime) {
                Ok(()) => failures = 0,
                Err(_) if failures < ATTEMPTS => {
                    failures += 1;
                    std::thread::sleep(RETRY);
                }
                Err(error) => {
                    if let Some(task) = runtime.hungry.pop() {
                        let message =
                            format!("no stack or thread identity could be made for a fiber: {error}");
                        // SAFETY: it was not started, and is in no queue any more.
                        unsafe { Task::refuse(task.cast(), Box::new(message)) };
                        runtime.ended_outside.fetch_add(1, Relaxed);
                    }
                }
            }
        }
    }

    /// An identity for one task that waits.
    fn feed_one(runtime: &Shared) -> std::io::Result<()> {
        // Only this thread and fibers that end take from the list, so look at the size first and take afterwards.
        let Some(task) = runtime.hungry.pop() else { return Ok(()) };
        // SAFETY: queued tasks are alive.
        let size = unsafe { task.cast::<Task>().as_ref() }.stack_size;
        let pooled = if size == runtime.stack_size { runtime.pool.pop() } else { None };
        let identity = match pooled.map_or_else(|| make(runtime, size), Ok) {
            Ok(identity) => identity,
            Err(error) => {
                // SAFETY: it goes back where it was.
                unsafe { runtime.hungry.push(task) };
                return Err(error);
            }
        };
        // SAFETY: both are ours: the identity is new or out of the pool, the task out of its list.
        unsafe {
            identity.take_task(task.cast());
            runtime.inject(NonNull::from(&identity.head));
        }
        Ok(())
    }

    /// The body of the thread that retires.
    pub(crate) fn retire_loop(runtime: &Shared) {
        loop {
            let seen = runtime.service.retire.read();
            match runtime.service.take_retired() {
                Some(identity) => {
                    runtime.pool.unregister(identity);
                    // SAFETY: at rest, out of every list.
                    unsafe { ghost::retire(identity) };
                }
                None if runtime.halted.load(Acquire) => return,
                None => runtime.service.retire.wait(seen, None),
            }
        }
    }
}

/// Makes an identity of the kind that the runtime uses. Plain threads.
pub(crate) fn make(runtime: &Shared, size: usize) -> std::io::Result<&'static Identity> {
    let identity =
        if runtime.shares_identities() { ghost::create_shared(size)? } else { ghost::create(size)? };
    runtime.pool.register(identity);
    Ok(identity)
}
