//! Products where a has few rows (decoding one token, an expert with a handful of them), at the vector levels.
//!
//! All the work is to read b, the weights, and to widen them. The chains of a step are its own, so a lane is a step:
//! as many steps of a row of b as there are lanes are widened where they stand, one after another in memory, and
//! multiplied by those of the few rows before they leave the registers. Their sums are turned, so that a lane is a row
//! of b, and added in the order of k.

use super::output::{Region, Scratch};
use super::runs::Segment;
use super::vectors::Store;
use super::{Problem, Side, STEP};
use crate::gemm::job::Tile;
use crate::simd::{self, dispatch, level, Kernel, Lanes, Level};
use crate::threads::{num_threads, run_tasks};

/// The most rows that count as few.
pub(super) const MOST: usize = 24;
/// Rows whose sums stay in registers, at any level, and where there are 32 of those.
const TALL: usize = 6;
const TALLEST: usize = 8;
/// Columns of the result that a task takes at least.
const NARROWEST: usize = 128;
/// Tasks for each thread, that they may end together.
const TASKS: usize = 4;
/// The most lanes.
const WIDE: usize = 16;
/// Codes of a cache line.
const LINE: usize = 64;

/// Computes tiles of few rows.
pub(super) fn product(p: &Problem<'_>, whole: Vec<Tile<'_>>, work: usize) {
    let tall = if level() >= Level::Avx512 { TALLEST } else { TALL };
    let mut tasks = Vec::new();
    for tile in whole {
        let rows = tile.rows().div_ceil(tile.rows().div_ceil(tall));
        let columns = tile.cols().div_ceil(num_threads() * TASKS).max(NARROWEST).next_multiple_of(WIDE);
        tile.cut(rows, columns, &mut tasks);
    }
    run_tasks(work, tasks, |tile| dispatch(Task { p, region: Region::new(tile) }));
}

struct Task<'a, 'o> {
    p: &'a Problem<'a>,
    region: Region<'o>,
}

impl Kernel for Task<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let (p, (rows, columns)) = (self.p, self.region.size);
        let mut work = Work {
            left: Scratch::new(rows * p.k.next_multiple_of(L::N * STEP)),
            row_scales: Vec::new(),
            columns_at: p.b.scales_at(self.region.b_row(0), columns),
        };
        for row in 0..rows {
            let codes = &p.a.codes[self.region.a_row(row) * p.k..][..p.k];
            l.call(Prepare { side: &p.a, codes, row, rows, out: work.left.get_mut() });
        }
        let rows_at = p.a.scales_at(self.region.a_row(0), rows);
        for begin in (0..p.k).step_by(p.interval) {
            work.row_scales.extend(rows_at.iter().map(|at| p.a.scale(*at, begin)));
        }
        for column in (0..columns).step_by(L::N) {
            let (work, region) = (&work, &mut self.region);
            macro_rules! columns {
                ($rows:literal) => {
                    l.call(Columns::<$rows> { p, work, region, column })
                };
            }
            match rows {
                1 => columns!(1),
                2 => columns!(2),
                3 => columns!(3),
                4 => columns!(4),
                5 => columns!(5),
                6 => columns!(6),
                7 => columns!(7),
                _ => columns!(8),
            }
        }
    }
}

/// What a task prepares.
struct Work {
    /// The few rows: for each segment those of each row, in the order in which they are multiplied.
    left: Scratch<f32>,
    /// Their scales, for each interval.
    row_scales: Vec<f32>,
    /// Where the scales of each column of the region begin.
    columns_at: Vec<usize>,
}

/// One of the few rows, in the order in which it is multiplied.
struct Prepare<'a> {
    side: &'a Side<'a>,
    codes: &'a [u8],
    row: usize,
    rows: usize,
    out: &'a mut [f32],
}

impl Kernel for Prepare<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let deep = L::N * STEP;
        let mut padded = [0u8; WIDE * STEP];
        for (codes, out) in self.codes.chunks(deep).zip(self.out.chunks_exact_mut(self.rows * deep)) {
            let out = &mut out[self.row * deep..][..deep];
            padded[..codes.len()].copy_from_slice(codes);
            padded[codes.len()..].fill(0);
            l.columns(self.side.table, &padded, Store { l, out, width: L::N });
        }
    }
}

/// Sums are read and written once.
const WHOLE: Segment = Segment { runs: Vec::new(), first: true, last: true };

/// As many columns of the result as there are lanes, for `R` rows.
struct Columns<'a, 'o, const R: usize> {
    p: &'a Problem<'a>,
    work: &'a Work,
    region: &'a mut Region<'o>,
    column: usize,
}

impl<const R: usize> Kernel for Columns<'_, '_, R> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Columns { p, work, region, column } = self;
        let (deep, square) = (L::N * STEP, L::N * L::N);
        let count = (region.size.1 - column).min(L::N);
        let columns_at = &work.columns_at[column..column + count];
        let mut start = [[0f32; WIDE]; R];
        for (row, start) in start.iter_mut().enumerate() {
            region.load(&WHOLE, row, column, &mut start[..L::N]);
        }
        let (mut done, mut partial) = ([l.f32(0.0); R], [l.f32(0.0); R]);
        for r in 0..R {
            *(if p.chained { &mut partial[r] } else { &mut done[r] }) = l.load_f32(&start[r]);
        }
        // Sums of steps: by row of b and by step, and turned.
        let (mut sums, mut turned) = ([Square::ZERO; R], [Square::ZERO; R]);
        let mut opened = 0;
        for (from, left) in (0..p.k).step_by(deep).zip(work.left.get().chunks_exact(R * deep)) {
            let to = p.k.min(from + deep);
            // What follows in time: the same rows' next steps, or the next rows' first.
            let ahead = if to < p.k { deep } else { (L::N * p.k).wrapping_sub(from) };
            for i in 0..count {
                let row = &p.b.codes[(region.b_row(column) + i) * p.k..][..p.k];
                let codes = &row[from..to];
                for line in (0..deep).step_by(LINE) {
                    l.prefetch(codes, ahead + line);
                }
                let each = steps::<L, R>(l, &p.b, codes, left);
                for r in 0..R {
                    l.store_f32(each[r], &mut sums[r].0[i * L::N..], false);
                }
            }
            for r in 0..R {
                l.transpose(&sums[r].0[..square], &mut turned[r].0[..square]);
            }
            for (step, begin) in (from..to).step_by(STEP).enumerate() {
                for r in 0..R {
                    partial[r] = l.fadd(partial[r], l.load_f32(&turned[r].0[step * L::N..]));
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
            region.store(&WHOLE, row, column, &start[row][..L::N]);
        }
    }
}

/// As many vectors as lanes, at most.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Square([f32; WIDE * WIDE]);

impl Square {
    const ZERO: Square = Square([0.0; WIDE * WIDE]);
}

/// The sums of as many steps of a row of b as there are lanes, or fewer, by `R` rows.
#[inline(always)]
fn steps<L: Lanes, const R: usize>(l: L, side: &Side<'_>, codes: &[u8], left: &[f32]) -> [L::F; R] {
    let deep = L::N * STEP;
    let mut padded = [0u8; WIDE * STEP];
    let codes = if codes.len() < deep {
        padded[..codes.len()].copy_from_slice(codes);
        &padded[..deep]
    } else {
        codes
    };
    let mut chains = [[l.f32(0.0); 2]; R];
    l.columns(side.table, codes, Chains { l, left, chains: &mut chains });
    let mut sums = [l.f32(0.0); R];
    for r in 0..R {
        sums[r] = l.fadd(chains[r][0], chains[r][1]);
    }
    sums
}

/// The sums over the even and over the odd k of a step, for `R` rows.
struct Chains<'a, L: Lanes, const R: usize> {
    l: L,
    left: &'a [f32],
    chains: &'a mut [[L::F; 2]; R],
}

impl<L: Lanes, const R: usize> simd::ColumnSink<L> for Chains<'_, L, R> {
    #[inline(always)]
    fn column(&mut self, k: usize, values: L::F) {
        for r in 0..R {
            let x = self.l.load_f32(&self.left[(r * STEP + k) * L::N..]);
            let sum = &mut self.chains[r][k % 2];
            *sum = self.l.add_product(x, values, *sum);
        }
    }
}
