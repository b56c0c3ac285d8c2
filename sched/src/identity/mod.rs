//! An identity: a stack and, except in the shared form, a complete thread identity (TLS block and thread control block) that is swapped with it.
//!
//! To libc, to std and to every C library each identity is a thread that the "kernel" (our scheduler) deschedules and moves.
//! `ghost` makes and retires them, `stack` maps them, `pool` keeps them, `service` is the pair of plain threads that do the slow parts.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `context` | whoever is switched to after this identity left | who resumes it |
//! | `fs`, `gate`, `stack`, `tid`, `pthread` | creation | anybody |
//! | `task` | the identity itself, between tasks; who binds the first task | the identity; the registry's walk |
//! | `forks` | see `par::forks` | |
//! | `helper` | creation; the identity itself; who gives it a stolen half | the same |
//! | `link`, `last_worker`, `frame`, `call` | who owns it: its worker while it runs, its queue while it waits | the same |

pub(crate) mod ghost;
pub(crate) mod pool;
pub(crate) mod service;
pub(crate) mod stack;

use crate::fiber::task::Task;
use crate::par::forks::Forks;
use crate::switch::SavedContext;
use crate::worker::Worker;
use crate::worker::runnable::{Kind, Runnable};
use stack::Stack;
use std::cell::Cell;
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr};
use unyield_preempt::frame::Frame;
use unyield_preempt::gate::Gate;

#[repr(C)]
pub(crate) struct Identity {
    /// First: a queue holds `Runnable`s.
    pub(crate) head: Runnable,
    pub(crate) context: SavedContext,
    /// FS base; 0 if it shares the worker's.
    pub(crate) fs: Cell<usize>,
    pub(crate) gate: Cell<*const Gate>,
    pub(crate) stack: Stack,
    pub(crate) pthread: Cell<libc::pthread_t>,
    /// Where libc keeps the thread id in the TCB, and the id that no thread has, which stands there unless the fiber owns an OS thread.
    pub(crate) tid: Cell<*mut u32>,
    pub(crate) own_tid: Cell<u32>,
    /// 1 until the kernel has ended the task that made it (the kernel clears and wakes it).
    pub(crate) alive: AtomicI32,
    pub(crate) task: AtomicPtr<Task>,
    pub(crate) last_worker: Cell<usize>,
    pub(crate) retire: Cell<bool>,
    /// Where a preemption found it: valid while it is switched away from inside the entry stub.
    pub(crate) frame: Cell<*mut Frame>,
    /// The worker that this identity may not leave (shared identities, `lock_os_thread`); null = any.
    pub(crate) bound: Cell<*const Worker>,
    /// No carrier was free for it, and one more was asked for.
    pub(crate) denied: Cell<bool>,
    /// `lock_os_thread` guards that are alive.
    pub(crate) os_locks: Cell<u32>,
    /// The next one at rest, in a pool.
    pub(crate) next_free: Cell<*const Identity>,
    /// Whom to switch to when this one rests.
    pub(crate) next_up: Cell<Option<NonNull<Identity>>>,
    /// What its fork-joins have exposed.
    pub(crate) forks: Forks,
    /// The task that it runs stolen halves as, while it runs none.
    pub(crate) helper: Cell<*mut Task>,
}

// SAFETY: handed from thread to thread through queues; each field has one accessor at a time as the table says.
unsafe impl Send for Identity {}
// SAFETY: as above; `alive` and `task` are atomics.
unsafe impl Sync for Identity {}

impl Identity {
    fn new(stack: Stack, forks: Forks) -> Identity {
        Identity {
            head: Runnable::new(Kind::Identity),
            context: SavedContext::empty(),
            fs: Cell::new(0),
            gate: Cell::new(null()),
            stack,
            pthread: Cell::new(0),
            tid: Cell::new(null_mut()),
            own_tid: Cell::new(0),
            alive: AtomicI32::new(1),
            task: AtomicPtr::new(null_mut()),
            last_worker: Cell::new(usize::MAX),
            retire: Cell::new(false),
            frame: Cell::new(null_mut()),
            bound: Cell::new(null()),
            denied: Cell::new(false),
            os_locks: Cell::new(0),
            next_free: Cell::new(null()),
            next_up: Cell::new(None),
            forks,
            helper: Cell::new(null_mut()),
        }
    }

    /// Puts the id of the calling OS thread, or its own again, where libc looks: what the kernel knows a thread by (priority inheritance, affinity).
    ///
    /// # Safety
    /// Masked, by the running identity, which is not shared.
    pub(crate) unsafe fn show_tid(&self, os_thread: bool) {
        // SAFETY: the word lies in our own TCB; gettid has no preconditions.
        unsafe {
            *self.tid.get() =
                if os_thread { libc::syscall(libc::SYS_gettid) as u32 } else { self.own_tid.get() }
        };
    }

    /// True if it has no thread identity of its own.
    pub(crate) fn is_shared(&self) -> bool {
        self.fs.get() == 0
    }
}
