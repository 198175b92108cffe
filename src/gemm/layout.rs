//! Layouts of the operands of the vector steps: significands and exponents in 16-bit integers, or float32 values beside
//! exponents.

use super::pack::{codes, ExponentRange, Fields, Layout, Powers, BLOCK};
use super::prepared::SplitLine;
use crate::simd::mma::{
    At, Floats, Mma, NarrowColumns, NarrowRows, Unit, WideColumns, WideRows, Words, COLUMNS, LANES,
    WIDE_ZERO, ZERO,
};
use std::ops::Range;

/// 16-bit integers.
#[derive(Clone, Copy)]
pub(super) struct NarrowLayout {
    /// Left shift of the significands of rows.
    pub shift: u32,
}

/// An exponent as the level takes it.
#[inline(always)]
fn exponent<L: Mma>(exp: i16) -> i16 {
    if L::DOUBLED {
        (exp & 0xFF) | exp << 8
    } else {
        exp
    }
}

/// Signs where the first of two k is turned.
const ALTERNATING: [i16; LANES] = {
    let mut out = [1; LANES];
    let mut i = 0;
    while i < LANES {
        out[i] = -1;
        i += 2;
    }
    out
};

impl Layout for NarrowLayout {
    type Columns = NarrowColumns;
    type Rows = NarrowRows;

    fn shift(self) -> u32 {
        self.shift
    }
    fn blank() -> NarrowColumns {
        let zero = Words([0; LANES]);
        NarrowColumns { sig: zero, exp: zero, signs: [zero; 4] }
    }
    fn resize(rows: &mut NarrowRows, len: usize) {
        rows.sig.resize(len, 0);
        rows.exp.resize(len, 0);
        rows.signs.resize(len / 2, 0);
    }
    #[inline(always)]
    fn row<L: Mma>(self, fields: Fields, codes: &[u16; BLOCK], rows: &mut NarrowRows, at: Range<usize>) {
        let (shift, pairs) = (self.shift + L::EXTRA, at.start / 2..at.end / 2);
        for ((sig, exp), code) in rows.sig[at.clone()].iter_mut().zip(&mut rows.exp[at]).zip(codes) {
            let (s, e) = fields.split(code & fields.magnitude);
            *sig = s << shift;
            *exp = exponent::<L>(127 + if s == 0 { ZERO } else { e });
        }
        for (sign, pair) in rows.signs[pairs].iter_mut().zip(codes.chunks_exact(2)) {
            *sign = (pair[0] >> fields.sign << 6 | pair[1] >> fields.sign << 7) as u8;
        }
    }
    #[inline(always)]
    fn column<L: Mma>(self, fields: Fields, line: [u32; COLUMNS], out: &mut NarrowColumns) {
        for (i, code) in codes(line).into_iter().enumerate() {
            let (sig, exp) = fields.split(code & fields.magnitude);
            out.sig.0[i] = sig;
            out.exp.0[i] = exponent::<L>(if sig == 0 { ZERO } else { exp });
            let sign = 1 - 2 * i16::from(fields.negative(code));
            let (first, second) = if i % 2 == 0 { (-sign, sign) } else { (sign, -sign) };
            out.signs[0].0[i] = sign;
            out.signs[1].0[i] = first;
            out.signs[2].0[i] = second;
            out.signs[3].0[i] = -sign;
        }
    }
    #[inline(always)]
    fn split_column<L: Mma>(line: &SplitLine, out: &mut NarrowColumns) {
        for (i, (sig, exp)) in line.sig.iter().zip(&line.exp).enumerate() {
            out.sig.0[i] = i16::from(*sig).abs();
            out.exp.0[i] = exponent::<L>(i16::from(*exp));
        }
        for (i, (sig, turned)) in line.sig.iter().zip(ALTERNATING).enumerate() {
            let sign = 1 | i16::from(*sig) >> 15;
            out.signs[0].0[i] = sign;
            out.signs[1].0[i] = sign * turned;
            out.signs[2].0[i] = -sign * turned;
            out.signs[3].0[i] = -sign;
        }
    }
    fn scale_row(_: &mut NarrowRows, _: Range<usize>, _: (f32, i16)) {
        unreachable!("narrow units have no scales")
    }
    fn scale_column(_: &mut NarrowColumns, _: &Powers) {
        unreachable!("narrow units have no scales")
    }
    fn tf32_row(_: &mut NarrowRows, _: Range<usize>, _: &[u32], _: &mut ExponentRange) {
        unreachable!("narrow units take bytes")
    }
    fn tf32_column(_: &mut [NarrowColumns], _: usize, _: &[u32], _: &mut ExponentRange) {
        unreachable!("narrow units take bytes")
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
pub(super) struct WideLayout;

/// Runs `$f::<BRAIN, SOFTWARE>(..)`, so that both are constants in its loops.
macro_rules! by_fields {
    ($fields:expr, $f:ident($($a:expr),*)) => {
        match ($fields.brain, $fields.software) {
            (false, false) => $f::<false, false>($($a),*),
            (false, true) => $f::<false, true>($($a),*),
            (true, _) => $f::<true, false>($($a),*),
        }
    };
}

#[inline(always)]
fn wide_row<const BRAIN: bool, const SOFTWARE: bool>(
    fields: Fields,
    codes: &[u16; BLOCK],
    values: &mut [f32],
    exp: &mut [i16],
) {
    for ((value, exp), code) in values.iter_mut().zip(exp).zip(codes) {
        let (v, e) = fields.wide::<BRAIN, SOFTWARE>(*code);
        *value = v;
        *exp = e + 127;
    }
}

#[inline(always)]
fn wide_column<const BRAIN: bool, const SOFTWARE: bool>(
    fields: Fields,
    line: [u32; COLUMNS],
    out: &mut WideColumns,
) {
    // The first k of all columns, then the second: loops that the compiler vectorizes, unlike pairs.
    for (half, values) in out.values.iter_mut().enumerate() {
        for (value, pair) in values.0.iter_mut().zip(&line) {
            *value = fields.wide::<BRAIN, SOFTWARE>((pair >> (16 * half)) as u16).0;
        }
    }
    for (code, exp) in codes(line).into_iter().zip(&mut out.exp.0) {
        *exp = fields.wide::<BRAIN, SOFTWARE>(code).1;
    }
}

impl Layout for WideLayout {
    type Columns = WideColumns;
    type Rows = WideRows;

    fn blank() -> WideColumns {
        WideColumns { values: [Floats([0.0; COLUMNS]); 2], exp: Words([0; LANES]) }
    }
    fn resize(rows: &mut WideRows, len: usize) {
        rows.values.resize(len, 0.0);
        rows.exp.resize(len, 0);
    }
    #[inline(always)]
    fn row<L: Mma>(self, fields: Fields, codes: &[u16; BLOCK], rows: &mut WideRows, at: Range<usize>) {
        let (values, exp) = (&mut rows.values[at.clone()], &mut rows.exp[at]);
        by_fields!(fields, wide_row(fields, codes, values, exp));
    }
    #[inline(always)]
    fn column<L: Mma>(self, fields: Fields, line: [u32; COLUMNS], out: &mut WideColumns) {
        by_fields!(fields, wide_column(fields, line, out));
    }
    #[inline(always)]
    fn scale_row(rows: &mut WideRows, at: Range<usize>, (factor, moved): (f32, i16)) {
        rows.values[at.clone()].iter_mut().for_each(|x| *x *= factor);
        rows.exp[at].iter_mut().for_each(|x| *x += moved);
    }
    #[inline(always)]
    fn scale_column(out: &mut WideColumns, (factors, moved): &Powers) {
        for values in &mut out.values {
            values.0.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
        out.exp.0.iter_mut().zip(moved).for_each(|(x, moved)| *x += moved);
    }
    fn split_column<L: Mma>(_: &SplitLine, _: &mut WideColumns) {
        unreachable!("wide units take codes")
    }
    fn tf32_row(rows: &mut WideRows, at: Range<usize>, bits: &[u32], range: &mut ExponentRange) {
        let (values, exp) = (&mut rows.values[at.clone()], &mut rows.exp[at]);
        values[bits.len()..].fill(0.0);
        exp[bits.len()..].fill(WIDE_ZERO + 127);
        each_tf32(bits, range, |k, value, biased| (values[k], exp[k]) = (value, biased));
    }
    fn tf32_column(out: &mut [WideColumns], c: usize, bits: &[u32], range: &mut ExponentRange) {
        each_tf32(bits, range, |k, value, biased| {
            out[k / 2].values[k % 2].0[c] = value;
            out[k / 2].exp.0[2 * c + k % 2] = biased - 127;
        });
    }
    fn run<L: Mma>(l: L, unit: Unit, rows: &WideRows, at: At, columns: &[WideColumns], state: &mut [Floats]) {
        l.wide(unit, rows, at, columns, state);
    }
}

/// Cuts float32 bits to tf32: the value, and its exponent biased by 127; zero has [`WIDE_ZERO`] + 127.
#[inline(always)]
fn cut(bits: u32) -> (f32, i16) {
    let bits = bits & !0x1FFF;
    let exp = if bits << 1 == 0 { WIDE_ZERO + 127 } else { ((bits >> 23 & 255) as i16).max(1) };
    (f32::from_bits(bits), exp)
}

/// Passes float32 bits, cut to tf32, to `each`; widens the range.
fn each_tf32(bits: &[u32], range: &mut ExponentRange, mut each: impl FnMut(usize, f32, i16)) {
    for (k, bits) in bits.iter().enumerate() {
        let (value, exp) = cut(*bits);
        each(k, value, exp);
        let field = (bits >> 23 & 255) as i32;
        match field {
            0 if value == 0.0 => {}
            0 | 255 => range.widen(-ExponentRange::FAR, ExponentRange::FAR),
            _ => range.widen(field - 127, field - 127),
        }
    }
}
