//! Codes laid out as the vector steps take them: some rows, or sixteen columns, of at most [`BLOCK`] k.
//!
//! The loops are plain: they run inside kernels, where the compiler turns them into vectors.

use super::job::{Blocks, Side};
use super::mma::software_order;
use crate::formats::{Codes, Format};
use crate::simd::mma::{
    At, Floats, Mma, NarrowColumns, NarrowRows, Unit, WideColumns, WideRows, Words, COLUMNS, LANES,
    WIDE_ZERO, ZERO,
};
use crate::simd::{dispatch, Kernel, Lanes};
use std::ops::Range;

/// The most of k that is laid out at once: a panel of it fits the first-level cache.
pub(super) const BLOCK: usize = 128;

/// Codes that share a scale at least.
const SCALED: usize = 32;

/// The exponents found in a row or column, as far as they matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExponentRange {
    /// The smallest.
    pub low: i32,
    /// The largest.
    pub high: i32,
}

impl ExponentRange {
    /// Of no number at all.
    pub const NONE: ExponentRange = ExponentRange { low: 1 << 20, high: -1 << 20 };
    /// Farther than any partner could make good.
    const FAR: i32 = 1 << 24;

    fn widen(&mut self, low: i32, high: i32) {
        (self.low, self.high) = (self.low.min(low), self.high.max(high));
    }

    /// Whether NaN or infinity was found, or products whose float32 might be inexact, or sums that might leave the
    /// range of normal numbers.
    pub fn needs_definition(self, other: ExponentRange) -> bool {
        self.high + other.high > 90 || self.low + other.low < -100
    }
}

/// How the codes of one side are taken apart.
#[derive(Clone, Copy)]
struct Fields {
    man: u32,
    bias: i16,
    /// All bits of a code.
    all: u16,
    /// The bits below the sign.
    magnitude: u16,
    /// Where the sign stands.
    sign: u32,
    /// The largest finite magnitude.
    max: u16,
    /// Whether float32 values are made by shifting: bfloat16.
    brain: bool,
    /// Whether operands are widened to float16 and their k reordered: the software path.
    software: bool,
}

impl Fields {
    fn new(format: &Format, unit: Unit) -> Fields {
        Fields {
            man: format.man,
            bias: format.bias as i16,
            all: ((1u32 << format.bits()) - 1) as u16,
            magnitude: ((1u32 << (format.bits() - 1)) - 1) as u16,
            sign: format.bits() - 1,
            max: format.max_code() as u16,
            brain: format.exp == 8,
            software: unit.software,
        }
    }

    /// Significand and exponent of a magnitude.
    #[inline(always)]
    fn split(self, magnitude: u16) -> (i16, i16) {
        let field = (magnitude >> self.man) as i16;
        let mantissa = (magnitude & ((1 << self.man) - 1)) as i16;
        (mantissa + (i16::from(field > 0) << self.man), field.max(1) - self.bias)
    }

    #[inline(always)]
    fn negative(self, code: u16) -> bool {
        code >> self.sign != 0
    }

    /// The float32 of a code and its exponent, [`WIDE_ZERO`] for zero.
    #[inline(always)]
    fn wide<const BRAIN: bool, const SOFTWARE: bool>(self, code: u16) -> (f32, i16) {
        let magnitude = code & self.magnitude;
        let (sig, exp) = self.split(magnitude);
        let value = if BRAIN {
            f32::from_bits(u32::from(magnitude) << 16)
        } else {
            let power = (i32::from(exp) + 127 - self.man as i32) as u32;
            i32::from(sig) as f32 * f32::from_bits(power << 23)
        };
        let exp = if SOFTWARE { ((value.to_bits() >> 23) as i16 - 127).max(-14) } else { exp };
        let sign = u32::from(self.negative(code)) << 31;
        (f32::from_bits(value.to_bits() | sign), if sig == 0 { WIDE_ZERO } else { exp })
    }

    /// What a row's codes do to its reach.
    #[inline(always)]
    fn reach(self, codes: &[u16; BLOCK], reach: &mut ExponentRange) {
        let largest = codes.iter().fold(0, |max: u16, c| max.max(c & self.magnitude));
        if largest > self.max {
            reach.widen(-ExponentRange::FAR, ExponentRange::FAR);
        }
        if self.brain {
            let smallest =
                codes.iter().fold(u16::MAX, |min: u16, c| min.min((c & self.magnitude).wrapping_sub(1)));
            if largest > 0 {
                let exp = |magnitude: u16| match magnitude >> self.man {
                    0 => -ExponentRange::FAR, // subnormal
                    field => i32::from(field) - 127,
                };
                reach.widen(exp(smallest + 1), exp(largest));
            }
        }
    }

    /// Codes `at..at + len`, with zeros behind.
    #[inline(always)]
    fn load(self, codes: Codes<'_>, at: usize, len: usize) -> [u16; BLOCK] {
        let mut out = [0; BLOCK];
        match codes {
            Codes::U8(codes) => {
                for (out, code) in out.iter_mut().zip(&codes[at..at + len]) {
                    *out = u16::from(*code) & self.all;
                }
            }
            Codes::U16(codes) => {
                for (out, code) in out.iter_mut().zip(&codes[at..at + len]) {
                    *out = code & self.all;
                }
            }
            Codes::U32(_) => unreachable!("tf32 is laid out on its own"),
        }
        if self.software {
            let plain = out;
            for (i, out) in out.iter_mut().enumerate() {
                *out = plain[software_order(i)];
            }
        }
        out
    }
}

/// Where codes are read: rows of `k`, of which `block` is wanted.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    codes: Codes<'a>,
    fields: Fields,
    k: usize,
    /// Scales that move exponents, one for a multiple of [`SCALED`] codes.
    scales: Option<Blocks<'a, u8>>,
}

impl<'a> Source<'a> {
    pub fn new(side: &Side<'a>, unit: Unit) -> Source<'a> {
        let fields = Fields::new(side.format, unit);
        Source { codes: side.codes, fields, k: side.k, scales: side.unit_scales }
    }

    /// The scale of some codes of a row at `k`: a factor, and how far it moves exponents; 1 where it does not matter or
    /// is too far for vectors, which `reach` learns.
    #[inline(always)]
    fn power(
        &self,
        scales: Blocks<'_, u8>,
        row: usize,
        k: usize,
        codes: &[u16],
        reach: &mut ExponentRange,
    ) -> (f32, i16) {
        let scale = scales.at(row, k);
        let (fields, moved) = (self.fields, i16::from(scale) - 127);
        if scale == u8::MAX {
            reach.widen(-ExponentRange::FAR, ExponentRange::FAR);
        } else if codes.iter().any(|code| code & fields.magnitude != 0) {
            if moved.abs() <= 60 {
                let (low, high) = (1 - fields.bias, (fields.max >> fields.man) as i16 - fields.bias);
                reach.widen(i32::from(low + moved), i32::from(high + moved));
                return (f32::from_bits((u32::from(scale)) << 23), moved);
            }
            reach.widen(-ExponentRange::FAR, ExponentRange::FAR);
        }
        (1.0, 0)
    }

    #[inline(always)]
    fn load(&self, row: usize, block: &Range<usize>) -> [u16; BLOCK] {
        self.fields.load(self.codes, row * self.k + block.start, block.len())
    }

    /// Asks for codes that the next panel will want: they stand far from these.
    #[inline(always)]
    fn prefetch<L: Lanes>(&self, l: L, at: usize, len: usize) {
        match self.codes {
            Codes::U8(codes) => (0..len).step_by(64).for_each(|i| l.prefetch(codes, at + i)),
            Codes::U16(codes) => (0..2 * len).step_by(64).for_each(|i| l.prefetch(codes, 2 * at + i)),
            Codes::U32(_) => {}
        }
    }

    /// The first [`COLUMNS`] rows from `row` on, of which `count` exist.
    #[inline(always)]
    fn columns<L: Lanes>(
        &self,
        l: L,
        row: usize,
        count: usize,
        block: &Range<usize>,
        reach: &mut [ExponentRange],
    ) -> [[u16; BLOCK]; COLUMNS] {
        let mut out = [[0; BLOCK]; COLUMNS];
        for (c, out) in out.iter_mut().enumerate().take(count) {
            *out = self.load(row + c, block);
            self.fields.reach(out, &mut reach[c]);
            self.prefetch(l, (row + c + COLUMNS) * self.k + block.start, block.len());
        }
        out
    }
}

/// `count` lines, each two k of every column: pairs of codes, as 32 bits, stand in squares that are turned. Written lane
/// by lane, a line would be read before its stores have reached the cache.
#[inline(always)]
fn lines<L: Lanes>(l: L, columns: &[[u16; BLOCK]; COLUMNS], count: usize) -> [[u32; COLUMNS]; BLOCK / 2] {
    let mut lines = [[0; COLUMNS]; BLOCK / 2];
    let (mut square, mut turned) = ([0f32; COLUMNS * COLUMNS], [0f32; COLUMNS * COLUMNS]);
    let (square, turned) = (&mut square[..L::N * L::N], &mut turned[..L::N * L::N]);
    for (at, lines) in (0..count).step_by(L::N).zip(lines.chunks_exact_mut(L::N)) {
        for (part, columns) in columns.chunks_exact(L::N).enumerate() {
            for (column, row) in columns.iter().zip(square.chunks_exact_mut(L::N)) {
                for (pair, out) in column[2 * at..2 * (at + L::N)].chunks_exact(2).zip(row) {
                    *out = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
                }
            }
            l.transpose(square, turned);
            for (line, row) in lines.iter_mut().zip(turned.chunks_exact(L::N)) {
                for (out, pair) in line[part * L::N..].iter_mut().zip(row) {
                    *out = pair.to_bits();
                }
            }
        }
    }
    lines
}

/// The two codes of each lane, one after the other.
#[inline(always)]
fn codes(line: [u32; COLUMNS]) -> [u16; LANES] {
    let mut out = [0; LANES];
    for (out, pair) in out.chunks_exact_mut(2).zip(line) {
        (out[0], out[1]) = (pair as u16, (pair >> 16) as u16);
    }
    out
}

/// A form in which vector steps take their operands.
pub(super) trait Form: Copy + Sync {
    /// Two k of sixteen columns.
    type Columns: Copy;
    /// Rows.
    type Rows;
    /// No rows yet.
    fn rows() -> Self::Rows;
    /// Two k of nothing.
    fn blank() -> Self::Columns;
    /// Lays out `count` rows from `first` on, `padded` k to each; notes in `reach` what was found.
    fn pack_rows<L: Mma>(
        self,
        src: Source<'_>,
        first: usize,
        block: Range<usize>,
        padded: usize,
        out: &mut Self::Rows,
        reach: &mut [ExponentRange],
    );
    /// Lays out the columns from `first` on, as many as `reach` has, which learns what was found.
    fn pack_columns<L: Mma>(
        self,
        src: Source<'_>,
        first: usize,
        block: Range<usize>,
        out: &mut [Self::Columns],
        reach: &mut [ExponentRange],
    );
    /// Continues chains.
    fn run<L: Mma>(
        l: L,
        unit: Unit,
        rows: &Self::Rows,
        at: At,
        columns: &[Self::Columns],
        state: &mut [Floats],
    );
}

/// 16-bit integers.
#[derive(Clone, Copy)]
pub(super) struct Narrow {
    /// By how much a row's significands are shifted.
    pub shift: u32,
}

/// An exponent as the level wants it.
#[inline(always)]
fn stand<const DOUBLED: bool>(exp: i16) -> i16 {
    if DOUBLED {
        (exp & 0xFF) | exp << 8
    } else {
        exp
    }
}

struct PackNarrowRows<'a, const DOUBLED: bool> {
    src: Source<'a>,
    first: usize,
    block: Range<usize>,
    padded: usize,
    shift: u32,
    out: &'a mut NarrowRows,
    reach: &'a mut [ExponentRange],
}

impl<const DOUBLED: bool> Kernel for PackNarrowRows<'_, DOUBLED> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let (fields, padded) = (self.src.fields, self.padded);
        let rows = self.out.sig.chunks_exact_mut(padded).zip(self.out.exp.chunks_exact_mut(padded));
        let rows = rows.zip(self.out.signs.chunks_exact_mut(padded / 2)).zip(self.reach).enumerate();
        for (row, (((sig, exp), signs), reach)) in rows {
            let codes = self.src.load(self.first + row, &self.block);
            fields.reach(&codes, reach);
            for ((sig, exp), code) in sig.iter_mut().zip(exp).zip(&codes) {
                let (s, e) = fields.split(code & fields.magnitude);
                *sig = s << self.shift;
                *exp = stand::<DOUBLED>(127 + if s == 0 { ZERO } else { e });
            }
            for (sign, pair) in signs.iter_mut().zip(codes.chunks_exact(2)) {
                *sign = (pair[0] >> fields.sign << 6 | pair[1] >> fields.sign << 7) as u8;
            }
        }
    }
}

struct PackNarrowColumns<'a, const DOUBLED: bool> {
    src: Source<'a>,
    first: usize,
    block: Range<usize>,
    out: &'a mut [NarrowColumns],
    reach: &'a mut [ExponentRange],
}

impl<const DOUBLED: bool> Kernel for PackNarrowColumns<'_, DOUBLED> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let fields = self.src.fields;
        let columns = self.src.columns(l, self.first, self.reach.len(), &self.block, self.reach);
        let lines = lines(l, &columns, self.out.len());
        for (out, line) in self.out.iter_mut().zip(lines) {
            for (i, code) in codes(line).into_iter().enumerate() {
                let (sig, exp) = fields.split(code & fields.magnitude);
                out.sig.0[i] = sig;
                out.exp.0[i] = stand::<DOUBLED>(if sig == 0 { ZERO } else { exp });
                let sign = 1 - 2 * i16::from(fields.negative(code));
                let (first, second) = if i % 2 == 0 { (-sign, sign) } else { (sign, -sign) };
                out.signs[0].0[i] = sign;
                out.signs[1].0[i] = first;
                out.signs[2].0[i] = second;
                out.signs[3].0[i] = -sign;
            }
        }
    }
}

impl Form for Narrow {
    type Columns = NarrowColumns;
    type Rows = NarrowRows;

    fn rows() -> NarrowRows {
        NarrowRows::default()
    }
    fn blank() -> NarrowColumns {
        let zero = Words([0; LANES]);
        NarrowColumns { sig: zero, exp: zero, signs: [zero; 4] }
    }
    fn pack_rows<L: Mma>(
        self,
        src: Source<'_>,
        first: usize,
        block: Range<usize>,
        padded: usize,
        out: &mut NarrowRows,
        reach: &mut [ExponentRange],
    ) {
        let len = reach.len() * padded;
        out.sig.resize(len, 0);
        out.exp.resize(len, 0);
        out.signs.resize(len / 2, 0);
        let shift = self.shift + L::EXTRA;
        if L::DOUBLED {
            dispatch(PackNarrowRows::<true> { src, first, block, padded, shift, out, reach });
        } else {
            dispatch(PackNarrowRows::<false> { src, first, block, padded, shift, out, reach });
        }
    }
    fn pack_columns<L: Mma>(
        self,
        src: Source<'_>,
        first: usize,
        block: Range<usize>,
        out: &mut [NarrowColumns],
        reach: &mut [ExponentRange],
    ) {
        if L::DOUBLED {
            dispatch(PackNarrowColumns::<true> { src, first, block, out, reach });
        } else {
            dispatch(PackNarrowColumns::<false> { src, first, block, out, reach });
        }
    }
    fn run<L: Mma>(
        l: L,
        unit: Unit,
        rows: &NarrowRows,
        at: At,
        columns: &[NarrowColumns],
        state: &mut [Floats],
    ) {
        l.narrow(unit, rows, at, columns, state);
    }
}

/// float32.
#[derive(Clone, Copy)]
pub(super) struct Wide;

struct PackWideRows<'a, const BRAIN: bool, const SOFTWARE: bool> {
    src: Source<'a>,
    first: usize,
    block: Range<usize>,
    padded: usize,
    out: &'a mut WideRows,
    reach: &'a mut [ExponentRange],
}

impl<const BRAIN: bool, const SOFTWARE: bool> Kernel for PackWideRows<'_, BRAIN, SOFTWARE> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let (fields, padded) = (self.src.fields, self.padded);
        let rows = self.out.values.chunks_exact_mut(padded).zip(self.out.exp.chunks_exact_mut(padded));
        for (row, ((values, exp), reach)) in rows.zip(self.reach).enumerate() {
            let codes = self.src.load(self.first + row, &self.block);
            fields.reach(&codes, reach);
            for ((value, exp), code) in values.iter_mut().zip(exp.iter_mut()).zip(&codes) {
                let (v, e) = fields.wide::<BRAIN, SOFTWARE>(*code);
                *value = v;
                *exp = e + 127;
            }
            let Some(scales) = self.src.scales else { continue };
            let parts = values.chunks_mut(SCALED).zip(exp.chunks_mut(SCALED)).zip(codes.chunks(SCALED));
            for (i, ((values, exp), codes)) in parts.enumerate() {
                let k = self.block.start + SCALED * i;
                let (factor, moved) = self.src.power(scales, self.first + row, k, codes, reach);
                values.iter_mut().for_each(|x| *x *= factor);
                exp.iter_mut().for_each(|x| *x += moved);
            }
        }
    }
}

struct PackWideColumns<'a, const BRAIN: bool, const SOFTWARE: bool> {
    src: Source<'a>,
    first: usize,
    block: Range<usize>,
    out: &'a mut [WideColumns],
    reach: &'a mut [ExponentRange],
}

impl<const BRAIN: bool, const SOFTWARE: bool> Kernel for PackWideColumns<'_, BRAIN, SOFTWARE> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let fields = self.src.fields;
        let columns = self.src.columns(l, self.first, self.reach.len(), &self.block, self.reach);
        let lines = lines(l, &columns, self.out.len());
        let powers = self.src.scales.map(|scales| self.powers(scales, &columns));
        for (q, (out, line)) in self.out.iter_mut().zip(lines).enumerate() {
            // The first k of all columns, then the second: loops that become vectors, which pairs do not.
            for (half, values) in out.values.iter_mut().enumerate() {
                for (value, pair) in values.0.iter_mut().zip(&line) {
                    *value = fields.wide::<BRAIN, SOFTWARE>((pair >> (16 * half)) as u16).0;
                }
            }
            for (code, exp) in codes(line).into_iter().zip(&mut out.exp.0) {
                *exp = fields.wide::<BRAIN, SOFTWARE>(code).1;
            }
            let Some(powers) = &powers else { continue };
            let (factors, moved) = &powers[2 * q / SCALED];
            for values in &mut out.values {
                values.0.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }
            out.exp.0.iter_mut().zip(moved).for_each(|(x, moved)| *x += moved);
        }
    }
}

/// Factors of sixteen columns, and how far they move exponents, for each two k.
type Powers = ([f32; COLUMNS], [i16; LANES]);

impl<const BRAIN: bool, const SOFTWARE: bool> PackWideColumns<'_, BRAIN, SOFTWARE> {
    /// The scales of the columns, for every [`SCALED`] k of the block.
    #[inline(always)]
    fn powers(
        &mut self,
        scales: Blocks<'_, u8>,
        columns: &[[u16; BLOCK]; COLUMNS],
    ) -> [Powers; BLOCK / SCALED] {
        let mut powers = [([1.0; COLUMNS], [0; LANES]); BLOCK / SCALED];
        for (c, (reach, column)) in self.reach.iter_mut().zip(columns).enumerate() {
            for (i, codes) in column[..self.block.len()].chunks(SCALED).enumerate() {
                let k = self.block.start + SCALED * i;
                let (factor, moved) = self.src.power(scales, self.first + c, k, codes, reach);
                powers[i].0[c] = factor;
                (powers[i].1[2 * c], powers[i].1[2 * c + 1]) = (moved, moved);
            }
        }
        powers
    }
}

/// The float32 of tf32 bits, and its exponent biased by 127; zero has [`WIDE_ZERO`] + 127.
#[inline(always)]
fn cut(bits: u32) -> (f32, i16) {
    let bits = bits & !0x1FFF;
    let exp = if bits << 1 == 0 { WIDE_ZERO + 127 } else { ((bits >> 23 & 255) as i16).max(1) };
    (f32::from_bits(bits), exp)
}

/// Lays out `len` float32 from `at` on, cut to tf32.
fn pack_tf32(bits: &[u32], reach: &mut ExponentRange, mut each: impl FnMut(usize, f32, i16)) {
    for (k, bits) in bits.iter().enumerate() {
        let (value, exp) = cut(*bits);
        each(k, value, exp);
        let field = (bits >> 23 & 255) as i32;
        match field {
            0 if value == 0.0 => {}
            0 | 255 => reach.widen(-ExponentRange::FAR, ExponentRange::FAR),
            _ => reach.widen(field - 127, field - 127),
        }
    }
}

impl Form for Wide {
    type Columns = WideColumns;
    type Rows = WideRows;

    fn rows() -> WideRows {
        WideRows::default()
    }
    fn blank() -> WideColumns {
        WideColumns { values: [Floats([0.0; COLUMNS]); 2], exp: Words([0; LANES]) }
    }
    fn pack_rows<L: Mma>(
        self,
        src: Source<'_>,
        first: usize,
        block: Range<usize>,
        padded: usize,
        out: &mut WideRows,
        reach: &mut [ExponentRange],
    ) {
        let len = reach.len() * padded;
        out.values.resize(len, 0.0);
        out.exp.resize(len, 0);
        if let Codes::U32(bits) = src.codes {
            let rows = out.values.chunks_exact_mut(padded).zip(out.exp.chunks_exact_mut(padded));
            for (row, ((values, exp), reach)) in rows.zip(reach).enumerate() {
                let at = (first + row) * src.k;
                values[block.len()..].fill(0.0);
                exp[block.len()..].fill(WIDE_ZERO + 127);
                pack_tf32(&bits[at + block.start..at + block.end], reach, |k, value, biased| {
                    (values[k], exp[k]) = (value, biased);
                });
            }
            return;
        }
        match (src.fields.brain, src.fields.software) {
            (false, false) => {
                dispatch(PackWideRows::<false, false> { src, first, block, padded, out, reach })
            }
            (false, true) => dispatch(PackWideRows::<false, true> { src, first, block, padded, out, reach }),
            (true, _) => dispatch(PackWideRows::<true, false> { src, first, block, padded, out, reach }),
        }
    }
    fn pack_columns<L: Mma>(
        self,
        src: Source<'_>,
        first: usize,
        block: Range<usize>,
        out: &mut [WideColumns],
        reach: &mut [ExponentRange],
    ) {
        if let Codes::U32(bits) = src.codes {
            out.fill(Wide::blank());
            for (c, reach) in reach.iter_mut().enumerate() {
                let at = (first + c) * src.k;
                pack_tf32(&bits[at + block.start..at + block.end], reach, |k, value, biased| {
                    out[k / 2].values[k % 2].0[c] = value;
                    out[k / 2].exp.0[2 * c + k % 2] = biased - 127;
                });
            }
            return;
        }
        match (src.fields.brain, src.fields.software) {
            (false, false) => dispatch(PackWideColumns::<false, false> { src, first, block, out, reach }),
            (false, true) => dispatch(PackWideColumns::<false, true> { src, first, block, out, reach }),
            (true, _) => dispatch(PackWideColumns::<true, false> { src, first, block, out, reach }),
        }
    }
    fn run<L: Mma>(l: L, unit: Unit, rows: &WideRows, at: At, columns: &[WideColumns], state: &mut [Floats]) {
        l.wide(unit, rows, at, columns, state);
    }
}
