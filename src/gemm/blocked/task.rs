//! One task: which side is transposed, what stays in which cache, and where sums wait between segments.

use super::kernel::{AddRun, Block};
use super::sums::{LoadSums, Place, StoreSums, SumCopy};
use super::{
    segments, BlockOrder, KRun, KSegment, KeptScratch, PackedRows, Part, Problem, Region, Scratch,
    SideOperand, VECTORS,
};
use crate::interrupt::poll;
use crate::simd::{Ahead, Kernel, Lanes, PackedColumns};
use std::ops::Range;

/// The most rows of a block; a multiple of what any kernel takes, and of the lanes. A kernel computes all its rows, though
/// fewer be left: what there is in their place is dropped.
const TALL: usize = 48;
/// Float32 that the columns of a segment may take: half of a second-level cache.
const COLUMNS: usize = 128 << 10;
/// k from what is multiplied to what is prefetched beside it, in rows that are used once: less would come too late.
const NEXT: usize = 512;
/// The most lanes.
pub(in crate::gemm) const WIDE: usize = 16;

/// Computes a region of the result.
pub(in crate::gemm) struct BlockTask<'a, 'o, O: BlockOrder> {
    pub order: O,
    pub p: &'a Problem<O::Operand>,
    pub region: &'a mut Region<'o>,
}

impl<O: BlockOrder> Kernel for BlockTask<'_, '_, O> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        const { assert!(O::DEEP[1] <= O::STRIDE, "rows have room") };
        let BlockTask { order, p, region } = self;
        let segments = segments(p, O::RUN[0], O::DEEP[0]);
        region.prepare(&segments);
        let turned = region.size.0 < region.size.1 && region.size.0 > O::FEW;
        let (rows, columns) = p.sides(region, turned);
        let mut work = Workspace {
            order,
            chained: p.chained,
            turned,
            rows,
            columns,
            rows_at: rows.of.scales_at(rows.first, rows.count),
            columns_at: columns.of.scales_at(columns.first, columns.count),
            row_scales: Vec::new(),
            column_scales: Vec::new(),
            starts: Vec::new(),
            lhs: KeptScratch::new(TALL.min(rows.count.next_multiple_of(TALL / 2)) * O::STRIDE),
            near: Scratch::new(O::RUN[1] * O::L::N),
            rhs: KeptScratch::new(Workspace::<O>::rhs_length(rows.count, columns.count, &segments)),
            done: Scratch::new(VECTORS * TALL * O::L::N),
            partial: Scratch::new(VECTORS * TALL * O::L::N),
        };
        for segment in &segments {
            work.segment(segment, region);
        }
    }
}

/// The buffers of a task.
struct Workspace<O: BlockOrder> {
    order: O,
    chained: bool,
    /// True: the rows are those of `b`.
    turned: bool,
    rows: Part<O::Operand>,
    columns: Part<O::Operand>,
    /// Offsets of the scales of each row and column.
    rows_at: Vec<usize>,
    columns_at: Vec<usize>,
    /// Scales of each run of a segment, for the rows of a block and the columns of a group.
    row_scales: Vec<f32>,
    column_scales: Vec<f32>,
    /// Where each run of a segment begins in packed columns, and where the last ends.
    starts: Vec<usize>,
    lhs: KeptScratch<f32>,
    near: Scratch<O::Near>,
    rhs: KeptScratch<f32>,
    done: Scratch<f32>,
    partial: Scratch<f32>,
}

impl<O: BlockOrder> Workspace<O> {
    /// Float32 of a vector of columns of a segment.
    fn starts(segment: &KSegment) -> Vec<usize> {
        let mut end = 0;
        let each = segment.runs.iter().map(|run| {
            let length = ((run.end - run.begin) * O::RUN[1]).div_ceil(O::RUN[0]);
            end += length.next_multiple_of(2 * WIDE) * O::L::N;
            end
        });
        std::iter::once(0).chain(each).collect()
    }

    /// Vectors of columns that are packed together: no more than are multiplied at a time, where one block has all rows.
    fn group(rows: usize, columns: usize, panel: usize) -> usize {
        let most = if rows <= TALL { VECTORS } else { COLUMNS / panel.max(1) / VECTORS * VECTORS };
        columns.div_ceil(O::L::N).min(most.max(VECTORS))
    }

    /// Float32 of the columns that are packed together.
    fn rhs_length(rows: usize, columns: usize, segments: &[KSegment]) -> usize {
        let panels = segments.iter().map(|s| Self::starts(s).pop().unwrap_or(0));
        panels.map(|panel| panel * Self::group(rows, columns, panel)).max().unwrap_or(0)
    }

    /// Adds the products of a segment.
    #[inline(always)]
    fn segment(&mut self, segment: &KSegment, region: &mut Region<'_>) {
        self.starts = Self::starts(segment);
        let panel = self.starts.last().copied().unwrap_or(0);
        let group = Self::group(self.rows.count, self.columns.count, panel);
        for column in (0..self.columns.count).step_by(group.max(1) * O::L::N) {
            let columns = column..self.columns.count.min(column + group * O::L::N);
            self.pack_columns(segment, columns.clone(), panel);
            let tall = if columns.len() <= VECTORS * O::L::N { TALL / 2 } else { TALL };
            for row in (0..self.rows.count).step_by(tall) {
                poll();
                let rows = row..self.rows.count.min(row + tall);
                self.block(segment, region, rows, columns.clone(), panel);
            }
        }
    }

    /// Packs the columns of a group, with their scales.
    #[inline(always)]
    fn pack_columns(&mut self, segment: &KSegment, group: Range<usize>, panel: usize) {
        let Part { of, first, .. } = self.columns;
        for (i, column) in group.clone().step_by(O::L::N).enumerate() {
            let count = (group.end - column).min(O::L::N);
            for (run, start) in segment.runs.iter().zip(&self.starts) {
                let out = &mut self.rhs.get_mut()[i * panel + start..];
                self.order.pack_columns(&of, first + column, count, run, self.near.get_mut(), out);
            }
        }
        let each = group.len().next_multiple_of(O::L::N);
        scales(of, &self.columns_at[group], segment, each, &mut self.column_scales);
    }

    /// Packs some k of the rows of a block.
    #[inline(always)]
    fn pack_rows(&mut self, rows: &Range<usize>, k: Range<usize>) {
        let Part { of, first, .. } = self.rows;
        self.order.pack_rows(&of, first + rows.start..first + rows.end, k, self.lhs.get_mut());
    }

    /// Multiplies a block of rows by a group of columns.
    #[inline(always)]
    fn block(
        &mut self,
        segment: &KSegment,
        region: &mut Region<'_>,
        rows: Range<usize>,
        columns: Range<usize>,
        panel: usize,
    ) {
        let vectors = columns.len().div_ceil(O::L::N);
        // Rows that are used once are packed a run at a time, so that they stay in the first-level cache.
        let once = vectors <= VECTORS;
        let k = segment.range();
        scales(self.rows.of, &self.rows_at[rows.clone()], segment, TALL, &mut self.row_scales);
        if !once {
            self.pack_rows(&rows, k.clone());
        }
        for first in (0..vectors).step_by(VECTORS) {
            let place = Place {
                row: rows.start,
                rows: rows.len(),
                column: columns.start + first * O::L::N,
                vectors: VECTORS.min(vectors - first),
            };
            self.begin(segment, region, place);
            for (t, run) in segment.runs.iter().enumerate() {
                let mut at = run.begin - k.start;
                if once {
                    self.pack_rows(&rows, run.begin..run.end);
                    at = 0;
                }
                let work = Work {
                    t,
                    at,
                    panel,
                    columns: first * panel + self.starts[t],
                    scales: ((t * vectors + first) * O::L::N, (t + 1) * vectors * O::L::N),
                    ahead: Self::ahead(segment, t, place, first, vectors),
                };
                match place.vectors {
                    1 => self.run::<1>(run, place, &work),
                    _ => self.run::<2>(run, place, &work),
                }
            }
            self.end(segment, region, place);
        }
    }

    /// Chooses what to prefetch beside the vectors from `first` on, their share of the rows that are packed next: how many rows
    /// on, and which k.
    #[inline(always)]
    fn ahead(
        segment: &KSegment,
        t: usize,
        place: Place,
        first: usize,
        vectors: usize,
    ) -> (usize, Range<usize>) {
        let (runs, once) = (&segment.runs, vectors <= VECTORS);
        let next = t + (NEXT / (runs[t].end - runs[t].begin)).max(1);
        let (rows, run) = match runs.get(next) {
            Some(next) if once => (0, next),
            _ if once => (place.rows, &runs[(next - runs.len()).min(runs.len() - 1)]),
            _ => (place.rows, &runs[t]),
        };
        let part = |first: usize| run.begin + (run.end - run.begin) * first.min(vectors) / vectors;
        (rows, part(first)..part(first + VECTORS))
    }

    /// Computes one run of one or two vectors of columns, for all rows of the block.
    #[inline(always)]
    fn run<const V: usize>(&mut self, run: &KRun, place: Place, work: &Work) {
        let (order, rows) = (self.order, place.rows);
        let of_rows = &self.row_scales[work.t * TALL..(work.t + 1) * TALL];
        let of_columns = &self.column_scales[work.scales.0..work.scales.1];
        let columns = PackedColumns { items: &self.rhs.get()[work.columns..], panel: work.panel };
        let next = self.rows.count.min(place.row + work.ahead.0);
        let next = self.rows.first + next..self.rows.first + self.rows.count.min(next + rows);
        let mut ahead = order.ahead(&self.rows.of, next, work.ahead.1.clone());
        let mut first = 0;
        while first < rows {
            let left = rows - first;
            let sums = first * O::L::N..;
            let block = Block {
                rows: PackedRows { items: &self.lhs.get()[first * O::STRIDE..], at: work.at },
                columns,
                run,
                scales: (&of_rows[first..], of_columns),
                partial: &mut self.partial.get_mut()[sums.clone()],
                done: &mut self.done.get_mut()[sums],
                next: TALL * O::L::N,
                groups: 1,
                ahead: std::mem::replace(&mut ahead, Ahead::none()),
            };
            macro_rules! add {
                ($rows:literal, $groups:expr) => {{
                    let groups = $groups;
                    order.call(AddRun::<O, $rows, V> { order, block: Block { groups, ..block } });
                    groups * $rows
                }};
            }
            // A number of rows that the order does not have is not compiled.
            first += match const { O::ROWS[V - 1] } {
                24 if left > 12 => add!(24, (left + 11) / 24),
                24 | 12 if left > 8 => add!(12, (left + 3) / 12),
                24 | 12 => add!(4, left.div_ceil(4)),
                6 => add!(6, left.div_ceil(6)),
                _ => add!(3, left.div_ceil(3)),
            };
        }
    }

    /// Loads the sums that a segment begins with.
    #[inline(always)]
    fn begin(&mut self, segment: &KSegment, region: &Region<'_>, place: Place) {
        let kept = !self.chained && segment.runs.first().is_some_and(|run| !run.opens);
        let (order, turned) = (self.order, self.turned);
        for partial in [false, true].into_iter().take(1 + usize::from(kept)) {
            let sums = if partial || self.chained { &mut self.partial } else { &mut self.done }.get_mut();
            order.call(LoadSums {
                l: order.lanes(),
                copy: SumCopy { segment, partial, turned, place, tall: TALL },
                region,
                sums,
                start: O::START,
                fetch: true,
            });
        }
    }

    /// Stores the sums that a segment ends with.
    #[inline(always)]
    fn end(&self, segment: &KSegment, region: &mut Region<'_>, place: Place) {
        let keep = !self.chained && segment.runs.last().is_some_and(|run| !run.closes);
        let (order, turned) = (self.order, self.turned);
        for partial in [false, true].into_iter().take(1 + usize::from(keep)) {
            let sums = if partial || self.chained { self.partial.get() } else { self.done.get() };
            let copy = SumCopy { segment, partial, turned, place, tall: TALL };
            order.call(StoreSums { l: order.lanes(), copy, region: &mut *region, sums });
        }
    }
}

/// Collects the scales of some rows of a side for each run of a segment, `each` of them, of which the last belong to none.
#[inline(always)]
pub(in crate::gemm) fn scales(
    of: impl SideOperand,
    at: &[usize],
    segment: &KSegment,
    each: usize,
    out: &mut Vec<f32>,
) {
    out.resize(segment.runs.len() * each, 0.0);
    for (run, scales) in segment.runs.iter().zip(out.chunks_exact_mut(each)) {
        of.scales(at, run.begin, scales);
    }
}

/// Work of a block on one run.
struct Work {
    /// The run.
    t: usize,
    /// Its first k in the packed rows.
    at: usize,
    /// From one vector of packed columns to the next, and the first.
    panel: usize,
    columns: usize,
    /// The first scale of the columns, and the end.
    scales: (usize, usize),
    /// Rows to prefetch, from these on, and of which k.
    ahead: (usize, Range<usize>),
}
