//! What codes stand for, as float32.

use super::float64::{exp2_each, narrow, widen};
use super::tile::{top, Span};
use crate::error::Error;
use crate::formats::round::named_enum;
use crate::simd::{Lanes, MAX_GROUP};

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

/// The float32 nearest to what each code stands for; at most [`MAX_GROUP`] of them.
#[inline(always)]
pub(super) fn exact<L: Lanes>(l: L, span: &Span, bits: u32, codes: &[u32; MAX_GROUP], out: &mut [f32]) {
    let mut powers = [0f64; MAX_GROUP];
    for (code, y) in codes.iter().zip(&mut powers) {
        *y = (f64::from((code & top(bits)) as i32) - 1.0) * span.step;
    }
    exp2_each(l, &mut powers);
    for ((code, power), out) in codes.iter().zip(&powers).zip(out) {
        let v = if code & top(bits) == top(bits) { span.hi } else { span.lo * power };
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
pub(super) fn quick<L: Lanes>(l: L, span: &Span, bits: u32, codes: &[u32; MAX_GROUP], out: &mut [f32]) {
    let rest = (1u32 << (bits / 2)) - 1;
    let (mut last, mut down) = ([0f64; MAX_GROUP], [0f64; MAX_GROUP]);
    for ((code, last), down) in codes.iter().zip(&mut last).zip(&mut down) {
        let k = code & top(bits);
        *last = (f64::from((k | rest) as i32) - 1.0) * span.step;
        *down = f64::from((k & rest) as i32 - rest as i32) * span.step;
    }
    exp2_each(l, &mut last);
    exp2_each(l, &mut down);
    for (((code, last), down), out) in codes.iter().zip(&last).zip(&down).zip(out) {
        let v = if (code | rest) & top(bits) == top(bits) { span.hi } else { span.lo * last };
        *out = signed(narrow(widen(narrow(v)) * widen(narrow(*down))), *code, bits);
    }
}
