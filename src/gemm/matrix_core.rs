//! Steps of AMD's matrix cores (CDNA3), in integers: products are aligned among themselves first and cut toward zero,
//! then together with the accumulator and cut toward minus infinity, and rounded to nearest even.

use super::accumulator::{Accumulator, ResultType, Unit};
use super::definition::Chain;
use super::job::Side;
use super::mma::{accumulator_parts, nearest, special, with_sign};
use super::number::{Class, Number};
use crate::formats::Format;

/// The definition.
#[derive(Clone, Copy)]
pub(super) struct MatrixCore {
    products: usize,
    fraction: i32,
    /// True for FP8: even and odd k are aligned apart, and a small accumulator is dropped.
    split: bool,
    /// Mantissa bits of a product.
    man: i32,
}

/// Places of the sum below the largest exponent, and what its own largest bit keeps.
const PLACES: i32 = 32;

impl MatrixCore {
    pub fn new(accumulator: &Accumulator, a: &Format, b: &Format) -> MatrixCore {
        MatrixCore {
            products: accumulator.products,
            fraction: accumulator.fraction as i32,
            split: accumulator.unit == Unit::MatrixCoreFp8,
            man: (a.man + b.man) as i32,
        }
    }

    /// The sum of every `stride`-th product, each cut toward zero, and the exponent that they are aligned to.
    fn aligned(&self, a: &[Number], b: &[Number], first: usize, stride: usize) -> Option<(i64, i32)> {
        let pairs = || a.iter().zip(b).skip(first).step_by(stride).filter(|(x, y)| x.sig != 0 && y.sig != 0);
        let exp = |(x, y): (&Number, &Number)| i32::from(x.exp) + i32::from(y.exp);
        let top = pairs().map(exp).max()?;
        let sum = pairs().fold(0, |sum, (x, y)| {
            let product = i64::from(x.sig) * i64::from(y.sig);
            let magnitude = product.abs() << (self.fraction - self.man) >> (top - exp((x, y))).min(63);
            sum + if product < 0 { -magnitude } else { magnitude }
        });
        Some((sum, top))
    }

    /// One step.
    fn step(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        if let Some(special) = self.special(a, b, c) {
            return special;
        }
        let stride = if self.split { 2 } else { 1 };
        let groups = (0..stride).filter_map(|first| self.aligned(a, b, first, stride));
        let products = groups.reduce(|(s, e), (t, f)| {
            let top = e.max(f);
            (floor(s, e - top) + floor(t, f - top), top)
        });
        let (c_sig, c_exp) = accumulator_parts(c, ResultType::Float32);
        let top = products.map_or(c_exp, |(_, exp)| exp.max(c_exp));
        let mut sum = products.map_or(0, |(sum, exp)| floor(sum, exp - self.fraction + PLACES - top));
        if !self.split || c_exp >= top - 25 {
            sum += floor(c_sig, c_exp - 23 + 24 - top) << (PLACES - 24);
        }
        if sum == 0 {
            return 0.0;
        }
        let largest = (63 - sum.unsigned_abs().leading_zeros() as i32 + top - PLACES).max(-126);
        let lost = (largest - top + 1).max(0); // below 31 places from the sum's own largest bit
        let sum = sum >> lost;
        with_sign(nearest(sum.unsigned_abs(), top - PLACES + lost, 23, 127), sum < 0)
    }

    /// The result that NaN or infinity decide. A product that float32 does not hold counts as infinite.
    fn special(&self, a: &[Number], b: &[Number], c: f32) -> Option<f32> {
        let finite = |x: &Number| x.class == Class::Finite;
        let over = |x: &Number, y: &Number| {
            let product = i64::from(x.sig) * i64::from(y.sig);
            let bits = 64 - product.unsigned_abs().leading_zeros() as i32;
            finite(x)
                && finite(y)
                && product != 0
                && bits + i32::from(x.exp) + i32::from(y.exp) - self.man > 128
        };
        let infinite = |x: &Number, y: &Number| {
            if over(x, y) {
                Number { class: Class::Infinite, exp: 0, sig: x.sig.signum() }
            } else {
                *x
            }
        };
        if !a.iter().zip(b).any(|(x, y)| over(x, y)) {
            return special(a, b, c);
        }
        let a: Vec<Number> = a.iter().zip(b).map(|(x, y)| infinite(x, y)).collect();
        special(&a, b, c)
    }
}

/// `x * 2^places`, cut toward minus infinity.
fn floor(x: i64, places: i32) -> i64 {
    if places >= 0 {
        x << places
    } else {
        x >> (-places).min(63)
    }
}

impl Chain for MatrixCore {
    type Item = Number;
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<Number> {
        side.numbers(row)
    }
    fn run(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        a.chunks(self.products).zip(b.chunks(self.products)).fold(c, |c, (a, b)| self.step(a, b, c))
    }
}
