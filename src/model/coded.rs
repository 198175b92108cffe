//! Products with rows of scaled codes that are decoded in registers and never written down.
//!
//! Each gives the bits of widening the rows and multiplying them ([`dot`](super::linear::dot),
//! [`Combine`](super::linear::Combine)): a weight is `code * scale`, rounded to float32 (and to bfloat16, where
//! asked), and products are added to the same interleaved sums in the same order.

use super::linear::{pairwise, AHEAD, LONG};
use crate::formats::bfloat16::nearest;
use crate::formats::decode::ToBf16;
use crate::simd::{dispatch, Kernel, Lanes, Lookup};

/// Lanes of a vector at any level divide it.
const VECTOR: usize = 16;

/// Rows of codes, and their scales. One kernel of each kind, whatever calls it: they take the compiler long.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    /// (rows, cols).
    pub(super) codes: &'a [u8],
    /// Columns.
    pub(super) cols: usize,
    /// Of the format.
    pub(super) table: &'static Lookup,
    /// Of the whole matrix, a row for each band of blocks.
    pub(super) scales: &'a [f32],
    /// Rows and columns of a block.
    pub(super) block: [usize; 2],
    /// Which row of the matrix is the first.
    pub(super) first: usize,
    /// Whether weights are rounded to bfloat16.
    pub(super) rounded: bool,
}

impl<'a> Coded<'a> {
    /// The product of every row of `x` with every row, given to `put`. Whether that was possible: the level has to
    /// know how to hold the format's table.
    pub(super) fn products(self, x: &[f32], put: &mut dyn FnMut(usize, usize, f32)) -> bool {
        dispatch(Products { w: self, x, put })
    }

    /// Adds `factors[j]` times row `j` to `out` for every `j` in turn. Whether that was possible.
    pub(super) fn mix(self, factors: &[f32], out: &mut [f32]) -> bool {
        dispatch(Mix { w: self, factors, out })
    }

    /// Whether every vector has one scale, at any level.
    pub(super) fn regular(&self) -> bool {
        self.cols > 0 && (self.block[1] >= self.cols || self.block[1].is_multiple_of(VECTOR))
    }

    #[inline(always)]
    fn band(&self, row: usize) -> usize {
        (self.first + row) / self.block[0]
    }

    /// The scales of the blocks that a row crosses.
    #[inline(always)]
    fn scales(&self, row: usize) -> &'a [f32] {
        let across = self.cols.div_ceil(self.block[1]);
        &self.scales[self.band(row) * across..][..across]
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.cols..][..self.cols]
    }

    /// One weight.
    #[inline(always)]
    fn weight(&self, row: usize, col: usize) -> f32 {
        let value = self.table.values[usize::from(self.row(row)[col])];
        let product = value * self.scales(row)[col / self.block[1]];
        if self.rounded {
            nearest(product)
        } else {
            product
        }
    }
}

/// The nearest bfloat16.
#[inline(always)]
fn bfloat16<L: Lanes>(l: L, x: L::F) -> L::F {
    l.float(l.shl(ToBf16::round(l, x), 16))
}

/// Weights of a group: the values of its codes, times the scale of each vector.
#[inline(always)]
fn group<L: Lanes, const ROUND: bool>(
    l: L,
    held: L::RegisterTable,
    codes: &[u8],
    scales: &[f32],
) -> [L::F; 4] {
    let (x, scales) = (l.lookup_registers(held, codes), &scales[..4]);
    let mut w = [
        l.fmul(x[0], l.f32(scales[0])),
        l.fmul(x[1], l.f32(scales[1])),
        l.fmul(x[2], l.f32(scales[2])),
        l.fmul(x[3], l.f32(scales[3])),
    ];
    if ROUND {
        w = [bfloat16(l, w[0]), bfloat16(l, w[1]), bfloat16(l, w[2]), bfloat16(l, w[3])];
    }
    w
}

/// A scale for each vector of a row.
#[derive(Default)]
struct Spread {
    band: Option<usize>,
    each: Vec<f32>,
}

impl Spread {
    #[inline(always)]
    fn of<L: Lanes>(&mut self, coded: &Coded<'_>, row: usize) -> &[f32] {
        if self.band != Some(coded.band(row)) {
            self.band = Some(coded.band(row));
            let width = coded.block[1].min(coded.cols).div_ceil(L::N);
            self.each.clear();
            for scale in coded.scales(row) {
                self.each.extend(std::iter::repeat_n(*scale, width));
            }
        }
        &self.each
    }
}

/// Takes the product of a row of `x` and a coded row.
type Put<'a> = &'a mut dyn FnMut(usize, usize, f32);

struct Products<'a, 'p> {
    w: Coded<'a>,
    x: &'a [f32],
    put: Put<'p>,
}

impl Kernel for Products<'_, '_> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) -> bool {
        let Some(held) = l.register_table(self.w.table) else { return false };
        if self.w.rounded {
            self.all::<L, true>(l, held);
        } else {
            self.all::<L, false>(l, held);
        }
        true
    }
}

impl Products<'_, '_> {
    /// Rows of `x` in fours, twos and ones; the fewer they are, the wider a part of a row is taken at once, so that
    /// sums fill the registers of the level.
    #[inline(always)]
    fn all<L: Lanes, const ROUND: bool>(&mut self, l: L, held: L::RegisterTable) {
        let (rows, long, many) = (self.x.len() / self.w.cols, self.w.cols >= LONG, L::N == VECTOR);
        let mut k = 0;
        while k < rows {
            k += match (rows - k, long) {
                (1, true) if many => self.some::<L, ROUND, 256, 1, 4>(l, held, k),
                (1, true) => self.some::<L, ROUND, 256, 1, 2>(l, held, k),
                (2 | 3, true) if many => self.some::<L, ROUND, 256, 2, 2>(l, held, k),
                (2 | 3, true) => self.some::<L, ROUND, 256, 2, 1>(l, held, k),
                (_, true) => self.some::<L, ROUND, 256, 4, 1>(l, held, k),
                (1, false) => self.some::<L, ROUND, 64, 1, 1>(l, held, k),
                (2 | 3, false) => self.some::<L, ROUND, 64, 2, 1>(l, held, k),
                (_, false) => self.some::<L, ROUND, 64, 4, 1>(l, held, k),
            };
        }
    }

    /// `X` rows of `x` from `k` on, with all coded rows. The number done.
    #[inline(always)]
    fn some<L: Lanes, const ROUND: bool, const SUMS: usize, const X: usize, const G: usize>(
        &mut self,
        l: L,
        held: L::RegisterTable,
        k: usize,
    ) -> usize {
        let (cols, mut spread) = (self.w.cols, Spread::default());
        let chunks = cols / SUMS;
        let rows: [_; X] = std::array::from_fn(|j| &self.x[(k + j) * cols..][..cols]);
        let x: [_; X] = std::array::from_fn(|j| &rows[j].as_chunks::<SUMS>().0[..chunks]);
        for row in 0..self.w.codes.len() / cols {
            let codes = &self.w.row(row).as_chunks::<SUMS>().0[..chunks];
            let mut sums = [[0f32; SUMS]; X];
            let each = spread.of::<L>(&self.w, row);
            sum::<L, ROUND, SUMS, X, G>(l, held, codes, each, &x, &mut sums);
            for (j, sums) in sums.iter_mut().enumerate() {
                for (col, sum) in (chunks * SUMS..cols).zip(sums.iter_mut()) {
                    *sum += rows[j][col] * self.w.weight(row, col);
                }
                (self.put)(k + j, row, pairwise(sums));
            }
        }
        X
    }
}

/// The interleaved sums of a coded row with `X` rows: in each walk over them, `G` groups of every `SUMS` columns.
#[inline(always)]
fn sum<L: Lanes, const ROUND: bool, const SUMS: usize, const X: usize, const G: usize>(
    l: L,
    held: L::RegisterTable,
    codes: &[[u8; SUMS]],
    each: &[f32],
    x: &[&[[f32; SUMS]]; X],
    sums: &mut [[f32; SUMS]; X],
) {
    // What is read through is asked for in the order of reading; what is walked over again, a row ahead.
    let ahead = if G * L::GROUP >= SUMS { AHEAD / 2 } else { std::mem::size_of_val(codes) };
    for place in (0..SUMS).step_by(G * L::GROUP) {
        let mut parts = [[[l.f32(0.0); 4]; X]; G];
        for (c, codes) in codes.iter().enumerate() {
            for (g, parts) in parts.iter_mut().enumerate() {
                let at = place + g * L::GROUP;
                let codes = &codes[at..at + L::GROUP];
                l.prefetch(codes, ahead);
                let w = group::<L, ROUND>(l, held, codes, &each[(c * SUMS + at) / L::N..]);
                for (x, parts) in x.iter().zip(parts) {
                    let x = &x[c][at..at + L::GROUP];
                    for (i, (part, w)) in parts.iter_mut().zip(w).enumerate() {
                        *part = l.fadd(*part, l.fmul(l.load_f32(&x[i * L::N..]), w));
                    }
                }
            }
        }
        for (g, parts) in parts.iter().enumerate() {
            for (sums, parts) in sums.iter_mut().zip(parts) {
                for (i, part) in parts.iter().enumerate() {
                    l.store_f32(*part, &mut sums[place + g * L::GROUP + i * L::N..], false);
                }
            }
        }
    }
}

struct Mix<'a> {
    w: Coded<'a>,
    factors: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) -> bool {
        let Some(held) = l.register_table(self.w.table) else { return false };
        if self.w.rounded {
            self.all::<L, true>(l, held);
        } else {
            self.all::<L, false>(l, held);
        }
        true
    }
}

impl Mix<'_> {
    #[inline(always)]
    fn all<L: Lanes, const ROUND: bool>(&mut self, l: L, held: L::RegisterTable) {
        let mut at = 0;
        while at + 4 * L::GROUP <= self.w.cols {
            self.groups::<L, ROUND, 4>(l, held, at);
            at += 4 * L::GROUP;
        }
        while at + L::GROUP <= self.w.cols {
            self.groups::<L, ROUND, 1>(l, held, at);
            at += L::GROUP;
        }
        for col in at..self.w.cols {
            for (row, factor) in self.factors.iter().enumerate() {
                self.out[col] += factor * self.w.weight(row, col);
            }
        }
    }

    /// `G` groups of columns, from `at` on, of all rows.
    #[inline(always)]
    fn groups<L: Lanes, const ROUND: bool, const G: usize>(
        &mut self,
        l: L,
        held: L::RegisterTable,
        at: usize,
    ) {
        let mut spread = Spread::default();
        let out = &mut self.out[at..at + G * L::GROUP];
        let mut sums = [[l.f32(0.0); 4]; G];
        for (i, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
            *sum = l.load_f32(&out[i * L::N..]);
        }
        for (row, factor) in self.factors.iter().enumerate() {
            let (each, codes, factor) = (spread.of::<L>(&self.w, row), self.w.row(row), l.f32(*factor));
            for (g, sums) in sums.iter_mut().enumerate() {
                let place = at + g * L::GROUP;
                let codes = &codes[place..place + L::GROUP];
                l.prefetch(codes, AHEAD);
                let w = group::<L, ROUND>(l, held, codes, &each[place / L::N..]);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = l.fadd(*sum, l.fmul(factor, w));
                }
            }
        }
        for (i, sum) in sums.as_flattened().iter().enumerate() {
            l.store_f32(*sum, &mut out[i * L::N..], false);
        }
    }
}
