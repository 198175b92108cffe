//! Few rows: reading `b` is the work. A lane is a row of `b`, whose pairs are transposed where they are multiplied; only the
//! few rows are packed.

use super::pairs::{PairOperand, Planes};
use crate::formats::Codes;
use crate::gemm::blocked::{
    segments, KRun, KSegment, Problem, Region, Scratch, SideOperand, StoreColumns, Sums, WIDE,
};
use crate::interrupt::poll;
use crate::simd::bf16_pairs::PairSum;
use crate::simd::{each_row, Kernel, Lanes, Lookup, STEP};

/// The most rows.
pub(super) const MAX_ROWS: usize = 24;
/// The most vectors of columns in a panel: there have to be sums enough, as each waits for the one before.
const VECTORS: usize = 2;
/// k from what is read to what is prefetched, into the second-level cache: lines of some rows may all share two sets of the
/// first.
const AHEAD: usize = 256;

/// Computes a region of few rows.
pub(super) struct FewRows<'a, 'o, P> {
    pub level: P,
    pub p: &'a Problem<PairOperand<'a>>,
    pub region: &'a mut Region<'o>,
}

impl<P: PairSum> FewRows<'_, '_, P> {
    #[inline(always)]
    pub fn run(self) {
        let FewRows { level, p, region } = self;
        // All of k, each interval as one run.
        let whole = &segments(p, usize::MAX / 2, usize::MAX)[0];
        let mut row = 0;
        while row < region.size.0 {
            macro_rules! group {
                ($rows:literal, $vectors:literal) => {{
                    level.call(Group::<P, $rows, $vectors> { level, p, whole, region, row });
                    $rows
                }};
            }
            row += match (region.size.0 - row, P::PLANES) {
                // Two vectors of 16 lanes at a time are slower: too many rows of `b` share sets of the first-level cache.
                (1, 1) => group!(1, 1),
                (2..=4, 1) => group!(4, 1),
                (5..=8, 1) => group!(8, 1),
                (9..=12, 1) => group!(12, 1),
                (13..=20, 1) => group!(16, 1),
                (_, 1) => group!(24, 1),
                (1, _) => group!(1, 2),
                (2, _) => group!(2, 2),
                (3 | 4, _) => group!(4, 2),
                _ => group!(8, 1),
            };
        }
    }
}

/// The products of up to `R` rows with all columns, `V` vectors of them at a time.
struct Group<'a, 'b, 'o, P, const R: usize, const V: usize> {
    level: P,
    p: &'b Problem<PairOperand<'a>>,
    whole: &'b KSegment,
    region: &'b mut Region<'o>,
    row: usize,
}

impl<P: PairSum, const R: usize, const V: usize> Kernel for Group<'_, '_, '_, P, R, V> {
    type Out = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
    fn run<L: Lanes>(self, _: L) {
        let Group { level, p, whole, region, row } = self;
        let (l, lanes) = (level.lanes(), P::L::N);
        let columns = region.size.1;
        let count = R.min(region.size.0 - row);
        let packed = level.call(Pack { level, p, whole, first: region.a_row(row), count, rows: R });
        let rows_at = p.a.scales_at(region.a_row(row), count);
        let columns_at = p.b.scales_at(region.b_row(0), columns);
        for column in (0..columns).step_by(V * lanes) {
            poll();
            let wide = (columns - column).min(V * lanes);
            let mut lines = [[0f32; VECTORS * WIDE]; R];
            let mut done = [[l.f32(0.0); V]; R];
            for r in 0..R {
                region.load(whole, row + r, column, &mut lines[r][..V * lanes]);
                for v in 0..V {
                    done[r][v] = l.load_f32(&lines[r][v * lanes..(v + 1) * lanes]);
                }
            }
            let mut factors = packed.get().chunks_exact(STEP / 2 * P::PLANES * R);
            let mut panels: [Panel<'_, '_, P>; V] = std::array::from_fn(|v| {
                let before = v * lanes;
                let rows = wide.saturating_sub(before).min(lanes);
                Panel::new(level, p, region.b_row(column) + before, rows, V * lanes)
            });
            for run in &whole.runs {
                let mut sums = if run.opens { [[l.f32(0.0); V]; R] } else { done };
                for (k, factors) in (run.begin..run.end).step_by(STEP).zip(&mut factors) {
                    for panel in &mut panels {
                        panel.fill(k, run.end);
                    }
                    add_step::<P, R, V>(level, factors, &panels, &mut sums);
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
                        let scale = l.fmul(of_row, l.load_f32(&of_columns[v * lanes..(v + 1) * lanes]));
                        done[r][v] = l.fma(scale, sums[r][v], done[r][v]);
                    }
                }
            }
            for panel in &panels {
                panel.split.note(p.b.places, panel.row, panel.rows);
            }
            for r in 0..R {
                for v in 0..V {
                    l.store_f32(done[r][v], &mut lines[r][v * lanes..(v + 1) * lanes], false);
                }
                region.store(whole, row + r, column, &lines[r][..V * lanes]);
            }
        }
    }
}

/// Adds the products of a step, for `R` rows. A function of its own: left in the loop, sums leave registers.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn add_step<P: PairSum, const R: usize, const V: usize>(
    level: P,
    of_rows: &[f32],
    panels: &[Panel<'_, '_, P>; V],
    sums: &mut Sums<P::L, R, V>,
) {
    let (l, lanes) = (level.lanes(), P::L::N);
    let mut held = *sums; // in registers from here on
    for (i, of_rows) in of_rows[..STEP / 2 * P::PLANES * R].chunks_exact(R).enumerate() {
        let mut each = [l.f32(0.0); V];
        for v in 0..V {
            each[v] = l.load_f32(&panels[v].planes.0[i * lanes..(i + 1) * lanes]);
        }
        each_row!(ROW < R, {
            if const { V == 1 } {
                held[ROW][0] = level.add_item::<ROW>(of_rows, each[0], held[ROW][0]);
            } else {
                let x = l.f32(of_rows[ROW]);
                for v in 0..V {
                    held[ROW][v] = level.add(x, each[v], held[ROW][v]);
                }
            }
        });
    }
    *sums = held;
}

/// Packs rows, each interval in whole steps: for each pair its planes, for each plane the rows. Zeros come after the last.
struct Pack<'a, 'b, P> {
    level: P,
    p: &'b Problem<PairOperand<'a>>,
    whole: &'b KSegment,
    first: usize,
    count: usize,
    /// Rows of a group, of which `count` are there.
    rows: usize,
}

impl<P: PairSum> Kernel for Pack<'_, '_, P> {
    type Out = Scratch<f32>;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> Scratch<f32> {
        let Pack { level, p, whole, first, count, rows } = self;
        let (l, lanes) = (level.lanes(), P::L::N);
        let pairs = |run: &KRun| (run.end - run.begin).next_multiple_of(STEP) / 2;
        let length = whole.runs.iter().map(pairs).sum();
        let (mut line, mut out) = (Scratch::new(length), Scratch::new(P::PLANES * length * rows));
        for r in 0..count {
            let mut rest = line.get_mut();
            for run in &whole.runs {
                let (part, after) = rest.split_at_mut(pairs(run));
                p.a.pairs(l, first + r, run.begin..run.end, part);
                rest = after;
            }
            let vectors = line.get().chunks_exact(lanes);
            for (pairs, out) in vectors.zip(out.get_mut().chunks_exact_mut(P::PLANES * lanes * rows)) {
                for plane in 0..P::PLANES {
                    let mut part = [0f32; WIDE];
                    l.store_f32(level.plane(plane, l.load_f32(pairs)), &mut part[..lanes], false);
                    for (x, out) in part.iter().zip(out.chunks_exact_mut(P::PLANES * rows)) {
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
struct Panel<'a, 'b, P: PairSum> {
    level: P,
    p: &'b Problem<PairOperand<'a>>,
    /// The first row, and how many there are.
    row: usize,
    rows: usize,
    /// Rows from here to the panel that is read next.
    next: usize,
    split: Planes<P>,
    /// For each pair its planes, for each plane the columns.
    planes: Step<f32>,
}

impl<'a, 'b, P: PairSum> Panel<'a, 'b, P> {
    #[inline(always)]
    fn new(level: P, p: &'b Problem<PairOperand<'a>>, row: usize, rows: usize, next: usize) -> Self {
        Panel { level, p, row, rows, next, split: Planes::new(level), planes: Step([0.0; STEP * WIDE]) }
    }

    /// Reads the step from `k` on of an interval that ends at `end`.
    #[inline(always)]
    fn fill(&mut self, k: usize, end: usize) {
        match self.p.b.of.codes {
            Codes::U16(words) if end - k >= STEP && self.rows == P::L::N => {
                let (words, stride, ahead) = (&words[self.row * self.p.k + k..], self.p.k, self.ahead(k));
                for i in 0..P::L::N {
                    self.level.lanes().prefetch_far(words, 2 * (i * stride + ahead));
                }
                self.words(words, stride);
            }
            _ => self.level.call(Fill { panel: self, k, count: STEP.min(end - k) }),
        }
    }

    /// From some k on to what is prefetched beside it: in the same row, or where it ends in that of the next panel.
    #[inline(always)]
    fn ahead(&self, k: usize) -> usize {
        AHEAD + if k + AHEAD < self.p.k { 0 } else { (self.next - 1) * self.p.k }
    }

    /// Transposes and splits a step of words, rows of which begin every `stride`.
    #[inline(always)]
    fn words(&mut self, words: &[u16], stride: usize) {
        let (l, lanes) = (self.level.lanes(), P::L::N);
        let squares = self.planes.0.chunks_exact_mut(P::PLANES * lanes * lanes);
        for (at, square) in (0..STEP).step_by(2 * lanes).zip(squares) {
            if const { P::PLANES == 1 } {
                l.transpose_into(&words[at..], stride, square, lanes);
            } else {
                self.split.split(&words[at..], stride, square);
            }
        }
    }
}

/// Reads a step of bytes, or one of less k or rows.
struct Fill<'p, 'a, 'b, P: PairSum> {
    panel: &'p mut Panel<'a, 'b, P>,
    k: usize,
    count: usize,
}

impl<P: PairSum> Kernel for Fill<'_, '_, '_, P> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Fill { panel, k, count } = self;
        let (l, lanes) = (panel.level.lanes(), P::L::N);
        let (row, stride, side) = (panel.row, panel.p.k, panel.p.b);
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
                if count == STEP && panel.rows == lanes {
                    for (i, near) in near.as_chunks_mut::<STEP>().0.iter_mut().take(lanes).enumerate() {
                        let codes = &codes[(row + i) * stride + k..][..STEP];
                        l.prefetch_far(codes, panel.ahead(k));
                        near.copy_from_slice(codes);
                    }
                } else {
                    near = near!(codes);
                }
                let out = &mut panel.planes.0;
                if const { P::PLANES == 2 } {
                    // Planes are the numbers of a pair, the second first.
                    l.columns(table, &near[..STEP * lanes], StoreColumns { l, out, width: lanes, swap: 1 });
                } else {
                    pair_columns(panel.level, table, &near[..STEP * lanes], out);
                }
            }
            _ => unreachable!("the accumulator takes no wide format"),
        }
        // Zero by minus zero leaves every sum as it is; an odd last number has zero beside it.
        let zeros = f32::from_bits(if P::PLANES == 1 { 0x8000_8000 } else { 0x8000_0000 });
        let (end, whole) = (count.div_ceil(2) * P::PLANES * lanes, STEP / 2 * P::PLANES * lanes);
        panel.planes.0[end..whole].fill(zeros);
    }
}

/// Decodes and transposes a step of a vector of rows of bytes, as pairs.
#[inline(always)]
fn pair_columns<P: PairSum>(level: P, table: &'static Lookup, near: &[u8], out: &mut [f32]) {
    let (l, lanes) = (level.lanes(), P::L::N);
    let mut pairs = [0f32; STEP / 2 * WIDE];
    let (pairs, square) = (&mut pairs[..STEP / 2 * lanes], lanes * lanes);
    for (codes, pairs) in near.chunks_exact(P::L::GROUP).zip(pairs.chunks_exact_mut(P::L::GROUP / 2)) {
        l.lookup_pairs(table, codes, pairs);
    }
    for (at, square) in (0..STEP / 2).step_by(lanes).zip(out.chunks_exact_mut(square)) {
        l.transpose_into(&pairs[at..], STEP / 2, square, lanes);
    }
}
