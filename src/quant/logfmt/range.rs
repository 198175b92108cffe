//! The least and largest magnitude of a tile.

use crate::formats::encode::widen;
use crate::formats::source::Source;
use crate::simd::{Lanes, MAX_GROUP};

const ABSOLUTE: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;

/// What a run of elements holds, as float32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The largest magnitude that is no NaN.
    pub hi: u32,
    /// The least one that is neither NaN nor zero, or [`ABSOLUTE`] if there is none.
    pub lo: u32,
    /// Whether there is a zero; not always told.
    pub zero: bool,
    /// Whether there is a NaN.
    pub nan: bool,
}

impl Range {
    /// Of no elements.
    pub const NONE: Range = Range { hi: 0, lo: ABSOLUTE, zero: false, nan: false };

    /// Of two runs.
    pub fn and(self, other: Range) -> Range {
        Range {
            hi: self.hi.max(other.hi),
            lo: self.lo.min(other.lo),
            zero: self.zero | other.zero,
            nan: self.nan | other.nan,
        }
    }
}

/// The range of a run, zeros told only where `ZEROS`. Magnitudes order like their bits. The least is found as the largest of what its negative leaves
/// below the sign: `2^31 - a`, which is zero for a zero.
#[inline(always)]
pub(super) fn magnitudes<L: Lanes, S: Source, const ZEROS: bool>(l: L, src: &[S::Item]) -> Range {
    let (absolute, zero) = (l.u32(ABSOLUTE), l.u32(0));
    let mut hi = [zero; 2];
    let mut below = [zero; 2];
    let mut inverse = [zero; 2];
    let pairs = src.chunks_exact(2 * L::N);
    let tail = pairs.remainder();
    for pair in pairs {
        for j in 0..2 {
            let x = l.bits(S::load(l, &pair[j * L::N..(j + 1) * L::N]));
            let a = l.and(x, absolute);
            hi[j] = l.max(hi[j], a);
            below[j] = l.max(below[j], l.and(l.sub(zero, x), absolute));
            if ZEROS {
                inverse[j] = l.max(inverse[j], l.xor(a, absolute));
            }
        }
    }
    let hi = l.hmax(l.max(hi[0], hi[1]));
    let below = l.hmax(l.max(below[0], below[1]));
    let zeros = ZEROS && l.hmax(l.max(inverse[0], inverse[1])) == ABSOLUTE;
    if hi > INFINITY {
        return each::<L, S>(l, src); // a NaN would hide infinities
    }
    let lo = (1u32 << 31).wrapping_sub(below) & ABSOLUTE;
    let lo = if below == 0 { ABSOLUTE } else { lo };
    let range = Range { hi, lo, zero: zeros, nan: false };
    if tail.is_empty() {
        range
    } else {
        range.and(each::<L, S>(l, tail))
    }
}

/// The range of a run, element by element.
#[inline(always)]
fn each<L: Lanes, S: Source>(l: L, src: &[S::Item]) -> Range {
    let mut range = Range::NONE;
    let mut bits = [0u32; MAX_GROUP];
    for group in src.chunks(MAX_GROUP) {
        widen::<L, S>(l, group, &mut bits);
        for x in &bits[..group.len()] {
            let a = x & ABSOLUTE;
            let nan = a > INFINITY;
            range = range.and(Range {
                hi: if nan { 0 } else { a },
                lo: if nan || a == 0 { ABSOLUTE } else { a },
                zero: a == 0,
                nan,
            });
        }
    }
    range
}
