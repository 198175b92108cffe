//! The definition, in float64: the values of a tile's codes ([`TileGrid`]) and the code of a magnitude ([`Finder`]).
//! Every faster path reproduces it.
//!
//! Base-2 logarithm and power of two are `+ - * /` and bit moves in one stated order: nothing is fused and no system
//! library is asked, so that NumPy and every CPU agree to the last bit. They have no branches, so that compilers
//! vectorize them.

use crate::error::Error;
use crate::formats::round::named_enum;
use crate::formats::source::Code;
use crate::simd::{Lanes, MAX_GROUP};

named_enum! {
    /// Rounding of a magnitude between two codes.
    LogRounding, "rounding" {
        /// The nearer one; ties go up.
        Linear = "linear",
        /// The one whose logarithm is nearer; ties go up.
        Log = "log",
        /// Either, with probabilities that make the mean exact.
        Stochastic = "stochastic",
    }
}

/// The widths of a code, sign included.
pub const BITS: std::ops::RangeInclusive<u32> = 3..=16;

/// The values of a tile's codes: `v[k] = lo * 2^((k - 1) step)` for k from 1 to `top`, where the last is `hi` itself.
/// `v[0]` is one step below `lo`: code 0 means zero, but its threshold is that of the next code down.
#[derive(Clone, Copy, Debug)]
pub struct TileGrid {
    /// The least magnitude.
    pub lo: f64,
    /// The largest magnitude.
    pub hi: f64,
    /// Octaves from one code to the next.
    pub step: f64,
    /// The largest code, `2^(bits - 1) - 1`.
    pub top: f64,
}

impl TileGrid {
    /// The grid of a tile from the float32 bits of its least and largest magnitude; neither is negative.
    #[inline(always)]
    pub fn new(lo: u32, hi: u32, bits: u32) -> TileGrid {
        let (lo, hi) = (widen(lo), widen(hi));
        let top = top(bits);
        TileGrid { lo, hi, step: step(lo, hi, top), top: f64::from(top) }
    }

    /// `v[k]`.
    #[inline(always)]
    pub fn value(&self, k: f64) -> f64 {
        let v = self.lo * exp2((k - 1.0) * self.step);
        if k == self.top {
            self.hi
        } else {
            v
        }
    }

    /// The least magnitude that rounds to code `k + 1` rather than `k`, in linear or (`log`) logarithmic distance.
    #[inline(always)]
    pub fn threshold(&self, k: f64, log: bool) -> f64 {
        let (a, b) = (self.value(k), self.value(k + 1.0));
        if log {
            (a * b).sqrt()
        } else {
            (a + b) / 2.0
        }
    }
}

/// The largest code of a width.
#[inline(always)]
pub fn top(bits: u32) -> u32 {
    (1 << (bits - 1)) - 1
}

/// Octaves from one code to the next.
#[inline(always)]
pub fn step(lo: f64, hi: f64, top: u32) -> f64 {
    let ratio = if lo > 0.0 { hi / lo } else { 1.0 };
    log2(ratio) / f64::from(top - 1)
}

/// The bits of a tile's clipped least magnitude: the larger of `lo` and `2^-32 hi`.
#[inline(always)]
pub fn clip(lo: u32, hi: u32) -> u32 {
    const OCTAVES: f64 = 1.0 / 4_294_967_296.0;
    lo.max(narrow(widen(hi) * OCTAVES))
}

/// Finds the code of a magnitude: its logarithm gives the nearest threshold, and one comparison decides.
///
/// With `t = log2(x / lo) / step + 2 - c`, the threshold below code k lies at `t = k`: `c` is its distance from code
/// k - 1 in steps, from 1/2 to 1. The logarithm has a relative error of some 2^-50, and lo and hi differ by 2^-24 of
/// themselves or more, so the smallest step is 2^-39 octaves: `t` is good to a hundredth, and only the threshold at the
/// nearest whole number needs a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Finder {
    /// The tile's values.
    pub grid: TileGrid,
    /// `1 / step`, or 0 where all magnitudes are equal.
    pub inverse: f64,
    /// `c`: distance of a threshold from the code below it, in steps.
    pub below: f64,
}

impl Finder {
    /// The finder of a tile that holds a number other than zero. Where `lo == hi`, every threshold is `lo`: `t` is never
    /// above 1, which finds code 1.
    #[inline(always)]
    pub fn new(grid: TileGrid, rounding: LogRounding) -> Finder {
        let (inverse, below) = Finder::parameters(grid.step, rounding);
        Finder { grid, inverse, below }
    }

    /// Computes `inverse` and `below` of a step.
    #[inline(always)]
    pub(super) fn parameters(step: f64, rounding: LogRounding) -> (f64, f64) {
        let flat = step == 0.0;
        let inverse = 1.0 / if flat { 1.0 } else { step };
        let below = match rounding {
            LogRounding::Linear => log2((1.0 + exp2(step)) * 0.5) * inverse,
            LogRounding::Log => 0.5,
            LogRounding::Stochastic => 1.0,
        };
        (if flat { 0.0 } else { inverse }, if flat { 1.0 } else { below })
    }

    /// The code whose threshold is nearest to `x`, not negative.
    #[inline(always)]
    fn near(&self, x: f64) -> f64 {
        const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
        let t = log2(x / self.grid.lo) * self.inverse + (2.0 - self.below);
        let j = (t + ROUND) - ROUND;
        let j = if j > 1.0 { j } else { 1.0 };
        if j < self.grid.top {
            j
        } else {
            self.grid.top
        }
    }

    /// The code nearest to a magnitude, in linear or (`log`) logarithmic distance.
    #[inline(always)]
    pub fn nearest(&self, x: f64, log: bool) -> u32 {
        let j = self.near(x);
        let k = if x >= self.grid.threshold(j - 1.0, log) { j } else { j - 1.0 };
        whole(if x > 0.0 { k } else { 0.0 })
    }

    /// The code of a magnitude by stochastic rounding: up if the 32 random bits are below its distance from the code
    /// below, as a fraction.
    #[inline(always)]
    pub fn stochastic(&self, x: f64, random: u32) -> u32 {
        let j = self.near(x);
        let at = self.grid.value(j);
        let above = x >= at;
        let k = if above { j } else { j - 1.0 };
        let a = if above { at } else { self.grid.value(j - 1.0) };
        let b = if above { self.grid.value(j + 1.0) } else { at };
        let a = if k > 0.0 { a } else { 0.0 }; // below lo, between zero and lo
        let p = (x - a) / (b - a);
        let drawn = f64::from((random >> 1) as i32) * 2.0 + f64::from((random & 1) as i32);
        let up = (drawn < floor(p * 4_294_967_296.0)) & (k < self.grid.top);
        whole(if x > 0.0 { k + if up { 1.0 } else { 0.0 } } else { 0.0 })
    }
}

/// Converts a small whole number, by its bits when added to 2^52.
#[inline(always)]
fn whole(k: f64) -> u32 {
    (k + 4_503_599_627_370_496.0).to_bits() as u32
}

/// The largest whole number not above `x`, from 0 to 2^32.
#[inline(always)]
fn floor(x: f64) -> f64 {
    let near = (x + 4_503_599_627_370_496.0) - 4_503_599_627_370_496.0;
    if near > x {
        near - 1.0
    } else {
        near
    }
}

/// Checks a width.
pub(super) fn check_bits(bits: u32) -> Result<(), Error> {
    if BITS.contains(&bits) {
        return Ok(());
    }
    let expected = "3 to 16 (two bits have a single magnitude, and no step between codes)";
    Err(Error::Range { what: "bits", found: bits.to_string(), expected })
}

const SQRT_HALF: f64 = std::f64::consts::FRAC_1_SQRT_2;
const TWO_OVER_LN2: f64 = 2.885_390_081_777_926_8;
const LN2: f64 = std::f64::consts::LN_2;

/// `1 / (2 k + 1)`, and `1 / k!`.
const ATANH: [f64; 11] = {
    let mut c = [0.0; 11];
    let mut k = 0;
    while k < c.len() {
        c[k] = 1.0 / (2 * k + 1) as f64;
        k += 1;
    }
    c
};
const EXP: [f64; 14] = {
    let (mut c, mut factorial) = ([0.0; 14], 1.0);
    let mut k = 0;
    while k < c.len() {
        factorial *= if k == 0 { 1.0 } else { k as f64 };
        c[k] = 1.0 / factorial;
        k += 1;
    }
    c
};

/// Horner's rule: a product and a sum rounded at each step.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, c: &[f64; N]) -> f64 {
    let mut p = c[N - 1];
    let mut k = N - 1;
    while k > 0 {
        k -= 1;
        p = p * x + c[k];
    }
    p
}

/// The base-2 logarithm of a normal positive number: exact for powers of two, otherwise within a few units of
/// 2^-53, relatively. `log2 m = 2 atanh(u) / ln 2` with `u = (m - 1) / (m + 1)` and m from sqrt(1/2) to sqrt(2).
#[inline(always)]
pub fn log2(x: f64) -> f64 {
    const FIELD: u64 = 0x7FF;
    let bits = x.to_bits();
    // The exponent field as a float: the integer added to 2^52, then 2^52 and the bias taken off.
    let e = f64::from_bits((bits >> 52) & FIELD | 0x4330_0000_0000_0000) - (4_503_599_627_370_496.0 + 1022.0);
    let m = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FE0_0000_0000_0000);
    let low = m < SQRT_HALF;
    let (m, e) = (if low { m * 2.0 } else { m }, if low { e - 1.0 } else { e });
    let u = (m - 1.0) / (m + 1.0);
    e + (u * polynomial(u * u, &ATANH)) * TWO_OVER_LN2
}

/// `2^y` for `|y| < 1000`: exact for whole y, otherwise within a few units of 2^-53, relatively.
#[inline(always)]
pub fn exp2(y: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: sums are whole, and their low bits count
    let sum = y + ROUND;
    let power = f64::from_bits(sum.to_bits().wrapping_add(1023) << 52);
    let z = (y - (sum - ROUND)) * LN2;
    polynomial(z, &EXP) * power
}

/// Replaces each number by its [`exp2`].
#[inline(always)]
pub fn exp2_each<L: Lanes>(l: L, y: &mut [f64]) {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let (mut z, mut p) = ([0f64; EACH], [0f64; EACH]);
    for y in y.chunks_mut(EACH) {
        let n = y.len();
        for (z, y) in z.iter_mut().zip(y.iter()) {
            *z = (y - ((y + ROUND) - ROUND)) * LN2;
        }
        l.polynomial(&EXP, &z[..n], &mut p[..n]);
        for (y, p) in y.iter_mut().zip(&p) {
            *y = p * f64::from_bits((*y + ROUND).to_bits().wrapping_add(1023) << 52);
        }
    }
}

/// Numbers evaluated at a time.
const EACH: usize = 128;

/// The float32 of `bits`, which are not negative. In integers: a thread's control word may flush subnormal operands.
#[inline(always)]
pub fn widen(bits: u32) -> f64 {
    let normal = f64::from_bits((u64::from(bits) << 29) + (896 << 52));
    let subnormal = f64::from(bits as i32) * f64::from_bits((1023 - 149) << 52);
    if bits >= 0x0080_0000 {
        normal
    } else {
        subnormal
    }
}

/// The bits of the float32 nearest to `x`, which is not negative. Subnormal results are rounded in integers too.
#[inline(always)]
pub fn narrow(x: f64) -> u32 {
    const UNITS: f64 = f64::from_bits((1023 + 149) << 52); // 2^-149 is float32's smallest
    const WHOLE: f64 = 4_503_599_627_370_496.0; // 2^52
    const NORMAL: f64 = f64::from_bits((1023 - 126) << 52);
    if x >= NORMAL {
        (x as f32).to_bits()
    } else {
        (x * UNITS + WHOLE).to_bits() as u32
    }
}

named_enum! {
    /// Accuracy of a decoded float32.
    Precision, "precision" {
        /// The nearest float32.
        Exact = "exact",
        /// At most 2 units in the last place from it: the product of two float32 out of small tables.
        Quick = "quick",
    }
}

/// The float32 of a magnitude's bits and the sign of `code`; zero for code 0.
#[inline(always)]
fn signed(magnitude: u32, code: u32, bits: u32) -> f32 {
    let magnitude = if code & top(bits) == 0 { 0 } else { magnitude };
    f32::from_bits(magnitude | (code >> (bits - 1) & 1) << 31)
}

/// Decodes at most [`MAX_GROUP`] codes to the nearest float32.
#[inline(always)]
fn exact<L: Lanes>(l: L, grid: &TileGrid, bits: u32, codes: &[u32; MAX_GROUP], out: &mut [f32]) {
    let mut powers = [0f64; MAX_GROUP];
    for (code, y) in codes.iter().zip(&mut powers) {
        *y = (f64::from((code & top(bits)) as i32) - 1.0) * grid.step;
    }
    exp2_each(l, &mut powers);
    for ((code, power), out) in codes.iter().zip(&powers).zip(out) {
        let v = if code & top(bits) == top(bits) { grid.hi } else { grid.lo * power };
        *out = signed(narrow(v), *code, bits);
    }
}

/// Decodes codes in groups of `2^(bits / 2)`: the last value of the group times the ratio of code and last value, both
/// float32. The last value of all is `hi`, with ratio 1: it is exact and nothing overflows.
///
/// Each factor and the product is rounded by half a unit in the last place at most. With significands a and b of the
/// factors, that makes `(a + b + 1) / 2` units of the product where `a b < 2`, at most 2; else `(a + b) / 4 + 1/2`, less
/// than 3/2. The exact result is itself within half a unit, so the two are at most 2 apart.
#[inline(always)]
fn quick<L: Lanes>(l: L, grid: &TileGrid, bits: u32, codes: &[u32; MAX_GROUP], out: &mut [f32]) {
    let rest = (1u32 << (bits / 2)) - 1;
    let (mut last, mut down) = ([0f64; MAX_GROUP], [0f64; MAX_GROUP]);
    for ((code, last), down) in codes.iter().zip(&mut last).zip(&mut down) {
        let k = code & top(bits);
        *last = (f64::from((k | rest) as i32) - 1.0) * grid.step;
        *down = f64::from((k & rest) as i32 - rest as i32) * grid.step;
    }
    exp2_each(l, &mut last);
    exp2_each(l, &mut down);
    for (((code, last), down), out) in codes.iter().zip(&last).zip(&down).zip(out) {
        let v = if (code | rest) & top(bits) == top(bits) { grid.hi } else { grid.lo * last };
        *out = signed(narrow(widen(narrow(v)) * widen(narrow(*down))), *code, bits);
    }
}

/// Decodes by float64 arithmetic.
#[inline(always)]
pub(super) fn direct<L: Lanes, C: Code>(
    l: L,
    grid: &TileGrid,
    bits: u32,
    precision: Precision,
    codes: &[C],
    out: &mut [f32],
) {
    for (codes, out) in codes.chunks(MAX_GROUP).zip(out.chunks_mut(MAX_GROUP)) {
        let mut raw = [0u32; MAX_GROUP];
        for (raw, code) in raw.iter_mut().zip(codes) {
            *raw = code.to_u32();
        }
        match precision {
            Precision::Exact => exact(l, grid, bits, &raw, out),
            Precision::Quick => quick(l, grid, bits, &raw, out),
        }
    }
}
