//! Four-bit codes with scales of their own: groups of sixteen products, each summed exactly, then multiplied by its two
//! scales; the groups and the accumulator are aligned to the largest exponent of the *scales* and cut.
//!
//! [`ScaledGroups`] is the definition. At the vector levels, sixteen outputs run side by side
//! ([`crate::simd::mma::groups`]); what they could not take is computed from the definition.

use super::accumulator::{Accumulator, ResultType};
use super::definition::{self, Chain};
use super::job::{each_tile, outputs, Blocks, Job, Side, Tile};
use super::mma::{accumulator_parts, cut, with_sign, NAN};
use super::number::{Class, Number};
use crate::formats::table::{E2M1FN, E4M3FN};
use crate::formats::{Codes, Format};
use crate::interrupt::poll;
use crate::simd::mma::groups::{
    power, Group, GroupColumns, GroupPanel, GroupRows, GROUP, GROUPS, LEAST, MOST, STEP,
};
use crate::simd::mma::{dispatch_mma, Floats, Mma, MmaTask, COLUMNS};
use crate::threads::threads_for;
use std::ops::Range;

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

/// The most rows and columns of a tile.
const SIDE: usize = 512;
/// The most of k that is laid out at once.
const BLOCK: usize = 256;

/// Elements of a cast that cost as much as one product.
const PER_PRODUCT: usize = 4;

/// Computes all tiles.
pub(super) fn run(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let work = job.work(&whole, PER_PRODUCT);
    let (outputs, threads) = (outputs(&whole), threads_for(work));
    let side = if threads > 1 && outputs < 2 * threads * SIDE * SIDE { SIDE / 4 } else { SIDE };
    each_tile(whole, (side, side), work, |tile| {
        if let Some(Task { job, tile }) = dispatch_mma(Task { job, tile }) {
            definition::whole_tile(job, tile);
        }
    });
}

struct Task<'a, 'b> {
    job: &'a Job<'a>,
    tile: Tile<'b>,
}

impl MmaTask for Task<'_, '_> {
    fn run<L: Mma>(self, l: L) {
        work(l, self.job, self.tile);
    }
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

    /// Tests if vectors cannot take the products of two rows.
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

/// A panel without columns.
fn empty_panel() -> GroupPanel {
    let none = GroupColumns { scale: [0.0; COLUMNS], exp: [0; COLUMNS], mask: [0; COLUMNS] };
    GroupPanel { values: vec![Floats([0.0; COLUMNS]); BLOCK], groups: vec![none; BLOCK / GROUP] }
}

/// Lays out as many columns as `ranges` has, from `first` on.
fn fill(
    panel: &mut GroupPanel,
    layout: &Layout<'_>,
    first: usize,
    k: Range<usize>,
    ranges: &mut [Exponents],
) {
    let (mut values, mut groups) = ([0f32; BLOCK], [Group::default(); BLOCK / GROUP]);
    for (c, range) in ranges.iter_mut().enumerate() {
        layout.row(first + c, k.clone(), &mut values, &mut groups, range);
        for (line, value) in panel.values.iter_mut().zip(&values) {
            line.0[c] = *value;
        }
        for (line, group) in panel.groups.iter_mut().zip(&groups) {
            (line.scale[c], line.exp[c], line.mask[c]) = (group.scale, group.exp, group.mask);
        }
    }
}

/// Tests if a chain may begin with `c` in vectors.
fn takes(c: f32) -> bool {
    c == 0.0 || (-100..=100).contains(&((c.to_bits() >> 23 & 255) as i32 - 127))
}

/// Computes a tile.
fn work<L: Mma>(l: L, job: &Job<'_>, tile: Tile<'_>) {
    let (Some(a_scales), Some(b_scales), Some(scale)) =
        (job.a.unit_scales, job.b.unit_scales, job.accumulator.scale)
    else {
        return definition::whole_tile(job, tile);
    };
    let (rows, cols) = (tile.rows(), tile.cols());
    let (a, b) = (Layout::new(&job.a, a_scales, &scale.format), Layout::new(&job.b, b_scales, &scale.format));
    let panels = cols.div_ceil(COLUMNS);
    let mut totals = vec![Floats([0.0; COLUMNS]); panels * rows];
    for (i, total) in totals.iter_mut().enumerate() {
        let (panel, row) = (i / rows, i % rows);
        for col in panel * COLUMNS..cols.min((panel + 1) * COLUMNS) {
            total.0[col % COLUMNS] = tile.c(row, col);
        }
    }
    let mut carried = vec![Floats([0.0; COLUMNS]); if job.chained { 0 } else { totals.len() }];
    let (mut a_ranges, mut b_ranges) = (vec![Exponents::NONE; rows], vec![Exponents::NONE; cols]);
    let (mut packed, mut panel) = (GroupRows::default(), empty_panel());
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
                poll();
                fill(&mut panel, &b, tile.b_row + i * COLUMNS, k.clone(), b_ranges);
                let state = if job.chained { &mut totals } else { &mut carried };
                l.groups(&packed, &panel, steps, &mut state[i * rows..(i + 1) * rows]);
            }
        }
        if !job.chained {
            promote(l, job, &tile, k0, &mut totals, &carried);
            carried.fill(Floats([0.0; COLUMNS]));
        }
    }
    let mut results = vec![0f32; rows * cols];
    for (row, results) in results.chunks_exact_mut(cols).enumerate() {
        for (panel, results) in results.chunks_mut(COLUMNS).enumerate() {
            results.copy_from_slice(&totals[panel * rows + row].0[..results.len()]);
        }
    }
    let wanted = |row: usize, col: usize| {
        a_ranges[row].too_far(b_ranges[col]) || (job.chained && !takes(tile.c(row, col)))
    };
    definition::outputs(job, &tile, &wanted, &mut results);
    tile.write(job.accumulator, &results);
}

/// Adds the partial sums of an interval that begins at `k`.
fn promote<L: Mma>(
    l: L,
    job: &Job<'_>,
    tile: &Tile<'_>,
    k: usize,
    totals: &mut [Floats],
    partial: &[Floats],
) {
    let rows = tile.rows();
    let factors: Vec<f32> = (0..rows).map(|row| job.a.scale(tile.a_row + row, k)).collect();
    let panels = totals.chunks_exact_mut(rows).zip(partial.chunks_exact(rows)).enumerate();
    for (i, (totals, partial)) in panels {
        let columns = job.scaled().then(|| {
            let col = |c: usize| (i * COLUMNS + c).min(tile.cols() - 1);
            Floats(std::array::from_fn(|c| job.b.scale(tile.b_row + col(c), k)))
        });
        l.promote(totals, partial, columns.as_ref().map(|columns| (&factors[..], columns)));
    }
}
