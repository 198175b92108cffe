//! Tiles of an array: their layout, runs of them for tasks, and the range of magnitudes in each.

use crate::error::Error;
use crate::formats::encode::widen;
use crate::formats::source::Source;
use crate::simd::{Kernel, Lanes, MAX_GROUP};
use std::marker::PhantomData;
use std::ops::Range;

/// `rows x cols` elements, each row cut into tiles from its first element on; the last tile of a row may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    rows: usize,
    cols: usize,
    tile: usize,
}

/// Consecutive tiles: the ranges of their elements and of their indices.
#[derive(Clone, Debug)]
pub(super) struct TileRun {
    pub elements: Range<usize>,
    pub tiles: Range<usize>,
}

impl Tiles {
    /// Checks a layout.
    ///
    /// # Errors
    /// [`Error::Shape`] for tiles of no elements or a shape whose element count overflows.
    pub fn new(rows: usize, cols: usize, tile: usize) -> Result<Tiles, Error> {
        if tile == 0 {
            return Err(Error::Shape { what: "tile", why: "found a size of 0, expected at least 1" });
        }
        if rows.checked_mul(cols).is_none_or(|n| n > isize::MAX as usize / 8) {
            return Err(Error::Shape { what: "shape", why: "the element count overflows" });
        }
        Ok(Tiles { rows, cols, tile: tile.min(cols.max(1)) })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Tests if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tiles in all, in C order.
    pub fn count(&self) -> usize {
        self.rows * self.cols.div_ceil(self.tile)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements of a whole tile.
    pub fn tile(&self) -> usize {
        self.tile
    }

    /// The same tiles, as one long row where no tile is short.
    pub(super) fn flattened(self) -> Tiles {
        if self.is_empty() || !self.cols.is_multiple_of(self.tile) {
            return self;
        }
        Tiles { rows: 1, cols: self.len(), tile: self.tile }
    }

    /// Row and column of an element. (Divisions are slow, and tiles many.)
    #[inline(always)]
    fn place(&self, at: usize) -> (usize, usize) {
        if self.rows == 1 {
            (0, at)
        } else {
            (at / self.cols, at % self.cols)
        }
    }

    /// The tile of element `at`, and how many elements it has from there on.
    #[inline(always)]
    pub(super) fn of(&self, at: usize) -> (usize, usize) {
        let (row, col) = self.place(at);
        let tile = col / self.tile;
        let end = ((tile + 1) * self.tile).min(self.cols);
        (row * self.cols.div_ceil(self.tile) + tile, end - col)
    }

    /// Walks tile by tile from element `at` on.
    #[inline(always)]
    pub(super) fn walk(&self, at: usize) -> TileWalk {
        let (tile, left) = self.of(at);
        TileWalk { tiles: *self, tile, left, behind: self.cols - self.place(at).1 - left }
    }

    /// Runs of about `run` elements, in order: whole rows, or whole tiles of a long row.
    pub(super) fn runs(&self, run: usize) -> Vec<TileRun> {
        let mut out = Vec::new();
        if self.is_empty() {
            return out;
        }
        let across = self.cols.div_ceil(self.tile);
        if self.cols <= run {
            let band = run / self.cols;
            for row in (0..self.rows).step_by(band) {
                let end = (row + band).min(self.rows);
                out.push(TileRun {
                    elements: row * self.cols..end * self.cols,
                    tiles: row * across..end * across,
                });
            }
            return out;
        }
        let width = (run / self.tile).max(1);
        for row in 0..self.rows {
            for first in (0..across).step_by(width) {
                let last = (first + width).min(across);
                let elements = first * self.tile..(last * self.tile).min(self.cols);
                let start = row * self.cols;
                out.push(TileRun {
                    elements: start + elements.start..start + elements.end,
                    tiles: row * across + first..row * across + last,
                });
            }
        }
        out
    }
}

/// A walk over tiles.
pub(super) struct TileWalk {
    tiles: Tiles,
    /// The current tile, its remaining elements, and those of the row behind it.
    tile: usize,
    left: usize,
    behind: usize,
}

impl TileWalk {
    /// The index of the current tile.
    #[inline(always)]
    pub fn tile(&self) -> usize {
        self.tile
    }

    /// Advances by the rest of the current tile, at most `most` elements. Returns how many.
    #[inline(always)]
    pub fn take(&mut self, most: usize) -> usize {
        let n = self.left.min(most);
        self.left -= n;
        if self.left == 0 {
            self.tile += 1;
            self.behind = if self.behind == 0 { self.tiles.cols } else { self.behind };
            self.left = self.tiles.tile.min(self.behind);
            self.behind -= self.left;
        }
        n
    }
}

/// Splits the first `n` elements off a slice that is being distributed.
pub(super) fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (first, after) = std::mem::take(rest).split_at_mut(n);
    *rest = after;
    first
}

/// Mask of the magnitude bits of a float32.
pub(super) const ABSOLUTE: u32 = 0x7FFF_FFFF;
/// Float32 infinity.
pub(super) const INFINITY: u32 = 0x7F80_0000;

/// Prefetch distance in bytes.
const SCAN_AHEAD: usize = 2048;

/// The magnitudes of some elements, as float32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct MagnitudeRange {
    /// The largest magnitude that is no NaN.
    pub hi: u32,
    /// The least one that is neither NaN nor zero, or [`ABSOLUTE`] if there is none.
    pub lo: u32,
    /// True if there is a zero.
    pub zero: bool,
    /// True if there is a NaN.
    pub nan: bool,
}

impl MagnitudeRange {
    /// The range of no elements.
    pub const NONE: MagnitudeRange = MagnitudeRange { hi: 0, lo: ABSOLUTE, zero: false, nan: false };

    /// The range of both.
    pub fn and(self, other: MagnitudeRange) -> MagnitudeRange {
        MagnitudeRange {
            hi: self.hi.max(other.hi),
            lo: self.lo.min(other.lo),
            zero: self.zero | other.zero,
            nan: self.nan | other.nan,
        }
    }
}

/// Finds the range of some elements. Magnitudes order like their bits. If the least is zero, a second pass finds the least
/// of the others.
#[inline(always)]
pub(super) fn magnitudes<L: Lanes, S: Source>(l: L, src: &[S::Item]) -> MagnitudeRange {
    let absolute = l.u32(ABSOLUTE);
    let (mut hi, mut lo) = ([l.u32(0); 2], [absolute; 2]);
    let pairs = src.chunks_exact(2 * L::N);
    let tail = pairs.remainder();
    for pair in pairs {
        for line in 0..std::mem::size_of_val(pair).div_ceil(64) {
            l.prefetch(pair, SCAN_AHEAD + 64 * line);
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
        return l.call(EachMagnitude::<S>(src, PhantomData)); // a NaN would hide infinities
    }
    let zero = lo == 0;
    let lo = if zero { least::<L, S>(l, src) } else { lo };
    let range = MagnitudeRange { hi, lo, zero, nan: false };
    if tail.is_empty() {
        range
    } else {
        range.and(l.call(EachMagnitude::<S>(tail, PhantomData)))
    }
}

/// The least magnitude but zero of whole vectors, or [`ABSOLUTE`] if there is none: `2^31` minus the largest `2^31 - a`,
/// which is zero for a zero.
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

/// The range of some elements, one by one. A kernel of its own: it is rare, and compiled once.
struct EachMagnitude<'a, S: Source>(&'a [S::Item], PhantomData<S>);

impl<S: Source> Kernel for EachMagnitude<'_, S> {
    type Out = MagnitudeRange;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> MagnitudeRange {
        let mut range = MagnitudeRange::NONE;
        let mut bits = [0u32; MAX_GROUP];
        for group in self.0.chunks(MAX_GROUP) {
            widen::<L, S>(l, group, &mut bits);
            for x in &bits[..group.len()] {
                let a = x & ABSOLUTE;
                let nan = a > INFINITY;
                range = range.and(MagnitudeRange {
                    hi: if nan { 0 } else { a },
                    lo: if nan || a == 0 { ABSOLUTE } else { a },
                    zero: a == 0,
                    nan,
                });
            }
        }
        range
    }
}
