//! Codes by float32 arithmetic, with a bound on how far off it can be.
//!
//! A code is `K = floor(t)` with `t = log2(x / lo) / step + 2 - c` (see [`Finder`](super::Finder)), because that puts the midpoints
//! between neighbours, in linear as in logarithmic distance, at whole numbers. Here `u = t - 1/2` is estimated, the code is
//! the whole number nearest to it, and a fraction near 1/2 says that a threshold is too near to tell.
//!
//! With `x = 2^e m`, m from 1 to 2, and a whole number `E` near `log2 lo`,
//!
//! `u = (e - E) / step + (log2(m) / step + offset)`, where `offset = 3/2 - c - (log2(lo) - E) / step`.
//!
//! Bound. Write `i = 1 / step` and `h = 2^-24`, the relative error of rounding to float32; for numbers that can end in
//! any code but 0, u is between -1/2 and top. `e - E` is exact. The polynomial is within [`LOG2_ERROR`] of `log2 m`,
//! its own roundings included, which all 2^23 significands confirm. To its share `i LOG2_ERROR` add, fused or not:
//!
//! | rounding of | size of the quantity, at most | error, at most |
//! |---|---|---|
//! | i, times `e - E` and `log2 m` | `top + 1 + 2.5 i` | `(top + 1 + 2.5 i) h` |
//! | `offset` | `1 + i / 2` | `(1 + i / 2) h` |
//! | `log2(m) i` | `1.1 i` | `1.1 i h` |
//! | its sum with `offset` | `1 + 1.6 i` | `(1 + 1.6 i) h` |
//! | `(e - E) i` | `top + 1 + 1.5 i` | `(top + 1 + 1.5 i) h` |
//! | u | `top + 1` | `(top + 1) h` |
//!
//! In all `i (LOG2_ERROR + 7.2 h) + (3 top + 5) h`; [`Line::error`] is that, rounded up. The float64 parameters and
//! thresholds are off by some 2^-50 of themselves, which is nothing beside it. A fraction of u beyond `1/2 - error` is
//! decided again by the definition. Numbers below code 1's reach only come out lower: they are cut off at -1/4, code 0.

use crate::simd::Lanes;

/// `log2(3/2 + r)` for r from -1/2 to 1/2: the polynomial of degree 6 with the least maximal error, lowest power first.
const LOG2: [f32; 7] =
    [0.584_963, 0.961_821_26, -0.320_652_3, 0.141_718_04, -0.070_376_73, 0.043_928_97, -0.025_691_088];

/// How far the polynomial is from the logarithm, rounding included.
pub const LOG2_ERROR: f64 = 2.3e-6;

/// The largest error for which lanes are worth while.
const MAX_ERROR: f64 = 1.0 / 32.0;

/// 2^23, and 1.5 * 2^23: added to a small number, its whole part is in the low bits.
const WHOLE: u32 = 0x4B00_0000;
const NEAREST: u32 = 0x4B40_0000;

/// What is added to exponents where subnormal numbers are told apart: they reach down to -149, and zero to -276.
const DEEP: u32 = 160;

/// A tile's line from logarithms to codes.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// `1 / step`.
    pub inverse: f32,
    /// `offset`.
    pub offset: f32,
    /// What turns `2^23 + exponent field` into `e - E`.
    pub exponent: f32,
    /// The bits of the largest sure fraction; 0 where the definition has to decide everything.
    pub limit: u32,
    /// Whether subnormal numbers, or a zero that is not far below all others, must be told apart.
    pub deep: bool,
}

impl Line {
    /// How far an estimate can be from `u`.
    #[inline(always)]
    pub fn error(inverse: f64, top: f64) -> f64 {
        const H: f64 = 1.0 / 16_777_216.0;
        1.01 * (inverse * (LOG2_ERROR + 7.2 * H) + (3.0 * top + 5.0) * H)
    }

    /// The line of a tile whose least magnitude has the base-2 logarithm `log_lo`; `subnormal` says that it holds a
    /// subnormal number. `inverse` and `below` are the [`Finder`](super::Finder)'s.
    #[inline(always)]
    pub fn new(log_lo: f64, inverse: f64, below: f64, top: u32, subnormal: bool) -> Line {
        const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
        let whole = (log_lo + ROUND) - ROUND;
        let error = Line::error(inverse, f64::from(top));
        let sure = (error < MAX_ERROR) & (inverse > 0.0) & (below < 1.0);
        // One step down, so that rounding cannot make it more.
        let limit = ((0.5 - error) as f32).to_bits().wrapping_sub(1);
        // A zero looks like 2^-127: two codes below the first is low enough not to be mistaken.
        let deep = subnormal | ((log_lo + 127.0) * inverse < 2.0);
        let zero = 8_388_608.0 + 127.0 + if deep { f64::from(DEEP) } else { 0.0 };
        Line {
            inverse: inverse as f32,
            offset: (1.5 - below - (log_lo - whole) * inverse) as f32,
            exponent: -(zero + whole) as f32,
            limit: if sure { limit } else { 0 },
            deep,
        }
    }

    /// Estimates `u` of each lane. `DEEP` is [`Line::deep`].
    #[inline(always)]
    pub fn estimate<L: Lanes, const DEEP: bool>(&self, l: L, x: L::U) -> L::F {
        let a = l.and(x, l.u32(0x7FFF_FFFF));
        let a = if DEEP { deepened(l, a) } else { a };
        let e = l.fadd(l.float(l.or(l.shr(a, 23), l.u32(WHOLE))), l.f32(self.exponent));
        let m = l.float(l.or(l.and(a, l.u32(0x007F_FFFF)), l.u32(0x3F80_0000)));
        let r = l.fadd(m, l.f32(-1.5));
        let mut log = l.f32(LOG2[6]);
        log = l.estimate(log, r, l.f32(LOG2[5]));
        log = l.estimate(log, r, l.f32(LOG2[4]));
        log = l.estimate(log, r, l.f32(LOG2[3]));
        log = l.estimate(log, r, l.f32(LOG2[2]));
        log = l.estimate(log, r, l.f32(LOG2[1]));
        log = l.estimate(log, r, l.f32(LOG2[0]));
        let inverse = l.f32(self.inverse);
        l.estimate(e, inverse, l.estimate(log, inverse, l.f32(self.offset)))
    }

    /// The codes of float32 bits, and the bits of how far each `u` is from its whole number.
    #[inline(always)]
    pub fn codes<L: Lanes, const DEEP: bool>(&self, l: L, x: L::U, bits: u32) -> (L::U, L::U) {
        let u = l.fmax(self.estimate::<L, DEEP>(l, x), l.f32(-0.25));
        let nearest = l.f32(f32::from_bits(NEAREST));
        let sum = l.fadd(u, nearest);
        let whole = l.fadd(sum, l.f32(-f32::from_bits(NEAREST)));
        let fraction = l.fadd(u, l.float(l.xor(l.bits(whole), l.u32(0x8000_0000))));
        let magnitude = (1 << (bits - 1)) - 1;
        let sign = l.and(l.shr(x, 32 - bits), l.u32(magnitude + 1));
        let code = l.or(l.and(l.bits(sum), l.u32(magnitude)), sign);
        (code, l.and(l.bits(fraction), l.u32(0x7FFF_FFFF)))
    }
}

/// Magnitude bits with `DEEP` added to the exponent field, and subnormal numbers normalised: their bits are a whole number
/// of 2^-149, which a float32 holds. Zero gets the exponent -276.
#[inline(always)]
fn deepened<L: Lanes>(l: L, a: L::U) -> L::U {
    let units = l.fadd(l.float(l.or(a, l.u32(WHOLE))), l.f32(-f32::from_bits(WHOLE)));
    let subnormal = l.add(l.bits(units), l.u32((DEEP - 149) << 23));
    let normal = l.add(a, l.u32(DEEP << 23));
    l.select(l.gt(a, l.u32(0x007F_FFFF)), normal, subnormal)
}
