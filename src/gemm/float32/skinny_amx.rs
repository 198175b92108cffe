//! Products where a has few rows (a few tokens decoded together, an expert with its share of them), through AMX.
//!
//! All the work is to read b, the weights. So they are the left-hand operand of the tiles, which needs no turning, 32
//! rows of them at a time, and the few rows are the right-hand one, prepared once for all tasks. Weights are widened
//! one segment ahead of the products: a tile must not load what was only just stored.

use super::output::{Region, Scratch};
use super::runs::{segments, Segment};
use super::tiles::{Promotion, Rows, Spread, Widen, WidenColumns, APART, SIDE};
use super::{Problem, Restart, STEP};
use crate::gemm::job::{Job, Tile};
use crate::simd::amx::{Amx, Left, Sums, Tiles};
use crate::simd::{Kernel, Lanes};
use crate::threads::{num_threads, run_tasks};
use std::ops::Range;

/// The most rows that count as few: widening b twice costs less than turning it once.
pub(super) const MOST: usize = 64;
/// The fewest: for one or two, vectors are as fast as b can be read.
pub(super) const LEAST: usize = 3;
/// k that are widened at a time: 32 rows of it stay in the first-level cache, twice.
const DEEP: usize = 256;
/// Words between the rows of a segment, and words of one.
const STRIDE: usize = DEEP + APART;
const LEFT: usize = SIDE * STRIDE;
/// Columns of the result that a task takes at least.
const NARROWEST: usize = 128;
/// Tasks for each thread, that they may end together.
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
    let right = run_tasks(work, rows, |(row, count)| amx.vectors().enter(Prepare { p, row, count }));
    let mut tasks = Vec::new();
    for (tile, right) in bands.into_iter().zip(&right) {
        let columns = tile.cols().div_ceil(num_threads() * TASKS).max(NARROWEST).next_multiple_of(SIDE);
        let mut parts = Vec::new();
        tile.cut(SIDE, columns, &mut parts);
        tasks.extend(parts.into_iter().map(|part| (part, right.get())));
    }
    run_tasks(work, tasks, |(tile, right)| {
        let restart = Restart::of(job, &tile);
        let mut region = Region::new(tile);
        if region.size.0 <= 16 {
            amx.vectors().enter(Task::<1> { amx, p, right, region: &mut region });
        } else {
            amx.vectors().enter(Task::<2> { amx, p, right, region: &mut region });
        }
        restart.finish(region);
    });
}

/// The few rows as right-hand operand: tiles of 16 columns, of which only as many are kept as there are rows.
struct Prepare<'a> {
    p: &'a Problem<'a>,
    row: usize,
    count: usize,
}

impl Kernel for Prepare<'_> {
    type Out = Scratch<u16>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Scratch<u16> {
        let Prepare { p, row, count } = self;
        let (width, tiles) = (count.min(16), count.div_ceil(16));
        let mut wide = [0u16; STEP * SIDE];
        let mut right = Scratch::new(p.k.div_ceil(STEP) * tiles * STEP * width);
        for (step, out) in right.get_mut().chunks_exact_mut(tiles * STEP * width).enumerate() {
            let (begin, end) = (step * STEP, p.k.min(step * STEP + STEP));
            let rows = Rows { side: &p.a, row, count, stride: p.k };
            l.call(WidenColumns { rows, begin, end, out: &mut wide[..tiles * STEP * 16] });
            for (out, wide) in out.chunks_exact_mut(2 * width).zip(wide.chunks_exact(32)) {
                out.copy_from_slice(&wide[..2 * width]);
            }
        }
        right
    }
}

struct Task<'a, 'o, const COLUMNS: usize> {
    amx: Amx,
    p: &'a Problem<'a>,
    right: &'a [u16],
    region: &'a mut Region<'o>,
}

impl<const COLUMNS: usize> Kernel for Task<'_, '_, COLUMNS> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Task { amx, p, right, region } = self;
        let mut work = Work {
            left: Scratch::new(2 * LEFT),
            sums: Box::new(Block([[[0.0; 16]; 64]; 3])),
            rows_at: p.a.scales_at(region.a_row(0), region.size.0),
            columns_at: p.b.scales_at(region.b_row(0), region.size.1),
            of_rows: [0.0; SIDE],
            of_columns: [0.0; SIDE],
        };
        let tiles = amx.tiles(region.size.0.min(16));
        let segments = segments(p, DEEP, DEEP);
        for column in (0..region.size.1).step_by(SIDE) {
            work.columns::<L, COLUMNS>(l, p, &tiles, &segments, region, right, column);
        }
    }
}

#[repr(align(64))]
struct Block([Sums; 3]);

/// What a task works in.
struct Work {
    /// Two segments of 32 rows of weights.
    left: Scratch<u16>,
    /// Final sums, and the partial ones of two intervals.
    sums: Box<Block>,
    /// Where the scales of the few rows, and of the weights' begin.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
    /// Scales of an interval.
    of_rows: [f32; SIDE],
    of_columns: [f32; SIDE],
}

impl Work {
    /// Up to 32 columns of the result.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // two operands and a place
    fn columns<L: Lanes, const COLUMNS: usize>(
        &mut self,
        l: L,
        p: &Problem<'_>,
        tiles: &Tiles,
        segments: &[Segment],
        region: &mut Region<'_>,
        right: &[u16],
        column: usize,
    ) {
        let count = (region.size.1 - column).min(SIDE);
        let rows = Rows { side: &p.b, row: region.b_row(column), count, stride: p.k };
        let columns_at = &self.columns_at[column..column + count];
        let one_group = columns_at.iter().all(|at| *at == columns_at[0]);
        let (mut now, mut next) = self.left.get_mut().split_at_mut(LEFT);
        let Block([done, partial, waiting]) = &mut *self.sums;
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
            let left = Left { words: &*now, stride: STRIDE };
            for run in &segment.runs {
                let steps = (run.end - run.begin).div_ceil(STEP);
                let (at_left, at_right) = ((run.begin - k.start) / STEP, run.begin / STEP);
                let promotion = Promotion {
                    l,
                    partial: &*waiting,
                    done: &mut *done,
                    rows: &self.of_columns,
                    columns: &self.of_rows,
                };
                let pieces = if promote { 32 * COLUMNS } else { 0 };
                let beside = Spread { promotion, pieces, each: 16_usize.div_ceil(steps) };
                tiles.product::<COLUMNS>(left, at_left, right, at_right, steps, run.opens, partial, beside);
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
            let (rows, columns) = (&self.of_columns, &self.of_rows);
            let mut promotion = Promotion { l, partial: &*waiting, done: &mut *done, rows, columns };
            for i in 0..64 {
                promotion.piece(i);
            }
        }
        let done = if p.chained { partial } else { done };
        for row in 0..region.size.0 {
            let mut sums = [0.0; SIDE];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = done[i / 16 * 32 + row / 16 * 16 + i % 16][row % 16];
            }
            region.store(&WHOLE, row, column, &sums);
        }
    }
}

/// Sums are read and written once.
const WHOLE: Segment = Segment { runs: Vec::new(), first: true, last: true };

/// What the sums begin with, turned: the result's columns are rows here.
#[inline(always)]
fn begin(segment: &Segment, region: &Region<'_>, column: usize, sums: &mut Sums) {
    *sums = [[0.0; 16]; 64];
    if !region.has_c() {
        return;
    }
    for row in 0..region.size.0 {
        let mut start = [0.0; SIDE];
        region.load(segment, row, column, &mut start);
        for (i, start) in start.into_iter().enumerate() {
            sums[i / 16 * 32 + row / 16 * 16 + i % 16][row % 16] = start;
        }
    }
}

/// Up to 32 rows of weights. Asks for what follows in time: the same rows' next segment, or the next rows' first.
#[inline(always)]
fn widen<L: Lanes>(l: L, rows: Rows<'_>, k: Range<usize>, out: &mut [u16]) {
    let ahead = if k.end < rows.stride { k.len() } else { SIDE * rows.stride - k.start };
    l.call(Widen { rows, begin: k.start, end: k.end, ahead, stride: STRIDE, out });
}
