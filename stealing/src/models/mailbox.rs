//! What a victim hands over arrives once, whoever withdraws meanwhile; idle workers that ask each other do not wait for ever.

use super::*;
use crate::{Answer, Mailbox};

/// Who has taken back its request, or was refused.
const NOTHING: Option<NonNull<Item>> = None;

/// A victim's mailbox and two thieves'.
type Boxes = [Mailbox<Item>; 3];

impl Shared<Boxes> {
    /// Looks for the answer until it is there, or, after `patience` looks, the request can be taken back.
    fn answer(&self, thief: usize, patience: usize) -> Option<NonNull<Item>> {
        let [victim, me] = [&self.queue[0], &self.queue[thief]];
        let mut looks = 0;
        loop {
            match me.poll() {
                Some(Answer::Item(item)) => return Some(item),
                Some(Answer::Refused) => return NOTHING,
                None => {}
            }
            looks += 1;
            if looks == patience && me.withdraw(victim) {
                return NOTHING;
            }
            thread::yield_now();
        }
    }

    /// Asks `times` times.
    fn steal(&self, thief: usize, times: usize, patience: usize) {
        for _ in 0..times {
            // SAFETY: asks nobody else; the mailboxes lie side by side.
            if unsafe { self.queue[thief].ask(&self.queue[0], 1) }
                && let Some(item) = self.answer(thief, patience)
            {
                self.took(item);
            }
        }
    }
}

/// The victim looks `rounds` times whether it is asked, and has one item.
fn victim_and_thieves(thieves: &'static [fn(&Shared<Boxes>)], rounds: usize) {
    model(move || {
        let shared = Shared::new(Boxes::default());
        let thieves: Vec<_> = thieves.iter().map(|thief| spawn(&shared, thief)).collect();
        let item = Cell::new(Some(filled(1)));
        let mut given = 0;
        for _ in 0..rounds {
            // SAFETY: the victim's thread; what is given is given away.
            if shared.queue[0].is_asked() && unsafe { shared.queue[0].respond(|| item.take()) } {
                given += 1;
            }
        }
        if let Some(item) = item.take() {
            assert_eq!(given, 0);
            shared.took(item);
        }
        for thief in thieves {
            thief.join().unwrap();
        }
        assert_eq!(shared.sum(), 1, "the item was lost");
        assert!(!shared.queue[0].is_asked(), "a request stayed");
    });
}

#[test]
fn a_thief_that_asks_again() {
    victim_and_thieves(&[|s| s.steal(1, 2, 1)], 2);
    victim_and_thieves(&[|s| s.steal(1, 2, 2)], 3);
}

#[test]
fn two_thieves() {
    victim_and_thieves(&[|s| s.steal(1, 1, 1), |s| s.steal(2, 1, 1)], 2);
}

#[test]
fn two_thieves_of_which_one_asks_again() {
    victim_and_thieves(&[|s| s.steal(1, 2, 1), |s| s.steal(2, 1, 2)], 2);
}

/// The answer comes after the thief's own reset in the order of changes, so that it stays.
#[test]
fn an_answer_is_not_overwritten() {
    model(|| {
        let shared = Shared::new(Boxes::default());
        // SAFETY: asks nobody else; the mailboxes lie side by side.
        assert!(unsafe { shared.queue[1].ask(&shared.queue[0], 1) });
        let item = shared.answer(1, 1);
        assert!(item.is_none() && !shared.queue[0].is_asked());
        let victim = spawn(&shared, |s| {
            // SAFETY: the victim's thread; a new item.
            while !unsafe { s.queue[0].respond(|| Some(filled(1))) } {
                thread::yield_now();
            }
        });
        // SAFETY: as above.
        assert!(unsafe { shared.queue[1].ask(&shared.queue[0], 1) });
        victim.join().unwrap();
        let Some(Answer::Item(item)) = shared.queue[1].poll() else { panic!("the answer was lost") };
        shared.took(item);
        assert_eq!(shared.sum(), 1);
    });
}

/// Two workers without work ask each other at the same time, and wait for as long as it takes.
#[test]
fn two_idle_workers() {
    model(|| {
        let shared = Shared::new(Boxes::default());
        let idle = |s: &Shared<Boxes>, me: usize, other: usize| {
            let (me, other) = (&s.queue[me], &s.queue[other]);
            // SAFETY: asks nobody else; the mailboxes lie side by side.
            if unsafe { me.ask(other, 1) } {
                while me.poll().is_none() {
                    // SAFETY: the thread to which the mailbox belongs.
                    unsafe { me.respond(|| None) };
                    thread::yield_now();
                }
            }
        };
        let other = spawn(&shared, move |s| {
            idle(s, 1, 0);
            // Goes on being idle until nobody can ask any more.
            while s.sum() == 0 {
                // SAFETY: the thread to which the mailbox belongs.
                unsafe { s.queue[1].respond(|| None) };
                thread::yield_now();
            }
        });
        idle(&shared, 0, 1);
        shared.sum.store(1, Ordering::Relaxed);
        while shared.queue[0].is_asked() {
            // SAFETY: the thread to which the mailbox belongs.
            unsafe { shared.queue[0].respond(|| None) };
        }
        other.join().unwrap();
    });
}

/// A thief that would like two gets two, or what there is.
#[test]
fn several_at_once() {
    for there in 1..=2 {
        model(move || {
            let shared = Shared::new(Boxes::default());
            let thief = spawn(&shared, |s| {
                // SAFETY: asks nobody else; the mailboxes lie side by side.
                if unsafe { s.queue[1].ask(&s.queue[0], 2) }
                    && let Some(item) = s.answer(1, 2)
                {
                    s.took(item);
                    s.queue[1].more().for_each(|item| s.took(item));
                }
            });
            let items: Vec<_> = (0..there).map(|i| filled(10_usize.pow(i))).collect();
            let mut left = items.iter().copied();
            for _ in 0..2 {
                // SAFETY: the victim's thread; what is given is given away.
                unsafe { shared.queue[0].respond(|| left.next()) };
            }
            for item in left {
                shared.took(item);
            }
            thief.join().unwrap();
            assert_eq!(shared.sum(), [1, 11][there as usize - 1]);
        });
    }
}
