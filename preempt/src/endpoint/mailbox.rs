//! A mailbox: one vector, many senders, and the receiver knows which of them sent what, without a descriptor or a vector for each pair.
//!
//! Each sender owns one of a fixed number of slots, which holds one letter. A send writes the slot, sets the slot's bit and posts the vector; who takes a letter clears the
//! bit and then owns what is in the slot until it has emptied it. No allocation and no lock on either side, so both may run in a sub-handler or a signal handler;
//! making and dropping senders is ordinary code.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `marks`: a bit a slot | its sender sets it after it has filled the slot; a taker clears it before it reads | takers |
//! | `state` of a slot | see below | both |
//! | `message` | the sender in WRITING | the taker that cleared the mark |
//! | `owner` | whoever claims the slot, in CLAIMED | the same taker; the sender |
//!
//! ```text
//! FREE ─claim─► CLAIMED ─► EMPTY ─send─► WRITING ─► FULL ─taken─► EMPTY
//! FREE ◄─dropped── EMPTY        FULL ─dropped─► LAST ─taken─► FREE
//! ```
//!
//! Each arrow is a compare-and-exchange with acquire and release, so whoever moves a slot sees what the one before left in it.

use super::Vector;
use super::sender::{SendError, Sender};
use core::fmt;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use std::sync::Arc;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const EMPTY: u32 = 2;
const WRITING: u32 = 3;
const FULL: u32 = 4;
const LAST: u32 = 5;

#[derive(Debug)]
#[repr(align(64))] // senders do not share a cache line
struct Slot {
    state: AtomicU32,
    message: AtomicU64,
    owner: AtomicU64,
}

impl Slot {
    fn moves(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }
}

#[derive(Debug)]
struct Slots {
    slots: Box<[Slot]>,
    marks: Box<[AtomicU64]>,
    /// Where the next take begins to look, so that no sender is served before all others; only a hint.
    next: AtomicUsize,
    /// Senders made so far.
    made: AtomicU64,
}

/// Which sender of a mailbox. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenderId(u64);

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a mailbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Letter {
    /// Who sent it: what [`MailSender::id`] says there.
    pub from: SenderId,
    /// What was sent.
    pub message: u64,
}

/// Why a letter was not sent, or a sender not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MailError {
    /// This sender's previous letter has not been taken; later it may succeed.
    Full,
    /// All slots of the mailbox are taken by senders.
    NoSlot,
    /// As for any sender.
    Send(SendError),
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailError::Full => f.write_str("the previous letter has not been taken"),
            MailError::NoSlot => f.write_str("the mailbox has no slot left for a sender"),
            MailError::Send(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MailError {}

impl From<SendError> for MailError {
    fn from(error: SendError) -> Self {
        MailError::Send(error)
    }
}

/// The receiver's end of a mailbox.
///
/// ```
/// use unyield_preempt::endpoint::{Builder, Vector};
///
/// let mut builder = Builder::new();
/// let mailbox = builder.mailbox(Vector::new(5).unwrap(), 2);
/// let registration = builder.register()?;
/// let (first, second) = (registration.mail_sender(mailbox.route())?, registration.mail_sender(mailbox.route())?);
/// let (a, b) = (first.id(), second.id());
/// let others = [std::thread::spawn(move || first.send(10)), std::thread::spawn(move || second.send(20))];
/// let mut sum = 0;
/// while sum != 30 {
///     registration.wait(None);
///     while let Some(letter) = mailbox.take() {
///         assert!(letter.from == a && letter.message == 10 || letter.from == b && letter.message == 20);
///         sum += letter.message;
///     }
/// }
/// # for other in others { other.join().unwrap()?; }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Mailbox {
    route: MailRoute,
}

/// How senders for a mailbox are made: see [`Registration::mail_sender`](super::Registration::mail_sender).
#[derive(Clone, Debug)]
pub struct MailRoute {
    slots: Arc<Slots>,
    vector: Vector,
}

impl MailRoute {
    /// The mailbox's vector.
    pub fn vector(&self) -> Vector {
        self.vector
    }
}

impl Mailbox {
    pub(super) fn new(vector: Vector, senders: usize) -> Self {
        assert!((1..=65536).contains(&senders), "a mailbox has 1 to 65536 slots");
        let slot =
            || Slot { state: AtomicU32::new(FREE), message: AtomicU64::new(0), owner: AtomicU64::new(0) };
        let slots = Slots {
            slots: (0..senders).map(|_| slot()).collect(),
            marks: (0..senders.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
            made: AtomicU64::new(0),
        };
        Mailbox { route: MailRoute { slots: Arc::new(slots), vector } }
    }

    /// Makes senders.
    pub fn route(&self) -> &MailRoute {
        &self.route
    }

    /// Takes one letter, if there is one; senders are served in turn. Any thread, any context.
    pub fn take(&self) -> Option<Letter> {
        let Slots { slots, marks, next, .. } = &*self.route.slots;
        let start = next.load(Relaxed) % slots.len();
        let first = start / 64;
        // The first word twice: from the start on, and at the end what lies before.
        for i in 0..=marks.len() {
            let word = (first + i) % marks.len();
            let mask = if i == 0 { !0 << (start % 64) } else { !0 };
            while let Some(bit) = lowest(marks[word].load(Relaxed) & mask) {
                // Acquire, with the release of the sender that set the mark.
                if marks[word].fetch_and(!(1 << bit), AcqRel) >> bit & 1 == 0 {
                    continue; // another taker was faster
                }
                let place = word * 64 + bit as usize;
                let slot = &slots[place];
                let letter =
                    Letter { from: SenderId(slot.owner.load(Relaxed)), message: slot.message.load(Relaxed) };
                if !slot.moves(FULL, EMPTY) {
                    slot.state.store(FREE, Release); // LAST: nobody else moves it
                }
                next.store(place + 1, Relaxed);
                return Some(letter);
            }
        }
        None
    }
}

fn lowest(bits: u64) -> Option<u32> {
    (bits != 0).then(|| bits.trailing_zeros())
}

/// Sends letters into one mailbox. It can be shared, but holds one letter at a time; [`another`](MailSender::another) makes one that is told apart.
#[derive(Debug)]
pub struct MailSender {
    route: MailRoute,
    place: usize,
    sender: Sender,
}

impl MailSender {
    pub(super) fn new(route: &MailRoute, sender: Sender) -> Result<Self, MailError> {
        let place = route.slots.slots.iter().position(|slot| slot.moves(FREE, CLAIMED));
        let place = place.ok_or(MailError::NoSlot)?;
        let slot = &route.slots.slots[place];
        slot.owner.store(route.slots.made.fetch_add(1, Relaxed), Relaxed);
        slot.state.store(EMPTY, Release); // CLAIMED: nobody else moves it
        Ok(MailSender { route: route.clone(), place, sender })
    }

    fn slot(&self) -> &Slot {
        &self.route.slots.slots[self.place]
    }

    /// Which sender this is.
    pub fn id(&self) -> SenderId {
        SenderId(self.slot().owner.load(Relaxed))
    }

    /// Another sender into the same mailbox, with a slot and an identity of its own, under the same terms. Ordinary code.
    ///
    /// # Errors
    /// [`MailError::NoSlot`].
    pub fn another(&self) -> Result<MailSender, MailError> {
        MailSender::new(&self.route, self.sender.clone())
    }

    /// Sends `message` and interrupts the receiver, like [`Sender::send`]. Any context.
    ///
    /// # Errors
    /// [`MailError::Full`] while the last letter lies there; what [`Sender::send`] says. In both cases nothing was sent.
    pub fn send(&self, message: u64) -> Result<(), MailError> {
        let slot = self.slot();
        if !slot.moves(EMPTY, WRITING) {
            return Err(MailError::Full);
        }
        if let Err(error) = self.sender.permit() {
            slot.state.store(EMPTY, Release); // WRITING: nobody else moves it
            return Err(error.into());
        }
        slot.message.store(message, Relaxed);
        slot.state.store(FULL, Release);
        self.route.slots.marks[self.place / 64].fetch_or(1 << (self.place % 64), Release); // pairs with `take`
        self.sender.post();
        Ok(())
    }
}

impl Drop for MailSender {
    /// A letter that lies there is still taken.
    fn drop(&mut self) {
        let leave = |state| match state {
            EMPTY => Some(FREE),
            FULL => Some(LAST),
            _ => None, // impossible: nobody else sends, and we are not
        };
        let _ = self.slot().state.fetch_update(AcqRel, Acquire, leave);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Builder;
    use super::*;

    #[test]
    fn slots_are_given_back_and_letters_survive_their_senders() {
        let mut builder = Builder::new();
        let mailbox = builder.mailbox(Vector::LOWEST, 70);
        let registration = builder.register().unwrap();
        let senders: Vec<_> = (0..70).map(|_| registration.mail_sender(mailbox.route()).unwrap()).collect();
        assert_eq!(senders[3].another().unwrap_err(), MailError::NoSlot);
        for (i, sender) in senders.iter().enumerate() {
            sender.send(i as u64).unwrap();
            assert_eq!(sender.send(0), Err(MailError::Full));
        }
        let id = senders[69].id();
        drop(senders);
        assert!(registration.mail_sender(mailbox.route()).is_err(), "their letters lie there");
        let letters: Vec<_> = std::iter::from_fn(|| mailbox.take()).collect();
        assert_eq!(letters.len(), 70);
        assert!(letters.contains(&Letter { from: id, message: 69 }));
        let again = registration.mail_sender(mailbox.route()).unwrap();
        assert!(letters.iter().all(|letter| letter.from != again.id()));
    }

    #[test]
    fn senders_are_served_in_turn() {
        let mailbox = {
            let mut builder = Builder::new();
            builder.mailbox(Vector::LOWEST, 3)
        };
        let registration = Builder::new().register().unwrap();
        let senders: Vec<_> = (0..3).map(|_| registration.mail_sender(mailbox.route()).unwrap()).collect();
        senders[0].send(0).unwrap();
        senders[2].send(2).unwrap();
        assert_eq!(mailbox.take().unwrap().message, 0);
        senders[0].send(0).unwrap();
        senders[1].send(1).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| mailbox.take()).map(|letter| letter.message).collect();
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn a_refused_letter_leaves_no_trace() {
        let mut builder = Builder::new();
        let mailbox = builder.mailbox(Vector::LOWEST, 1);
        let registration = builder.register().unwrap();
        let (sender, grant) = registration.mail_grant(mailbox.route()).unwrap();
        grant.revoke();
        assert_eq!(sender.send(1), Err(MailError::Send(SendError::Revoked)));
        assert_eq!(sender.send(1), Err(MailError::Send(SendError::Revoked)), "not full");
        assert_eq!(mailbox.take(), None);
    }
}
