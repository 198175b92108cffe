//! The order of AMX at the vector levels, in blocks: rows and columns are float32, a step at a time has its two chains.

use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{BlockOrder, BlockTask, KRun, Region, Sums, VECTORS};
use crate::simd::{dispatch, ColumnSink, Kernel, Lanes};
use std::marker::PhantomData;
use std::ops::Range;

/// Computes a part of the result.
pub(super) fn product(p: &Problem<'_>, region: &mut Region<'_>) {
    dispatch(SimdTask { p, region });
}

struct SimdTask<'a, 'o> {
    p: &'a Problem<'a>,
    region: &'a mut Region<'o>,
}

impl Kernel for SimdTask<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let order = AmxBlocks { l, operand: PhantomData };
        BlockTask { order, p: self.p, region: self.region }.run(l);
    }
}

/// Blocks in the order of AMX steps.
#[derive(Clone, Copy)]
struct AmxBlocks<'a, L> {
    l: L,
    operand: PhantomData<ByteOperand<'a>>,
}

impl<'a, L: Lanes> BlockOrder for AmxBlocks<'a, L> {
    type L = L;
    type Operand = ByteOperand<'a>;
    type Near = u8;
    const RUN: [usize; 2] = [256; 2];
    const DEEP: [usize; 2] = [512; 2];

    #[inline(always)]
    fn lanes(self) -> L {
        self.l
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.l.call(kernel)
    }
    #[inline(always)]
    fn pack_row(self, side: &ByteOperand<'a>, row: usize, k: Range<usize>, out: &mut [f32]) {
        let codes = &side.codes[row * side.of.k..][k];
        self.l.call(DecodeRow { side, codes, out });
    }
    #[inline(always)]
    fn pack_columns(
        self,
        side: &ByteOperand<'a>,
        row: usize,
        count: usize,
        run: &KRun,
        near: &mut [u8],
        out: &mut [f32],
    ) {
        self.l.call(TransposeRun { side, stride: side.of.k, row, count, run: *run, near, out });
    }
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
    fn add_products<const R: usize>(
        self,
        lhs: &[f32],
        at: usize,
        rhs: &[f32],
        length: usize,
        sums: &mut Sums<L, R>,
    ) {
        let (l, step_items) = (self.l, STEP * VECTORS * L::N);
        let rhs = &rhs[..length.div_ceil(STEP) * step_items];
        for (step, rhs) in rhs.chunks_exact(step_items).enumerate() {
            let mut rows = [&[0f32; STEP]; R];
            for r in 0..R {
                let row = lhs[r * Self::STRIDE + at + step * STEP..].first_chunk();
                rows[r] = row.expect("a row holds whole steps");
            }
            let even = chain::<L, R>(l, &rows, rhs, 0);
            let odd = chain::<L, R>(l, &rows, rhs, 1);
            for r in 0..R {
                for v in 0..VECTORS {
                    sums[r][v] = l.fadd(sums[r][v], l.fadd(even[r][v], odd[r][v]));
                }
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
