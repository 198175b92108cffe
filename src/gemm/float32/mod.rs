//! float32 sums in one canonical order, that of AMX: for each 32 of k a chain of sums over the even k and one over the
//! odd k, both from +0; then the accumulator plus the sum of the two. Products are exact, so that fused or not makes
//! no difference; zeros after the last k make none either, because a sum from +0 is never -0.
//!
//! [`Float32Sum`] is the definition. [`tiles`] follows it with AMX, [`vectors`] at the vector levels; [`skinny_amx`] and
//! [`skinny_simd`] if `a` has so few rows that reading `b` is all the work.

mod intervals;
mod output;
mod runs;
#[cfg(target_arch = "x86_64")]
mod skinny_amx;
mod skinny_simd;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;
#[cfg(target_arch = "x86_64")]
mod with_tiles;

use super::definition::Chain;
use super::job::{self, Job, Tile};
use crate::formats::Codes;
use crate::simd::Lookup;
use crate::threads::{run_tasks, threads_for};
use output::Region;

/// Products of a step.
const STEP: usize = 32;

/// The definition.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Float32Sum;

impl Chain for Float32Sum {
    type Item = f32;
    fn items(&self, side: &job::Side<'_>, row: usize) -> Vec<f32> {
        let codes = &bytes(side.codes)[row * side.k..(row + 1) * side.k];
        codes.iter().map(|c| side.format.value(u32::from(*c))).collect()
    }
    fn run(&self, a: &[f32], b: &[f32], c: f32) -> f32 {
        let chain = |a: &[f32], b: &[f32], odd: usize| -> f32 {
            let products = a.iter().zip(b).skip(odd).step_by(2);
            products.fold(0.0, |sum, (x, y)| sum + x * y)
        };
        a.chunks(STEP).zip(b.chunks(STEP)).fold(c, |c, (a, b)| c + (chain(a, b, 0) + chain(a, b, 1)))
    }
}

/// The bytes that codes come in.
fn bytes(codes: Codes<'_>) -> &[u8] {
    match codes {
        Codes::U8(codes) => codes,
        _ => unreachable!("the accumulator takes no wide format"),
    }
}

/// An operand whose codes are bytes.
#[derive(Clone, Copy)]
struct ByteOperand<'a> {
    codes: &'a [u8],
    table: &'static Lookup,
    of: &'a job::Side<'a>,
}

impl<'a> ByteOperand<'a> {
    fn new(of: &'a job::Side<'a>) -> ByteOperand<'a> {
        ByteOperand { codes: bytes(of.codes), table: of.format.lookup(), of }
    }

    /// Offsets of the scales of some rows.
    fn scales_at(&self, first: usize, count: usize) -> Vec<usize> {
        let blocks = self.of.blocks;
        let at =
            |row: usize| (row / self.of.rows * blocks.0 + row % self.of.rows / self.of.group.0) * blocks.1;
        (first..first + count).map(|row| if self.of.scales.is_some() { at(row) } else { 0 }).collect()
    }

    /// The scale at `k` of the row with scales from offset `at` on.
    #[inline(always)]
    fn scale(&self, at: usize, k: usize) -> f32 {
        match self.of.scales {
            Some(scales) => scales[at + k / self.of.group.1],
            None => 1.0,
        }
    }

    /// The scales at `k` of rows with scales from the offsets `at` on.
    #[inline(always)]
    fn scales(&self, at: &[usize], k: usize, out: &mut [f32]) {
        let Some(scales) = self.of.scales else { return out.fill(1.0) };
        let scales = &scales[k / self.of.group.1..];
        for (out, at) in out.iter_mut().zip(at) {
            *out = scales[*at];
        }
    }
}

/// A product of byte operands.
#[derive(Clone, Copy)]
struct Problem<'a> {
    a: ByteOperand<'a>,
    b: ByteOperand<'a>,
    k: usize,
    interval: usize,
    chained: bool,
}

/// Multiple of columns at which blocks are cut.
const CUT: usize = 64;

/// Rows of the result in a block, if there are as many.
const TALL: usize = 512;

/// Products that cost as much as one element of an elementwise operation.
const PER_ELEMENT: usize = 16;

/// Computes tiles of any size, with intervals of any length.
pub(super) fn run(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    match intervals::Filled::new(job) {
        None => in_steps(job, whole),
        Some(filled) => in_steps(&filled.job(job), whole),
    }
}

/// Computes tiles of any size; intervals are whole steps, or all of k.
fn in_steps(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let (a, b) = (ByteOperand::new(&job.a), ByteOperand::new(&job.b));
    let p = Problem { a, b, k: job.k, interval: job.interval, chained: job.chained };
    let work = job.work(&whole, 1) / PER_ELEMENT;
    #[cfg(target_arch = "x86_64")]
    if with_tiles::available() {
        return with_tiles::run(job, &p, whole, work);
    }
    let (few, many): (Vec<_>, Vec<_>) = whole.into_iter().partition(|t| t.rows() <= skinny_simd::MAX_ROWS);
    skinny_simd::product(&p, few, work);
    run_tasks(work, blocks(many, threads_for(work)), |tile| vectors::product(&p, Region::new(tile)));
}

/// Cuts tiles for the threads: along the rows, where there are many of them, else along the columns.
fn blocks(whole: Vec<Tile<'_>>, threads: usize) -> Vec<Tile<'_>> {
    let mut blocks = Vec::new();
    for tile in whole {
        let down = (tile.rows() / TALL).clamp(1, threads);
        let across = threads.div_ceil(down);
        let height = tile.rows().div_ceil(down);
        let width = tile.cols().div_ceil(across).next_multiple_of(CUT);
        tile.cut(height, width, &mut blocks);
    }
    blocks
}
