//! Infinitely precise sums, rounded once: a fixed-point number wide enough for any product of two small formats.
//!
//! Here is the definition; [`super::exact_f64`] has the fast form.

use super::definition::Chain;
use super::job::Side;
use super::mma::{nearest, special};
use super::number::{Class, Number};
use crate::formats::Format;

/// The last place: below the smallest product of two bfloat16, 2^-266.
const LOW: i32 = -280;
/// 64-bit words: up to 2^360, a hundred binades above the largest product.
const WORDS: usize = 10;

/// A two's-complement fixed-point number in units of `2^LOW`.
#[derive(Clone, Copy)]
pub(super) struct Wide([u64; WORDS]);

impl Wide {
    pub const ZERO: Wide = Wide([0; WORDS]);

    /// Adds `sig * 2^exp`.
    pub fn add(&mut self, sig: i64, exp: i32) {
        if sig == 0 {
            return;
        }
        let at = (exp - LOW).max(0) as usize;
        let (word, shift) = (at / 64, at % 64);
        let wide = i128::from(sig) << shift;
        let sign = if sig < 0 { u64::MAX } else { 0 };
        let parts = [wide as u64, (wide >> 64) as u64];
        let mut carry = false;
        for (i, digit) in self.0.iter_mut().enumerate().skip(word) {
            let part = parts.get(i - word).copied().unwrap_or(sign);
            if i - word >= 2 && part == (if carry { u64::MAX } else { 0 }) {
                return; // nothing is left to carry
            }
            let (sum, over) = digit.overflowing_add(part);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*digit, carry) = (sum, over || again);
        }
    }

    /// Adds products of finite numbers whose formats have `man` mantissa bits together.
    pub fn add_products(&mut self, a: &[Number], b: &[Number], man: i32) {
        for (x, y) in a.iter().zip(b) {
            self.add(i64::from(x.sig) * i64::from(y.sig), i32::from(x.exp) + i32::from(y.exp) - man);
        }
    }

    /// Adds a float64 that is zero or normal.
    pub fn add_f64(&mut self, x: f64) {
        let bits = x.to_bits();
        let (field, sig) = ((bits >> 52 & 0x7FF) as i32, (bits & ((1 << 52) - 1)) as i64);
        if field > 0 {
            let sig = sig | 1 << 52;
            self.add(if x < 0.0 { -sig } else { sig }, field - 1075);
        }
    }

    /// The nearest float32.
    pub fn round(mut self) -> f32 {
        let negative = self.0[WORDS - 1] >> 63 != 0;
        if negative {
            let mut carry = true;
            for digit in &mut self.0 {
                (*digit, carry) = (!*digit).overflowing_add(u64::from(carry));
            }
        }
        let Some(top) = self.0.iter().rposition(|digit| *digit != 0) else { return 0.0 };
        // The top 64 bits, the last of them standing for everything below.
        let zeros = self.0[top].leading_zeros();
        let below = if top > 0 { self.0[top - 1] } else { 0 };
        let pair = (u128::from(self.0[top]) << 64 | u128::from(below)) << zeros;
        let rest = pair as u64 != 0 || self.0[..top.saturating_sub(1)].iter().any(|digit| *digit != 0);
        let magnitude = (pair >> 64) as u64 | u64::from(rest);
        let exp = 64 * top as i32 - zeros as i32 + LOW;
        f32::from_bits(nearest(magnitude, exp, 23, 127) | u32::from(negative) << 31)
    }
}

/// The definition.
#[derive(Clone, Copy)]
pub(super) struct ExactSum {
    /// Mantissa bits of a product.
    man: i32,
}

impl ExactSum {
    pub fn new(a: &Format, b: &Format) -> ExactSum {
        ExactSum { man: (a.man + b.man) as i32 }
    }
}

impl Chain for ExactSum {
    type Item = Number;
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<Number> {
        side.numbers(row)
    }
    fn run(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        if !c.is_finite() || a.iter().chain(b).any(|x| x.class != Class::Finite) {
            if let Some(special) = special(a, b, c) {
                return special;
            }
        }
        let mut sum = Wide::ZERO;
        sum.add_products(a, b, self.man);
        sum.add_f64(f64::from(c));
        sum.round()
    }
}
