//! Promotion of sums of tiles, in parts beside other instructions.

use super::widen::{Widening, SIDE};
use super::STEP;
use crate::gemm::blocked::{KRun, KSegment};
use crate::simd::amx::{Interleave, Sums};
use crate::simd::{Ahead, Lanes};

/// `final = fma(row scale * column scale, partial, final)`, for 32 rows of one or two tiles.
pub(super) struct Promotion<'a, L: Lanes, const TILES: usize> {
    l: L,
    partial: &'a Sums,
    done: &'a mut Sums,
    rows: &'a [f32; SIDE],
    columns: [L::F; TILES],
}

impl<'a, L: Lanes, const TILES: usize> Promotion<'a, L, TILES> {
    #[inline(always)]
    pub fn new(l: L, partial: &'a Sums, done: &'a mut Sums, rows: &'a [f32; SIDE], columns: &[f32]) -> Self {
        let mut of_tiles = [l.f32(0.0); TILES];
        for (of_tile, columns) in of_tiles.iter_mut().zip(columns.chunks_exact(16)) {
            *of_tile = l.load_f32(columns);
        }
        Promotion { l, partial, done, rows, columns: of_tiles }
    }

    /// Promotes a row, of those from 32 on the one as far behind as that.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // columns are registers
    fn row(&mut self, row: usize) {
        let (l, row) = (self.l, row % SIDE);
        let of_row = l.f32(self.rows[row]);
        for tile in 0..TILES {
            let (scale, at) = (l.fmul(of_row, self.columns[tile]), tile * SIDE + row);
            let sum = l.fma(scale, l.load_f32(&self.partial[at]), l.load_f32(&self.done[at]));
            l.store_f32(sum, &mut self.done[at], false);
        }
    }

    /// Promotes all rows.
    #[inline(always)]
    pub fn whole(mut self) {
        for row in 0..SIDE {
            self.row(row);
        }
    }
}

/// A promotion in sixteen parts, for the usual interval: four steps of four instructions.
pub(super) struct Usual<'a, L: Lanes>(pub Promotion<'a, L, 2>);

impl<L: Lanes> Interleave for Usual<'_, L> {
    #[inline(always)]
    fn slot(&mut self, step: usize, part: usize) {
        self.0.row(8 * step + 2 * part);
        self.0.row(8 * step + 2 * part + 1);
    }
}

/// A promotion, if one waits, so many rows at a time.
pub(super) struct Spread<'a, L: Lanes, const TILES: usize> {
    promotion: Option<Promotion<'a, L, TILES>>,
    each: usize,
    next: usize,
}

impl<'a, L: Lanes, const TILES: usize> Spread<'a, L, TILES> {
    /// A promotion beside so many instructions.
    pub fn new(promotion: Option<Promotion<'a, L, TILES>>, instructions: usize) -> Self {
        Spread { promotion, each: SIDE.div_ceil(instructions), next: 0 }
    }
}

impl<L: Lanes, const TILES: usize> Interleave for Spread<'_, L, TILES> {
    #[inline(always)]
    fn slot(&mut self, _: usize, _: usize) {
        if let Some(promotion) = &mut self.promotion {
            let end = (self.next + self.each).min(SIDE);
            for row in self.next..end {
                promotion.row(row);
            }
            self.next = end;
        }
    }
}

/// The other work beside the products of a panel.
pub(super) struct Meanwhile<'a> {
    /// Rows that are widened.
    pub widening: Option<Widening<'a>>,
    /// Lines that are prefetched.
    pub ahead: Ahead,
}

/// Steps of the usual interval, 128 k: such a product is written out, with one part of other work beside it.
pub(super) const USUAL: usize = 4;

/// Parts of other work beside the products of a segment with one group of columns.
pub(super) fn parts(segment: &KSegment) -> usize {
    let steps = |run: &KRun| (run.end - run.begin).div_ceil(STEP);
    segment.runs.iter().map(|run| if steps(run) == USUAL { 1 } else { steps(run) }).sum()
}

/// All work beside a product of tiles, of which a part is done at every so many steps.
pub(super) struct Beside<'a, 'w, L, P, const EACH: usize> {
    pub l: L,
    pub promotion: P,
    pub meanwhile: &'a mut Meanwhile<'w>,
}

impl<L: Lanes, P: Interleave, const EACH: usize> Interleave for Beside<'_, '_, L, P, EACH> {
    #[inline(always)]
    fn slot(&mut self, step: usize, part: usize) {
        self.promotion.slot(step, part);
        if part == 0 && step.is_multiple_of(EACH) {
            self.meanwhile.ahead.prefetch_far(self.l);
            if let Some(widening) = &mut self.meanwhile.widening {
                widening.part(self.l);
            }
        }
    }
}
