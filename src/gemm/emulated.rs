//! Products of emulated tensor cores in vectors: panels of sixteen columns, blocks of k, chains that run side by side.
//!
//! The order of every sum is the definition's, whatever the tiles: only k matters to it, and each output's k is
//! walked from front to back.

use super::accumulator::{Accumulator, ResultType, Unit};
use super::coded::CodedRows;
use super::definition;
use super::job::{each_tile, Job, Tile};
use super::layout::{NarrowLayout, WideLayout};
use super::pack::{ExponentRange, Layout, Source, BLOCK};
use crate::interrupt::poll;
use crate::simd::mma::{self, dispatch_mma, At, Floats, Mma, MmaTask, COLUMNS};
use crate::threads::threads_for;
use std::collections::HashSet;
use std::ops::Range;

/// Rows of a tile: a block of so many, laid out, stays in the second-level cache.
const HEIGHT: usize = 512;
/// The most columns of a tile. The rows are laid out anew for each.
const WIDTH: usize = 512;
/// The same at the scalar level.
const SCALAR_SIDE: usize = 64;
/// Rows whose chains run side by side.
const GROUP: usize = 16;

/// Elements of a cast that cost as much as one product.
const PER_PRODUCT: usize = 1;

/// Computes all tiles.
pub(super) fn run(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let work = job.work(&whole, PER_PRODUCT);
    let size = match dispatch_mma(Probe) {
        None => sides(&whole, threads_for(work)),
        Some(_) => (SCALAR_SIDE, SCALAR_SIDE),
    };
    each_tile(whole, size, work, |tile| {
        if let Some(EmulatedTask { job, tile }) = dispatch_mma(EmulatedTask { job, tile }) {
            definition::whole_tile(job, tile);
        }
    });
}

/// Asks whether there are vectors.
struct Probe;

impl MmaTask for Probe {
    fn run<L: Mma>(self, _l: L) {}
}

/// Sizes of tiles that give every thread some.
fn sides(whole: &[Tile<'_>], threads: usize) -> (usize, usize) {
    if threads == 1 {
        return (HEIGHT, WIDTH);
    }
    let (rows, cols) =
        (whole.iter().map(Tile::rows).sum::<usize>(), whole.iter().map(Tile::cols).max().unwrap_or(1));
    let (mut height, mut width) = (HEIGHT, WIDTH);
    // Narrower tiles cost another layout of the rows each, lower ones another layout of the columns.
    while rows.div_ceil(height) * cols.div_ceil(width) < 2 * threads && (height > 64 || width > 64) {
        if width > 64 && (width.min(cols) >= height.min(rows) || height <= 64) {
            width /= 2;
        } else {
            height /= 2;
        }
    }
    (height, width)
}

struct EmulatedTask<'a, 'b> {
    job: &'a Job<'a>,
    tile: Tile<'b>,
}

impl MmaTask for EmulatedTask<'_, '_> {
    fn run<L: Mma>(self, l: L) {
        let (job, unit) = (self.job, unit(self.job.accumulator));
        let man = job.a.format.man + job.b.format.man;
        if is_narrow(job.accumulator) {
            work(l, job, unit, self.tile, NarrowLayout { shift: 13 - man });
        } else {
            work(l, job, unit, self.tile, WideLayout);
        }
    }
}

/// True for units whose products fit 16-bit integers.
pub(super) fn is_narrow(accumulator: &Accumulator) -> bool {
    accumulator.fraction == 13
}

/// The vector unit of an accumulator.
pub(super) fn unit(accumulator: &Accumulator) -> mma::Unit {
    let software = accumulator.unit == Unit::Software;
    mma::Unit {
        products: if software { accumulator.products / 2 } else { accumulator.products },
        fraction: accumulator.fraction as i32,
        floor: accumulator.floor.unwrap_or(i32::MIN),
        half: accumulator.result == ResultType::Float16,
        software,
    }
}

/// Cuts k into blocks that are parts of one interval or hold whole ones.
fn blocks(k: usize, interval: usize) -> Vec<Range<usize>> {
    let (outer, inner) =
        if interval <= BLOCK { (BLOCK / interval * interval, BLOCK) } else { (interval, BLOCK) };
    let cut = |range: Range<usize>, len: usize| {
        range.clone().step_by(len).map(move |at| at..range.end.min(at.saturating_add(len)))
    };
    cut(0..k, outer).flat_map(|outer| cut(outer, inner)).collect()
}

/// Tests if a chain of the unit may begin with `c` in vectors.
fn takes(unit: mma::Unit, wide: bool, c: f32) -> bool {
    let exponent = (c.to_bits() >> 23 & 255) as i32 - 127;
    c == 0.0 || (unit.least_exponent(wide)..=100).contains(&exponent) || (unit.software && !unit.half)
}

/// Computes a tile.
fn work<L: Mma, F: Layout>(l: L, job: &Job<'_>, unit: mma::Unit, tile: Tile<'_>, layout: F) {
    let (rows, cols) = (tile.rows(), tile.cols());
    // One column of lines for each panel.
    let mut totals = vec![Floats([0.0; COLUMNS]); cols.div_ceil(COLUMNS) * rows];
    let mut refused = Vec::new();
    for (panel, totals) in totals.chunks_exact_mut(rows).enumerate() {
        for (row, total) in totals.iter_mut().enumerate() {
            for col in panel * COLUMNS..cols.min((panel + 1) * COLUMNS) {
                let c = tile.c(row, col);
                if job.chained && !takes(unit, unit.fraction != 13, c) {
                    refused.push((row, col));
                } else {
                    total.0[col % COLUMNS] = c;
                }
            }
        }
    }
    let (mut a_reach, mut b_reach) = (vec![ExponentRange::NONE; rows], vec![ExponentRange::NONE; cols]);
    match CodedRows::new::<L>(job, unit, rows, layout.shift()) {
        Some(few) => few.add(l, (tile.a_row, tile.b_row), &mut totals, (&mut a_reach, &mut b_reach)),
        None => taken_apart(l, job, unit, &tile, layout, &mut totals, (&mut a_reach, &mut b_reach)),
    }
    let wanted = |row: usize, col: usize| a_reach[row].needs_definition(b_reach[col]);
    finish(job, tile, &totals, wanted, &refused);
}

/// Adds the products of a tile to the totals, with both sides taken apart. Widens the ranges of both.
fn taken_apart<L: Mma, F: Layout>(
    l: L,
    job: &Job<'_>,
    unit: mma::Unit,
    tile: &Tile<'_>,
    layout: F,
    totals: &mut [Floats],
    (a_reach, b_reach): (&mut [ExponentRange], &mut [ExponentRange]),
) {
    let (rows, cols) = (tile.rows(), tile.cols());
    let step = unit.products * if unit.software { 2 } else { 1 };
    let through = !job.chained && job.interval > BLOCK; // partial sums that outlive a block
    let mut carried = vec![Floats([0.0; COLUMNS]); if through { totals.len() } else { 0 }];
    let (mut a, mut b) = (F::Rows::default(), vec![F::blank(); BLOCK / 2]);
    let a_src = Source::new(&job.a, unit);
    let b_src = Source::new(&job.b, unit);
    let interval = if job.chained { job.k.max(1) } else { job.interval };
    for block in blocks(job.k, interval) {
        let padded = block.len().next_multiple_of(step);
        layout.pack_rows(l, a_src.block(tile.a_row, block.clone()), padded, &mut a, a_reach);
        let ends = !job.chained && (block.end == job.k || block.end % interval == 0);
        let pieces = if ends { pieces(job, tile.a_row..tile.a_row + rows, &block) } else { Vec::new() };
        for (panel, totals) in totals.chunks_exact_mut(rows).enumerate() {
            poll();
            let columns = panel * COLUMNS..cols.min((panel + 1) * COLUMNS);
            let b_rows = tile.b_row + columns.start..tile.b_row + columns.end;
            let b = &mut b[..padded / 2];
            layout.pack_columns(l, b_src.block(b_rows.start, block.clone()), b, &mut b_reach[columns]);
            let chains = Chains::<L, F> { l, unit, a: &a, b, padded };
            if job.chained {
                chains.advance(0..padded, totals);
            } else if through {
                let carried = &mut carried[panel * rows..(panel + 1) * rows];
                if block.start % interval == 0 {
                    carried.fill(Floats([0.0; COLUMNS]));
                }
                chains.advance(0..padded, carried);
                for piece in &pieces {
                    let columns = piece.column_scales(job, b_rows.clone());
                    l.promote(
                        totals,
                        carried,
                        columns.as_ref().map(|columns| (&piece.row_scales[..], columns)),
                    );
                }
            } else {
                chains.promoted(job, b_rows, &pieces, totals);
            }
        }
    }
}

/// One block of all rows against one panel.
struct Chains<'a, L, F: Layout> {
    l: L,
    unit: mma::Unit,
    a: &'a F::Rows,
    b: &'a [F::Columns],
    padded: usize,
}

impl<L: Mma, F: Layout> Chains<'_, L, F> {
    /// Continues the chains of some rows, of which there are few enough to stay near, by a part of the block.
    fn group(&self, first: usize, part: Range<usize>, state: &mut [Floats]) {
        let at = At { first: first * self.padded + part.start, stride: self.padded };
        F::run(self.l, self.unit, self.a, at, &self.b[part.start / 2..part.end / 2], state);
    }

    /// Continues the chains of all rows.
    fn advance(&self, part: Range<usize>, state: &mut [Floats]) {
        for (i, state) in state.chunks_mut(GROUP).enumerate() {
            self.group(i * GROUP, part.clone(), state);
        }
    }

    /// Runs the intervals of the block from zero, and adds what comes of each to the totals.
    fn promoted(
        &self,
        job: &Job<'_>,
        b_rows: Range<usize>,
        pieces: &[PromotedInterval],
        totals: &mut [Floats],
    ) {
        let scales: Vec<_> = pieces.iter().map(|piece| piece.column_scales(job, b_rows.clone())).collect();
        for (i, totals) in totals.chunks_mut(GROUP).enumerate() {
            for (piece, columns) in pieces.iter().zip(&scales) {
                let mut state = [Floats([0.0; COLUMNS]); GROUP];
                let state = &mut state[..totals.len()];
                // the last interval may be short: it goes on to the end of the padding
                let end = if piece.last { self.padded } else { piece.part.end };
                self.group(i * GROUP, piece.part.start..end, state);
                let rows = piece.row_scales.get(i * GROUP..i * GROUP + totals.len());
                self.l.promote(totals, state, rows.zip(columns.as_ref()));
            }
        }
    }
}

/// An interval that ends in a block, and the factors of its sums.
struct PromotedInterval {
    /// Where it stands in the block.
    part: Range<usize>,
    /// True for the last interval of the block.
    last: bool,
    /// Its first k.
    k: usize,
    /// A factor for each row; none where nothing is scaled.
    row_scales: Vec<f32>,
}

/// The intervals that end in a block.
fn pieces(job: &Job<'_>, a_rows: Range<usize>, block: &Range<usize>) -> Vec<PromotedInterval> {
    let starts: Vec<usize> =
        (block.start / job.interval * job.interval..block.end).step_by(job.interval).collect();
    let piece = |k: usize| {
        let end = block.end.min(k.saturating_add(job.interval));
        let mut row_scales = vec![0.0; if job.scaled() { a_rows.len() } else { 0 }];
        job.a.scales_from(a_rows.start, k, &mut row_scales);
        PromotedInterval {
            part: k.saturating_sub(block.start)..end - block.start,
            last: end == block.end,
            k,
            row_scales,
        }
    };
    starts.into_iter().map(piece).collect()
}

impl PromotedInterval {
    /// A factor for each column; `None` where nothing is scaled.
    fn column_scales(&self, job: &Job<'_>, b_rows: Range<usize>) -> Option<Floats> {
        job.scaled().then(|| {
            let mut scales = Floats([0.0; COLUMNS]);
            job.b.scales_from(b_rows.start, self.k, &mut scales.0[..b_rows.len()]);
            scales
        })
    }
}

/// Writes a tile, after computing from the definition what the vectors could not take.
fn finish(
    job: &Job<'_>,
    tile: Tile<'_>,
    totals: &[Floats],
    too_far: impl Fn(usize, usize) -> bool,
    refused: &[(usize, usize)],
) {
    let (rows, cols) = (tile.rows(), tile.cols());
    let mut results = vec![0f32; rows * cols];
    for (row, results) in results.chunks_exact_mut(cols).enumerate() {
        for (panel, results) in results.chunks_mut(COLUMNS).enumerate() {
            results.copy_from_slice(&totals[panel * rows + row].0[..results.len()]);
        }
    }
    if !refused.is_empty() || (0..rows).any(|row| (0..cols).any(|col| too_far(row, col))) {
        // In the order of the definition's walk, a row at a time.
        let refused: HashSet<(usize, usize)> = refused.iter().copied().collect();
        let wanted = |row, col| too_far(row, col) || (!refused.is_empty() && refused.contains(&(row, col)));
        definition::outputs(job, &tile, &wanted, &mut results);
    }
    tile.write(job.accumulator, &results);
}
