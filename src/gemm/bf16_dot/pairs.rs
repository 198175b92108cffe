//! Pairs in blocks: rows and columns are packed as the level multiplies them, two k to an element.

use crate::formats::Codes;
use crate::gemm::blocked::{BlockOrder, KRun, PackedRows, SideOperand, Sums, TransposeRun, WIDE};
use crate::gemm::job::Side;
use crate::simd::bf16_pairs::{add_pairs, least_normal, PairRows, PairSum, PART, STRIDE};
use crate::simd::{Ahead, ColumnSink, Kernel, Lanes, Lookup, PackedColumns, MAX_GROUP};
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

    /// The smallest exponent of any row.
    pub fn least(&self) -> i32 {
        self.each.iter().map(Cell::get).min().unwrap_or(0)
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
    pub table: Option<&'static Lookup>,
    pub of: &'a Side<'a>,
    /// Kept of bfloat16, where they are asked for.
    pub places: Option<&'a LastPlaces>,
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

    /// Transposes some k of a vector of rows of bfloat16, whole squares of pairs; false, and nothing is done, if there are
    /// not as many k or rows.
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
        if count < lanes || !k.len().is_multiple_of(2 * lanes) {
            return false;
        }
        let mut planes = Planes::new(level);
        for (at, square) in k.step_by(2 * lanes).zip(panel.chunks_exact_mut(P::PLANES * lanes * lanes)) {
            let ahead = (row + lanes) * stride + at;
            (0..lanes).for_each(|i| l.prefetch(codes, 2 * (ahead + i * stride)));
            let codes = &codes[row * stride + at..];
            if const { P::PLANES == 1 } {
                l.transpose_into(codes, stride, square, lanes);
                continue;
            }
            planes.split(codes, stride, square);
        }
        planes.note(self.places, row, lanes);
        true
    }

    /// Writes some k of a row as pairs; the number after an odd last one is zero.
    #[inline(always)]
    pub fn pairs<L: Lanes>(&self, l: L, row: usize, k: Range<usize>, out: &mut [f32]) {
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
                let whole = at.len() / L::GROUP * L::GROUP;
                let (groups, rest) = codes[at].split_at(whole);
                let (out, end) = out.split_at_mut(whole / 2);
                for (codes, out) in groups.chunks_exact(L::GROUP).zip(out.chunks_exact_mut(L::GROUP / 2)) {
                    l.lookup_pairs(table, codes, out);
                }
                let mut words = [0u16; MAX_GROUP];
                let value = |code: &u8| (table.values[usize::from(*code)].to_bits() >> 16) as u16;
                words.iter_mut().zip(rest).for_each(|(word, code)| *word = value(code));
                join(&words[..rest.len()], end);
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
    fn side(&self) -> Option<&Side<'_>> {
        Some(self.of)
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
}

impl<'a, P: PairSum> BlockOrder for PairBlocks<'a, P> {
    type L = P::L;
    type Operand = PairOperand<'a>;
    type Near = f32;
    // Sums of so many rows leave registers, where there are two planes: the compiler takes all rows of both at once.
    const ROWS: [usize; 2] = if P::L::N == 16 && P::PLANES == 1 { [24, 12] } else { [12, 6] };
    const RUN: [usize; 2] = [512 / P::PLANES, 256];
    const DEEP: [usize; 2] = [1536 / P::PLANES, 768];
    const STRIDE: usize = STRIDE;

    #[inline(always)]
    fn lanes(self) -> P::L {
        self.level.lanes()
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.level.call(kernel)
    }
    #[inline(always)]
    fn ahead(self, side: &PairOperand<'a>, rows: Range<usize>, k: Range<usize>) -> Ahead {
        match side.of.codes {
            Codes::U8(codes) => Ahead::new(codes, side.of.k, rows, k),
            Codes::U16(codes) => Ahead::new(codes, side.of.k, rows, k),
            Codes::U32(_) => Ahead::none(),
        }
    }
    #[inline(always)]
    fn pack_rows(self, side: &PairOperand<'a>, rows: Range<usize>, k: Range<usize>, out: &mut [f32]) {
        self.call(PackRows { order: self, side, rows, k, out });
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
    fn parts(length: usize) -> usize {
        length.div_ceil(2 * PART)
    }
    #[inline(always)]
    fn add_products<const R: usize, const V: usize>(
        self,
        rows: PackedRows<'_>,
        columns: PackedColumns<'_>,
        length: usize,
        ahead: &mut Ahead,
        sums: &mut Sums<P::L, R, V>,
    ) {
        let rows = PairRows { items: &rows.items[rows.at / 2..], plane: Self::PLANE };
        add_pairs::<P, R, V>(self.level, rows, columns, length.div_ceil(2), ahead, sums);
    }
}

/// Splits pairs into two planes, the numbers of a pair, the second first, without subnormal ones.
pub(super) struct Planes<P: PairSum> {
    level: P,
    /// How near numbers other than zero are to it, the most of each half: see [`Planes::nearness`].
    nearest: <P::L as Lanes>::U,
}

impl<P: PairSum> Planes<P> {
    #[inline(always)]
    pub fn new(level: P) -> Self {
        Planes { level, nearest: level.lanes().u32(0) }
    }

    /// For each half `2^15` less its magnitude, but 0 for zero.
    #[inline(always)]
    fn nearness(l: P::L, pair: <P::L as Lanes>::U) -> <P::L as Lanes>::U {
        let magnitudes = l.u32(0x7FFF_7FFF);
        l.and(l.sub(l.u32(0x8000_8000), l.and(pair, magnitudes)), magnitudes)
    }

    /// Transposes and splits a square of pairs.
    #[inline(always)]
    pub fn split(&mut self, codes: &[u16], stride: usize, out: &mut [f32]) {
        let (l, mut nearest) = (self.level.lanes(), self.nearest);
        l.turn_rows(codes, stride, SplitPairs { planes: self, out: &mut *out, nearest: &mut nearest });
        // Nearer to zero than the smallest normal number.
        let subnormal = l.and(l.add(nearest, l.u32(0x007F_007F)), l.u32(0x8000_8000));
        if l.any(l.gt(l.shr(subnormal, 1), l.u32(0))) {
            return self.level.call(Flush { planes: self, codes, stride, out });
        }
        self.nearest = nearest;
    }

    /// Notes the places of as many rows from one on, a row in each lane.
    #[inline(always)]
    pub fn note(&self, places: Option<&LastPlaces>, row: usize, count: usize) {
        let (Some(places), mut nearest) = (places, [0u32; WIDE]) else { return };
        self.level.lanes().store_u32(self.nearest, &mut nearest);
        for (row, nearest) in (row..row + count).zip(nearest) {
            let most = (nearest >> 16).max(nearest & 0xFFFF);
            if most > 0 {
                places.note(row, (0x8000 - most) << 16);
            }
        }
    }
}

/// Splits vectors of pairs, in order, as long as no number is subnormal.
struct SplitPairs<'a, P: PairSum> {
    planes: &'a Planes<P>,
    out: &'a mut [f32],
    nearest: &'a mut <P::L as Lanes>::U,
}

impl<P: PairSum> ColumnSink<P::L> for SplitPairs<'_, P> {
    #[inline(always)]
    fn column(&mut self, i: usize, pairs: <P::L as Lanes>::F) {
        let (l, lanes) = (self.planes.level.lanes(), P::L::N);
        let (pairs, out) = (l.bits(pairs), &mut self.out[2 * i * lanes..][..2 * lanes]);
        *self.nearest = l.max_halves(*self.nearest, Planes::<P>::nearness(l, pairs));
        l.store_f32(l.float(l.and(pairs, l.u32(0xFFFF_0000))), &mut out[..lanes], false);
        l.store_f32(l.float(l.shl(pairs, 16)), &mut out[lanes..], false);
    }
}

/// Splits a square with subnormal numbers: zeros.
struct Flush<'a, P: PairSum> {
    planes: &'a mut Planes<P>,
    codes: &'a [u16],
    stride: usize,
    out: &'a mut [f32],
}

impl<P: PairSum> Kernel for Flush<'_, P> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Flush { planes, codes, stride, out } = self;
        let (level, l, lanes) = (planes.level, planes.level.lanes(), P::L::N);
        let mut pairs = [0f32; 256];
        l.transpose_into(codes, stride, &mut pairs, lanes);
        for (pair, out) in pairs.chunks_exact(lanes).zip(out.chunks_exact_mut(2 * lanes)) {
            let (first, second) = (level.plane(0, l.load_f32(pair)), level.plane(1, l.load_f32(pair)));
            let normal = l.or(l.bits(first), l.shr(l.bits(second), 16));
            planes.nearest = l.max_halves(planes.nearest, Planes::<P>::nearness(l, normal));
            l.store_f32(first, &mut out[..lanes], false);
            l.store_f32(second, &mut out[lanes..], false);
        }
    }
}

/// Packs some k of rows: plane after plane.
struct PackRows<'a, 'b, P> {
    order: PairBlocks<'a, P>,
    side: &'b PairOperand<'a>,
    rows: Range<usize>,
    k: Range<usize>,
    out: &'b mut [f32],
}

impl<'a, P: PairSum> Kernel for PackRows<'a, '_, P> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let PackRows { order, side, rows, k, out } = self;
        let (l, plane) = (order.lanes(), PairBlocks::<P>::PLANE);
        let pairs = k.len().div_ceil(2);
        for (row, out) in rows.zip(out.chunks_mut(PairBlocks::<'a, P>::STRIDE)) {
            side.pairs(l, row, k.clone(), out);
            if const { P::PLANES == 1 } {
                continue;
            }
            for at in (0..pairs).step_by(P::L::N) {
                let vector = l.load_f32(&out[at..]);
                for i in 0..P::PLANES {
                    l.store_f32(order.level.plane(i, vector), &mut out[i * plane + at..], false);
                }
            }
        }
    }
}

/// Pairs of the longest run of any level.
const LINE: usize = 256;

/// Packs some k of a vector of columns, with the planes of a pair beside each other.
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
        if side.transposed(order.level, row, count, k.clone(), out) {
            return;
        }
        if let (Codes::U8(codes), Some(table), 2) = (side.of.codes, side.table, P::PLANES) {
            // Planes are the numbers of a pair, the second first.
            let mut near = [0; 2 * LINE * WIDE];
            let (near, swap) = (&mut near[..2 * LINE * lanes], 1);
            let stride = side.of.k;
            return l.call(TransposeRun { codes, table, stride, row, count, k, near, out, swap });
        }
        // Rows next to each other first: each cache line is read once, even if rows share cache sets.
        let mut line = [0f32; LINE];
        for i in 0..lanes {
            if i < count {
                side.prefetch(l, row + i + lanes, &k);
                side.pairs(l, row + i, k.clone(), &mut line);
            } else {
                line.fill(0.0);
            }
            for (line, near) in line.chunks_exact(lanes).zip(near.chunks_exact_mut(square)) {
                near[i * lanes..][..lanes].copy_from_slice(line);
            }
        }
        let blocks = near.chunks_exact(square).zip(out.chunks_exact_mut(square * P::PLANES));
        for (near, out) in blocks.take(pairs.div_ceil(lanes)) {
            if const { P::PLANES == 1 } {
                l.transpose(near, out);
                continue;
            }
            let mut tile = [0f32; 256];
            l.transpose(near, &mut tile[..square]);
            let pairs = tile[..square].chunks_exact(lanes);
            for (pair, out) in pairs.zip(out.chunks_exact_mut(P::PLANES * lanes)) {
                for (i, out) in out.chunks_exact_mut(lanes).enumerate() {
                    l.store_f32(order.level.plane(i, l.load_f32(pair)), out, false);
                }
            }
        }
    }
}
