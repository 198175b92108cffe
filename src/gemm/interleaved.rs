//! Sums in interleaved order, of float32 activations by scaled codes: 64 or, for long rows, 256 partial sums, added
//! pairwise at the end.
//!
//! The bits are those of widening the weights and of [`dot`]: a weight is `code * scale`, rounded to float32 (and to
//! bfloat16, where asked), and products are added to the same partial sums in the same order.

use super::product::Operand;
use super::skinny::{Skinny, SumOrder};
use crate::formats::bfloat16::nearest;
use crate::formats::Codes;
use crate::simd::{dispatch, Kernel, Lanes, Lookup};
use std::ops::{AddAssign, Mul, Range};

/// A multiple of the lanes of any level.
const VECTOR: usize = 16;

/// Length from which a dot product has 256 partial sums.
const LONG: usize = 1024;

/// A number that can be multiplied and added up.
pub trait Number: Copy + Default + Mul<Output = Self> + AddAssign {}

impl<T: Copy + Default + Mul<Output = T> + AddAssign> Number for T {}

/// The dot product of two vectors in interleaved order, the same at every instruction-set level.
#[inline(always)]
pub fn dot<T: Number>(a: &[T], b: &[T]) -> T {
    if a.len().min(b.len()) < LONG {
        sums::<T, 64>(a, b)
    } else {
        sums::<T, 256>(a, b)
    }
}

/// The same for float32 at a level, whose registers hold the sums.
#[inline(always)]
pub fn float_dot<L: Lanes>(l: L, a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    row_sums::<L, _, 1>(l, &&b[..len], a, len, |col| b[col])[0]
}

#[inline(always)]
fn sums<T: Number, const SUMS: usize>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::default(); SUMS];
    let len = a.len().min(b.len());
    // A short last round ends the zip early.
    for (a, b) in a[..len].chunks(SUMS).zip(b[..len].chunks(SUMS)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += *a * *b;
        }
    }
    pairwise(&mut sums)
}

/// Adds the halves of the sums to each other until one is left.
#[inline(always)]
fn pairwise<T: Number, const SUMS: usize>(sums: &mut [T; SUMS]) -> T {
    let mut width = SUMS / 2;
    while width > 0 {
        let (low, high) = sums.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        width /= 2;
    }
    sums[0]
}

/// Rows of codes and the scales of their blocks: the weights.
#[derive(Clone, Copy)]
pub(crate) struct CodedRows<'a> {
    /// (rows, cols).
    codes: &'a [u8],
    cols: usize,
    /// The values of the format.
    table: &'static Lookup,
    /// The scales of the whole matrix, a row for each band of blocks.
    scales: &'a [f32],
    /// Rows and columns of a block.
    block: [usize; 2],
    /// The row of the matrix that is the first here.
    first: usize,
    /// True: weights are rounded to bfloat16.
    rounded: bool,
}

impl<'a> CodedRows<'a> {
    /// Some rows of a matrix of `cols` columns, weights rounded to bfloat16 if `rounded`. `None` if codes are no bytes, have
    /// no scales, or if a vector may have several.
    pub fn new(
        matrix: &Operand<'a>,
        cols: usize,
        rows: Range<usize>,
        rounded: bool,
    ) -> Option<CodedRows<'a>> {
        let (Codes::U8(codes), Some(scales)) = (matrix.codes, matrix.scales) else { return None };
        let block = [matrix.group.0, matrix.group.1];
        let regular = cols > 0 && (block[1] >= cols || block[1].is_multiple_of(VECTOR));
        regular.then(|| CodedRows {
            codes: &codes[rows.start * cols..rows.end * cols],
            cols,
            table: matrix.format.lookup(),
            scales,
            block,
            first: rows.start,
            rounded,
        })
    }

    /// Passes the product of every row of `x` with every coded row to `put`. False if the level cannot decode the format
    /// in registers.
    pub fn products(self, x: &[f32], put: &mut dyn FnMut(usize, usize, f32)) -> bool {
        let rows = x.len() / self.cols;
        dispatch(Skinny { order: Interleaved { w: self, x, put }, rows })
    }

    /// Adds `factors[j]` times row `j` to `out` for every `j` in turn. False if the level cannot decode the format in
    /// registers.
    pub fn combine(self, factors: &[f32], out: &mut [f32]) -> bool {
        dispatch(CombineCoded { w: self, factors, out })
    }

    #[inline(always)]
    fn band(&self, row: usize) -> usize {
        (self.first + row) / self.block[0]
    }

    /// The scales of the blocks of a row.
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
    l.float(l.shl(l.round_bf16(x), 16))
}

/// Decodes a group of weights: the values of its codes times the scale of each vector.
#[inline(always)]
fn group<L: Lanes, const ROUND: bool>(
    l: L,
    table: L::RegisterTable,
    codes: &[u8],
    scales: &[f32],
) -> [L::F; 4] {
    let (x, scales) = (l.lookup_registers(table, codes), &scales[..4]);
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

/// The scale of each vector of a row.
#[derive(Default)]
struct VectorScales {
    band: Option<usize>,
    each: Vec<f32>,
}

impl VectorScales {
    #[inline(always)]
    fn of<L: Lanes>(&mut self, coded: &CodedRows<'_>, row: usize) -> &[f32] {
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

/// The interleaved order: rows of `x` by coded rows, products to `put`.
struct Interleaved<'a, 'p> {
    w: CodedRows<'a>,
    x: &'a [f32],
    put: &'p mut dyn FnMut(usize, usize, f32),
}

impl SumOrder for Interleaved<'_, '_> {
    const PADDED: bool = false;
    const GROUPS_16: u16 = 1 << 1 | 1 << 2 | 1 << 4;
    const GROUPS: u16 = Self::GROUPS_16;

    #[inline(always)]
    fn products<L: Lanes, const R: usize>(&mut self, l: L, row: usize) -> bool {
        let Some(table) = l.register_table(self.w.table) else { return false };
        if self.w.rounded {
            self.rows::<L, true, R>(l, table, row);
        } else {
            self.rows::<L, false, R>(l, table, row);
        }
        true
    }
}

impl Interleaved<'_, '_> {
    /// `R` rows of `x` from `first` on, with all coded rows.
    #[inline(always)]
    fn rows<L: Lanes, const ROUND: bool, const R: usize>(
        &mut self,
        l: L,
        table: L::RegisterTable,
        first: usize,
    ) {
        let (cols, mut scales) = (self.w.cols, VectorScales::default());
        for row in 0..self.w.codes.len() / cols {
            let codes = self.w.row(row);
            let w = CodedRow::<L, ROUND> { table, codes, scales: scales.of::<L>(&self.w, row) };
            let weight = |col: usize| self.w.weight(row, col);
            let sums = row_sums::<L, _, R>(l, &w, &self.x[first * cols..], cols, weight);
            for (j, sum) in sums.into_iter().enumerate() {
                (self.put)(first + j, row, sum);
            }
        }
    }
}

/// A row of weights, read as float32.
trait WeightRow<L: Lanes> {
    /// Bytes of a column.
    const BYTES: usize;
    /// Bytes from what is read in order to what is prefetched.
    const AHEAD: usize;
    /// The weights of a group of columns.
    fn group(&self, l: L, at: usize) -> [L::F; 4];
    /// Prefetches what lies so many bytes after a group.
    fn prefetch(&self, l: L, at: usize, ahead: usize);
}

/// Codes, and the scale of each vector of them.
struct CodedRow<'a, L: Lanes, const ROUND: bool> {
    table: L::RegisterTable,
    codes: &'a [u8],
    scales: &'a [f32],
}

impl<L: Lanes, const ROUND: bool> WeightRow<L> for CodedRow<'_, L, ROUND> {
    const BYTES: usize = 1;
    const AHEAD: usize = 2048;
    #[inline(always)]
    fn group(&self, l: L, at: usize) -> [L::F; 4] {
        group::<L, ROUND>(l, self.table, &self.codes[at..at + L::GROUP], &self.scales[at / L::N..])
    }
    #[inline(always)]
    fn prefetch(&self, l: L, at: usize, ahead: usize) {
        l.prefetch(&self.codes[at..], ahead);
    }
}

impl<L: Lanes> WeightRow<L> for &[f32] {
    const BYTES: usize = 4;
    const AHEAD: usize = 8192;
    #[inline(always)]
    fn group(&self, l: L, at: usize) -> [L::F; 4] {
        let w = &self[at..at + L::GROUP];
        let [(a, b), (c, d)] = [w.split_at(L::N), w[2 * L::N..].split_at(L::N)];
        [l.load_f32(a), l.load_f32(b), l.load_f32(c), l.load_f32(d)]
    }
    #[inline(always)]
    fn prefetch(&self, l: L, at: usize, ahead: usize) {
        // Further on than the first-level cache has room for.
        for line in 0..4 * L::GROUP / LINE {
            l.prefetch_far(&self[at..], ahead + line * LINE);
        }
    }
}

/// The products of a row of weights with `R` rows of `x`; `weight` reads one.
#[inline(always)]
fn row_sums<L: Lanes, W: WeightRow<L>, const R: usize>(
    l: L,
    w: &W,
    x: &[f32],
    cols: usize,
    weight: impl Fn(usize) -> f32,
) -> [f32; R] {
    // The fewer rows, the wider the part of a row that is taken at once, so that sums fill the registers of the level.
    let wide = const { L::N == VECTOR };
    match const { R } {
        _ if cols < LONG => sums_of::<L, W, 64, R, 1>(l, w, x, cols, weight),
        1 if wide => sums_of::<L, W, 256, R, 4>(l, w, x, cols, weight),
        2 if wide => sums_of::<L, W, 256, R, 2>(l, w, x, cols, weight),
        1 => sums_of::<L, W, 256, R, 2>(l, w, x, cols, weight),
        _ => sums_of::<L, W, 256, R, 1>(l, w, x, cols, weight),
    }
}

/// The same with so many partial sums, `G` groups of columns at a time.
#[inline(always)]
fn sums_of<L: Lanes, W: WeightRow<L>, const SUMS: usize, const R: usize, const G: usize>(
    l: L,
    w: &W,
    x: &[f32],
    cols: usize,
    weight: impl Fn(usize) -> f32,
) -> [f32; R] {
    let whole = cols / SUMS * SUMS;
    let rows: [_; R] = std::array::from_fn(|j| &x[j * cols..(j + 1) * cols]);
    let mut aligned = PartialSums([[0f32; SUMS]; R]);
    let PartialSums(sums) = &mut aligned;
    add_row::<L, W, SUMS, R, G>(l, w, &rows, whole, sums);
    for (row, sums) in rows.iter().zip(sums.iter_mut()) {
        for (col, sum) in (whole..cols).zip(sums.iter_mut()) {
            *sum += row[col] * weight(col);
        }
    }
    let mut products = [0.0; R];
    for (product, sums) in products.iter_mut().zip(sums) {
        *product = pairwise(sums);
    }
    products
}

/// The interleaved order of float32 weights: the products of some rows of `x` with all of them, for `put`.
struct Floats<'a, 'p> {
    w: &'a [f32],
    x: &'a [f32],
    cols: usize,
    put: &'p mut dyn FnMut(usize, usize, f32),
}

impl SumOrder for Floats<'_, '_> {
    const PADDED: bool = false;
    const GROUPS_16: u16 = Interleaved::GROUPS_16;
    const GROUPS: u16 = Self::GROUPS_16;

    #[inline(always)]
    fn products<L: Lanes, const R: usize>(&mut self, l: L, first: usize) -> bool {
        for (row, w) in self.w.chunks_exact(self.cols).enumerate() {
            let sums = row_sums::<L, _, R>(l, &w, &self.x[first * self.cols..], self.cols, |col| w[col]);
            for (j, sum) in sums.into_iter().enumerate() {
                (self.put)(first + j, row, sum);
            }
        }
        true
    }
}

/// Passes the product of every row of `x` with every row of `w` to `put`; rows have `cols` numbers, at least one.
pub(crate) fn float_products(w: &[f32], x: &[f32], cols: usize, put: &mut dyn FnMut(usize, usize, f32)) {
    let rows = x.len() / cols;
    dispatch(Skinny { order: Floats { w, x, cols, put }, rows });
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// The partial sums of `R` rows, on cache lines of their own.
#[repr(align(64))]
struct PartialSums<const SUMS: usize, const R: usize>([[f32; SUMS]; R]);

/// Adds up the partial sums of a row of weights, as far as they are whole, with `R` rows: in each pass, `G` groups of every
/// `SUMS` columns.
#[inline(always)]
fn add_row<L: Lanes, W: WeightRow<L>, const SUMS: usize, const R: usize, const G: usize>(
    l: L,
    w: &W,
    x: &[&[f32]; R],
    whole: usize,
    sums: &mut [[f32; SUMS]; R],
) {
    // One pass prefetches in the order of reading; several passes, a row ahead.
    let ahead = if G * L::GROUP >= SUMS { W::AHEAD } else { whole * W::BYTES };
    for place in (0..SUMS).step_by(G * L::GROUP) {
        let mut parts = [[[l.f32(0.0); 4]; R]; G];
        for chunk in (0..whole).step_by(SUMS) {
            for (g, parts) in parts.iter_mut().enumerate() {
                let at = chunk + place + g * L::GROUP;
                w.prefetch(l, at, ahead);
                let w = w.group(l, at);
                for (x, parts) in x.iter().zip(parts) {
                    let x = &x[at..at + L::GROUP];
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

/// Bytes from the codes that are added to `out` to those that are prefetched.
const COMBINED: usize = 4096;

/// Adds factors times coded rows to `out`.
struct CombineCoded<'a> {
    w: CodedRows<'a>,
    factors: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for CombineCoded<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) -> bool {
        let Some(table) = l.register_table(self.w.table) else { return false };
        if self.w.rounded {
            self.all::<L, true>(l, table);
        } else {
            self.all::<L, false>(l, table);
        }
        true
    }
}

impl CombineCoded<'_> {
    #[inline(always)]
    fn all<L: Lanes, const ROUND: bool>(&mut self, l: L, table: L::RegisterTable) {
        let mut at = 0;
        while at + 4 * L::GROUP <= self.w.cols {
            self.groups::<L, ROUND, 4>(l, table, at);
            at += 4 * L::GROUP;
        }
        while at + L::GROUP <= self.w.cols {
            self.groups::<L, ROUND, 1>(l, table, at);
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
        table: L::RegisterTable,
        at: usize,
    ) {
        let mut scales = VectorScales::default();
        let out = &mut self.out[at..at + G * L::GROUP];
        let mut sums = [[l.f32(0.0); 4]; G];
        for (i, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
            *sum = l.load_f32(&out[i * L::N..]);
        }
        for (row, factor) in self.factors.iter().enumerate() {
            let (each, codes, factor) = (scales.of::<L>(&self.w, row), self.w.row(row), l.f32(*factor));
            for (g, sums) in sums.iter_mut().enumerate() {
                let place = at + g * L::GROUP;
                let codes = &codes[place..place + L::GROUP];
                l.prefetch(codes, COMBINED);
                let w = group::<L, ROUND>(l, table, codes, &each[place / L::N..]);
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
