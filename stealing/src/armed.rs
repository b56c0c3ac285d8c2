//! Whether the timer ticks or sleeps.
//!
//! For: the timer thread, which sleeps without a timeout while there is nothing to interrupt, and whoever enqueues,
//! who must wake it. Not for: waking workers ([`Idle`](crate::Idle) does).
//!
//! # Protocol
//!
//! ```text
//! enqueuer                          timer
//!   publish the item                  armed = 0
//!   light fence                       heavy fence
//!   armed? yes: done                  is there anything to tick for? yes: armed = 1, go on ticking
//!   no: armed = 1, wake the timer     no: sleep while armed = 0
//! ```
//!
//! A Dekker pair: either the enqueuer sees `armed = 0` and wakes the timer, or the timer sees the item. The fences
//! are asymmetric ([`fence`]), so that enqueuing costs a load. The timer should disarm with hysteresis
//! (after some ticks in vain): each disarming costs a membarrier, and each arming a system call.

use core::time::Duration;

use crate::futex::{self, Futex};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::{const_fn, fence, mutant};

const DISARMED: u32 = 0;
const ARMED: u32 = 1;

/// The state of the timer, see the module's header.
///
/// | field | who writes | who reads | when |
/// |---|---|---|---|
/// | `word` | the timer (0, 1), enqueuers (1) | all | any time |
#[derive(Debug)]
pub struct Armed {
    word: AtomicU32,
    futex: Futex,
}

impl Armed {
    const_fn! {
        /// A timer that ticks.
        pub fn new() -> Self {
            Armed { word: AtomicU32::new(ARMED), futex: Futex::new() }
        }
    }

    /// To be called after each enqueueing that may need ticks. Anywhere; a load if the timer ticks, else it wakes it.
    #[inline(always)]
    pub fn enqueue_check(&self) {
        if !mutant!("armed-no-light-fence") {
            fence::light();
        }
        // Relaxed: the fence above pairs with the heavy one in `try_disarm`.
        if self.word.load(Ordering::Relaxed) != ARMED {
            self.rouse();
        }
    }

    /// Arms, and wakes the timer if it was not armed. Anywhere. errno is clobbered.
    #[cold]
    pub fn rouse(&self) {
        // Release pairs with the acquire in `wait`: the timer sees what the enqueuer did before. One enqueuer of many
        // makes the system call.
        if self.word.swap(ARMED, Ordering::AcqRel) != ARMED {
            self.futex.wake(&self.word, 1, futex::ANY);
        }
    }

    /// True if the timer ticks or is about to. Anywhere; a hint.
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.word.load(Ordering::Relaxed) == ARMED
    }

    /// Timer: disarms, unless there is something to tick for. `still_needed` looks at everything that enqueuers
    /// publish before [`enqueue_check`](Self::enqueue_check). False: still armed, go on ticking; true: [`wait`](Self::wait).
    pub fn try_disarm(&self, still_needed: impl FnOnce() -> bool) -> bool {
        // Relaxed: the fence orders it before the look. A swap, here and below, not a store: the fence hides the cost,
        // and the order of all writes to the word is then the one in which they happen, also to loom.
        self.word.swap(DISARMED, Ordering::Relaxed);
        if !mutant!("armed-no-heavy-fence") {
            fence::heavy();
        }
        if !mutant!("armed-no-second-look") && still_needed() {
            // Relaxed: nobody is to be woken but this thread.
            self.word.swap(ARMED, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Timer: sleeps until an enqueuer arms it (true) or the timeout is over (false; it is disarmed still, and should
    /// [`rouse`](Self::rouse) itself if it goes on ticking). Signals do not end it.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let start = timeout.map(|_| std::time::Instant::now());
        // Acquire pairs with the release in `rouse`.
        while self.word.load(Ordering::Acquire) == DISARMED {
            let left = match (timeout, start) {
                (Some(timeout), Some(start)) => match timeout.checked_sub(start.elapsed()) {
                    Some(left) if !left.is_zero() => Some(left),
                    _ => return false,
                },
                _ => None,
            };
            self.futex.wait(&self.word, DISARMED, futex::ANY, left);
        }
        true
    }
}

impl Default for Armed {
    fn default() -> Self {
        Armed::new()
    }
}
