//! The largest magnitude of every block.

use super::layout::{Blocks, RowPart};
use super::transform::{raise_each, run_amax};
use crate::error::{same_length, Error};
use crate::formats::source::{Input, Source};
use crate::quant::native::each_native;
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;
use std::sync::atomic::{AtomicU32, Ordering};

/// Elements that one task takes of a long row.
pub(super) const RUN: usize = 64 * 1024;

/// Writes the largest magnitude of each block, in C order: NaN if the block holds one, float64 input rounded
/// to nearest float32 first. An empty array has no blocks.
///
/// # Errors
/// [`Error::Length`] if `src` or `out` do not fit the layout.
pub fn amax(src: Input<'_>, blocks: Blocks, out: &mut [f32]) -> Result<(), Error> {
    same_length("x", src.len(), blocks.len())?;
    same_length("out", out.len(), blocks.scales())?;
    let bits = each_native!(src, S, src => amax_bits::<S>(src, blocks));
    for (out, bits) in out.iter_mut().zip(bits) {
        *out = f32::from_bits(bits);
    }
    Ok(())
}

/// The largest magnitude bits of each block. The maximum does not depend on the order of its terms, so tasks
/// may share blocks.
pub(super) fn amax_bits<S: Source>(src: &[S::Item], blocks: Blocks) -> Vec<u32> {
    let found: Vec<AtomicU32> = (0..blocks.scales()).map(|_| AtomicU32::new(0)).collect();
    let flat = blocks.flattened();
    let tasks = flat.row_parts(RUN).map(|part| (part, &src[part.range(&flat)])).collect();
    run_tasks(src.len(), tasks, |(part, src): (RowPart, &[S::Item])| {
        for (k, run) in src.chunks(part.cols).enumerate() {
            let first = flat.band_of_row(part.row + k) * flat.across();
            let found = &found[first..first + flat.across()];
            dispatch(RunKernel::<S> { run, at: part.at, block_cols: flat.block_cols, found });
        }
    });
    found.into_iter().map(AtomicU32::into_inner).collect()
}

/// Part of a row: raises the maxima of the blocks it crosses.
struct RunKernel<'a, S: Source> {
    run: &'a [S::Item],
    at: usize,
    block_cols: usize,
    found: &'a [AtomicU32],
}

impl<S: Source> Kernel for RunKernel<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if self.block_cols == 1 {
            let mut each = [0u32; 1024];
            for (run, found) in self.run.chunks(1024).zip(self.found[self.at..].chunks(1024)) {
                each.fill(0);
                raise_each::<L, S>(l, run, &mut each[..run.len()]);
                for (found, bits) in found.iter().zip(each) {
                    raise(found, bits);
                }
            }
            return;
        }
        let mut start = 0;
        while start < self.run.len() {
            let block = (self.at + start) / self.block_cols;
            let end = ((block + 1) * self.block_cols - self.at).min(self.run.len());
            raise(&self.found[block], run_amax::<L, S>(l, &self.run[start..end]));
            start = end;
        }
    }
}

/// Reads before it writes: most values do not raise the maximum, and a plain read is cheap.
#[inline(always)]
fn raise(found: &AtomicU32, bits: u32) {
    if found.load(Ordering::Relaxed) < bits {
        found.fetch_max(bits, Ordering::Relaxed);
    }
}
