//! Skinny products at the vector levels: `a` has few rows (one token, an expert's handful of them).
//!
//! Reading and decoding `b`, the weights, is all the work. The two chains of a step depend on that step alone, so a lane is
//! a step: consecutive steps of a row of `b`, one for each lane, are decoded in registers and multiplied by those of the
//! few rows. The sums of the steps are transposed, so that a lane is a row of `b`, and added in the order of k.

use super::{ByteOperand, Problem, STEP};
use crate::gemm::blocked::{KSegment, Region, Scratch, SideOperand, StoreColumns};
use crate::gemm::job::Tile;
use crate::gemm::skinny::{Skinny, SumOrder};
use crate::simd::{self, dispatch, level, Kernel, Lanes, Level};
use crate::threads::{run_tasks, threads_for};

/// The most rows.
pub(super) const MAX_ROWS: usize = 12;
/// Rows whose sums fit 16 registers, and 32.
const ROWS_AVX2: usize = 6;
const ROWS_AVX512: usize = 8;
/// The fewest columns of the result in a task.
const NARROWEST: usize = 128;
/// Tasks for each thread, so that threads finish together.
const TASKS: usize = 4;
/// The most lanes.
const WIDE: usize = 16;
/// Codes of a cache line.
const LINE: usize = 64;

/// Computes tiles of few rows.
pub(super) fn product(p: &Problem<'_>, whole: Vec<Tile<'_>>, work: usize) {
    let tall = if level() >= Level::Avx512 { ROWS_AVX512 } else { ROWS_AVX2 };
    let mut tasks = Vec::new();
    for tile in whole {
        let columns = tile.cols().div_ceil(threads_for(work) * TASKS).max(NARROWEST).next_multiple_of(WIDE);
        tile.cut(tall, columns, &mut tasks);
    }
    run_tasks(work, tasks, |tile| {
        let (rows, order) = (tile.rows(), AmxOrder { p, region: Region::new(tile) });
        dispatch(Skinny { order, rows })
    });
}

/// The order of AMX steps, for one region of the result.
struct AmxOrder<'a, 'o> {
    p: &'a Problem<'a>,
    region: Region<'o>,
}

impl SumOrder for AmxOrder<'_, '_> {
    const PADDED: bool = true;
    const GROUPS_16: u16 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;
    const GROUPS: u16 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 6;

    #[inline(always)]
    fn products<L: Lanes, const R: usize>(&mut self, l: L, row: usize) -> bool {
        let (p, columns) = (self.p, self.region.size.1);
        let mut work = SkinnySimdWorkspace {
            activations: Scratch::new(R * p.k.next_multiple_of(L::N * STEP)),
            row_scales: Vec::new(),
            columns_at: p.b.scales_at(self.region.b_row(0), columns),
        };
        let count = R.min(self.region.size.0 - row);
        for i in 0..count {
            let codes = &p.a.codes[self.region.a_row(row + i) * p.k..][..p.k];
            l.call(LayOutRow { side: &p.a, codes, row: i, rows: R, out: work.activations.get_mut() });
        }
        let rows_at = p.a.scales_at(self.region.a_row(row), count);
        for begin in (0..p.k).step_by(p.interval) {
            let scales = rows_at.iter().map(|at| p.a.scale(*at, begin));
            work.row_scales.extend(scales.chain(std::iter::repeat_n(0.0, R - count)));
        }
        for column in (0..columns).step_by(L::N) {
            l.call(PanelProducts::<R> { p, work: &work, region: &mut self.region, row, column });
        }
        true
    }
}

/// The buffers of a group of rows.
struct SkinnySimdWorkspace {
    /// The rows: for each segment, the values of each row in the order of use.
    activations: Scratch<f32>,
    /// Their scales, for each interval.
    row_scales: Vec<f32>,
    /// Offsets of the scales of each column of the region.
    columns_at: Vec<usize>,
}

/// Lays out one of the few rows in the order of use.
struct LayOutRow<'a> {
    side: &'a ByteOperand<'a>,
    codes: &'a [u8],
    row: usize,
    rows: usize,
    out: &'a mut [f32],
}

impl Kernel for LayOutRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let deep = L::N * STEP;
        let mut padded = [0u8; WIDE * STEP];
        for (codes, out) in self.codes.chunks(deep).zip(self.out.chunks_exact_mut(self.rows * deep)) {
            let out = &mut out[self.row * deep..][..deep];
            padded[..codes.len()].copy_from_slice(codes);
            padded[codes.len()..].fill(0);
            l.columns(self.side.table, &padded, StoreColumns { l, out, width: L::N, swap: 0 });
        }
    }
}

/// Sums are read and written once.
const WHOLE: KSegment = KSegment { runs: Vec::new(), first: true, last: true };

/// Computes as many columns of the result as there are lanes, for `R` rows from `row` on.
struct PanelProducts<'a, 'o, const R: usize> {
    p: &'a Problem<'a>,
    work: &'a SkinnySimdWorkspace,
    region: &'a mut Region<'o>,
    row: usize,
    column: usize,
}

impl<const R: usize> Kernel for PanelProducts<'_, '_, R> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let PanelProducts { p, work, region, row: first, column } = self;
        let (deep, square) = (L::N * STEP, L::N * L::N);
        let count = (region.size.1 - column).min(L::N);
        let columns_at = &work.columns_at[column..column + count];
        let mut start = [[0f32; WIDE]; R];
        for (row, start) in start.iter_mut().enumerate() {
            region.load(&WHOLE, first + row, column, &mut start[..L::N]);
        }
        let (mut done, mut partial) = ([l.f32(0.0); R], [l.f32(0.0); R]);
        for r in 0..R {
            *(if p.chained { &mut partial[r] } else { &mut done[r] }) = l.load_f32(&start[r]);
        }
        // Sums of steps: by row of b and by step, and transposed.
        let (mut sums, mut transposed) = ([StepSums::ZERO; R], [StepSums::ZERO; R]);
        let mut opened = 0;
        for (from, activations) in (0..p.k).step_by(deep).zip(work.activations.get().chunks_exact(R * deep)) {
            let to = p.k.min(from + deep);
            // Prefetch the next steps of the same rows, or the first of the next rows.
            let ahead = if to < p.k { deep } else { (L::N * p.k).wrapping_sub(from) };
            for i in 0..count {
                let row = &p.b.codes[(region.b_row(column) + i) * p.k..][..p.k];
                let codes = &row[from..to];
                for line in (0..deep).step_by(LINE) {
                    l.prefetch(codes, ahead + line);
                }
                let each = steps::<L, R>(l, &p.b, codes, activations);
                for r in 0..R {
                    l.store_f32(each[r], &mut sums[r].0[i * L::N..], false);
                }
            }
            for r in 0..R {
                l.transpose(&sums[r].0[..square], &mut transposed[r].0[..square]);
            }
            for (step, begin) in (from..to).step_by(STEP).enumerate() {
                for r in 0..R {
                    partial[r] = l.fadd(partial[r], l.load_f32(&transposed[r].0[step * L::N..]));
                }
                let end = p.k.min(begin + STEP);
                if p.chained || (end < p.k && end - opened < p.interval) {
                    continue;
                }
                let mut of_columns = [0f32; WIDE];
                p.b.scales(columns_at, opened, &mut of_columns);
                let of_rows = &work.row_scales[opened / p.interval * R..][..R];
                for r in 0..R {
                    let scale = l.fmul(l.f32(of_rows[r]), l.load_f32(&of_columns));
                    done[r] = l.fma(scale, partial[r], done[r]);
                    partial[r] = l.f32(0.0);
                }
                opened = end;
            }
        }
        for (row, sum) in if p.chained { partial } else { done }.into_iter().enumerate() {
            l.store_f32(sum, &mut start[row], false);
            region.store(&WHOLE, first + row, column, &start[row][..L::N]);
        }
    }
}

/// A tile of step sums, at most 16 x 16.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct StepSums([f32; WIDE * WIDE]);

impl StepSums {
    const ZERO: StepSums = StepSums([0.0; WIDE * WIDE]);
}

/// Computes the sums of up to `L::N` steps of a row of `b` with `R` rows.
#[inline(always)]
fn steps<L: Lanes, const R: usize>(
    l: L,
    side: &ByteOperand<'_>,
    codes: &[u8],
    activations: &[f32],
) -> [L::F; R] {
    let deep = L::N * STEP;
    let mut padded = [0u8; WIDE * STEP];
    let codes = if codes.len() < deep {
        padded[..codes.len()].copy_from_slice(codes);
        &padded[..deep]
    } else {
        codes
    };
    let mut chains = [[l.f32(0.0); 2]; R];
    l.columns(side.table, codes, StepChains { l, activations, chains: &mut chains });
    let mut sums = [l.f32(0.0); R];
    for r in 0..R {
        sums[r] = l.fadd(chains[r][0], chains[r][1]);
    }
    sums
}

/// The sums over the even and the odd k of a step, for `R` rows.
struct StepChains<'a, L: Lanes, const R: usize> {
    l: L,
    activations: &'a [f32],
    chains: &'a mut [[L::F; 2]; R],
}

impl<L: Lanes, const R: usize> simd::ColumnSink<L> for StepChains<'_, L, R> {
    #[inline(always)]
    fn column(&mut self, k: usize, values: L::F) {
        for r in 0..R {
            let x = self.l.load_f32(&self.activations[(r * STEP + k) * L::N..]);
            let sum = &mut self.chains[r][k % 2];
            *sum = self.l.add_product(x, values, *sum);
        }
    }
}
