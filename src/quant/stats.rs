//! Errors of a quantization, in float64.
//!
//! Sums are taken over fixed runs of elements and added up in order, so they do not depend on threads.

use super::amax::RUN;
use super::layout::{Blocks, RowPart};
use super::native::as_f32;
use crate::error::{same_length, Error};
use crate::formats::encode::{widen, wrong_width};
use crate::formats::source::{each_input, Code, Codes, Input, Source};
use crate::formats::table::Format;
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};
use crate::threads::run_tasks;

/// Sums over pairs of an exact `x` and its approximation `y`, with `e = y - x`.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorStats {
    /// Pairs.
    pub count: u64,
    /// Sum of `x^2`.
    pub sum_x2: f64,
    /// Sum of `e^2`.
    pub sum_e2: f64,
    /// Sum of `x * y`.
    pub sum_xy: f64,
    /// Sum of `y^2`.
    pub sum_y2: f64,
    /// Sum of `e`.
    pub sum_e: f64,
    /// Sum of `|x|`.
    pub sum_abs_x: f64,
    /// Largest `|e|`.
    pub max_abs_error: f64,
    /// Largest `|e / x|` where `x` is not zero.
    pub max_rel_error: f64,
    /// How many `x` other than zero became zero.
    pub underflows: u64,
    /// For each float32 exponent field of `|x|`, over `x` other than zero: count, sum of `(e / x)^2`, sum of `e^2`.
    pub histogram: Vec<[f64; 3]>,
}

impl ErrorStats {
    fn new() -> ErrorStats {
        ErrorStats {
            count: 0,
            sum_x2: 0.0,
            sum_e2: 0.0,
            sum_xy: 0.0,
            sum_y2: 0.0,
            sum_e: 0.0,
            sum_abs_x: 0.0,
            max_abs_error: 0.0,
            max_rel_error: 0.0,
            underflows: 0,
            histogram: vec![[0.0; 3]; 256],
        }
    }

    fn add(&mut self, other: &ErrorStats) {
        self.count += other.count;
        self.sum_x2 += other.sum_x2;
        self.sum_e2 += other.sum_e2;
        self.sum_xy += other.sum_xy;
        self.sum_y2 += other.sum_y2;
        self.sum_e += other.sum_e;
        self.sum_abs_x += other.sum_abs_x;
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
        self.max_rel_error = self.max_rel_error.max(other.max_rel_error);
        self.underflows += other.underflows;
        for (a, b) in self.histogram.iter_mut().zip(&other.histogram) {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
        }
    }

    #[inline(always)]
    fn pair(&mut self, x: f64, y: f64) {
        let e = y - x;
        self.sum_x2 += x * x;
        self.sum_e2 += e * e;
        self.sum_xy += x * y;
        self.sum_y2 += y * y;
        self.sum_e += e;
        self.sum_abs_x += x.abs();
        self.max_abs_error = self.max_abs_error.max(e.abs());
        if x != 0.0 {
            let relative = e / x;
            self.max_rel_error = self.max_rel_error.max(relative.abs());
            self.underflows += u64::from(y == 0.0);
            let bin = &mut self.histogram[((x as f32).to_bits() >> 23 & 0xFF) as usize];
            bin[0] += 1.0;
            bin[1] += relative * relative;
            bin[2] += e * e;
        }
    }
}

/// Compares `approx` with `x` (float64 as it is, the others widened exactly).
///
/// # Errors
/// [`Error::Length`] if the lengths differ.
pub fn error_stats(x: Input<'_>, approx: &[f32]) -> Result<ErrorStats, Error> {
    same_length("approx", approx.len(), x.len())?;
    let parts = match x {
        Input::F64(x) => {
            let chunks = x.chunks(RUN).zip(approx.chunks(RUN)).collect();
            run_tasks(x.len(), chunks, |(x, y): (&[f64], &[f32])| {
                let mut stats = ErrorStats::new();
                x.iter().zip(y).for_each(|(x, y)| stats.pair(*x, f64::from(*y)));
                stats.count = x.len() as u64;
                stats
            })
        }
        x => each_input!(x, S, x => {
            let chunks = x.chunks(RUN).zip(approx.chunks(RUN)).collect();
            run_tasks(x.len(), chunks, |(x, y)| dispatch(Compare::<S> { x, y }))
        }),
    };
    let mut total = ErrorStats::new();
    parts.iter().for_each(|part| total.add(part));
    Ok(total)
}

struct Compare<'a, S: Source> {
    x: &'a [S::Item],
    y: &'a [f32],
}

impl<S: Source> Kernel for Compare<'_, S> {
    type Out = ErrorStats;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> ErrorStats {
        let mut stats = ErrorStats::new();
        let mut bits = [0u32; MAX_GROUP];
        for (x, y) in self.x.chunks(MAX_GROUP).zip(self.y.chunks(MAX_GROUP)) {
            widen::<L, S>(l, x, &mut bits);
            for (x, y) in bits.iter().zip(y) {
                stats.pair(f64::from(f32::from_bits(*x)), f64::from(*y));
            }
        }
        stats.count = self.x.len() as u64;
        stats
    }
}

/// How many elements were clipped: their quotient by the scale lies beyond the format's largest number by more
/// than rounding would explain (half the last quantum).
///
/// # Errors
/// [`Error::Length`] if the arrays do not fit the layout, [`Error::Unsupported`] if the codes are too narrow or
/// wide for the format.
pub fn count_saturated(
    src: Input<'_>,
    codes: Codes<'_>,
    format: &'static Format,
    blocks: Blocks,
    scales: &[f32],
) -> Result<u64, Error> {
    same_length("x", src.len(), blocks.len())?;
    same_length("codes", codes.len(), blocks.len())?;
    same_length("scales", scales.len(), blocks.scales())?;
    let src = as_f32(src);
    match codes {
        Codes::U8(codes) if format.bits() <= 8 => Ok(clipped(&src, codes, format, blocks, scales)),
        Codes::U16(codes) if format.bits() > 8 => Ok(clipped(&src, codes, format, blocks, scales)),
        _ => Err(wrong_width(format)),
    }
}

fn clipped<C: Code>(
    src: &[f32],
    codes: &[C],
    format: &'static Format,
    blocks: Blocks,
    scales: &[f32],
) -> u64 {
    let top = format.max_code();
    let limit = 1.5 * format.grid(top) - 0.5 * format.grid(top - 1); // max and half a quantum
    let tops = [format.signed(top, false), format.signed(top, true)]; // only these can be clipped
    let flat = blocks.flattened();
    let tasks = flat.row_parts(RUN).collect();
    let counts = run_tasks(src.len(), tasks, |part: RowPart| {
        let mut count = 0;
        let range = part.range(&flat);
        let rows = src[range.clone()].chunks(part.cols).zip(codes[range].chunks(part.cols));
        for (k, (src, codes)) in rows.enumerate() {
            let scales = &scales[flat.band_of_row(part.row + k) * flat.across()..][..flat.across()];
            for (i, (x, code)) in src.iter().zip(codes).enumerate() {
                if tops.contains(&code.to_u32()) {
                    let scale = f64::from(scales[(part.at + i) / flat.block_cols]);
                    count += u64::from(f64::from(*x).abs() > limit * scale);
                }
            }
        }
        count
    });
    counts.into_iter().sum()
}
