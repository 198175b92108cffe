//! The fast rounding: nearest even, in float32 lanes, for every format but the unsigned scale, those without subnormals,
//! and those whose largest numbers leave no room above them in float32 (see [`Near::new`]).
//!
//! Adding `M = 2^(binade + 23 - man)` to `|x|` makes the float unit round `|x|` to a multiple of the format's
//! quantum, ties to even, with subnormals falling out of `binade >= emin`; the sum's low bits count quanta.
//! bfloat16 has float32's exponent range, where `M` would overflow: it rounds in integers.

use super::round::{Rounder, Rounding};
use super::table::{Format, Top};
use crate::simd::{ByteFormat, Lanes, Narrow};

const INFINITY: u32 = 0x7F80_0000;

/// The numbers that the lane code needs, computed once per call; the compiler keeps them in registers.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    limit: u32,
    limit_code: u32,
    emin_bits: u32,
    magic: u32,
    shift: u32,
    bias: u32,
    nan: u32,
    bits: u32,
    top: Top,
    wide: bool,
    half: bool,
    /// True: the limit is what overflow becomes, beyond the largest number.
    beyond: bool,
}

impl Near {
    /// Prepares a nearest-even rounder; `None` for another mode, and for a format that [`super::lanes`] rounds.
    pub fn new(r: &Rounder) -> Option<Near> {
        let f: &Format = &r.format;
        // A float32 exponent field: only bfloat16's subnormals are float32's, and are cut off as its normal numbers are.
        let wide = f.exp == 8;
        let emin_field = (f.emin() + 127) as u32;
        // Clamping |x| here makes overflow fall on max_code, or on the code above it.
        let limit_code = if r.saturate { f.max_code() } else { f.max_code() + 1 };
        let shift = 23 - f.man;
        let top_field = (limit_code >> f.man).max(1) as i32 - f.bias + 127;
        let room = wide || top_field + shift as i32 <= 254;
        if r.rounding != Rounding::NearestEven || f.top == Top::Scale || !f.subnormals || !room {
            return None;
        }
        Some(Near {
            limit: if wide { limit_code << shift } else { (f.grid(limit_code) as f32).to_bits() },
            limit_code,
            emin_bits: emin_field << 23,
            magic: shift << 23,
            shift,
            bias: emin_field << f.man,
            nan: r.nan,
            bits: f.bits(),
            top: f.top,
            wide,
            // float16 has the fields of such a format, with mantissa bits to spare.
            half: (1..=3).contains(&f.man) && f.exp <= 5 && f.max_code() >> f.man <= 30 && f.emin() <= 112,
            beyond: !r.saturate,
        })
    }

    /// Brings magnitudes down to `max` before they are rounded.
    #[must_use]
    pub fn clipped(self, max: f32, code: u32) -> Near {
        Near { limit: max.to_bits(), limit_code: code, ..self }
    }

    /// The format and a mode for [`Lanes::store_narrow`], with the power of two that its numbers are multiplied by. No mode
    /// that tells the smallest numbers from zero, and none at random, which takes more bits than a float16 has.
    pub fn narrow(&self, rounding: Rounding) -> Option<(Narrow, f32)> {
        let cut = self.shift - 13;
        let half = 1 << (cut - 1);
        let (add, even) = match rounding {
            Rounding::NearestEven => (half - 1, true),
            Rounding::NearestAway => (half, false),
            Rounding::NearestTowardZero => (half - 1, false),
            Rounding::TowardZero => (0, false),
            Rounding::Up | Rounding::Down | Rounding::Stochastic | Rounding::Stochastic8 => return None,
        };
        (self.plain() && self.half).then(|| {
            let sticky = (1 << (self.shift - 2)) - 1;
            let scale = f32::from_bits((127 << 23) + ((127 - 14) << 23) - self.emin_bits);
            let (infinite, nan) = (self.limit_code as u8, self.nan as u8);
            let limit = infinite - u8::from(self.beyond && rounding == Rounding::TowardZero);
            let (normal, sign) = ((127 - 14) << 23, 1 << (self.bits - 1));
            (Narrow { normal, sticky, cut, add, even, limit, infinite, nan, sign, four_bits: false }, scale)
        })
    }

    /// The format for [`Lanes::store_nearest`], of at most eight bits and [`plain`](Near::plain).
    pub fn bytes(&self) -> ByteFormat {
        let (limit, nan, sign) = (self.limit_code as u8, self.nan as u8, 1 << (self.bits - 1));
        ByteFormat { least: self.emin_bits, cut: self.shift, limit, nan, sign }
    }

    /// True: codes are a sign bit above a magnitude.
    pub fn plain(&self) -> bool {
        !matches!(self.top, Top::Fnuz | Top::Integer)
    }

    /// The magnitude bits of each lane.
    #[inline(always)]
    pub fn magnitude<L: Lanes>(&self, l: L, x: L::U) -> L::U {
        l.and(x, l.u32(0x7FFF_FFFF))
    }

    /// The magnitude codes of magnitude bits `a`, which may be NaN.
    #[inline(always)]
    pub fn round<L: Lanes>(&self, l: L, a: L::U) -> L::U {
        let code = self.round_number(l, a);
        l.select(l.gt(a, l.u32(INFINITY)), l.u32(self.nan), code)
    }

    /// The magnitude codes of magnitude bits `a`, none of them NaN.
    #[inline(always)]
    pub fn round_number<L: Lanes>(&self, l: L, a: L::U) -> L::U {
        if self.wide {
            let a = l.min(a, l.u32(self.limit));
            let odd = l.and(l.shr(a, self.shift), l.u32(1));
            let half = l.u32((1 << (self.shift - 1)) - 1);
            return l.shr(l.add(l.add(a, half), odd), self.shift);
        }
        let a = l.bits(self.bounded(l, a));
        let binade = l.float(l.and(a, l.u32(INFINITY)));
        let binade = l.bits(l.fmax(binade, l.float(l.u32(self.emin_bits))));
        let magic = l.add(binade, l.u32(self.magic));
        let sum = l.fadd(l.float(a), l.float(magic));
        let quanta = l.sub(l.bits(sum), magic);
        l.sub(l.add(quanta, l.shr(binade, self.shift)), l.u32(self.bias))
    }

    /// Magnitudes, brought down to where overflow begins; none of them NaN. Magnitudes order like their bits, and the portable
    /// level has instructions for floats only.
    #[inline(always)]
    pub fn bounded<L: Lanes>(&self, l: L, a: L::U) -> L::F {
        l.fmin(l.float(a), l.float(l.u32(self.limit)))
    }

    /// The code of NaN of these bits, where codes are [`plain`](Near::plain).
    pub fn nan_code(&self, x: u32) -> u32 {
        self.nan | x >> (32 - self.bits) & 1 << (self.bits - 1)
    }

    /// Codes from magnitude codes and the signs of `x`. `PLAIN` is [`Near::plain`].
    #[inline(always)]
    pub fn sign<L: Lanes, const PLAIN: bool>(&self, l: L, code: L::U, x: L::U) -> L::U {
        if PLAIN {
            return l.or(code, l.and(l.shr(x, 32 - self.bits), l.u32(1 << (self.bits - 1))));
        }
        let negative = l.shr(x, 31);
        let zero = l.u32(0);
        if self.top == Top::Fnuz {
            let signed = l.or(code, l.u32(1 << (self.bits - 1)));
            let minus = l.select(l.gt(code, zero), signed, code);
            l.select(l.gt(negative, zero), minus, code)
        } else {
            let ones = l.sub(zero, negative);
            l.and(l.sub(l.xor(code, ones), ones), l.u32((1 << self.bits) - 1))
        }
    }
}
