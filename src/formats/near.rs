//! The fast rounding: nearest even, in float32 lanes, for every format but the unsigned scale.
//!
//! Adding `M = 2^(binade + 23 - man)` to `|x|` makes the float unit round `|x|` to a multiple of the format's
//! quantum, ties to even, with subnormals falling out of `binade >= emin`; the sum's low bits count quanta.
//! bfloat16 has float32's exponent range, where `M` would overflow: it rounds in integers.

use super::round::Rounder;
use super::table::{Format, Top, BFLOAT16};
use crate::simd::{Lanes, Narrow};

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
}

impl Near {
    /// Prepares a nearest-even rounder.
    pub fn new(r: &Rounder) -> Near {
        let f: &Format = &r.format;
        let emin_field = (f.emin() + 127) as u32;
        // Clamping |x| here makes overflow fall on max_code, or on the code above it.
        let limit_code = if r.saturate { f.max_code() } else { f.max_code() + 1 };
        let shift = 23 - f.man;
        let wide = f.name == BFLOAT16.name;
        Near {
            limit: if wide { limit_code << 16 } else { (f.grid(limit_code) as f32).to_bits() },
            limit_code,
            emin_bits: emin_field << 23,
            magic: shift << 23,
            shift,
            bias: emin_field << f.man,
            nan: r.nan,
            bits: f.bits(),
            top: f.top,
            wide,
        }
    }

    /// The format for [`Lanes::store_narrow`], with the power of two that its numbers are multiplied by.
    pub fn narrow(&self) -> Option<(Narrow, f32)> {
        let float = self.plain() && !self.wide && self.shift >= 20;
        float.then(|| {
            let sticky = (1 << (self.shift - 2)) - 1;
            let scale = f32::from_bits((127 << 23) + ((127 - 14) << 23) - self.emin_bits);
            let (limit, nan) = (self.limit_code as u8, self.nan as u8);
            (Narrow { sticky, cut: self.shift - 13, limit, nan, sign: 1 << (self.bits - 1) }, scale)
        })
    }

    /// Whether codes are a sign bit above a magnitude.
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
        let a = l.min(a, l.u32(self.limit));
        if self.wide {
            let odd = l.and(l.shr(a, 16), l.u32(1));
            return l.shr(l.add(l.add(a, l.u32(0x7FFF)), odd), 16);
        }
        let binade = l.max(l.and(a, l.u32(INFINITY)), l.u32(self.emin_bits));
        let magic = l.add(binade, l.u32(self.magic));
        let sum = l.fadd(l.float(a), l.float(magic));
        let quanta = l.sub(l.bits(sum), magic);
        l.sub(l.add(quanta, l.shr(binade, self.shift)), l.u32(self.bias))
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
