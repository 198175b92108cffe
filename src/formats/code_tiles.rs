//! Tiles of rows of codes: tasks of whole tiles, and a walk through the tiles of a task.

use crate::error::{elements, same_length, Error};
use crate::threads::run_tasks;

/// Codes that are compared at a time.
pub(super) const BLOCK: usize = 128;
/// The longest tile.
pub(super) const MAX_EDGE: usize = 1 << 16;

/// Rows of codes, cut into tiles.
#[derive(Clone, Copy, Debug)]
pub struct TileGrid {
    /// Codes of a row.
    pub cols: usize,
    /// Codes of a tile; the last of a row may be shorter.
    pub edge: usize,
    /// Index of the first tile, counted along rows.
    pub first: usize,
}

impl TileGrid {
    pub(super) fn wide(&self) -> usize {
        self.cols.div_ceil(self.edge)
    }

    /// Place of a tile's first code in the whole.
    fn begin(&self, tile: usize) -> usize {
        (tile / self.wide()) * self.cols + (tile % self.wide()) * self.edge
    }
}

/// Whole tiles that one task compares.
pub(super) struct Tiles<'a, C> {
    pub a: &'a [C],
    pub b: &'a [C],
    pub grid: TileGrid,
    pub counts: &'a mut [u32],
    pub worst: &'a mut [f64],
}

/// Cuts slices into runs of whole tiles, of about `chunk` codes, and runs a task on each with its place.
pub(super) fn split<C: Sync, R: Send>(
    whole: Tiles<'_, C>,
    chunk: usize,
    task: impl Fn(usize, Tiles<'_, C>) -> R + Sync,
) -> Result<Vec<R>, Error> {
    let Tiles { a, b, grid, counts, worst } = whole;
    same_length("b", b.len(), a.len())?;
    if counts.is_empty() || grid.cols == 0 {
        same_length("counts", counts.len(), 0)?;
        same_length("a", a.len(), 0)?;
        return Ok(Vec::new());
    }
    let rows = (grid.first.saturating_add(counts.len()) / grid.wide()).saturating_add(2);
    elements("first", &[rows, grid.cols])?;
    let begin = |tile: usize| grid.begin(grid.first + tile) - grid.begin(grid.first);
    same_length("a", a.len(), begin(counts.len()))?;
    let tiles = (chunk / grid.edge.min(grid.cols)).max(1);
    let tasks: Vec<_> = counts.chunks_mut(tiles).zip(worst.chunks_mut(tiles)).enumerate().collect();
    Ok(run_tasks(a.len(), tasks, |(i, (counts, worst))| {
        let span = begin(i * tiles)..begin(i * tiles + counts.len());
        let grid = TileGrid { first: grid.first + i * tiles, ..grid };
        task(span.start, Tiles { a: &a[span.clone()], b: &b[span], grid, counts, worst })
    }))
}

/// The largest of numbers that are not negative, nor NaN: their bits are in the order of the numbers.
#[inline(always)]
pub(super) fn largest(numbers: &[f64]) -> f64 {
    f64::from_bits(numbers.iter().fold(0, |most, x| most.max(x.to_bits())))
}

/// Counts the codes that differ.
#[inline(always)]
fn unlike<C: Eq>(a: &[C], b: &[C]) -> u32 {
    a.iter().zip(b).map(|(x, y)| u32::from(x != y)).sum()
}

/// A place among tiles.
pub(super) struct TileWalk {
    grid: TileGrid,
    last: usize,
    short: usize,
    column: usize,
    tile: usize,
    left: usize,
}

impl TileWalk {
    #[inline(always)]
    pub(super) fn new(grid: TileGrid) -> Self {
        let last = grid.wide() - 1;
        let column = grid.first % grid.wide();
        let mut walk = Self { grid, last, short: grid.cols - last * grid.edge, column, tile: 0, left: 0 };
        walk.left = walk.length();
        walk
    }

    #[inline(always)]
    fn length(&self) -> usize {
        if self.column == self.last {
            self.short
        } else {
            self.grid.edge
        }
    }

    /// Goes on by at most what is left of the tile.
    #[inline(always)]
    fn advance(&mut self, by: usize) {
        self.left -= by;
        if self.left == 0 {
            self.tile += 1;
            self.column = if self.column == self.last { 0 } else { self.column + 1 };
            self.left = self.length();
        }
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, mut codes: usize) {
        while codes > 0 {
            let by = codes.min(self.left);
            self.advance(by);
            codes -= by;
        }
    }

    /// Gives each tile its part of a block.
    #[inline(always)]
    pub(super) fn count<C: Copy + Eq>(
        &mut self,
        a: &[C; BLOCK],
        b: &[C; BLOCK],
        errors: &[f64; BLOCK],
        used: usize,
        counts: &mut [u32],
        worst: &mut [f64],
    ) {
        if used == BLOCK && self.left >= BLOCK {
            counts[self.tile] += unlike(a, b);
            worst[self.tile] = worst[self.tile].max(largest(errors));
            return self.advance(BLOCK);
        }
        let mut at = 0;
        while at < used {
            let end = used.min(at + self.left);
            counts[self.tile] += unlike(&a[at..end], &b[at..end]);
            worst[self.tile] = worst[self.tile].max(largest(&errors[at..end]));
            self.advance(end - at);
            at = end;
        }
    }
}
