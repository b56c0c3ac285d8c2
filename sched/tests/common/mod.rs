//! What the black-box tests share: running a test alone in a process of its own, CPU clocks, fibers that keep workers busy.
#![allow(dead_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use unyield::{JoinHandle, Runtime};

const VARIABLE: &str = "UNYIELD_TEST_ALONE";
const TIMEOUT: Duration = Duration::from_secs(60);

/// One child at a time: what they measure would disturb each other.
static ONE: Mutex<()> = Mutex::new(());

/// True in the child that runs `test` alone.
pub fn is_child(test: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|name| name == test)
}

/// Runs `body` in a process in which nothing else happens: the test binary again, with this test only. `test` is the test's full name.
pub fn alone(test: &str, body: impl FnOnce()) {
    if is_child(test) {
        return body();
    }
    let output = child(test, |_| ());
    assert!(
        output.status.success(),
        "{test} failed in its own process: {}\n{}",
        output.status,
        text(&output)
    );
}

/// Runs `body`, which ends the process, in a process of its own; returns how it ended and what it printed. In the child it does not return.
pub fn crash(test: &str, body: impl FnOnce()) -> Output {
    if is_child(test) {
        // A test's output is captured otherwise only if it passes; and a core file is of no use here.
        // SAFETY: a limit of our own process.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 }) };
        body();
        println!("the child came to its end");
        std::process::exit(99);
    }
    child(test, |_| ())
}

/// stdout and stderr.
pub fn text(output: &Output) -> String {
    format!(
        "--- stdout\n{}--- stderr\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs the test binary again with only `test`.
pub fn child(test: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(VARIABLE, test);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command);
    let mut child = command.spawn().unwrap();
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > TIMEOUT {
            stacks(test, child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            let output = Output {
                status: Default::default(),
                stdout: stdout.join().unwrap(),
                stderr: stderr.join().unwrap(),
            };
            panic!("{test} hangs in its own process\n{}", text(&output));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Where UNYIELD_TEST_STACKS names a directory, the stacks of a hanging child are kept there.
fn stacks(test: &str, pid: u32) {
    if let Some(directory) = std::env::var_os("UNYIELD_TEST_STACKS") {
        let file = std::fs::File::create(std::path::Path::new(&directory).join(format!("{test}-{pid}.txt")))
            .unwrap();
        let gdb =
            ["-p", &pid.to_string(), "-batch", "-ex", "set pagination off", "-ex", "thread apply all bt"];
        drop(Command::new("gdb").args(gdb).stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).status());
    }
}

/// CPU time of the whole process.
pub fn process_cpu() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling OS thread.
pub fn thread_cpu() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> Duration {
    // SAFETY: writes to a local.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(id, &mut time);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// The kernel's id of the calling OS thread.
pub fn gettid() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Computes, without a system call, for about `time` of wall clock.
pub fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A runtime that preempts all the time.
pub fn busy_runtime(workers: usize) -> Runtime {
    Runtime::builder().workers(workers).quantum(Duration::from_micros(100)).build().unwrap()
}

/// Computing fibers, until dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    fibers: Vec<JoinHandle<u64>>,
}

impl Load {
    pub fn start(runtime: &Runtime, n: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let fibers = (0..n)
            .map(|_| {
                let stop = stop.clone();
                runtime.spawn(move || {
                    let mut rounds = 0;
                    while !stop.load(Relaxed) {
                        rounds += 1;
                        std::hint::spin_loop();
                    }
                    rounds
                })
            })
            .collect();
        Load { stop, fibers }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for fiber in self.fibers.drain(..) {
            fiber.join().unwrap();
        }
    }
}

/// Both ends of a pipe, to read from and to write to.
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: two fresh descriptors, owned by the files.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Installs `handler` for `signal`; returns what was there.
pub fn install(signal: i32, flags: i32, handler: extern "C" fn(i32)) -> libc::sigaction {
    // SAFETY: zeroed structures; the handlers of this file are async-signal-safe.
    unsafe {
        let (mut action, mut previous): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, &mut previous), 0);
        previous
    }
}

/// Work with results that are checked, on `n` fibers for `time`.
pub fn work(runtime: &Runtime, n: u64, time: Duration) {
    thread_local!(static LOCAL: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    let lock = Arc::new(Mutex::new(0u64));
    let fibers: Vec<_> = (0..n)
        .map(|i| {
            let lock = lock.clone();
            runtime.spawn(move || {
                let (start, mut rounds) = (Instant::now(), 0);
                while start.elapsed() < time {
                    LOCAL.set(i);
                    let text: String = (0..50).map(|k| char::from(b'a' + ((k + i) % 26) as u8)).collect();
                    let sum: u64 = text.bytes().map(u64::from).sum();
                    assert_eq!(sum, (0..50).map(|k| u64::from(b'a') + (k + i) % 26).sum::<u64>());
                    let float = (0..50).fold(0.0, |a: f64, k| a + f64::from(k) / 4.0);
                    assert_eq!(float, 306.25);
                    *lock.lock().unwrap() += 1;
                    assert_eq!(LOCAL.get(), i);
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    let rounds: u64 = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    assert_eq!(*lock.lock().unwrap(), rounds);
}
