//! The kernel: a run of k of a few rows by one or two vectors of columns.

use super::{BlockOrder, KRun, PackedRows};
use crate::simd::{Ahead, Kernel, Lanes, PackedColumns};

/// The place of a block: its packed operands, scales and sums.
pub(super) struct Block<'a> {
    pub rows: PackedRows<'a>,
    pub columns: PackedColumns<'a>,
    pub run: &'a KRun,
    /// How often as many rows as the kernel has.
    pub groups: usize,
    pub ahead: Ahead,
    /// A scale for each row, and one for each column.
    pub scales: (&'a [f32], &'a [f32]),
    /// Sums of intervals, and final ones: the rows of one vector after those of the other.
    pub partial: &'a mut [f32],
    pub done: &'a mut [f32],
    /// From the sums of one vector to those of the next.
    pub next: usize,
}

/// Adds a run of `R` rows and `V` vectors of columns.
pub(super) struct AddRun<'a, O, const R: usize, const V: usize> {
    pub order: O,
    pub block: Block<'a>,
}

impl<O: BlockOrder, const R: usize, const V: usize> Kernel for AddRun<'_, O, R, V> {
    type Out = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
    fn run<L: Lanes>(self, _: L) {
        let AddRun { order, block: Block { rows, columns, run, groups, ahead, scales, partial, done, next } } =
            self;
        let (l, lanes) = (order.lanes(), O::L::N);
        let of_columns = &scales.1[..V * lanes];
        let length = run.end - run.begin;
        let mut ahead = ahead.beside(groups * O::parts(length));
        for group in 0..groups {
            let (first, of_rows) = (group * R * lanes, &scales.0[group * R..][..R]);
            let rows = PackedRows { items: &rows.items[group * R * O::STRIDE..], at: rows.at };
            let mut sums = [[l.f32(0.0); V]; R];
            if !run.opens {
                for v in 0..V {
                    let partial = &partial[v * next + first..][..R * lanes];
                    for r in 0..R {
                        sums[r][v] = l.load_f32(&partial[r * lanes..(r + 1) * lanes]);
                    }
                }
            }
            order.add_products(rows, columns, length, &mut ahead, &mut sums);
            for v in 0..V {
                let at = v * next + first..v * next + first + R * lanes;
                if !run.closes {
                    let partial = &mut partial[at];
                    for r in 0..R {
                        l.store_f32(sums[r][v], &mut partial[r * lanes..(r + 1) * lanes], false);
                    }
                    continue;
                }
                let (of_columns, done) = (l.load_f32(&of_columns[v * lanes..(v + 1) * lanes]), &mut done[at]);
                for r in 0..R {
                    let done = &mut done[r * lanes..(r + 1) * lanes];
                    let scale = l.fmul(l.f32(of_rows[r]), of_columns);
                    l.store_f32(l.fma(scale, sums[r][v], l.load_f32(done)), done, false);
                }
            }
        }
    }
}
