//! The runtime's own signal: which it may be, who else gets it, and several runtimes at once.

mod common;

use common::{Load, alone, crash, install, spin, text, work};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::*};
use std::time::{Duration, Instant};
use unyield::preempt::Mechanism;
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);
const QUANTUM: Duration = Duration::from_micros(100);

#[test]
fn a_replaced_handler_is_reported() {
    let output = crash("a_replaced_handler_is_reported", || {
        extern "C" fn nothing(_: i32) {}
        // With user interrupts the signal is not what delivers.
        let runtime = Runtime::builder().workers(1).mechanism(Mechanism::Signal).build().unwrap();
        runtime.run(|| ());
        install(libc::SIGURG, 0, nothing);
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let endless = runtime.spawn(move || while !s.load(Relaxed) {});
        std::thread::sleep(5 * MS);
        assert_eq!(runtime.run(|| 5), 5, "a spare runs the others");
        std::thread::sleep(50 * MS);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            runtime.run(|| ());
            std::thread::sleep(MS);
            drop(runtime.spawn(|| spin(2 * MS)));
        }
        stop.store(true, Relaxed);
        endless.join().unwrap();
        std::process::exit(0);
    });
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("another handler was installed"), "{}", text(&output));
}

static FOREIGN: AtomicI32 = AtomicI32::new(0);
extern "C" fn count_foreign(_: i32) {
    FOREIGN.fetch_add(1, Relaxed);
}

fn wait_for_foreign(what: &str, trigger: impl FnOnce()) {
    let before = FOREIGN.load(Relaxed);
    trigger();
    let start = Instant::now();
    while FOREIGN.load(Relaxed) == before {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "the handler that was there before did not get {what}"
        );
        std::thread::sleep(MS / 10);
    }
}

#[test]
fn a_handler_that_was_there_before_gets_what_is_not_ours() {
    alone("a_handler_that_was_there_before_gets_what_is_not_ours", || {
        use std::os::fd::AsRawFd;
        for (signal, flags) in [(libc::SIGURG, 0), (libc::SIGUSR2, libc::SA_SIGINFO)] {
            install(signal, flags, count_foreign);
            let runtime = Runtime::builder().workers(2).quantum(QUANTUM).signal(signal).build().unwrap();
            let background = Load::start(&runtime, 4);
            std::thread::sleep(20 * MS);
            assert_eq!(FOREIGN.load(Relaxed), 0, "it gets the runtime's own");
            for _ in 0..20 {
                // SAFETY: a handled signal to this process.
                wait_for_foreign("a kill from inside", || {
                    // SAFETY: a signal to ourselves, for which a handler is installed.
                    assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0)
                });
                let pid = std::process::id().to_string();
                let number = signal.to_string();
                wait_for_foreign("a kill from outside", || {
                    assert!(
                        std::process::Command::new("/bin/sh")
                            .args(["-c", &format!("kill -{number} {pid}")])
                            .status()
                            .unwrap()
                            .success()
                    );
                });
            }
            if signal == libc::SIGURG {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let receiver = listener.accept().unwrap().0;
                // SAFETY: descriptors of our own, one byte.
                unsafe {
                    assert_eq!(libc::fcntl(receiver.as_raw_fd(), libc::F_SETOWN, libc::getpid()), 0);
                    wait_for_foreign("out-of-band data", || {
                        assert_eq!(libc::send(sender.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB), 1)
                    });
                }
            }
            drop(background);
            assert!(runtime.handle().metrics().worker_preempt_count(0) > 10);
            drop(runtime);
            FOREIGN.store(0, Relaxed);
        }
    });
}

fn preempts(runtime: &Runtime) {
    let workers = runtime.handle().num_workers();
    let count = || (0..workers).map(|w| runtime.handle().metrics().worker_preempt_count(w)).sum::<u64>();
    let before = count();
    let background = Load::start(runtime, 2 * workers);
    let start = Instant::now();
    while count() < before + 5 {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing is preempted");
        std::thread::sleep(MS);
    }
    drop(background);
}

#[test]
fn other_signals() {
    alone("other_signals", || {
        for signal in [
            libc::SIGUSR2,
            libc::SIGUSR1,
            libc::SIGIO,
            libc::SIGPROF,
            libc::SIGRTMIN(),
            libc::SIGRTMIN() + 5,
            libc::SIGRTMAX(),
        ] {
            let runtime = Runtime::builder().workers(1).signal(signal).build().unwrap();
            preempts(&runtime);
        }
        for signal in [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGABRT,
            libc::SIGTRAP,
            32,
            33,
            0,
            -1,
            65,
            1000,
        ] {
            let error = Runtime::builder().workers(1).signal(signal).build().unwrap_err();
            assert!(error.to_string().contains("signal"), "{signal}: {error}");
        }
    });
}

#[test]
fn a_thread_that_blocks_all_signals_may_start_a_runtime() {
    alone("a_thread_that_blocks_all_signals_may_start_a_runtime", || {
        std::thread::spawn(|| {
            unyield_preempt::tick::block_all_signals();
            let runtime = Runtime::builder().workers(2).build().unwrap();
            preempts(&runtime);
            // carriers, too
            let values: Vec<_> = (0..4).map(|i| runtime.spawn(move || fiber::blocking(|| i))).collect();
            assert_eq!(values.into_iter().map(|fiber| fiber.join().unwrap()).sum::<i32>(), 6);
            preempts(&runtime);
        })
        .join()
        .unwrap();
    });
}

/// The gate of such a thread names a receiver that is no worker.
#[test]
fn a_thread_that_is_a_receiver_by_itself_uses_a_runtime() {
    alone("a_thread_that_is_a_receiver_by_itself_uses_a_runtime", || {
        let _registration = unyield_preempt::endpoint::Builder::new().register().unwrap();
        assert!(!unyield::testing::on_a_worker());
        let runtime = Runtime::builder().workers(2).quantum(QUANTUM).build().unwrap();
        assert!(runtime.run(unyield::testing::on_a_worker));
        for i in 0..100 {
            assert_eq!(runtime.spawn(move || i).join().unwrap(), i);
            assert_eq!(runtime.run(|| i), i);
        }
        preempts(&runtime);
        // SAFETY: the child only exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe { libc::_exit(5) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 5));
    });
}

#[test]
fn several_runtimes_at_once() {
    alone("several_runtimes_at_once", || {
        let settings =
            [(libc::SIGURG, 100), (libc::SIGUSR2, 1000), (libc::SIGRTMIN() + 3, 5000), (libc::SIGURG, 300)];
        let runtimes: Vec<_> = settings
            .iter()
            .map(|&(signal, quantum)| {
                Runtime::builder()
                    .workers(1)
                    .signal(signal)
                    .quantum(Duration::from_micros(quantum))
                    .build()
                    .unwrap()
            })
            .collect();
        let loads: Vec<_> = runtimes.iter().map(|runtime| Load::start(runtime, 2)).collect();
        runtimes.iter().for_each(preempts);
        std::thread::scope(|scope| {
            runtimes.iter().for_each(|runtime| drop(scope.spawn(|| work(runtime, 3, 300 * MS))))
        });
        // from one into the other
        let sum: u64 = runtimes[0]
            .run(|| runtimes[1].run(|| runtimes[2].run(|| runtimes[3].spawn(|| 40).join().unwrap() + 1) + 1));
        assert_eq!(sum, 42);
        drop(loads);
    });
}
