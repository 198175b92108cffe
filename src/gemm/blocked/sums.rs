//! The way of sums between a region of the result and a block in vectors of columns.

use super::output::results;
use super::task::WIDE;
use super::{KSegment, Region};
use crate::simd::{Kernel, Lanes};

/// The most rows of a block, and the most columns.
const LINE: usize = 64;

/// A block of the result.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Place {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub vectors: usize,
}

/// The way of sums between a region and a block.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct SumCopy<'a> {
    pub segment: &'a KSegment,
    /// True: partial sums that are kept; false: final ones.
    pub partial: bool,
    /// True: columns of the block are rows of the region.
    pub turned: bool,
    pub place: Place,
    /// Rows of sums that a vector of columns has room for.
    pub tall: usize,
}

/// Fetches the sums of a block, a row of the region at a time.
pub(in crate::gemm) struct LoadSums<'a, 'o, L> {
    pub l: L,
    pub copy: SumCopy<'a>,
    pub region: &'a Region<'o>,
    pub sums: &'a mut [f32],
    /// The sum that a result begins with, where none is given.
    pub start: f32,
    /// True: outputs that come next are prefetched.
    pub fetch: bool,
}

impl<V: Lanes> Kernel for LoadSums<'_, '_, V> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let LoadSums { l, copy, region, sums, start, fetch } = self;
        let (SumCopy { segment, partial, turned, place, tall }, n) = (copy, V::N);
        if !partial {
            if fetch {
                prefetch_next(l, region, copy, place.vectors * n);
            }
            if segment.first && !region.starts() {
                return sums.fill(start);
            }
        }
        let (mut line, mut tiles) = ([0f32; LINE], [0f32; LINE * WIDE]);
        if !turned {
            let line = &mut line[..place.vectors * n];
            for row in 0..place.rows {
                let (i, j) = (place.row + row, place.column);
                let line = load_line(region, copy, (i, j), line);
                for (v, from) in line.chunks_exact(n).enumerate() {
                    sums[(v * tall + row) * n..][..n].copy_from_slice(from);
                }
            }
            return;
        }
        let line = &mut line[..place.rows.next_multiple_of(n)];
        for v in 0..place.vectors {
            for lane in 0..n {
                let (i, j) = (place.column + v * n + lane, place.row);
                let line = load_line(region, copy, (i, j), line);
                for (tile, from) in tiles.chunks_exact_mut(n * n).zip(line.chunks_exact(n)) {
                    tile[lane * n..][..n].copy_from_slice(from);
                }
            }
            let sums = sums[v * tall * n..].chunks_exact_mut(n * n);
            for (tile, sums) in tiles.chunks_exact(n * n).zip(sums).take(line.len() / n) {
                l.transpose(tile, sums);
            }
        }
    }
}

/// Prefetches the outputs that come next, so many columns on.
#[inline(always)]
fn prefetch_next<L: Lanes>(l: L, region: &Region<'_>, copy: SumCopy<'_>, on: usize) {
    let SumCopy { segment, turned, place, .. } = copy;
    let (lines, length) = if turned { (on, place.rows) } else { (place.rows, on) };
    for line in 0..lines {
        let (i, j) = if turned {
            (place.column + on + line, place.row)
        } else {
            (place.row + line, place.column + on)
        };
        (0..length).step_by(WIDE).for_each(|at| region.prefetch(l, segment, i, j + at));
    }
}

/// The sums from row `i` and column `j` on, as many as `line` has.
#[inline(always)]
fn load_line<'a>(
    region: &'a Region<'_>,
    SumCopy { segment, partial, .. }: SumCopy<'_>,
    (i, j): (usize, usize),
    line: &'a mut [f32],
) -> &'a [f32] {
    if !partial {
        return region.line(segment, i, j, line);
    }
    region.load_partial(i, j, line);
    line
}

/// Puts the sums of a block back.
pub(in crate::gemm) struct StoreSums<'a, 'o, L> {
    pub l: L,
    pub copy: SumCopy<'a>,
    pub region: &'a mut Region<'o>,
    pub sums: &'a [f32],
}

impl<V: Lanes> Kernel for StoreSums<'_, '_, V> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let StoreSums { l, copy, region, sums } = self;
        let (SumCopy { turned, place, tall, .. }, n) = (copy, V::N);
        let mut tiles = [0f32; LINE * WIDE];
        if !turned {
            for row in 0..place.rows {
                let from = sums[row * n..].chunks(tall * n).take(place.vectors);
                store_line(l, region, copy, (place.row + row, place.column), place.vectors * n, from);
            }
            return;
        }
        for v in 0..place.vectors {
            let sums = sums[v * tall * n..].chunks_exact(n * n);
            for (tile, sums) in tiles.chunks_exact_mut(n * n).zip(sums).take(place.rows.div_ceil(n)) {
                l.transpose(sums, tile);
            }
            for lane in 0..n {
                // the rows after the last belong to the next block
                let from = tiles[lane * n..].chunks(n * n);
                store_line(l, region, copy, (place.column + v * n + lane, place.row), place.rows, from);
            }
        }
    }
}

/// Writes `count` sums from row `i` and column `j` on; each vector begins a part of `from`.
#[inline(always)]
fn store_line<'a, L: Lanes>(
    l: L,
    region: &mut Region<'_>,
    SumCopy { segment, partial, .. }: SumCopy<'_>,
    (i, j): (usize, usize),
    count: usize,
    from: impl Iterator<Item = &'a [f32]>,
) {
    if !partial && count.is_multiple_of(L::N) {
        if let Some(to) = region.place(segment, i, j, count) {
            for (to, from) in to.chunks_exact_mut(L::N).zip(from) {
                let sum = l.load_f32(from);
                l.store_f32(if segment.last { results(l, sum) } else { sum }, to, false);
            }
            return;
        }
    }
    let mut line = [0f32; LINE];
    for (to, from) in line.chunks_exact_mut(L::N).zip(from) {
        to.copy_from_slice(&from[..L::N]);
    }
    if partial {
        region.keep_partial(i, j, &line[..count]);
    } else if let Some(to) = region.words(segment, i, j, count) {
        let mut words = [0u16; LINE];
        for (words, sums) in words.chunks_exact_mut(L::GROUP).zip(line.chunks_exact(L::GROUP)) {
            let word = |v: usize| l.round_bf16(results(l, l.load_f32(&sums[v * L::N..])));
            l.store_u16([word(0), word(1), word(2), word(3)], words, false);
        }
        to.copy_from_slice(&words[..to.len()]);
    } else {
        region.store(segment, i, j, &line[..count]);
    }
}
