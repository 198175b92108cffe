//! Exact sums in float64, wherever 53 bits hold all that can occur: the products and their sums are then exact in any
//! order, and only the last conversion to float32 rounds. Sums that may need more are put together from shorter ones.

use super::definition;
use super::exact::Wide;
use super::job::{each_tile, Job, Side, Tile};
use super::number::{numbers, Class, Number};
use crate::interrupt::poll;
use crate::simd::{dispatch, Kernel, Lanes};
use std::ops::Range;

/// Rows and columns of a tile.
const SIDE: usize = 64;
/// Columns of a panel.
const COLUMNS: usize = 16;
/// Rows that meet a panel at a time.
const ROWS: usize = 4;
/// The most of k in a shorter sum.
const BLOCK: usize = 64;

/// Elements of a cast that cost as much as one product.
const PER_PRODUCT: usize = 4;

/// Computes all tiles.
pub(super) fn run(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let total = job.work(&whole, PER_PRODUCT);
    each_tile(whole, (SIDE, SIDE), total, |tile| work(job, tile));
}

/// The powers of two that some numbers are multiples of, and below.
#[derive(Clone, Copy)]
struct PowerSpan {
    low: i32,
    high: i32,
}

impl PowerSpan {
    /// The span of zeros.
    const NONE: PowerSpan = PowerSpan { low: 1 << 20, high: -(1 << 20) };

    fn of(numbers: &[Number], man: i32) -> PowerSpan {
        numbers.iter().filter(|x| x.sig != 0).fold(PowerSpan::NONE, |span, x| {
            let exp = i32::from(x.exp);
            span.with(PowerSpan { low: exp - man, high: exp + 1 })
        })
    }

    fn with(self, other: PowerSpan) -> PowerSpan {
        PowerSpan { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Tests if float64 holds any sum of so many products.
    fn fits(self, other: PowerSpan, products: usize) -> bool {
        let more = (usize::BITS - products.saturating_sub(1).leading_zeros()) as i32; // its logarithm, rounded up
        self.high + other.high + more - (self.low + other.low) <= 53
    }
}

/// Some rows of one side at some k: as numbers, and as float64.
struct F64Rows {
    k: usize,
    man: i32,
    numbers: Vec<Number>,
    values: Vec<f64>,
    /// The span of each block of each row.
    spans: Vec<PowerSpan>,
}

impl F64Rows {
    fn new(side: &Side<'_>, job_k: usize, rows: Range<usize>, k: Range<usize>) -> F64Rows {
        let man = side.format.man as i32;
        let mut all = Vec::with_capacity(rows.len() * k.len());
        for row in rows {
            all.extend(numbers(side.codes, row * job_k + k.start, k.len(), side.format));
        }
        let value = |x: &Number| match x.sig {
            0 => 0.0,
            sig => f64::from(sig) * f64::from_bits(((i64::from(x.exp) - i64::from(man) + 1023) as u64) << 52),
        };
        let values = all.iter().map(value).collect();
        let spans = all
            .chunks(k.len())
            .flat_map(|row| row.chunks(BLOCK))
            .map(|block| PowerSpan::of(block, man))
            .collect();
        F64Rows { k: k.len(), man, numbers: all, values, spans }
    }

    fn numbers(&self, row: usize, k: Range<usize>) -> &[Number] {
        &self.numbers[row * self.k + k.start..row * self.k + k.end]
    }

    /// Returns the span of each block over some rows.
    fn spans(&self, rows: Range<usize>) -> Vec<PowerSpan> {
        let blocks = self.k.div_ceil(BLOCK);
        let span = |block| {
            rows.clone().map(|row| self.spans[row * blocks + block]).fold(PowerSpan::NONE, PowerSpan::with)
        };
        (0..blocks).map(span).collect()
    }

    fn special(&self, row: usize) -> bool {
        self.numbers(row, 0..self.k).iter().any(|x| x.class != Class::Finite)
    }
}

/// Sums of products of a few rows with a panel.
struct DotProducts<'a> {
    a: [&'a [f64]; ROWS],
    b: &'a [[f64; COLUMNS]],
}

impl Kernel for DotProducts<'_> {
    type Out = [[f64; COLUMNS]; ROWS];
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) -> Self::Out {
        let [a0, a1, a2, a3] = self.a.map(|a| &a[..self.b.len()]);
        let mut sums = [[0.0; COLUMNS]; ROWS];
        let [s0, s1, s2, s3] = &mut sums;
        for ((((b, a0), a1), a2), a3) in self.b.iter().zip(a0).zip(a1).zip(a2).zip(a3) {
            for c in 0..COLUMNS {
                s0[c] += a0 * b[c];
                s1[c] += a1 * b[c];
                s2[c] += a2 * b[c];
                s3[c] += a3 * b[c];
            }
        }
        sums
    }
}

/// Computes a tile.
fn work(job: &Job<'_>, tile: Tile<'_>) {
    let (rows, cols) = (tile.rows(), tile.cols());
    let mut totals: Vec<f32> = (0..rows * cols).map(|i| tile.c(i / cols, i % cols)).collect();
    let (mut a_special, mut b_special) = (vec![false; rows], vec![false; cols]);
    let interval = if job.chained { job.k.max(1) } else { job.interval };
    for start in (0..job.k).step_by(interval) {
        let k = start..job.k.min(start.saturating_add(interval));
        let a = F64Rows::new(&job.a, job.k, tile.a_row..tile.a_row + rows, k.clone());
        let b = F64Rows::new(&job.b, job.k, tile.b_row..tile.b_row + cols, k.clone());
        a_special.iter_mut().enumerate().for_each(|(row, special)| *special |= a.special(row));
        b_special.iter_mut().enumerate().for_each(|(col, special)| *special |= b.special(col));
        for first in (0..cols).step_by(COLUMNS) {
            let panel = F64Panel::new(&b, first..cols.min(first + COLUMNS));
            for row in (0..rows).step_by(ROWS) {
                poll();
                let group = row..rows.min(row + ROWS);
                panel.group(&a, group, |row, col, sum| {
                    let total = &mut totals[row * cols + col];
                    *total = match job.scale(tile.a_row + row, tile.b_row + col, start) {
                        _ if job.chained => sum.with(*total),
                        None => *total + sum.with(0.0),
                        Some(scale) => sum.with(0.0).mul_add(scale, *total),
                    };
                });
            }
        }
    }
    let wanted = |row: usize, col: usize| {
        a_special[row] || b_special[col] || (job.chained && !tile.c(row, col).is_finite())
    };
    definition::outputs(job, &tile, &wanted, &mut totals);
    tile.write(job.accumulator, &totals);
}

/// A sum that has not been rounded.
enum Sum {
    Double(f64),
    Wide(Wide),
}

impl Sum {
    /// Adds `c` and rounds.
    fn with(self, c: f32) -> f32 {
        let mut wide = match self {
            Sum::Double(sum) if c == 0.0 => return sum as f32,
            Sum::Double(sum) => {
                let mut wide = Wide::ZERO;
                wide.add_f64(sum);
                wide
            }
            Sum::Wide(wide) => wide,
        };
        wide.add_f64(f64::from(c));
        wide.round()
    }
}

/// Up to sixteen columns, k by k.
struct F64Panel<'a> {
    rows: &'a F64Rows,
    columns: Range<usize>,
    values: Vec<[f64; COLUMNS]>,
    /// The span of all k, and of each block of them.
    span: PowerSpan,
    blocks: Vec<PowerSpan>,
}

impl<'a> F64Panel<'a> {
    fn new(rows: &'a F64Rows, columns: Range<usize>) -> F64Panel<'a> {
        let mut values = vec![[0.0; COLUMNS]; rows.k];
        for (c, row) in columns.clone().enumerate() {
            for (values, x) in values.iter_mut().zip(&rows.values[row * rows.k..]) {
                values[c] = *x;
            }
        }
        let blocks = rows.spans(columns.clone());
        let span = blocks.iter().copied().fold(PowerSpan::NONE, PowerSpan::with);
        F64Panel { rows, columns, values, span, blocks }
    }

    fn dot(&self, a: &F64Rows, rows: &Range<usize>, k: Range<usize>) -> [[f64; COLUMNS]; ROWS] {
        // rows that do not exist are computed as the last one
        let row = |r: usize| &a.values[(rows.start + r).min(rows.end - 1) * a.k..][k.clone()];
        dispatch(DotProducts { a: std::array::from_fn(row), b: &self.values[k.clone()] })
    }

    /// Passes the sums of some rows on.
    fn group(&self, a: &F64Rows, rows: Range<usize>, mut each: impl FnMut(usize, usize, Sum)) {
        let blocks = a.spans(rows.clone());
        let span = blocks.iter().copied().fold(PowerSpan::NONE, PowerSpan::with);
        if span.fits(self.span, a.k) {
            let sums = self.dot(a, &rows, 0..a.k);
            for (row, sums) in rows.zip(sums) {
                for (col, sum) in self.columns.clone().zip(sums) {
                    each(row, col, Sum::Double(sum));
                }
            }
            return;
        }
        let mut sums = vec![Wide::ZERO; rows.len() * self.columns.len()];
        for (k, (a_span, b_span)) in parts(a.k).zip(blocks.iter().zip(&self.blocks)) {
            let short = a_span.fits(*b_span, BLOCK).then(|| self.dot(a, &rows, k.clone()));
            for (i, sum) in sums.iter_mut().enumerate() {
                let (r, c) = (i / self.columns.len(), i % self.columns.len());
                match &short {
                    Some(short) => sum.add_f64(short[r][c]),
                    None => {
                        let (x, y) = (a.numbers(rows.start + r, k.clone()), &self.rows);
                        sum.add_products(x, y.numbers(self.columns.start + c, k.clone()), a.man + y.man);
                    }
                }
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            let (r, c) = (i / self.columns.len(), i % self.columns.len());
            each(rows.start + r, self.columns.start + c, Sum::Wide(sum));
        }
    }
}

/// The blocks of k.
fn parts(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(BLOCK).map(move |at| at..k.min(at + BLOCK))
}
