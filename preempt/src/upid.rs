//! The posted requests of one receiver: the software twin of a user posted-interrupt descriptor (UPID).
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `pir`: one bit a vector | any sender sets, the receiver clears | both |
//! | `on`: a notification is on its way | senders set it, the signal handler clears it BEFORE it reads `pir` | senders |
//!
//! The request is the bit; the notification is only a nudge. A sender that finds `on` set need not send: the handler that will clear
//! it reads `pir` afterwards, so it sees the sender's bit. All accesses are SeqCst: each side writes one word and reads the other.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[derive(Debug, Default)]
pub(crate) struct Upid {
    pir: AtomicU64,
    on: AtomicBool,
}

impl Upid {
    /// Offsets, for the entry stub.
    pub(crate) const PIR: usize = core::mem::offset_of!(Upid, pir);
    pub(crate) const ON: usize = core::mem::offset_of!(Upid, on);

    pub(crate) const fn new() -> Self {
        Upid { pir: AtomicU64::new(0), on: AtomicBool::new(false) }
    }

    /// Posts `vector`. True: the caller must send the notification.
    #[inline]
    pub(crate) fn post(&self, vector: u8) -> bool {
        self.pir.fetch_or(1 << vector, SeqCst);
        !self.on.swap(true, SeqCst)
    }

    /// The handler is entered: later senders notify again. True if a notification was on its way.
    #[inline]
    pub(crate) fn acknowledge(&self) -> bool {
        if cfg!(unyield_mutant = "on_not_cleared") {
            return self.on.load(SeqCst);
        }
        self.on.swap(false, SeqCst)
    }

    #[inline]
    pub(crate) fn pending(&self) -> u64 {
        self.pir.load(SeqCst)
    }

    /// Forgets the given vectors.
    #[inline]
    pub(crate) fn clear(&self, bits: u64) {
        self.pir.fetch_and(!bits, SeqCst);
    }

    /// Takes the highest posted vector: only one, since its handler may switch away and go on as another worker's guest, and what is left
    /// belongs to this receiver.
    #[inline]
    pub(crate) fn take_highest(&self) -> Option<u8> {
        loop {
            let bits = self.pir.load(SeqCst);
            if bits == 0 {
                return None;
            }
            let vector = if cfg!(unyield_mutant = "low_to_high") {
                bits.trailing_zeros() as u8
            } else {
                63 - bits.leading_zeros() as u8
            };
            if self.pir.fetch_and(!(1 << vector), SeqCst) >> vector & 1 == 1 {
                return Some(vector);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_first_and_one_notification() {
        let upid = Upid::new();
        assert!(upid.post(1));
        assert!(!upid.post(63), "coalesced");
        assert!(!upid.post(7));
        assert!(upid.acknowledge());
        assert!(!upid.acknowledge());
        assert_eq!([63, 7, 1].map(Some), [upid.take_highest(), upid.take_highest(), upid.take_highest()]);
        assert_eq!(upid.take_highest(), None);
        assert!(upid.post(0), "acknowledged: the next sender notifies again");
    }

    #[test]
    fn clear_takes_only_what_is_named() {
        let upid = Upid::new();
        upid.post(1);
        upid.post(2);
        upid.clear(1 << 1);
        assert_eq!(upid.pending(), 1 << 2);
    }
}
