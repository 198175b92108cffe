//! The largest magnitude of every block.

use super::layout::{Blocks, RowPart};
use super::scale::largest;
use super::transform::{raise_blocks, run_amax, AHEAD};
use crate::error::{same_length, Error};
use crate::formats::source::{Bf16, Source, F32};
use crate::formats::strided::Array;
use crate::quant::native::{reads_bf16, task, with_windows, Native};
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Elements that one task takes of a long row.
pub(super) const RUN: usize = 64 * 1024;

/// Writes the largest magnitude of each block, in C order: NaN if the block holds one, float64 input rounded
/// to nearest float32 first. Returns the largest of all; an empty array has no blocks, and 0.
///
/// # Errors
/// [`Error::Length`] if `src` or `out` do not fit the layout.
pub fn amax<'a>(src: impl Into<Array<'a>>, blocks: Blocks, out: &mut [f32]) -> Result<f32, Error> {
    let src = src.into();
    same_length("x", src.len(), blocks.len())?;
    same_length("out", out.len(), blocks.scales())?;
    let flat = blocks.flattened_for(src);
    Ok(f32::from_bits(if reads_bf16(src, flat.cols) {
        all::<Bf16>(src, flat, out)
    } else {
        all::<F32>(src, flat, out)
    }))
}

fn all<S: Native>(src: Array<'_>, flat: Blocks, out: &mut [f32]) -> u32 {
    if flat.block_rows == 1 && flat.block_cols <= RUN && !src.is_turned() {
        return apart::<S>(src, flat, out);
    }
    let bits = amax_bits::<S>(src, flat);
    for (out, bits) in out.iter_mut().zip(&bits) {
        *out = f32::from_bits(*bits);
    }
    largest(&bits)
}

/// The same of blocks that no two tasks share.
fn apart<S: Native>(src: Array<'_>, flat: Blocks, out: &mut [f32]) -> u32 {
    let (mut at, mut rest) = (0, out);
    let tasks = flat.band_parts(task::<S>(src), None).map(|part| {
        let (out, left) = std::mem::take(&mut rest).split_at_mut(part.blocks);
        let range = at..at + part.elements;
        (at, rest) = (range.end, left);
        (range, part.cols, out)
    });
    let tasks = tasks.collect();
    let block_cols = flat.block_cols;
    largest(&run_tasks(src.len(), tasks, |(range, cols, out): (Range<usize>, usize, &mut [f32])| {
        let mut most = 0;
        with_windows::<S>(src.part(range), cols, block_cols, |_, src, stride| {
            most = dispatch(RowAmax::<S> { src, cols, stride, block_cols, out });
        });
        most
    }))
}

/// Sections of a row that are read in turn: memory serves several streams faster than one.
const SECTIONS: usize = 4;

/// Rows of whole blocks; returns the largest magnitude.
struct RowAmax<'a, S: Source> {
    src: &'a [S::Item],
    cols: usize,
    stride: usize,
    block_cols: usize,
    out: &'a mut [f32],
}

impl<S: Source> Kernel for RowAmax<'_, S> {
    type Out = u32;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> u32 {
        let RowAmax { src, cols, stride, block_cols, out } = self;
        let (mut each, mut most) = ([0u32; BLOCKS], 0);
        // Where rows lie apart, what comes next is the next row.
        let apart = stride > cols;
        let ahead = if apart { stride * std::mem::size_of::<S::Item>() } else { AHEAD };
        for (row, out) in src.chunks(stride).zip(out.chunks_mut(cols.div_ceil(block_cols))) {
            let row = &row[..cols];
            // A few blocks of each section in turn, then what is left over.
            let section = if apart { 0 } else { row.len() / block_cols / SECTIONS / L::N * L::N };
            let turns = SECTIONS * section / L::N;
            let (mut turn, mut done) = (0, 0);
            while done < out.len() {
                let n = if turn < turns { L::N } else { BLOCKS.min(out.len() - done) };
                let first =
                    if turn < turns { turn % SECTIONS * section + turn / SECTIONS * L::N } else { done };
                let end = row.len().min((first + n) * block_cols);
                let each = &mut each[..n];
                each.fill(0);
                raise_blocks::<L, S>(l, &row[first * block_cols..end], block_cols, each, ahead);
                most = most.max(largest(each));
                for (out, bits) in out[first..first + n].iter_mut().zip(each) {
                    *out = f32::from_bits(*bits);
                }
                (turn, done) = (turn + 1, done + n);
            }
        }
        most
    }
}

/// The largest magnitude bits of each block. The maximum does not depend on the order of its terms, so tasks
/// may share blocks.
pub(super) fn amax_bits<S: Native>(src: Array<'_>, flat: Blocks) -> Vec<u32> {
    let found: Vec<AtomicU32> = (0..flat.scales()).map(|_| AtomicU32::new(0)).collect();
    let tasks = flat.row_parts(task::<S>(src)).collect();
    run_tasks(src.len(), tasks, |part: RowPart| {
        with_windows::<S>(src.part(part.range(&flat)), part.cols, 1, |window, src, stride| {
            let part = RowPart { at: part.at + window.start, cols: window.len(), ..part };
            dispatch(PartAmax::<S> { part, flat, src, stride, found: &found });
        });
    });
    found.into_iter().map(AtomicU32::into_inner).collect()
}

/// Some rows, or part of one: raises the maxima of the blocks they cross.
struct PartAmax<'a, S: Source> {
    part: RowPart,
    flat: Blocks,
    src: &'a [S::Item],
    stride: usize,
    found: &'a [AtomicU32],
}

/// Blocks whose maxima are found before they are written.
const BLOCKS: usize = 1024;

impl<S: Source> Kernel for PartAmax<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let PartAmax { part, flat, src, stride, found } = self;
        let block_cols = flat.block_cols;
        let ahead = if stride > part.cols { stride * std::mem::size_of::<S::Item>() } else { AHEAD };
        let mut each = [0u32; BLOCKS];
        for (k, row) in src.chunks(stride).enumerate() {
            let row = &row[..part.cols];
            let first = flat.band_of_row(part.row + k) * flat.across();
            // The rest of a block that began before, then whole blocks but for the last one.
            let head = (part.at.next_multiple_of(block_cols) - part.at).min(row.len());
            let (head, rest) = row.split_at(head);
            if !head.is_empty() {
                raise(&found[first + part.at / block_cols], run_amax::<L, S>(l, head));
            }
            let first = first + part.at.div_ceil(block_cols);
            for (i, run) in rest.chunks(BLOCKS.saturating_mul(block_cols)).enumerate() {
                let blocks = run.len().div_ceil(block_cols);
                each[..blocks].fill(0);
                raise_blocks::<L, S>(l, run, block_cols, &mut each[..blocks], ahead);
                let whole = if flat.block_rows == 1 { run.len() / block_cols } else { 0 };
                for (j, (found, bits)) in found[first + i * BLOCKS..].iter().zip(&each[..blocks]).enumerate()
                {
                    if j < whole {
                        found.store(*bits, Ordering::Relaxed); // no other task has part of this block
                    } else {
                        raise(found, *bits);
                    }
                }
            }
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
