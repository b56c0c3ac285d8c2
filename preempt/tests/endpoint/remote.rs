//! Receivers in another process: this program runs itself as the peer.

use super::*;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use unyield_preempt::endpoint::remote::{INTERVAL, RemoteError, Right};

/// This program again, as the peer in another process; its stdin is the socket.
fn peer(role: &str) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "remote::peer_process", "--ignored", "--nocapture"])
        .env("UNYIELD_TEST_PEER", role)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (child, ours)
}

#[test]
#[ignore = "the other process of the tests below"]
fn peer_process() {
    let Ok(role) = std::env::var("UNYIELD_TEST_PEER") else { return };
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let right = Right::receive(&socket).unwrap();
    let other = Right::receive(&socket).unwrap();
    match role.as_str() {
        "polite" => {
            right.send().unwrap();
            other.send().unwrap();
            assert!(matches!(other.send(), Err(RemoteError::RateLimited)));
            socket.write_all(b"x").unwrap();
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            // The receiver's thread has ended.
            thread::sleep(INTERVAL);
            let gone = matches!(right.send(), Err(RemoteError::Gone));
            socket.write_all(&[u8::from(gone)]).unwrap();
        }
        _ => {
            // Until it is killed, or whoever should do that has gone.
            let gone = |right: &Right| matches!(right.send(), Err(RemoteError::Gone));
            while !(gone(&right) & gone(&other)) {}
        }
    }
}

/// `None` if the kernel has no pidfds of threads.
fn right(registration: &Registration, vector: Vector) -> Option<Right> {
    match registration.right(vector) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            eprintln!("skipped: {error}");
            None
        }
        right => Some(right.unwrap()),
    }
}

#[test]
fn a_right_works_in_another_process() {
    let _alone = alone();
    let receiver = thread::spawn(|| {
        let counts: [Arc<AtomicU64>; 2] = Default::default();
        let registration = builder()
            .counter(vector(11), counts[0].clone())
            .counter(vector(12), counts[1].clone())
            .accept_remote()
            .register()
            .unwrap();
        let first = right(&registration, vector(11))?;
        let second = registration.right(vector(12)).unwrap();
        let (child, mut socket) = peer("polite");
        first.give(&socket).unwrap();
        second.give(&socket).unwrap();
        compute_until(|| counts.iter().all(|count| count.load(Relaxed) == 1));
        socket.read_exact(&mut [0]).unwrap();
        Some((child, socket))
    });
    let Some((mut child, mut socket)) = receiver.join().unwrap() else { return };
    socket.write_all(b"x").unwrap();
    let mut gone = [0];
    socket.read_exact(&mut gone).unwrap();
    assert_eq!(gone, [1], "told that the thread has ended");
    assert!(child.wait().unwrap().success());
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A peer is killed while it sends; nothing of it is left, and the receiver goes on.
#[test]
fn a_peer_that_dies_leaves_nothing() {
    let _alone = alone();
    let count = Arc::new(AtomicU64::new(0));
    let registration = builder().counter(LOW, count.clone()).accept_remote().register().unwrap();
    if right(&registration, LOW).is_none() {
        return;
    }
    let descriptors_before = descriptors();
    for _ in 0..3 {
        let (mut child, socket) = peer("storm");
        for vector in [LOW, HIGH] {
            registration.right(vector).unwrap().give(&socket).unwrap();
        }
        let start = count.load(Relaxed);
        compute_until(|| count.load(Relaxed) > start + 50);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(descriptors(), descriptors_before);
    thread::sleep(Duration::from_millis(5));
    while registration.wait(Some(Duration::ZERO)) {}
    let quiet = count.load(Relaxed);
    assert!(!registration.wait(Some(Duration::from_millis(20))), "nobody sends any more");
    registration.sender(LOW).send().unwrap();
    assert!(registration.wait(Some(PATIENCE)));
    assert_eq!(count.load(Relaxed), quiet + 1);
}

#[test]
fn revoked_and_late_rights_are_ignored() {
    let _alone = alone();
    let count = Arc::new(AtomicU64::new(0));
    let register = || builder().counter(LOW, count.clone()).accept_remote().register().unwrap();
    let registration = register();
    let Some(right) = right(&registration, LOW) else { return };
    right.send().unwrap();
    compute_until(|| count.load(Relaxed) == 1);
    registration.revoke_rights();
    let send = || {
        thread::sleep(INTERVAL * 2);
        right.send().unwrap();
        thread::sleep(Duration::from_millis(5));
        assert_eq!(count.load(Relaxed), 1);
    };
    send();
    drop(registration);
    send(); // would end the process if nobody took the signal
    let registration = register();
    send();
    assert!(builder().register().is_err());
    let (socket, closed) = UnixStream::pair().unwrap();
    drop(closed);
    assert_eq!(Right::receive(&socket).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(&[7; 16]).unwrap();
    assert_eq!(Right::receive(&theirs).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    drop(registration);
    let registration = builder().register().unwrap();
    assert_eq!(registration.right(LOW).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
