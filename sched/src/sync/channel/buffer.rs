//! Where a channel keeps the values that nobody has asked for yet: a ring for bounded channels, linked blocks for unbounded ones.
//!
//! Both are used under the channel's lock, where nothing may be allocated, freed or dropped. So the ring is allocated with the
//! channel; a sender brings an empty block along when the last one is full ([`Buffer::push`] says so), and a receiver takes the
//! drained one away ([`Drained`]) and frees it after it has released the lock. One drained block is kept for the next sender,
//! so that a channel in steady use allocates nothing.

use std::mem::MaybeUninit;
use std::ptr;

/// The values of a channel, in order.
pub(super) enum Buffer<T> {
    Bounded(Ring<T>),
    Unbounded(Blocks<T>),
}

/// A block without values in it, to be freed outside the channel's lock; most often none.
#[must_use = "to be dropped outside the lock"]
pub(super) struct Drained<T>(#[expect(dead_code, reason = "held to be dropped")] Option<Box<Block<T>>>);

/// Why a value was not taken.
pub(super) enum Refused<T> {
    /// Wait for a receiver.
    Full(T),
    /// Come again with a [`Block::boxed`].
    NeedsBlock(T),
}

impl<T> Buffer<T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Buffer::Bounded(ring) => ring.len,
            Buffer::Unbounded(blocks) => blocks.len,
        }
    }

    /// Appends `value`, into the block in `spare` if it takes one.
    #[inline]
    pub(super) fn push(&mut self, value: T, spare: &mut Option<Box<Block<T>>>) -> Result<(), Refused<T>> {
        match self {
            Buffer::Bounded(ring) => ring.push(value).map_err(Refused::Full),
            Buffer::Unbounded(blocks) => blocks.push(value, spare).map_err(Refused::NeedsBlock),
        }
    }

    /// Takes the first value out.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(T, Drained<T>)> {
        match self {
            Buffer::Bounded(ring) => ring.pop().map(|value| (value, Drained(None))),
            Buffer::Unbounded(blocks) => blocks.pop(),
        }
    }
}

/// A fixed number of slots in a circle. `len` of them, from `head` on, hold values.
pub(super) struct Ring<T> {
    slots: Box<[MaybeUninit<T>]>,
    head: usize,
    len: usize,
}

impl<T> Ring<T> {
    /// Panics if `capacity` slots do not fit into the address space.
    pub(super) fn new(capacity: usize) -> Ring<T> {
        Ring { slots: Box::new_uninit_slice(capacity), head: 0, len: 0 }
    }

    fn push(&mut self, value: T) -> Result<(), T> {
        if self.len == self.slots.len() {
            return Err(value);
        }
        let mut i = self.head + self.len;
        if i >= self.slots.len() {
            i -= self.slots.len();
        }
        self.slots[i].write(value);
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: the slot at `head` holds a value while `len` is not 0, and with `head` moved on it no longer counts.
        let value = unsafe { self.slots[self.head].assume_init_read() };
        self.head += 1;
        if self.head == self.slots.len() {
            self.head = 0;
        }
        self.len -= 1;
        Some(value)
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Blocks of slots, linked. The values lie from slot `first` of block `head` to before slot `end` of block `tail`; `len` of them.
/// Both blocks are null, `first` 0 and `end` full, until the first value comes.
pub(super) struct Blocks<T> {
    head: *mut Block<T>,
    tail: *mut Block<T>,
    first: usize,
    end: usize,
    len: usize,
    /// An empty block for the next sender that needs one, or null.
    spare: *mut Block<T>,
}

/// Some slots, and the next block. Which slots hold values is known to [`Blocks`] alone.
pub(super) struct Block<T> {
    next: *mut Block<T>,
    slots: [MaybeUninit<T>; SLOTS],
}

const SLOTS: usize = 31;

// SAFETY: the blocks belong to this one structure, which hands out and takes values of `T` only.
unsafe impl<T: Send> Send for Blocks<T> {}

impl<T> Block<T> {
    /// A block without values.
    pub(super) fn boxed() -> Box<Block<T>> {
        let mut block = Box::<Block<T>>::new_uninit();
        // SAFETY: in the box's bounds; a plain pointer is written.
        unsafe { (&raw mut (*block.as_mut_ptr()).next).write(ptr::null_mut()) };
        // SAFETY: `next` is written and the slots need not be.
        unsafe { block.assume_init() }
    }
}

impl<T> Blocks<T> {
    pub(super) fn new() -> Blocks<T> {
        let none = ptr::null_mut();
        Blocks { head: none, tail: none, first: 0, end: SLOTS, len: 0, spare: none }
    }

    fn push(&mut self, value: T, spare: &mut Option<Box<Block<T>>>) -> Result<(), T> {
        if self.end == SLOTS && !self.grow(spare) {
            return Err(value);
        }
        // SAFETY: not null (`end` is below SLOTS), ours, and the slot at `end` holds no value.
        unsafe { (&raw mut (*self.tail).slots[self.end]).write(MaybeUninit::new(value)) };
        self.end += 1;
        self.len += 1;
        Ok(())
    }

    /// Links an empty block at the end: the kept one, or the one in `spare`.
    fn grow(&mut self, spare: &mut Option<Box<Block<T>>>) -> bool {
        let mut block = std::mem::replace(&mut self.spare, ptr::null_mut());
        if block.is_null() {
            match spare.take() {
                Some(new) => block = Box::into_raw(new),
                None => return false,
            }
        }
        if self.tail.is_null() {
            self.head = block;
        } else {
            // SAFETY: the last block is ours.
            unsafe { (*self.tail).next = block };
        }
        self.tail = block;
        self.end = 0;
        true
    }

    fn pop(&mut self) -> Option<(T, Drained<T>)> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: there is a value, so the first block is not null, and the slot at `first` holds the first value (see
        // below for `first` in a block that has been left); with `first` moved on it no longer counts.
        let value = unsafe { (*self.head).slots[self.first].assume_init_read() };
        self.first += 1;
        self.len -= 1;
        let mut drained = None;
        if self.first == SLOTS {
            drained = self.leave();
        }
        Some((value, Drained(drained)))
    }

    /// Unlinks the first block, all of whose values have been taken; returns it if it is not kept.
    fn leave(&mut self) -> Option<Box<Block<T>>> {
        let block = self.head;
        // SAFETY: the first block is ours.
        self.head = unsafe { std::mem::replace(&mut (*block).next, ptr::null_mut()) };
        self.first = 0;
        if self.head.is_null() {
            // It was the last as well, and full: the next value needs a block.
            self.tail = ptr::null_mut();
        }
        if self.spare.is_null() {
            self.spare = block;
            return None;
        }
        // SAFETY: it came from a box and nothing refers to it any more.
        Some(unsafe { Box::from_raw(block) })
    }
}

impl<T> Drop for Blocks<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
        for block in [self.head, self.spare] {
            if !block.is_null() {
                // SAFETY: without values, the first block is also the last one; both come from boxes and are ours.
                drop(unsafe { Box::from_raw(block) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::rc::Rc;

    fn push<T>(buffer: &mut Buffer<T>, value: T) -> bool {
        let mut spare = None;
        match buffer.push(value, &mut spare) {
            Ok(()) => true,
            Err(Refused::Full(_)) => false,
            Err(Refused::NeedsBlock(value)) => {
                spare = Some(Block::boxed());
                let done = buffer.push(value, &mut spare).is_ok();
                assert!(done && spare.is_none());
                done
            }
        }
    }

    /// Pushes and pops in all patterns of short runs, against a `VecDeque`.
    fn check(mut buffer: Buffer<Rc<usize>>, capacity: usize) {
        let unit = Rc::new(0);
        let mut model = VecDeque::new();
        let mut random = 1_u64;
        for i in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let run = (random >> 33) as usize % 80;
            for j in 0..run {
                if random >> 63 == 0 {
                    let value = Rc::new(i * 100 + j);
                    assert_eq!(push(&mut buffer, Rc::clone(&value)), model.len() < capacity);
                    if model.len() < capacity {
                        model.push_back(value);
                    }
                } else {
                    assert_eq!(buffer.pop().map(|(v, _)| v), model.pop_front());
                }
                assert_eq!(buffer.len(), model.len());
            }
        }
        while buffer.len() < capacity.min(100) {
            assert!(push(&mut buffer, Rc::clone(&unit)));
        }
        drop(model);
        drop(buffer);
        assert_eq!(Rc::strong_count(&unit), 1);
    }

    #[test]
    fn blocks_are_a_queue() {
        check(Buffer::Unbounded(Blocks::new()), usize::MAX);
    }

    #[test]
    fn a_ring_is_a_queue() {
        for capacity in [0, 1, 2, 3, 31, 100] {
            check(Buffer::Bounded(Ring::new(capacity)), capacity);
        }
    }
}
