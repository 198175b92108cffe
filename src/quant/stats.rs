//! Errors of a quantization, in float64.
//!
//! The order of additions is fixed: element `i` of a run of [`RUN`] elements goes to lane `i % WIDE`, the lanes of a run
//! are added up in order, and then the runs. Levels and threads change no bit.

use super::amax::RUN;
use super::layout::Blocks;
use super::native::as_f32;
use crate::error::{same_length, Error};
use crate::formats::differences::add_fields;
use crate::formats::encode::{padded, widen, wrong_width};
use crate::formats::source::{each_input, Code, Codes, Input, Source};
use crate::formats::table::Format;
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};
use crate::threads::run_tasks;

/// Lanes of the sums: a vector of float64 at AVX-512.
const WIDE: usize = 8;

/// Counters of an octave that neighbours take by turns.
const COUNTS: usize = 4;

/// Values of a float32 exponent field.
const OCTAVES: usize = 256;

/// Columns of a block from which its clipped elements are counted in vectors.
const LONG: usize = 8;

/// Sums over pairs of an exact `x` and its approximation `y`, with `e = y - x`.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// How many were clipped, see [`count_saturated`]; 0 where no codes were given.
    pub saturated: u64,
    /// For each float32 exponent field of `|x|`, over `x` other than zero: count, sum of `(e / x)^2`, sum of `e^2`.
    pub histogram: Vec<[f64; 3]>,
}

impl ErrorStats {
    fn new() -> ErrorStats {
        ErrorStats { histogram: vec![[0.0; 3]; OCTAVES], ..ErrorStats::default() }
    }

    fn add(&mut self, other: &ErrorStats) {
        add_fields!(self += other: count sum_x2 sum_e2 sum_xy sum_y2 sum_e sum_abs_x underflows saturated);
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
        self.max_rel_error = self.max_rel_error.max(other.max_rel_error);
        for (a, b) in self.histogram.iter_mut().zip(&other.histogram) {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
        }
    }
}

/// The codes that an approximation is of, for counting clipped elements in the same pass.
#[derive(Clone, Copy)]
pub struct Coded<'a> {
    /// Codes, one an element.
    pub codes: Codes<'a>,
    /// Their format.
    pub format: &'static Format,
    /// Elements that share a scale.
    pub blocks: Blocks,
    /// Multipliers of the codes, one a block.
    pub scales: &'a [f32],
}

impl Coded<'_> {
    fn check(&self, elements: usize) -> Result<(), Error> {
        same_length("x", elements, self.blocks.len())?;
        same_length("codes", self.codes.len(), self.blocks.len())?;
        same_length("scales", self.scales.len(), self.blocks.scales())?;
        match self.codes {
            Codes::U8(_) if self.format.bits() <= 8 => Ok(()),
            Codes::U16(_) if self.format.bits() > 8 => Ok(()),
            _ => Err(wrong_width(self.format)),
        }
    }
}

/// Compares `approx` with `x` (float64 as it is, the others widened exactly); counts clipped elements where `coded` says
/// what `approx` is codes of.
///
/// # Errors
/// [`Error::Length`] if the lengths differ, and those of [`count_saturated`].
pub fn error_stats(x: Input<'_>, approx: &[f32], coded: Option<Coded<'_>>) -> Result<ErrorStats, Error> {
    same_length("approx", approx.len(), x.len())?;
    if let Some(coded) = &coded {
        coded.check(x.len())?;
    }
    let narrow = coded.as_ref().map(|coded| (as_f32(x.into()), Clip::new(coded)));
    let parts = match x {
        Input::F64(x) => runs(x, approx, |x, y| dispatch(CompareDouble { x, y }), &narrow),
        x => each_input!(x, S, x => runs(x, approx, |x, y| dispatch(Compare::<S> { x, y }), &narrow)),
    };
    let mut total = ErrorStats::new();
    parts.iter().for_each(|part| total.add(part));
    Ok(total)
}

/// Statistics of each run; clipped elements are counted while the run is in the cache.
fn runs<T: Sync>(
    x: &[T],
    approx: &[f32],
    compare: impl Fn(&[T], &[f32]) -> ErrorStats + Sync,
    narrow: &Option<(std::borrow::Cow<'_, [f32]>, Clip<'_>)>,
) -> Vec<ErrorStats> {
    let chunks = x.chunks(RUN).zip(approx.chunks(RUN)).enumerate().collect();
    run_tasks(x.len(), chunks, |(k, (x, y)): (usize, (&[T], &[f32]))| {
        let mut stats = compare(x, y);
        if let Some((src, clip)) = narrow {
            stats.saturated = clip.count(src, k * RUN, x.len());
        }
        stats
    })
}

/// Sums of one run, a lane each.
struct Sums {
    x2: [f64; WIDE],
    e2: [f64; WIDE],
    xy: [f64; WIDE],
    y2: [f64; WIDE],
    e: [f64; WIDE],
    abs_x: [f64; WIDE],
    max_abs: [f64; WIDE],
    max_rel: [f64; WIDE],
    underflows: [u64; WIDE],
    zeros: [u64; WIDE],
}

/// Errors by octave of one run: neighbours have sums of their own, so that none waits for another's.
struct Histogram {
    /// Elements, zeros in the lowest octave included.
    counts: Box<[[u32; COUNTS]; OCTAVES]>,
    sums: Box<[[[f64; 2]; WIDE]; OCTAVES]>,
}

impl Sums {
    fn new() -> Sums {
        let zero = [0.0; WIDE];
        Sums {
            x2: zero,
            e2: zero,
            xy: zero,
            y2: zero,
            e: zero,
            abs_x: zero,
            max_abs: zero,
            max_rel: zero,
            underflows: [0; WIDE],
            zeros: [0; WIDE],
        }
    }

    /// Takes in [`MAX_GROUP`] pairs and the octaves of their `x`; pairs of zeros change nothing.
    #[inline(always)]
    fn add(
        &mut self,
        histogram: &mut Histogram,
        x: &[f64; MAX_GROUP],
        octave: &[u8; MAX_GROUP],
        y: &[f32; MAX_GROUP],
    ) {
        for k in (0..MAX_GROUP).step_by(WIDE) {
            let mut errors = [[0f64; 2]; WIDE];
            for i in 0..WIDE {
                let (x, y) = (x[k + i], f64::from(y[k + i]));
                let e = y - x;
                self.x2[i] += x * x;
                self.e2[i] += e * e;
                self.xy[i] += x * y;
                self.y2[i] += y * y;
                self.e[i] += e;
                self.abs_x[i] += x.abs();
                self.max_abs[i] = larger(self.max_abs[i], e.abs());
                let is_some = x != 0.0;
                let relative = e / if is_some { x } else { 1.0 };
                let relative = if is_some { relative } else { 0.0 };
                self.max_rel[i] = larger(self.max_rel[i], relative.abs());
                self.underflows[i] += u64::from(is_some & (y == 0.0));
                self.zeros[i] += u64::from(!is_some);
                errors[i] = [relative * relative, if is_some { e * e } else { 0.0 }];
            }
            for i in 0..WIDE {
                let at = usize::from(octave[k + i]);
                let sums = &mut histogram.sums[at][i];
                sums[0] += errors[i][0];
                sums[1] += errors[i][1];
            }
            for i in 0..WIDE {
                histogram.counts[usize::from(octave[k + i])][i % COUNTS] += 1;
            }
        }
    }

    fn finish(self, histogram: &Histogram, count: usize) -> ErrorStats {
        let sum = |lanes: [f64; WIDE]| lanes.into_iter().fold(0.0, |a, b| a + b);
        let largest = |lanes: [f64; WIDE]| lanes.into_iter().fold(0.0, larger);
        let octave = |(k, (counts, sums)): (usize, (&[u32; COUNTS], &[[f64; 2]; WIDE]))| {
            let zeros = if k == 0 { self.zeros.iter().sum() } else { 0 };
            let count = counts.iter().map(|&n| u64::from(n)).sum::<u64>() - zeros;
            let column = |c: usize| sums.iter().fold(0.0, |a, b| a + b[c]);
            [count as f64, column(0), column(1)]
        };
        ErrorStats {
            count: count as u64,
            sum_x2: sum(self.x2),
            sum_e2: sum(self.e2),
            sum_xy: sum(self.xy),
            sum_y2: sum(self.y2),
            sum_e: sum(self.e),
            sum_abs_x: sum(self.abs_x),
            max_abs_error: largest(self.max_abs),
            max_rel_error: largest(self.max_rel),
            underflows: self.underflows.iter().sum(),
            saturated: 0,
            histogram: histogram.counts.iter().zip(&*histogram.sums).enumerate().map(octave).collect(),
        }
    }
}

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: Box::new([[0; COUNTS]; OCTAVES]), sums: Box::new([[[0.0; 2]; WIDE]; OCTAVES]) }
    }
}

/// The larger; `a` where `b` is NaN.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if b > a {
        b
    } else {
        a
    }
}

struct Compare<'a, S: Source> {
    x: &'a [S::Item],
    y: &'a [f32],
}

impl<S: Source> Kernel for Compare<'_, S> {
    type Out = ErrorStats;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> ErrorStats {
        let (mut sums, mut histogram) = (Sums::new(), Histogram::new());
        let (mut bits, mut wide, mut octave) = ([0u32; MAX_GROUP], [0f64; MAX_GROUP], [0u8; MAX_GROUP]);
        for (x, y) in self.x.chunks(MAX_GROUP).zip(self.y.chunks(MAX_GROUP)) {
            if x.len() < MAX_GROUP {
                bits = [0; MAX_GROUP];
            }
            widen::<L, S>(l, x, &mut bits);
            for i in 0..MAX_GROUP {
                wide[i] = f64::from(f32::from_bits(bits[i]));
                octave[i] = (bits[i] >> 23) as u8;
            }
            sums.add(&mut histogram, &wide, &octave, padded(y, &mut [0.0; MAX_GROUP]));
        }
        sums.finish(&histogram, self.x.len())
    }
}

struct CompareDouble<'a> {
    x: &'a [f64],
    y: &'a [f32],
}

impl Kernel for CompareDouble<'_> {
    type Out = ErrorStats;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> ErrorStats {
        let (mut sums, mut histogram) = (Sums::new(), Histogram::new());
        let mut octave = [0u8; MAX_GROUP];
        for (x, y) in self.x.chunks(MAX_GROUP).zip(self.y.chunks(MAX_GROUP)) {
            let mut room = [0.0; MAX_GROUP];
            let wide = padded(x, &mut room);
            for i in 0..MAX_GROUP {
                octave[i] = ((wide[i] as f32).to_bits() >> 23) as u8;
            }
            sums.add(&mut histogram, wide, &octave, padded(y, &mut [0.0; MAX_GROUP]));
        }
        sums.finish(&histogram, self.x.len())
    }
}

/// How many elements were clipped: their quotient by the scale lies beyond the format's largest number by more
/// than rounding would explain (half the last quantum).
///
/// # Errors
/// [`Error::Length`] if the arrays do not fit the layout, [`Error::Unsupported`] if the codes are too narrow or
/// wide for the format.
pub fn count_saturated(src: Input<'_>, coded: Coded<'_>) -> Result<u64, Error> {
    coded.check(src.len())?;
    let (src, clip) = (as_f32(src.into()), Clip::new(&coded));
    let starts = (0..src.len()).step_by(RUN).collect();
    let counts = run_tasks(src.len(), starts, |at| clip.count(&src, at, RUN.min(src.len() - at)));
    Ok(counts.into_iter().sum())
}

/// Codes and what makes one of them a clipped number.
struct Clip<'a> {
    codes: Codes<'a>,
    /// Largest number and half a quantum.
    limit: f64,
    /// The codes that clipping gives.
    tops: [u32; 2],
    flat: Blocks,
    scales: &'a [f32],
}

impl<'a> Clip<'a> {
    fn new(coded: &Coded<'a>) -> Clip<'a> {
        let format = coded.format;
        let top = format.max_code();
        Clip {
            codes: coded.codes,
            limit: 1.5 * format.grid(top) - 0.5 * format.grid(top - 1),
            tops: [format.signed(top, false), format.signed(top, true)],
            flat: coded.blocks.flattened(),
            scales: coded.scales,
        }
    }

    /// Counts in `length` elements from `start` on.
    fn count(&self, src: &[f32], start: usize, length: usize) -> u64 {
        match self.codes {
            Codes::U8(codes) => dispatch(CountClipped { clip: self, src, codes, start, length }),
            Codes::U16(codes) => dispatch(CountClipped { clip: self, src, codes, start, length }),
            Codes::U32(_) => 0, // refused by `check`
        }
    }

    /// The largest float32 that is not clipped under a scale.
    #[inline(always)]
    fn bound(&self, scale: f32) -> f32 {
        let exact = self.limit * f64::from(scale);
        let near = exact as f32;
        if f64::from(near) > exact {
            near.next_down()
        } else {
            near
        }
    }
}

struct CountClipped<'a, C: Code> {
    clip: &'a Clip<'a>,
    src: &'a [f32],
    codes: &'a [C],
    start: usize,
    length: usize,
}

impl<C: Code> Kernel for CountClipped<'_, C> {
    type Out = u64;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> u64 {
        let (clip, flat) = (self.clip, &self.clip.flat);
        let [top, low] = clip.tops;
        let is_clipped = |x: f32, code: C, bound: f32| {
            let code = code.to_u32();
            ((code == top) | (code == low)) & (x.abs() > bound)
        };
        let (mut at, end, mut found) = (self.start, self.start + self.length, 0u64);
        while at < end {
            let (row, col) = (at / flat.cols, at % flat.cols);
            let stop = end.min(at + flat.cols - col);
            let scales = &clip.scales[flat.band_of_row(row) * flat.across()..][..flat.across()];
            if flat.block_cols < LONG {
                for (i, (x, code)) in self.src[at..stop].iter().zip(&self.codes[at..stop]).enumerate() {
                    let code = code.to_u32();
                    if (code == top) | (code == low) {
                        let limit = clip.limit * f64::from(scales[(col + i) / flat.block_cols]);
                        found += u64::from(f64::from(x.abs()) > limit);
                    }
                }
                at = stop;
            }
            while at < stop {
                let block = (at - (row * flat.cols)) / flat.block_cols;
                let edge = stop.min(row * flat.cols + (block + 1) * flat.block_cols);
                let bound = clip.bound(scales[block]);
                let pairs = self.src[at..edge].iter().zip(&self.codes[at..edge]);
                found +=
                    u64::from(pairs.map(|(x, code)| u32::from(is_clipped(*x, *code, bound))).sum::<u32>());
                at = edge;
            }
        }
        found
    }
}
