//! Few rows by fused steps: reading `b` is the work. A lane is a row of `b`, whose pairs are transposed where they are
//! multiplied; only the few rows are packed.

use super::pairs::{PairOperand, Planes};
use crate::formats::Codes;
use crate::gemm::blocked::{
    segments, KRun, KSegment, Problem, Region, Scratch, SideOperand, StoreColumns, Sums, WIDE,
};
use crate::interrupt::poll;
use crate::simd::bf16_pairs::{Fused, PairSum};
use crate::simd::{Kernel, Lanes, STEP};

/// The most rows.
pub(super) const MAX_ROWS: usize = 24;
/// The most vectors of columns in a panel: there have to be sums enough, as each waits for the one before.
const VECTORS: usize = 2;
/// Bytes from what is read of a row to what is prefetched.
const AHEAD: usize = 256;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Computes a region of few rows.
pub(super) struct FewRows<'a, 'o> {
    pub p: &'a Problem<PairOperand<'a>>,
    pub region: &'a mut Region<'o>,
}

impl Kernel for FewRows<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let FewRows { p, region } = self;
        // All of k, each interval as one run.
        let whole = &segments(p, usize::MAX / 2, usize::MAX)[0];
        let mut row = 0;
        while row < region.size.0 {
            macro_rules! group {
                ($rows:literal, $vectors:literal) => {{
                    l.call(Group::<$rows, $vectors> { p, whole, region, row });
                    $rows
                }};
            }
            row += match region.size.0 - row {
                1 => group!(1, 2),
                2 => group!(2, 2),
                3 | 4 => group!(4, 2),
                _ => group!(8, 1),
            };
        }
    }
}

/// The products of up to `R` rows with all columns, `V` vectors of them at a time.
struct Group<'a, 'b, 'o, const R: usize, const V: usize> {
    p: &'b Problem<PairOperand<'a>>,
    whole: &'b KSegment,
    region: &'b mut Region<'o>,
    row: usize,
}

impl<const R: usize, const V: usize> Kernel for Group<'_, '_, '_, R, V> {
    type Out = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
    fn run<L: Lanes>(self, l: L) {
        let Group { p, whole, region, row } = self;
        let columns = region.size.1;
        let count = R.min(region.size.0 - row);
        let packed = l.call(Pack { p, whole, first: region.a_row(row), count, rows: R });
        let rows_at = p.a.scales_at(region.a_row(row), count);
        let columns_at = p.b.scales_at(region.b_row(0), columns);
        for column in (0..columns).step_by(V * L::N) {
            poll();
            let wide = (columns - column).min(V * L::N);
            let mut lines = [[0f32; VECTORS * WIDE]; R];
            let mut done = [[l.f32(0.0); V]; R];
            for r in 0..R {
                region.load(whole, row + r, column, &mut lines[r][..V * L::N]);
                for v in 0..V {
                    done[r][v] = l.load_f32(&lines[r][v * L::N..(v + 1) * L::N]);
                }
            }
            let mut factors = packed.get().chunks_exact(STEP * R);
            let mut panels: [Panel<'_, '_, L>; V] = std::array::from_fn(|v| {
                let before = v * L::N;
                Panel::new(l, p, region.b_row(column) + before, wide.saturating_sub(before).min(L::N))
            });
            for run in &whole.runs {
                let mut sums = if run.opens { [[l.f32(0.0); V]; R] } else { done };
                for (k, factors) in (run.begin..run.end).step_by(STEP).zip(&mut factors) {
                    for panel in &mut panels {
                        panel.fill(k, run.end);
                    }
                    for i in 0..STEP / 2 {
                        add_pair::<L, R, V>(l, &factors[2 * i * R..2 * (i + 1) * R], &panels, i, &mut sums);
                    }
                }
                if !run.closes {
                    done = sums;
                    continue;
                }
                let mut of_columns = [0f32; VECTORS * WIDE];
                p.b.scales(&columns_at[column..column + wide], run.begin, &mut of_columns);
                for r in 0..count {
                    let of_row = l.f32(p.a.scale(rows_at[r], run.begin));
                    for v in 0..V {
                        let scale = l.fmul(of_row, l.load_f32(&of_columns[v * L::N..(v + 1) * L::N]));
                        done[r][v] = l.fma(scale, sums[r][v], done[r][v]);
                    }
                }
            }
            for panel in &panels {
                panel.split.note(p.b.places, panel.row, panel.rows);
            }
            for r in 0..R {
                for v in 0..V {
                    l.store_f32(done[r][v], &mut lines[r][v * L::N..(v + 1) * L::N], false);
                }
                region.store(whole, row + r, column, &lines[r][..V * L::N]);
            }
        }
    }
}

/// Adds the products of pair `i` of a step, for `R` rows. A function of its own: left in the loop, sums leave registers.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn add_pair<L: Lanes, const R: usize, const V: usize>(
    l: L,
    of_rows: &[f32],
    panels: &[Panel<'_, '_, L>; V],
    i: usize,
    sums: &mut Sums<L, R, V>,
) {
    for plane in 0..2 {
        let mut each = [l.f32(0.0); V];
        for v in 0..V {
            let at = (2 * i + plane) * L::N;
            each[v] = l.load_f32(&panels[v].planes.0[at..at + L::N]);
        }
        for r in 0..R {
            let x = l.f32(of_rows[plane * R + r]);
            for v in 0..V {
                sums[r][v] = l.fma_onto(x, each[v], sums[r][v]);
            }
        }
    }
}

/// Packs rows, each interval in whole steps: for each pair its planes, for each plane the rows. Zeros come after the last.
struct Pack<'a, 'b> {
    p: &'b Problem<PairOperand<'a>>,
    whole: &'b KSegment,
    first: usize,
    count: usize,
    /// Rows of a group, of which `count` are there.
    rows: usize,
}

impl Kernel for Pack<'_, '_> {
    type Out = Scratch<f32>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Scratch<f32> {
        let Pack { p, whole, first, count, rows } = self;
        let pairs = |run: &KRun| (run.end - run.begin).next_multiple_of(STEP) / 2;
        let length = whole.runs.iter().map(pairs).sum();
        let (mut line, mut out) = (Scratch::new(length), Scratch::new(2 * length * rows));
        for r in 0..count {
            let mut rest = line.get_mut();
            for run in &whole.runs {
                let (part, after) = rest.split_at_mut(pairs(run));
                p.a.pairs(l, first + r, run.begin..run.end, part);
                rest = after;
            }
            let vectors = line.get().chunks_exact(L::N);
            for (pairs, out) in vectors.zip(out.get_mut().chunks_exact_mut(2 * L::N * rows)) {
                for plane in 0..2 {
                    let mut part = [0f32; WIDE];
                    l.store_f32(Fused(l).plane(plane, l.load_f32(pairs)), &mut part[..L::N], false);
                    for (x, out) in part.iter().zip(out.chunks_exact_mut(2 * rows)) {
                        out[plane * rows + r] = *x;
                    }
                }
            }
        }
        out
    }
}

/// Elements of a step of a vector of rows, on a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Step<T>([T; STEP * WIDE]);

/// Steps of a vector of rows of `b`, as they are multiplied.
struct Panel<'a, 'b, L: Lanes> {
    l: L,
    p: &'b Problem<PairOperand<'a>>,
    /// The first row, and how many there are.
    row: usize,
    rows: usize,
    split: Planes<Fused<L>>,
    /// For each pair its planes, for each plane the columns.
    planes: Step<f32>,
}

impl<'a, 'b, L: Lanes> Panel<'a, 'b, L> {
    #[inline(always)]
    fn new(l: L, p: &'b Problem<PairOperand<'a>>, row: usize, rows: usize) -> Self {
        Panel { l, p, row, rows, split: Planes::new(Fused(l)), planes: Step([0.0; STEP * WIDE]) }
    }

    /// Reads the step from `k` on of an interval that ends at `end`.
    #[inline(always)]
    fn fill(&mut self, k: usize, end: usize) {
        match self.p.b.of.codes {
            Codes::U16(words) if end - k >= STEP && self.rows == L::N => {
                self.words(&words[self.row * self.p.k + k..], self.p.k);
            }
            _ => self.l.call(Fill { panel: self, k, count: STEP.min(end - k) }),
        }
    }

    /// Transposes and splits a step of words, rows of which begin every `stride`.
    #[inline(always)]
    fn words(&mut self, words: &[u16], stride: usize) {
        let squares = self.planes.0.chunks_exact_mut(2 * L::N * L::N);
        for (at, square) in (0..STEP).step_by(2 * L::N).zip(squares) {
            if at % (LINE / 2) == 0 {
                (0..L::N).for_each(|i| self.l.prefetch(words, 2 * i * stride + AHEAD));
            }
            self.split.split(&words[at..], stride, square);
        }
    }
}

/// Reads a step of bytes, or one of less k or rows.
struct Fill<'p, 'a, 'b, L: Lanes> {
    panel: &'p mut Panel<'a, 'b, L>,
    k: usize,
    count: usize,
}

impl<L: Lanes> Kernel for Fill<'_, '_, '_, L> {
    type Out = ();
    #[inline(always)]
    fn run<M: Lanes>(self, _: M) {
        let Fill { panel, k, count } = self;
        let (l, row, stride, side) = (panel.l, panel.row, panel.p.k, panel.p.b);
        // Rows one after another, zeros where there are none.
        macro_rules! near {
            ($codes:ident) => {{
                let mut near = Step([0; STEP * WIDE]);
                for (i, near) in near.0.chunks_exact_mut(STEP).take(panel.rows).enumerate() {
                    near[..count].copy_from_slice(&$codes[(row + i) * stride + k..][..count]);
                }
                near.0
            }};
        }
        match (side.of.codes, side.table) {
            (Codes::U16(words), _) => panel.words(&near!(words), STEP),
            (Codes::U8(codes), Some(table)) => {
                let mut near = [0; STEP * WIDE];
                if count == STEP && panel.rows == L::N {
                    for (i, near) in near.as_chunks_mut::<STEP>().0.iter_mut().take(L::N).enumerate() {
                        let codes = &codes[(row + i) * stride + k..][..STEP];
                        l.prefetch(codes, AHEAD);
                        near.copy_from_slice(codes);
                    }
                } else {
                    near = near!(codes);
                }
                let out = &mut panel.planes.0;
                l.columns(table, &near[..STEP * L::N], StoreColumns { l, out, width: L::N, swap: 1 });
            }
            _ => unreachable!("the accumulator takes no wide format"),
        }
        // Zero by minus zero leaves every sum as it is; an odd last number has zero beside it.
        panel.planes.0[count.next_multiple_of(2) * L::N..STEP * L::N].fill(-0.0);
    }
}
