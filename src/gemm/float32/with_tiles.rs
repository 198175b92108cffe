//! Products at the level that has AMX: tiles where there are rows enough for them, vectors for the others.

use super::tiles;
use super::widen::SIDE;
use super::{skinny_amx, skinny_simd, Problem};
use crate::gemm::blocked::{segments, Region};
use crate::gemm::job::{Job, Tile};
use crate::simd::amx::Amx;
use crate::simd::{level, Level};
use crate::threads::{run_tasks, threads_for};

/// The most rows of a task: with as many columns as there can be, their sums take 16 MiB.
const LONGEST: usize = 8192;

/// Tests if the level in force has AMX.
pub(super) fn available() -> bool {
    level() == Level::Amx && Amx::detect().is_some()
}

/// Computes tiles of any size; intervals are whole steps, or all of k.
pub(super) fn run(job: &Job<'_>, p: &Problem<'_>, whole: Vec<Tile<'_>>, work: usize) {
    let (few, many): (Vec<_>, Vec<_>) = whole.into_iter().partition(|t| t.rows() <= skinny_amx::MAX_ROWS);
    let (fewer, few): (Vec<_>, Vec<_>) = few.into_iter().partition(|t| t.rows() < skinny_amx::MIN_ROWS);
    skinny_simd::product(p, fewer, work);
    skinny_amx::product(job, p, few, work);
    let bands: Vec<_> = many.into_iter().flat_map(bands).collect();
    let each = threads_for(work).div_ceil(bands.len().max(1));
    let segments = segments(p, tiles::DEEP, tiles::DEEP);
    let tasks = bands.into_iter().flat_map(|band| band.parts(each)).collect();
    run_tasks(work, tasks, |Band { tile, turned }| {
        let mut region = Region::new(tile);
        tiles::product(p, &segments, turned, &mut region);
        redo_subnormal(job, &mut region);
    });
}

/// A part of a result with as many columns as are packed together. Its columns are rows of `a` if it is turned.
struct Band<'o> {
    tile: Tile<'o>,
    turned: bool,
}

/// Cuts a tile along its shorter side, which are the columns.
fn bands(tile: Tile<'_>) -> Vec<Band<'_>> {
    let turned = tile.rows() < tile.cols();
    let count = tile.rows().min(tile.cols());
    let width = count.div_ceil(count.div_ceil(tiles::COLUMNS).max(1));
    cut(tile, turned, !turned, width.next_multiple_of(2 * SIDE))
}

/// Cuts a tile into parts of so many columns, or rows.
fn cut(tile: Tile<'_>, turned: bool, across: bool, length: usize) -> Vec<Band<'_>> {
    let (rows, cols, length) = (tile.rows(), tile.cols().max(1), length.max(1));
    let (height, width) = if across { (rows, length) } else { (length, cols) };
    let mut parts = Vec::new();
    tile.cut(height, width, &mut parts);
    parts.into_iter().map(|tile| Band { tile, turned }).collect()
}

impl<'o> Band<'o> {
    /// Cuts it into a multiple of so many parts with all of its columns, so that threads finish together.
    fn parts(self, count: usize) -> Vec<Band<'o>> {
        let Band { tile, turned } = self;
        let length = if turned { tile.cols() } else { tile.rows() };
        let count = count * length.div_ceil(count * LONGEST).max(1);
        cut(tile, turned, turned, length.div_ceil(count).next_multiple_of(SIDE))
    }
}

/// Computes the outputs anew that AMX gets wrong: it flushes subnormal accumulators, which only a sum that begins with c
/// can meet.
pub(super) fn redo_subnormal(job: &Job<'_>, region: &mut Region<'_>) {
    if job.chained && job.k > 0 && region.has_c() {
        let c = region.initial();
        region.redo(job, |i, j| c(i, j).is_subnormal());
    }
}
