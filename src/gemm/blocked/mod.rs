//! Products in blocks of a few rows by one or two vectors of columns, at the vector levels.
//!
//! The side of fewer rows are the columns, whichever it is: they are transposed, once for each segment of k, and as many of
//! them as the second-level cache holds are multiplied by all rows of the other, which are only decoded. How
//! operands are packed and in which order products are added is a [`BlockOrder`]; intervals, scales, initial sums and
//! outputs are the same for all of them.

mod kernel;
mod output;
mod runs;
mod sums;
mod task;
mod transpose;

pub(super) use output::{KeptScratch, Region, Scratch};
pub(super) use runs::{segments, KRun, KSegment};
#[cfg(target_arch = "x86_64")]
pub(super) use sums::{LoadSums, Place, StoreSums, SumCopy};
#[cfg(target_arch = "x86_64")]
pub(super) use task::scales;
pub(super) use task::{BlockTask, WIDE};
pub(super) use transpose::{StoreColumns, TransposeRun};

use super::job::{Side, Tile};
use crate::simd::{Ahead, Kernel, Lanes, PackedColumns};
use std::ops::Range;

/// A product of two operands.
#[derive(Clone, Copy)]
pub(super) struct Problem<O> {
    pub a: O,
    pub b: O,
    pub k: usize,
    pub interval: usize,
    pub chained: bool,
}

/// Some rows of a side.
#[derive(Clone, Copy)]
pub(super) struct Part<O> {
    pub of: O,
    pub first: usize,
    pub count: usize,
}

impl<O: Copy> Problem<O> {
    /// Chooses the rows and the columns of a region; they are those of `b` and `a` if it is turned.
    pub fn sides(&self, region: &Region<'_>, turned: bool) -> (Part<O>, Part<O>) {
        let a = Part { of: self.a, first: region.a_row(0), count: region.size.0 };
        let b = Part { of: self.b, first: region.b_row(0), count: region.size.1 };
        if turned {
            (b, a)
        } else {
            (a, b)
        }
    }
}

/// One side of a product, however its codes are held.
pub(super) trait SideOperand: Copy {
    /// The side with its scales, if it has codes.
    fn side(&self) -> Option<&Side<'_>>;

    /// Offsets of the scales of some rows.
    fn scales_at(&self, first: usize, count: usize) -> Vec<usize> {
        let Some(side) = self.side() else { return vec![0; count] };
        let at =
            |row: usize| (row / side.rows * side.blocks.0 + row % side.rows / side.group.0) * side.blocks.1;
        (first..first + count).map(|row| if side.scales.is_some() { at(row) } else { 0 }).collect()
    }

    /// The scale at `k` of the row with scales from offset `at` on.
    #[inline(always)]
    fn scale(&self, at: usize, k: usize) -> f32 {
        let scale = |side: &Side<'_>| side.scales.map(|scales| scales[at + k / side.group.1]);
        self.side().and_then(scale).unwrap_or(1.0)
    }

    /// The scales at `k` of rows with scales from the offsets `at` on.
    #[inline(always)]
    fn scales(&self, at: &[usize], k: usize, out: &mut [f32]) {
        let scaled = self.side().and_then(|side| Some((side.scales?, side.group.1)));
        let Some((scales, group)) = scaled else { return out.fill(1.0) };
        let scales = &scales[k / group..];
        for (out, at) in out.iter_mut().zip(at) {
            *out = scales[*at];
        }
    }
}

/// The most vectors of columns that a kernel multiplies.
const VECTORS: usize = 2;
/// Multiple of columns at which tiles are cut for threads.
const CUT: usize = 64;
/// Rows of the result in a task, if there are as many.
const TASK_ROWS: usize = 512;

/// An order of sums at a level: how both sides are packed, and how the products of a run are added.
pub(super) trait BlockOrder: Copy {
    /// The lanes of the level.
    type L: Lanes;
    /// Either side.
    type Operand: SideOperand;
    /// An element of what [`BlockOrder::pack_columns`] puts near each other.
    type Near: Copy + Default;
    /// Rows whose sums fill the registers beside one vector of columns, and beside two: 24, 12, 6 or 3.
    const ROWS: [usize; VECTORS];
    /// k of the longest run, and float32 that a column of it is packed as.
    const RUN: [usize; 2];
    /// k of a segment, and float32 that a row of it is packed as.
    const DEEP: [usize; 2];
    /// The sum that a result begins with, where none is given.
    const START: f32 = 0.0;
    /// Rows of `a` that are too few to be lanes, of which most would be idle.
    const FEW: usize = 12;
    /// Distance of packed rows: a power of two would map them to the same cache sets.
    const STRIDE: usize;

    /// The lanes.
    fn lanes(self) -> Self::L;
    /// Runs part of a kernel as a function of its own, with the level's features.
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.lanes().call(kernel)
    }
    /// Chooses what to prefetch: some k of some rows.
    fn ahead(self, side: &Self::Operand, rows: Range<usize>, k: Range<usize>) -> Ahead;
    /// Packs some k of some rows, each [`BlockOrder::STRIDE`] after the one before.
    fn pack_rows(self, side: &Self::Operand, rows: Range<usize>, k: Range<usize>, out: &mut [f32]);
    /// Packs a run of `count` columns, rows of `side` from `row` on, as one vector; the others are zeros.
    fn pack_columns(
        self,
        side: &Self::Operand,
        row: usize,
        count: usize,
        run: &KRun,
        near: &mut [Self::Near],
        out: &mut [f32],
    );
    /// Parts of a run, beside each of which something is prefetched.
    fn parts(length: usize) -> usize;
    /// Adds the products of a run of `length` k to the sums of `R` rows by `V` vectors of columns, and prefetches beside it.
    fn add_products<const R: usize, const V: usize>(
        self,
        rows: PackedRows<'_>,
        columns: PackedColumns<'_>,
        length: usize,
        ahead: &mut Ahead,
        sums: &mut Sums<Self::L, R, V>,
    );
}

/// Packed rows.
#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a> {
    /// The rows, each [`BlockOrder::STRIDE`] after the one before.
    pub items: &'a [f32],
    /// The first k.
    pub at: usize,
}

/// The sums of a block, in registers.
pub(super) type Sums<L, const R: usize, const V: usize> = [[<L as Lanes>::F; V]; R];

/// Cuts tiles for the threads: along the rows, where there are many of them, else along the columns.
pub(super) fn blocks(whole: Vec<Tile<'_>>, threads: usize) -> Vec<Tile<'_>> {
    let mut blocks = Vec::new();
    for tile in whole {
        let down = (tile.rows() / TASK_ROWS).clamp(1, threads);
        let across = threads.div_ceil(down);
        let height = tile.rows().div_ceil(down);
        let width = tile.cols().div_ceil(across).next_multiple_of(CUT);
        tile.cut(height, width, &mut blocks);
    }
    blocks
}
