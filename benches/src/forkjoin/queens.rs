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
        row(j, Board { all, columns: 0, left: 0, right: 0 }, all)
    }
}

/// What is attacked in the next row, one bit a column.
#[derive(Clone, Copy, Debug)]
struct Board {
    all: u32,
    columns: u32,
    left: u32,
    right: u32,
}

/// Ways to go on with one of `free` in this row.
fn row<J: Join>(j: &mut J, board: Board, free: u32) -> u64 {
    if free == 0 {
        return 0;
    }
    let queen = free & free.wrapping_neg();
    let others = free ^ queen;
    if others == 0 {
        return place(j, board, queen);
    }
    let (a, b) = j.join(|j| place(j, board, queen), |j| row(j, board, others));
    a + b
}

#[inline(always)]
fn place<J: Join>(j: &mut J, board: Board, queen: u32) -> u64 {
    let columns = board.columns | queen;
    if columns == board.all {
        return 1;
    }
    let (left, right) = ((board.left | queen) << 1, (board.right | queen) >> 1);
    row(j, Board { columns, left, right, ..board }, board.all & !(columns | left | right))
}
