//! Skinny products: a few rows of activations by many rows of codes, which are decoded in registers.
//!
//! Reading the weights is all the work, so each of them is decoded once for as many rows as registers hold sums of. One
//! kernel, [`Skinny`], groups the rows; the order of sums is its parameter: that of AMX steps
//! ([`float32`](super::float32)), or interleaved partial sums ([`interleaved`](super::interleaved)).

use crate::simd::{Kernel, Lanes};

/// The most rows of activations in a group.
const MAX_ROWS: usize = 8;

/// An order of sums of skinny products. Each output's order depends on k alone, not on the grouping of rows.
pub(super) trait SumOrder {
    /// True where a group may have more rows than are left.
    const PADDED: bool;
    /// Sizes of groups at levels of 16 lanes: bit `R` for groups of `R` rows. Bit 1 is set.
    const GROUPS_16: u16;
    /// Sizes of groups at narrower levels.
    const GROUPS: u16;

    /// Computes the products of `R` rows of activations, from `row` on, with all weights, or of as many as there are. False if
    /// the level cannot decode the format in registers.
    fn products<L: Lanes, const R: usize>(&mut self, l: L, row: usize) -> bool;
}

/// The products of `rows` rows of activations with all weights of an order. Returns false, and computes nothing, if the
/// level cannot decode the format in registers.
pub(super) struct Skinny<O> {
    /// The order of sums, with its operands.
    pub order: O,
    /// Rows of activations.
    pub rows: usize,
}

/// Sizes of groups at a level.
struct Groups<L, O>(std::marker::PhantomData<(L, O)>);

impl<L: Lanes, O: SumOrder> Groups<L, O> {
    const MASK: u16 = if L::N == 16 { O::GROUPS_16 } else { O::GROUPS };
}

/// The products of one group of rows, a function of its own.
struct Group<'a, O, const R: usize> {
    order: &'a mut O,
    row: usize,
}

impl<O: SumOrder, const R: usize> Kernel for Group<'_, O, R> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        self.order.products::<L, R>(l, self.row)
    }
}

impl<O: SumOrder> Kernel for Skinny<O> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) -> bool {
        let mut row = 0;
        while row < self.rows {
            let (mask, left) = (Groups::<L, O>::MASK, self.rows - row);
            let there = |size: &usize| mask >> size & 1 == 1;
            let padded = (left..=MAX_ROWS).find(|size| O::PADDED && there(size));
            let size = padded.or_else(|| (1..=MAX_ROWS.min(left)).rev().find(there)).unwrap_or(1);
            // A group size that the level does not have is not compiled.
            macro_rules! group {
                ($($rows:literal)*) => {
                    match size {
                        $($rows if const { Groups::<L, O>::MASK >> $rows & 1 == 1 } => {
                            l.call(Group::<O, $rows> { order: &mut self.order, row })
                        })*
                        _ => l.call(Group::<O, 1> { order: &mut self.order, row }),
                    }
                };
            }
            if !group!(2 3 4 5 6 7 8) {
                return false;
            }
            row += size;
        }
        true
    }
}
