//! One step of a tensor core, in integers: the definition that every faster path must reproduce.

use super::accumulator::{Accumulator, ResultType};
use super::definition::{canonical, each_chain, Chain};
use super::job::{check_c, Side};
use super::number::{Class, Number, ZERO};
use super::product::{side, Operand, Options};
use crate::error::{same_length, Error};
use crate::formats::Format;

/// The NaN that tensor cores give.
pub(crate) const NAN: f32 = f32::from_bits(0x7FFF_FFFF);

/// A float32 of the bits of a magnitude.
pub(super) fn with_sign(magnitude: u32, negative: bool) -> f32 {
    f32::from_bits(magnitude | u32::from(negative) << 31)
}

/// A finite magnitude in units of `2^exp`, cut to `keep` mantissa bits of a float32.
pub(super) fn cut(magnitude: u64, exp: i32, keep: i32) -> u32 {
    if magnitude == 0 {
        return 0;
    }
    let e = (63 - magnitude.leading_zeros() as i32 + exp).max(-126);
    if e > 127 {
        return 0x7F80_0000;
    }
    let shift = e - keep - exp;
    let kept = match shift {
        ..=0 => magnitude << -shift,
        1..=63 => magnitude >> shift,
        _ => 0,
    };
    // In units of the last of 23 bits; the hidden bit, where there is one, adds 1 to the exponent field.
    let kept = (kept << (23 - keep)) as u32;
    if kept == 0 {
        0
    } else {
        (((e + 126) as u32) << 23) + kept
    }
}

/// Float32 bits of a magnitude in units of `2^exp`, rounded to nearest even with `man` mantissa bits and exponents
/// `1 - emax ..= emax`. The last bit of the magnitude may stand for anything cut off below it, if it is at least three
/// places below what is kept.
pub(super) fn nearest(magnitude: u64, exp: i32, man: i32, emax: i32) -> u32 {
    if magnitude == 0 {
        return 0;
    }
    let e = (63 - magnitude.leading_zeros() as i32 + exp).max(1 - emax);
    let shift = e - man - exp;
    let kept = if shift <= 0 {
        magnitude << -shift
    } else {
        let (wide, shift) = (u128::from(magnitude), shift.min(100));
        let (kept, rest, half) = (wide >> shift, wide & ((1 << shift) - 1), 1 << (shift - 1));
        (kept + u128::from(rest > half || (rest == half && kept & 1 == 1))) as u64
    };
    let e = if kept >> (man + 1) != 0 { e + 1 } else { e };
    if e > emax {
        return 0x7F80_0000;
    }
    // The value is an integer of at most 24 bits in units of 2^quantum: normalize it as far as float32 goes.
    let (kept, quantum) = if kept >> (man + 1) != 0 { (kept >> 1, e - man) } else { (kept, e - man) };
    if kept == 0 {
        return 0;
    }
    let up = (kept.leading_zeros() as i32 - 40).min(quantum + 149);
    (((quantum - up + 149) as u32) << 23) + ((kept << up) as u32)
}

/// A float32 rounded once to float16, as the float32 of the same value.
pub(super) fn to_half(x: f32) -> f32 {
    let bits = x.to_bits();
    let field = (bits >> 23 & 255) as i32;
    if field == 255 {
        return x;
    }
    let sig = u64::from(bits & 0x007F_FFFF | u32::from(field > 0) << 23);
    f32::from_bits(bits & 0x8000_0000 | nearest(sig, field.max(1) - 150, 10, 15))
}

/// Tests if a float32 is a float16 number (any NaN counts).
pub(super) fn is_half(x: f32) -> bool {
    x.is_nan() || to_half(x) == x
}

/// Significand (with sign) and exponent of a finite accumulator, in units of `2^(exp - 23)`.
pub(super) fn accumulator_parts(c: f32, result: ResultType) -> (i64, i32) {
    let bits = c.to_bits();
    let field = (bits >> 23 & 255) as i32;
    let (mut sig, mut exp) = (i64::from(bits & 0x007F_FFFF), field.max(1) - 127);
    if field > 0 {
        sig += 1 << 23;
    }
    if result == ResultType::Float16 && exp < -14 {
        // a float16 subnormal keeps float16's smallest exponent; the bits shifted out are zeros
        (sig, exp) = (if -14 - exp < 40 { sig >> (-14 - exp) } else { 0 }, -14);
    }
    (if bits >> 31 != 0 { -sig } else { sig }, exp)
}

/// A floor below any term's exponent, for units without one.
pub(super) const NO_FLOOR: i32 = -1000;

/// A tensor core.
#[derive(Clone, Copy)]
pub(super) struct Core {
    products: usize,
    fraction: i32,
    floor: i32,
    keep: Option<u32>,
    result: ResultType,
    /// Mantissa bits of a product.
    man: i32,
}

impl Core {
    /// One step. Each magnitude is cut toward zero at `fraction` bits below the largest exponent, and the sum of what
    /// is left is exact.
    #[inline]
    fn step(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        let (c_sig, c_exp) = accumulator_parts(c, self.result);
        // A product with a zero has an exponent far below any other: zeros take no part.
        let exponents = a.iter().zip(b).map(|(x, y)| i32::from(x.exp) + i32::from(y.exp));
        let top = exponents.fold(if c_sig != 0 { c_exp.max(self.floor) } else { self.floor }, i32::max);
        let left = self.fraction - self.man;
        let mut sum = 0i64;
        for (x, y) in a.iter().zip(b) {
            let product = i64::from(x.sig * y.sig);
            let shift = (top - i32::from(x.exp) - i32::from(y.exp)).min(63);
            let (magnitude, sign) = ((product.abs() << left) >> shift, product >> 63);
            sum += (magnitude ^ sign) - sign;
        }
        // shifted left by 30 first, so that what remains is a shift to the right
        let shift = (top - c_exp + 23 + 30 - self.fraction).clamp(0, 63);
        let magnitude = (c_sig.abs() << 30) >> shift;
        sum += if c_sig < 0 { -magnitude } else { magnitude };
        let (magnitude, exp) = (sum.unsigned_abs(), top - self.fraction);
        let rounded = match (magnitude, self.result, self.keep) {
            (0, _, _) => 0,
            (_, ResultType::Float32, Some(keep)) => cut(magnitude, exp, keep as i32),
            (_, ResultType::Float32, None) => nearest(magnitude, exp, 23, 127),
            (_, ResultType::Float16, _) => nearest(magnitude, exp, 10, 15),
        };
        // no zero has a sign
        with_sign(rounded, sum < 0 && rounded != 0)
    }

    /// Steps one after another.
    fn chain(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        let finite = a.iter().chain(b).all(|x| x.class == Class::Finite);
        let steps = a.chunks(self.products).zip(b.chunks(self.products));
        steps.fold(c, |c, (a, b)| {
            let special = if finite && c.is_finite() { None } else { special(a, b, c) };
            special.unwrap_or_else(|| self.step(a, b, c))
        })
    }
}

/// The result of a step that NaN or infinity takes part in: `None` if they do not decide it.
pub(super) fn special(a: &[Number], b: &[Number], c: f32) -> Option<f32> {
    let (mut positive, mut negative) = (c == f32::INFINITY, c == f32::NEG_INFINITY);
    let mut nan = c.is_nan();
    for (x, y) in a.iter().zip(b) {
        nan |= x.class == Class::Nan || y.class == Class::Nan;
        if x.class == Class::Infinite || y.class == Class::Infinite {
            let product = x.sig.signum() * y.sig.signum();
            nan |= product == 0;
            positive |= product > 0;
            negative |= product < 0;
        }
    }
    match (nan, positive, negative) {
        (true, _, _) | (_, true, true) => Some(NAN),
        (_, true, _) => Some(f32::INFINITY),
        (_, _, true) => Some(f32::NEG_INFINITY),
        _ => None,
    }
}

/// A chain of steps of a tensor core.
#[derive(Clone, Copy)]
pub(super) struct TensorCore(pub Core);

impl TensorCore {
    pub fn new(accumulator: &Accumulator, a: &Format, b: &Format) -> TensorCore {
        TensorCore(Core {
            products: accumulator.products,
            fraction: accumulator.fraction as i32,
            floor: accumulator.floor.unwrap_or(NO_FLOOR),
            keep: accumulator.keep,
            result: accumulator.result,
            man: (a.man + b.man) as i32,
        })
    }
}

impl Chain for TensorCore {
    type Item = Number;
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<Number> {
        let mut items = side.numbers(row);
        if let Some(scales) = side.unit_scales {
            for (k, x) in items.iter_mut().enumerate() {
                *x = x.scaled(scales.at(row, k));
            }
        }
        items
    }
    fn run(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        self.0.chain(a, b, c)
    }
}

/// Products of one step of the software path, and of each of the float16 steps that it consists of.
const SOFTWARE: usize = 32;

/// Where the software path takes its `i`-th product from: the first two k of every four, then the others.
pub(super) const fn software_order(i: usize) -> usize {
    i % SOFTWARE / 2 % (SOFTWARE / 4) * 4
        + i % SOFTWARE / (SOFTWARE / 2) * 2
        + i % 2
        + i / SOFTWARE * SOFTWARE
}

/// FP8 where the hardware has float16 only: widened operands, two steps of 16 from zero, C added last.
#[derive(Clone, Copy)]
pub(super) struct Software(Core);

impl Software {
    pub fn new(accumulator: &Accumulator, a: &Format, b: &Format) -> Software {
        Software(Core { products: SOFTWARE / 2, ..TensorCore::new(accumulator, a, b).0 })
    }

    fn step(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        let half = |x: &[Number], second: usize| -> [Number; SOFTWARE / 2] {
            std::array::from_fn(|k| x.get(software_order(SOFTWARE / 2 * second + k)).copied().unwrap_or(ZERO))
        };
        let sum = (0..2).fold(0.0, |sum, second| self.0.chain(&half(a, second), &half(b, second), sum));
        match self.0.result {
            ResultType::Float32 => c + sum,
            // float32 is wide enough for the second rounding of a sum of two float16 to be harmless
            ResultType::Float16 => to_half(c + sum),
        }
    }
}

impl Chain for Software {
    type Item = Number;
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<Number> {
        let mut items = side.numbers(row);
        for x in &mut items {
            *x = x.widened(side.format);
        }
        items
    }
    fn run(&self, a: &[Number], b: &[Number], c: f32) -> f32 {
        a.chunks(SOFTWARE).zip(b.chunks(SOFTWARE)).fold(c, |c, (a, b)| self.step(a, b, c))
    }
}

/// One step of an accumulator on each of `c.len()` rows of `a` and `b`, which hold as many codes as a step adds
/// products, and as many scales as the unit takes for them. Scales of partial sums are not looked at.
///
/// # Errors
/// [`Error::Length`] if the lengths do not fit; [`Error::Unsupported`] for a format that the accumulator does not take,
/// for scales that it does not take or lacks, and for a `c` that is no float16 where the accumulator is one.
pub fn mma_step(
    accumulator: &'static Accumulator,
    a: &Operand<'_>,
    b: &Operand<'_>,
    c: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    let shape = [1, c.len(), accumulator.products];
    let options = Options { accumulator, promote_every: None };
    let (a, b) = (Operand { scales: None, ..*a }, Operand { scales: None, ..*b });
    let (a, b) = (side("a", &a, shape, &options)?, side("b", &b, shape, &options)?);
    same_length("out", out.len(), c.len())?;
    check_c(accumulator, c)?;
    each_chain!(accumulator, a.format, b.format, chain => {
        for (i, (out, c)) in out.iter_mut().zip(c).enumerate() {
            *out = canonical(accumulator, chain.run(&chain.items(&a, i), &chain.items(&b, i), *c));
        }
    });
    Ok(())
}
