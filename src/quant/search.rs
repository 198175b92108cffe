//! The search among candidate scales: for each block, the one whose codes read back with the least squared error.

use super::layout::Blocks;
use super::scale::{Global, Scaler};
use crate::formats::encode::widen;
use crate::formats::round::Rounder;
use crate::formats::source::Source;
use crate::formats::table::Format;
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};
use crate::threads::run_tasks;

/// Elements of a cast that cost as much as one whose scale is searched.
const PER_VALUE: usize = 16;

/// The stored scale of each block whose amax is given. Errors are summed in float64, element by element in C order; of equal
/// ones the first candidate wins. Codes are rounded as the rule says, to nearest even where that is at random.
pub(super) fn search<S: Source>(
    scaler: &Scaler,
    format: &'static Format,
    src: &[S::Item],
    flat: Blocks,
    amax: &[u32],
    global: Global<'_>,
) -> Vec<f32> {
    let mut chosen = vec![0.0; amax.len()];
    let (across, matrix) = (flat.across(), flat.rows * flat.cols);
    let mut tasks = Vec::new();
    let mut rest = chosen.as_mut_slice();
    for (m, src) in src.chunks(matrix).enumerate() {
        for (b, src) in src.chunks(flat.block_rows * flat.cols).enumerate() {
            // Parts of a band, so that one long row is shared among threads.
            for first in (0..across).step_by(PART) {
                let n = PART.min(across - first);
                let (chosen, after) = std::mem::take(&mut rest).split_at_mut(n);
                rest = after;
                let block = (m * flat.bands() + b) * across + first;
                let global = global.part(block..block + n);
                tasks.push(Part::<S> {
                    scaler,
                    format,
                    flat,
                    src,
                    first,
                    amax: &amax[block..block + n],
                    global,
                    chosen,
                });
            }
        }
    }
    run_tasks(src.len().saturating_mul(PER_VALUE), tasks, dispatch);
    chosen
}

/// Blocks that a task takes.
const PART: usize = 4096;

/// Neighbouring blocks of a band.
struct Part<'a, S: Source> {
    scaler: &'a Scaler,
    format: &'static Format,
    flat: Blocks,
    src: &'a [S::Item],
    first: usize,
    amax: &'a [u32],
    global: Global<'a>,
    chosen: &'a mut [f32],
}

impl<S: Source> Kernel for Part<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Part { scaler, format, flat, src, first, amax, global, chosen } = self;
        let rounder = Rounder { rounding: scaler.rule.rounding, ..Rounder::saturating(format) };
        let values: [f32; 256] = std::array::from_fn(|code| format.value(code as u32));
        let mut block = Vec::new();
        let mut bits = [0; MAX_GROUP];
        for (i, (amax, chosen)) in amax.iter().zip(chosen).enumerate() {
            let from = (first + i) * flat.block_cols;
            let to = (from + flat.block_cols).min(flat.cols);
            block.clear();
            for src in src.chunks(flat.cols).flat_map(|row| row[from..to].chunks(MAX_GROUP)) {
                widen::<L, S>(l, src, &mut bits);
                block.extend(bits[..src.len()].iter().map(|b| f32::from_bits(*b)));
            }
            let global = global.part(i..i + 1);
            let mut least = f64::INFINITY;
            for (k, target) in scaler.rule.targets().iter().enumerate() {
                let (mut stored, mut divisor, mut factor) = ([0.0], [0.0], [0.0]);
                scaler.block_scales(&[*amax], *target, global.encode, &mut stored);
                scaler.applied(&stored, global, &mut divisor, &mut factor);
                let mut error = 0.0;
                let scale = if stored[0] == 0.0 { 0.0 } else { divisor[0] };
                for x in &block {
                    let quotient = if scaler.divides() { x / divisor[0] } else { x * factor[0] };
                    let code = rounder.code(quotient.to_bits(), 0);
                    let e = f64::from(values[code as usize & 0xFF] * scale) - f64::from(*x);
                    error += e * e;
                }
                if k == 0 || error < least {
                    (least, *chosen) = (error, stored[0]);
                }
            }
        }
    }
}
