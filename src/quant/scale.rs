//! From the largest magnitudes of a handful of blocks to their scales, by the columns of a [`Rule`].
//!
//! Each column is a loop over the blocks, so that the compiler can use its vectors whatever the rule.

use super::rule::{ApplyOp, BlockOp, Byte0, Pow2Op, Rule, ScaleKind, ScaleOp, ZeroScale, ZeroTile};
use crate::formats::table::Format;

const NAN: f32 = f32::from_bits(0x7FC0_0000);
const INFINITY: u32 = 0x7F80_0000;
const E4M3_MAX: f32 = 448.0;

/// NVFP4's float32 scale of scales: what block scales are multiplied by before they are cast to E4M3, and its inverse.
/// One for all blocks, or one for each.
#[derive(Clone, Copy, Debug)]
pub struct Global<'a> {
    /// Multiplied in.
    pub encode: &'a [f32],
    /// Factor of stored scales.
    pub decode: &'a [f32],
}

impl Global<'_> {
    /// No scale of scales.
    pub const ONE: Global<'static> = Global { encode: &[1.0], decode: &[1.0] };

    /// Scales of some blocks.
    pub(crate) fn part(self, blocks: std::ops::Range<usize>) -> Self {
        if self.encode.len() == 1 {
            return self;
        }
        Global { encode: &self.encode[blocks.clone()], decode: &self.decode[blocks] }
    }
}

/// The largest of some bits; plainly, so that it is found in vectors.
#[inline(always)]
pub(super) fn largest(amax: &[u32]) -> u32 {
    amax.iter().fold(0, |most, a| if *a > most { *a } else { most })
}

/// A number beside each of some blocks: one for all of them, or one for each.
#[inline(always)]
fn beside<T>(blocks: impl Iterator<Item = T>, numbers: &[f32], mut each: impl FnMut(T, f32)) {
    match numbers {
        [one] => blocks.for_each(|block| each(block, *one)),
        numbers => blocks.zip(numbers).for_each(|(block, number)| each(block, *number)),
    }
}

/// Everything that turns amax into scales for one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaler {
    pub kind: ScaleKind,
    pub rule: Rule,
    /// Value that amax is brought to.
    max: f32,
    /// The exponent of the format's largest number, and its mantissa bits.
    emax: i32,
    man: u32,
}

/// Scales of blocks, in arrays of one length.
pub(crate) struct ScaleArrays<'a> {
    /// Stored value, as a number.
    pub stored: &'a mut [f32],
    /// Factor of codes that gives values back.
    pub divisor: &'a mut [f32],
    /// Factor of values, unless they are divided by the divisor.
    pub factor: &'a mut [f32],
}

/// 2^e for e in -127..=127.
#[inline(always)]
fn power(e: i32) -> f32 {
    f32::from_bits(if e == -127 { 0x0040_0000 } else { ((e + 127) as u32) << 23 })
}

#[inline(always)]
fn at_least(a: f32, floor: f32) -> f32 {
    if a > floor {
        a
    } else {
        floor
    }
}

#[inline(always)]
fn at_most(a: f32, top: f32) -> f32 {
    if a < top {
        a
    } else {
        top
    }
}

/// The exponent of the power of two at or above a positive float32 whose mantissa exceeds `slack`.
#[inline(always)]
fn ceil_exponent(s: f32, slack: u32) -> i32 {
    let bits = s.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    if bits <= 0x0040_0000 + slack {
        -127 // 2^-127, or the least there is (field 0 alone gets here: slacks are short)
    } else {
        exponent + i32::from(bits & 0x007F_FFFF > slack)
    }
}

/// For each exponent field, the largest mantissa m for which log2(2^k * (1 + m / 2^23)), rounded to nearest float32, is k.
///
/// log2 exceeds k by m / (2^23 ln 2) to first order, and rounds back to k while that is under half the gap
/// between k and the next float32 above it: m < ln 2 * 2^(j-1), 2^j being the binade of that gap.
static LOG2_SLACK: [u32; 256] = {
    let mut table = [0; 256];
    table[0] = log2_slack(-127) / 2; // 2^-127 is a subnormal, with one bit less
    let mut field = 1;
    while field < 255 {
        table[field] = log2_slack(field as i32 - 127);
        field += 1;
    }
    table
};

const fn log2_slack(k: i32) -> u32 {
    let magnitude = k.unsigned_abs();
    if magnitude == 0 {
        return 0; // any positive excess over 0 is a float32 of its own
    }
    // Above a negative k the magnitude falls, so a power of two borders on the finer binade.
    let inside = if k < 0 && magnitude.is_power_of_two() { magnitude - 1 } else { magnitude };
    match inside.checked_ilog2() {
        None => (std::f64::consts::LN_2 / 4.0) as u32, // k = -1: gaps of the binade below 1
        Some(j) => (std::f64::consts::LN_2 * (1u32 << j) as f64 / 2.0) as u32,
    }
}

/// A number of at least zero, or NaN, rounded to E4M3 and saturated.
#[inline(always)]
fn to_e4m3(t: f32) -> f32 {
    let a = if t < E4M3_MAX { t } else { E4M3_MAX };
    // Adding 2^20 binades above makes the float unit round to three mantissa bits, in the binade of 2^-6 at the least.
    let binade = (a.to_bits() & INFINITY).max((127 - 6) << 23);
    let magic = f32::from_bits(binade + (20 << 23));
    let rounded = (a + magic) - magic;
    if t.is_nan() {
        t
    } else {
        rounded
    }
}

/// The code of an E4M3 number of at least zero, or of NaN.
#[inline(always)]
pub(crate) fn e4m3_code(x: f32) -> u8 {
    const LEAST: f32 = 0.015625;
    // Codes are evenly spaced in the bits of this sum, which has room for all of a number's own.
    let code = (x + at_least(x, LEAST)).to_bits().wrapping_sub(LEAST.to_bits()) >> 20;
    if x.is_nan() {
        0x7F
    } else {
        code as u8
    }
}

impl Scaler {
    /// A rule for a format.
    pub fn new(kind: ScaleKind, rule: Rule, format: &Format) -> Scaler {
        let emax = (format.max().to_bits() >> 23) as i32 - 127;
        Scaler { kind, rule, max: rule.max.unwrap_or(format.max()), emax, man: format.man }
    }

    /// True: elements are divided; else they are multiplied by the factor.
    pub fn divides(&self) -> bool {
        matches!(self.kind, ScaleKind::Float32 | ScaleKind::Nvfp4) && self.rule.apply_op == ApplyOp::Divide
    }

    /// Writes the scales of blocks from the bits of their largest magnitudes, which order NaN above infinity.
    #[inline(always)]
    pub fn scales(&self, amax: &[u32], global: Global<'_>, out: ScaleArrays<'_>) {
        let ScaleArrays { stored, divisor, factor } = out;
        match self.kind {
            ScaleKind::Float32 => {
                self.float_scales(amax, divisor, factor);
                stored.copy_from_slice(divisor);
            }
            ScaleKind::Ue8m0 | ScaleKind::Mx => {
                self.powers(amax, divisor, factor);
                stored.copy_from_slice(divisor);
            }
            ScaleKind::Nvfp4 => {
                self.block_scales(amax, self.rule.targets()[0], global.encode, stored);
                self.applied(stored, global, divisor, factor);
            }
        }
        if largest(amax) < INFINITY {
            return;
        }
        for (((a, stored), divisor), factor) in amax.iter().zip(stored).zip(divisor).zip(factor) {
            if *a >= INFINITY {
                // IEEE arithmetic for float32 scales under infinity, NaN for everything else.
                let amax = f32::from_bits(*a);
                let ieee = self.kind == ScaleKind::Float32 && !amax.is_nan();
                let s = if ieee { amax } else { NAN };
                (*stored, *divisor, *factor) = (s, s, if ieee { 0.0 } else { NAN });
            }
        }
    }

    /// The E4M3 scales that bring each block's amax to `target`. Operation after operation, for the compiler's vectors.
    #[inline(always)]
    pub fn block_scales(&self, amax: &[u32], target: f32, encode: &[f32], stored: &mut [f32]) {
        let inverse = 1.0 / target;
        let blocks = amax.iter().zip(stored.iter_mut());
        match self.rule.block_op {
            BlockOp::Divide => beside(blocks, encode, |(a, s), e| *s = (f32::from_bits(*a) / target) * e),
            BlockOp::Multiply => beside(blocks, encode, |(a, s), e| *s = (f32::from_bits(*a) * inverse) * e),
            BlockOp::MultiplyGlobal => {
                beside(blocks, encode, |(a, s), e| *s = f32::from_bits(*a) * (e * inverse));
            }
        }
        let floor = self.rule.scale_floor;
        stored.iter_mut().for_each(|s| *s = to_e4m3(at_least(*s, floor)));
    }

    /// Values of stored scales, whoever chose them.
    #[inline(always)]
    pub fn applied(&self, stored: &[f32], global: Global<'_>, divisor: &mut [f32], factor: &mut [f32]) {
        let blocks = stored.iter().zip(divisor.iter_mut()).zip(factor.iter_mut());
        match self.kind {
            ScaleKind::Float32 => {
                for ((s, divisor), factor) in blocks {
                    (*divisor, *factor) = (*s, 1.0 / s);
                }
            }
            ScaleKind::Ue8m0 | ScaleKind::Mx => {
                for ((s, divisor), factor) in blocks {
                    (*divisor, *factor) = (*s, self.power_factor(*s));
                }
            }
            ScaleKind::Nvfp4 => {
                let dead = if self.rule.zero_scale == ZeroScale::Zero { 0.0 } else { f32::MAX };
                beside(blocks, global.decode, |((s, divisor), factor), decode| {
                    let effective = s * decode;
                    let inverse = at_most(1.0 / effective, f32::MAX);
                    (*divisor, *factor) = if *s == 0.0 { (1.0 / dead, dead) } else { (effective, inverse) };
                });
            }
        }
    }

    /// Factor of elements under a power of two.
    #[inline(always)]
    fn power_factor(&self, s: f32) -> f32 {
        let least = match self.rule.byte0 {
            Byte0::Scale => 127,
            Byte0::Normal => 126,
            Byte0::One => 0,
        };
        let e = (s.to_bits() >> 23) as i32 - 127;
        power(if e == -127 { least } else { -e })
    }

    /// amax as the scale sees it.
    #[inline(always)]
    fn raised(&self, bits: u32) -> f32 {
        let guard = if self.rule.least_exponent == -126 { self.max * f32::MIN_POSITIVE } else { 0.0 };
        at_least(f32::from_bits(bits), at_least(self.rule.amax_floor, guard))
    }

    #[inline(always)]
    fn ratio(&self, a: f32) -> f32 {
        at_most(self.max / a, f32::MAX)
    }

    /// Float32 scales into `s`.
    #[inline(always)]
    fn float_ops(&self, amax: &[u32], s: &mut [f32], floor: f32) {
        let blocks = amax.iter().zip(s.iter_mut());
        match self.rule.scale_op {
            ScaleOp::Divide => blocks.for_each(|(a, s)| *s = self.raised(*a) / self.max),
            ScaleOp::Multiply => {
                let inverse = 1.0 / self.max;
                blocks.for_each(|(a, s)| *s = self.raised(*a) * inverse);
            }
            ScaleOp::Inverse => blocks.for_each(|(a, s)| *s = 1.0 / self.ratio(self.raised(*a))),
            ScaleOp::Absent => {}
        }
        if floor > 0.0 {
            s.iter_mut().for_each(|s| *s = at_least(*s, floor));
        }
        if self.rule.zero_tile == ZeroTile::One {
            for (a, s) in amax.iter().zip(s) {
                *s = if *a == 0 { 1.0 } else { *s };
            }
        }
    }

    #[inline(always)]
    fn float_scales(&self, amax: &[u32], divisor: &mut [f32], factor: &mut [f32]) {
        self.float_ops(amax, divisor, self.rule.scale_floor);
        if self.rule.apply_op == ApplyOp::MultiplyRatio {
            let one = self.rule.zero_tile == ZeroTile::One;
            for (a, factor) in amax.iter().zip(factor) {
                *factor = if one && *a == 0 { 1.0 } else { self.ratio(self.raised(*a)) };
            }
        } else {
            for (s, factor) in divisor.iter().zip(factor) {
                *factor = 1.0 / *s;
            }
        }
    }

    #[inline(always)]
    fn powers(&self, amax: &[u32], divisor: &mut [f32], factor: &mut [f32]) {
        let rule = &self.rule;
        let clamp = |e: i32| power(e.max(rule.least_exponent).min(127));
        match rule.pow2_op {
            Pow2Op::Bit | Pow2Op::FloatLog2 => {
                self.float_ops(amax, divisor, rule.scale_floor.max(rule.pow2_floor));
                if rule.pow2_op == Pow2Op::Bit {
                    divisor.iter_mut().for_each(|s| *s = clamp(ceil_exponent(*s, 0)));
                } else {
                    let slack = |s: f32| LOG2_SLACK[(s.to_bits() >> 23) as usize & 0xFF];
                    divisor.iter_mut().for_each(|s| *s = clamp(ceil_exponent(*s, slack(*s))));
                }
            }
            Pow2Op::Ratio => {
                for (a, s) in amax.iter().zip(divisor.iter_mut()) {
                    let field = (self.ratio(self.raised(*a)).to_bits() >> 23) as i32;
                    *s = if rule.zero_tile == ZeroTile::One && *a == 0 { 1.0 } else { clamp(127 - field) };
                }
            }
            Pow2Op::Floor | Pow2Op::Ceil | Pow2Op::Even | Pow2Op::Absent => {
                // Carries reach the exponent: all of a mantissa's bits, or half of the last one that the format has.
                let carry = match rule.pow2_op {
                    Pow2Op::Ceil => 0x007F_FFFF,
                    Pow2Op::Even => 1 << (22 - self.man),
                    _ => 0,
                };
                for (a, s) in amax.iter().zip(divisor.iter_mut()) {
                    let a = self.raised(*a);
                    let (a, lift) = if a < f32::MIN_POSITIVE {
                        (a * 16_777_216.0, if a == 0.0 { 512 } else { 24 })
                    } else {
                        (a, 0)
                    };
                    let field = (a.to_bits() + carry) >> 23;
                    *s = clamp(field as i32 - lift - 127 - self.emax);
                }
                if rule.zero_tile == ZeroTile::One {
                    amax.iter().zip(divisor.iter_mut()).filter(|(a, _)| **a == 0).for_each(|(_, s)| *s = 1.0);
                }
            }
        }
        for (s, factor) in divisor.iter().zip(factor) {
            *factor = self.power_factor(*s);
        }
    }
}

/// NVFP4's scale of scales for a tensor (or row) whose largest magnitude is `amax`: `min(block_max * max / amax, FLT_MAX)`,
/// 1 where amax is zero, and its inverse.
pub fn nvfp4_global(amax: f32, rule: &Rule, format: &Format) -> (f32, f32) {
    let encode = at_most(rule.block_max * rule.max.unwrap_or(format.max()) / amax, f32::MAX);
    let encode = if amax == 0.0 || encode == 0.0 { 1.0 } else { encode };
    (encode, 1.0 / encode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::round::Rounder;
    use crate::formats::table::E4M3FN;

    /// The closed form of the float log2 rule against log2 itself, for every exponent.
    #[test]
    fn log2_slack_is_where_float32_log2_rounds_back() {
        for k in -126..=127 {
            for m in 0..200u32 {
                let s = f32::from_bits(((k + 127) as u32) << 23 | m);
                // float64 log2 errs by far less than the distance of any such value from a rounding boundary
                let ceil = (f64::from(s).log2() as f32).ceil() as i32;
                assert_eq!(ceil_exponent(s, LOG2_SLACK[(k + 127) as usize]), ceil, "k={k} m={m}");
            }
        }
    }

    /// Block scales as E4M3: numbers and codes, against the definition, over all exponents.
    #[test]
    fn e4m3_scales_are_the_definitions() {
        let rounder = Rounder::saturating(&E4M3FN);
        for bits in (0..0x7F80_0001).step_by(9973).chain([0x7FC0_0000, 0x3F80_0000]) {
            let code = rounder.code(bits, 0);
            let rounded = to_e4m3(f32::from_bits(bits));
            assert_eq!(u32::from(e4m3_code(rounded)), code, "{bits:x}");
            assert!(rounded.is_nan() || f64::from(rounded) == E4M3FN.grid(code), "{bits:x}");
        }
    }
}
