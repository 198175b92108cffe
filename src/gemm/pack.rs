//! Packing: codes to the operands of the vector steps, some rows or sixteen columns of at most [`BLOCK`] k.
//!
//! One kernel, [`Pack`], loads codes and their exponent ranges for either side; a [`Layout`] writes a row, or two k of
//! sixteen columns. The loops are plain: the compiler vectorizes them for the level of the kernel.

use super::job::{Blocks, Side};
use super::mma::software_order;
use super::prepared::{Prepared, SplitLine};
use crate::formats::{Codes, Format};
use crate::simd::mma::{At, Floats, Mma, Unit, COLUMNS, LANES, WIDE_ZERO};
use crate::simd::{Kernel, Lanes};
use std::ops::Range;

/// The most k packed at once: a panel of it fits the first-level cache.
pub(super) const BLOCK: usize = 128;

/// The fewest codes that share a scale of the unit.
const SCALED: usize = 32;

/// The range of the exponents in a row or column.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExponentRange {
    /// The smallest.
    pub low: i32,
    /// The largest.
    pub high: i32,
}

impl ExponentRange {
    /// The range of no number.
    pub const NONE: ExponentRange = ExponentRange { low: 1 << 20, high: -1 << 20 };
    /// An exponent that no partner brings back into range.
    pub const FAR: i32 = 1 << 24;

    /// Widens the range.
    pub fn widen(&mut self, low: i32, high: i32) {
        (self.low, self.high) = (self.low.min(low), self.high.max(high));
    }

    /// Tests if the vectors cannot take the pair: NaN or infinity, products that may be inexact in float32, or sums that
    /// may leave the range of normal numbers.
    pub fn needs_definition(self, other: ExponentRange) -> bool {
        self.high + other.high > 90 || self.low + other.low < -100
    }
}

/// The bit fields of the codes of one side.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    man: u32,
    bias: i16,
    /// Mask of all bits of a code.
    all: u16,
    /// Mask of the bits below the sign.
    pub magnitude: u16,
    /// Position of the sign bit.
    pub sign: u32,
    /// The largest finite magnitude.
    max: u16,
    /// True for bfloat16: float32 values are made by a shift.
    pub brain: bool,
    /// True for the software path: operands are widened to float16 and their k reordered.
    pub software: bool,
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

    /// Splits a magnitude into significand and exponent.
    #[inline(always)]
    pub fn split(self, magnitude: u16) -> (i16, i16) {
        let field = (magnitude >> self.man) as i16;
        let mantissa = (magnitude & ((1 << self.man) - 1)) as i16;
        (mantissa + (i16::from(field > 0) << self.man), field.max(1) - self.bias)
    }

    /// The mask of two codes, as 32 bits.
    #[inline(always)]
    pub fn both(self) -> u32 {
        u32::from(self.all) * 0x1_0001
    }

    #[inline(always)]
    pub fn negative(self, code: u16) -> bool {
        code >> self.sign != 0
    }

    /// Returns the float32 of a code and its exponent, [`WIDE_ZERO`] for zero.
    #[inline(always)]
    pub fn wide<const BRAIN: bool, const SOFTWARE: bool>(self, code: u16) -> (f32, i16) {
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

    /// Widens the range of a row by its codes.
    #[inline(always)]
    fn widen(self, codes: &[u16; BLOCK], range: &mut ExponentRange) {
        let largest = codes.iter().fold(0, |max: u16, c| max.max(c & self.magnitude));
        if largest > self.max {
            range.widen(-ExponentRange::FAR, ExponentRange::FAR);
        }
        if self.brain {
            let smallest =
                codes.iter().fold(u16::MAX, |min: u16, c| min.min((c & self.magnitude).wrapping_sub(1)));
            if largest > 0 {
                let exp = |magnitude: u16| match magnitude >> self.man {
                    0 => -ExponentRange::FAR, // subnormal
                    field => i32::from(field) - 127,
                };
                range.widen(exp(smallest + 1), exp(largest));
            }
        }
    }

    /// Loads codes `at..at + len`, padded with zeros.
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
            Codes::U32(_) => unreachable!("tf32 is packed on its own"),
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

/// The codes of one side: rows of `k`.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    codes: Codes<'a>,
    pub fields: Fields,
    k: usize,
    /// Scales that move exponents, one for a multiple of [`SCALED`] codes.
    scales: Option<Blocks<'a, u8>>,
    /// The same codes as columns, where they have been laid out before.
    prepared: Option<&'a Prepared>,
}

/// Some rows of one side at some k.
pub(super) struct Block<'a> {
    src: Source<'a>,
    first: usize,
    k: Range<usize>,
}

impl<'a> Source<'a> {
    pub fn new(side: &Side<'a>, unit: Unit) -> Source<'a> {
        let fields = Fields::new(side.format, unit);
        Source { codes: side.codes, fields, k: side.k, scales: side.unit_scales, prepared: side.prepared }
    }

    /// The scale of some codes of a row at `k`, as a factor and an exponent; 1 if all codes are zero, or if the scale is too
    /// far for vectors, which widens the range.
    #[inline(always)]
    fn power(
        &self,
        scales: Blocks<'_, u8>,
        row: usize,
        k: usize,
        codes: &[u16],
        range: &mut ExponentRange,
    ) -> (f32, i16) {
        let scale = scales.at(row, k);
        let (fields, moved) = (self.fields, i16::from(scale) - 127);
        if scale == u8::MAX {
            range.widen(-ExponentRange::FAR, ExponentRange::FAR);
        } else if codes.iter().any(|code| code & fields.magnitude != 0) {
            if moved.abs() <= 60 {
                let (low, high) = (1 - fields.bias, (fields.max >> fields.man) as i16 - fields.bias);
                range.widen(i32::from(low + moved), i32::from(high + moved));
                return (f32::from_bits((u32::from(scale)) << 23), moved);
            }
            range.widen(-ExponentRange::FAR, ExponentRange::FAR);
        }
        (1.0, 0)
    }

    /// The rows from `first` on, at some k.
    pub fn block(self, first: usize, k: Range<usize>) -> Block<'a> {
        Block { src: self, first, k }
    }

    /// The place of a row's codes at some k.
    fn at(&self, row: usize, k: &Range<usize>) -> Range<usize> {
        row * self.k + k.start..row * self.k + k.end
    }

    #[inline(always)]
    fn load(&self, row: usize, block: &Range<usize>) -> [u16; BLOCK] {
        self.fields.load(self.codes, row * self.k + block.start, block.len())
    }

    /// Prefetches codes of the next panel: the hardware does not, as they lie far from these.
    #[inline(always)]
    fn prefetch<L: Lanes>(&self, l: L, at: usize, len: usize) {
        match self.codes {
            Codes::U8(codes) => (0..len).step_by(64).for_each(|i| l.prefetch(codes, at + i)),
            Codes::U16(codes) => (0..2 * len).step_by(64).for_each(|i| l.prefetch(codes, 2 * at + i)),
            Codes::U32(_) => {}
        }
    }

    /// Loads [`COLUMNS`] rows from `row` on, as many as `ranges` has; zeros for the others. Widens their ranges.
    #[inline(always)]
    fn columns<L: Lanes>(
        &self,
        l: L,
        row: usize,
        block: &Range<usize>,
        ranges: &mut [ExponentRange],
    ) -> [[u16; BLOCK]; COLUMNS] {
        let mut out = [[0; BLOCK]; COLUMNS];
        for (c, (out, range)) in out.iter_mut().zip(ranges).enumerate() {
            *out = self.load(row + c, block);
            self.fields.widen(out, range);
            self.prefetch(l, (row + c + COLUMNS) * self.k + block.start, block.len());
        }
        out
    }

    /// Loads [`COLUMNS`] rows from `row` on as columns, two k to a line.
    #[inline(always)]
    pub fn transposed<L: Lanes>(
        &self,
        l: L,
        row: usize,
        block: &Range<usize>,
        ranges: &mut [ExponentRange],
    ) -> [[u32; COLUMNS]; BLOCK / 2] {
        lines(l, &self.columns(l, row, block, ranges), BLOCK / 2)
    }
}

/// Transposes columns to `count` lines, each two k of every column: pairs of codes, as 32 bits, in float32 tiles. (Written
/// lane by lane, a line would be read before its stores have reached the cache.)
#[inline(always)]
fn lines<L: Lanes>(l: L, columns: &[[u16; BLOCK]; COLUMNS], count: usize) -> [[u32; COLUMNS]; BLOCK / 2] {
    let mut lines = [[0; COLUMNS]; BLOCK / 2];
    let (mut tile, mut transposed) = ([0f32; COLUMNS * COLUMNS], [0f32; COLUMNS * COLUMNS]);
    let (tile, transposed) = (&mut tile[..L::N * L::N], &mut transposed[..L::N * L::N]);
    for (at, lines) in (0..count).step_by(L::N).zip(lines.chunks_exact_mut(L::N)) {
        for (part, columns) in columns.chunks_exact(L::N).enumerate() {
            for (column, row) in columns.iter().zip(tile.chunks_exact_mut(L::N)) {
                for (pair, out) in column[2 * at..2 * (at + L::N)].chunks_exact(2).zip(row) {
                    *out = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
                }
            }
            l.transpose(tile, transposed);
            for (line, row) in lines.iter_mut().zip(transposed.chunks_exact(L::N)) {
                for (out, pair) in line[part * L::N..].iter_mut().zip(row) {
                    *out = pair.to_bits();
                }
            }
        }
    }
    lines
}

/// Splits each lane of a line into its two codes, in order.
#[inline(always)]
pub(super) fn codes(line: [u32; COLUMNS]) -> [u16; LANES] {
    let mut out = [0; LANES];
    for (out, pair) in out.chunks_exact_mut(2).zip(line) {
        (out[0], out[1]) = (pair as u16, (pair >> 16) as u16);
    }
    out
}

/// A layout of the operands of the vector steps.
pub(super) trait Layout: Copy + Sync {
    /// Two k of sixteen columns.
    type Columns: Copy;
    /// Rows.
    type Rows: Default;
    /// Left shift of the significands of rows.
    fn shift(self) -> u32 {
        0
    }
    /// Two k of zeros.
    fn blank() -> Self::Columns;
    /// Makes room for `len` elements of rows.
    fn resize(rows: &mut Self::Rows, len: usize);
    /// Writes the elements `at` of the rows, all of one row.
    fn row<L: Mma>(self, fields: Fields, codes: &[u16; BLOCK], rows: &mut Self::Rows, at: Range<usize>);
    /// Writes two k of sixteen columns.
    fn column<L: Mma>(self, fields: Fields, line: [u32; COLUMNS], out: &mut Self::Columns);
    /// Writes two k of sixteen columns that are taken apart.
    fn split_column<L: Mma>(line: &SplitLine, out: &mut Self::Columns);
    /// Multiplies the elements `at` of the rows by a scale.
    fn scale_row(rows: &mut Self::Rows, at: Range<usize>, power: (f32, i16));
    /// Multiplies two k of sixteen columns by their scales.
    fn scale_column(out: &mut Self::Columns, powers: &Powers);
    /// Writes float32 `bits`, cut to tf32, to the elements of the rows from `at` on.
    fn tf32_row(rows: &mut Self::Rows, at: Range<usize>, bits: &[u32], range: &mut ExponentRange);
    /// Writes float32 `bits`, cut to tf32, to column `c`.
    fn tf32_column(out: &mut [Self::Columns], c: usize, bits: &[u32], range: &mut ExponentRange);
    /// Continues chains.
    fn run<L: Mma>(
        l: L,
        unit: Unit,
        rows: &Self::Rows,
        at: At,
        columns: &[Self::Columns],
        state: &mut [Floats],
    );

    /// Packs as many rows of a block as `ranges` has, `padded` k to each; widens their exponent ranges.
    fn pack_rows<L: Mma>(
        self,
        l: L,
        block: Block<'_>,
        padded: usize,
        rows: &mut Self::Rows,
        ranges: &mut [ExponentRange],
    ) {
        Self::resize(rows, ranges.len() * padded);
        l.call(Pack { l, layout: self, block, out: Packed::Rows { rows, padded }, ranges });
    }

    /// Packs as many columns of a block as `ranges` has; widens their exponent ranges.
    fn pack_columns<L: Mma>(
        self,
        l: L,
        block: Block<'_>,
        columns: &mut [Self::Columns],
        ranges: &mut [ExponentRange],
    ) {
        l.call(Pack { l, layout: self, block, out: Packed::Columns(columns), ranges });
    }
}

/// The destination of a side.
enum Packed<'a, F: Layout> {
    /// Rows of `padded` k.
    Rows { rows: &'a mut F::Rows, padded: usize },
    /// Columns, two k in each element.
    Columns(&'a mut [F::Columns]),
}

/// Packs one block of one side.
struct Pack<'a, L, F: Layout> {
    l: L,
    layout: F,
    block: Block<'a>,
    out: Packed<'a, F>,
    ranges: &'a mut [ExponentRange],
}

impl<M: Mma, F: Layout> Kernel for Pack<'_, M, F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Pack { l, layout, block: Block { src, first, k }, out, ranges } = self;
        let fields = src.fields;
        match out {
            Packed::Rows { rows, padded } => {
                for (row, range) in ranges.iter_mut().enumerate() {
                    let at = row * padded..(row + 1) * padded;
                    if let Codes::U32(bits) = src.codes {
                        F::tf32_row(rows, at, &bits[src.at(first + row, &k)], range);
                        continue;
                    }
                    let codes = src.load(first + row, &k);
                    fields.widen(&codes, range);
                    layout.row::<M>(fields, &codes, rows, at.clone());
                    let Some(scales) = src.scales else { continue };
                    for (i, codes) in codes[..k.len()].chunks(SCALED).enumerate() {
                        let power = src.power(scales, first + row, k.start + SCALED * i, codes, range);
                        let from = at.start + SCALED * i;
                        F::scale_row(rows, from..from + codes.len(), power);
                    }
                }
            }
            Packed::Columns(out) => {
                if let Codes::U32(bits) = src.codes {
                    out.fill(F::blank());
                    for (c, range) in ranges.iter_mut().enumerate() {
                        F::tf32_column(out, c, &bits[src.at(first + c, &k)], range);
                    }
                    return;
                }
                if let Some(prepared) = src.prepared {
                    ranges.copy_from_slice(&prepared.ranges(first)[..ranges.len()]);
                    prepared.write::<M, F>(layout, fields, first, k.start / 2, out);
                    return;
                }
                let columns = src.columns(l, first, &k, ranges);
                let lines = lines(l, &columns, out.len());
                let powers = src.scales.map(|scales| src.powers(scales, first, &k, &columns, ranges));
                for (i, (out, line)) in out.iter_mut().zip(lines).enumerate() {
                    layout.column::<M>(fields, line, out);
                    if let Some(powers) = &powers {
                        F::scale_column(out, &powers[2 * i / SCALED]);
                    }
                }
            }
        }
    }
}

/// Factors of sixteen columns and the exponents that they add, for each of two k.
pub(super) type Powers = ([f32; COLUMNS], [i16; LANES]);

impl Source<'_> {
    /// The scales of the columns of a block, for every [`SCALED`] k.
    #[inline(always)]
    fn powers(
        &self,
        scales: Blocks<'_, u8>,
        first: usize,
        k: &Range<usize>,
        columns: &[[u16; BLOCK]; COLUMNS],
        ranges: &mut [ExponentRange],
    ) -> [Powers; BLOCK / SCALED] {
        let mut powers = [([1.0; COLUMNS], [0; LANES]); BLOCK / SCALED];
        for (c, (range, column)) in ranges.iter_mut().zip(columns).enumerate() {
            for (i, codes) in column[..k.len()].chunks(SCALED).enumerate() {
                let (factor, moved) = self.power(scales, first + c, k.start + SCALED * i, codes, range);
                powers[i].0[c] = factor;
                (powers[i].1[2 * c], powers[i].1[2 * c + 1]) = (moved, moved);
            }
        }
        powers
    }
}
