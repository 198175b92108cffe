//! `a b^T` of float32 by float32, for a model's many rows: matrixmultiply's order, in blocks.
//!
//! The products of [`INTERVAL`] of k are added one after another by fused steps, from +0 on, and such sums in turn to the
//! result.

use super::blocked::{BlockOrder, BlockTask, KRun, PackedRows, Problem, Region, SideOperand, Sums};
use super::job::{Row, Side, Tile};
use crate::simd::bf16_pairs::{add_pairs, PairRows, Single, PART, STRIDE};
use crate::simd::{dispatch_vectors, level, Ahead, Kernel, Lanes, Level, PackedColumns};
use std::marker::PhantomData;
use std::ops::Range;

/// k of a sum.
const INTERVAL: usize = 256;

/// Computes the products of all rows of `a` with all rows of `b`, `out[i][j]`, or adds them to what is there. Returns false,
/// and does nothing, where rows are empty or of several lengths, where `out` has other sizes, and at the level without vectors.
pub fn times_rows(a: &[&[f32]], b: &[&[f32]], out: Vec<&mut [f32]>, add: bool) -> bool {
    let k = a.first().map_or(0, |row| row.len());
    let fits = a.iter().chain(b).all(|row| row.len() == k) && out.len() == a.len();
    if k == 0 || !fits || out.iter().any(|row| row.len() != b.len()) || level() == Level::Scalar {
        return false;
    }
    let tile = Tile::of_rows(out.into_iter().map(Row::F32).collect());
    let region = &mut if add { Region::begun(tile) } else { Region::new(tile) };
    let p = &Problem { a: FloatRows(a), b: FloatRows(b), k, interval: INTERVAL, chained: false };
    if !b.is_empty() {
        dispatch_vectors(ChainTask { p, region });
    }
    true
}

struct ChainTask<'a, 'o> {
    p: &'a Problem<FloatRows<'a>>,
    region: &'a mut Region<'o>,
}

impl Kernel for ChainTask<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let order = Chains { l, operand: PhantomData };
        BlockTask { order, p: self.p, region: self.region }.run(l);
    }
}

/// Rows of the same length.
#[derive(Clone, Copy)]
struct FloatRows<'a>(&'a [&'a [f32]]);

impl SideOperand for FloatRows<'_> {
    #[inline(always)]
    fn side(&self) -> Option<&Side<'_>> {
        None
    }
}

/// Blocks of float32 at a level.
#[derive(Clone, Copy)]
struct Chains<'a, L> {
    l: L,
    operand: PhantomData<FloatRows<'a>>,
}

impl<'a, L: Lanes> BlockOrder for Chains<'a, L> {
    type L = L;
    type Operand = FloatRows<'a>;
    type Near = f32;
    const ROWS: [usize; 2] = if L::N == 16 { [24, 12] } else { [12, 6] };
    const RUN: [usize; 2] = [INTERVAL; 2];
    const DEEP: [usize; 2] = [3 * INTERVAL; 2];
    const STRIDE: usize = STRIDE;
    const FEW: usize = 8;
    // Leaves the first sum what it is, a zero of either sign too.
    const START: f32 = -0.0;

    #[inline(always)]
    fn lanes(self) -> L {
        self.l
    }
    #[inline(always)]
    fn ahead(self, side: &FloatRows<'a>, rows: Range<usize>, k: Range<usize>) -> Ahead {
        Ahead::of_rows(&side.0[rows], k)
    }
    #[inline(always)]
    fn pack_rows(self, side: &FloatRows<'a>, rows: Range<usize>, k: Range<usize>, out: &mut [f32]) {
        for (row, out) in side.0[rows].iter().zip(out.chunks_mut(STRIDE)) {
            out[..k.len()].copy_from_slice(&row[k.clone()]);
        }
    }
    #[inline(always)]
    fn pack_columns(
        self,
        side: &FloatRows<'a>,
        row: usize,
        count: usize,
        run: &KRun,
        near: &mut [f32],
        out: &mut [f32],
    ) {
        self.call(PackColumns {
            l: self.l,
            rows: &side.0[row..row + count],
            k: run.begin..run.end,
            near,
            out,
        });
    }
    #[inline(always)]
    fn parts(length: usize) -> usize {
        length.div_ceil(PART)
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
        let rows = PairRows { items: &rows.items[rows.at..], plane: 0 };
        add_pairs::<Single<L>, R, V>(Single(self.l), rows, columns, length, ahead, sums);
    }
}

/// Transposes some k of at most a vector of rows; the others are zeros.
struct PackColumns<'a, L> {
    l: L,
    rows: &'a [&'a [f32]],
    k: Range<usize>,
    near: &'a mut [f32],
    out: &'a mut [f32],
}

impl<M: Lanes> Kernel for PackColumns<'_, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let PackColumns { l, rows, k, near, out } = self;
        // Rows next to each other first: each is read in one go.
        for (i, near) in near.chunks_exact_mut(INTERVAL).enumerate().take(M::N) {
            let row = rows.get(i).map_or(&[][..], |row| &row[k.clone()]);
            near[..row.len()].copy_from_slice(row);
            near[row.len()..].fill(0.0);
        }
        for (at, tile) in (0..k.len()).step_by(M::N).zip(out.chunks_exact_mut(M::N * M::N)) {
            l.transpose_into(&near[at..], INTERVAL, tile, M::N);
        }
    }
}
