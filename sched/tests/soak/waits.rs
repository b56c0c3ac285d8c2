//! Kinds that block in the kernel: futexes of std, pipes, sockets, children, and threads for fibers that need one of their own.

use crate::kinds::{Cx, HUB, spin};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Barrier};
use unyield::fiber;

/// std's barrier, several times round.
pub fn barrier(cx: &mut Cx) {
    const FIBERS: usize = 3;
    const ROUNDS: usize = 4;
    let barrier = Arc::new(Barrier::new(FIBERS));
    let fibers: Vec<_> = (0..FIBERS)
        .map(|_| {
            let (barrier, x) = (barrier.clone(), cx.next());
            unyield::spawn(move || {
                (0..ROUNDS).filter(|_| spin(x % 3000, x) != 0 && barrier.wait().is_leader()).count()
            })
        })
        .collect();
    let leaders: usize = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    check!(leaders == ROUNDS, "{leaders} leaders in {ROUNDS} rounds");
}

/// std's reader-writer lock, wanted by everybody.
pub fn rwlock(cx: &mut Cx) {
    for _ in 0..10 {
        if cx.below(4) == 0 {
            let n = cx.below(100);
            let mut sums = HUB.std_rwlock.write().unwrap();
            sums.0 += n;
            spin(500, n);
            sums.1 += n;
            HUB.in_std_rwlock.fetch_add(n, Relaxed);
        } else {
            let sums = HUB.std_rwlock.read().unwrap();
            let first = sums.0;
            spin(500, first);
            check!(sums.0 == first && sums.1 == first, "std's rwlock: {sums:?} beside a reader");
        }
    }
}

/// A pipe between two fibers; the reader is usually first, and the pipe sometimes full.
pub fn pipe(cx: &mut Cx) {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let length = if cx.below(8) == 0 { 200_000 } else { 5_000 };
    let (mut ours, mut theirs) = (cx.fork(), Cx::new(0, 0));
    theirs.clone_from(&ours);
    let sender = unyield::spawn(move || {
        let mut left = length;
        while left > 0 {
            let part = left.min(1 + theirs.below(9_000) as usize);
            let bytes: Vec<u8> = vec![part as u8; part];
            writer.write_all(&bytes).unwrap();
            spin(1000, 1);
            left -= part;
        }
    });
    let mut left = length;
    while left > 0 {
        let part = left.min(1 + ours.below(9_000) as usize);
        let mut bytes = vec![0; part];
        let result = reader.read_exact(&mut bytes);
        check!(result.is_ok() && bytes.iter().all(|byte| *byte == part as u8), "bytes of a pipe: {result:?}");
        left -= part;
    }
    check!(sender.join().is_ok() && reader.read(&mut [0]).is_ok_and(|n| n == 0), "the end of a pipe");
}

/// Messages there and back over a socket.
pub fn socket(cx: &mut Cx) {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let other = unyield::spawn(move || {
        let mut word = [0; 8];
        while there.read_exact(&mut word).is_ok() {
            let x = u64::from_ne_bytes(word);
            there.write_all(&spin(x % 500, x).wrapping_add(x).to_ne_bytes()).unwrap();
        }
    });
    for _ in 0..10 {
        let (x, mut word) = (cx.next(), [0; 8]);
        here.write_all(&x.to_ne_bytes()).unwrap();
        here.read_exact(&mut word).unwrap();
        check!(u64::from_ne_bytes(word) == spin(x % 500, x).wrapping_add(x), "an answer over a socket");
    }
    here.shutdown(std::net::Shutdown::Both).unwrap();
    check!(other.join().is_ok(), "the other end of a socket");
}

/// A child process: forked, run, read and waited for.
pub fn command(cx: &mut Cx) {
    if cx.below(16) != 0 {
        return;
    }
    let text = cx.next().to_string();
    let output = Command::new("/bin/echo").arg(&text).stdin(Stdio::null()).output();
    check!(
        output
            .as_ref()
            .is_ok_and(|output| output.status.success() && output.stdout == format!("{text}\n").as_bytes()),
        "a child: {output:?}"
    );
}

fn kernel_thread() -> i64 {
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Code that said it would block: another thread, the same all the time.
pub fn blocking(cx: &mut Cx) {
    for _ in 0..3 {
        let x = cx.next();
        let (before, after, y) = fiber::blocking(|| {
            let before = kernel_thread();
            spin(x % 50_000, 1);
            if x.is_multiple_of(4) {
                fiber::blocking(|| std::thread::sleep(std::time::Duration::from_micros(200)));
            }
            if x.is_multiple_of(8) {
                unyield::critical(|| spin(1000, x));
            }
            (before, kernel_thread(), x)
        });
        check!(before == after && x == y, "blocking moved from thread {before} to {after}");
    }
}

/// An OS thread of its own, whatever the fiber does on it.
pub fn os_thread(cx: &mut Cx) {
    let guard = fiber::lock_os_thread();
    let thread = kernel_thread();
    for i in 0..5 {
        match cx.below(5) {
            0 => unyield::yield_now(),
            1 => unyield::sleep(std::time::Duration::from_micros(100)),
            2 => _ = spin(20_000, i),
            3 => {
                let x = cx.next();
                check!(
                    unyield::spawn(move || spin(500, x)).join().unwrap() == spin(500, x),
                    "a fiber joined from a bound one"
                );
            }
            _ => {
                let nested = fiber::lock_os_thread();
                spin(300, i);
                drop(nested);
            }
        }
        check!(thread == kernel_thread(), "a bound fiber on another thread");
    }
    drop(guard);
}
