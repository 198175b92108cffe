//! The tiles of a panel made ready: their parameters are computed side by side, in loops that compilers can vectorise.

use super::encode::LogOptions;
use super::estimate::Line;
use super::float64::{log2, widen};
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
    /// Estimated in lanes, and by the definition where that cannot tell.
    Lanes {
        /// The estimate.
        line: Line,
        /// The tile's table.
        finder: Finder,
        /// Which neighbour.
        rounding: LogRounding,
        /// The width of a code.
        bits: u32,
    },
}

/// Least and largest magnitudes of up to [`TILES`] tiles, and what follows from them.
pub(super) struct Panel {
    len: usize,
    lo: [u32; TILES],
    hi: [u32; TILES],
    flags: [u8; TILES],
    step: [f64; TILES],
    inverse: [f64; TILES],
    below: [f64; TILES],
    lines: Lines,
}

/// [`Line`]s, field by field.
struct Lines {
    inverse: [f32; TILES],
    offset: [f32; TILES],
    exponent: [f32; TILES],
    limit: [u32; TILES],
    deep: [bool; TILES],
}

/// A tile's flags: it cannot be encoded; it holds a NaN; it holds a subnormal number.
const BAD: u8 = 1;
const NAN: u8 = 2;
const SUBNORMAL: u8 = 4;

impl Panel {
    pub fn new() -> Panel {
        const F: [f64; TILES] = [0.0; TILES];
        const S: [f32; TILES] = [0.0; TILES];
        let lines = Lines { inverse: S, offset: S, exponent: S, limit: [0; TILES], deep: [false; TILES] };
        let (lo, hi, flags) = ([0; TILES], [0; TILES], [0; TILES]);
        Panel { len: 0, lo, hi, flags, step: F, inverse: F, below: F, lines }
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
        let subnormal = lo < 0x0080_0000;
        let lo = if zero && options.zeros_count { 0 } else { lo };
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let i = self.len;
        self.flags[i] = flag(bad, BAD) | flag(nan, NAN) | flag(subnormal, SUBNORMAL);
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
        for rounding in LogRounding::ALL {
            // One loop for each way to round, so that it is a constant in it and the compiler can use its vectors.
            if *rounding == options.rounding {
                let steps = self.step[..n].iter().zip(&mut self.inverse[..n]).zip(&mut self.below[..n]);
                for ((step, inverse), below) in steps {
                    (*inverse, *below) = Finder::parameters(*step, *rounding);
                }
            }
        }
        for i in 0..n {
            // The logarithm of 1 stands in for that of nothing.
            let lo = if self.lo[i] == 0 { 1.0 } else { widen(self.lo[i]) };
            let subnormal = self.flags[i] & SUBNORMAL != 0;
            let line = Line::new(log2(lo), self.inverse[i], self.below[i], top, subnormal);
            self.lines.inverse[i] = line.inverse;
            self.lines.offset[i] = line.offset;
            self.lines.exponent[i] = line.exponent;
            self.lines.limit[i] = line.limit;
            self.lines.deep[i] = line.deep;
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

    /// Whether tile `i` is of the common kind: estimated, and without subnormal numbers.
    #[inline(always)]
    pub fn plain(&self, i: usize) -> bool {
        self.lines.limit[i] > 0 && !self.lines.deep[i] && self.flags[i] == 0 && self.lo[i] > 0
    }

    /// The estimate of tile `i`.
    #[inline(always)]
    pub fn line(&self, i: usize) -> Line {
        let Lines { inverse, offset, exponent, limit, deep } = &self.lines;
        Line { inverse: inverse[i], offset: offset[i], exponent: exponent[i], limit: limit[i], deep: deep[i] }
    }

    /// The definition of tile `i`.
    #[inline(always)]
    pub fn finder(&self, i: usize, bits: u32) -> Finder {
        let (lo, hi) = (widen(self.lo[i]), widen(self.hi[i]));
        let span = Span { lo, hi, step: self.step[i], top: f64::from(top(bits)) };
        Finder { span, inverse: self.inverse[i], below: self.below[i] }
    }

    /// How tile `i` is encoded.
    pub fn way(&self, i: usize, options: &LogOptions) -> Way {
        let LogOptions { bits, rounding, .. } = *options;
        let sign = 1 << (bits - 1);
        if self.flags[i] & BAD != 0 {
            return Way::Flagged;
        }
        if self.lo[i] == 0 {
            return Way::Zero { sign };
        }
        let (line, finder) = (self.line(i), self.finder(i, bits));
        if line.limit > 0 && self.flags[i] & NAN == 0 {
            return Way::Lanes { line, finder, rounding, bits };
        }
        Way::Definition { finder, rounding, sign }
    }
}
