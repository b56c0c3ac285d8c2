//! How a thief adapts: to halves that are not worth an interrupt it asks for several at once, and where it comes too late it lets the victim be for a while.
//!
//! Touched by its worker only.

use std::cell::Cell;
use unyield_preempt::tick;
use unyield_stealing::mailbox::MORE;

/// What a thief has got is tiny if it is done in less (ns): a steal costs thief and victim about as much.
const TINY: u64 = 30_000;
/// How long (ns) a thief rests after a refusal at first, and at most.
const REST: u64 = 20_000;
const REST_MAX: u64 = 2_000_000;

#[derive(Default)]
pub(super) struct Pace {
    /// How many halves to ask for, less one.
    extra: Cell<usize>,
    /// When what was stolen last began; 0 = it has ended.
    begun: Cell<u64>,
    /// After how long (ns), if it is refused once more, it may ask again; and when it may.
    rest: Cell<u64>,
    until: Cell<u64>,
}

impl Pace {
    /// How many halves to ask for.
    pub(super) fn want(&self) -> usize {
        self.extra.get() + 1
    }

    /// True if it should ask nobody yet.
    pub(super) fn rests(&self) -> bool {
        self.until.get() != 0 && tick::now() < self.until.get()
    }

    /// What was stolen begins.
    pub(super) fn begin(&self) {
        self.begun.set(tick::now());
    }

    /// The worker looks for work again. Returns until when it rests, if it begins to.
    pub(super) fn end(&self, now: u64) -> Option<u64> {
        let begun = self.begun.replace(0);
        if begun == 0 {
            return None;
        }
        let mut rest = None;
        if now - begun < TINY {
            if self.extra.get() == MORE {
                rest = Some(self.let_be(now)); // even so many at once are not worth it
            }
            self.extra.set((2 * self.extra.get() + 1).min(MORE));
        } else {
            self.extra.set(0);
            self.rest.set(0);
        }
        rest
    }

    /// Asked in vain. Returns when to ask again.
    pub(super) fn refused(&self) -> u64 {
        self.let_be(tick::now())
    }

    fn let_be(&self, now: u64) -> u64 {
        self.rest.set((2 * self.rest.get()).clamp(REST, REST_MAX));
        self.until.set(now + self.rest.get());
        self.until.get()
    }
}
