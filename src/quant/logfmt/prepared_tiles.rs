//! Tiles prepared for encoding: the parameters of neighbouring tiles, computed in loops that compilers vectorize, and the
//! float32 estimate of codes with its error bound.
//!
//! A code is `K = floor(t)` with `t = log2(x / lo) / step + 2 - c` (see [`Finder`]), which puts the midpoints between
//! neighbours, in linear as in logarithmic distance, at whole numbers. [`LinearEstimate`] estimates `u = t - 1/2` in
//! float32: the code is the nearest whole number, and a fraction near 1/2 means that a threshold is too near to tell.
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
//! In all `i (LOG2_ERROR + 7.2 h) + (3 top + 5) h`; [`LinearEstimate::error`] is that, rounded up. The float64 parameters and
//! thresholds have relative errors of some 2^-50, which are negligible beside it. A fraction of u beyond `1/2 - error` is
//! decided by the definition. Values below code 1's threshold are underestimated: they are clamped at -1/4, code 0.

use super::definition::{clip, log2, step, top, widen, Finder, LogRounding, TileGrid};
use super::encode::LogOptions;
use super::layout::MagnitudeRange;
use crate::simd::{Kernel, Lanes};

/// The most tiles prepared together.
const TILES: usize = 64;

/// The path that encodes a tile.
#[derive(Clone, Copy, Debug)]
pub(super) enum EncodePath {
    /// All codes are 0, without signs: the tile holds NaN or infinity, or is sent in another way.
    Flagged,
    /// All magnitudes are 0.
    Zero {
        /// The sign bit of a code.
        sign: u32,
    },
    /// The definition decides every code.
    Definition {
        /// The finder of the tile.
        finder: Finder,
        /// The rounding.
        rounding: LogRounding,
        /// The sign bit of a code.
        sign: u32,
    },
    /// Estimates in lanes; the definition decides groups that they cannot tell.
    Estimate {
        /// The estimate of the tile.
        estimate: LinearEstimate,
        /// The finder of the tile.
        finder: Finder,
        /// The rounding.
        rounding: LogRounding,
        /// The width of a code.
        bits: u32,
    },
}

/// Least and largest magnitudes of up to [`TILES`] tiles, and the parameters that follow from them.
pub(super) struct PreparedTiles {
    len: usize,
    lo: [u32; TILES],
    hi: [u32; TILES],
    flags: [u8; TILES],
    step: [f64; TILES],
    inverse: [f64; TILES],
    below: [f64; TILES],
    estimates: Estimates,
}

/// [`PreparedTiles::prepare`] as a kernel of its own: compiled once for all kinds of input and codes.
pub(super) struct Prepare<'a>(pub &'a mut PreparedTiles, pub &'a LogOptions);

impl Kernel for Prepare<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        self.0.prepare(self.1);
    }
}

/// [`LinearEstimate`]s, field by field.
struct Estimates {
    inverse: [f32; TILES],
    offset: [f32; TILES],
    exponent: [f32; TILES],
    limit: [u32; TILES],
    deep: [bool; TILES],
}

/// Flags of a tile: it cannot be encoded; it holds a NaN; it holds a subnormal number; it is not to be encoded.
const BAD: u8 = 1;
const NAN: u8 = 2;
const SUBNORMAL: u8 = 4;
const UNSENT: u8 = 8;

impl PreparedTiles {
    pub fn new() -> PreparedTiles {
        const F: [f64; TILES] = [0.0; TILES];
        const S: [f32; TILES] = [0.0; TILES];
        let estimates =
            Estimates { inverse: S, offset: S, exponent: S, limit: [0; TILES], deep: [false; TILES] };
        let (lo, hi, flags) = ([0; TILES], [0; TILES], [0; TILES]);
        PreparedTiles { len: 0, lo, hi, flags, step: F, inverse: F, below: F, estimates }
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_full(&self) -> bool {
        self.len == TILES
    }

    /// Adds a tile.
    #[inline(always)]
    pub fn push(&mut self, range: MagnitudeRange, options: &LogOptions) {
        let MagnitudeRange { hi, lo, zero, nan } = range;
        let bad = hi >= 0x7F80_0000 || (nan && !options.skip_nan);
        let empty = hi == 0 || bad;
        let subnormal = lo < 0x0080_0000;
        let lo = if zero && options.deepep { 0 } else { lo };
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let i = self.len;
        let unsent = options.deepep && hi >= 1f32.to_bits();
        self.flags[i] = flag(bad, BAD) | flag(nan, NAN) | flag(subnormal, SUBNORMAL) | flag(unsent, UNSENT);
        self.hi[i] = if empty { 0 } else { hi };
        self.lo[i] = if empty { 0 } else { lo };
        self.len = i + 1;
    }

    /// Computes the parameters of all tiles.
    #[inline(always)]
    fn prepare(&mut self, options: &LogOptions) {
        let n = self.len;
        let top = top(options.bits);
        for ((lo, hi), s) in self.lo[..n].iter_mut().zip(&self.hi[..n]).zip(&mut self.step[..n]) {
            *lo = clip(*lo, *hi);
            *s = step(widen(*lo), widen(*hi), top);
        }
        for rounding in LogRounding::ALL {
            // One loop for each rounding, which is a constant in it: the compiler vectorizes them.
            if *rounding == options.rounding {
                let steps = self.step[..n].iter().zip(&mut self.inverse[..n]).zip(&mut self.below[..n]);
                for ((step, inverse), below) in steps {
                    (*inverse, *below) = Finder::parameters(*step, *rounding);
                }
            }
        }
        for i in 0..n {
            // Without magnitudes, the logarithm of 1.
            let lo = if self.lo[i] == 0 { 1.0 } else { widen(self.lo[i]) };
            let subnormal = self.flags[i] & SUBNORMAL != 0;
            let estimate = LinearEstimate::new(log2(lo), self.inverse[i], self.below[i], top, subnormal);
            self.estimates.inverse[i] = estimate.inverse;
            self.estimates.offset[i] = estimate.offset;
            self.estimates.exponent[i] = estimate.exponent;
            self.estimates.limit[i] = estimate.limit;
            self.estimates.deep[i] = estimate.deep;
        }
    }

    /// Writes least and largest magnitudes and flags.
    #[inline(always)]
    pub fn store(&self, amin: &mut [f32], amax: &mut [f32], flags: &mut [u8]) {
        for (to, lo) in amin.iter_mut().zip(&self.lo) {
            *to = f32::from_bits(*lo);
        }
        for (to, hi) in amax.iter_mut().zip(&self.hi) {
            *to = f32::from_bits(*hi);
        }
        for (to, flag) in flags.iter_mut().zip(&self.flags) {
            *to = flag & BAD;
        }
    }

    /// Tests if tile `i` is of the common kind: estimated, and without subnormal numbers.
    #[inline(always)]
    pub fn plain(&self, i: usize) -> bool {
        self.estimates.limit[i] > 0 && !self.estimates.deep[i] && self.flags[i] == 0 && self.lo[i] > 0
    }

    /// The estimate of tile `i`.
    #[inline(always)]
    pub fn estimate(&self, i: usize) -> LinearEstimate {
        let Estimates { inverse, offset, exponent, limit, deep } = &self.estimates;
        LinearEstimate {
            inverse: inverse[i],
            offset: offset[i],
            exponent: exponent[i],
            limit: limit[i],
            deep: deep[i],
        }
    }

    /// The finder of tile `i`.
    #[inline(always)]
    pub fn finder(&self, i: usize, bits: u32) -> Finder {
        let (lo, hi) = (widen(self.lo[i]), widen(self.hi[i]));
        let grid = TileGrid { lo, hi, step: self.step[i], top: f64::from(top(bits)) };
        Finder { grid, inverse: self.inverse[i], below: self.below[i] }
    }

    /// The path that encodes tile `i`.
    pub fn path(&self, i: usize, options: &LogOptions) -> EncodePath {
        let LogOptions { bits, rounding, .. } = *options;
        let sign = 1 << (bits - 1);
        if self.flags[i] & (BAD | UNSENT) != 0 {
            return EncodePath::Flagged;
        }
        if self.lo[i] == 0 {
            return EncodePath::Zero { sign };
        }
        let (estimate, finder) = (self.estimate(i), self.finder(i, bits));
        if estimate.limit > 0 && self.flags[i] & NAN == 0 {
            return EncodePath::Estimate { estimate, finder, rounding, bits };
        }
        EncodePath::Definition { finder, rounding, sign }
    }
}

/// `log2(3/2 + r)` for r from -1/2 to 1/2: the polynomial of degree 6 with the least maximal error, lowest power first.
const LOG2: [f32; 7] =
    [0.584_963, 0.961_821_26, -0.320_652_3, 0.141_718_04, -0.070_376_73, 0.043_928_97, -0.025_691_088];

/// Largest error of the polynomial, rounding included.
pub const LOG2_ERROR: f64 = 2.3e-6;

/// The largest error of an estimate for which lanes pay.
const MAX_ERROR: f64 = 1.0 / 32.0;

/// 2^23, and 1.5 * 2^23: added to a small number, its whole part is in the low bits.
const WHOLE: u32 = 0x4B00_0000;
const NEAREST: u32 = 0x4B40_0000;

/// Offset of the exponents that tell subnormal numbers apart: they reach down to -149, and zero to -276.
const DEEP: u32 = 160;

/// The linear map from logarithms to codes of a tile.
#[derive(Clone, Copy, Debug)]
pub struct LinearEstimate {
    /// `1 / step`.
    pub inverse: f32,
    /// `offset`.
    pub offset: f32,
    /// The summand that turns `2^23 + exponent field` into `e - E`.
    pub exponent: f32,
    /// The bits of the largest sure fraction; 0 if the definition has to decide everything.
    pub limit: u32,
    /// True if subnormal numbers, or a zero that is not far below all others, must be told apart.
    pub deep: bool,
}

impl LinearEstimate {
    /// The largest error of an estimate of `u`.
    #[inline(always)]
    pub fn error(inverse: f64, top: f64) -> f64 {
        const H: f64 = 1.0 / 16_777_216.0;
        1.01 * (inverse * (LOG2_ERROR + 7.2 * H) + (3.0 * top + 5.0) * H)
    }

    /// The estimate of a tile whose least magnitude has the base-2 logarithm `log_lo`; `subnormal`: it holds a subnormal
    /// number. `inverse` and `below` are the [`Finder`]'s.
    #[inline(always)]
    pub fn new(log_lo: f64, inverse: f64, below: f64, top: u32, subnormal: bool) -> LinearEstimate {
        const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
        let whole = (log_lo + ROUND) - ROUND;
        let error = LinearEstimate::error(inverse, f64::from(top));
        let sure = (error < MAX_ERROR) & (inverse > 0.0) & (below < 1.0);
        // One step down, so that rounding cannot make it more.
        let limit = ((0.5 - error) as f32).to_bits().wrapping_sub(1);
        // A zero looks like 2^-127: two codes below the first is low enough not to be mistaken.
        let deep = subnormal | ((log_lo + 127.0) * inverse < 2.0);
        let zero = 8_388_608.0 + 127.0 + if deep { f64::from(DEEP) } else { 0.0 };
        LinearEstimate {
            inverse: inverse as f32,
            offset: (1.5 - below - (log_lo - whole) * inverse) as f32,
            exponent: -(zero + whole) as f32,
            limit: if sure { limit } else { 0 },
            deep,
        }
    }

    /// Estimates `u` of each lane. `DEEP` is [`LinearEstimate::deep`].
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

    /// Returns the codes of float32 bits, and the bits of the distance of each `u` from its whole number.
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

/// Adds `DEEP` to the exponent field of magnitude bits and normalizes subnormal numbers: their bits are a multiple of
/// 2^-149, which a float32 holds. Zero gets the exponent -276.
#[inline(always)]
fn deepened<L: Lanes>(l: L, a: L::U) -> L::U {
    let units = l.fadd(l.float(l.or(a, l.u32(WHOLE))), l.f32(-f32::from_bits(WHOLE)));
    let subnormal = l.add(l.bits(units), l.u32((DEEP - 149) << 23));
    let normal = l.add(a, l.u32(DEEP << 23));
    l.select(l.gt(a, l.u32(0x007F_FFFF)), normal, subnormal)
}
