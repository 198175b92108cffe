//! The order of AMX at the vector levels, in blocks: rows and columns are float32, both chains of a step go side by side.

use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{BlockOrder, BlockTask, KRun, PackedColumns, PackedRows, Region, Sums};
use crate::simd::{dispatch, Ahead, ColumnSink, Kernel, Lanes};
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
    const ROWS: [usize; 2] = if L::N == 16 { [12, 6] } else { [6, 3] };
    const RUN: [usize; 2] = [256; 2];
    const DEEP: [usize; 2] = [1024; 2];

    #[inline(always)]
    fn lanes(self) -> L {
        self.l
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.l.call(kernel)
    }
    #[inline(always)]
    fn ahead(self, side: &ByteOperand<'a>, rows: Range<usize>, k: Range<usize>) -> Ahead {
        Ahead::new(side.codes, side.of.k, rows, k)
    }
    #[inline(always)]
    fn pack_rows(self, side: &ByteOperand<'a>, rows: Range<usize>, k: Range<usize>, out: &mut [f32]) {
        let stride = Self::STRIDE;
        self.l.call(DecodeRows { side, rows, k, out, stride });
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
    fn add_products<const R: usize, const V: usize>(
        self,
        rows: PackedRows<'_>,
        columns: PackedColumns<'_>,
        length: usize,
        mut ahead: Ahead,
        sums: &mut Sums<L, R, V>,
    ) {
        let (l, steps) = (self.l, length.div_ceil(STEP));
        let lines = ahead.each(steps);
        for step in 0..steps {
            ahead.prefetch(l, lines);
            let mut lhs = [&[0f32; STEP]; R];
            for r in 0..R {
                let row = rows.items[r * Self::STRIDE + rows.at + step * STEP..].first_chunk();
                lhs[r] = row.expect("a row holds whole steps");
            }
            let mut rhs: [&[f32]; V] = [&[]; V];
            for v in 0..V {
                rhs[v] = &columns.items[v * columns.panel + step * STEP * L::N..][..STEP * L::N];
            }
            let [even, odd] = chains::<L, R, V>(l, &lhs, &rhs);
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = l.fadd(sums[r][v], l.fadd(even[r][v], odd[r][v]));
                }
            }
        }
    }
}

/// Decodes some k of rows to float32, each padded with zeros to whole steps.
struct DecodeRows<'a, 'b> {
    side: &'b ByteOperand<'a>,
    rows: Range<usize>,
    k: Range<usize>,
    out: &'b mut [f32],
    stride: usize,
}

impl Kernel for DecodeRows<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let DecodeRows { side, rows, k, out, stride } = self;
        let (whole, padded) = (k.len() / L::GROUP * L::GROUP, k.len().next_multiple_of(STEP));
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let (groups, rest) = side.codes[row * side.of.k..][k.clone()].split_at(whole);
            let (out, end) = out[..padded].split_at_mut(whole);
            for (codes, out) in groups.chunks_exact(L::GROUP).zip(out.chunks_exact_mut(L::GROUP)) {
                let values = l.lookup(side.table, codes);
                l.store_f32(values[0], &mut out[..L::N], false);
                l.store_f32(values[1], &mut out[L::N..2 * L::N], false);
                l.store_f32(values[2], &mut out[2 * L::N..3 * L::N], false);
                l.store_f32(values[3], &mut out[3 * L::N..], false);
            }
            for (i, out) in end.iter_mut().enumerate() {
                *out = rest.get(i).map_or(0.0, |code| side.table.values[usize::from(*code)]);
            }
        }
    }
}

/// Transposes the columns of a run: for each k a vector of values.
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
        let length = run.end - run.begin;
        // Copy rows next to each other first: each cache line is read once, even if rows share cache sets.
        let (near, step) = (&mut *self.near, STEP * L::N);
        for i in 0..L::N {
            let codes: &[u8] =
                if i < self.count { &side.codes[(self.row + i) * stride..][run.begin..run.end] } else { &[] };
            let (steps, rest) = codes.as_chunks::<STEP>();
            for (j, codes) in steps.iter().enumerate() {
                near[j * step + i * STEP..][..STEP].copy_from_slice(codes);
            }
            for from in (steps.len() * STEP..length).step_by(STEP) {
                let near = &mut near[from * L::N + i * STEP..][..STEP];
                near.fill(0);
                if i < self.count {
                    near[..rest.len()].copy_from_slice(rest);
                }
            }
        }
        let steps = self.near.chunks_exact(step).zip(self.out.chunks_exact_mut(step));
        for (near, out) in steps.take(length.div_ceil(STEP)) {
            l.columns(side.table, near, StoreColumns { l, out, width: L::N });
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

/// Sums the products of the even and of the odd k of a step, each in order from +0.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
fn chains<L: Lanes, const R: usize, const V: usize>(
    l: L,
    lhs: &[&[f32; STEP]; R],
    rhs: &[&[f32]; V],
) -> [Sums<L, R, V>; 2] {
    let mut chains = [[[l.f32(0.0); V]; R]; 2];
    for i in 0..STEP / 2 {
        for odd in 0..2 {
            let (k, sums) = (2 * i + odd, &mut chains[odd]);
            let mut columns = [l.f32(0.0); V];
            for v in 0..V {
                columns[v] = l.load_f32(&rhs[v][k * L::N..][..L::N]);
            }
            for r in 0..R {
                let x = l.f32(lhs[r][k]);
                for v in 0..V {
                    sums[r][v] = l.add_product(x, columns[v], sums[r][v]);
                }
            }
        }
    }
    chains
}
