//! Products at the vector levels: blocks of a few rows by two vectors of columns.
//!
//! 504 rows by 512 k of `a` stay in the second-level cache as float32, the columns of one run of `b` in the first.

use super::output::{Region, Scratch};
use super::runs::{segments, KRun, KSegment};
use super::{ByteOperand, Problem, STEP};
use crate::interrupt::poll;
use crate::simd::{dispatch, ColumnSink, Kernel, Lanes};
use std::ops::Range;

/// k of a segment, and of the longest run.
const DEEP: usize = 512;
const RUN: usize = 256;
/// Distance of the rows of a block of `a`: a power of two would map them to the same cache sets.
const STRIDE: usize = DEEP + 16;
/// Rows of a block of `a`: a multiple of every kernel's rows.
const TALL: usize = 504;
/// Vectors of columns.
const VECTORS: usize = 2;
/// The most lanes.
const WIDE: usize = VECTORS * 16;

/// Computes a part of the result.
pub(super) fn product(p: &Problem<'_>, region: Region<'_>) {
    dispatch(SimdTask { p, region });
}

struct SimdTask<'a, 'o> {
    p: &'a Problem<'a>,
    region: Region<'o>,
}

impl Kernel for SimdTask<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let (p, (rows, columns)) = (self.p, self.region.size);
        let segments = segments(p, RUN, DEEP);
        self.region.prepare(&segments);
        let tall = rows.min(TALL).next_multiple_of(kernel_rows::<L>());
        let mut work = SimdWorkspace {
            lhs: Scratch::new(tall * STRIDE),
            near: Scratch::new(RUN * VECTORS * L::N),
            rhs: Scratch::new(RUN * VECTORS * L::N),
            done: Scratch::new(tall * VECTORS * L::N),
            partial: Scratch::new(tall * VECTORS * L::N),
            row_scales: Vec::new(),
            rows_at: p.a.scales_at(self.region.a_row(0), rows),
            columns_at: p.b.scales_at(self.region.b_row(0), columns),
        };
        for segment in &segments {
            for row in (0..rows).step_by(TALL) {
                work.rows(l, p, segment, &mut self.region, row);
            }
        }
    }
}

/// Rows of the kernel.
#[inline(always)]
fn kernel_rows<L: Lanes>() -> usize {
    match L::N {
        16 => 12,
        8 => 6,
        _ => 4,
    }
}

/// The buffers of a task.
struct SimdWorkspace {
    lhs: Scratch<f32>,
    near: Scratch<u8>,
    rhs: Scratch<f32>,
    done: Scratch<f32>,
    partial: Scratch<f32>,
    /// Scales of each run, for the rows of a block.
    row_scales: Vec<f32>,
    /// Offsets of the scales of each row and column of the region.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
}

/// A part of a region.
#[derive(Clone, Copy)]
struct Rectangle {
    row: usize,
    rows: usize,
    column: usize,
    width: usize,
}

impl SimdWorkspace {
    /// Computes the rows from `row` on, as many as a block of `a` has.
    #[inline(always)]
    fn rows<L: Lanes>(
        &mut self,
        l: L,
        p: &Problem<'_>,
        segment: &KSegment,
        region: &mut Region<'_>,
        row: usize,
    ) {
        let (rows, width) = ((region.size.0 - row).min(TALL), VECTORS * L::N);
        let k = segment.range();
        for (i, lhs) in self.lhs.get_mut().chunks_mut(STRIDE).enumerate().take(rows) {
            let codes = &p.a.codes[region.a_row(row + i) * p.k..][k.clone()];
            l.call(DecodeRow { side: &p.a, codes, out: lhs });
        }
        let tall = rows.next_multiple_of(kernel_rows::<L>());
        self.row_scales.clear();
        for run in &segment.runs {
            for at in &self.rows_at[row..row + rows] {
                self.row_scales.push(p.a.scale(*at, run.begin));
            }
            self.row_scales.resize(self.row_scales.len() + tall - rows, 0.0);
        }
        for column in (0..region.size.1).step_by(width) {
            poll();
            let rectangle = Rectangle { row, rows, column, width };
            self.begin(p, segment, region, rectangle);
            for (t, run) in segment.runs.iter().enumerate() {
                let transpose = TransposeRun {
                    side: &p.b,
                    stride: p.k,
                    row: region.b_row(column),
                    count: (region.size.1 - column).min(width),
                    run: *run,
                    near: self.near.get_mut(),
                    out: self.rhs.get_mut(),
                };
                l.call(transpose);
                let mut scales = [0f32; WIDE];
                for (to, at) in scales.iter_mut().zip(&self.columns_at[column..]).take(width) {
                    *to = p.b.scale(*at, run.begin);
                }
                self.run(l, run, run.begin - k.start, t * tall..(t + 1) * tall, &scales);
            }
            self.end(p, segment, region, rectangle);
        }
    }

    /// Loads the initial sums.
    #[inline(always)]
    fn begin(&mut self, p: &Problem<'_>, segment: &KSegment, region: &Region<'_>, place: Rectangle) {
        let Rectangle { row, rows, column, width } = place;
        let kept = !p.chained && segment.runs.first().is_some_and(|r| !r.opens);
        let (done, partial) = (self.done.get_mut(), self.partial.get_mut());
        for i in 0..rows {
            let at = i * width..(i + 1) * width;
            let sums = if p.chained { &mut *partial } else { &mut *done };
            region.load(segment, row + i, column, &mut sums[at.clone()]);
            if kept {
                region.load_partial(row + i, column, &mut partial[at]);
            }
        }
    }

    /// Stores the sums.
    #[inline(always)]
    fn end(&mut self, p: &Problem<'_>, segment: &KSegment, region: &mut Region<'_>, place: Rectangle) {
        let Rectangle { row, rows, column, width } = place;
        let keep = !p.chained && segment.runs.last().is_some_and(|r| !r.closes);
        let (done, partial) = (self.done.get(), self.partial.get());
        for i in 0..rows {
            let at = i * width..(i + 1) * width;
            region.store(segment, row + i, column, &(if p.chained { partial } else { done })[at.clone()]);
            if keep {
                region.keep_partial(row + i, column, &partial[at]);
            }
        }
    }

    /// Computes one run of a panel of columns, for all rows of the block.
    #[inline(always)]
    fn run<L: Lanes>(
        &mut self,
        l: L,
        run: &KRun,
        at: usize,
        of_rows: Range<usize>,
        of_columns: &[f32; WIDE],
    ) {
        let width = VECTORS * L::N;
        let steps = (run.end - run.begin).div_ceil(STEP);
        let rhs = &self.rhs.get()[..steps * STEP * width];
        let (kernel, lhs) = (kernel_rows::<L>(), self.lhs.get());
        let (partial, done) = (self.partial.get_mut(), self.done.get_mut());
        let of_rows = &self.row_scales[of_rows];
        for first in (0..of_rows.len()).step_by(kernel) {
            let block = first * width..(first + kernel) * width;
            let (partial, done) = (&mut partial[block.clone()], &mut done[block]);
            let lhs = &lhs[first * STRIDE + at..];
            let scales = (&of_rows[first..first + kernel], of_columns);
            let (opens, closes) = (run.opens, run.closes);
            macro_rules! add {
                ($rows:literal) => {
                    l.call(AddRun::<$rows> { lhs, rhs, opens, closes, scales, partial, done })
                };
            }
            match const { L::N } {
                16 => add!(12),
                8 => add!(6),
                _ => add!(4),
            }
        }
    }
}

/// Decodes a row of codes to float32, padded with zeros.
struct DecodeRow<'a> {
    side: &'a ByteOperand<'a>,
    codes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for DecodeRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let whole = self.codes.len() / L::GROUP * L::GROUP;
        let groups = self.codes.chunks_exact(L::GROUP).zip(self.out.chunks_exact_mut(L::GROUP));
        for (codes, out) in groups {
            let values = l.lookup(self.side.table, codes);
            l.store_f32(values[0], &mut out[..L::N], false);
            l.store_f32(values[1], &mut out[L::N..2 * L::N], false);
            l.store_f32(values[2], &mut out[2 * L::N..3 * L::N], false);
            l.store_f32(values[3], &mut out[3 * L::N..], false);
        }
        let (rest, out) = (&self.codes[whole..], &mut self.out[whole..]);
        for (code, out) in rest.iter().zip(&mut *out) {
            *out = self.side.table.values[usize::from(*code)];
        }
        out[rest.len()..].fill(0.0);
    }
}

/// Transposes the columns of a run: for each k two vectors of values.
struct TransposeRun<'a> {
    side: &'a ByteOperand<'a>,
    stride: usize,
    row: usize,
    /// Rows of `b`; the others are zeros.
    count: usize,
    run: KRun,
    near: &'a mut [u8],
    out: &'a mut [f32],
}

impl Kernel for TransposeRun<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let TransposeRun { side, stride, run, .. } = self;
        let (width, length) = (VECTORS * L::N, run.end - run.begin);
        // Copy rows next to each other first: each cache line is read once, even if rows share cache sets.
        let (near, step) = (&mut *self.near, STEP * width);
        for i in 0..width {
            let codes: &[u8] =
                if i < self.count { &side.codes[(self.row + i) * stride..][run.begin..run.end] } else { &[] };
            let (steps, rest) = codes.as_chunks::<STEP>();
            for (j, codes) in steps.iter().enumerate() {
                near[j * step + i * STEP..][..STEP].copy_from_slice(codes);
            }
            for from in (steps.len() * STEP..length).step_by(STEP) {
                let near = &mut near[from * width + i * STEP..][..STEP];
                near.fill(0);
                if i < self.count {
                    near[..rest.len()].copy_from_slice(rest);
                }
            }
        }
        for from in (0..length).step_by(STEP) {
            for v in 0..VECTORS {
                let near = &self.near[from * width + v * L::N * STEP..];
                let out = &mut self.out[from * width + v * L::N..][..(STEP - 1) * width + L::N];
                l.columns(side.table, near, StoreColumns { l, out, width });
            }
        }
    }
}

/// Writes columns, one every `width` values.
pub(super) struct StoreColumns<'a, L> {
    pub l: L,
    pub out: &'a mut [f32],
    pub width: usize,
}

impl<L: Lanes> ColumnSink<L> for StoreColumns<'_, L> {
    #[inline(always)]
    fn column(&mut self, k: usize, values: L::F) {
        self.l.store_f32(values, &mut self.out[k * self.width..], false);
    }
}

/// Adds a run of `R` rows and two vectors of columns.
struct AddRun<'a, const R: usize> {
    lhs: &'a [f32],
    rhs: &'a [f32],
    opens: bool,
    closes: bool,
    scales: (&'a [f32], &'a [f32; WIDE]),
    partial: &'a mut [f32],
    done: &'a mut [f32],
}

impl<const R: usize> Kernel for AddRun<'_, R> {
    type Out = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
    fn run<L: Lanes>(self, l: L) {
        let width = VECTORS * L::N;
        let mut sums = [[l.f32(0.0); VECTORS]; R];
        if !self.opens {
            for r in 0..R {
                for v in 0..VECTORS {
                    sums[r][v] = l.load_f32(&self.partial[r * width + v * L::N..]);
                }
            }
        }
        for (step, rhs) in self.rhs.chunks_exact(STEP * width).enumerate() {
            let mut lhs = [&[0f32; STEP]; R];
            for r in 0..R {
                let row = self.lhs[r * STRIDE + step * STEP..].first_chunk();
                lhs[r] = row.expect("a row holds whole steps");
            }
            let even = chain::<L, R>(l, &lhs, rhs, 0);
            let odd = chain::<L, R>(l, &lhs, rhs, 1);
            for r in 0..R {
                for v in 0..VECTORS {
                    sums[r][v] = l.fadd(sums[r][v], l.fadd(even[r][v], odd[r][v]));
                }
            }
        }
        for r in 0..R {
            for v in 0..VECTORS {
                let at = r * width + v * L::N;
                if self.closes {
                    let scale = l.fmul(l.f32(self.scales.0[r]), l.load_f32(&self.scales.1[v * L::N..]));
                    let sum = l.fma(scale, sums[r][v], l.load_f32(&self.done[at..]));
                    l.store_f32(sum, &mut self.done[at..], false);
                } else {
                    l.store_f32(sums[r][v], &mut self.partial[at..], false);
                }
            }
        }
    }
}

/// Sums the products of every second k of a step, from `k` on, in order from +0.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
fn chain<L: Lanes, const R: usize>(
    l: L,
    lhs: &[&[f32; STEP]; R],
    rhs: &[f32],
    k: usize,
) -> [[L::F; VECTORS]; R] {
    let width = VECTORS * L::N;
    let rhs = &rhs[..STEP * width];
    let mut sums = [[l.f32(0.0); VECTORS]; R];
    for i in 0..STEP / 2 {
        let k = 2 * i + k;
        let mut columns = [l.f32(0.0); VECTORS];
        for v in 0..VECTORS {
            columns[v] = l.load_f32(&rhs[k * width + v * L::N..][..L::N]);
        }
        for r in 0..R {
            let x = l.f32(lhs[r][k]);
            for v in 0..VECTORS {
                sums[r][v] = l.add_product(x, columns[v], sums[r][v]);
            }
        }
    }
    sums
}
