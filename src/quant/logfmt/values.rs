//! What codes stand for, as float32.

use super::float64::{exp2, narrow, widen};
use super::tile::{top, Span};
use crate::error::Error;
use crate::formats::round::named_enum;

named_enum! {
    /// How near a decoded float32 is to the value that it stands for.
    Precision, "precision" {
        /// The nearest float32.
        Exact = "exact",
        /// At most 2 units in the last place from it: the product of two float32 out of small tables.
        Quick = "quick",
    }
}

/// The float32 of `bits` and the sign of `code`; zero for code 0.
#[inline(always)]
fn signed(magnitude: u32, code: u32, bits: u32) -> f32 {
    let magnitude = if code & top(bits) == 0 { 0 } else { magnitude };
    f32::from_bits(magnitude | (code >> (bits - 1) & 1) << 31)
}

/// The float32 nearest to what each code stands for.
#[inline(always)]
pub(super) fn exact(span: &Span, bits: u32, codes: &[u32], out: &mut [f32]) {
    for (code, out) in codes.iter().zip(out) {
        let v = span.value(f64::from((code & top(bits)) as i32));
        *out = signed(narrow(v), *code, bits);
    }
}

/// Codes in groups of `2^(bits / 2)`: the last value of the group times the way down to the code, both float32. The last
/// value of all is `hi`, and its way is 1: it is exact and nothing overflows.
///
/// Each factor and the product is rounded by half a unit in the last place at most. With significands a and b of the
/// factors, that makes `(a + b + 1) / 2` units of the product where `a b < 2`, at most 2; else `(a + b) / 4 + 1/2`, less
/// than 3/2. The exact result is itself within half a unit, so the two are at most 2 apart.
#[inline(always)]
pub(super) fn quick(span: &Span, bits: u32, codes: &[u32], out: &mut [f32]) {
    let size = 1u32 << (bits / 2);
    for (code, out) in codes.iter().zip(out) {
        let k = code & top(bits);
        let last = narrow(span.value(f64::from((k | (size - 1)) as i32)));
        let down = narrow(exp2(f64::from((k & (size - 1)) as i32 - (size as i32 - 1)) * span.step));
        *out = signed(narrow(widen(last) * widen(down)), *code, bits);
    }
}
