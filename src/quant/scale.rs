//! From a block's largest magnitude to its scale: the kinds of scale, and the rules that projects follow.
//!
//! All arithmetic is float32, operation by operation as written: the rules differ in the last bit.

use crate::error::Error;
use crate::formats::round::{named_enum, Rounder};
use crate::formats::table::{Format, E4M3FN};

named_enum! {
    /// What a scale is.
    ScaleKind, "scale" {
        /// A float32, `amax / max`.
        Float32 = "float32",
        /// The power of two at or above that (UE8M0).
        Ue8m0 = "ue8m0",
        /// OCP Microscaling: the power of two that brings amax into the format's top binade; larger values clip.
        Mx = "mx",
        /// NVFP4: an E4M3 number times one float32 for the whole tensor.
        Nvfp4 = "nvfp4",
    }
}

/// How the float32 scale is computed from amax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleOp {
    /// `amax / max`.
    Divide,
    /// `amax * RN(1 / max)`.
    Multiply,
}

/// How an element is brought to the format's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyOp {
    /// `x / s`.
    Divide,
    /// `x * RN(1 / s)`.
    Reciprocal,
    /// `x * RN(max / amax)`.
    MaxOverAmax,
}

/// How a power of two at or above a float32 is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOp {
    /// From the bits: the exponent, plus one if the mantissa is not zero.
    Bits,
    /// `ceil(log2(s))` with log2 rounded to float32, which loses numbers a few ulp above a power of two.
    FloatLog2,
}

/// A project's way of scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The least amax.
    pub floor: f32,
    /// The float32 scale.
    pub scale: ScaleOp,
    /// The quotient.
    pub apply: ApplyOp,
    /// The power of two.
    pub power: PowerOp,
}

macro_rules! rules {
    ($($name:literal, $floor:literal, $scale:ident, $apply:ident, $power:ident;)*) => {
        /// Every rule; the first is the default.
        pub const RULES: &[Rule] = &[$(Rule {
            name: $name, floor: $floor,
            scale: ScaleOp::$scale, apply: ApplyOp::$apply, power: PowerOp::$power,
        }),*];
    };
}

rules! {
//  name           floor    scale     quotient     power of two
    "deepseek_v3", 1e-4,    Divide,   Divide,      Bits;
    "deepgemm",    1e-4,    Divide,   Reciprocal,  Bits;
    "deepep",      1e-4,    Multiply, MaxOverAmax, Bits;
    "vllm",        1e-10,   Divide,   Divide,      FloatLog2;
}

impl Rule {
    /// Looks a rule up by name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], listing the names there are.
    pub fn by_name(name: &str) -> Result<&'static Rule, Error> {
        RULES
            .iter()
            .find(|r| r.name == name)
            .ok_or_else(|| Error::unknown("rule", name, RULES.iter().map(|r| r.name)))
    }
}

const NAN_BITS: u32 = 0x7FC0_0000;

/// 2^e for a normal exponent.
#[inline(always)]
fn power(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// 2^e for e in -127..=127.
#[inline(always)]
fn scale_power(e: i32) -> f32 {
    if e == -127 {
        f32::from_bits(0x0040_0000)
    } else {
        power(e)
    }
}

/// The exponent of the power of two at or above a positive float32, in -126..=127.
#[inline(always)]
fn ceil_exponent(s: f32, op: PowerOp) -> i32 {
    let bits = s.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let mantissa = bits & 0x007F_FFFF;
    let lost = match op {
        PowerOp::Bits => 0,
        PowerOp::FloatLog2 => log2_slack(exponent),
    };
    (exponent + i32::from(mantissa > lost)).clamp(-126, 127)
}

/// The largest mantissa m for which log2(2^k * (1 + m / 2^23)), rounded to nearest float32, is k.
///
/// log2 exceeds k by m / (2^23 ln 2) to first order, and rounds back to k while that is under half the gap
/// between k and the next float32 above it: m < ln 2 * 2^(j-1), 2^j being the binade of that gap.
#[inline(always)]
fn log2_slack(k: i32) -> u32 {
    let magnitude = k.unsigned_abs();
    if magnitude == 0 {
        return 0; // any positive excess over 0 is a float32 of its own
    }
    // Above a negative k the magnitude falls, so a power of two borders on the finer binade.
    let inside = if k < 0 { magnitude - u32::from(magnitude.is_power_of_two()) } else { magnitude };
    match inside.checked_ilog2() {
        None => (std::f64::consts::LN_2 / 4.0) as u32, // k = -1: gaps of the binade below 1
        Some(j) => (std::f64::consts::LN_2 * f64::from(1u32 << j) / 2.0) as u32,
    }
}

/// Everything that turns amax into scales for one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaler {
    pub kind: ScaleKind,
    pub rule: Rule,
    pub max: f32,
    pub global: f32,
}

/// A block's scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockScale {
    /// What is stored: the scale, without the tensor's factor.
    pub stored: f32,
    /// What codes are multiplied by to get values back.
    pub divisor: f32,
    /// What values are multiplied by, unless they are divided by `divisor`.
    pub factor: f32,
}

impl Scaler {
    /// The least amax: the floor asked for, and never so low that the scale is subnormal.
    pub fn floor(&self) -> f32 {
        self.rule.floor.max(self.max * f32::MIN_POSITIVE)
    }

    /// Whether elements are divided; else they are multiplied by [`BlockScale::factor`].
    pub fn divides(&self) -> bool {
        match self.kind {
            ScaleKind::Float32 => self.rule.apply == ApplyOp::Divide,
            ScaleKind::Nvfp4 => true,
            ScaleKind::Ue8m0 | ScaleKind::Mx => false, // exact either way
        }
    }

    /// The scale of a block from the bits of its largest magnitude, which order NaN above infinity.
    #[inline(always)]
    pub fn block(&self, amax_bits: u32) -> BlockScale {
        let amax = f32::from_bits(amax_bits);
        if amax_bits >= 0x7F80_0000 {
            self.nonfinite(amax)
        } else {
            self.finite_block(amax_bits)
        }
    }

    /// The scale of a block of finite elements.
    #[inline(always)]
    pub fn finite_block(&self, amax_bits: u32) -> BlockScale {
        let amax = f32::from_bits(amax_bits);
        match self.kind {
            ScaleKind::Float32 | ScaleKind::Ue8m0 => {
                let amax = amax.max(self.floor());
                let s = self.float_scale(amax);
                if self.kind == ScaleKind::Ue8m0 {
                    return power_scale(ceil_exponent(s, self.rule.power));
                }
                let factor = match self.rule.apply {
                    ApplyOp::MaxOverAmax => self.max / amax,
                    ApplyOp::Divide | ApplyOp::Reciprocal => 1.0 / s,
                };
                BlockScale { stored: s, divisor: s, factor }
            }
            ScaleKind::Mx => {
                let top = (self.max.to_bits() >> 23) as i32 - 127;
                power_scale((floor_log2(amax_bits) - top).clamp(-127, 127))
            }
            ScaleKind::Nvfp4 => {
                let t = (amax / self.max) / self.global;
                let code = Rounder::saturating(&E4M3FN).code(t.to_bits(), 0);
                // Zero would lose the block: the least scale is the smallest E4M3 number.
                let stored = E4M3FN.grid(code.max(1)) as f32;
                let divisor = stored * self.global;
                BlockScale { stored, divisor, factor: 1.0 / divisor }
            }
        }
    }

    #[inline(always)]
    fn float_scale(&self, amax: f32) -> f32 {
        match self.rule.scale {
            ScaleOp::Divide => amax / self.max,
            ScaleOp::Multiply => amax * (1.0 / self.max),
        }
    }

    /// A block that contains infinity or NaN: IEEE arithmetic for float32 scales, NaN for the others.
    #[inline(always)]
    fn nonfinite(&self, amax: f32) -> BlockScale {
        let nan = f32::from_bits(NAN_BITS);
        if self.kind != ScaleKind::Float32 || amax.is_nan() {
            return BlockScale { stored: nan, divisor: nan, factor: nan };
        }
        BlockScale { stored: amax, divisor: amax, factor: 0.0 }
    }

    /// The tensor's factor of [`ScaleKind::Nvfp4`]: the largest block scale becomes E4M3's largest number.
    pub fn nvfp4_global(amax: f32, format: &Format) -> f32 {
        if amax == 0.0 {
            1.0
        } else {
            (amax / (448.0 * format.max())).max(f32::MIN_POSITIVE)
        }
    }
}

#[inline(always)]
fn power_scale(e: i32) -> BlockScale {
    let s = scale_power(e);
    BlockScale { stored: s, divisor: s, factor: scale_power(-e) }
}

/// floor(log2) of a finite magnitude, -150 for zero.
#[inline(always)]
fn floor_log2(bits: u32) -> i32 {
    let field = (bits >> 23) as i32;
    if field > 0 {
        field - 127
    } else {
        -118 - bits.leading_zeros() as i32 // subnormal: the top set bit; zero gives -150
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The closed form of the float log2 rule against log2 itself, for every exponent.
    #[test]
    fn log2_slack_is_where_float32_log2_rounds_back() {
        for k in -126..=127 {
            for m in 0..200u32 {
                let s = f32::from_bits(((k + 127) as u32) << 23 | m);
                // float64 log2 errs by far less than the distance of any such value from a rounding boundary
                let ceil = (f64::from(s).log2() as f32).ceil() as i32;
                assert_eq!(ceil_exponent(s, PowerOp::FloatLog2), ceil.clamp(-126, 127), "k={k} m={m}");
            }
        }
    }

    #[test]
    fn floor_log2_of_subnormals() {
        for e in -149..=127 {
            let x = f64::from_bits(((e + 1023) as u64) << 52) as f32;
            assert_eq!(floor_log2(x.to_bits()), e);
            if e > -149 {
                assert_eq!(floor_log2(x.to_bits() - 1), e - 1);
            }
        }
        assert_eq!(floor_log2(0), -150);
    }
}
