//! float32 sums in the order of `VDPBF16PS`: two products of bfloat16 at a time, the second of them first, each added by
//! one fused step that takes subnormal numbers as zero.
//!
//! [`Bf16DotSum`] is the definition. [`pairs`] follows it in blocks: with the instruction, or with fused steps on
//! float32, wherever nothing on the way can be subnormal.

mod few;
mod pairs;

use super::blocked::{blocks, BlockTask, Problem, Region};
use super::definition::Chain;
use super::job::{Job, Side, Tile};
use crate::formats::Codes;
use crate::simd::bf16_pairs::{dot_pair, flushed, Fused};
#[cfg(target_arch = "x86_64")]
use crate::simd::bf16_pairs::{Avx512Bf16, PairSum};
use crate::simd::{dispatch_vectors, Kernel, Lanes};
use crate::threads::{run_tasks, threads_for};
use few::FewRows;
use pairs::{LastPlaces, PairBlocks, PairOperand};

/// The definition.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Bf16DotSum;

impl Chain for Bf16DotSum {
    type Item = f32;
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<f32> {
        let at = row * side.k..(row + 1) * side.k;
        match side.codes {
            Codes::U8(codes) => codes[at].iter().map(|c| side.format.value(u32::from(*c))).collect(),
            Codes::U16(codes) => codes[at].iter().map(|c| flushed(widened(*c))).collect(),
            Codes::U32(_) => unreachable!("the accumulator takes no wide format"),
        }
    }
    fn run(&self, a: &[f32], b: &[f32], c: f32) -> f32 {
        let pair = |x: &[f32]| [x[0], x.get(1).copied().unwrap_or(0.0)];
        a.chunks(2).zip(b.chunks(2)).fold(c, |c, (a, b)| dot_pair(pair(a), pair(b), c))
    }
}

/// The value of a bfloat16.
fn widened(code: u16) -> f32 {
    f32::from_bits(u32::from(code) << 16)
}

/// Products that cost as much as one element of an elementwise operation.
const PER_ELEMENT: usize = 16;

/// The fewest rows of a task that fused steps pay for at a level that has the instruction: packing is twice the work.
#[cfg(target_arch = "x86_64")]
const TALL: usize = 32;

/// Computes tiles of any size.
pub(super) fn run(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let work = job.work(&whole, 1) / PER_ELEMENT;
    run_tasks(work, blocks(whole, threads_for(work)), |tile| {
        let mut region = Region::new(tile);
        #[cfg(target_arch = "x86_64")]
        if let Some(level) = Avx512Bf16::in_force() {
            let steps = !Avx512Bf16::is_fastest() && region.size.0 >= TALL;
            if !steps || fused(job, &mut region).is_some_and(|meets| region.any(meets)) {
                let (p, region) = (&problem(job, None, None), &mut region);
                if region.size.0 <= few::MAX_ROWS {
                    FewRows { level, p, region }.run();
                } else {
                    level.call(BlockTask { order: PairBlocks::new(level), p, region });
                }
            }
            return;
        }
        if let Some(meets) = fused(job, &mut region) {
            region.redo(job, meets);
        }
    });
}

/// The product of two sides.
fn problem<'a>(
    job: &'a Job<'a>,
    a: Option<&'a LastPlaces>,
    b: Option<&'a LastPlaces>,
) -> Problem<PairOperand<'a>> {
    let (a, b) = (PairOperand::new(&job.a, a), PairOperand::new(&job.b, b));
    Problem { a, b, k: job.k, interval: job.interval, chained: job.chained }
}

/// The exponent of the smallest normal float32.
const NORMAL: i32 = -126;

/// Computes a region by fused steps. Returns which outputs may have met a subnormal number, `None` if none can: all others are
/// sums of multiples of the smallest normal one, which stay such multiples when they are rounded.
fn fused<'o>(job: &Job<'_>, region: &mut Region<'o>) -> Option<impl Fn(usize, usize) -> bool + 'o> {
    let (rows, columns) = region.size;
    let a = LastPlaces::new(&job.a, region.a_row(0)..region.a_row(rows));
    let b = LastPlaces::new(&job.b, region.b_row(0)..region.b_row(columns));
    let p = problem(job, Some(&a), Some(&b));
    dispatch_vectors(FusedTask { p: &p, region });
    let starts = job.chained && job.k > 0 && region.has_c();
    let c = region.initial();
    (starts || a.least() + b.least() < NORMAL).then_some(move |i, j| {
        let c = if starts { c(i, j) } else { 0.0 };
        a.at(i) + b.at(j) < NORMAL || (c != 0.0 && c.abs() < LEAST_START)
    })
}

/// Float32 from here on are multiples of the smallest normal one.
const LEAST_START: f32 = f32::MIN_POSITIVE * (1 << 23) as f32;

/// Fused steps on float32.
struct FusedTask<'a, 'o> {
    p: &'a Problem<PairOperand<'a>>,
    region: &'a mut Region<'o>,
}

impl Kernel for FusedTask<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let FusedTask { p, region } = self;
        if region.size.0 <= few::MAX_ROWS {
            FewRows { level: Fused(l), p, region }.run();
        } else {
            BlockTask { order: PairBlocks::new(Fused(l)), p, region }.run(l);
        }
    }
}
