//! The runtimes that workloads run on, built once per process on first use and never dropped. Workers are pinned, worker
//! i to the row's i-th CPU. An idle runtime of another contender is expected to cost nothing; were it otherwise, the CPU
//! column of everybody in the process would show it.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Builder;
use unyield::preempt::{self, Masking, Mechanism, Pinning, Preemption};

use super::Env;
use crate::os;

/// How our runtime preempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Everything as it comes: anywhere, after 1 ms.
    Default,
    /// Never.
    Off,
    /// Anywhere, after so many µs.
    Quantum(u64),
    /// User Interrupts, with sections by CLUI and STUI; modelled where the machine has none. For the whole process.
    CluiStui,
}

/// Our runtime.
pub fn unyield(env: &Env, mode: Mode) -> &'static unyield::Runtime {
    static ALL: Mutex<Option<HashMap<Mode, &'static unyield::Runtime>>> = Mutex::new(None);
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().entry(mode).or_insert_with(|| {
        let builder =
            unyield::Runtime::builder().workers(env.workers).pinning(Pinning::Cores(env.cpus.clone()));
        let builder = match mode {
            Mode::Default => builder,
            Mode::Off => builder.preemption(Preemption::Off),
            Mode::Quantum(us) => builder.quantum(Duration::from_micros(us)),
            Mode::CluiStui => {
                let mechanism =
                    if preempt::probe().has("uintr (kernel)") { Mechanism::Uintr } else { Mechanism::Model };
                builder.mechanism(mechanism).masking(Masking::CluiStui)
            }
        };
        Box::leak(Box::new(builder.build().expect("our runtime starts")))
    })
}

/// Runs `f` in a fiber of our runtime as it comes.
pub fn in_unyield<R: Send>(env: &Env, f: impl FnOnce() -> R + Send) -> R {
    unyield(env, Mode::Default).run(f)
}

/// Runs `f` in a task of tokio's multi-threaded runtime.
pub fn in_tokio<R: Send + 'static>(env: &Env, f: impl Future<Output = R> + Send + 'static) -> R {
    let rt = tokio(env);
    rt.block_on(async { tokio::spawn(f).await }).expect("the task does not panic")
}

/// tokio's multi-threaded runtime.
pub fn tokio(env: &Env) -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let (next, cpus) = (AtomicUsize::new(0), env.cpus.clone());
        let pin = move || {
            let cpu = cpus[next.fetch_add(1, Ordering::Relaxed) % cpus.len()];
            os::pin_self(&[cpu]).expect("an allowed CPU");
        };
        Builder::new_multi_thread()
            .worker_threads(env.workers)
            .on_thread_start(pin)
            .build()
            .expect("tokio starts")
    })
}

/// Runs `f` in a task of tokio's single-threaded runtime, on the calling thread.
pub fn in_tokio_ct<R: Send + 'static>(f: impl Future<Output = R> + Send + 'static) -> R {
    let rt = Builder::new_current_thread().build().expect("tokio starts");
    rt.block_on(async { tokio::spawn(f).await }).expect("the task does not panic")
}

/// Sets `may` up: stacks of 16 KiB, a pool as large as its own benchmarks use. Its workers pin themselves to the CPUs
/// from the first on, so with one worker the process has to be confined instead.
pub fn init_may(env: &Env) {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        may::config().set_workers(env.workers).set_stack_size(0x800).set_pool_capacity(20_000);
        may::config().set_worker_pin(env.workers > 1);
    });
}

/// Runs `f` in a coroutine of may.
pub fn in_may<R: Send + 'static>(env: &Env, f: impl FnOnce() -> R + Send + 'static) -> R {
    init_may(env);
    may::go!(f).join().expect("the coroutine does not panic")
}
