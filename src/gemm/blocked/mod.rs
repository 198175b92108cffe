//! Products in blocks of a few rows by two vectors of columns, at the vector levels.
//!
//! Rows of `a` stay in the second-level cache for a segment of k, the columns of one run of `b` in the first. How
//! operands are packed and in which order products are added is a [`BlockOrder`]; intervals, scales, initial sums and
//! outputs are the same for all of them.

mod output;
mod runs;

pub(super) use output::{Region, Scratch};
pub(super) use runs::{segments, KRun, KSegment};

use super::job::{Side, Tile};
use crate::interrupt::poll;
use crate::simd::{Kernel, Lanes};
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

/// One side of a product, however its codes are held.
pub(super) trait SideOperand: Copy {
    /// The side.
    fn side(&self) -> &Side<'_>;

    /// Offsets of the scales of some rows.
    fn scales_at(&self, first: usize, count: usize) -> Vec<usize> {
        let side = self.side();
        let at =
            |row: usize| (row / side.rows * side.blocks.0 + row % side.rows / side.group.0) * side.blocks.1;
        (first..first + count).map(|row| if side.scales.is_some() { at(row) } else { 0 }).collect()
    }

    /// The scale at `k` of the row with scales from offset `at` on.
    #[inline(always)]
    fn scale(&self, at: usize, k: usize) -> f32 {
        match self.side().scales {
            Some(scales) => scales[at + k / self.side().group.1],
            None => 1.0,
        }
    }

    /// The scales at `k` of rows with scales from the offsets `at` on.
    #[inline(always)]
    fn scales(&self, at: &[usize], k: usize, out: &mut [f32]) {
        let Some(scales) = self.side().scales else { return out.fill(1.0) };
        let scales = &scales[k / self.side().group.1..];
        for (out, at) in out.iter_mut().zip(at) {
            *out = scales[*at];
        }
    }
}

/// Vectors of columns.
pub(super) const VECTORS: usize = 2;
/// The most lanes.
const WIDE: usize = VECTORS * 16;
/// The most rows of a block of `a`.
const TALL: usize = 504;
/// Rows of a block are a multiple of this, as those of every kernel are.
const EACH: usize = 12;
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
    /// k of the longest run, and float32 that a column of it is packed as.
    const RUN: [usize; 2];
    /// k of a segment, and float32 that a row of it is packed as.
    const DEEP: [usize; 2];
    /// Distance of packed rows: a power of two would map them to the same cache sets.
    const STRIDE: usize = Self::DEEP[1] + 16;

    /// The lanes.
    fn lanes(self) -> Self::L;
    /// Runs part of a kernel as a function of its own, with the level's features.
    fn call<K: Kernel>(self, kernel: K) -> K::Out;
    /// Packs some k of a row, which go over the whole of `out`.
    fn pack_row(self, side: &Self::Operand, row: usize, k: Range<usize>, out: &mut [f32]);
    /// Packs a run of `count` columns, rows of `side` from `row` on; the others are zeros.
    fn pack_columns(
        self,
        side: &Self::Operand,
        row: usize,
        count: usize,
        run: &KRun,
        near: &mut [Self::Near],
        out: &mut [f32],
    );
    /// Adds the products of `length` k to the sums of `R` rows, whose packed items at k `at` are those of the run.
    fn add_products<const R: usize>(
        self,
        lhs: &[f32],
        at: usize,
        rhs: &[f32],
        length: usize,
        sums: &mut Sums<Self::L, R>,
    );
}

/// The sums of a block, in registers.
pub(super) type Sums<L, const R: usize> = [[<L as Lanes>::F; VECTORS]; R];

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

/// Rows of the kernel that registers are full with.
#[inline(always)]
const fn kernel_rows<L: Lanes>() -> usize {
    match L::N {
        16 => 12,
        8 => 6,
        _ => 4,
    }
}

/// Rows of the kernels for what is left.
const FOUR: usize = 4;

/// Computes a region of the result.
pub(super) struct BlockTask<'a, 'o, O: BlockOrder> {
    pub order: O,
    pub p: &'a Problem<O::Operand>,
    pub region: &'a mut Region<'o>,
}

impl<O: BlockOrder> Kernel for BlockTask<'_, '_, O> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let BlockTask { order, p, region } = self;
        let ((rows, columns), lanes) = (region.size, O::L::N);
        let segments = segments(p, O::RUN[0], O::DEEP[0]);
        region.prepare(&segments);
        // As many rows in each block, so that no few rows are left: columns are packed anew for each block.
        let tall = rows.div_ceil(rows.div_ceil(TALL).max(1)).next_multiple_of(EACH).min(TALL);
        let mut work = Workspace::<O> {
            order,
            lhs: Scratch::new(tall * O::STRIDE),
            near: Scratch::new(O::RUN[1] * VECTORS * lanes),
            rhs: Scratch::new(O::RUN[1] * VECTORS * lanes),
            done: Scratch::new(tall * VECTORS * lanes),
            partial: Scratch::new(tall * VECTORS * lanes),
            row_scales: Vec::new(),
            rows_at: p.a.scales_at(region.a_row(0), rows),
            columns_at: p.b.scales_at(region.b_row(0), columns),
        };
        for segment in &segments {
            for row in (0..rows).step_by(tall.max(1)) {
                work.rows(p, segment, region, row..rows.min(row + tall));
            }
        }
    }
}

/// The buffers of a task.
struct Workspace<O: BlockOrder> {
    order: O,
    lhs: Scratch<f32>,
    near: Scratch<O::Near>,
    rhs: Scratch<f32>,
    done: Scratch<f32>,
    partial: Scratch<f32>,
    /// Scales of each run, for the rows of a block.
    row_scales: Vec<f32>,
    /// Offsets of the scales of each row and column of the region.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
}

/// A part of a region.
#[derive(Clone, Copy)]
struct Rectangle {
    row: usize,
    rows: usize,
    column: usize,
    width: usize,
}

impl<O: BlockOrder> Workspace<O> {
    /// Computes the rows of a block of `a`.
    #[inline(always)]
    fn rows(
        &mut self,
        p: &Problem<O::Operand>,
        segment: &KSegment,
        region: &mut Region<'_>,
        block: Range<usize>,
    ) {
        let (row, rows, width) = (block.start, block.len(), VECTORS * O::L::N);
        let k = segment.range();
        for (i, lhs) in self.lhs.get_mut().chunks_mut(O::STRIDE).enumerate().take(rows) {
            self.order.pack_row(&p.a, region.a_row(row + i), k.clone(), lhs);
        }
        self.row_scales.clear();
        for run in &segment.runs {
            for at in &self.rows_at[row..row + rows] {
                self.row_scales.push(p.a.scale(*at, run.begin));
            }
        }
        for column in (0..region.size.1).step_by(width) {
            poll();
            let rectangle = Rectangle { row, rows, column, width };
            self.begin(p, segment, region, rectangle);
            for (t, run) in segment.runs.iter().enumerate() {
                let count = (region.size.1 - column).min(width);
                let (near, rhs) = (self.near.get_mut(), self.rhs.get_mut());
                self.order.pack_columns(&p.b, region.b_row(column), count, run, near, rhs);
                let mut scales = [0f32; WIDE];
                for (to, at) in scales.iter_mut().zip(&self.columns_at[column..]).take(width) {
                    *to = p.b.scale(*at, run.begin);
                }
                self.run(run, run.begin - k.start, t * rows..(t + 1) * rows, &scales);
            }
            self.end(p, segment, region, rectangle);
        }
    }

    /// Loads the initial sums.
    #[inline(always)]
    fn begin(&mut self, p: &Problem<O::Operand>, segment: &KSegment, region: &Region<'_>, place: Rectangle) {
        let Rectangle { row, rows, column, width } = place;
        let kept = !p.chained && segment.runs.first().is_some_and(|r| !r.opens);
        let (done, partial) = (self.done.get_mut(), self.partial.get_mut());
        for i in 0..rows {
            let at = i * width..(i + 1) * width;
            let sums = if p.chained { &mut *partial } else { &mut *done };
            region.load(segment, row + i, column, &mut sums[at.clone()]);
            if kept {
                region.load_partial(row + i, column, &mut partial[at]);
            }
        }
    }

    /// Stores the sums.
    #[inline(always)]
    fn end(
        &mut self,
        p: &Problem<O::Operand>,
        segment: &KSegment,
        region: &mut Region<'_>,
        place: Rectangle,
    ) {
        let Rectangle { row, rows, column, width } = place;
        let keep = !p.chained && segment.runs.last().is_some_and(|r| !r.closes);
        let (done, partial) = (self.done.get(), self.partial.get());
        for i in 0..rows {
            let at = i * width..(i + 1) * width;
            region.store(segment, row + i, column, &(if p.chained { partial } else { done })[at.clone()]);
            if keep {
                region.keep_partial(row + i, column, &partial[at]);
            }
        }
    }

    /// Computes one run of a panel of columns, for all rows of the block.
    #[inline(always)]
    fn run(&mut self, run: &KRun, at: usize, of_rows: Range<usize>, of_columns: &[f32; WIDE]) {
        let (order, width) = (self.order, VECTORS * O::L::N);
        let (lhs, rhs) = (self.lhs.get(), self.rhs.get());
        let (partial, done) = (self.partial.get_mut(), self.done.get_mut());
        let of_rows = &self.row_scales[of_rows];
        let mut first = 0;
        while first < of_rows.len() {
            let left = of_rows.len() - first;
            let block = first * width..;
            let (partial, done) = (&mut partial[block.clone()], &mut done[block]);
            let (lhs, scales) = (&lhs[first * O::STRIDE..], (&of_rows[first..], of_columns));
            macro_rules! add {
                ($rows:literal) => {{
                    order.call(AddRun::<O, $rows> { order, lhs, at, rhs, run, scales, partial, done });
                    $rows
                }};
            }
            first += match const { O::L::N } {
                16 if left >= kernel_rows::<O::L>() => add!(12),
                8 if left >= kernel_rows::<O::L>() => add!(6),
                _ if left >= FOUR => add!(4),
                _ => add!(1),
            };
        }
    }
}

/// Adds a run of `R` rows and two vectors of columns.
struct AddRun<'a, O: BlockOrder, const R: usize> {
    order: O,
    lhs: &'a [f32],
    at: usize,
    rhs: &'a [f32],
    run: &'a KRun,
    scales: (&'a [f32], &'a [f32; WIDE]),
    partial: &'a mut [f32],
    done: &'a mut [f32],
}

impl<O: BlockOrder, const R: usize> Kernel for AddRun<'_, O, R> {
    type Out = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
    fn run<L: Lanes>(self, _: L) {
        let (l, lanes, width) = (self.order.lanes(), O::L::N, VECTORS * O::L::N);
        let mut sums = [[l.f32(0.0); VECTORS]; R];
        if !self.run.opens {
            for r in 0..R {
                for v in 0..VECTORS {
                    sums[r][v] = l.load_f32(&self.partial[r * width + v * lanes..]);
                }
            }
        }
        let length = self.run.end - self.run.begin;
        self.order.add_products(self.lhs, self.at, self.rhs, length, &mut sums);
        for r in 0..R {
            for v in 0..VECTORS {
                let at = r * width + v * lanes;
                if self.run.closes {
                    let scale = l.fmul(l.f32(self.scales.0[r]), l.load_f32(&self.scales.1[v * lanes..]));
                    let sum = l.fma(scale, sums[r][v], l.load_f32(&self.done[at..]));
                    l.store_f32(sum, &mut self.done[at..], false);
                } else {
                    l.store_f32(sums[r][v], &mut self.partial[at..], false);
                }
            }
        }
    }
}
