//! What the database holds, as functions of the row number: the source of every row, and the known answer to every
//! query. Nothing here asks SQLite.

use std::fmt;

/// Raise it when a row changes: databases of another version are made anew.
pub(crate) const VERSION: i64 = 1;
pub(crate) const CUSTOMERS: u64 = 20_000;
pub(crate) const REGIONS: usize = 16;
pub(crate) const NOTE: usize = 48;

/// A row of `orders`; ids run from 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub customer: i64,
    pub day: i64,
    pub quantity: i64,
    pub cents: i64,
    pub note: [u8; NOTE],
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order { customer, day, quantity, cents, note } = self;
        let note = String::from_utf8_lossy(note);
        write!(f, "customer {customer}, day {day}, quantity {quantity}, cents {cents}, note {note:?}")
    }
}

/// SplitMix64's output function: every bit of the row number reaches every bit of the result.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn order(id: u64) -> Order {
    let h = mix(id);
    let mut note = [0; NOTE];
    for (i, chunk) in note.chunks_exact_mut(16).enumerate() {
        let word = mix(h ^ i as u64);
        for (j, byte) in chunk.iter_mut().enumerate() {
            *byte = b"abcdefghijklmnop"[(word >> (4 * j)) as usize & 15];
        }
    }
    Order {
        customer: (1 + h % CUSTOMERS) as i64,
        day: ((h >> 20) % 365) as i64,
        quantity: (1 + (h >> 30) % 9) as i64,
        cents: (100 + (h >> 36) % 99_900) as i64,
        note,
    }
}

/// The region of a row of `customer`; ids run from 1 to [`CUSTOMERS`].
pub(crate) fn region(customer: i64) -> usize {
    (mix(!customer as u64) >> 17) as usize % REGIONS
}

pub(crate) fn name(customer: i64) -> String {
    format!("customer {customer}")
}

/// As `name(customer) == text`, without the heap.
pub(crate) fn is_name(customer: i64, text: &str) -> bool {
    text.strip_prefix("customer ").and_then(|n| n.parse().ok()) == Some(customer)
}

/// One group of an analytic query's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub orders: i64,
    pub turnover: i64,
    pub least: i64,
    pub most: i64,
    /// The sum of all days, so that a column of small numbers is covered too.
    pub days: i64,
}

/// An analytic query, over the orders `first ..= last`, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Analysis {
    pub first: u64,
    pub last: u64,
    pub answer: [Group; REGIONS],
}

impl Analysis {
    pub(crate) fn over(first: u64, last: u64) -> Analysis {
        let mut answer = [Group { least: i64::MAX, ..Group::default() }; REGIONS];
        for id in first..=last {
            let o = order(id);
            let g = &mut answer[region(o.customer)];
            g.orders += 1;
            g.turnover += o.quantity * o.cents;
            g.least = g.least.min(o.cents);
            g.most = g.most.max(o.cents);
            g.days += o.day;
        }
        Analysis { first, last, answer }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.last - self.first + 1
    }
}
