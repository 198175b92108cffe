//! The order of AMX at the vector levels, in blocks: rows and columns are float32, both chains of a step go side by side.

use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{BlockOrder, BlockTask, KRun, PackedRows, Region, Sums, TransposeRun};
use crate::simd::{add_steps, dispatch, Ahead, Kernel, Lanes, PackedColumns, STEP_STRIDE};
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
    const STRIDE: usize = STEP_STRIDE;

    #[inline(always)]
    fn lanes(self) -> L {
        self.l
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
        let (codes, table, stride, k) = (side.codes, side.table, side.of.k, run.begin..run.end);
        self.l.call(TransposeRun { codes, table, stride, row, count, k, near, out, swap: 0 });
    }
    #[inline(always)]
    fn parts(length: usize) -> usize {
        length.div_ceil(STEP)
    }
    #[inline(always)]
    fn add_products<const R: usize, const V: usize>(
        self,
        rows: PackedRows<'_>,
        columns: PackedColumns<'_>,
        length: usize,
        ahead: &mut Ahead,
        sums: &mut Sums<L, R, V>,
    ) {
        add_steps(self.l, &rows.items[rows.at..], columns, length.div_ceil(STEP), ahead, sums);
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
