//! Signals that carry a value: a receiver's timer (SI_TIMER) and sends from other processes (SI_QUEUE).
//!
//! The value is a [`Token`], which names the port by its place in a table, so that nothing is dereferenced on the word of a sender: the port found must be the
//! one whose receiver the handler runs on. Places are taken and left by the receiver's own thread, and read by the signal handler on the
//! same thread (elsewhere only compared), so a port that matches is alive.
//!
//! Called by `backend::signal`'s handler, before and after it decides about the notification.

use super::Vector;
use super::port::Port;
use crate::gate::gate;
use crate::receiver::Receiver;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicUsize};

const PLACES: usize = 1024;
static TABLE: [AtomicPtr<Port>; PLACES] = [const { AtomicPtr::new(null_mut()) }; PLACES];
/// No place from here on was ever taken.
static HIGH: AtomicUsize = AtomicUsize::new(0);

/// What a signal carries, from the top: one bit set (no address of a program has it), 23 bits by which grants are told apart, 24 bits
/// that say it is ours, 10 bits of place, 6 bits of vector (63: the timer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Token(u64);

const OURS: u64 = 0x75_6e79;
const TIMER: u8 = 63;

impl Token {
    pub(super) fn timer(place: u16) -> Token {
        Token(1 << 63 | OURS << 16 | (place as u64) << 6 | TIMER as u64)
    }

    pub(super) fn remote(place: u16, nonce: u32, vector: Vector) -> Token {
        let nonce = (nonce as u64 & 0x7f_ffff) << 40;
        Token(1 << 63 | nonce | OURS << 16 | (place as u64) << 6 | vector.get() as u64)
    }

    pub(super) fn from_bits(bits: u64) -> Option<Token> {
        (bits >> 63 == 1 && bits >> 16 & 0xff_ffff == OURS).then_some(Token(bits))
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn value(self) -> libc::sigval {
        libc::sigval { sival_ptr: self.0 as *mut libc::c_void }
    }

    fn place(self) -> usize {
        (self.0 >> 6) as usize & (PLACES - 1)
    }

    fn vector(self) -> u8 {
        self.0 as u8 & 63
    }
}

/// Takes a place for a port of the calling thread; `None`: there are 1024 already.
pub(super) fn take(port: *const Port) -> Option<u16> {
    for (place, entry) in TABLE.iter().enumerate() {
        if entry.compare_exchange(null_mut(), port.cast_mut(), Release, Relaxed).is_ok() {
            HIGH.fetch_max(place + 1, Relaxed);
            return Some(place as u16);
        }
    }
    None
}

/// Leaves a place. The thread that took it.
pub(super) fn leave(place: u16) {
    TABLE[place as usize].store(null_mut(), Release);
}

/// A signal has come in. True: it is ours, and nobody else's.
///
/// # Safety
/// In the signal handler, with its siginfo; `receiver` is what the gate names.
#[inline]
pub(crate) unsafe fn arrived(receiver: *const Receiver, info: *const libc::siginfo_t) -> bool {
    // SAFETY: the kernel's siginfo, as promised.
    let code = unsafe { (*info).si_code };
    if code != libc::SI_QUEUE && code != libc::SI_TIMER {
        return false;
    }
    // SAFETY: both codes fill the value.
    let value = unsafe { (*info).si_value() }.sival_ptr as u64;
    let Some(token) = Token::from_bits(value) else { return false };
    let port = TABLE[token.place()].load(Acquire);
    if port.is_null() || port.cast::<Receiver>() != receiver.cast_mut() {
        return true; // for a registration that has ended
    }
    // SAFETY: its receiver is the one we run on (it is the first field), so it is alive; see the module.
    let port = unsafe { &*port };
    match (code, token.vector()) {
        (libc::SI_TIMER, TIMER) => port.timer_fired(),
        (libc::SI_QUEUE, vector)
            if vector != TIMER
                && token == Token::remote(token.place() as u16, port.nonce(), Vector(vector)) =>
        {
            port.post_here(vector)
        }
        _ => {} // revoked
    }
    true
}

/// The handler has decided. If it refused for a reason that passes by itself, an endpoint's delivery is tried again: nobody else would.
///
/// # Safety
/// In the signal handler; `receiver` is what the gate names, and not null.
#[inline]
pub(crate) unsafe fn settled(receiver: &Receiver) {
    // Injected or deferred: the gate is closed. Nothing to do: nothing is pending.
    if gate().depth() == 0 && receiver.pending() != 0 {
        retry(receiver);
    }
}

#[cold]
fn retry(receiver: &Receiver) {
    let high = HIGH.load(Relaxed);
    let mine = |entry: &&AtomicPtr<Port>| core::ptr::eq(entry.load(Acquire).cast::<Receiver>(), receiver);
    if let Some(entry) = TABLE[..high].iter().find(mine) {
        // SAFETY: alive, as in `arrived`.
        unsafe { (*entry.load(Acquire)).retry() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_what_they_are_made_of() {
        let token = Token::remote(1023, 0xffff_ffff, Vector::HIGHEST);
        assert_eq!((token.place(), token.vector()), (1023, 62));
        assert_eq!(Token::from_bits(token.bits()), Some(token));
        assert_ne!(token, Token::remote(1023, 1, Vector::HIGHEST));
        assert_eq!(Token::timer(5).vector(), TIMER);
        assert_eq!(Token::from_bits(&raw const token as u64), None, "an address is no token");
    }
}
