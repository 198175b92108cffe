//! Codes as fixed-point numbers, in lanes: what a rounding mode adds before bits are cut off.

use super::round::Rounding;
use super::table::{Format, Top};
use crate::simd::Lanes;

/// Codes as fixed-point numbers: `cut` bits behind the point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub place: Place,
    pub cut: u32,
    /// The bits of the smallest normal number that a sum is with; they are too many in it.
    pub least: u32,
    /// Added to positive and to negative numbers.
    pub add: [u32; 2],
    /// True: one more is added to odd codes.
    pub even: bool,
}

/// How magnitudes become fixed-point codes. Loops have these, and [`Tail`]s, as constants.
pub(super) type Place = u8;

/// By a sum with the smallest normal number.
pub(super) const SUM: Place = 0;
/// They are, as bits: subnormal numbers are float32's.
pub(super) const SAME: Place = 1;
/// They are from 2^-126 on; between 2^-127 and that lies a binade that float32 has no field for (E8M0).
pub(super) const POWERS: Place = 2;

/// How magnitude codes become codes.
pub(super) type Tail = u8;

/// One limit, and a sign bit above it.
pub(super) const ALIKE: Tail = 0;
/// A limit of positive and one of negative numbers, and a sign bit above them.
pub(super) const SIGNED: Tail = 1;
/// E8M0's.
pub(super) const SCALE: Tail = 2;
/// Any other, with all that is rare.
pub(super) const OTHER: Tail = 3;

impl Fixed {
    pub fn new(f: &Format, rounding: Rounding) -> Option<Fixed> {
        let emin = (f.emin() + 127) as u32;
        let top = (f.max_code() >> f.man).max(1) as i32 - f.bias + 127;
        let place = match (f.top, emin) {
            (Top::Scale, _) => POWERS,
            _ if !f.subnormals => return None,
            // Every number of such a format is an odd number of quanta, but codes are odd and even.
            _ if f.man == 0 && rounding == Rounding::NearestEven => return None,
            (_, 1) => SAME,
            // The last bit of the smallest normal number is a normal one, and twice the largest a number.
            (_, 24..) if top <= 252 => SUM,
            _ => return None,
        };
        let cut = 23 - f.man;
        let (half, ones) = (1 << (cut - 1), (1 << cut) - 1);
        let even = rounding == Rounding::NearestEven;
        let add = match rounding {
            // Powers of two are all odd.
            Rounding::NearestEven if f.top == Top::Scale => [half; 2],
            Rounding::NearestEven | Rounding::NearestTowardZero => [half - 1; 2],
            Rounding::NearestAway => [half; 2],
            Rounding::TowardZero | Rounding::Stochastic8 => [0; 2],
            Rounding::Up => [ones, 0],
            Rounding::Down => [0, ones],
            Rounding::Stochastic => [ones; 2],
        };
        let least = if place == SUM { emin << 23 } else { 0 };
        Some(Fixed { place, cut, least, add, even: even && f.top != Top::Scale })
    }

    /// Fixed-point codes of magnitude bits, and `least` too much. Bits that do not fit are cut off, or leave the last one
    /// set.
    #[inline(always)]
    pub fn of<L: Lanes, const PLACE: Place, const ODD: bool>(&self, l: L, a: L::U) -> L::U {
        match PLACE {
            SUM => {
                let a = l.float(a);
                let least = l.fmax(a, l.float(l.u32(self.least)));
                l.bits(if ODD { l.add_to_odd(a, least) } else { l.add_toward_zero(a, least) })
            }
            SAME => a,
            _ => {
                let below = l.sub(l.u32(1 << 23), l.min(a, l.u32(1 << 23)));
                l.sub(a, l.min(a, below))
            }
        }
    }

    /// Magnitude codes of magnitude bits `a` and the signs of `x`, as far as codes go up.
    #[inline(always)]
    pub fn round<L: Lanes, const PLACE: Place, const TAIL: Tail>(&self, l: L, a: L::U, x: L::U) -> L::U {
        let mut fixed = self.of::<L, PLACE, true>(l, a);
        if TAIL == OTHER && self.even {
            fixed = l.sub(fixed, l.u32(self.least));
            let odd = l.and(l.shr(fixed, self.cut), l.u32(1));
            return l.shr(l.add(l.add(fixed, l.u32(self.add[0])), odd), self.cut);
        }
        let mut add = l.u32(self.add[0].wrapping_sub(self.least));
        if TAIL != ALIKE {
            add = l.select(sign(l, x), l.u32(self.add[1].wrapping_sub(self.least)), add);
        }
        l.shr(l.add(fixed, add), self.cut)
    }

    /// The same at random, and lanes with bits that are zero if those that were cut off might decide.
    #[inline(always)]
    pub fn round_at_random<L: Lanes, const PLACE: Place>(&self, l: L, a: L::U, random: L::U) -> (L::U, L::U) {
        // random < fraction: fraction - random, rounded up
        let left = l.sub(self.of::<L, PLACE, false>(l, a), l.shr(random, 32 - self.cut));
        let code = l.shr(l.add(left, l.u32(self.add[0].wrapping_sub(self.least))), self.cut);
        (code, l.and(left, l.u32((1 << self.cut) - 1)))
    }

    /// The same by the carry of a byte, to which bits that were cut off do not matter.
    #[inline(always)]
    pub fn round_by_byte<L: Lanes, const PLACE: Place>(&self, l: L, a: L::U, random: L::U) -> L::U {
        let sum = l.add(self.of::<L, PLACE, false>(l, a), l.shl(random, self.cut - 8));
        l.shr(l.sub(sum, l.u32(self.least)), self.cut)
    }
}

/// The lanes whose sign bit is set.
#[inline(always)]
pub(super) fn sign<L: Lanes>(l: L, x: L::U) -> L::M {
    l.gt(l.shr(x, 31), l.u32(0))
}
