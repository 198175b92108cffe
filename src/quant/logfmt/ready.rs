//! The tiles of a panel made ready: their parameters are computed side by side, in loops that compilers can vectorise.

use super::encode::LogOptions;
use super::float64::widen;
use super::range::Range;
use super::tile::{clip, step, top, Finder, LogRounding, Span};

/// The most tiles of a panel.
const TILES: usize = 64;

/// How the elements of a tile get their codes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// All codes are 0, without signs: the tile holds what cannot be encoded.
    Flagged,
    /// All magnitudes are 0.
    Zero {
        /// The sign bit of a code.
        sign: u32,
    },
    /// By the definition.
    Definition {
        /// The tile's table.
        finder: Finder,
        /// Which neighbour.
        rounding: LogRounding,
        /// The sign bit of a code.
        sign: u32,
    },
}

/// Least and largest magnitudes of up to [`TILES`] tiles, and what follows from them.
pub(super) struct Panel {
    len: usize,
    lo: [u32; TILES],
    hi: [u32; TILES],
    flags: [u8; TILES],
    step: [f64; TILES],
}

impl Panel {
    pub fn new() -> Panel {
        Panel { len: 0, lo: [0; TILES], hi: [0; TILES], flags: [0; TILES], step: [0.0; TILES] }
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
    pub fn push(&mut self, range: Range, options: &LogOptions) {
        let Range { hi, lo, zero, nan } = range;
        let bad = hi >= 0x7F80_0000 || (nan && !options.skip_nan);
        let empty = hi == 0 || bad;
        let lo = if zero && options.zeros_count { 0 } else { lo };
        let i = self.len;
        self.flags[i] = u8::from(bad) | u8::from(nan) << 1;
        self.hi[i] = if empty { 0 } else { hi };
        self.lo[i] = if empty { 0 } else { lo };
        self.len = i + 1;
    }

    /// Computes the parameters of all tiles.
    #[inline(always)]
    pub fn prepare(&mut self, options: &LogOptions) {
        let n = self.len;
        let top = top(options.bits);
        for ((lo, hi), s) in self.lo[..n].iter_mut().zip(&self.hi[..n]).zip(&mut self.step[..n]) {
            *lo = clip(*lo, *hi);
            *s = step(widen(*lo), widen(*hi), top);
        }
    }

    /// Least and largest magnitude and flag of tile `i`.
    #[inline(always)]
    pub fn stored(&self, i: usize) -> (f32, f32, u8) {
        (f32::from_bits(self.lo[i]), f32::from_bits(self.hi[i]), self.flags[i] & 1)
    }

    /// How tile `i` is encoded.
    #[inline(always)]
    pub fn way(&self, i: usize, options: &LogOptions) -> Way {
        let sign = 1 << (options.bits - 1);
        if self.flags[i] & 1 != 0 {
            return Way::Flagged;
        }
        if self.lo[i] == 0 {
            return Way::Zero { sign };
        }
        let span = Span::new(self.lo[i], self.hi[i], options.bits);
        Way::Definition { finder: Finder::new(span, options.rounding), rounding: options.rounding, sign }
    }
}
