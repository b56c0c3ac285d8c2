//! Clocks, pinning and `/proc`: the few things that std does not have.

use std::{
    ffi::{CStr, CString},
    fs, io,
    time::Instant,
};

use crate::proto::Sample;

fn clock(id: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid, writable timespec for the length of the call.
    let r = unsafe { libc::clock_gettime(id, &mut t) };
    assert_eq!(r, 0, "clock_gettime({id})");
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// CPU time of all threads of this process, ns.
pub fn process_cpu() -> u64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling kernel thread, ns. In a fiber: of the thread it happens to run on.
pub fn thread_cpu() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The kernel's id of the calling thread. In a fiber: of the thread it happens to run on, whatever libc believes.
pub fn thread_id() -> libc::pid_t {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}

/// For how long the calling kernel thread has waited for a CPU since it started, ns; 0 if the kernel does not count that.
pub fn run_delay() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Wall clock and process CPU clock, read together.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    wall: Instant,
    cpu: u64,
}

impl Clocks {
    /// Reads both now.
    pub fn start() -> Self {
        Clocks { wall: Instant::now(), cpu: process_cpu() }
    }

    /// Wall and CPU ns since `start`.
    pub fn elapsed(&self) -> (f64, f64) {
        let wall = self.wall.elapsed().as_nanos() as f64;
        (wall, (process_cpu() - self.cpu) as f64)
    }

    /// The two samples `wall` and `cpu`, in ns for each of `ops` operations.
    pub fn per_op(&self, contender: &str, ops: u64) -> Vec<Sample> {
        let (wall, cpu) = self.elapsed();
        let one = |metric, ns| Sample::new(contender, metric, ns / ops as f64, "ns");
        vec![one("wall", wall), one("cpu", cpu)]
    }
}

/// The CPUs this process may run on, in ascending order.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all-zero bytes are a valid, empty CPU set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its size is passed; 0 means the calling thread.
    let r = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    assert_eq!(r, 0, "sched_getaffinity");
    // SAFETY: indices stay below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Restricts the calling thread, and what it starts from now on, to `cpus`. Async-signal-safe.
pub fn pin_self(cpus: &[usize]) -> io::Result<()> {
    pin(0, cpus)
}

/// Restricts a thread, by its kernel id (0: the calling one), and what it starts from now on, to `cpus`. Async-signal-safe.
pub fn pin(thread: libc::pid_t, cpus: &[usize]) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid, empty CPU set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: `cpu` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is readable and its size is passed.
    match unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Names the calling thread as the kernel knows it, and the threads that it starts from now on and that nobody names otherwise.
/// At most 15 bytes count.
pub fn name_self(name: &CStr) {
    // SAFETY: a string that ends; the kernel copies what it needs of it. Cannot fail.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The kernel's name of the calling thread.
pub fn name_of_self() -> CString {
    let mut name = fs::read("/proc/thread-self/comm").unwrap_or_default();
    name.pop_if(|last| *last == b'\n');
    CString::new(name).unwrap_or_default()
}

/// The kernel's ids of the threads of this process that have this name, in the order of their ids.
pub fn threads_named(name: &CStr) -> Vec<libc::pid_t> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let named = tasks.filter(|task| {
        let comm = fs::read(task.path().join("comm")).unwrap_or_default(); // one that has ended has none
        comm.strip_suffix(b"\n") == Some(name.to_bytes())
    });
    let mut ids: Vec<libc::pid_t> =
        named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

/// What a process occupies, from `/proc/self`.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS, bytes.
    pub rss: u64,
    /// VmPTE, bytes: page tables, which per-fiber mappings enlarge and VmRSS leaves out.
    pub page_tables: u64,
    /// Number of mappings.
    pub mappings: u64,
}

impl Memory {
    /// Of this process, now.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |key: &str| -> u64 {
            let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let mappings = fs::read_to_string("/proc/self/maps").map_or(0, |m| m.lines().count() as u64);
        Memory { rss: kib("VmRSS") * 1024, page_tables: kib("VmPTE") * 1024, mappings }
    }

    /// The samples `total` (VmRSS + VmPTE), `rss` and `mappings`, each per one of `n`.
    pub fn per_one_since(&self, before: Memory, contender: &str, n: u64) -> Vec<Sample> {
        let rss = self.rss as f64 - before.rss as f64;
        let tables = self.page_tables as f64 - before.page_tables as f64;
        let mappings = self.mappings as f64 - before.mappings as f64;
        let per = |metric, value: f64, unit| Sample::new(contender, metric, value / n as f64, unit);
        vec![per("total", rss + tables, "B"), per("rss", rss, "B"), per("mappings", mappings, "each")]
    }
}

/// Processor and kernel, for the head of a report.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == key));
        line.and_then(|l| l.split(':').nth(1)).map_or("?", str::trim).to_string()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (name, family, model) = (field("model name"), field("cpu family"), field("model"));
    format!("{name} (family {family}, model {model}), {} CPUs, Linux {}", allowed_cpus().len(), kernel.trim())
}
