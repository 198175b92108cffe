//! How rows are cut into tiles, and tiles are handed to tasks.

use crate::error::Error;
use std::ops::Range;

/// `rows x cols` elements, each row cut into tiles from its first element on; the last tile of a row may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    rows: usize,
    cols: usize,
    tile: usize,
}

/// Consecutive tiles: their elements, and their own numbers.
#[derive(Clone, Debug)]
pub(super) struct Piece {
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

    /// Whether there are none.
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

    /// Elements of a tile that is not cut short.
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

    /// Row and column of an element; divisions are slow, and tiles many.
    #[inline(always)]
    fn place(&self, at: usize) -> (usize, usize) {
        if self.rows == 1 {
            (0, at)
        } else {
            (at / self.cols, at % self.cols)
        }
    }

    /// The tile of element `at`, and how many of its elements are left from there.
    #[inline(always)]
    pub(super) fn of(&self, at: usize) -> (usize, usize) {
        let (row, col) = self.place(at);
        let tile = col / self.tile;
        let end = ((tile + 1) * self.tile).min(self.cols);
        (row * self.cols.div_ceil(self.tile) + tile, end - col)
    }

    /// Tile after tile, from element `at` on.
    #[inline(always)]
    pub(super) fn walk(&self, at: usize) -> Tilewise {
        let (tile, left) = self.of(at);
        Tilewise { tiles: *self, tile, left, behind: self.cols - self.place(at).1 - left }
    }

    /// Pieces of about `run` elements, in order: whole rows, or whole tiles of a long row.
    pub(super) fn pieces(&self, run: usize) -> Vec<Piece> {
        let mut out = Vec::new();
        if self.is_empty() {
            return out;
        }
        let across = self.cols.div_ceil(self.tile);
        if self.cols <= run {
            let band = run / self.cols;
            for row in (0..self.rows).step_by(band) {
                let end = (row + band).min(self.rows);
                out.push(Piece {
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
                out.push(Piece {
                    elements: start + elements.start..start + elements.end,
                    tiles: row * across + first..row * across + last,
                });
            }
        }
        out
    }
}

/// A walk over tiles.
pub(super) struct Tilewise {
    tiles: Tiles,
    /// The tile in hand, how many of its elements are left, and how many of the row behind it.
    tile: usize,
    left: usize,
    behind: usize,
}

impl Tilewise {
    /// The number of the tile in hand.
    #[inline(always)]
    pub fn tile(&self) -> usize {
        self.tile
    }

    /// Takes what is left of the tile in hand, or `most` elements of it, and says how many these are.
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

/// Splits the first `n` elements off a slice that is being handed out.
pub(super) fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (first, after) = std::mem::take(rest).split_at_mut(n);
    *rest = after;
    first
}
