//! Products through AMX: blocks of 32 rows by 64 columns of the result, operands widened to bfloat16 in the order of tiles.
//!
//! The side of fewer rows are the columns, whichever it is: they are transposed once for each segment of k, and as many of
//! them as the second-level cache holds are multiplied by all rows of the other, which need no transpose. Rows
//! are widened and sums are promoted beside the tile instructions, which leave the vector units idle.

use super::promote::{parts, Beside, Meanwhile, Promotion, Spread, Usual, USUAL};
use super::widen::{Finish, OperandRows, WidenRhs, Widening, GROUP, ROW_GAP, SIDE, TILE};
use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{
    scales, KRun, KSegment, KeptScratch, LoadSums, Part, Place, Region, SideOperand, StoreSums, SumCopy,
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
            done: BlockSums::new(blocks, segments.len() > 1, 2),
            partial: BlockSums::new(blocks, segments.iter().any(KSegment::splits), 1),
            waiting: None,
            unstored: None,
        };
        work.partial.sums.get_mut().fill(0.0);
        let mut panels = KeptScratch::new(2 * PANEL);
        let (mut now, mut next) = panels.get_mut().split_at_mut(PANEL);
        let tiles = amx.tiles(16);
        let first_rows = (0..rows.count).step_by(SIDE);
        let places = segments.iter().flat_map(|segment| first_rows.clone().map(move |row| (segment, row)));
        let mut places = places.peekable();
        if let Some((segment, row)) = places.peek() {
            l.call(Finish(work.widening(segment, *row, now)));
        }
        while let Some((segment, row)) = places.next() {
            poll();
            if row == 0 {
                work.pack(l, segment);
            }
            let parts = columns.count.div_ceil(SIDE) * parts(segment);
            let widening =
                places.peek().map(|(segment, row)| work.widening(segment, *row, next).beside(parts));
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
    /// The product that waits for promotion, and the block whose results wait for that.
    waiting: Option<Waiting>,
    unstored: Option<Place>,
}

/// A product whose sums are to be promoted: their place and that of the final ones, its run, and its first column.
#[derive(Clone, Copy)]
struct Waiting {
    partial: usize,
    done: usize,
    run: usize,
    column: usize,
}

/// Sums of 32 rows and twice 32 columns, of each block or of a few at a time.
struct BlockSums {
    sums: KeptScratch<f32>,
    count: usize,
}

/// Numbers of the sums of a block.
const BLOCK: usize = PAIR * SIDE * SIDE;

impl BlockSums {
    fn new(blocks: usize, each: bool, few: usize) -> BlockSums {
        let count = if each { blocks } else { few };
        BlockSums { sums: KeptScratch::new(count * BLOCK), count }
    }

    /// Finds the first product of block `i`.
    #[inline(always)]
    fn first(&self, i: usize) -> usize {
        i % self.count * PAIR
    }

    /// The sums of block `i`.
    #[inline(always)]
    fn of(&mut self, i: usize) -> &mut [f32] {
        &mut self.sums.get_mut()[i % self.count * BLOCK..][..BLOCK]
    }

    /// The sums of every product.
    #[inline(always)]
    fn products(&mut self) -> &mut [Sums] {
        tiled(self.sums.get_mut())
    }
}

/// The same as sums of tiles.
#[inline(always)]
fn tiled(sums: &mut [f32]) -> &mut [Sums] {
    sums.as_chunks_mut().0.as_chunks_mut().0
}

impl<'a> AmxWorkspace<'a> {
    /// Rows to be widened from `row` on.
    #[inline(always)]
    fn widening<'o>(&self, segment: &KSegment, row: usize, out: &'o mut [u16]) -> Widening<'o>
    where
        'a: 'o,
    {
        let (k, Part { of, first, count }) = (segment.range(), self.rows);
        let rows = OperandRows { side: of, row: first + row, count: (count - row).min(SIDE) };
        let stride = stride(segment);
        Widening::new(rows, k, SIDE * of.of.k, stride, &mut out[..SIDE * stride])
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
        self.promote(l);
        self.store(l, segment, region);
    }

    /// Computes a block of 32 rows and up to 64 columns. Its last promotion is left for the next product.
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
        let block = self.number(place);
        if segment.first {
            let (copy, sums) = (self.copy(segment, place), self.results(block));
            l.call(LoadSums { l, copy, region, sums, start: 0.0, fetch: false });
        }
        meanwhile.ahead = if segment.last { self.ahead(segment, region, place) } else { Ahead::none() };
        let wide = place.vectors.div_ceil(2);
        for (t, run) in segment.runs.iter().enumerate() {
            for j in 0..wide {
                let here = if wide == PAIR || !(run.opens && run.closes) { j } else { t % PAIR };
                let partial = self.partial.first(block) + here;
                if self.waiting.is_some_and(|waiting| waiting.partial == partial) {
                    self.promote(l);
                }
                let (group, two) = (place.column / SIDE + j, place.vectors - 2 * j > 1);
                self.product(l, tiles, segment, run, (lhs, group, two), partial, meanwhile);
                self.store(l, segment, region);
                let (done, column) = (self.done.first(block) + j, group * SIDE);
                self.waiting = run.closes.then_some(Waiting { partial, done, run: t, column });
            }
        }
        if segment.last {
            self.unstored = Some(place);
            // sums that begin with c are not promoted, nor are those without k
            if self.waiting.is_none() {
                self.store(l, segment, region);
            }
        }
    }

    /// Multiplies the rows by a group of columns, and promotes the sums that wait.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // two operands, the sums, and what is done beside
    fn product<L: Lanes>(
        &mut self,
        l: L,
        tiles: &Tiles,
        segment: &KSegment,
        run: &KRun,
        (lhs, group, two): (Lhs<'_>, usize, bool),
        partial: usize,
        meanwhile: &mut Meanwhile<'_>,
    ) {
        let k = segment.range();
        let (at, steps) = ((run.begin - k.start) / STEP, (run.end - run.begin).div_ceil(STEP));
        let rhs = &self.rhs.get()[group * k.len().div_ceil(STEP) * 2 * TILE..];
        let (room, partials) = (self.room(), self.partial.products());
        let (this, promotion) = match self.waiting.take() {
            None => (&mut partials[partial], None),
            Some(waiting) => {
                let Ok([this, other]) = partials.get_disjoint_mut([partial, waiting.partial]) else {
                    unreachable!("sums that wait are not overwritten")
                };
                let columns = &self.column_scales[waiting.run * room + waiting.column..];
                let (rows, done) = (&self.row_scales[waiting.run], &mut self.done.products()[waiting.done]);
                (this, Some(Promotion::<L, 2>::new(l, other, done, rows, &columns[..SIDE])))
            }
        };
        macro_rules! product {
            ($tiles:literal, $unrolled:expr, $each:expr, $promotion:expr) => {{
                let beside = Beside::<L, _, { $each }> { l, promotion: $promotion, meanwhile };
                tiles.product::<$tiles, { $unrolled }>(lhs, at, rhs, at, steps, run.opens, this, beside);
            }};
        }
        match promotion {
            Some(promotion) if two && steps == USUAL => product!(2, USUAL, USUAL, Usual(promotion)),
            _ if two => product!(2, 0, 1, Spread::new(promotion, 4 * steps)),
            _ => product!(1, 0, 1, Spread::new(promotion, 2 * steps)),
        }
    }

    /// Promotes the sums that wait.
    #[inline(always)]
    fn promote<L: Lanes>(&mut self, l: L) {
        let Some(waiting) = self.waiting.take() else { return };
        let columns = &self.column_scales[waiting.run * self.room() + waiting.column..][..SIDE];
        let (rows, done) = (&self.row_scales[waiting.run], &mut self.done.products()[waiting.done]);
        let partial = &self.partial.products()[waiting.partial];
        Promotion::<L, 2>::new(l, partial, done, rows, columns).whole();
    }

    /// Stores the results of the block that waits for it. None of its sums may wait.
    #[inline(always)]
    fn store<L: Lanes>(&mut self, l: L, segment: &KSegment, region: &mut Region<'_>) {
        let Some(place) = self.unstored.take() else { return };
        let (copy, sums) = (self.copy(segment, place), self.results(self.number(place)));
        l.call(StoreSums { l, copy, region, sums });
    }

    /// The sums that are the results of a block.
    #[inline(always)]
    fn results(&mut self, block: usize) -> &mut [f32] {
        if self.chained {
            self.partial.of(block)
        } else {
            self.done.of(block)
        }
    }

    /// The number of a block.
    #[inline(always)]
    fn number(&self, place: Place) -> usize {
        place.row / SIDE * self.room().div_ceil(PAIR * SIDE) + place.column / (PAIR * SIDE)
    }

    /// The way between the region and the sums of a block.
    #[inline(always)]
    fn copy<'s>(&self, segment: &'s KSegment, place: Place) -> SumCopy<'s> {
        SumCopy { segment, partial: false, turned: self.turned, place, tall: SIDE }
    }

    /// Chooses the outputs of the next block to prefetch, a part beside each step.
    #[inline(always)]
    fn ahead(&self, segment: &KSegment, region: &Region<'_>, place: Place) -> Ahead {
        let Place { row, column, vectors, .. } = place;
        let last = column + PAIR * SIDE >= self.columns.count;
        let (row, column) = if last { (row + SIDE, 0) } else { (row, column + PAIR * SIDE) };
        let (rows, columns) = (row..row + SIDE, column..self.columns.count.min(column + PAIR * SIDE));
        let (rows, columns) = if self.turned { (columns, rows) } else { (rows, columns) };
        region.ahead(segment, rows, columns).beside(vectors.div_ceil(2) * parts(segment))
    }
}

/// Words from one row of a panel to the next.
fn stride(segment: &KSegment) -> usize {
    segment.range().len().next_multiple_of(GROUP) + ROW_GAP
}
