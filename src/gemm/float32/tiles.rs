//! Products through AMX: blocks of 32 rows by 64 columns of the result, operands widened to bfloat16 in the order of tiles.
//!
//! The side of fewer rows are the columns, whichever it is: they are transposed once for each segment of k, and as many of
//! them as the second-level cache holds are multiplied by all rows of the other, which need no transpose. Rows
//! are widened and sums are promoted beside the tile instructions, which leave the vector units idle.

use super::promote::{Beside, Meanwhile, Promotion, Spread, Usual};
use super::widen::{Finish, OperandRows, WidenRhs, Widening, GROUP, ROW_GAP, SIDE, TILE};
use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{
    scales, KSegment, KeptScratch, LoadSums, Part, Place, Region, SideOperand, StoreSums, SumCopy,
};
use crate::interrupt::poll;
use crate::simd::amx::{Amx, Lhs, Sums, Tiles};
use crate::simd::{Ahead, Kernel, Lanes};

/// k of a segment.
pub(super) const DEEP: usize = 1024;
/// The most columns that are packed together: of a segment they take 1 MiB.
pub(super) const COLUMNS: usize = 512;
/// Products of tiles in a block.
const PAIR: usize = 2;
/// Words of 32 rows of a segment.
const PANEL: usize = SIDE * (DEEP + ROW_GAP);

/// Computes a part of the result that has no more than [`COLUMNS`] columns, or as many rows, if it is turned: its rows are
/// columns then.
pub(super) fn product(p: &Problem<'_>, segments: &[KSegment], turned: bool, region: &mut Region<'_>) {
    if let Some(amx) = Amx::detect() {
        amx.vectors().enter(AmxTask { amx, p, segments, turned, region });
    }
}

struct AmxTask<'a, 'o> {
    amx: Amx,
    p: &'a Problem<'a>,
    segments: &'a [KSegment],
    turned: bool,
    region: &'a mut Region<'o>,
}

impl Kernel for AmxTask<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let AmxTask { amx, p, segments, turned, region } = self;
        let (rows, columns) = p.sides(region, turned);
        let deepest = segments.iter().map(|s| s.range().len().div_ceil(STEP)).max().unwrap_or(0);
        let blocks = rows.count.div_ceil(SIDE) * columns.count.div_ceil(PAIR * SIDE);
        let mut work = AmxWorkspace {
            chained: p.chained,
            turned,
            rows,
            columns,
            rows_at: rows.of.scales_at(rows.first, rows.count),
            columns_at: columns.of.scales_at(columns.first, columns.count),
            row_scales: Vec::new(),
            column_scales: Vec::new(),
            rhs: KeptScratch::new(columns.count.div_ceil(16) * deepest * TILE),
            done: BlockSums::new(blocks, segments.len() > 1),
            partial: BlockSums::new(blocks, segments.iter().any(KSegment::splits)),
        };
        work.partial.sums.get_mut().fill(0.0);
        let mut panels = KeptScratch::new(2 * PANEL);
        let (mut now, mut next) = panels.get_mut().split_at_mut(PANEL);
        let tiles = amx.tiles(16);
        let first_rows = (0..rows.count).step_by(SIDE);
        let places = segments.iter().flat_map(|segment| first_rows.clone().map(move |row| (segment, row)));
        let mut places = places.peekable();
        if let Some((segment, row)) = places.peek() {
            l.call(Finish(work.widening(segment, *row, now, 1)));
        }
        while let Some((segment, row)) = places.next() {
            poll();
            if row == 0 {
                work.pack(l, segment);
            }
            let parts = columns.count.div_ceil(SIDE) * segment.range().len().div_ceil(STEP);
            let widening = places.peek().map(|(segment, row)| work.widening(segment, *row, next, parts));
            let mut meanwhile = Meanwhile { widening, ahead: Ahead::none() };
            work.panel(l, &tiles, segment, region, row, now, &mut meanwhile);
            if let Some(widening) = meanwhile.widening {
                l.call(Finish(widening));
            }
            std::mem::swap(&mut now, &mut next);
        }
    }
}

/// The buffers of a task.
struct AmxWorkspace<'a> {
    chained: bool,
    /// True: the rows are those of `b`.
    turned: bool,
    rows: Part<ByteOperand<'a>>,
    columns: Part<ByteOperand<'a>>,
    /// Offsets of the scales of each row and column.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
    /// Scales of each run, for the rows of a panel and for all columns.
    row_scales: Vec<[f32; SIDE]>,
    column_scales: Vec<f32>,
    /// The columns of a segment: for each group of 32 the tiles of every step, of the last group only one if no more than
    /// 16 columns are left for it.
    rhs: KeptScratch<u16>,
    /// Final sums, and those of intervals.
    done: BlockSums,
    partial: BlockSums,
}

/// Sums of 32 rows and twice 32 columns, of each block or of one at a time.
struct BlockSums {
    sums: KeptScratch<f32>,
    each: bool,
}

/// Numbers of the sums of a block.
const BLOCK: usize = PAIR * SIDE * SIDE;

impl BlockSums {
    fn new(blocks: usize, each: bool) -> BlockSums {
        BlockSums { sums: KeptScratch::new(if each { blocks } else { 1 } * BLOCK), each }
    }

    /// The sums of block `i`.
    #[inline(always)]
    fn of(&mut self, i: usize) -> &mut [f32] {
        &mut self.sums.get_mut()[if self.each { i * BLOCK } else { 0 }..][..BLOCK]
    }
}

/// The same as sums of tiles.
#[inline(always)]
fn tiled(sums: &mut [f32]) -> &mut [Sums] {
    sums.as_chunks_mut().0.as_chunks_mut().0
}

impl<'a> AmxWorkspace<'a> {
    /// Rows to be widened from `row` on, in so many parts.
    #[inline(always)]
    fn widening<'o>(&self, segment: &KSegment, row: usize, out: &'o mut [u16], parts: usize) -> Widening<'o>
    where
        'a: 'o,
    {
        let (k, Part { of, first, count }) = (segment.range(), self.rows);
        let rows = OperandRows { side: of, row: first + row, count: (count - row).min(SIDE) };
        let stride = stride(segment);
        Widening::new(rows, k, SIDE * of.of.k, stride, &mut out[..SIDE * stride], parts)
    }

    /// Packs the columns of a segment, with their scales.
    #[inline(always)]
    fn pack<L: Lanes>(&mut self, l: L, segment: &KSegment) {
        let (k, Part { of, first, count }) = (segment.range(), self.columns);
        let group = k.len().div_ceil(STEP) * 2 * TILE;
        for (i, out) in self.rhs.get_mut().chunks_mut(group.max(1)).enumerate().take(count.div_ceil(SIDE)) {
            let rows = OperandRows { side: of, row: first + i * SIDE, count: (count - i * SIDE).min(SIDE) };
            let tiles = rows.count.div_ceil(16);
            let length = out.len().min(group / 2 * tiles);
            l.call(WidenRhs { rows, k: k.clone(), tiles, out: &mut out[..length] });
        }
        scales(of, &self.columns_at, segment, self.room(), &mut self.column_scales);
    }

    /// Columns with those that fill up the last group.
    #[inline(always)]
    fn room(&self) -> usize {
        self.columns.count.next_multiple_of(SIDE)
    }

    /// Multiplies up to 32 rows by all columns.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // an operand, a place, and what is done beside
    fn panel<L: Lanes>(
        &mut self,
        l: L,
        tiles: &Tiles,
        segment: &KSegment,
        region: &mut Region<'_>,
        row: usize,
        lhs: &[u16],
        meanwhile: &mut Meanwhile<'_>,
    ) {
        let rows = (self.rows.count - row).min(SIDE);
        self.row_scales.resize(segment.runs.len(), [0.0; SIDE]);
        for (run, scales) in segment.runs.iter().zip(&mut self.row_scales) {
            self.rows.of.scales(&self.rows_at[row..row + rows], run.begin, scales);
        }
        let lhs = Lhs { words: lhs, stride: stride(segment) };
        let count = self.columns.count;
        for column in (0..count).step_by(PAIR * SIDE) {
            let vectors = (count - column).div_ceil(16).min(2 * PAIR);
            self.block(l, tiles, segment, region, Place { row, rows, column, vectors }, lhs, meanwhile);
        }
    }

    /// Computes a block of 32 rows and up to 64 columns.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // as that of a panel
    fn block<L: Lanes>(
        &mut self,
        l: L,
        tiles: &Tiles,
        segment: &KSegment,
        region: &mut Region<'_>,
        place: Place,
        lhs: Lhs<'_>,
        meanwhile: &mut Meanwhile<'_>,
    ) {
        let block = place.row / SIDE * self.room().div_ceil(PAIR * SIDE) + place.column / (PAIR * SIDE);
        let turned = self.turned;
        let copy = SumCopy { segment, partial: false, turned, place, tall: SIDE };
        if segment.first {
            let sums = if self.chained { self.partial.of(block) } else { self.done.of(block) };
            l.call(LoadSums { l, copy, region, sums, start: 0.0, fetch: false });
        }
        meanwhile.ahead = if segment.last { self.ahead(segment, region, place) } else { Ahead::none() };
        let (first, k, room) = (place.column / SIDE, segment.range(), self.room());
        let group = k.len().div_ceil(STEP) * 2 * TILE;
        let wide = place.vectors.div_ceil(2);
        let (row_scales, column_scales) = (&self.row_scales, &self.column_scales);
        let scales = |t: usize, j: usize| {
            let at = t * room + (first + j) * SIDE;
            (&row_scales[t], &column_scales[at..at + SIDE])
        };
        let done = tiled(self.done.of(block));
        let [x, y] = tiled(self.partial.of(block)) else { unreachable!("a pair of products") };
        // The interval and the group whose sums wait for promotion, in either place.
        let mut waiting: [Option<(usize, usize)>; PAIR] = [None; PAIR];
        for (t, run) in segment.runs.iter().enumerate() {
            let (at, steps) = ((run.begin - k.start) / STEP, (run.end - run.begin).div_ceil(STEP));
            for j in 0..wide {
                let here = if wide == PAIR || !(run.opens && run.closes) { j } else { t % PAIR };
                let (this, other) = if here == 0 { (&mut *x, &*y) } else { (&mut *y, &*x) };
                if let Some((t, j)) = waiting[here].take() {
                    let (rows, columns) = scales(t, j);
                    Promotion::<L, 2>::new(l, this, &mut done[j], rows, columns).whole();
                }
                let promotion = waiting[1 - here].take().map(|(t, j)| {
                    let (rows, columns) = scales(t, j);
                    Promotion::<L, 2>::new(l, other, &mut done[j], rows, columns)
                });
                let rhs = &self.rhs.get()[(first + j) * group..];
                let two = place.vectors - 2 * j > 1;
                macro_rules! product {
                    ($tiles:literal, $unrolled:literal, $promotion:expr) => {{
                        let beside = Beside { l, promotion: $promotion, meanwhile: &mut *meanwhile };
                        tiles.product::<$tiles, $unrolled>(lhs, at, rhs, at, steps, run.opens, this, beside);
                    }};
                }
                match promotion {
                    // The usual interval is 128 k.
                    Some(promotion) if two && steps == 4 => product!(2, 4, Usual(promotion)),
                    _ if two => product!(2, 0, Spread::new(promotion, 4 * steps)),
                    _ => product!(1, 0, Spread::new(promotion, 2 * steps)),
                }
                waiting[here] = run.closes.then_some((t, j));
            }
        }
        for (here, waits) in waiting.into_iter().enumerate() {
            if let Some((t, j)) = waits {
                let (rows, columns) = scales(t, j);
                let partial = if here == 0 { &*x } else { &*y };
                Promotion::<L, 2>::new(l, partial, &mut done[j], rows, columns).whole();
            }
        }
        if segment.last {
            let sums = if self.chained { self.partial.of(block) } else { self.done.of(block) };
            l.call(StoreSums { l, copy, region, sums });
        }
    }

    /// Chooses the outputs of the next block to prefetch, a part beside each step.
    #[inline(always)]
    fn ahead(&self, segment: &KSegment, region: &Region<'_>, place: Place) -> Ahead {
        let Place { row, column, vectors, .. } = place;
        let last = column + PAIR * SIDE >= self.columns.count;
        let (row, column) = if last { (row + SIDE, 0) } else { (row, column + PAIR * SIDE) };
        let (rows, columns) = (row..row + SIDE, column..self.columns.count.min(column + PAIR * SIDE));
        let (rows, columns) = if self.turned { (columns, rows) } else { (rows, columns) };
        region
            .ahead(segment, rows, columns)
            .beside(vectors.div_ceil(2) * segment.range().len().div_ceil(STEP))
    }
}

/// Words from one row of a panel to the next.
fn stride(segment: &KSegment) -> usize {
    segment.range().len().next_multiple_of(GROUP) + ROW_GAP
}
