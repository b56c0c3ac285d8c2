//! The words through which a sleeping receiver and its senders meet.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `waiting` | the receiver sets it before it sleeps and clears it after; a sender that will wake it clears it | senders |
//! | `word` | a sender that wakes, and dispatch after sub-handlers have run, add one | the receiver; the kernel, before it sleeps |
//!
//! Why no wake-up is lost. The receiver, in this order: (1) reads `word`, (2) looks whether sub-handlers have run since it last returned, (3) sets
//! `waiting`, (4) looks whether anything is posted, (5) sleeps if `word` is still what (1) read. A sender: (a) posts its bit, (b) reads `waiting`; if it is set, (c) adds one
//! to `word` and wakes.
//!
//! - (b) reads true: then (c) comes after (3) and so after (1), and (5) finds another word, or sleeps already and is woken.
//! - (b) reads false, since (3) comes later: (a) comes before (b), so before (4), which sees the bit (a Dekker pair; hence everything here is SeqCst).
//! - (b) reads false, since another sender or the receiver cleared it: then the receiver has been woken or is leaving, and looks at the posted bits after that, by
//!   the protocol of the bell (see `port`), which does not depend on this one.
//! - An interrupt that is delivered to the thread meanwhile runs its sub-handlers between two of the steps and adds to `word`: before (1), then (2) sees that they have
//!   run; after it, then (5) does not sleep. Inside (5) the signal ends the system call, or restarts it with a word that has changed.
//!
//! The word could come round to the same value if 2^32 wakes fell between (1) and (5).

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicU32};

#[derive(Debug)]
pub(super) struct Wait {
    word: AtomicU32,
    waiting: AtomicBool,
}

impl Wait {
    pub(super) const fn new() -> Self {
        Wait { word: AtomicU32::new(0), waiting: AtomicBool::new(false) }
    }

    /// Step 1.
    pub(super) fn word(&self) -> u32 {
        self.word.load(SeqCst)
    }

    /// Sub-handlers have run. The receiver's thread.
    pub(super) fn advance(&self) {
        self.word.fetch_add(1, SeqCst);
    }

    /// Steps b and c. Any context; no system call unless the receiver sleeps or is about to.
    #[inline]
    pub(super) fn wake(&self) {
        if self.waiting.load(SeqCst) && self.waiting.swap(false, SeqCst) {
            self.word.fetch_add(1, SeqCst);
            futex(&self.word, libc::FUTEX_WAKE, 1, 0);
        }
    }

    /// Steps 3 to 5: returns when it has been woken, when something is posted, when a signal came, after `ns`; or for no reason.
    pub(super) fn sleep(&self, word: u32, is_posted: impl Fn() -> bool, ns: Option<u64>) {
        self.waiting.store(true, SeqCst);
        window(3);
        if cfg!(unyield_mutant = "endpoint-no-recheck") || !is_posted() {
            window(4);
            let timeout = ns.map(|ns| libc::timespec {
                tv_sec: (ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (ns % 1_000_000_000) as libc::c_long,
            });
            let address = timeout.as_ref().map_or(0, |time| &raw const *time as u64);
            futex(&self.word, libc::FUTEX_WAIT, word, address);
        }
        self.waiting.store(false, SeqCst);
    }
}

fn futex(word: &AtomicU32, operation: i32, value: u32, timeout: u64) {
    let operation = (operation | libc::FUTEX_PRIVATE_FLAG) as u64;
    // SAFETY: the word is alive, the timeout null or a live timespec. The bare system call leaves errno alone.
    unsafe {
        crate::arch::insn::syscall6(
            libc::SYS_futex as u64,
            [word.as_ptr() as u64, operation, value as u64, timeout, 0, 0],
        )
    };
}

/// A sender may come here, after step 0 to 4 of a wait or (5) before the bell is let go of: the tests make one come.
#[inline(always)]
pub(super) fn window(_step: u8) {
    #[cfg(test)]
    tests::at(_step);
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Sender, Vector};
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    type Step = Box<dyn FnMut(u8)>;
    thread_local!(static STEP: RefCell<Option<Step>> = const { RefCell::new(None) });

    pub(super) fn at(step: u8) {
        let hook = STEP.with(|hook| hook.take());
        if let Some(mut hook) = hook {
            hook(step);
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    /// Another thread will send, from beginning to end, when the receiver has just done step `wanted`.
    fn send_at(wanted: u8, sender: Sender) {
        let hook = move |step| {
            if step != wanted {
                return send_at(wanted, sender.clone()); // the hook was taken out: put it back
            }
            let sender = sender.clone();
            std::thread::spawn(move || sender.send().unwrap()).join().unwrap();
        };
        STEP.with(|cell| *cell.borrow_mut() = Some(Box::new(hook)));
    }

    #[test]
    fn a_send_in_any_window_ends_the_wait() {
        let vector = Vector::new(7).unwrap();
        let registration = Builder::new().register().unwrap();
        let sender = registration.sender(vector);
        for round in 0..20 {
            for step in 0..=4 {
                let start = Instant::now();
                send_at(step, sender.clone());
                assert!(registration.wait(Some(PATIENCE)), "lost: a send after step {step}, round {round}");
                assert!(start.elapsed() < PATIENCE / 2, "lost: noticed late after step {step}");
            }
        }
        assert!(!registration.wait(Some(Duration::from_millis(1))), "one wait for one send");
    }

    /// The bell is held, so the sender does not notify; and dispatch has found nothing posted.
    #[test]
    fn a_send_before_the_bell_is_let_go_of_is_seen() {
        let count = Arc::new(AtomicU64::new(0));
        let registration = Builder::new().counter(Vector::LOWEST, count.clone()).register().unwrap();
        let sender = registration.sender(Vector::LOWEST);
        for sends in (2..=40).step_by(2) {
            // Handled at the section's end, at a call boundary: the hook may allocate.
            crate::critical(|| {
                send_at(5, sender.clone());
                sender.send().unwrap();
            });
            assert_eq!(count.load(Relaxed), sends, "lost");
            while registration.wait(Some(Duration::ZERO)) {} // ends the pause that the hook's long stay has earned
        }
    }
}
