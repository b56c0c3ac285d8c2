//! All ways to place n queens, with bit masks. The columns that are left in a row are forked one by one: this column, or one
//! of the others.

use super::join::{Join, Region};

/// How many ways there are for n queens, n from 1 to 31.
#[derive(Clone, Copy, Debug)]
pub struct Queens(pub u32);

impl Region for Queens {
    type Out = u64;

    fn call<J: Join>(self, j: &mut J) -> u64 {
        let all = (1 << self.0) - 1;
        row(j, all, 0, 0, 0, all)
    }
}

/// Ways to go on with one of `free` in this row; `columns`, `left` and `right` are attacked in it, one bit a column. By value: each half of a fork gets what it
/// needs in registers, as the serial program does.
fn row<J: Join>(j: &mut J, all: u32, columns: u32, left: u32, right: u32, free: u32) -> u64 {
    if free == 0 {
        return 0;
    }
    let queen = free & free.wrapping_neg();
    let others = free ^ queen;
    if others == 0 {
        return place(j, all, columns, left, right, queen);
    }
    let (a, b) = j.join(
        move |j| place(j, all, columns, left, right, queen),
        move |j| row(j, all, columns, left, right, others),
    );
    a + b
}

#[inline(always)]
fn place<J: Join>(j: &mut J, all: u32, columns: u32, left: u32, right: u32, queen: u32) -> u64 {
    let columns = columns | queen;
    if columns == all {
        return 1;
    }
    let (left, right) = ((left | queen) << 1, (right | queen) >> 1);
    row(j, all, columns, left, right, all & !(columns | left | right))
}
