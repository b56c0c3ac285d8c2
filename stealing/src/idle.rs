//! Who sleeps, who wakes whom.
//!
//! For: workers that have found no work, and whoever makes work. Not for: a worker's queue (the protocol only says
//! when to look at queues), the timer ([`Armed`](crate::Armed)). The protocol and why nothing is lost: `idle_README.md`.

use core::fmt;
use core::time::Duration;

use crossbeam_utils::CachePadded;

use crate::futex::{self, Futex};
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::{const_fn, mutant};

// The fields of the state. All in one word, so that a claim, the sleeper it takes and the epoch change in one step.
const SLEEPER: u64 = 1 << 32;
const SLEEPERS: u64 = 0x7fff << 32;
const CLAIM: u64 = 1 << 47;
const SEARCHER: u64 = 1 << 48;

/// The most workers that one [`Idle`] can serve.
const MAX_WORKERS: usize = 0x7fff;

#[inline(always)]
const fn epoch(state: u64) -> u32 {
    state as u32
}

#[inline(always)]
const fn sleepers(state: u64) -> usize {
    ((state & SLEEPERS) / SLEEPER) as usize
}

#[inline(always)]
const fn searching(state: u64) -> usize {
    (state / SEARCHER) as usize
}

/// `state` with the next epoch. The epoch wraps; it must not carry into the sleepers.
#[inline(always)]
const fn bump(state: u64) -> u64 {
    (state & !(u32::MAX as u64)) | (state as u32).wrapping_add(1) as u64
}

/// What a worker holds between [`Idle::prepare_sleep`] and [`Idle::sleep`] or [`Idle::cancel_sleep`].
#[derive(Debug)]
#[must_use = "a registered sleeper must sleep or cancel"]
pub struct Ticket {
    epoch: u32,
    kind: u32,
}

/// Sleepers and searchers of a runtime.
///
/// One word holds, from the low end:
///
/// | bits | what | who writes |
/// |---|---|---|
/// | 32 | epoch: changed by each wake-up; the futex word | notifiers |
/// | 15 | registered sleepers that nobody has claimed | workers; a notifier that claims one |
/// | 1 | claim: a wake-up is on its way to some sleeper | notifiers set it; the first sleeper to leave clears it |
/// | 16 | searching workers | workers |
pub struct Idle {
    state: CachePadded<AtomicU64>,
    futex: Futex,
    workers: usize,
}

impl Idle {
    const_fn! {
        /// All of `workers` workers awake. At most 32,767.
        pub fn new(workers: usize) -> Self {
            assert!(workers <= MAX_WORKERS);
            Idle { state: CachePadded::new(AtomicU64::new(0)), futex: Futex::new(), workers }
        }
    }

    /// Worker: asks to look for work elsewhere. False: enough are looking (half of those awake, but at least one).
    /// Any thread. True must be followed by [`end_search`](Self::end_search).
    pub fn begin_search(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let asleep = sleepers(state) + usize::from(state & CLAIM != 0);
            let awake = self.workers.saturating_sub(asleep);
            if searching(state) > 0 && 2 * (searching(state) + 1) > awake {
                return false;
            }
            // AcqRel, here and below: updates of the state form one chain, so who acts on a state sees what was done
            // before it. What orders the queues against the state are the fences, see the README.
            match self.state.compare_exchange_weak(
                state,
                state + SEARCHER,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Worker: ends a search. True if it was the last searcher: if it has found work, it must look for more, and
    /// [`notify_one`](Self::notify_one) if there is, since notifiers relied on it until now. Any thread.
    #[must_use = "the last searcher must wake another one if it found work and there is more"]
    pub fn end_search(&self) -> bool {
        let before = self.state.fetch_sub(SEARCHER, Ordering::AcqRel);
        debug_assert!(searching(before) > 0);
        // Orders the end of the search before the look that follows: pairs with the fence in `notify_one`.
        if !mutant!("idle-no-end-fence") {
            fence(Ordering::SeqCst);
        }
        if mutant!("idle-no-last-searcher") {
            return false;
        }
        searching(before) == 1
    }

    /// Worker: registers as a sleeper. It must then look at every queue once more, and either
    /// [`cancel_sleep`](Self::cancel_sleep) or [`sleep`](Self::sleep). Any thread.
    pub fn prepare_sleep(&self) -> Ticket {
        self.register(futex::ANY)
    }

    /// As [`prepare_sleep`](Self::prepare_sleep) for worker number `worker`, which
    /// [`notify_worker`](Self::notify_worker) can wake without waking all.
    pub fn prepare_sleep_as(&self, worker: usize) -> Ticket {
        self.register(kind(worker))
    }

    fn register(&self, kind: u32) -> Ticket {
        let before = self.state.fetch_add(SLEEPER, Ordering::AcqRel);
        // Orders the registration before the last look: pairs with the fence in the notifiers.
        if !mutant!("idle-no-sleep-fence") {
            fence(Ordering::SeqCst);
        }
        Ticket { epoch: epoch(before), kind }
    }

    /// Worker: does not sleep after all. True: a wake-up was meant for it; see [`sleep`](Self::sleep). Any thread.
    #[must_use = "a worker that took a wake-up must pass it on if there is more work"]
    pub fn cancel_sleep(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        self.leave()
    }

    /// Worker: sleeps until it is notified (since its registration), or the timeout is over, or for no reason.
    ///
    /// True: it answers for a wake-up. If it then finds work, wherever, it must look for more, and
    /// [`notify_one`](Self::notify_one) if there is: as if it had been the last searcher. errno is clobbered.
    #[must_use = "a worker that took a wake-up must pass it on if there is more work"]
    pub fn sleep(&self, ticket: Ticket, timeout: Option<Duration>) -> bool {
        let mut expected = ticket.epoch;
        if mutant!("idle-late-ticket") {
            expected = epoch(self.state.load(Ordering::Acquire));
        }
        self.futex.wait64(&self.state, expected, ticket.kind, timeout);
        self.leave()
    }

    /// Deregisters a sleeper: as the one that was claimed, if one was.
    fn leave(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let claimed = state & CLAIM != 0;
            let left = if claimed { state - CLAIM } else { state - SLEEPER };
            match self.state.compare_exchange_weak(state, left, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    // Orders leaving before the look that follows: pairs with the fence in `notify_one`.
                    if !mutant!("idle-no-leave-fence") {
                        fence(Ordering::SeqCst);
                    }
                    return claimed;
                }
                Err(now) => state = now,
            }
        }
    }

    /// To be called after each push that any worker may serve. Wakes a sleeper unless a worker is searching or on its
    /// way to. True if it did. Any thread; also masked. A fence and a load if there is nothing to do.
    #[inline]
    pub fn notify_one(&self) -> bool {
        // Orders the push before the look at the state: pairs with the fences of workers (README).
        if !mutant!("idle-no-notify-fence") {
            fence(Ordering::SeqCst);
        }
        // Relaxed: the fence above pairs.
        let state = self.state.load(Ordering::Relaxed);
        if Self::wants_wake(state) { self.wake_one(state) } else { false }
    }

    #[inline(always)]
    fn wants_wake(state: u64) -> bool {
        state & SLEEPERS != 0 && state & CLAIM == 0 && searching(state) == 0
    }

    #[cold]
    fn wake_one(&self, mut state: u64) -> bool {
        while Self::wants_wake(state) {
            let mut claimed = bump(state - SLEEPER) | CLAIM;
            if mutant!("idle-no-bump") {
                claimed = (state - SLEEPER) | CLAIM;
            }
            match self.state.compare_exchange_weak(state, claimed, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.futex.wake64(&self.state, 1, futex::ANY);
                    return true;
                }
                Err(now) => state = now,
            }
        }
        false
    }

    /// To be called after a push that only worker number `worker` may serve. Wakes it if it sleeps (and perhaps others
    /// with it: every 32nd). Any thread; also masked.
    #[inline]
    pub fn notify_worker(&self, worker: usize) {
        self.notify_kind(kind(worker));
    }

    /// Wakes all sleepers: for shutdown, or work for many. Any thread; also masked.
    pub fn notify_all(&self) {
        self.notify_kind(futex::ANY);
    }

    #[inline]
    fn notify_kind(&self, kind: u32) {
        // Orders the push before the look at the state, as in `notify_one`.
        if !mutant!("idle-no-notify-fence") {
            fence(Ordering::SeqCst);
        }
        // Relaxed: the fence above pairs.
        let state = self.state.load(Ordering::Relaxed);
        if state & (SLEEPERS | CLAIM) != 0 {
            self.wake_kind(state, kind);
        }
    }

    #[cold]
    fn wake_kind(&self, mut state: u64, kind: u32) {
        // No claim: nobody relies on this wake-up but its addressee, who cannot miss the new epoch.
        while let Err(now) =
            self.state.compare_exchange_weak(state, bump(state), Ordering::AcqRel, Ordering::Relaxed)
        {
            state = now;
        }
        self.futex.wake64(&self.state, i32::MAX, kind);
    }

    /// Number of registered sleepers, perhaps out of date. Anywhere.
    pub fn sleepers(&self) -> usize {
        let state = self.state.load(Ordering::Relaxed);
        sleepers(state) + usize::from(state & CLAIM != 0)
    }

    /// Number of searching workers, perhaps out of date. Anywhere.
    pub fn searching(&self) -> usize {
        searching(self.state.load(Ordering::Relaxed))
    }
}

/// The futex bit of a worker.
#[inline(always)]
const fn kind(worker: usize) -> u32 {
    1 << (worker % 32)
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle")
            .field("workers", &self.workers)
            .field("sleepers", &self.sleepers())
            .field("searching", &self.searching())
            .finish_non_exhaustive()
    }
}
