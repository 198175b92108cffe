//! The least and largest magnitude of a tile.

use crate::formats::encode::widen;
use crate::formats::source::Source;
use crate::simd::{Lanes, MAX_GROUP};

const ABSOLUTE: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;

/// Bytes asked for ahead.
const AHEAD: usize = 2048;

/// What a run of elements holds, as float32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The largest magnitude that is no NaN.
    pub hi: u32,
    /// The least one that is neither NaN nor zero, or [`ABSOLUTE`] if there is none.
    pub lo: u32,
    /// Whether there is a zero.
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

/// The range of a run. Magnitudes order like their bits. Where the least is zero, another pass finds the least of the others.
#[inline(always)]
pub(super) fn magnitudes<L: Lanes, S: Source>(l: L, src: &[S::Item]) -> Range {
    let absolute = l.u32(ABSOLUTE);
    let (mut hi, mut lo) = ([l.u32(0); 2], [absolute; 2]);
    let pairs = src.chunks_exact(2 * L::N);
    let tail = pairs.remainder();
    for pair in pairs {
        for line in 0..std::mem::size_of_val(pair).div_ceil(64) {
            l.prefetch(pair, AHEAD + 64 * line);
        }
        for j in 0..2 {
            let a = l.and(l.bits(S::load(l, &pair[j * L::N..(j + 1) * L::N])), absolute);
            hi[j] = l.max(hi[j], a);
            lo[j] = l.min(lo[j], a);
        }
    }
    let hi = l.hmax(l.max(hi[0], hi[1]));
    let lo = ABSOLUTE - l.hmax(l.sub(absolute, l.min(lo[0], lo[1])));
    if hi > INFINITY {
        return each::<L, S>(l, src); // a NaN would hide infinities
    }
    let zero = lo == 0;
    let lo = if zero { least::<L, S>(l, src) } else { lo };
    let range = Range { hi, lo, zero, nan: false };
    if tail.is_empty() {
        range
    } else {
        range.and(each::<L, S>(l, tail))
    }
}

/// The least magnitude but zero of whole vectors, or [`ABSOLUTE`] if there is none: the largest of what their negatives
/// leave below the sign, `2^31 - a`, which is zero for a zero.
#[inline(always)]
fn least<L: Lanes, S: Source>(l: L, src: &[S::Item]) -> u32 {
    let mut below = l.u32(0);
    for x in src.chunks_exact(2 * L::N).flat_map(|pair| pair.chunks_exact(L::N)) {
        let negative = l.sub(l.u32(0), l.bits(S::load(l, x)));
        below = l.max(below, l.and(negative, l.u32(ABSOLUTE)));
    }
    match l.hmax(below) {
        0 => ABSOLUTE,
        below => (1 << 31) - below,
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
