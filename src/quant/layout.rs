//! How an array is cut into blocks.

use crate::error::Error;
use crate::formats::strided::{steps, Array};

/// A stack of `rows x cols` matrices, each cut into blocks of `block_rows x block_cols` from its first element
/// on; the last block of a row or column may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Matrices.
    pub stack: usize,
    /// Rows of a matrix.
    pub rows: usize,
    /// Columns of a matrix; the last axis, contiguous.
    pub cols: usize,
    /// Rows of a block.
    pub block_rows: usize,
    /// Columns of a block.
    pub block_cols: usize,
}

impl Blocks {
    /// Checks a layout.
    ///
    /// # Errors
    /// [`Error::Shape`] for a block of size 0 or a shape whose element count overflows.
    pub fn new(shape: [usize; 3], block: [usize; 2]) -> Result<Blocks, Error> {
        let [stack, rows, cols] = shape;
        let [block_rows, block_cols] = block;
        if block_rows == 0 || block_cols == 0 {
            return Err(Error::Shape { what: "block", why: "found a size of 0, expected at least 1" });
        }
        let elements = stack.checked_mul(rows).and_then(|n| n.checked_mul(cols));
        if elements.is_none_or(|n| n > isize::MAX as usize / 8) {
            return Err(Error::Shape { what: "shape", why: "the element count overflows" });
        }
        // A block is never larger than the matrix: sizes beyond it mean the whole axis.
        let (block_rows, block_cols) = (block_rows.min(rows.max(1)), block_cols.min(cols.max(1)));
        Ok(Blocks { stack, rows, cols, block_rows, block_cols })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.stack * self.rows * self.cols
    }

    /// True for no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of blocks in a matrix.
    pub fn bands(&self) -> usize {
        self.rows.div_ceil(self.block_rows)
    }

    /// Blocks side by side in a matrix.
    pub fn across(&self) -> usize {
        self.cols.div_ceil(self.block_cols)
    }

    /// Blocks in all, which is how many scales there are, in C order.
    pub fn scales(&self) -> usize {
        self.stack * self.bands() * self.across()
    }

    /// The same blocks, seen as longer rows where their elements lie together: a column as a row, a block
    /// that is a whole matrix as one run, rows of whole one-row blocks as one long row.
    pub(crate) fn flattened(mut self) -> Blocks {
        if self.is_empty() {
            return self;
        }
        if self.cols == 1 {
            self = Blocks {
                stack: 1,
                rows: self.stack,
                cols: self.rows,
                block_rows: 1,
                block_cols: self.block_rows,
            };
        }
        if self.block_rows >= self.rows && self.block_cols >= self.cols {
            let cols = self.rows * self.cols;
            self = Blocks { stack: 1, rows: self.stack, cols, block_rows: 1, block_cols: cols };
        }
        if self.block_rows == 1 && self.cols.is_multiple_of(self.block_cols) {
            self = Blocks { stack: 1, rows: 1, cols: self.len(), ..self };
        }
        self
    }

    /// The same for an array whose elements may lie apart: rows are no longer than those that lie together.
    pub(crate) fn flattened_for(self, array: Array<'_>) -> Blocks {
        let flat = self.flattened();
        let [stack, rows, cols] = array.shape();
        let apart = matches!(array, Array::Strided(_)) && flat.block_rows == 1 && !flat.is_empty();
        if apart && (flat.cols == cols || (flat.rows == 1 && cols.is_multiple_of(flat.block_cols))) {
            return Blocks { stack, rows, cols, ..flat };
        }
        flat
    }

    /// Which band of blocks, counted through the stack, row `index` of the stack belongs to.
    pub(crate) fn band_of_row(&self, index: usize) -> usize {
        let (matrix, row) = (index / self.rows, index % self.rows);
        matrix * self.bands() + row / self.block_rows
    }
}

/// A task for operations that go row by row: some whole rows, or part of a long one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPart {
    /// The first row, counted through the stack.
    pub row: usize,
    /// The first column.
    pub at: usize,
    /// Columns.
    pub cols: usize,
    /// Rows; 1 for part of a row.
    pub rows: usize,
}

impl RowPart {
    /// Where its elements stand.
    pub fn range(&self, blocks: &Blocks) -> std::ops::Range<usize> {
        let start = self.row * blocks.cols + self.at;
        start..start + self.rows * self.cols
    }
}

/// A task for operations that go block by block: some whole bands of a matrix, or whole blocks of a long row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BandPart {
    /// Elements.
    pub elements: usize,
    /// Columns.
    pub cols: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Blocks {
    /// All blocks of the stack in order, in parts of about `n` elements, or of a band; of blocks of one row, the first part of
    /// a matrix has `first` rows, if that is known.
    pub(crate) fn band_parts(&self, n: usize, first: Option<usize>) -> impl Iterator<Item = BandPart> {
        let Blocks { stack, rows, cols, block_rows, block_cols } = if self.is_empty() {
            Blocks { stack: 0, rows: 1, cols: 1, block_rows: 1, block_cols: 1 }
        } else {
            *self
        };
        let across = cols.div_ceil(block_cols);
        let is_long = block_rows == 1 && cols > n;
        let width = n.div_ceil(block_cols) * block_cols;
        let height = (n / (block_rows * cols)).max(1) * block_rows;
        let (lines, length, step) = if is_long { (stack * rows, cols, width) } else { (stack, rows, height) };
        (0..lines).flat_map(move |_| {
            steps(length, first.filter(|_| block_rows == 1 && !is_long), step).map(move |piece| {
                let here = piece.len();
                if is_long {
                    BandPart { elements: here, cols: here, blocks: here.div_ceil(block_cols) }
                } else {
                    BandPart { elements: here * cols, cols, blocks: here.div_ceil(block_rows) * across }
                }
            })
        })
    }

    /// All rows of the stack in order, in parts of about `n` elements.
    pub(crate) fn row_parts(&self, n: usize) -> impl Iterator<Item = RowPart> {
        let (rows, cols) = if self.is_empty() { (0, 1) } else { (self.stack * self.rows, self.cols) };
        let (height, width) = if cols > n { (1, n) } else { ((n / cols).max(1), cols) };
        (0..rows).step_by(height).flat_map(move |row| {
            (0..cols).step_by(width).map(move |at| RowPart {
                row,
                at,
                cols: width.min(cols - at),
                rows: height.min(rows - row),
            })
        })
    }
}
