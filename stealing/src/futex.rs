//! Sleeping on a 32-bit word (or the low half of a 64-bit one), by the kernel or by loom.
//!
//! For: the two places where a thread of the runtime sleeps ([`Idle`](crate::Idle), [`Armed`](crate::Armed)). Private
//! futexes only. May be called masked: it neither allocates nor takes a lock of this process. errno is clobbered.

#[cfg(not(loom))]
pub(crate) use kernel::Futex;
#[cfg(loom)]
pub(crate) use model::Futex;

/// Wakes sleepers of every kind; a sleeper whose kind is `ANY` is woken by every kind.
pub(crate) const ANY: u32 = u32::MAX;

#[cfg(not(loom))]
mod kernel {
    use core::ptr;
    use core::sync::atomic::{AtomicU32, AtomicU64};
    use core::time::Duration;

    /// What a futex needs besides its word: nothing, the kernel keeps the queues.
    #[derive(Debug)]
    pub(crate) struct Futex;

    impl Futex {
        pub(crate) const fn new() -> Self {
            Futex
        }

        /// Sleeps if `word` still has the value `expected`, until a wake that shares a bit with `kind`, a signal or
        /// the timeout. May return for no reason.
        pub(crate) fn wait(&self, word: &AtomicU32, expected: u32, kind: u32, timeout: Option<Duration>) {
            wait(word.as_ptr(), expected, kind, timeout);
        }

        /// As [`wait`](Self::wait), for the low half of `word`.
        pub(crate) fn wait64(&self, word: &AtomicU64, expected: u32, kind: u32, timeout: Option<Duration>) {
            wait(low_half(word), expected, kind, timeout);
        }

        /// Wakes up to `count` sleepers on `word` whose kind shares a bit with `kind`.
        pub(crate) fn wake(&self, word: &AtomicU32, count: i32, kind: u32) {
            wake(word.as_ptr(), count, kind);
        }

        /// As [`wake`](Self::wake), for the low half of `word`.
        pub(crate) fn wake64(&self, word: &AtomicU64, count: i32, kind: u32) {
            wake(low_half(word), count, kind);
        }
    }

    /// Only the kernel uses this address, and only to read.
    fn low_half(word: &AtomicU64) -> *mut u32 {
        let halves = word.as_ptr().cast::<u32>();
        if cfg!(target_endian = "little") { halves } else { halves.wrapping_add(1) }
    }

    fn wait(word: *mut u32, expected: u32, kind: u32, timeout: Option<Duration>) {
        // FUTEX_WAIT_BITSET takes an absolute time, of CLOCK_MONOTONIC.
        let deadline = timeout.and_then(|timeout| {
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: `now` is a valid place for the result.
            unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
            let sum = Duration::new(now.tv_sec as u64, now.tv_nsec as u32).checked_add(timeout)?;
            let tv_sec = libc::time_t::try_from(sum.as_secs()).ok()?;
            Some(libc::timespec { tv_sec, tv_nsec: sum.subsec_nanos().into() })
        });
        let deadline = deadline.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the word is live during the call (it is borrowed), and the deadline is null or valid.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word,
                libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                expected,
                deadline,
                ptr::null::<u32>(),
                kind,
            )
        };
    }

    fn wake(word: *mut u32, count: i32, kind: u32) {
        // SAFETY: the kernel looks sleepers up by the address of the word and does not touch memory.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word,
                libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
                count,
                ptr::null::<libc::timespec>(),
                ptr::null::<u32>(),
                kind,
            )
        };
    }
}

/// The kernel's part played by a queue under a mutex: like the kernel's lock, it makes "look at the word and queue"
/// one step against a wake. Timeouts never happen, so a lost wake-up is a deadlock, which loom reports.
#[cfg(loom)]
mod model {
    use core::fmt;
    use core::time::Duration;
    use std::collections::VecDeque;

    use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use loom::sync::{Condvar, Mutex};

    #[derive(Default)]
    struct Queue {
        /// Number and kind of each sleeper, in the order of their coming.
        sleepers: VecDeque<(usize, u32)>,
        arrivals: usize,
    }

    pub(crate) struct Futex {
        queue: Mutex<Queue>,
        woken: Condvar,
    }

    impl Futex {
        pub(crate) fn new() -> Self {
            Futex { queue: Mutex::new(Queue::default()), woken: Condvar::new() }
        }

        pub(crate) fn wait(&self, word: &AtomicU32, expected: u32, kind: u32, _timeout: Option<Duration>) {
            // SeqCst: the kernel's look at the word is fully ordered.
            self.sleep_if(|| word.load(Ordering::SeqCst) == expected, kind);
        }

        pub(crate) fn wait64(&self, word: &AtomicU64, expected: u32, kind: u32, _timeout: Option<Duration>) {
            self.sleep_if(|| word.load(Ordering::SeqCst) as u32 == expected, kind);
        }

        fn sleep_if(&self, unchanged: impl FnOnce() -> bool, kind: u32) {
            let mut queue = self.queue.lock().unwrap();
            if !unchanged() {
                return;
            }
            let me = queue.arrivals;
            queue.arrivals += 1;
            queue.sleepers.push_back((me, kind));
            while queue.sleepers.iter().any(|sleeper| sleeper.0 == me) {
                queue = self.woken.wait(queue).unwrap();
            }
        }

        pub(crate) fn wake(&self, _word: &AtomicU32, count: i32, kind: u32) {
            self.wake_some(count, kind);
        }

        pub(crate) fn wake64(&self, _word: &AtomicU64, count: i32, kind: u32) {
            self.wake_some(count, kind);
        }

        fn wake_some(&self, mut count: i32, kind: u32) {
            let mut queue = self.queue.lock().unwrap();
            queue.sleepers.retain(|sleeper| {
                let wake = count > 0 && sleeper.1 & kind != 0;
                count -= i32::from(wake);
                !wake
            });
            self.woken.notify_all();
        }
    }

    impl fmt::Debug for Futex {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Futex")
        }
    }
}
