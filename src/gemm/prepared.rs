//! A matrix laid out once for many products: packing transposes columns anew for each product, which is most of the work
//! of a product of few rows.

use super::accumulator::{Accumulator, Unit};
use super::blocked::Scratch;
use super::coded::{panel_len, LayOut};
use super::emulated;
use super::job::Side;
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
#[derive(Debug)]
enum Lines {
    /// Codes as they are, four k of sixteen columns after another, panel by panel.
    Codes(Scratch<f32>),
    /// Codes taken apart, two k of sixteen columns after another.
    Split(Vec<SplitLine>),
}

/// Columns transposed for the vector steps of a unit.
#[derive(Debug)]
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
        let (format, lines) = (b.format, Lines::Split(Vec::new()));
        let ranges = vec![ExponentRange::NONE; rows];
        let mut found = Prepared { accumulator, format, rows, k, lines, ranges };
        Ok(dispatch_mma(Task { side: &b, out: &mut found }).is_none().then_some(found))
    }

    /// Bytes that it takes.
    pub fn nbytes(&self) -> usize {
        let lines = match &self.lines {
            Lines::Codes(lines) => std::mem::size_of_val(lines.get()),
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
        match &self.lines {
            Lines::Split(lines) => {
                let (from, to) = (first / COLUMNS * half + pair, (first / COLUMNS + 1) * half);
                let (there, beyond) = out.split_at_mut(out.len().min(to - from));
                there
                    .iter_mut()
                    .zip(&lines[from..to])
                    .for_each(|(out, line)| F::split_column::<L>(line, out));
                beyond.iter_mut().for_each(|out| F::split_column::<L>(&SplitLine::BLANK, out));
            }
            Lines::Codes(lines) => {
                let panel = &lines.get()[first / COLUMNS * panel_len(self.k)..][..panel_len(self.k)];
                let quads = panel.as_chunks::<COLUMNS>().0[pair / 2..].iter();
                for (out, quads) in out.chunks_mut(2).zip(quads) {
                    for (i, out) in out.iter_mut().enumerate() {
                        let pairs = quads.map(|four| {
                            let two = four.to_bits() >> (16 * i);
                            (two & 0xFF | (two & 0xFF00) << 8) & fields.both()
                        });
                        layout.column::<L>(fields, pairs, out);
                    }
                }
            }
        }
    }

    /// The codes of a panel of columns from `first` on, as [`LayOut`] has them; none if they are taken apart.
    pub(super) fn panel(&self, first: usize) -> Option<&[f32]> {
        match &self.lines {
            Lines::Codes(lines) => Some(&lines.get()[first / COLUMNS * panel_len(self.k)..]),
            Lines::Split(_) => None,
        }
    }

    /// The exponent ranges of columns from `first` on.
    pub(super) fn ranges(&self, first: usize) -> &[ExponentRange] {
        &self.ranges[first..]
    }
}

/// Lays out all columns.
struct Task<'a, 'b> {
    side: &'b Side<'a>,
    out: &'b mut Prepared,
}

impl MmaTask for Task<'_, '_> {
    fn run<L: Mma>(self, l: L) {
        let Task { side, out } = self;
        let panels = out.rows.div_ceil(COLUMNS);
        if !L::CODED && emulated::is_narrow(out.accumulator) {
            let source = Source::new(side, emulated::unit(out.accumulator));
            let mut lines = vec![SplitLine::BLANK; panels * out.k.div_ceil(2)];
            l.call(Columns { l, source, k: out.k, lines: &mut lines, ranges: &mut out.ranges });
            out.lines = Lines::Split(lines);
            return;
        }
        let mut lines = Scratch::new(panels * panel_len(out.k));
        let each = lines.get_mut().chunks_exact_mut(panel_len(out.k).max(1));
        for (i, (to, ranges)) in each.zip(out.ranges.chunks_mut(COLUMNS)).enumerate() {
            poll();
            l.call(LayOut { side, first: i * COLUMNS, k: 0..out.k, ranges, out: to });
        }
        out.lines = Lines::Codes(lines);
    }
}

/// Takes all columns apart.
struct Columns<'a, 'b, L> {
    l: L,
    source: Source<'a>,
    k: usize,
    lines: &'b mut [SplitLine],
    ranges: &'b mut [ExponentRange],
}

impl<M: Mma> Kernel for Columns<'_, '_, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Columns { l, source, k, lines, ranges } = self;
        for (panel, ranges) in ranges.chunks_mut(COLUMNS).enumerate() {
            poll();
            for from in (0..k).step_by(BLOCK) {
                let block = from..k.min(from + BLOCK);
                let transposed = source.transposed(l, panel * COLUMNS, &block, ranges);
                let out = &mut lines[panel * k.div_ceil(2) + from / 2..][..block.len().div_ceil(2)];
                out.iter_mut()
                    .zip(transposed)
                    .for_each(|(out, line)| *out = SplitLine::new(source.fields, line));
            }
        }
    }
}
