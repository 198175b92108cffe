//! float32 sums in one canonical order, that of AMX: for each 32 of k a chain of sums over the even k and one over the
//! odd k, both from +0; then the accumulator plus the sum of the two. Products are exact, so that fused or not makes
//! no difference; zeros after the last k make none either, because a sum from +0 is never -0.
//!
//! [`Float32Sum`] is the definition. [`tiles`] follows it with AMX, [`vectors`] at the vector levels; [`skinny_amx`] and
//! [`skinny_simd`] if `a` has so few rows that reading `b` is all the work.

mod intervals;
#[cfg(target_arch = "x86_64")]
mod promote;
#[cfg(target_arch = "x86_64")]
mod skinny_amx;
mod skinny_simd;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;
#[cfg(target_arch = "x86_64")]
mod widen;
#[cfg(target_arch = "x86_64")]
mod with_tiles;

use super::blocked::{self, blocks, Region, SideOperand};
use super::definition::Chain;
use super::job::{self, Job, Tile};
use crate::formats::Codes;
use crate::simd::Lookup;
use crate::threads::{run_tasks, threads_for};

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
}

impl SideOperand for ByteOperand<'_> {
    #[inline(always)]
    fn side(&self) -> Option<&job::Side<'_>> {
        Some(self.of)
    }
}

type Problem<'a> = blocked::Problem<ByteOperand<'a>>;

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
    run_tasks(work, blocks(many, threads_for(work)), |tile| vectors::product(&p, &mut Region::new(tile)));
}
