//! A matrix laid out once for many products: packing transposes columns anew for each product, which is most of the work
//! of a product of few rows.

use super::accumulator::{Accumulator, Unit};
use super::emulated;
use super::pack::{ExponentRange, Source, BLOCK};
use super::product::{side, Operand, Options};
use crate::error::Error;
use crate::formats::Format;
use crate::simd::mma::{dispatch_mma, Mma, MmaTask, COLUMNS, LANES};
use crate::simd::{Kernel, Lanes};

/// Columns transposed for the vector steps of a unit: two k of sixteen columns after another, a byte for each code.
#[derive(Clone, Debug)]
pub struct Prepared {
    accumulator: &'static Accumulator,
    format: &'static Format,
    rows: usize,
    k: usize,
    pairs: Vec<[u8; LANES]>,
    ranges: Vec<ExponentRange>,
}

impl Prepared {
    /// True where products with few rows gain: the emulated units whose codes are bytes that come without scales.
    pub fn gains(accumulator: &Accumulator, format: &Format) -> bool {
        accumulator.unit == Unit::TensorCore && accumulator.scale.is_none() && format.bits() <= 8
    }

    /// Lays out `rows x k` codes, the right operand of products. `None` where nothing is gained, or where the level has no
    /// vectors for it.
    ///
    /// # Errors
    /// As of the products, for the operand.
    pub fn new(
        accumulator: &'static Accumulator,
        b: &Operand<'_>,
        rows: usize,
        k: usize,
    ) -> Result<Option<Prepared>, Error> {
        let options = Options { accumulator, promote_every: None };
        let b = side("b", &Operand { scales: None, ..*b }, [1, rows, k], &options)?;
        if !Prepared::gains(accumulator, b.format) {
            return Ok(None);
        }
        let mut found = Prepared {
            accumulator,
            format: b.format,
            rows,
            k,
            pairs: vec![[0; LANES]; rows.div_ceil(COLUMNS) * k.div_ceil(2)],
            ranges: vec![ExponentRange::NONE; rows],
        };
        let source = Source::new(&b, emulated::unit(accumulator));
        Ok(dispatch_mma(Task { source, out: &mut found }).is_none().then_some(found))
    }

    /// Bytes that it takes.
    pub fn nbytes(&self) -> usize {
        std::mem::size_of_val(&self.pairs[..]) + std::mem::size_of_val(&self.ranges[..])
    }

    /// Tests if it is the layout of such an operand in products of such a unit.
    pub(super) fn fits(&self, accumulator: &Accumulator, format: &Format, shape: [usize; 3]) -> bool {
        self.accumulator.name == accumulator.name
            && self.format.name == format.name
            && shape == [1, self.rows, self.k]
    }

    /// Two k from `2 * pair` on of the sixteen columns from `first` on; zeros beyond the last.
    #[inline(always)]
    pub(super) fn line(&self, first: usize, pair: usize) -> [u32; COLUMNS] {
        let half = self.k.div_ceil(2);
        let mut line = [0; COLUMNS];
        if pair < half {
            let codes = &self.pairs[first / COLUMNS * half + pair];
            for (out, two) in line.iter_mut().zip(codes.chunks_exact(2)) {
                *out = u32::from(two[0]) | u32::from(two[1]) << 16;
            }
        }
        line
    }

    /// The exponent ranges of columns from `first` on.
    pub(super) fn ranges(&self, first: usize) -> &[ExponentRange] {
        &self.ranges[first..]
    }
}

/// Lays out all columns.
struct Task<'a, 'b> {
    source: Source<'a>,
    out: &'b mut Prepared,
}

impl MmaTask for Task<'_, '_> {
    fn run<L: Mma>(self, l: L) {
        l.call(Columns { l, source: self.source, out: self.out });
    }
}

struct Columns<'a, 'b, L> {
    l: L,
    source: Source<'a>,
    out: &'b mut Prepared,
}

impl<M: Mma> Kernel for Columns<'_, '_, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Columns { l, source, out } = self;
        let half = out.k.div_ceil(2);
        for first in (0..out.rows).step_by(COLUMNS) {
            let ranges = &mut out.ranges[first..out.rows.min(first + COLUMNS)];
            for from in (0..out.k).step_by(BLOCK) {
                let block = from..out.k.min(from + BLOCK);
                let lines = source.transposed(l, first, &block, ranges);
                let at = first / COLUMNS * half + from / 2;
                let pairs = &mut out.pairs[at..at + block.len().div_ceil(2)];
                for (pairs, line) in pairs.iter_mut().zip(lines) {
                    for (two, line) in pairs.chunks_exact_mut(2).zip(line) {
                        (two[0], two[1]) = (line as u8, (line >> 16) as u8);
                    }
                }
            }
        }
    }
}
