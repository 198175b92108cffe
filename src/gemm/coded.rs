//! Few rows under emulated FP8 units: columns stay codes, and the steps look them up ([`Mma::coded`]).
//!
//! Taking a column apart costs more than multiplying it by a row or two, so here it is only transposed, which a layout of
//! weights does once ([`prepared`](super::prepared)).

use super::blocked::Scratch;
use super::job::{Job, Side};
use super::pack::{ExponentRange, BLOCK};
use crate::formats::table::{E4M3FN, E5M2};
use crate::formats::{Codes, Format};
use crate::interrupt::poll;
use crate::simd::mma::codes::{CodeTables, CodedRow, QUAD};
use crate::simd::mma::{Floats, Mma, Unit, COLUMNS};
use crate::simd::{Kernel, Lanes};
use std::ops::Range;
use std::sync::LazyLock;

/// The most rows: with more, columns are taken apart once for all of them.
const FEW: usize = 8;
/// k that are transposed at once.
const DEEP: usize = 8 * BLOCK;
/// k of a square that is transposed.
const SQUARE: usize = QUAD * COLUMNS;

/// The tables of a format; none where it has no sign and seven bits.
fn tables(format: &Format) -> Option<&'static CodeTables> {
    static TABLES: LazyLock<[(&str, CodeTables); 2]> = LazyLock::new(|| {
        [E4M3FN, E5M2].map(|format| {
            let fraction = format.man as i32;
            let tables = CodeTables::new(fraction, |magnitude| {
                let (field, rest) = (i32::from(magnitude) >> fraction, magnitude & ((1 << fraction) - 1));
                (rest + (u8::from(field > 0) << fraction), field.max(1) - format.bias)
            });
            (format.name, tables)
        })
    });
    TABLES.iter().find(|(name, _)| *name == format.name).map(|(_, tables)| tables)
}

/// The codes of a side as bytes.
fn bytes<'a>(side: &Side<'a>) -> &'a [u8] {
    match side.codes {
        Codes::U8(codes) => codes,
        _ => unreachable!("codes of eight bits are bytes"),
    }
}

/// Float32 that so many k of a panel take.
pub(super) fn panel_len(k: usize) -> usize {
    k.next_multiple_of(SQUARE) / QUAD * COLUMNS
}

/// A product of few rows that a level takes.
pub(super) struct CodedRows<'a> {
    job: &'a Job<'a>,
    unit: Unit,
    /// The tables of either side.
    tables: (&'static CodeTables, &'static CodeTables),
    /// Left shift of the significands of rows.
    shift: u32,
}

impl<'a> CodedRows<'a> {
    /// The product of so many rows, if a level takes it.
    pub fn new<L: Mma>(job: &'a Job<'a>, unit: Unit, rows: usize, shift: u32) -> Option<CodedRows<'a>> {
        let plain = !unit.software && job.a.unit_scales.is_none() && job.b.unit_scales.is_none();
        if !L::CODED || rows > FEW || !plain {
            return None;
        }
        let tables = (tables(job.a.format)?, tables(job.b.format)?);
        Some(CodedRows { job, unit, tables, shift })
    }

    /// Adds the products of rows of a with columns, from a row of b on, to the totals, panel by panel as many as there are
    /// rows. Widens the ranges of both.
    pub fn add<L: Mma>(
        &self,
        l: L,
        (a_row, b_row): (usize, usize),
        totals: &mut [Floats],
        (a_reach, b_reach): (&mut [ExponentRange], &mut [ExponentRange]),
    ) {
        let (job, rows) = (self.job, a_reach.len());
        let padded = job.k.next_multiple_of(self.unit.products) / QUAD;
        let quads: Vec<CodedRow> =
            a_reach.iter_mut().enumerate().map(|(i, range)| self.row(a_row + i, padded, range)).collect();
        let pieces = self.pieces(a_row, rows);
        let held = |first: usize| job.b.prepared.and_then(|prepared| prepared.panel(first));
        let mut scratch = Scratch::new(if held(0).is_some() { 0 } else { panel_len(job.k.min(DEEP)) });
        let mut partial = vec![Floats([0.0; COLUMNS]); rows];
        let panels = totals.chunks_exact_mut(rows).zip(b_reach.chunks_mut(COLUMNS)).enumerate();
        for (panel, (totals, ranges)) in panels {
            let first = b_row + panel * COLUMNS;
            let held = held(first);
            let mut begin = usize::MAX;
            for piece in &pieces {
                let block = piece.k.start / DEEP * DEEP;
                if block != begin {
                    poll();
                    begin = block;
                    if held.is_none() {
                        let k = block..job.k.min(block + DEEP);
                        l.call(LayOut { side: &job.b, first, k, ranges, out: scratch.get_mut() });
                    }
                }
                let place =
                    piece.k.start / QUAD..if piece.k.end == job.k { padded } else { piece.k.end / QUAD };
                let columns = match held {
                    Some(panel) => &panel[COLUMNS * place.start..COLUMNS * place.end],
                    None => &scratch.get()[COLUMNS * (place.start - begin / QUAD)..][..COLUMNS * place.len()],
                };
                if piece.opens {
                    partial.fill(Floats([0.0; COLUMNS]));
                }
                let sums = if job.chained { &mut *totals } else { &mut partial[..] };
                for (row, sums) in quads.iter().zip(sums) {
                    l.coded(self.unit, row, place.clone(), self.tables.1, columns, sums);
                }
                if piece.closes {
                    let scales = job.scaled().then(|| {
                        let mut scales = Floats([0.0; COLUMNS]);
                        job.b.scales_from(first, piece.k.start, &mut scales.0[..ranges.len()]);
                        scales
                    });
                    l.promote(
                        totals,
                        &partial,
                        scales.as_ref().map(|scales| (&piece.row_scales[..], scales)),
                    );
                }
            }
            if let Some(prepared) = job.b.prepared {
                ranges.copy_from_slice(&prepared.ranges(first)[..ranges.len()]);
            }
        }
    }

    /// Takes a row apart.
    fn row(&self, row: usize, padded: usize, range: &mut ExponentRange) -> CodedRow {
        let side = &self.job.a;
        let codes = &bytes(side)[row * side.k..][..side.k];
        if codes.iter().any(|code| u32::from(code & 0x7F) > side.format.max_code()) {
            range.widen(-ExponentRange::FAR, ExponentRange::FAR);
        }
        self.tables.0.row(self.unit, codes, padded, self.shift)
    }

    /// The pieces of k: intervals, or parts of them that end with a block.
    fn pieces(&self, a_row: usize, rows: usize) -> Vec<Piece> {
        let (job, mut pieces, mut at) = (self.job, Vec::new(), 0);
        while at < job.k {
            let end = job.k.min(at / job.interval * job.interval + job.interval);
            let k = at..end.min(at / DEEP * DEEP + DEEP);
            let closes = !job.chained && k.end == end;
            let mut row_scales = vec![0.0; if closes && job.scaled() { rows } else { 0 }];
            job.a.scales_from(a_row, at, &mut row_scales);
            at = k.end;
            let opens = !job.chained && k.start.is_multiple_of(job.interval);
            pieces.push(Piece { k, opens, closes, row_scales });
        }
        pieces
    }
}

/// A piece of k.
struct Piece {
    k: Range<usize>,
    /// True: the partial sums start here.
    opens: bool,
    /// True: they are promoted at the end.
    closes: bool,
    /// A factor for each row; none where nothing is scaled or promoted.
    row_scales: Vec<f32>,
}

/// Transposes some k of as many columns as there are ranges, from row `first` on; zeros for the others.
pub(super) struct LayOut<'a, 'b> {
    pub side: &'b Side<'a>,
    pub first: usize,
    pub k: Range<usize>,
    pub ranges: &'b mut [ExponentRange],
    pub out: &'b mut [f32],
}

impl Kernel for LayOut<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let LayOut { side, first, k, ranges, out } = self;
        let codes = bytes(side);
        // Sets the sign bit of what is beyond the largest number.
        let beyond = l.u32((0x7F - side.format.max_code()) * 0x0101_0101);
        let magnitude = l.u32(((1 << (side.format.bits() - 1)) - 1) * 0x0101_0101);
        let mut reach = [l.u32(0); COLUMNS];
        let reach = &mut reach[..COLUMNS / L::N];
        for (at, out) in k.clone().step_by(SQUARE).zip(out.chunks_exact_mut(COLUMNS * COLUMNS)) {
            let len = SQUARE.min(k.end - at);
            let row = |c: usize| (first + c) * side.k + at;
            (0..ranges.len()).for_each(|c| l.prefetch(codes, row(c + COLUMNS)));
            if ranges.len() == COLUMNS && len == SQUARE {
                transpose(l, &codes[row(0)..], side.k, out);
            } else {
                let mut padded = [0; SQUARE * COLUMNS];
                for (c, line) in padded.chunks_exact_mut(SQUARE).enumerate().take(ranges.len()) {
                    line[..len].copy_from_slice(&codes[row(c)..][..len]);
                }
                transpose(l, &padded, SQUARE, out);
            }
            for line in out.chunks_exact(COLUMNS) {
                for (reach, quads) in reach.iter_mut().zip(line.chunks_exact(L::N)) {
                    let magnitudes = l.and(l.bits(l.load_f32(quads)), magnitude);
                    *reach = l.or(*reach, l.add(magnitudes, beyond));
                }
            }
        }
        let mut each = [0; COLUMNS];
        for (reach, each) in reach.iter().zip(each.chunks_exact_mut(L::N)) {
            l.store_u32(*reach, each);
        }
        for (range, reach) in ranges.iter_mut().zip(each) {
            if reach & 0x8080_8080 != 0 {
                range.widen(-ExponentRange::FAR, ExponentRange::FAR);
            }
        }
    }
}

/// Transposes a square of rows every `stride` codes, in tiles of the level.
#[inline(always)]
fn transpose<L: Lanes>(l: L, codes: &[u8], stride: usize, out: &mut [f32]) {
    for at in (0..COLUMNS).step_by(L::N).flat_map(|row| (0..COLUMNS).step_by(L::N).map(move |col| (row, col)))
    {
        let out = &mut out[at.1 * COLUMNS + at.0..];
        l.transpose_into(&codes[at.0 * stride + QUAD * at.1..], stride, out, COLUMNS);
    }
}
