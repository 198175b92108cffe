//! Four-bit codes with scales of their own: groups of sixteen products, each summed exactly, then multiplied by its two
//! scales; the groups and the accumulator are aligned to the largest exponent of the *scales* and cut.
//!
//! [`ScaledGroups`] is the definition. At the vector levels, sixteen outputs run side by side: products and group sums
//! are exact in float32, groups times scales in float64, where a truncation cuts what stands below the last place.

use super::accumulator::{Accumulator, ResultType};
use super::definition::{self, Chain};
use super::job::{Blocks, Job, Side, Tile};
use super::mma::{accumulator_parts, cut, with_sign, NAN};
use super::number::{Class, Number};
use crate::formats::table::{E2M1FN, E4M3FN};
use crate::formats::{Codes, Format};
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;
use std::ops::Range;

/// Products of a group.
const GROUP: usize = 16;
/// Groups of a step.
const GROUPS: usize = 4;
/// Products of a step.
const STEP: usize = GROUP * GROUPS;
/// Fraction bits of a group: two of its products, and three of either scale.
const MAN: i32 = 8;

/// A scale: `sig * 2^(exp - 3)`.
#[derive(Clone, Copy)]
struct Scale {
    sig: i32,
    exp: i32,
    nan: bool,
}

impl Scale {
    /// Takes a code apart. UE4M3 has no sign: its place is ignored.
    fn new(format: &Format, code: u8) -> Scale {
        if *format == E4M3FN {
            let x = Number::new(&E4M3FN, u32::from(code & 0x7F));
            return Scale { sig: x.sig, exp: i32::from(x.exp), nan: x.class == Class::Nan };
        }
        Scale { sig: 8, exp: i32::from(code) - i32::from(E8M0_BIAS), nan: code == u8::MAX }
    }
}

/// The bias of UE8M0.
const E8M0_BIAS: u8 = 127;

/// A code in halves, and its scale.
#[derive(Clone, Copy)]
pub(super) struct Element {
    halves: i32,
    scale: Scale,
}

/// A code in halves: every one is a multiple of 1/2.
fn halves(code: u8) -> i32 {
    let x = Number::new(&E2M1FN, u32::from(code));
    if x.sig == 0 {
        0
    } else {
        x.sig << x.exp
    }
}

/// The definition.
#[derive(Clone, Copy)]
pub(super) struct ScaledGroups {
    fraction: i32,
    floor: i32,
    keep: i32,
    scale: Format,
}

impl ScaledGroups {
    pub fn new(accumulator: &Accumulator) -> ScaledGroups {
        ScaledGroups {
            fraction: accumulator.fraction as i32,
            floor: accumulator.floor.unwrap_or(super::mma::NO_FLOOR),
            keep: accumulator.keep.unwrap_or(23) as i32,
            scale: accumulator.scale.map_or(E4M3FN, |scale| scale.format),
        }
    }

    /// One step of at most sixty-four products.
    fn step(&self, a: &[Element], b: &[Element], c: f32) -> f32 {
        if c.is_nan() || a.iter().chain(b).any(|x| x.scale.nan) {
            return NAN;
        }
        if c.is_infinite() {
            return c;
        }
        let mut groups = [(0i64, self.floor); GROUPS];
        for ((a, b), group) in a.chunks(GROUP).zip(b.chunks(GROUP)).zip(&mut groups) {
            let products = a.iter().zip(b).map(|(x, y)| i64::from(x.halves * y.halves));
            let (x, y) = (a[0].scale, b[0].scale);
            let factor = i64::from(x.sig * y.sig);
            // a group whose products cancel still counts, one without any does not
            if factor != 0 && products.clone().any(|product| product != 0) {
                *group = (products.sum::<i64>() * factor, x.exp + y.exp);
            }
        }
        let (c_sig, c_exp) = accumulator_parts(c, ResultType::Float32);
        let top =
            groups.iter().fold(if c_sig != 0 { c_exp } else { self.floor }, |top, group| top.max(group.1));
        let top = top.max(self.floor);
        let mut sum = shifted(c_sig, c_exp - 23 + self.fraction - top);
        for (group, exp) in groups {
            sum += shifted(group, exp - MAN + self.fraction - top);
        }
        let rounded = cut(sum.unsigned_abs(), top - self.fraction, self.keep);
        with_sign(rounded, sum < 0 && rounded != 0) // no zero has a sign
    }
}

/// `x * 2^places`, the magnitude cut toward zero.
fn shifted(x: i64, places: i32) -> i64 {
    let magnitude = if places >= 0 { x.abs() << places } else { x.abs() >> (-places).min(63) };
    if x < 0 {
        -magnitude
    } else {
        magnitude
    }
}

/// The bytes of codes, which four-bit formats come in.
fn bytes(codes: Codes<'_>) -> &[u8] {
    match codes {
        Codes::U8(codes) => codes,
        _ => &[],
    }
}

impl Chain for ScaledGroups {
    type Item = Element;
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<Element> {
        let codes = &bytes(side.codes)[row * side.k..(row + 1) * side.k];
        let Some(scales) = side.unit_scales else { return Vec::new() };
        let element = |(k, code): (usize, &u8)| Element {
            halves: halves(*code),
            scale: Scale::new(&self.scale, scales.at(row, k)),
        };
        codes.iter().enumerate().map(element).collect()
    }
    fn run(&self, a: &[Element], b: &[Element], c: f32) -> f32 {
        a.chunks(STEP).zip(b.chunks(STEP)).fold(c, |c, (a, b)| self.step(a, b, c))
    }
}

/// Columns of a panel.
const COLUMNS: usize = 16;
/// The most rows and columns of a tile.
const SIDE: usize = 512;
/// The most of k that is laid out at once.
const BLOCK: usize = 256;
/// The least exponent of vector steps: 35 places below it float32 is still normal.
const LEAST: i32 = -91;
/// The largest.
const MOST: i32 = 90;
/// Fraction bits.
const FRACTION: i32 = 35;

/// Computes all tiles.
pub(super) fn run(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let outputs = whole.iter().map(|t| t.rows() * t.cols()).sum::<usize>();
    let threads = crate::threads::num_threads();
    let side = if threads > 1 && outputs < 2 * threads * SIDE * SIDE { SIDE / 4 } else { SIDE };
    let mut tiles = Vec::new();
    for tile in whole {
        tile.cut(side, side, &mut tiles);
    }
    run_tasks(outputs.saturating_mul(job.k), tiles, |tile: Tile<'_>| work(job, tile));
}

/// A group of a row: the factor of its sum, the exponent of its scale, and a bit for each code that is not zero.
#[derive(Clone, Copy, Default)]
struct Group {
    scale: f64,
    exp: i32,
    mask: u32,
}

/// The exponents of a row's scales.
#[derive(Clone, Copy)]
struct Exponents {
    low: i32,
    high: i32,
}

impl Exponents {
    /// Farther than any partner could make good.
    const FAR: i32 = 1 << 24;
    const NONE: Exponents = Exponents { low: 1 << 20, high: -(1 << 20) };

    fn widen(&mut self, low: i32, high: i32) {
        (self.low, self.high) = (self.low.min(low), self.high.max(high));
    }

    /// Whether vectors cannot take the products of two rows.
    fn too_far(self, other: Exponents) -> bool {
        self.low + other.low < LEAST || self.high + other.high > MOST
    }
}

/// How codes and scales are laid out.
struct Layout<'a> {
    codes: &'a [u8],
    k: usize,
    scales: Blocks<'a, u8>,
    values: [f32; 16],
    table: [Scale; 256],
}

impl<'a> Layout<'a> {
    fn new(side: &Side<'a>, scales: Blocks<'a, u8>, format: &Format) -> Layout<'a> {
        Layout {
            codes: bytes(side.codes),
            k: side.k,
            scales,
            values: std::array::from_fn(|code| halves(code as u8) as f32),
            table: std::array::from_fn(|code| Scale::new(format, code as u8)),
        }
    }

    /// Lays out `k` of a row, with zeros behind.
    #[inline(always)]
    fn row(
        &self,
        row: usize,
        k: Range<usize>,
        values: &mut [f32],
        groups: &mut [Group],
        range: &mut Exponents,
    ) {
        let codes = &self.codes[row * self.k + k.start..row * self.k + k.end];
        let parts = values.chunks_exact_mut(GROUP).zip(groups).enumerate();
        for (i, (values, group)) in parts {
            let codes = &codes[(GROUP * i).min(codes.len())..(GROUP * (i + 1)).min(codes.len())];
            let mut mask = 0;
            for (bit, (value, code)) in values.iter_mut().zip(codes).enumerate() {
                *value = self.values[usize::from(code & 15)];
                mask |= u32::from(code & 7 != 0) << bit;
            }
            values[codes.len()..].fill(0.0);
            *group = Group::default();
            if codes.is_empty() {
                continue;
            }
            let scale = self.table[usize::from(self.scales.at(row, k.start + GROUP * i))];
            if scale.nan {
                range.widen(-Exponents::FAR, Exponents::FAR);
            } else if scale.sig != 0 && mask != 0 {
                range.widen(scale.exp, scale.exp);
                // in halves and eighths
                *group = Group { scale: f64::from(scale.sig) * power(scale.exp - 4), exp: scale.exp, mask };
            }
        }
    }
}

/// `2^exp`, of a normal number.
#[inline(always)]
fn power(exp: i32) -> f64 {
    f64::from_bits(((1023 + exp) as u64) << 52)
}

/// A block of rows.
#[derive(Default)]
struct Rows {
    values: Vec<f32>,
    groups: Vec<Group>,
}

/// A group of sixteen columns.
#[derive(Clone, Copy)]
struct GroupColumns {
    scale: [f64; COLUMNS],
    exp: [i32; COLUMNS],
    mask: [u32; COLUMNS],
}

/// A block of sixteen columns, k by k.
struct Panel {
    values: Vec<[f32; COLUMNS]>,
    groups: Vec<GroupColumns>,
}

impl Panel {
    fn new() -> Panel {
        let none = GroupColumns { scale: [0.0; COLUMNS], exp: [0; COLUMNS], mask: [0; COLUMNS] };
        Panel { values: vec![[0.0; COLUMNS]; BLOCK], groups: vec![none; BLOCK / GROUP] }
    }

    /// Lays out as many columns as `ranges` has, from `first` on.
    fn fill(&mut self, layout: &Layout<'_>, first: usize, k: Range<usize>, ranges: &mut [Exponents]) {
        let (mut values, mut groups) = ([0f32; BLOCK], [Group::default(); BLOCK / GROUP]);
        for (c, range) in ranges.iter_mut().enumerate() {
            layout.row(first + c, k.clone(), &mut values, &mut groups, range);
            for (line, value) in self.values.iter_mut().zip(&values) {
                line[c] = *value;
            }
            for (line, group) in self.groups.iter_mut().zip(&groups) {
                (line.scale[c], line.exp[c], line.mask[c]) = (group.scale, group.exp, group.mask);
            }
        }
    }
}

/// The chains of some rows, continued by a block.
struct Advance<'a> {
    rows: &'a Rows,
    panel: &'a Panel,
    steps: usize,
    state: &'a mut [[f32; COLUMNS]],
}

impl Kernel for Advance<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let (values, groups) = (STEP * self.steps, GROUPS * self.steps);
        let rows = self.rows.values.chunks_exact(values).zip(self.rows.groups.chunks_exact(groups));
        for ((values, groups), state) in rows.zip(self.state) {
            let a = values.chunks_exact(STEP).zip(groups.chunks_exact(GROUPS));
            let b = self.panel.values.chunks_exact(STEP).zip(self.panel.groups.chunks_exact(GROUPS));
            for ((a, a_groups), (b, b_groups)) in a.zip(b) {
                *state = step(a, a_groups, b, b_groups, *state);
            }
        }
    }
}

/// One step of sixteen outputs.
#[inline(always)]
fn step(
    a: &[f32],
    a_groups: &[Group],
    b: &[[f32; COLUMNS]],
    b_groups: &[GroupColumns],
    c: [f32; COLUMNS],
) -> [f32; COLUMNS] {
    let mut top = [LEAST; COLUMNS];
    for (top, c) in top.iter_mut().zip(&c) {
        *top = LEAST.max((c.to_bits() >> 23 & 255) as i32 - 127);
    }
    for (x, y) in a_groups.iter().zip(b_groups) {
        for ((top, mask), exp) in top.iter_mut().zip(&y.mask).zip(&y.exp) {
            *top = (*top).max(if x.mask & mask != 0 { x.exp + exp } else { LEAST });
        }
    }
    let (mut there, mut sum) = ([0f64; COLUMNS], [0f64; COLUMNS]);
    for i in 0..COLUMNS {
        there[i] = power(FRACTION - top[i]);
        sum[i] = (f64::from(c[i]) * there[i]).trunc() + 0.0;
    }
    let parts = a.chunks_exact(GROUP).zip(a_groups).zip(b.chunks_exact(GROUP).zip(b_groups));
    for ((a, x), (b, y)) in parts {
        let mut group = [0f32; COLUMNS];
        for (a, b) in a.iter().zip(b) {
            for i in 0..COLUMNS {
                group[i] += a * b[i];
            }
        }
        for i in 0..COLUMNS {
            sum[i] += (f64::from(group[i]) * (x.scale * y.scale[i]) * there[i]).trunc();
        }
    }
    let mut out = [0f32; COLUMNS];
    for i in 0..COLUMNS {
        let kept = (sum[i] * power(top[i] - FRACTION)).to_bits() & !((1 << 29) - 1);
        out[i] = f64::from_bits(kept) as f32;
    }
    out
}

/// Partial sums added to totals, multiplied by the factors of their rows and columns.
struct Promote<'a> {
    totals: &'a mut [[f32; COLUMNS]],
    partial: &'a [[f32; COLUMNS]],
    rows: &'a [f32],
    columns: Option<[f32; COLUMNS]>,
}

impl Kernel for Promote<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let Some(columns) = self.columns else {
            for (total, partial) in self.totals.iter_mut().zip(self.partial) {
                for i in 0..COLUMNS {
                    total[i] += partial[i];
                }
            }
            return;
        };
        for ((total, partial), row) in self.totals.iter_mut().zip(self.partial).zip(self.rows) {
            for i in 0..COLUMNS {
                total[i] = partial[i].mul_add(row * columns[i], total[i]);
            }
        }
    }
}

/// Whether a chain may begin with `c` in vectors.
fn takes(c: f32) -> bool {
    c == 0.0 || (-100..=100).contains(&((c.to_bits() >> 23 & 255) as i32 - 127))
}

/// Computes a tile.
fn work(job: &Job<'_>, tile: Tile<'_>) {
    let (Some(a_scales), Some(b_scales), Some(scale)) =
        (job.a.unit_scales, job.b.unit_scales, job.accumulator.scale)
    else {
        return definition::whole_tile(job, tile);
    };
    let (rows, cols) = (tile.rows(), tile.cols());
    let (a, b) = (Layout::new(&job.a, a_scales, &scale.format), Layout::new(&job.b, b_scales, &scale.format));
    let panels = cols.div_ceil(COLUMNS);
    let mut totals = vec![[0f32; COLUMNS]; panels * rows];
    for (i, total) in totals.iter_mut().enumerate() {
        let (panel, row) = (i / rows, i % rows);
        for col in panel * COLUMNS..cols.min((panel + 1) * COLUMNS) {
            total[col % COLUMNS] = tile.c(row, col);
        }
    }
    let mut carried = vec![[0f32; COLUMNS]; if job.chained { 0 } else { totals.len() }];
    let (mut a_ranges, mut b_ranges) = (vec![Exponents::NONE; rows], vec![Exponents::NONE; cols]);
    let (mut packed, mut panel) = (Rows::default(), Panel::new());
    let interval = if job.chained { job.k.max(1) } else { job.interval };
    for k0 in (0..job.k).step_by(interval) {
        let end = job.k.min(k0.saturating_add(interval));
        for start in (k0..end).step_by(BLOCK) {
            let k = start..end.min(start + BLOCK);
            let steps = k.len().div_ceil(STEP);
            packed.values.resize(rows * steps * STEP, 0.0);
            packed.groups.resize(rows * steps * GROUPS, Group::default());
            let lines = packed.values.chunks_exact_mut(steps * STEP);
            let lines = lines.zip(packed.groups.chunks_exact_mut(steps * GROUPS)).zip(&mut a_ranges);
            for (row, ((values, groups), range)) in lines.enumerate() {
                a.row(tile.a_row + row, k.clone(), values, groups, range);
            }
            for (i, b_ranges) in b_ranges.chunks_mut(COLUMNS).enumerate() {
                panel.fill(&b, tile.b_row + i * COLUMNS, k.clone(), b_ranges);
                let state = if job.chained { &mut totals } else { &mut carried };
                let state = &mut state[i * rows..(i + 1) * rows];
                dispatch(Advance { rows: &packed, panel: &panel, steps, state });
            }
        }
        if !job.chained {
            promote(job, &tile, k0, &mut totals, &carried);
            carried.fill([0.0; COLUMNS]);
        }
    }
    let mut results = vec![0f32; rows * cols];
    for (row, results) in results.chunks_exact_mut(cols).enumerate() {
        for (panel, results) in results.chunks_mut(COLUMNS).enumerate() {
            results.copy_from_slice(&totals[panel * rows + row][..results.len()]);
        }
    }
    let wanted = |row: usize, col: usize| {
        a_ranges[row].too_far(b_ranges[col]) || (job.chained && !takes(tile.c(row, col)))
    };
    definition::outputs(job, &tile, wanted, &mut results);
    tile.write(job.accumulator, &results);
}

/// Adds the partial sums of an interval that begins at `k`.
fn promote(
    job: &Job<'_>,
    tile: &Tile<'_>,
    k: usize,
    totals: &mut [[f32; COLUMNS]],
    partial: &[[f32; COLUMNS]],
) {
    let rows = tile.rows();
    let factors: Vec<f32> = (0..rows).map(|row| job.a.scale(tile.a_row + row, k)).collect();
    let panels = totals.chunks_exact_mut(rows).zip(partial.chunks_exact(rows)).enumerate();
    for (i, (totals, partial)) in panels {
        let columns = job.scaled().then(|| {
            let col = |c: usize| (i * COLUMNS + c).min(tile.cols() - 1);
            std::array::from_fn(|c| job.b.scale(tile.b_row + col(c), k))
        });
        dispatch(Promote { totals, partial, rows: &factors, columns });
    }
}
