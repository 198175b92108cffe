//! A product that has been checked, and the tiles that it is cut into.

use super::accumulator::{Accumulator, ResultType};
use super::definition::canonical;
use super::mma::is_half;
use super::number::{numbers, Number};
use super::prepared::Prepared;
use crate::error::Error;
use crate::formats::{Codes, Format, Output};
use crate::threads::run_tasks;

/// One side of a product: the rows of all its matrices, one after another.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// Codes, `k` to a row.
    pub codes: Codes<'a>,
    /// Their format.
    pub format: &'static Format,
    /// Codes of a row.
    pub k: usize,
    /// The scales of the blocks of each matrix.
    pub scales: Option<&'a [f32]>,
    /// Rows of a block, and how much of k it spans.
    pub group: (usize, usize),
    /// Rows of one matrix.
    pub rows: usize,
    /// Blocks of a matrix along its rows, and along k.
    pub blocks: (usize, usize),
    /// The scales that go into the unit with the codes.
    pub unit_scales: Option<Blocks<'a, u8>>,
    /// The codes as columns, where they have been laid out before.
    pub prepared: Option<&'a Prepared>,
}

/// Values that blocks of each matrix of a side share.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a, T> {
    /// One for each block, in C order.
    pub values: &'a [T],
    /// Rows of a block, and how much of k it spans.
    pub group: (usize, usize),
    /// Rows of one matrix.
    pub rows: usize,
    /// Blocks of a matrix along its rows, and along k.
    pub count: (usize, usize),
}

impl<T: Copy> Blocks<'_, T> {
    /// The value of a row, counted through all matrices, at `k`.
    #[inline(always)]
    pub fn at(&self, row: usize, k: usize) -> T {
        let (matrix, row) = (row / self.rows, row % self.rows);
        self.values[(matrix * self.count.0 + row / self.group.0) * self.count.1 + k / self.group.1]
    }
}

impl Side<'_> {
    /// A row, taken apart.
    pub fn numbers(&self, row: usize) -> Vec<Number> {
        numbers(self.codes, row * self.k, self.k, self.format)
    }

    /// The scale of a row, counted through all matrices, at `k`; 1 where there are no scales.
    pub fn scale(&self, row: usize, k: usize) -> f32 {
        let Some(scales) = self.scales else { return 1.0 };
        let (matrix, row) = (row / self.rows, row % self.rows);
        scales[(matrix * self.blocks.0 + row / self.group.0) * self.blocks.1 + k / self.group.1]
    }

    /// The scales at `k` of rows that follow each other, through the borders of matrices.
    pub fn scales_from(&self, first: usize, k: usize, out: &mut [f32]) {
        let Some(scales) = self.scales.filter(|_| !out.is_empty()) else { return out.fill(1.0) };
        let (mut matrix, mut row) = (first / self.rows, first % self.rows);
        let (mut group, mut left) = (row / self.group.0, self.group.0 - row % self.group.0);
        let scale =
            |matrix, group| scales[(matrix * self.blocks.0 + group) * self.blocks.1 + k / self.group.1];
        if out.len() <= left.min(self.rows - row) {
            return out.fill(scale(matrix, group));
        }
        for out in out {
            *out = scale(matrix, group);
            (row, left) = (row + 1, left - 1);
            if row == self.rows {
                (matrix, row, group, left) = (matrix + 1, 0, 0, self.group.0);
            } else if left == 0 {
                (group, left) = (group + 1, self.group.0);
            }
        }
    }
}

/// A product. Rows of either side are counted through all its matrices.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub accumulator: &'static Accumulator,
    pub a: Side<'a>,
    pub b: Side<'a>,
    pub k: usize,
    /// How much of k one chain of steps takes, at least 1; the last may be shorter.
    pub interval: usize,
    /// True: one chain, which begins with c. False: every chain begins with +0 and its result is promoted:
    /// multiplied by the scales and added to a float32, which begins with c.
    pub chained: bool,
}

impl Job<'_> {
    /// Tests if partial sums are multiplied by scales.
    pub fn scaled(&self) -> bool {
        self.a.scales.is_some() || self.b.scales.is_some()
    }

    /// The factor of a partial sum that begins at `k`; `None` where neither side has scales.
    pub fn scale(&self, a_row: usize, b_row: usize, k: usize) -> Option<f32> {
        self.scaled().then(|| self.a.scale(a_row, k) * self.b.scale(b_row, k))
    }

    /// How much there is to do, in elements of a cast, of which a product costs so many.
    pub fn work(&self, tiles: &[Tile<'_>], per_product: usize) -> usize {
        outputs(tiles).saturating_mul(self.k).saturating_mul(per_product)
    }
}

/// Results of all tiles.
pub(crate) fn outputs(tiles: &[Tile<'_>]) -> usize {
    tiles.iter().map(|tile| tile.rows() * tile.cols()).sum()
}

/// Cuts tiles into smaller ones, of so many rows and columns at the most, and computes these on all threads that the
/// work is worth.
pub(crate) fn each_tile<'t>(
    whole: Vec<Tile<'t>>,
    (height, width): (usize, usize),
    work: usize,
    compute: impl Fn(Tile<'t>) + Sync,
) {
    let mut tiles = Vec::new();
    for tile in whole {
        tile.cut(height, width, &mut tiles);
    }
    run_tasks(work, tiles, compute);
}

/// The destination of one row of a tile.
pub(crate) enum Row<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

impl<'a> Row<'a> {
    /// The outputs, if the product can be written to them.
    pub fn new(out: Output<'a>) -> Result<Row<'a>, Error> {
        match out {
            Output::F32(out) => Ok(Row::F32(out)),
            Output::Bf16(out) => Ok(Row::Bf16(out)),
            _ => Err(Error::Unsupported("dtype: a product is written as float32 or bfloat16".to_owned())),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Row::F32(out) => out.len(),
            Row::Bf16(out) => out.len(),
        }
    }

    pub fn split_at(self, at: usize) -> (Row<'a>, Row<'a>) {
        match self {
            Row::F32(out) => {
                let (left, right) = out.split_at_mut(at);
                (Row::F32(left), Row::F32(right))
            }
            Row::Bf16(out) => {
                let (left, right) = out.split_at_mut(at);
                (Row::Bf16(left), Row::Bf16(right))
            }
        }
    }

    /// Writes results: every NaN becomes the accumulator's own, and bfloat16 is rounded to nearest even.
    pub fn write(&mut self, accumulator: &Accumulator, results: &[f32]) {
        match self {
            Row::F32(out) => {
                for (out, x) in out.iter_mut().zip(results) {
                    *out = canonical(accumulator, *x);
                }
            }
            Row::Bf16(out) => {
                for (out, x) in out.iter_mut().zip(results) {
                    let bits = canonical(accumulator, *x).to_bits();
                    let up = if x.is_nan() { 0 } else { 0x7FFF + (bits >> 16 & 1) };
                    *out = ((bits + up) >> 16) as u16;
                }
            }
        }
    }
}

/// Some rows and columns of the product of one matrix of either side.
pub(crate) struct Tile<'a> {
    /// The first row of a.
    pub a_row: usize,
    /// The first row of b, which is a column of the product.
    pub b_row: usize,
    /// Where each row goes; never empty.
    pub out: Vec<Row<'a>>,
    /// c, from the tile's first element on, and the distance between its rows.
    c: Option<(&'a [f32], usize)>,
}

impl<'a> Tile<'a> {
    /// All rows and columns.
    pub fn whole(a_row: usize, b_row: usize, n: usize, c: Option<&'a [f32]>, out: Row<'a>) -> Tile<'a> {
        let (mut rows, mut rest) = (Vec::new(), out);
        while rest.len() >= n.max(1) {
            let (row, after) = rest.split_at(n);
            rows.push(row);
            rest = after;
        }
        Tile { a_row, b_row, out: rows, c: c.map(|c| (c, n)) }
    }

    /// All rows and columns, where rows go to places of their own.
    pub fn of_rows(out: Vec<Row<'a>>) -> Tile<'a> {
        Tile { a_row: 0, b_row: 0, out, c: None }
    }

    pub fn rows(&self) -> usize {
        self.out.len()
    }

    pub fn cols(&self) -> usize {
        self.out.first().map_or(0, Row::len)
    }

    /// Writes its results, row by row.
    pub fn write(self, accumulator: &Accumulator, results: &[f32]) {
        let cols = self.cols().max(1);
        for (mut row, results) in self.out.into_iter().zip(results.chunks(cols)) {
            row.write(accumulator, results);
        }
    }

    /// The accumulator's input.
    pub fn c(&self, row: usize, col: usize) -> f32 {
        self.initial()(row, col)
    }

    /// The accumulator's inputs, by row and column.
    pub fn initial(&self) -> impl Fn(usize, usize) -> f32 + 'a {
        let c = self.c;
        move |row, col| c.map_or(0.0, |(c, stride)| c[row * stride + col])
    }

    /// The accumulator's inputs of a row, from a column on; beyond the tile come others.
    pub fn c_from(&self, row: usize, col: usize) -> Option<&'a [f32]> {
        self.c.map(|(c, stride)| &c[row * stride + col..])
    }

    /// Cuts it into tiles of at most so many rows and columns.
    pub fn cut(self, height: usize, width: usize, into: &mut Vec<Tile<'a>>) {
        let (cols, mut rows) = (self.cols(), self.out.into_iter());
        let mut at = 0;
        loop {
            let mut band: Vec<Row<'a>> = rows.by_ref().take(height).collect();
            let count = band.len();
            if count == 0 {
                return;
            }
            for col in (0..cols).step_by(width) {
                let mut rest = Vec::with_capacity(count);
                let mut out = Vec::with_capacity(count);
                for row in band {
                    let (left, right) = row.split_at(width.min(cols - col));
                    out.push(left);
                    rest.push(right);
                }
                band = rest;
                let c = self.c.map(|(c, stride)| (&c[at * stride + col..], stride));
                into.push(Tile { a_row: self.a_row + at, b_row: self.b_row + col, out, c });
            }
            at += count;
        }
    }
}

/// Codes of at most 8 bits come in bytes, the others in words, those of tf32 as float32.
pub(super) fn check_width(side: &'static str, codes: Codes<'_>, format: &Format) -> Result<(), Error> {
    match codes {
        Codes::U8(_) if format.bits() <= 8 => Ok(()),
        Codes::U16(_) if (9..=16).contains(&format.bits()) => Ok(()),
        Codes::U32(_) if format.bits() > 16 => Ok(()),
        _ => Err(Error::Unsupported(format!(
            "{side}: codes of {} bits are in the wrong integers",
            format.bits()
        ))),
    }
}

/// An accumulator of float16 begins with a float16.
pub(super) fn check_c(accumulator: &Accumulator, c: &[f32]) -> Result<(), Error> {
    if accumulator.result == ResultType::Float32 {
        return Ok(());
    }
    match c.iter().position(|c| !is_half(*c)) {
        None => Ok(()),
        Some(at) => Err(Error::Unsupported(format!(
            "c: found {} at flat index {at}, but accumulator {:?} holds float16 values",
            c[at], accumulator.name
        ))),
    }
}
