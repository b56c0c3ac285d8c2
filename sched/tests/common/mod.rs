//! What the black-box tests share: running a test alone in a process of its own, CPU clocks, fibers that keep workers busy.
#![allow(dead_code)]

use std::io::Read;
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
