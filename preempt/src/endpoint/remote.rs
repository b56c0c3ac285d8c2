//! The right to send to a receiver in another process, for peers that are trusted as far as the kernel trusts them to signal each other (the same user, or CAP_KILL).
//!
//! A [`Right`] is a pidfd of the receiver's thread and a token. It travels over a Unix socket (SCM_RIGHTS); a send is one system call, which queues a real-time signal ([`signal`])
//! with the token to that thread, so a recycled thread id is never hit. The receiver's handler checks the token and posts the vector, which then takes the
//! way of all others. Real-time, since of an ordinary signal the kernel keeps one at a time and would drop the tokens of the others.
//!
//! The receiver keeps nothing about its peers: one that dies takes its descriptor along, and what it has sent by then is delivered. Nor does a right keep
//! anything of the receiver alive. A right whose registration has ended, or that was [revoked](super::Registration::revoke_rights), is
//! ignored by the receiver; its holder is told only when the thread itself has ended. The main thread's pidfd outlives `exec`: a program that execs itself should not hand out
//! rights to its main thread, or the signal of a late peer ends the new image.
//!
//! With User Interrupts it is the same: the descriptor of a vector that Intel's kernel offers for this is not used, since it can be neither revoked nor limited.
//!
//! The throttle of the receiver holds for sub-handlers; it cannot hold for the signals themselves, which the kernel delivers as they come. So each right keeps to a least
//! interval of [`INTERVAL`], in the sending process.
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use unyield_preempt::endpoint::{Builder, Vector, remote::Right};
//!
//! let registration = Builder::new().accept_remote().register()?;
//! let (ours, theirs) = UnixStream::pair()?;
//! let right = match registration.right(Vector::new(8).unwrap()) {
//!     Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(()), // before Linux 6.9
//!     right => right?,
//! };
//! right.give(&ours)?;
//! // … in the other process:
//! let right = Right::receive(&theirs)?;
//! right.send()?;
//! // … and here:
//! assert!(registration.wait(None));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::queued::Token;
use crate::backend::signal::QueuedInfo;
use crate::tick;
use core::fmt;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The least time between two sends by one right.
pub const INTERVAL: Duration = Duration::from_micros(20);

/// The real-time signal that carries remote sends: SIGRTMAX − 2. The program must leave it to the handler that the first receiver which accepts remote sends
/// installs; what others queue with values of their own is passed on to who had the signal before.
pub fn signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// pidfd_open: of a thread, not of its process.
const PIDFD_THREAD: i32 = libc::O_EXCL;

/// Why a send to another process did not happen.
#[derive(Debug)]
#[non_exhaustive]
pub enum RemoteError {
    /// The receiver's thread has ended, for good.
    Gone,
    /// Sooner than [`INTERVAL`] after the last one.
    RateLimited,
    /// The receiver's user has as many signals queued as it may (RLIMIT_SIGPENDING): it does not keep up.
    Full,
    /// Something else, as the kernel says: mostly that the caller may not signal that process.
    Refused(io::Error),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoteError::Gone => f.write_str("the receiver's thread has ended"),
            RemoteError::RateLimited => write!(f, "sent again within {INTERVAL:?}"),
            RemoteError::Full => f.write_str("the receiver's queue of signals is full"),
            RemoteError::Refused(error) => write!(f, "the kernel refused to signal the receiver: {error}"),
        }
    }
}

impl std::error::Error for RemoteError {}

/// The right to send one vector to one thread, of any process. See the module.
#[derive(Debug)]
pub struct Right {
    thread: OwnedFd,
    token: Token,
    signal: i32,
    /// When the next send may be.
    next: AtomicU64,
}

/// What travels beside the descriptor.
const MESSAGE: usize = 16;
const HELLO: u32 = 0x31_6e79; // "yn1": the layout's version

/// Room for one descriptor, aligned as a control message must be.
#[repr(C, align(8))]
struct Control([u8; 24]);

impl Right {
    pub(super) fn new(token: Token, tid: i32) -> io::Result<Right> {
        // SAFETY: a plain system call; the descriptor is new and ours.
        let thread = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, tid, PIDFD_THREAD);
            if fd < 0 {
                let error = io::Error::last_os_error();
                return Err(match error.raw_os_error() {
                    Some(libc::EINVAL | libc::ENOSYS) => io::Error::new(
                        io::ErrorKind::Unsupported,
                        "the kernel has no pidfds of threads (PIDFD_THREAD, Linux 6.9)",
                    ),
                    _ => error,
                });
            }
            OwnedFd::from_raw_fd(fd as i32)
        };
        Ok(Right { thread, token, signal: signal(), next: AtomicU64::new(0) })
    }

    /// Posts the vector in the receiver's process. One system call, no lock, no allocation; any context.
    ///
    /// # Errors
    /// [`RemoteError`] says which. A right that was revoked, or whose registration has ended, is not told: its sends are ignored.
    pub fn send(&self) -> Result<(), RemoteError> {
        let now = tick::now();
        let interval = INTERVAL.as_nanos() as u64;
        // A counter that guards no data.
        if self.next.fetch_update(Relaxed, Relaxed, |next| (next <= now).then_some(now + interval)).is_err() {
            return Err(RemoteError::RateLimited);
        }
        let mut info = QueuedInfo::new(self.signal, self.token.bits());
        let arguments = [self.thread.as_raw_fd() as u64, self.signal as u64, &raw mut info as u64, 0, 0, 0];
        // SAFETY: the kernel reads a siginfo of its own layout. The bare system call leaves errno alone.
        let result =
            unsafe { crate::arch::insn::syscall6(libc::SYS_pidfd_send_signal as u64, arguments) } as i64;
        match -result as i32 {
            0 => Ok(()),
            libc::ESRCH => Err(RemoteError::Gone),
            libc::EAGAIN => Err(RemoteError::Full),
            error => Err(RemoteError::Refused(io::Error::from_raw_os_error(error))),
        }
    }

    /// Sends a copy of the right over a Unix socket (stream or datagram) to whoever reads there with [`receive`](Right::receive).
    ///
    /// # Errors
    /// What sendmsg says.
    pub fn give(&self, socket: impl AsFd) -> io::Result<()> {
        let mut message = [0u8; MESSAGE];
        message[..4].copy_from_slice(&HELLO.to_ne_bytes());
        message[4..8].copy_from_slice(&self.signal.to_ne_bytes());
        message[8..].copy_from_slice(&self.token.bits().to_ne_bytes());
        let mut control = Control([0; 24]);
        let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: MESSAGE };
        // SAFETY: `header` points at live buffers of the lengths it says; the control buffer has room for one header and one descriptor.
        let sent = unsafe {
            let mut header = header(&mut part, &mut control);
            let entry = libc::CMSG_FIRSTHDR(&header);
            (*entry).cmsg_level = libc::SOL_SOCKET;
            (*entry).cmsg_type = libc::SCM_RIGHTS;
            (*entry).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(entry).cast::<i32>().write_unaligned(self.thread.as_raw_fd());
            header.msg_controllen = libc::CMSG_SPACE(4) as usize;
            retry(|| libc::sendmsg(socket.as_fd().as_raw_fd(), &header, libc::MSG_NOSIGNAL))?
        };
        if sent == MESSAGE { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads a right that was [given](Right::give), and nothing beyond it. Blocks as the socket does.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other side has closed; `InvalidData` if something else came; what recvmsg says.
    pub fn receive(socket: impl AsFd) -> io::Result<Right> {
        let mut message = [0u8; MESSAGE];
        let mut control = Control([0; 24]);
        let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: MESSAGE };
        let (length, thread) = {
            let mut header = header(&mut part, &mut control);
            // SAFETY: computes a length. Room for one descriptor and no more: of a second one nobody would know.
            header.msg_controllen = unsafe { libc::CMSG_LEN(4) } as usize;
            // SAFETY: as in `give`; a descriptor that the kernel put there is new and ours.
            unsafe {
                let socket = socket.as_fd().as_raw_fd();
                let length = retry(|| libc::recvmsg(socket, &mut header, libc::MSG_CMSG_CLOEXEC))?;
                let entry = libc::CMSG_FIRSTHDR(&header);
                let is_descriptor = !entry.is_null()
                    && (*entry).cmsg_level == libc::SOL_SOCKET
                    && (*entry).cmsg_type == libc::SCM_RIGHTS
                    && (*entry).cmsg_len == libc::CMSG_LEN(4) as usize;
                let thread = is_descriptor
                    .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(entry).cast::<i32>().read_unaligned()));
                (length, thread)
            }
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let word =
            |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        let bits = u64::from(word(8)) | u64::from(word(12)) << 32;
        let signal = word(4) as i32;
        match (thread, Token::from_bits(bits)) {
            (Some(thread), Some(token))
                // No other signal: this process' right to send it might be more than the peer's.
                if length == MESSAGE && word(0) == HELLO && signal == self::signal() =>
            {
                Ok(Right { thread, token, signal, next: AtomicU64::new(0) })
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is not a right to send")),
        }
    }
}

fn header(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    header
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
