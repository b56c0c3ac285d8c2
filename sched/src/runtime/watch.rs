//! Fork-joins that idle workers could help with: a fork tells nobody, so the timer looks while fibers fork, and wakes a worker if there is something to steal.
//!
//! The outermost fork of a fiber wakes the timer if it is not on the watch; that costs a load if it is. Regions shorter than [`RIPE`] are left alone: waking a
//! worker for them costs more than they do.
//!
//! ```text
//!   outermost fork                        timer
//!     bounds in use                         on = false
//!     light fence                           heavy fence
//!     on? yes: done                         does a fiber fork? yes: on = true, go on looking
//!     no: on = true, wake the timer         no: sleep, as far as forks go
//! ```
//!
//! A Dekker pair, as in `unyield_stealing::armed`.

use super::Shared;
use crate::identity::Identity;
use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use unyield_stealing::{Looks, fence};

/// How long (ns) something to steal must have been seen before a worker is woken for it.
const RIPE: u64 = 40_000;
/// Between looks (ns) while there is something to steal, and at most while there is nothing.
const PERIOD: u64 = 50_000;
const PERIOD_MAX: u64 = 400_000;
/// After so many looks in a row that find nothing to steal, looks become rare (ns): a fiber that forks may compute, or wait in the kernel, for hours. The watch counts as
/// ended then, so that who begins to fork, or comes back to it, puts it on again.
const PATIENCE: u32 = 64;
const RARE: u64 = 4_000_000;
/// Between looks (ns) while no worker sleeps.
const SLOW: u64 = 2_000_000;
/// Between looks (ns) while nobody forks: a region that begins now finds the watch on, and does not wake the timer.
const PAUSE: u64 = 400_000;
/// After so many looks that find nobody forking the watch ends.
const HYSTERESIS: u32 = 16;

pub(crate) struct Watch {
    on: AtomicBool,
    /// Until when (ns) no worker is woken: thieves have come in vain.
    resting: AtomicU64,
    looks: Looks,
    // The timer's own:
    since: Cell<u64>,
    period: Cell<u64>,
    quiet: Cell<u32>,
    vain: Cell<u32>,
    /// Looks are rare.
    rare: Cell<bool>,
    due: Cell<u64>,
}

// SAFETY: the cells are the timer thread's.
unsafe impl Sync for Watch {}

impl Watch {
    pub(crate) fn new() -> Watch {
        Watch {
            on: AtomicBool::new(false),
            resting: AtomicU64::new(0),
            looks: Looks::new(),
            since: Cell::new(0),
            period: Cell::new(PERIOD),
            quiet: Cell::new(0),
            vain: Cell::new(0),
            rare: Cell::new(false),
            due: Cell::new(0),
        }
    }

    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// The running fiber has begun to fork. Any context.
    #[inline]
    pub(crate) fn fork_check(&self, runtime: &Shared) {
        fence::light();
        // Relaxed: the fence pairs.
        if !self.on.load(Relaxed) {
            self.begin(runtime);
        }
    }

    /// True if it is on the watch. Timer thread: if it is, though a look has found that it was not, look again before sleeping.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Acquire)
    }

    #[cold]
    fn begin(&self, runtime: &Shared) {
        if !self.on.swap(true, SeqCst) {
            runtime.timers.wake();
            runtime.armed.rouse();
        }
    }

    /// A thief has come in vain, and wants no other to be woken before `until` (ns).
    pub(crate) fn rest(&self, until: u64) {
        self.resting.fetch_max(until, Relaxed); // a hint
    }

    /// Timer thread: looks, if it is time to. Returns when to look again; `u64::MAX`: nobody forks.
    pub(super) fn look(&self, runtime: &Shared, now: u64) -> u64 {
        let on = self.on.load(Acquire);
        if !on && !self.rare.get() {
            return u64::MAX;
        }
        if on && self.rare.replace(false) {
            self.anew();
        }
        if now < self.due.get() {
            return self.due.get();
        }
        let (forking, loaded) = self.survey(runtime);
        let idle = runtime.idle.sleepers() > 0;
        if loaded {
            self.vain.set(0);
            self.period.set(PERIOD);
            if self.rare.replace(false) {
                self.on.swap(true, Relaxed);
            }
            if self.since.get() == 0 {
                self.since.set(now);
            } else if idle
                && now - self.since.get() >= RIPE
                && now >= self.resting.load(Relaxed)
                && runtime.idle.searching() == 0
            {
                runtime.idle.notify_one();
            }
        } else {
            self.since.set(0);
            self.period.set((self.period.get() * 2).min(PERIOD_MAX));
        }
        if forking {
            self.quiet.set(0);
            self.vain.set(self.vain.get().saturating_add(1));
            if self.vain.get() > PATIENCE && !self.rare.get() {
                self.rare.set(self.end(runtime, |found| found.1));
            }
        } else {
            self.quiet.set(self.quiet.get() + 1);
            if self.quiet.get() > HYSTERESIS && self.end(runtime, |found| found.0) {
                self.rare.set(false);
                self.anew();
                return u64::MAX;
            }
        }
        let wait = match () {
            () if self.rare.get() => RARE,
            () if !forking => PAUSE,
            () if idle => self.period.get(),
            () => SLOW,
        };
        self.due.set(now + wait);
        self.due.get()
    }

    /// As if it had just been put on.
    fn anew(&self) {
        self.since.set(0);
        self.period.set(PERIOD);
        self.quiet.set(0);
        self.vain.set(0);
        self.due.set(0);
    }

    /// Ends the watch, unless `needed` says of what a last look finds that it must go on. True: it has ended.
    fn end(&self, runtime: &Shared, needed: impl FnOnce((bool, bool)) -> bool) -> bool {
        self.on.swap(false, Relaxed);
        fence::heavy();
        let go_on = needed(self.survey(runtime));
        if go_on {
            self.on.swap(true, Relaxed);
        }
        !go_on
    }

    /// Whether a running fiber forks, and whether one shows something to steal.
    fn survey(&self, runtime: &Shared) -> (bool, bool) {
        let exposed = &runtime.exposed;
        self.looks.look(|| {
            let mut found = if exposed.carries_nobody() { (false, false) } else { exposed.carried_forks() };
            for worker in runtime.slots() {
                // SAFETY: what a worker runs is not freed while we look.
                let identity: Option<&Identity> = unsafe { worker.current.load(Acquire).as_ref() };
                if let Some(identity) = identity.filter(|identity| identity.is_forking()) {
                    found = (true, found.1 || identity.shows_forks());
                }
            }
            found
        })
    }
}
