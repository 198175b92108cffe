//! Products through AMX: 32 x 64 blocks of the result, operands widened to bfloat16 in tile order.
//!
//! 512 rows by 1024 k of `a` and a panel of 64 columns of `b` stay in the second-level cache, the sums of a block in the
//! first. The promotion of a block is interleaved with the tile instructions of the next.

use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{segments, KRun, KSegment, Region, Scratch, SideOperand};
use crate::interrupt::poll;
use crate::simd::amx::{Amx, Interleave, Lhs, Sums, Tiles};
use crate::simd::{words, Kernel, Lanes, Lookup};

/// k of a segment.
const DEEP: usize = 1024;
/// Rows of a block of `a`.
const TALL: usize = 512;
/// Rows and columns of a product of tiles.
pub(super) const SIDE: usize = 32;
/// Products of tiles in a panel.
const PANELS: usize = 2;
/// Codes widened at a time.
const GROUP: usize = 64;
/// Padding between the rows of a left-hand operand, in words: a cache line.
pub(super) const ROW_GAP: usize = 32;

/// Computes a part of the result.
pub(super) fn product(p: &Problem<'_>, region: &mut Region<'_>) {
    if let Some(amx) = Amx::detect() {
        amx.vectors().enter(AmxTask { amx, p, region });
    }
}

struct AmxTask<'a, 'o> {
    amx: Amx,
    p: &'a Problem<'a>,
    region: &'a mut Region<'o>,
}

impl Kernel for AmxTask<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let AmxTask { amx, p, region } = self;
        let segments = segments(p, DEEP, DEEP);
        region.prepare(&segments);
        let mut work = AmxWorkspace::new(p, region);
        let tiles = amx.tiles(16);
        for segment in &segments {
            for row in (0..region.size.0).step_by(TALL) {
                work.rows(l, p, &tiles, segment, region, row);
            }
        }
    }
}

/// The buffers of a task.
struct AmxWorkspace {
    lhs: Scratch<u16>,
    rhs: Scratch<u16>,
    sums: Box<[BlockSums; PANELS]>,
    /// Scales of each run, for the rows of a block and for the columns of a panel.
    row_scales: Vec<[f32; SIDE]>,
    column_scales: Vec<[f32; SIDE]>,
    /// Offsets of the scales of each row and column of the region.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
}

/// Sums of 32 rows and 32 columns.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct BlockSums {
    done: Sums,
    partial: Sums,
}

/// The position of a block: its first row in the region, its panel in the block of `a`, its first column.
#[derive(Clone, Copy)]
struct BlockPlace {
    row: usize,
    panel: usize,
    column: usize,
    /// Its width in products of tiles.
    wide: usize,
}

impl AmxWorkspace {
    fn new(p: &Problem<'_>, region: &Region<'_>) -> AmxWorkspace {
        let deep = p.k.min(DEEP).div_ceil(GROUP);
        let zero = [[0.0; 16]; 64];
        AmxWorkspace {
            lhs: Scratch::new(region.size.0.min(TALL).div_ceil(SIDE) * SIDE * (deep * GROUP + ROW_GAP)),
            rhs: Scratch::new(PANELS * deep * SIDE * GROUP),
            sums: Box::new([BlockSums { done: zero, partial: zero }; PANELS]),
            row_scales: Vec::new(),
            column_scales: Vec::new(),
            rows_at: p.a.scales_at(region.a_row(0), region.size.0),
            columns_at: p.b.scales_at(region.b_row(0), region.size.1),
        }
    }

    /// Computes the rows from `row` on, as many as a block of `a` has.
    #[inline(always)]
    fn rows<L: Lanes>(
        &mut self,
        l: L,
        p: &Problem<'_>,
        tiles: &Tiles,
        segment: &KSegment,
        region: &mut Region<'_>,
        row: usize,
    ) {
        let (rows, columns) = ((region.size.0 - row).min(TALL), region.size.1);
        let k = segment.range();
        let (stride, steps) = (k.len().next_multiple_of(GROUP) + ROW_GAP, k.len().div_ceil(STEP));
        for first in (0..rows).step_by(SIDE) {
            let lhs = &mut self.lhs.get_mut()[first * stride..][..SIDE * stride];
            let (count, row) = ((rows - first).min(SIDE), region.a_row(row + first));
            let rows = OperandRows { side: &p.a, row, count, stride: p.k };
            l.call(WidenLhs { rows, begin: k.start, end: k.end, ahead: 0, stride, out: lhs });
        }
        scales(&p.a, &self.rows_at[row..row + rows], segment, &mut self.row_scales);
        for column in (0..columns).step_by(PANELS * SIDE) {
            poll();
            let count = (columns - column).min(PANELS * SIDE);
            let size = steps * STEP * SIDE;
            let wide = count.div_ceil(SIDE);
            for panel in 0..wide {
                let first = panel * SIDE;
                let (count, row) = ((count - first).min(SIDE), region.b_row(column + first));
                let rows = OperandRows { side: &p.b, row, count, stride: p.k };
                let rhs = &mut self.rhs.get_mut()[panel * size..][..size];
                l.call(WidenRhs { rows, begin: k.start, end: k.end, out: rhs });
            }
            scales(&p.b, &self.columns_at[column..column + count], segment, &mut self.column_scales);
            for panel in 0..rows.div_ceil(SIDE) {
                let place = BlockPlace { row: row + panel * SIDE, panel, column, wide };
                self.block(l, p, tiles, segment, region, place);
            }
        }
    }

    /// Computes a block of 32 rows and up to 64 columns.
    #[inline(always)]
    fn block<L: Lanes>(
        &mut self,
        l: L,
        p: &Problem<'_>,
        tiles: &Tiles,
        segment: &KSegment,
        region: &mut Region<'_>,
        place: BlockPlace,
    ) {
        self.begin(p, segment, region, place);
        let k = segment.range();
        let (stride, size) =
            (k.len().next_multiple_of(GROUP) + ROW_GAP, k.len().div_ceil(STEP) * STEP * SIDE);
        let lhs = Lhs { words: &self.lhs.get()[place.panel * SIDE * stride..][..SIDE * stride], stride };
        let (runs, tall) = (&segment.runs, self.row_scales.len() / segment.runs.len().max(1));
        let wide = self.column_scales.len() / segment.runs.len().max(1);
        let (row_scales, column_scales) = (&self.row_scales, &self.column_scales);
        let scales = |t: usize, j: usize| (&row_scales[t * tall + place.panel], &column_scales[t * wide + j]);
        let [first, second] = &mut *self.sums;
        // The interval whose sums wait for promotion, of either product.
        let mut waiting: [Option<usize>; PANELS] = [None; PANELS];
        for (t, run) in runs.iter().enumerate() {
            let at = (run.begin - k.start) / STEP;
            for j in 0..place.wide {
                let rhs = &self.rhs.get()[j * size..][..size];
                let (this, other) =
                    if j == 0 { (&mut *first, &mut *second) } else { (&mut *second, &mut *first) };
                if let Some(t) = waiting[j].take() {
                    promote(l, this, scales(t, j));
                }
                if let Some(t) = waiting[1 - j].take() {
                    let (rows, columns) = scales(t, 1 - j);
                    let BlockSums { done, partial } = other;
                    let promotion = Promotion { l, partial, done, rows, columns };
                    beside(tiles, lhs, rhs, at, run, &mut this.partial, promotion);
                } else {
                    let steps = (run.end - run.begin).div_ceil(STEP);
                    tiles.product::<2>(lhs, at, rhs, at, steps, run.opens, &mut this.partial, ());
                }
                waiting[j] = run.closes.then_some(t);
            }
        }
        for (j, t) in waiting.into_iter().enumerate() {
            if let Some(t) = t {
                let block = if j == 0 { &mut *first } else { &mut *second };
                promote(l, block, scales(t, j));
            }
        }
        self.end(p, segment, region, place);
    }

    /// Loads the initial sums.
    #[inline(always)]
    fn begin(&mut self, p: &Problem<'_>, segment: &KSegment, region: &Region<'_>, place: BlockPlace) {
        let kept = !p.chained && segment.runs.first().is_some_and(|r| !r.opens);
        let mut sums = [0.0; PANELS * SIDE];
        for i in 0..SIDE {
            region.load(segment, place.row + i, place.column, &mut sums);
            for (block, sums) in self.sums.iter_mut().zip(sums.as_chunks::<16>().0.chunks_exact(2)) {
                set_row(if p.chained { &mut block.partial } else { &mut block.done }, i, sums);
            }
            if kept {
                region.load_partial(place.row + i, place.column, &mut sums);
                for (block, sums) in self.sums.iter_mut().zip(sums.as_chunks::<16>().0.chunks_exact(2)) {
                    set_row(&mut block.partial, i, sums);
                }
            }
        }
    }

    /// Stores the sums.
    #[inline(always)]
    fn end(&mut self, p: &Problem<'_>, segment: &KSegment, region: &mut Region<'_>, place: BlockPlace) {
        let keep = !p.chained && segment.runs.last().is_some_and(|r| !r.closes);
        let [x, y] = &*self.sums;
        let row = |sums: fn(&BlockSums) -> &Sums, i: usize| {
            let (x, y, i) = (sums(x), sums(y), i / 16 * 32 + i % 16);
            [x[i], x[i + 16], y[i], y[i + 16]]
        };
        for i in 0..SIDE {
            let sums = if p.chained { row(|b| &b.partial, i) } else { row(|b| &b.done, i) };
            region.store(segment, place.row + i, place.column, sums.as_flattened());
            if keep {
                region.keep_partial(place.row + i, place.column, row(|b| &b.partial, i).as_flattened());
            }
        }
    }
}

/// Sets row `i` of the sums of a product of tiles.
#[inline(always)]
fn set_row(sums: &mut Sums, i: usize, row: &[[f32; 16]]) {
    let i = i / 16 * 32 + i % 16;
    (sums[i], sums[i + 16]) = (row[0], row[1]);
}

#[inline(always)]
fn promote<L: Lanes>(l: L, block: &mut BlockSums, (rows, columns): (&[f32; SIDE], &[f32; SIDE])) {
    let BlockSums { done, partial } = block;
    let mut promotion = Promotion { l, partial, done, rows, columns };
    for i in 0..64 {
        promotion.piece(i);
    }
}

/// Computes a run of one block, interleaved with a promotion.
#[inline(always)]
fn beside<L: Lanes>(
    tiles: &Tiles,
    lhs: Lhs<'_>,
    rhs: &[u16],
    at: usize,
    run: &KRun,
    sums: &mut Sums,
    promotion: Promotion<'_, L>,
) {
    let steps = (run.end - run.begin).div_ceil(STEP);
    if steps == 4 {
        // The usual interval, 128 k, is unrolled.
        tiles.product::<2>(lhs, at, rhs, at, 4, run.opens, sums, QuarterPromotion(promotion));
    } else {
        let spread = SpreadPromotion { promotion, pieces: 64, each: 16_usize.div_ceil(steps) };
        tiles.product::<2>(lhs, at, rhs, at, steps, run.opens, sums, spread);
    }
}

/// `final = fma(row scale * column scale, partial, final)`.
pub(super) struct Promotion<'a, L> {
    pub l: L,
    pub partial: &'a Sums,
    pub done: &'a mut Sums,
    pub rows: &'a [f32; SIDE],
    pub columns: &'a [f32; SIDE],
}

impl<L: Lanes> Promotion<'_, L> {
    /// Promotes row `i % 16` of tile `i / 16`.
    #[inline(always)]
    pub fn piece(&mut self, i: usize) {
        let (l, i) = (self.l, i % 64);
        let (row, column) = (i / 32 * 16 + i % 16, i / 16 % 2 * 16);
        let scale = l.fmul(l.f32(self.rows[row]), l.load_f32(&self.columns[column..column + 16]));
        let sum = l.fma(scale, l.load_f32(&self.partial[i]), l.load_f32(&self.done[i]));
        l.store_f32(sum, &mut self.done[i], false);
    }
}

/// A promotion in parts, one for each slot.
pub(super) struct SpreadPromotion<'a, L> {
    pub promotion: Promotion<'a, L>,
    /// 64 rows, or the 32 of the left tiles.
    pub pieces: usize,
    pub each: usize,
}

impl<L: Lanes> Interleave for SpreadPromotion<'_, L> {
    #[inline(always)]
    fn slot(&mut self, slot: usize) {
        for i in slot * self.each..(slot * self.each + self.each).min(self.pieces) {
            self.promotion.piece(if self.pieces == 64 { i } else { i / 16 * 32 + i % 16 });
        }
    }
}

/// A promotion in sixteen parts.
struct QuarterPromotion<'a, L>(Promotion<'a, L>);

impl<L: Lanes> Interleave for QuarterPromotion<'_, L> {
    #[inline(always)]
    fn slot(&mut self, slot: usize) {
        self.0.piece(4 * slot);
        self.0.piece(4 * slot + 1);
        self.0.piece(4 * slot + 2);
        self.0.piece(4 * slot + 3);
    }
}

/// Collects the scales of some rows at each run of a segment, in parts of 32.
fn scales(side: &ByteOperand<'_>, at: &[usize], segment: &KSegment, out: &mut Vec<[f32; SIDE]>) {
    out.clear();
    for run in &segment.runs {
        for at in at.chunks(SIDE) {
            let mut part = [0.0; SIDE];
            for (to, at) in part.iter_mut().zip(at) {
                *to = side.scale(*at, run.begin);
            }
            out.push(part);
        }
    }
}

/// Some rows of a side.
#[derive(Clone, Copy)]
pub(super) struct OperandRows<'a> {
    pub side: &'a ByteOperand<'a>,
    pub row: usize,
    pub count: usize,
    pub stride: usize,
}

impl OperandRows<'_> {
    /// The codes of row `i` from k `begin` to `end`.
    #[inline(always)]
    pub fn codes(&self, i: usize, begin: usize, end: usize) -> &[u8] {
        &self.side.codes[(self.row + i) * self.stride..][begin..end]
    }
}

/// Widens up to 32 rows to a left-hand operand, padded with zeros to 32 rows and a multiple of 64 k.
pub(super) struct WidenLhs<'a> {
    pub rows: OperandRows<'a>,
    pub begin: usize,
    pub end: usize,
    /// Prefetch distance of each row in bytes; 0 leaves it to the hardware.
    pub ahead: usize,
    /// Words between the rows.
    pub stride: usize,
    pub out: &'a mut [u16],
}

impl Kernel for WidenLhs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let WidenLhs { rows, begin, end, ahead, stride, out } = self;
        let table = rows.side.table;
        let length = (end - begin).next_multiple_of(GROUP);
        for (i, out) in out.chunks_exact_mut(stride).enumerate() {
            let codes = if i < rows.count { rows.codes(i, begin, end) } else { &[] };
            let (groups, rest) = codes.as_chunks::<GROUP>();
            let (whole, beyond) = out[..length].split_at_mut(groups.len() * GROUP);
            for (codes, out) in groups.iter().zip(whole.chunks_exact_mut(GROUP)) {
                if ahead > 0 {
                    l.prefetch(codes, ahead);
                }
                l.lookup_bf16(table, codes, out, false);
            }
            for (j, out) in beyond.chunks_exact_mut(GROUP).enumerate() {
                widen_part(l, table, if j == 0 { rest } else { &[] }, out);
            }
        }
    }
}

/// Widens fewer than 64 codes, padded with zeros.
#[inline(always)]
fn widen_part<L: Lanes>(l: L, table: &Lookup, codes: &[u8], out: &mut [u16]) {
    let mut padded = [0u8; GROUP];
    padded[..codes.len()].copy_from_slice(codes);
    l.lookup_bf16(table, &padded, out, false);
}

/// Widens up to 32 rows to a right-hand operand: for each step two tiles, each of 16 pairs of k of 16 rows.
pub(super) struct WidenRhs<'a> {
    pub rows: OperandRows<'a>,
    pub begin: usize,
    pub end: usize,
    pub out: &'a mut [u16],
}

impl Kernel for WidenRhs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let rows = self.rows;
        let mut words = [0u8; 512];
        for (i, out) in self.out.chunks_exact_mut(STEP * 16).enumerate() {
            let (from, tile) = (self.begin + i / 2 * STEP, i % 2);
            let count = rows.count.saturating_sub(tile * 16).min(16);
            if count == 16 && self.end - from >= STEP {
                let codes = &rows.side.codes[(rows.row + tile * 16) * rows.stride + from..];
                words::transpose(codes, rows.stride, &mut words);
            } else {
                let mut padded = [0u8; 512];
                for (i, padded) in padded.chunks_exact_mut(STEP).enumerate().take(count) {
                    let codes = rows.codes(tile * 16 + i, from, self.end.min(from + STEP));
                    padded[..codes.len()].copy_from_slice(codes);
                }
                words::transpose(&padded, STEP, &mut words);
            }
            for (codes, out) in words.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP)) {
                l.lookup_bf16(rows.side.table, codes, out, false);
            }
        }
    }
}
