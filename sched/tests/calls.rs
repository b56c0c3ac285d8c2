//! System calls of every class from fibers that are preempted all the time: right results, with many carriers, few, and none.

mod common;

use common::{Load, alone, busy_runtime, gettid, pipe};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

const MS: Duration = Duration::from_millis(1);

type Case = (&'static str, fn() -> bool);

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn fresh_path() -> std::path::PathBuf {
    static N: AtomicU64 = AtomicU64::new(0);
    std::env::temp_dir().join(format!("unyield-lock-{}-{}", std::process::id(), N.fetch_add(1, Relaxed)))
}

/// Every class of how the kernel restarts calls. Each returns whether it saw EINTR, and checks everything else.
const CLASSES: [Case; 13] = [
    ("read", || {
        let (mut reader, mut writer) = pipe();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            writer.write_all(b"x").unwrap();
        });
        let mut byte = [0];
        assert_eq!(reader.read(&mut byte).unwrap(), 1);
        assert_eq!(byte[0], b'x');
        helper.join().unwrap();
        false
    }),
    ("nanosleep", || {
        let (start, mut eintr) = (Instant::now(), false);
        let mut left = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        // SAFETY: a local that is read and written.
        while unsafe { libc::nanosleep(&left.clone(), &mut left) } != 0 {
            assert_eq!(errno(), libc::EINTR);
            eintr = true;
        }
        assert!(start.elapsed() >= 5 * MS);
        eintr
    }),
    ("poll", || {
        // SAFETY: no descriptors.
        let n = unsafe { libc::poll(std::ptr::null_mut(), 0, 5) };
        assert!(n == 0 || errno() == libc::EINTR);
        n != 0
    }),
    ("futex, relative", || {
        let (word, time) = (0u32, libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 });
        // SAFETY: a word that nobody changes.
        assert_eq!(
            // SAFETY: as above.
            unsafe {
                libc::syscall(libc::SYS_futex, &word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, &time)
            },
            -1
        );
        assert!([libc::ETIMEDOUT, libc::EINTR].contains(&errno()), "{}", errno());
        errno() == libc::EINTR
    }),
    ("futex, absolute", || {
        // SAFETY: locals; a word that nobody changes.
        unsafe {
            let (word, mut time) = (0u32, std::mem::zeroed::<libc::timespec>());
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
            time.tv_nsec += 5_000_000;
            time.tv_sec += time.tv_nsec / 1_000_000_000;
            time.tv_nsec %= 1_000_000_000;
            let call = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
            assert_eq!(libc::syscall(libc::SYS_futex, &word, call, 0, &time, 0, u32::MAX), -1);
        }
        assert!([libc::ETIMEDOUT, libc::EINTR].contains(&errno()), "{}", errno());
        errno() == libc::EINTR
    }),
    ("futex, for ever", || {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let other = pair.clone();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            *other.0.lock().unwrap() = true;
            other.1.notify_all();
        });
        drop(pair.1.wait_while(pair.0.lock().unwrap(), |ready| !*ready).unwrap());
        helper.join().unwrap();
        false
    }),
    ("ppoll", || {
        // SAFETY: locals.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut mask, libc::SIGUSR1);
            let time = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            let n = libc::ppoll(std::ptr::null_mut(), 0, &time, &mask);
            let eintr = n != 0 && errno() == libc::EINTR;
            assert!(n == 0 || eintr);
            let mut now: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut now);
            assert_eq!(libc::sigismember(&now, libc::SIGUSR1), 0, "the mask of a call leaks");
            eintr
        }
    }),
    ("epoll_wait", || {
        // SAFETY: a descriptor of our own, room for one event.
        unsafe {
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            let mut event: libc::epoll_event = std::mem::zeroed();
            let n = libc::epoll_wait(epoll, &mut event, 1, 5);
            let eintr = n != 0 && errno() == libc::EINTR;
            assert!(n == 0 || eintr);
            libc::close(epoll);
            eintr
        }
    }),
    ("accept and connect", || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(3 * MS);
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(b"hello").unwrap();
        });
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        helper.join().unwrap();
        let other = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(other.peer_addr().unwrap(), address);
        false
    }),
    ("wait4", || {
        let status =
            std::process::Command::new("/bin/sh").args(["-c", "sleep 0.01; exit 7"]).status().unwrap();
        assert_eq!(status.code(), Some(7));
        false
    }),
    ("flock", || {
        let path = fresh_path();
        let (a, b) = (std::fs::File::create(&path).unwrap(), std::fs::File::open(&path).unwrap());
        // SAFETY: descriptors of our own.
        assert_eq!(unsafe { libc::flock(a.as_raw_fd(), libc::LOCK_EX) }, 0);
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            drop(a);
        });
        // SAFETY: as above.
        assert_eq!(unsafe { libc::flock(b.as_raw_fd(), libc::LOCK_EX) }, 0);
        helper.join().unwrap();
        drop(std::fs::remove_file(&path));
        false
    }),
    ("fcntl locks", || {
        let path = fresh_path();
        let (a, b) = (
            std::fs::File::create(&path).unwrap(),
            std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap(),
        );
        // SAFETY: descriptors of our own; open-file-description locks, which exclude each other within a process.
        let lock = |file: &std::fs::File| unsafe {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as i16;
            libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &lock)
        };
        assert_eq!(lock(&a), 0);
        let helper = std::thread::spawn(move || {
            std::thread::sleep(4 * MS);
            drop(a);
        });
        assert_eq!(lock(&b), 0);
        helper.join().unwrap();
        drop(std::fs::remove_file(&path));
        false
    }),
    ("sigtimedwait", || {
        // SAFETY: locals; SIGUSR2 is blocked for the time, and nobody sends it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGUSR2);
            let time = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
            assert_eq!(libc::sigtimedwait(&set, std::ptr::null_mut(), &time), -1);
            assert!([libc::EAGAIN, libc::EINTR].contains(&errno()), "{}", errno());
            errno() == libc::EINTR
        }
    }),
];

fn all_classes(runtime: &Runtime, rounds: usize, copies: usize) {
    let background = Load::start(runtime, 3);
    let fibers: Vec<_> = CLASSES
        .iter()
        .flat_map(|case| std::iter::repeat_n(case, copies))
        .map(|(name, body)| runtime.spawn(move || (*name, (0..rounds).filter(|_| body()).count())))
        .collect();
    let mut seen = std::collections::BTreeMap::new();
    for fiber in fibers {
        let (name, eintr) = fiber.join().unwrap();
        *seen.entry(name).or_insert(0) += eintr;
    }
    println!("EINTR of {}: {seen:?}", rounds * copies);
    drop(background);
}

#[test]
fn every_class_of_call_gives_right_results() {
    alone("every_class_of_call_gives_right_results", || {
        for workers in [1, 2] {
            let runtime = busy_runtime(workers);
            all_classes(&runtime, 8, 2);
            let metrics = runtime.handle().metrics();
            assert!((0..workers).map(|w| metrics.worker_call_preempt_count(w)).sum::<u64>() > 20);
        }
    });
}

#[test]
fn few_carriers() {
    alone("few_carriers", || {
        for max in [0, 1, 3] {
            let runtime = Runtime::builder()
                .workers(1)
                .max_carriers(max)
                .quantum(Duration::from_micros(500))
                .build()
                .unwrap();
            all_classes(&runtime, 2, 1);
            let values: Vec<_> = (0..8)
                .map(|i| {
                    runtime.spawn(move || {
                        fiber::blocking(|| {
                            std::thread::sleep(2 * MS);
                            i
                        })
                    })
                })
                .collect();
            assert_eq!(values.into_iter().map(|fiber| fiber.join().unwrap()).sum::<i32>(), 28);
            if max > 0 {
                let fibers: Vec<_> = (0..4)
                    .map(|_| {
                        runtime.spawn(|| {
                            let _guard = fiber::lock_os_thread();
                            let tid = gettid();
                            unyield::sleep(2 * MS);
                            assert_eq!(gettid(), tid);
                        })
                    })
                    .collect();
                fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
            }
            assert!(runtime.handle().metrics().num_carriers() <= max);
        }
    });
}
