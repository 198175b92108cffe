//! A matrix laid out once for many products: packing transposes columns anew for each product, which is most of the work
//! of a product of few rows.

use super::accumulator::{Accumulator, Unit};
use super::emulated;
use super::pack::{codes, ExponentRange, Fields, Layout, Source, BLOCK};
use super::product::{side, Operand, Options};
use crate::error::Error;
use crate::formats::Format;
use crate::interrupt::poll;
use crate::simd::mma::{dispatch_mma, Mma, MmaTask, COLUMNS, LANES, ZERO};
use crate::simd::{Kernel, Lanes};

/// Two k of sixteen columns, taken apart: what narrow units multiply.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitLine {
    /// Significands with their signs.
    pub sig: [i8; LANES],
    /// Exponents; [`ZERO`] for zeros.
    pub exp: [i8; LANES],
}

impl SplitLine {
    const BLANK: SplitLine = SplitLine { sig: [0; LANES], exp: [ZERO as i8; LANES] };

    #[inline(always)]
    fn new(fields: Fields, line: [u32; COLUMNS]) -> SplitLine {
        let mut out = SplitLine::BLANK;
        for ((code, sig), exp) in codes(line).into_iter().zip(&mut out.sig).zip(&mut out.exp) {
            let (s, e) = fields.split(code & fields.magnitude);
            if s != 0 {
                *sig = if fields.negative(code) { -s as i8 } else { s as i8 };
                *exp = e as i8;
            }
        }
        out
    }
}

/// The lines of a layout.
#[derive(Clone, Debug)]
enum Lines {
    /// A byte for each code.
    Codes(Vec<[u8; LANES]>),
    /// Codes taken apart.
    Split(Vec<SplitLine>),
}

/// Columns transposed for the vector steps of a unit: two k of sixteen columns after another.
#[derive(Clone, Debug)]
pub struct Prepared {
    accumulator: &'static Accumulator,
    format: &'static Format,
    rows: usize,
    k: usize,
    lines: Lines,
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
        let count = rows.div_ceil(COLUMNS) * k.div_ceil(2);
        let narrow = emulated::is_narrow(accumulator);
        let mut found = Prepared {
            accumulator,
            format: b.format,
            rows,
            k,
            lines: if narrow {
                Lines::Split(vec![SplitLine::BLANK; count])
            } else {
                Lines::Codes(vec![[0; LANES]; count])
            },
            ranges: vec![ExponentRange::NONE; rows],
        };
        let source = Source::new(&b, emulated::unit(accumulator));
        Ok(dispatch_mma(Task { source, out: &mut found }).is_none().then_some(found))
    }

    /// Bytes that it takes.
    pub fn nbytes(&self) -> usize {
        let lines = match &self.lines {
            Lines::Codes(lines) => std::mem::size_of_val(&lines[..]),
            Lines::Split(lines) => std::mem::size_of_val(&lines[..]),
        };
        lines + std::mem::size_of_val(&self.ranges[..])
    }

    /// Tests if it is the layout of such an operand in products of such a unit.
    pub(super) fn fits(&self, accumulator: &Accumulator, format: &Format, shape: [usize; 3]) -> bool {
        self.accumulator.name == accumulator.name
            && self.format.name == format.name
            && shape == [1, self.rows, self.k]
    }

    /// Writes columns from `first` on, from k `2 * pair` on; zeros beyond the last k.
    #[inline(always)]
    pub(super) fn write<L: Mma, F: Layout>(
        &self,
        layout: F,
        fields: Fields,
        first: usize,
        pair: usize,
        out: &mut [F::Columns],
    ) {
        let half = self.k.div_ceil(2);
        let (from, to) = (first / COLUMNS * half + pair, (first / COLUMNS + 1) * half);
        let (there, beyond) = out.split_at_mut(out.len().min(to - from));
        match &self.lines {
            Lines::Split(lines) => {
                there
                    .iter_mut()
                    .zip(&lines[from..to])
                    .for_each(|(out, line)| F::split_column::<L>(line, out));
                beyond.iter_mut().for_each(|out| F::split_column::<L>(&SplitLine::BLANK, out));
            }
            Lines::Codes(lines) => {
                for (out, codes) in there.iter_mut().zip(&lines[from..to]) {
                    let mut line = [0; COLUMNS];
                    for (pair, two) in line.iter_mut().zip(codes.chunks_exact(2)) {
                        *pair = u32::from(two[0]) | u32::from(two[1]) << 16;
                    }
                    layout.column::<L>(fields, line, out);
                }
                beyond.iter_mut().for_each(|out| layout.column::<L>(fields, [0; COLUMNS], out));
            }
        }
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
            poll();
            let ranges = &mut out.ranges[first..out.rows.min(first + COLUMNS)];
            for from in (0..out.k).step_by(BLOCK) {
                let block = from..out.k.min(from + BLOCK);
                let lines = source.transposed(l, first, &block, ranges);
                let at = first / COLUMNS * half + from / 2;
                let place = at..at + block.len().div_ceil(2);
                match &mut out.lines {
                    Lines::Split(split) => {
                        let split = split[place].iter_mut();
                        split.zip(lines).for_each(|(out, line)| *out = SplitLine::new(source.fields, line));
                    }
                    Lines::Codes(codes) => {
                        for (codes, line) in codes[place].iter_mut().zip(lines) {
                            for (two, line) in codes.chunks_exact_mut(2).zip(line) {
                                (two[0], two[1]) = (line as u8, (line >> 16) as u8);
                            }
                        }
                    }
                }
            }
        }
    }
}
