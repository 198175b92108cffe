//! Skinny products through AMX: `a` has few rows (tokens decoded together, an expert's share of them).
//!
//! Reading `b`, the weights, is all the work. They are the left-hand operand of the tiles, 32 rows at a time, which needs
//! no transpose; the few rows are the right-hand operand, packed once for all tasks. Weights are widened one segment ahead
//! of the products: a tile load must not follow the stores that it reads.

use super::promote::{Promotion, Spread};
use super::widen::{Finish, OperandRows, WidenRhs, Widening, ROW_GAP, SIDE, TILE};
use super::with_tiles::redo_subnormal;
use super::{Problem, STEP};
use crate::gemm::blocked::{segments, KSegment, Region, Scratch, SideOperand};
use crate::gemm::job::{Job, Tile};
use crate::simd::amx::{Amx, Lhs, Sums, Tiles};
use crate::simd::{Kernel, Lanes};
use crate::threads::{run_tasks, threads_for};
use std::ops::Range;

/// The most rows: those of two tiles.
pub(super) const MAX_ROWS: usize = 32;
/// The fewest rows: for one or two, vectors are as fast as memory.
pub(super) const MIN_ROWS: usize = 3;
/// k widened at a time: 32 rows of it fit the first-level cache, twice.
const DEEP: usize = 256;
/// Words from one row of a segment to the next, and words of a segment.
const STRIDE: usize = DEEP + ROW_GAP;
const WEIGHTS: usize = SIDE * STRIDE;
/// The fewest columns of the result in a task.
const NARROWEST: usize = 128;
/// Tasks for each thread, so that threads finish together.
const TASKS: usize = 4;

/// Computes tiles of few rows.
pub(super) fn product(job: &Job<'_>, p: &Problem<'_>, whole: Vec<Tile<'_>>, work: usize) {
    let Some(amx) = Amx::detect() else { return };
    let mut bands = Vec::new();
    for tile in whole {
        let (rows, columns) = (tile.rows().div_ceil(tile.rows().div_ceil(SIDE)), tile.cols());
        tile.cut(rows, columns, &mut bands);
    }
    let rows: Vec<_> = bands.iter().map(|tile| (tile.a_row, tile.rows())).collect();
    let activations =
        run_tasks(work, rows, |(row, count)| amx.vectors().enter(PackActivations { p, row, count }));
    let mut tasks = Vec::new();
    for (tile, activations) in bands.into_iter().zip(&activations) {
        let columns = tile.cols().div_ceil(threads_for(work) * TASKS).max(NARROWEST).next_multiple_of(SIDE);
        let mut parts = Vec::new();
        tile.cut(SIDE, columns, &mut parts);
        tasks.extend(parts.into_iter().map(|part| (part, activations.get())));
    }
    run_tasks(work, tasks, |(tile, activations)| {
        let mut region = Region::new(tile);
        if region.size.0 <= 16 {
            amx.vectors().enter(SkinnyAmxTask::<1> { amx, p, activations, region: &mut region });
        } else {
            amx.vectors().enter(SkinnyAmxTask::<2> { amx, p, activations, region: &mut region });
        }
        redo_subnormal(job, &mut region);
    });
}

/// Packs the few rows as the right-hand operand: tiles of 16 columns, of which as many are kept as there are rows.
struct PackActivations<'a> {
    p: &'a Problem<'a>,
    row: usize,
    count: usize,
}

impl Kernel for PackActivations<'_> {
    type Out = Scratch<u16>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Scratch<u16> {
        let PackActivations { p, row, count } = self;
        let (width, tiles) = (count.min(16), count.div_ceil(16));
        let mut wide = [0u16; 2 * TILE];
        let mut activations = Scratch::new(p.k.div_ceil(STEP) * tiles * STEP * width);
        for (step, out) in activations.get_mut().chunks_exact_mut(tiles * STEP * width).enumerate() {
            let k = step * STEP..p.k.min(step * STEP + STEP);
            let rows = OperandRows { side: p.a, row, count };
            l.call(WidenRhs { rows, k, tiles, out: &mut wide[..tiles * TILE] });
            for (out, wide) in out.chunks_exact_mut(2 * width).zip(wide.chunks_exact(32)) {
                out.copy_from_slice(&wide[..2 * width]);
            }
        }
        activations
    }
}

struct SkinnyAmxTask<'a, 'o, const COLUMNS: usize> {
    amx: Amx,
    p: &'a Problem<'a>,
    activations: &'a [u16],
    region: &'a mut Region<'o>,
}

impl<const COLUMNS: usize> Kernel for SkinnyAmxTask<'_, '_, COLUMNS> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let SkinnyAmxTask { amx, p, activations, region } = self;
        let mut work = SkinnyAmxWorkspace {
            weights: Scratch::new(2 * WEIGHTS),
            sums: Box::new(SumBlocks([[[0.0; 16]; 64]; 3])),
            rows_at: p.a.scales_at(region.a_row(0), region.size.0),
            columns_at: p.b.scales_at(region.b_row(0), region.size.1),
            of_rows: [0.0; SIDE],
            of_columns: [0.0; SIDE],
        };
        let tiles = amx.tiles(region.size.0.min(16));
        let segments = segments(p, DEEP, DEEP);
        for column in (0..region.size.1).step_by(SIDE) {
            work.columns::<L, COLUMNS>(l, p, &tiles, &segments, region, activations, column);
        }
    }
}

#[repr(align(64))]
struct SumBlocks([Sums; 3]);

/// The buffers of a task.
struct SkinnyAmxWorkspace {
    /// Two segments of 32 rows of weights.
    weights: Scratch<u16>,
    /// Final sums, and the partial sums of two intervals.
    sums: Box<SumBlocks>,
    /// Offsets of the scales of each row of the activations and of the weights.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
    /// Scales of an interval.
    of_rows: [f32; SIDE],
    of_columns: [f32; SIDE],
}

impl SkinnyAmxWorkspace {
    /// Up to 32 columns of the result.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // two operands and a place
    fn columns<L: Lanes, const COLUMNS: usize>(
        &mut self,
        l: L,
        p: &Problem<'_>,
        tiles: &Tiles,
        segments: &[KSegment],
        region: &mut Region<'_>,
        activations: &[u16],
        column: usize,
    ) {
        let count = (region.size.1 - column).min(SIDE);
        let rows = OperandRows { side: p.b, row: region.b_row(column), count };
        let columns_at = &self.columns_at[column..column + count];
        let one_group = columns_at.iter().all(|at| *at == columns_at[0]);
        let (mut now, mut next) = self.weights.get_mut().split_at_mut(WEIGHTS);
        let SumBlocks([done, partial, waiting]) = &mut *self.sums;
        let (mut partial, mut waiting) = (partial, waiting);
        begin(&WHOLE, region, column, done);
        if p.chained {
            *partial = *done;
        }
        let mut promote = false;
        widen(l, rows, segments[0].range(), now);
        for (i, segment) in segments.iter().enumerate() {
            let (k, later) = (segment.range(), segments.get(i + 1));
            if let Some(later) = later {
                widen(l, rows, later.range(), next);
            }
            let weights = Lhs { words: &*now, stride: STRIDE };
            for run in &segment.runs {
                let steps = (run.end - run.begin).div_ceil(STEP);
                let (at_left, at_right) = ((run.begin - k.start) / STEP, run.begin / STEP);
                let promotion = promote
                    .then(|| Promotion::<L, COLUMNS>::new(l, waiting, done, &self.of_columns, &self.of_rows));
                let beside = Spread::new(promotion, 2 * COLUMNS * steps);
                tiles.product::<COLUMNS, 0>(
                    weights,
                    at_left,
                    activations,
                    at_right,
                    steps,
                    run.opens,
                    partial,
                    beside,
                );
                promote = run.closes;
                if run.closes {
                    std::mem::swap(&mut partial, &mut waiting);
                    if one_group {
                        self.of_columns = [p.b.scale(columns_at[0], run.begin); SIDE];
                    } else {
                        for (to, at) in self.of_columns.iter_mut().zip(columns_at) {
                            *to = p.b.scale(*at, run.begin);
                        }
                    }
                    for (to, at) in self.of_rows.iter_mut().zip(&self.rows_at) {
                        *to = p.a.scale(*at, run.begin);
                    }
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        if promote {
            Promotion::<L, COLUMNS>::new(l, waiting, done, &self.of_columns, &self.of_rows).whole();
        }
        let done = if p.chained { partial } else { done };
        for row in 0..region.size.0 {
            let mut sums = [0.0; SIDE];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = done[row / 16 * SIDE + i][row % 16];
            }
            region.store(&WHOLE, row, column, &sums);
        }
    }
}

/// Sums are read and written once.
const WHOLE: KSegment = KSegment { runs: Vec::new(), first: true, last: true };

/// Loads the initial sums, transposed: columns of the result are rows here.
#[inline(always)]
fn begin(segment: &KSegment, region: &Region<'_>, column: usize, sums: &mut Sums) {
    *sums = [[0.0; 16]; 64];
    if !region.has_c() {
        return;
    }
    for row in 0..region.size.0 {
        let mut start = [0.0; SIDE];
        region.load(segment, row, column, &mut start);
        for (i, start) in start.into_iter().enumerate() {
            sums[row / 16 * SIDE + i][row % 16] = start;
        }
    }
}

/// Widens up to 32 rows of weights. Prefetches the next segment of the same rows, or the first of the next rows.
#[inline(always)]
fn widen<L: Lanes>(l: L, rows: OperandRows<'_>, k: Range<usize>, out: &mut [u16]) {
    let stride = rows.stride();
    let ahead = if k.end < stride { k.len() } else { SIDE * stride - k.start };
    l.call(Finish(Widening::new(rows, k, ahead, STRIDE, out)));
}
