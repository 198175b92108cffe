//! Blocks of the result at the vector levels: a few rows by two vectors of columns.
//!
//! Of a, 504 rows by 512 k stay in the second-level cache as float32; of b, the columns of one run in the first.

use super::output::{Region, Scratch};
use super::runs::{segments, Run, Segment};
use super::{Problem, Side, STEP};
use crate::simd::{dispatch, ColumnSink, Kernel, Lanes};
use std::ops::Range;

/// k of a segment, and of the longest run.
const DEEP: usize = 512;
const RUN: usize = 256;
/// Distance of the rows of a block of a: a power of two apart they would fall into the same sets of the cache.
const STRIDE: usize = DEEP + 16;
/// Rows of a block of a: a multiple of every kernel's.
const TALL: usize = 504;
/// Vectors of columns.
const VECTORS: usize = 2;
/// The most lanes.
const WIDE: usize = VECTORS * 16;

/// Computes a part of the result.
pub(super) fn product(p: &Problem<'_>, region: Region<'_>) {
    dispatch(Task { p, region });
}

struct Task<'a, 'o> {
    p: &'a Problem<'a>,
    region: Region<'o>,
}

impl Kernel for Task<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let (p, (rows, columns)) = (self.p, self.region.size);
        let segments = segments(p, RUN, DEEP);
        self.region.prepare(&segments);
        let tall = rows.min(TALL).next_multiple_of(kernel_rows::<L>());
        let mut work = Work {
            left: Scratch::new(tall * STRIDE),
            near: Scratch::new(RUN * VECTORS * L::N),
            right: Scratch::new(RUN * VECTORS * L::N),
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

/// Rows that the kernel takes at a time.
#[inline(always)]
fn kernel_rows<L: Lanes>() -> usize {
    match L::N {
        16 => 12,
        8 => 6,
        _ => 4,
    }
}

/// What a task works in.
struct Work {
    left: Scratch<f32>,
    near: Scratch<u8>,
    right: Scratch<f32>,
    done: Scratch<f32>,
    partial: Scratch<f32>,
    /// Scales of each run, for the rows of a block.
    row_scales: Vec<f32>,
    /// Where the scales of each row and column of the region begin.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
}

impl Work {
    /// The rows from `row` on, as many as a block of a has.
    #[inline(always)]
    fn rows<L: Lanes>(
        &mut self,
        l: L,
        p: &Problem<'_>,
        segment: &Segment,
        region: &mut Region<'_>,
        row: usize,
    ) {
        let (rows, width) = ((region.size.0 - row).min(TALL), VECTORS * L::N);
        let k = segment.range();
        for (i, left) in self.left.get_mut().chunks_mut(STRIDE).enumerate().take(rows) {
            let codes = &p.a.codes[region.a_row(row + i) * p.k..][k.clone()];
            l.call(Decode { side: &p.a, codes, out: left });
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
            self.begin(p, segment, region, row, rows, column, width);
            for (t, run) in segment.runs.iter().enumerate() {
                let turn = Turn {
                    side: &p.b,
                    stride: p.k,
                    row: region.b_row(column),
                    count: (region.size.1 - column).min(width),
                    run: *run,
                    near: self.near.get_mut(),
                    out: self.right.get_mut(),
                };
                l.call(turn);
                let mut scales = [0f32; WIDE];
                for (to, at) in scales.iter_mut().zip(&self.columns_at[column..]).take(width) {
                    *to = p.b.scale(*at, run.begin);
                }
                self.run(l, run, run.begin - k.start, t * tall..(t + 1) * tall, &scales);
            }
            self.end(p, segment, region, row, rows, column, width);
        }
    }

    /// Reads what the sums begin with.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // a rectangle
    fn begin(
        &mut self,
        p: &Problem<'_>,
        segment: &Segment,
        region: &Region<'_>,
        row: usize,
        rows: usize,
        column: usize,
        width: usize,
    ) {
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

    /// Writes what they have become.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // a rectangle
    fn end(
        &mut self,
        p: &Problem<'_>,
        segment: &Segment,
        region: &mut Region<'_>,
        row: usize,
        rows: usize,
        column: usize,
        width: usize,
    ) {
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

    /// One run of a panel of columns, for all rows of the block.
    #[inline(always)]
    fn run<L: Lanes>(&mut self, l: L, run: &Run, at: usize, of_rows: Range<usize>, of_columns: &[f32; WIDE]) {
        let width = VECTORS * L::N;
        let steps = (run.end - run.begin).div_ceil(STEP);
        let right = &self.right.get()[..steps * STEP * width];
        let (kernel, left) = (kernel_rows::<L>(), self.left.get());
        let (partial, done) = (self.partial.get_mut(), self.done.get_mut());
        let of_rows = &self.row_scales[of_rows];
        for first in (0..of_rows.len()).step_by(kernel) {
            let block = first * width..(first + kernel) * width;
            let (partial, done) = (&mut partial[block.clone()], &mut done[block]);
            let left = &left[first * STRIDE + at..];
            let scales = (&of_rows[first..first + kernel], of_columns);
            let (opens, closes) = (run.opens, run.closes);
            macro_rules! add {
                ($rows:literal) => {
                    l.call(Add::<$rows> { left, right, opens, closes, scales, partial, done })
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

/// A row of codes as float32; zeros after the last.
struct Decode<'a> {
    side: &'a Side<'a>,
    codes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
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

/// The columns of a run: for each k two vectors of values.
struct Turn<'a> {
    side: &'a Side<'a>,
    stride: usize,
    row: usize,
    /// Rows of b there are; the others count as zeros.
    count: usize,
    run: Run,
    near: &'a mut [u8],
    out: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Turn { side, stride, run, .. } = self;
        let (width, length) = (VECTORS * L::N, run.end - run.begin);
        // Side by side first: each cache line is read once, also where rows fall into the same sets of the cache.
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
                l.columns(side.table, near, Store { l, out, width });
            }
        }
    }
}

/// Writes columns, one every `width` values.
pub(super) struct Store<'a, L> {
    pub l: L,
    pub out: &'a mut [f32],
    pub width: usize,
}

impl<L: Lanes> ColumnSink<L> for Store<'_, L> {
    #[inline(always)]
    fn column(&mut self, k: usize, values: L::F) {
        self.l.store_f32(values, &mut self.out[k * self.width..], false);
    }
}

/// A run of `R` rows and two vectors of columns.
struct Add<'a, const R: usize> {
    left: &'a [f32],
    right: &'a [f32],
    opens: bool,
    closes: bool,
    scales: (&'a [f32], &'a [f32; WIDE]),
    partial: &'a mut [f32],
    done: &'a mut [f32],
}

impl<const R: usize> Kernel for Add<'_, R> {
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
        for (step, right) in self.right.chunks_exact(STEP * width).enumerate() {
            let mut left = [&[0f32; STEP]; R];
            for r in 0..R {
                let row = self.left[r * STRIDE + step * STEP..].first_chunk();
                left[r] = row.expect("a row holds whole steps");
            }
            let even = chain::<L, R>(l, &left, right, 0);
            let odd = chain::<L, R>(l, &left, right, 1);
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

/// The products of every second k of a step, from `k` on, in order from +0.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
fn chain<L: Lanes, const R: usize>(
    l: L,
    left: &[&[f32; STEP]; R],
    right: &[f32],
    k: usize,
) -> [[L::F; VECTORS]; R] {
    let width = VECTORS * L::N;
    let right = &right[..STEP * width];
    let mut sums = [[l.f32(0.0); VECTORS]; R];
    for i in 0..STEP / 2 {
        let k = 2 * i + k;
        let mut columns = [l.f32(0.0); VECTORS];
        for v in 0..VECTORS {
            columns[v] = l.load_f32(&right[k * width + v * L::N..][..L::N]);
        }
        for r in 0..R {
            let x = l.f32(left[r][k]);
            for v in 0..VECTORS {
                sums[r][v] = l.add_product(x, columns[v], sums[r][v]);
            }
        }
    }
    sums
}
