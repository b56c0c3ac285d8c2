//! Starting a runtime.

use super::watch::Watch;
use super::{GLOBAL, Handle, PanicHandler, Runtime, Shared, WorkerHook, fault, fork, timer};
use crate::identity::pool::Pool;
use crate::identity::service::{self, Service};
use crate::identity::{ghost, stack};
use crate::observe::report;
use crate::par::exposed::Exposed;
use crate::preempt::{Masking, Mechanism, Pinning, Preemption, Stealing};
use crate::time::timers::Timers;
use crate::worker::carrier::Carriers;
use crate::worker::spare::Spares;
use crate::worker::{Role, Worker};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};
use unyield_preempt::arch::insn;
use unyield_preempt::backend::{signal, uintr};
use unyield_preempt::{self as delivery, foreign, probe};
use unyield_stealing::{Armed, Idle, Injector};

/// Why a runtime cannot be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// What was asked for does not exist here (CPU, kernel, libc), or makes no sense; with the reason.
    Unavailable(&'static str),
    /// A thread, a mapping or a signal handler could not be made.
    Io(io::Error),
    /// There is a global runtime already.
    GlobalAlreadySet,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Unavailable(why) => write!(f, "the runtime cannot be built as asked: {why}"),
            BuildError::Io(error) => write!(f, "the runtime cannot be built: {error}"),
            BuildError::GlobalAlreadySet => f.write_str("the global runtime exists already"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BuildError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        BuildError::Io(error)
    }
}

/// Settings, by value. Defaults: as many workers as the machine has parallelism, `Mechanism::Auto`, `Preemption::Anywhere` where it is possible (see
/// [`Builder::preemption`]), a quantum of 1 ms (50 µs with User
/// Interrupts), `Stealing::Lazy`,
/// 256 KiB stacks (virtual), SIGURG, 512 carriers at most, 10 s for shutdown.
#[must_use = "a builder does nothing until build is called"]
pub struct Builder {
    workers: usize,
    worker_name: Option<Box<dyn FnMut(usize) -> String + Send>>,
    pinning: Pinning,
    stack_size: usize,
    quantum: Option<Duration>,
    mechanism: Mechanism,
    masking: Masking,
    preemption: Option<Preemption>,
    stealing: Stealing,
    signal: i32,
    max_carriers: usize,
    shutdown_timeout: Duration,
    on_start: Option<WorkerHook>,
    on_stop: Option<WorkerHook>,
    panic_handler: Option<PanicHandler>,
    seed: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            workers: 0,
            worker_name: None,
            pinning: Pinning::default(),
            stack_size: 256 << 10,
            quantum: None,
            mechanism: Mechanism::default(),
            masking: Masking::default(),
            preemption: None,
            stealing: Stealing::default(),
            signal: signal::DEFAULT_SIGNAL,
            max_carriers: 512,
            shutdown_timeout: Duration::from_secs(10),
            on_start: None,
            on_stop: None,
            panic_handler: None,
            seed: 0,
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("stack_size", &self.stack_size)
            .field("quantum", &self.quantum)
            .field("preemption", &self.preemption)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Number of workers; 0 = available parallelism.
    pub fn workers(mut self, n: usize) -> Self {
        self.workers = n;
        self
    }

    /// Names the workers' threads; the default is `unyield-N`.
    pub fn worker_name(mut self, f: impl FnMut(usize) -> String + Send + 'static) -> Self {
        self.worker_name = Some(Box::new(f));
        self
    }

    /// Binds workers to CPUs.
    pub fn pinning(mut self, p: Pinning) -> Self {
        self.pinning = p;
        self
    }

    /// Bytes of stack for each fiber (virtual; the thread-local block lies on it too), at least 16 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// How long a fiber may run while others wait: at least this long, at most about one and a half times (once twice, when
    /// fibers that computed for their whole quanta are followed by a short one). Between 20 µs and 10 s.
    pub fn quantum(mut self, q: Duration) -> Self {
        self.quantum = Some(q);
        self
    }

    /// How interrupts are delivered.
    pub fn mechanism(mut self, m: Mechanism) -> Self {
        self.mechanism = m;
        self
    }

    /// How critical sections hold user interrupts back where there are any: by a word that the interrupt's entry looks at, or by CLUI and STUI as well, then in
    /// the whole process. No effect with signals.
    pub fn masking(mut self, m: Masking) -> Self {
        self.masking = m;
        self
    }

    /// Where fibers may be preempted. Not set: `Anywhere`; on a machine where fibers cannot have thread identities of their own (no FSGSBASE, another
    /// libc, see [`probe`](crate::preempt::probe())) `AtCheckpoints`, and a line on stderr says why. [`Handle::preemption`] tells which. What is set here is not replaced by anything else:
    /// where it is impossible, [`Builder::build`] fails.
    pub fn preemption(mut self, p: Preemption) -> Self {
        self.preemption = Some(p);
        self
    }

    /// How the halves of fork-joins become known to idle workers. With `Preemption::AtCheckpoints` it is [`Stealing::Eager`] in any case: lazy stealing needs
    /// fibers with thread identities. [`Handle::stealing`] tells which.
    pub fn stealing(mut self, s: Stealing) -> Self {
        self.stealing = s;
        self
    }

    /// The signal that carries interrupts (default SIGURG), or, with User Interrupts, reaches workers that are blocked in the kernel. What is not ours goes to the handler that was there before.
    pub fn signal(mut self, signo: i32) -> Self {
        self.signal = signo;
        self
    }

    /// How many OS threads there may be beside the workers for fibers that block in the kernel.
    pub fn max_carriers(mut self, n: usize) -> Self {
        self.max_carriers = n;
        self
    }

    /// How long dropping the runtime waits for its fibers.
    pub fn shutdown_timeout(mut self, d: Duration) -> Self {
        self.shutdown_timeout = d;
        self
    }

    /// Runs on each worker's thread before it runs fibers.
    pub fn on_worker_start(mut self, f: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.on_start = Some(Box::new(f));
        self
    }

    /// Runs on each worker's thread after it has run its last fiber.
    pub fn on_worker_stop(mut self, f: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.on_stop = Some(Box::new(f));
        self
    }

    /// Gets the payload when a fiber panics that nobody joins: its handle was dropped before it ended. Runs on that fiber, once, after std's panic hook has
    /// printed; a panic of `f` itself goes nowhere. Not called for cancelled fibers, for fibers of a scope (the scope panics), or when the
    /// handle is dropped after the end (as with std's threads). Without it such a panic is printed by the hook, no more.
    pub fn panic_handler(mut self, f: impl Fn(Box<dyn Any + Send>) + Send + Sync + 'static) -> Self {
        self.panic_handler = Some(Box::new(f));
        self
    }

    /// Seed of the workers' random choices (whom to steal from).
    pub fn rng_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts the runtime. Plain thread, or fiber of another runtime.
    ///
    /// # Errors
    /// `Unavailable` for settings that this machine cannot fulfil or that make no sense, `Io` if a thread, a stack or the signal handler cannot be made.
    pub fn build(self) -> Result<Runtime, BuildError> {
        build(self, None)
    }

    /// As [`Builder::build`], on threads that `spawn` makes: one for each body that it gets.
    pub(crate) fn build_on(self, spawn: &mut SpawnWorker<'_>) -> Result<Runtime, BuildError> {
        build(self, Some(spawn))
    }

    /// Starts the runtime that the free functions use on plain threads.
    ///
    /// # Errors
    /// As [`Builder::build`], and `GlobalAlreadySet` if it exists, because it was set or already used.
    pub fn build_global(self) -> Result<(), BuildError> {
        if GLOBAL.get().is_some() {
            return Err(BuildError::GlobalAlreadySet);
        }
        GLOBAL.set(self.build()?).map_err(|_late| BuildError::GlobalAlreadySet)
    }

    fn check(&self) -> Result<(), BuildError> {
        const MAX_WORKERS: usize = 4096;
        let unavailable = |why| Err(BuildError::Unavailable(why));
        if self.workers > MAX_WORKERS {
            return unavailable("more than 4096 workers");
        }
        if !(stack::MIN..=stack::MAX).contains(&self.stack_size) {
            return unavailable("the stack size must be between 16 KiB and 1 TiB");
        }
        let quanta = Duration::from_micros(20)..=Duration::from_secs(10);
        if self.quantum.is_some_and(|quantum| !quanta.contains(&quantum)) {
            return unavailable("the quantum must be between 20 µs and 10 s");
        }
        if matches!(&self.pinning, Pinning::Cores(cores) if cores.is_empty()) {
            return unavailable("Pinning::Cores names no core");
        }
        if self.max_carriers > 1 << 16 {
            return unavailable("more than 65536 carriers");
        }
        if !fork::alive() {
            return unavailable("no runtime can be built in a child that was forked from a fiber");
        }
        if probe::shadow_stack() {
            return unavailable("a CET shadow stack is on for this thread: no stack switch works there");
        }
        Ok(())
    }
}

/// An interrupt by signal costs its worker several microseconds; a user interrupt a fraction of one.
fn default_quantum(mechanism: delivery::Mechanism) -> Duration {
    match mechanism {
        delivery::Mechanism::Uintr => Duration::from_micros(50),
        _ => Duration::from_millis(1),
    }
}

/// Why fibers cannot have thread identities of their own here.
fn identity_obstacle() -> Option<&'static str> {
    probe::identity_obstacle().or_else(|| {
        let found = ghost::tid_offset().is_some();
        (!found).then_some("the thread id could not be found in this libc's thread control block")
    })
}

/// What was asked for, or else the best that is possible, and why it is not better.
fn choose(
    asked: Option<Preemption>,
    obstacle: impl FnOnce() -> Option<&'static str>,
) -> Result<(Preemption, Option<&'static str>), BuildError> {
    match asked {
        Some(Preemption::AtCheckpoints) => Ok((Preemption::AtCheckpoints, None)),
        Some(asked) => obstacle().map_or(Ok((asked, None)), |why| Err(BuildError::Unavailable(why))),
        None => Ok(match obstacle() {
            None => (Preemption::Anywhere, None),
            why => (Preemption::AtCheckpoints, why),
        }),
    }
}

/// The OS threads of a runtime.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) workers: Vec<JoinHandle<()>>,
    pub(crate) services: Vec<JoinHandle<()>>,
}

pub(crate) type SpawnWorker<'a> = dyn FnMut(WorkerBody) -> io::Result<()> + 'a;

/// What a worker's thread does, for a thread that somebody else makes. Dropping it unrun means that the runtime goes without that worker.
pub struct WorkerBody {
    shared: Arc<Shared>,
    index: usize,
    seed: u64,
    core: Option<usize>,
}

impl WorkerBody {
    fn new(settings: &Builder, shared: &Arc<Shared>, index: usize) -> WorkerBody {
        shared.foreign_workers.fetch_add(1, SeqCst);
        WorkerBody {
            shared: shared.clone(),
            index,
            seed: settings.seed.wrapping_add(index as u64),
            core: settings.pinning.core(index),
        }
    }

    /// Which worker.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Makes the calling plain thread the worker, until the runtime ends; then it is a plain thread again.
    ///
    /// # Errors
    /// The thread cannot be bound, or interrupted, as the worker must be.
    ///
    /// # Panics
    /// On a fiber, on a thread that is a worker or can be interrupted already, in a critical section, and in a forked child.
    pub fn run(self) -> io::Result<()> {
        let gate = unyield_preempt::gate::gate();
        let plain = gate.owner().is_null() && gate.receiver().is_null() && gate.depth() == 0;
        assert!(plain && fork::alive(), "only a plain thread can be made a worker");
        self.core.map_or(Ok(()), |core| bind(&[core]))?;
        let mut ready = Ok(());
        // SAFETY: this thread becomes the worker, and keeps the runtime's memory; its signal mask is that of every worker meanwhile.
        unsafe {
            let mask = insn::signal_mask();
            insn::set_signal_mask(self.shared.signal_mask);
            self.shared.workers[self.index].main(self.seed, |result| ready = result);
            insn::set_signal_mask(mask);
        }
        ready
    }
}

impl Drop for WorkerBody {
    fn drop(&mut self) {
        self.shared.foreign_workers.fetch_sub(1, SeqCst);
    }
}

impl fmt::Debug for WorkerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBody").field("index", &self.index).finish_non_exhaustive()
    }
}

extern "C" fn native_fs() -> usize {
    // SAFETY: in a signal handler, so nothing switches; a null receiver is a thread that is no worker.
    unsafe { Worker::try_current().map_or(0, Worker::setxid_fs) }
}

fn build(mut settings: Builder, spawn: Option<&mut SpawnWorker<'_>>) -> Result<Runtime, BuildError> {
    settings.check()?;
    let mechanism = settings.mechanism.resolve().map_err(BuildError::Unavailable)?;
    let (preemption, why_not_anywhere) = choose(settings.preemption, identity_obstacle)?;
    if let Some(why) = why_not_anywhere {
        report::say_parts(&["fibers are preempted at checkpoints only: ", why]);
    }
    let n = match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    fork::prepare()?;
    unyield_stealing::fence::register();
    mechanism.install(settings.signal)?;
    if mechanism.has_uif() && settings.masking == Masking::CluiStui {
        uintr::use_uif_in_sections();
    }
    fault::install();
    foreign::adopt_handlers();
    // SAFETY: `native_fs` only reads the gate and a word of the worker.
    unsafe { foreign::wrap_setxid(native_fs) };

    let shared = Arc::new(Shared {
        workers: (0..n).map(|index| Worker::new(Role::Regular, index)).collect(),
        carriers: Carriers::new(settings.max_carriers),
        spares: Spares::new(preemption),
        injector: Injector::new(),
        hungry: Injector::new(),
        idle: Idle::new(n),
        armed: Armed::new(),
        timers: Timers::new(),
        pool: Pool::new(),
        service: Service::new(),
        stack_size: settings.stack_size,
        quantum_ns: settings.quantum.unwrap_or_else(|| default_quantum(mechanism)).as_nanos() as u64,
        preemption,
        stealing: if preemption == Preemption::AtCheckpoints { Stealing::Eager } else { settings.stealing },
        exposed: Exposed::new(),
        relaying: AtomicUsize::new(0),
        watch: Watch::new(),
        mechanism,
        signal: settings.signal,
        signal_mask: unyield_preempt::arch::insn::signal_mask(),
        panic_handler: settings.panic_handler.take(),
        on_stop: settings.on_stop.take(),
        closed: AtomicBool::new(false),
        visitors: AtomicUsize::new(0),
        foreign_workers: AtomicUsize::new(0),
        cancelling: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
        halted: AtomicBool::new(false),
        spawned_outside: AtomicU64::new(0),
        ended_outside: AtomicU64::new(0),
        ticks_sent: AtomicU64::new(0),
    });
    for worker in &shared.workers {
        worker.runtime.set(Arc::as_ptr(&shared));
    }
    let handle = Handle::new(shared.clone());
    let mut threads = Threads { workers: Vec::new(), services: Vec::new() };
    match start(&mut settings, &shared, &mut threads, spawn) {
        Ok(()) => Ok(Runtime { handle, threads: Some(threads), shutdown_timeout: settings.shutdown_timeout }),
        Err(error) => {
            super::shutdown::shut_down(&handle, threads, Duration::from_secs(1));
            Err(error.into())
        }
    }
}

fn start(
    settings: &mut Builder,
    shared: &Arc<Shared>,
    threads: &mut Threads,
    spawn: Option<&mut SpawnWorker<'_>>,
) -> io::Result<()> {
    for (name, body) in
        [("unyield-create", Service::create_loop as fn(&Shared)), ("unyield-retire", Service::retire_loop)]
    {
        let shared = shared.clone();
        threads.services.push(std::thread::Builder::new().name(name.into()).spawn(move || {
            unyield_preempt::tick::block_all_signals();
            body(&shared);
        })?);
    }
    // One for each worker and a few more: the first fibers need not wait.
    for _ in 0..shared.workers.len() + 2 {
        shared.pool.push(service::make(shared, shared.stack_size)?);
    }
    match spawn {
        // Not waited for: whoever makes the threads may hold them up, and what is queued meanwhile they find.
        Some(spawn) => {
            (0..shared.workers.len()).try_for_each(|index| spawn(WorkerBody::new(settings, shared, index)))?
        }
        None => start_workers(settings, shared, threads)?,
    }
    let timer = shared.clone();
    let elsewhere = settings.pinning.others(shared.workers.len());
    threads.services.push(unyield_preempt::tick::spawn_timer("unyield-timer".into(), move || {
        // Where a pinned worker computes, each wake-up of the timer would cost it two switches. Only a matter of speed, so failure is no error.
        drop(bind(&elsewhere));
        timer::run(&timer);
    })?);
    shared.service.wake(); // one carrier and one spare in advance
    Ok(())
}

fn start_workers(settings: &mut Builder, shared: &Arc<Shared>, threads: &mut Threads) -> io::Result<()> {
    let hook = settings.on_start.take().map(Arc::new);
    for index in 0..shared.workers.len() {
        let name =
            settings.worker_name.as_mut().map_or_else(|| format!("unyield-{index}"), |name| name(index));
        let core = settings.pinning.core(index);
        let (shared, hook, seed) = (shared.clone(), hook.clone(), settings.seed.wrapping_add(index as u64));
        let (sender, receiver) = mpsc::sync_channel(1);
        threads.workers.push(std::thread::Builder::new().name(name).spawn(move || {
            if let Some(core) = core
                && let Err(error) = bind(&[core])
            {
                drop(sender.send(Err(error)));
                return;
            }
            if let Some(hook) = hook {
                hook(index);
            }
            // SAFETY: this thread becomes the worker, and keeps the runtime's memory.
            unsafe { shared.workers[index].main(seed, move |result| drop(sender.send(result))) };
            if let Some(hook) = &shared.on_stop {
                hook(index);
            }
        })?);
        receiver.recv().unwrap_or_else(|_gone| Err(io::Error::other("a worker's start hook panicked")))?;
    }
    Ok(())
}

/// Binds the calling thread to these CPUs; to none: leaves it as it is.
fn bind(cores: &[usize]) -> io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    if cores.iter().any(|core| *core >= libc::CPU_SETSIZE as usize) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such CPU"));
    }
    // SAFETY: a set on the stack, with indexes inside it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cores.iter().for_each(|core| libc::CPU_SET(*core, &mut set));
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_identities_the_default_is_checkpoints_and_a_demand_is_refused() {
        let (can, cannot) = (|| None, || Some("no FSGSBASE"));
        assert!(matches!(choose(None, can), Ok((Preemption::Anywhere, None))));
        assert!(matches!(choose(None, cannot), Ok((Preemption::AtCheckpoints, Some("no FSGSBASE")))));
        for asked in [Preemption::Anywhere, Preemption::Off] {
            assert!(matches!(choose(Some(asked), can), Ok((got, None)) if got == asked));
            assert!(matches!(choose(Some(asked), cannot), Err(BuildError::Unavailable("no FSGSBASE"))));
        }
        let never = || unreachable!("checkpoints need no identities");
        assert!(matches!(
            choose(Some(Preemption::AtCheckpoints), never),
            Ok((Preemption::AtCheckpoints, None))
        ));
    }

    #[test]
    fn the_timer_keeps_off_the_cpus_of_bound_workers() {
        assert!(Pinning::None.others(2).is_empty());
        let everywhere = Pinning::Cores((0..1024).collect());
        assert!(everywhere.others(1024).is_empty());
        let allowed = Pinning::Cores(vec![usize::MAX]).others(1);
        assert!(!allowed.is_empty(), "no CPU of this process is bound");
        let first = Pinning::Cores(vec![allowed[0]]).others(3);
        assert_eq!(first, &allowed[1..]);
    }
}
