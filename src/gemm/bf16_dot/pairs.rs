//! Pairs in blocks: rows and columns are packed as the level multiplies them, two k to an element.

use crate::formats::Codes;
use crate::gemm::blocked::{BlockOrder, KRun, SideOperand, Sums, VECTORS};
use crate::gemm::job::Side;
use crate::simd::bf16_pairs::{add_pairs, least_normal, PairColumns, PairRows, PairSum};
use crate::simd::{Kernel, Lanes, Lookup, MAX_GROUP};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

/// The exponents of the last places of some rows, the smallest that was packed: products are multiples of the product of
/// two. At most 0.
pub(super) struct LastPlaces {
    first: usize,
    each: Vec<Cell<i32>>,
}

impl LastPlaces {
    /// Returns 0 for each row, or for rows of bytes the place of the smallest number of their format.
    pub fn new(side: &Side<'_>, rows: Range<usize>) -> LastPlaces {
        let found = LastPlaces { first: rows.start, each: vec![Cell::new(0); rows.len()] };
        if matches!(side.codes, Codes::U8(_)) {
            let sizes = side.format.lookup().values.iter().map(|value| value.abs().to_bits());
            let least = sizes.filter(|bits| *bits > 0).min().unwrap_or(0);
            rows.for_each(|row| found.note(row, least));
        }
        found
    }

    /// The exponent of a row, counted from the first.
    pub fn at(&self, row: usize) -> i32 {
        self.each[row].get()
    }

    /// Notes a normal number of a row, by the bits of a float32.
    #[inline(always)]
    fn note(&self, row: usize, magnitude: u32) {
        let (each, place) = (&self.each[row - self.first], (magnitude >> 23) as i32 - 127 - 7);
        each.set(each.get().min(place));
    }
}

/// An operand: bfloat16, or bytes with a table of values that are bfloat16.
#[derive(Clone, Copy)]
pub(super) struct PairOperand<'a> {
    table: Option<&'static Lookup>,
    of: &'a Side<'a>,
    /// Kept of bfloat16, where they are asked for.
    places: Option<&'a LastPlaces>,
}

impl<'a> PairOperand<'a> {
    pub fn new(of: &'a Side<'a>, places: Option<&'a LastPlaces>) -> PairOperand<'a> {
        PairOperand { table: matches!(of.codes, Codes::U8(_)).then(|| of.format.lookup()), of, places }
    }

    /// Prefetches some k of a row, if there is one.
    #[inline(always)]
    fn prefetch<L: Lanes>(&self, l: L, row: usize, k: &Range<usize>) {
        let at = row * self.of.k + k.start;
        match self.of.codes {
            Codes::U8(codes) => (0..k.len()).step_by(64).for_each(|i| l.prefetch(codes, at + i)),
            Codes::U16(codes) => (0..2 * k.len()).step_by(64).for_each(|i| l.prefetch(codes, 2 * at + i)),
            Codes::U32(_) => {}
        }
    }

    /// Transposes some k of a vector of rows whose pairs are packed as they are, whole squares of them; false if this is not
    /// so, or if there are not as many rows.
    #[inline(always)]
    fn transposed<P: PairSum>(
        &self,
        level: P,
        row: usize,
        count: usize,
        k: Range<usize>,
        panel: &mut [f32],
    ) -> bool {
        let (l, lanes, stride) = (level.lanes(), P::L::N, self.of.k);
        let Codes::U16(codes) = self.of.codes else { return false };
        if P::PLANES > 1 || self.places.is_some() || count < lanes || !k.len().is_multiple_of(2 * lanes) {
            return false;
        }
        for (at, square) in k.step_by(2 * lanes).zip(panel.chunks_exact_mut(lanes * lanes)) {
            let ahead = (row + VECTORS * lanes) * stride + at;
            (0..lanes).for_each(|i| l.prefetch(codes, 2 * (ahead + i * stride)));
            l.transpose_rows(&codes[row * stride + at..], stride, square);
        }
        true
    }

    /// Writes some k of a row as pairs; the number after an odd last one is zero.
    #[inline(always)]
    fn pairs<L: Lanes>(&self, l: L, row: usize, k: Range<usize>, out: &mut [f32]) {
        let at = row * self.of.k + k.start..row * self.of.k + k.end;
        match (self.of.codes, self.table) {
            (Codes::U16(codes), _) => {
                let pairs = at.len().div_ceil(2);
                join(&codes[at], out);
                if let Some(places) = self.places {
                    places.note(row, least_normal(l, &out[..pairs]));
                }
            }
            (Codes::U8(codes), Some(table)) => {
                let mut words = [0u16; MAX_GROUP];
                for (codes, out) in codes[at].chunks(L::GROUP).zip(out.chunks_mut(L::GROUP / 2)) {
                    if codes.len() == L::GROUP {
                        l.lookup_bf16(table, codes, &mut words[..L::GROUP], false);
                    } else {
                        let value = |code: &u8| (table.values[usize::from(*code)].to_bits() >> 16) as u16;
                        words.iter_mut().zip(codes).for_each(|(word, code)| *word = value(code));
                    }
                    join(&words[..codes.len()], out);
                }
            }
            _ => unreachable!("the accumulator takes no wide format"),
        }
    }
}

/// Writes pairs of words.
#[inline(always)]
fn join(words: &[u16], out: &mut [f32]) {
    let (pairs, rest) = words.as_chunks::<2>();
    for (out, pair) in out.iter_mut().zip(pairs) {
        *out = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
    }
    if let [last] = rest {
        out[pairs.len()] = f32::from_bits(u32::from(*last));
    }
}

impl SideOperand for PairOperand<'_> {
    #[inline(always)]
    fn side(&self) -> &Side<'_> {
        self.of
    }
}

/// Blocks of pairs at a level.
#[derive(Clone, Copy)]
pub(super) struct PairBlocks<'a, P> {
    level: P,
    operand: PhantomData<PairOperand<'a>>,
}

impl<P: PairSum> PairBlocks<'_, P> {
    pub fn new(level: P) -> Self {
        PairBlocks { level, operand: PhantomData }
    }

    /// Float32 of a plane of a packed row.
    const PLANE: usize = Self::DEEP[1] / P::PLANES;
    /// Float32 of a panel of a vector of packed columns.
    const PANEL: usize = Self::RUN[1] * P::L::N;
}

impl<'a, P: PairSum> BlockOrder for PairBlocks<'a, P> {
    type L = P::L;
    type Operand = PairOperand<'a>;
    type Near = f32;
    const RUN: [usize; 2] = [256 / P::PLANES, 128];
    const DEEP: [usize; 2] = [1024 / P::PLANES, 512];

    #[inline(always)]
    fn lanes(self) -> P::L {
        self.level.lanes()
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.level.call(kernel)
    }
    #[inline(always)]
    fn pack_row(self, side: &PairOperand<'a>, row: usize, k: Range<usize>, out: &mut [f32]) {
        self.call(PackRow { order: self, side, row, k, out });
    }
    #[inline(always)]
    fn pack_columns(
        self,
        side: &PairOperand<'a>,
        row: usize,
        count: usize,
        run: &KRun,
        near: &mut [f32],
        out: &mut [f32],
    ) {
        self.call(PackColumns { order: self, side, row, count, k: run.begin..run.end, near, out });
    }
    #[inline(always)]
    fn add_products<const R: usize>(
        self,
        lhs: &[f32],
        at: usize,
        rhs: &[f32],
        length: usize,
        sums: &mut Sums<P::L, R>,
    ) {
        let rows = PairRows { items: &lhs[at / 2..], stride: Self::STRIDE, plane: Self::PLANE };
        let columns = PairColumns { items: rhs, panel: Self::PANEL };
        add_pairs::<P, R, VECTORS>(self.level, rows, columns, length.div_ceil(2), sums);
    }
}

/// Packs some k of a row: plane after plane.
struct PackRow<'a, 'b, P> {
    order: PairBlocks<'a, P>,
    side: &'b PairOperand<'a>,
    row: usize,
    k: Range<usize>,
    out: &'b mut [f32],
}

impl<P: PairSum> Kernel for PackRow<'_, '_, P> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let PackRow { order, side, row, k, out } = self;
        let (l, plane) = (order.lanes(), PairBlocks::<P>::PLANE);
        let pairs = k.len().div_ceil(2);
        side.pairs(l, row, k, out);
        if const { P::PLANES == 1 } {
            return;
        }
        for at in (0..pairs).step_by(P::L::N) {
            let vector = l.load_f32(&out[at..]);
            for i in 0..P::PLANES {
                l.store_f32(order.level.plane(i, vector), &mut out[i * plane + at..], false);
            }
        }
    }
}

/// Pairs of the longest run of any level.
const LINE: usize = 128;

/// Packs some k of two vectors of columns: a panel for each vector, with the planes of a pair beside each other.
struct PackColumns<'a, 'b, P> {
    order: PairBlocks<'a, P>,
    side: &'b PairOperand<'a>,
    row: usize,
    /// Rows of `b`; the others are zeros.
    count: usize,
    k: Range<usize>,
    near: &'b mut [f32],
    out: &'b mut [f32],
}

impl<P: PairSum> Kernel for PackColumns<'_, '_, P> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let PackColumns { order, side, row, count, k, near, out } = self;
        let (l, lanes) = (order.lanes(), P::L::N);
        let (square, pairs) = (lanes * lanes, k.len().div_ceil(2));
        let blocks = pairs.div_ceil(lanes);
        let mut line = [0f32; LINE];
        for v in 0..VECTORS {
            let panel = &mut out[v * PairBlocks::<P>::PANEL..];
            if side.transposed(
                order.level,
                row + v * lanes,
                count.saturating_sub(v * lanes),
                k.clone(),
                panel,
            ) {
                continue;
            }
            // Rows next to each other first: each cache line is read once, even if rows share cache sets.
            for i in 0..lanes {
                let row = row + v * lanes + i;
                if v * lanes + i < count {
                    side.prefetch(l, row + VECTORS * lanes, &k);
                    side.pairs(l, row, k.clone(), &mut line);
                } else {
                    line.fill(0.0);
                }
                for (block, line) in line.chunks_exact(lanes).take(blocks).enumerate() {
                    near[block * square + i * lanes..][..lanes].copy_from_slice(line);
                }
            }
            for block in 0..blocks {
                let near = &near[block * square..][..square];
                let panel = &mut panel[block * square * P::PLANES..][..square * P::PLANES];
                if const { P::PLANES == 1 } {
                    l.transpose(near, panel);
                    continue;
                }
                let mut tile = [0f32; 256];
                l.transpose(near, &mut tile[..square]);
                let pairs = tile[..square].chunks_exact(lanes);
                for (pair, out) in pairs.zip(panel.chunks_exact_mut(P::PLANES * lanes)) {
                    for (i, out) in out.chunks_exact_mut(lanes).enumerate() {
                        l.store_f32(order.level.plane(i, l.load_f32(pair)), out, false);
                    }
                }
            }
        }
    }
}
