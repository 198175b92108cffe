//! One tile: what its codes stand for, and which code a magnitude gets. The definition, in float64; every faster path
//! must reproduce it.

use super::float64::{exp2, log2, narrow, widen};
use crate::error::Error;
use crate::formats::round::named_enum;

named_enum! {
    /// Which neighbour a magnitude between two codes becomes.
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

/// A tile's table of values: `v[k] = lo * 2^((k - 1) step)` for k from 1 to `top`, where the last is `hi` itself. `v[0]`
/// is one step below `lo`: code 0 means zero, but its threshold is that of the next code down.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The least magnitude.
    pub lo: f64,
    /// The largest magnitude.
    pub hi: f64,
    /// Octaves from one code to the next.
    pub step: f64,
    /// The largest code, `2^(bits - 1) - 1`.
    pub top: f64,
}

impl Span {
    /// The span of a tile whose least and largest magnitude have these float32 bits; neither is negative.
    #[inline(always)]
    pub fn new(lo: u32, hi: u32, bits: u32) -> Span {
        let (lo, hi) = (widen(lo), widen(hi));
        let top = top(bits);
        Span { lo, hi, step: step(lo, hi, top), top: f64::from(top) }
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

    /// The least magnitude that becomes code `k + 1` rather than `k`, when rounding to nearest.
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

/// The bits of what stands for a tile's least magnitude: `lo`, or `2^-32 hi` where that is more.
#[inline(always)]
pub fn clip(lo: u32, hi: u32) -> u32 {
    const OCTAVES: f64 = 1.0 / 4_294_967_296.0;
    lo.max(narrow(widen(hi) * OCTAVES))
}

/// How to find the code of a magnitude: its logarithm tells the nearest threshold, and one comparison decides.
///
/// With `t = log2(x / lo) / step + 2 - c`, the threshold below code k lies at `t = k`: `c` is what part of a step it lies
/// above code k - 1, from 1/2 to 1. The logarithm errs by some 2^-50, relatively, and lo and hi differ by 2^-24 of
/// themselves or more, which makes 2^-39 octaves of the smallest step: `t` is good to a hundredth, so only the threshold
/// at the whole number nearest to it needs to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Finder {
    /// The tile's values.
    pub span: Span,
    /// `1 / step`, or 0 where all magnitudes are equal.
    pub inverse: f64,
    /// `c`: what part of a step a threshold lies above the code below it.
    pub below: f64,
}

impl Finder {
    /// For a tile that holds a number other than zero. Where `lo == hi`, every threshold is `lo`, so that code 1 is found
    /// if `t` is never above 1.
    #[inline(always)]
    pub fn new(span: Span, rounding: LogRounding) -> Finder {
        let (inverse, below) = Finder::parameters(span.step, rounding);
        Finder { span, inverse, below }
    }

    /// `inverse` and `below` of a step.
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
        let t = log2(x / self.span.lo) * self.inverse + (2.0 - self.below);
        let j = (t + ROUND) - ROUND;
        let j = if j > 1.0 { j } else { 1.0 };
        if j < self.span.top {
            j
        } else {
            self.span.top
        }
    }

    /// The code of a magnitude, nearest in the sense of linear or (`log`) logarithmic distance.
    #[inline(always)]
    pub fn nearest(&self, x: f64, log: bool) -> u32 {
        let j = self.near(x);
        let k = if x >= self.span.threshold(j - 1.0, log) { j } else { j - 1.0 };
        whole(if x > 0.0 { k } else { 0.0 })
    }

    /// The code of a magnitude, up where the 32 random bits are below the way from the code below, as a fraction.
    #[inline(always)]
    pub fn stochastic(&self, x: f64, random: u32) -> u32 {
        let j = self.near(x);
        let at = self.span.value(j);
        let above = x >= at;
        let k = if above { j } else { j - 1.0 };
        let a = if above { at } else { self.span.value(j - 1.0) };
        let b = if above { self.span.value(j + 1.0) } else { at };
        let a = if k > 0.0 { a } else { 0.0 }; // below lo, between zero and lo
        let p = (x - a) / (b - a);
        let drawn = f64::from((random >> 1) as i32) * 2.0 + f64::from((random & 1) as i32);
        let up = (drawn < floor(p * 4_294_967_296.0)) & (k < self.span.top);
        whole(if x > 0.0 { k + if up { 1.0 } else { 0.0 } } else { 0.0 })
    }
}

/// A small whole number, by its bits when added to 2^52.
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
