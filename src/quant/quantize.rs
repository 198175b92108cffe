//! Quantization: amax, scale and codes of every block, in one pass where a block fits the cache.

use super::amax::amax_bits;
use super::bands::{Bands, Rows};
use super::layout::{Blocks, RowPart};
use super::native::{as_f32, reads_bf16, task, with_windows, Native};
use super::nonfinite::{numbers_amax, FindNonFinite, INFINITY};
use super::panel::{BlockScales, Limits};
use super::rule::{AmaxNan, Rule, ScaleKind, Subnormals, RULES};
use super::scale::{Global, Scaler};
use super::search::search;
use crate::error::{same_length, Error};
use crate::formats::encode::wrong_width;
use crate::formats::lanes::LaneRounder;
use crate::formats::near::Near;
use crate::formats::round::{named_enum, Rounder, Rounding};
use crate::formats::source::{Bf16, Code, CodesMut, F32};
use crate::formats::strided::Array;
use crate::formats::table::{Format, Top};
use crate::simd::{dispatch, Narrow, Walk};
use crate::threads::{run_tasks, threads_for};

named_enum! {
    /// Policy for NaN and infinity.
    NonFinitePolicy, "nonfinite" {
        /// An error.
        Raise = "raise",
        /// IEEE arithmetic: they spoil their block.
        Propagate = "propagate",
    }
}

/// Where scales come from.
#[derive(Clone, Copy, Debug)]
pub enum ScaleSource<'a> {
    /// The blocks' own largest magnitudes.
    Found,
    /// The same, as [`amax`](super::amax()) has found them already.
    Known(&'a [f32]),
    /// Largest magnitudes to use instead of those, one for each block.
    Amax(&'a [f32]),
    /// The scales themselves, as numbers (without NVFP4's scale of scales), one for each block.
    Given(&'a [f32]),
}

/// How [`quantize`] scales.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeOptions<'a> {
    /// The kind of scale.
    pub scale: ScaleKind,
    /// The rule that is followed.
    pub rule: Rule,
    /// Where scales come from.
    pub from: ScaleSource<'a>,
    /// The scale of scales, for NVFP4 (see [`nvfp4_global`](super::nvfp4_global)): one, or one for each block.
    pub global: Global<'a>,
    /// NaN and infinity.
    pub nonfinite: NonFinitePolicy,
    /// How quotients become codes; the rule's way where `None`.
    pub rounding: Option<Rounding>,
    /// Seed of stochastic rounding.
    pub seed: u64,
}

impl Default for QuantizeOptions<'_> {
    fn default() -> Self {
        QuantizeOptions {
            scale: ScaleKind::Float32,
            rule: RULES[0],
            from: ScaleSource::Found,
            global: Global::ONE,
            nonfinite: NonFinitePolicy::Raise,
            rounding: None,
            seed: 0,
        }
    }
}

/// A block larger than this (in elements) is not kept in cache between its two passes, but its parts are
/// spread over threads.
const BLOCK_LIMIT: usize = 256 * 1024;

/// Quantizes `src` with a scale for each block: one code for each element, and what is stored of each block's scale (without
/// NVFP4's scale of scales): the bytes of a float32, or a byte of E8M0 or E4M3. float64 input is rounded to nearest float32
/// first.
///
/// # Errors
/// [`Error::Length`] if the arrays do not fit the layout; [`Error::Unsupported`] for a format that takes no scale
/// or, under [`NonFinitePolicy::Propagate`], has no NaN, and for a rule that cannot be ([`Rule::check`]); [`Error::Range`] for
/// an amax that is negative or not finite, and a scale or factor that is not positive; [`Error::NonFinite`] for NaN or
/// infinity in `src`. After an error `codes` and `scales` hold parts of the result.
pub fn quantize<'a>(
    src: impl Into<Array<'a>>,
    blocks: Blocks,
    format: &'static Format,
    options: &QuantizeOptions<'_>,
    codes: CodesMut<'_>,
    scales: &mut [u8],
) -> Result<(), Error> {
    let src = src.into();
    let width = if options.scale == ScaleKind::Float32 { 4 } else { 1 };
    same_length("x", src.len(), blocks.len())?;
    same_length("codes", codes.len(), blocks.len())?;
    same_length("bytes of scales", scales.len(), width * blocks.scales())?;
    let job = Job::new(format, options)?;
    match options.from {
        ScaleSource::Found => {}
        ScaleSource::Known(amax) => same_length("known", amax.len(), blocks.scales())?,
        ScaleSource::Amax(amax) => {
            same_length("amax", amax.len(), blocks.scales())?;
            if let Some(a) = amax.iter().find(|a| !(a.is_finite() && **a >= 0.0)) {
                return Err(range("amax", *a, "finite numbers, none negative"));
            }
        }
        ScaleSource::Given(given) => {
            same_length("scales", given.len(), blocks.scales())?;
            let least = if options.scale == ScaleKind::Nvfp4 { 0.0 } else { f32::from_bits(1) };
            if let Some(s) = given.iter().find(|s| !(s.is_finite() && **s >= least)) {
                return Err(range("scales", *s, "finite numbers above 0 (NVFP4: or 0)"));
            }
        }
    }
    for (what, factors) in [("global_scale", options.global.encode), ("global_scale", options.global.decode)]
    {
        if factors.len() != 1 {
            same_length(what, factors.len(), blocks.scales())?;
        }
        if let Some(g) = factors.iter().find(|g| !(g.is_finite() && **g > 0.0)) {
            return Err(range(what, *g, "finite numbers above 0"));
        }
    }
    let flat = blocks.flattened_for(src);
    let spoiled = if reads_bf16(src, flat.cols) {
        job.codes::<Bf16>(src, flat, options.from, codes, scales)?
    } else {
        job.codes::<F32>(src, flat, options.from, codes, scales)?
    };
    if spoiled && options.nonfinite == NonFinitePolicy::Raise {
        let (index, value) = dispatch(FindNonFinite::<F32>(&as_f32(src)))
            .map_or((0, "inf"), |(i, nan)| (i, if nan { "NaN" } else { "inf" }));
        return Err(Error::NonFinite { what: "x", value, index });
    }
    Ok(())
}

fn range(what: &'static str, found: f32, expected: &'static str) -> Error {
    Error::Range { what, found: found.to_string(), expected }
}

#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub scaler: Scaler,
    format: &'static Format,
    pub global: Global<'a>,
    pub limits: Limits,
    pub skip_nan: bool,
    /// Nearest even, where the format takes it, and whether that is the way; else any mode.
    pub near: Option<Near>,
    pub nearest: bool,
    /// The mode in float16 lanes.
    pub narrow: Option<(Narrow, f32)>,
    pub rounder: LaneRounder,
}

/// A part of an array, its columns, the indices of its first element and block, largest magnitudes where they are known, and
/// where codes and scales go.
type Part<'a, C> = (Array<'a>, usize, [usize; 2], Option<&'a [f32]>, &'a mut [C], &'a mut [u8]);

impl<'a> Job<'a> {
    fn new(format: &'static Format, options: &QuantizeOptions<'a>) -> Result<Job<'a>, Error> {
        if format.top == Top::Scale || format.exp == 8 {
            return Err(Error::Unsupported(format!(
                "dtype: {} takes no scale; expected a format of at most 7 exponent bits (encode casts without one)",
                format.name
            )));
        }
        if format.nan_code().is_none() && options.nonfinite == NonFinitePolicy::Propagate {
            return Err(Error::Unsupported(format!(
                "nonfinite: found \"propagate\", but {} has no NaN; expected \"raise\"",
                format.name
            )));
        }
        let rule = options.rule;
        rule.check(options.scale, format, !matches!(options.from, ScaleSource::Given(_)))?;
        let rounding = options.rounding.unwrap_or(rule.rounding);
        let rounder = Rounder { rounding, ..Rounder::saturating(format) };
        let nearest = rounding == Rounding::NearestEven;
        let mut near = Near::new(&Rounder { rounding: Rounding::NearestEven, ..rounder });
        let mut lanes = LaneRounder::new(&rounder, options.seed);
        if let Some(max) = rule.max {
            let code = rounder.code(max.to_bits(), 0);
            near = near.map(|near| near.clipped(max, code));
            lanes = lanes.clipped(max);
        }
        if !rule.negative_zero {
            (near, lanes) = (None, lanes.without_negative_zero());
        }
        let e5m6 = (format.exp, format.man, format.bias, format.subnormals) == (5, 6, 15, true);
        if e5m6 && rule.subnormals == Subnormals::Float32Tail && rounding == Rounding::NearestEven {
            (near, lanes) = (None, lanes.with_float32_tail());
        }
        // Folded into scales, the power of two may not make them extreme.
        let narrow = near.and_then(|near| near.narrow(rounding)).filter(|(_, by)| (1e-9..=1.0).contains(by));
        let narrow = narrow.map(|(format, by)| (format.without_nan(), by));
        Ok(Job {
            scaler: Scaler::new(options.scale, rule, format),
            format,
            global: options.global,
            limits: Limits::new(format),
            skip_nan: rule.amax_nan == AmaxNan::Skip && options.nonfinite == NonFinitePolicy::Propagate,
            near,
            nearest,
            narrow,
            rounder: lanes,
        })
    }

    /// The same for any width of codes.
    fn codes<S: Native>(
        &self,
        src: Array<'_>,
        flat: Blocks,
        from: ScaleSource<'_>,
        codes: CodesMut<'_>,
        scales: &mut [u8],
    ) -> Result<bool, Error> {
        let plain = self.near.is_none_or(|near| near.plain());
        Ok(match (codes, self.format.bits() <= 8, plain) {
            (CodesMut::U8(codes), true, true) => self.all::<S, u8, true>(src, flat, from, codes, scales),
            (CodesMut::U8(codes), true, false) => self.all::<S, u8, false>(src, flat, from, codes, scales),
            (CodesMut::U16(codes), false, true) => self.all::<S, u16, true>(src, flat, from, codes, scales),
            (CodesMut::U16(codes), false, false) => self.all::<S, u16, false>(src, flat, from, codes, scales),
            _ => return Err(wrong_width(self.format)),
        })
    }

    /// Quantizes everything; says whether anything was not finite.
    fn all<S: Native, C: Code, const PLAIN: bool>(
        &self,
        src: Array<'_>,
        flat: Blocks,
        from: ScaleSource<'_>,
        codes: &mut [C],
        scales: &mut [u8],
    ) -> bool {
        if flat.is_empty() {
            return false;
        }
        let tall = flat.block_rows > 1;
        let bands = flat.stack * flat.bands();
        let block = flat.block_rows * flat.block_cols;
        let threads = threads_for(src.len());
        let starved = tall && threads > 1 && bands < 2 * threads;
        let searching = self.scaler.kind == ScaleKind::Nvfp4 && self.scaler.rule.targets().len() > 1;
        let known = match from {
            ScaleSource::Found => None,
            ScaleSource::Known(known) => Some(known),
            _ => return self.two_passes::<S, C, PLAIN>(src, flat, from, codes, scales),
        };
        if searching || block > BLOCK_LIMIT || starved {
            self.two_passes::<S, C, PLAIN>(src, flat, from, codes, scales)
        } else {
            self.one_pass::<S, C, PLAIN>(src, flat, known, codes, scales)
        }
    }

    /// Bytes of a stored scale.
    pub(super) fn width(&self) -> usize {
        match self.scaler.kind {
            ScaleKind::Float32 => 4,
            _ => 1,
        }
    }

    /// Amax, scales and codes of each band of blocks, or of each run where blocks are one row high.
    fn one_pass<S: Native, C: Code, const PLAIN: bool>(
        &self,
        src: Array<'_>,
        flat: Blocks,
        known: Option<&[f32]>,
        codes: &mut [C],
        scales: &mut [u8],
    ) -> bool {
        let width = self.width();
        let (mut at, mut block) = (0, 0);
        let stream = Walk::over(src.bytes(), codes).stream;
        let (mut codes, mut scales) = (codes, scales);
        let turned = known.is_none() && self.columns::<C>(src, flat.cols).is_some();
        let first = if turned { src.rows_to_line(0) } else { None };
        let tasks = flat.band_parts(task::<S>(src), first).map(|part| {
            let (here, after) = std::mem::take(&mut codes).split_at_mut(part.elements);
            let (stored, left) = std::mem::take(&mut scales).split_at_mut(part.blocks * width);
            (codes, scales) = (after, left);
            let known = known.map(|known| &known[block..block + part.blocks]);
            let task = (src.part(at..at + part.elements), part.cols, [at, block], known, here, stored);
            (at, block) = (at + part.elements, block + part.blocks);
            task
        });
        let tasks = tasks.collect();
        let part = |(src, cols, [at, block], known, codes, scales): Part<'_, C>| {
            let whole = [flat.block_rows, flat.block_cols];
            let lies = if known.is_none() { self.columns::<C>(src, cols) } else { None };
            if let Some(columns) = lies {
                return self.turned::<C, PLAIN>(columns, cols, whole, codes, scales, stream);
            }
            let mut spoiled = false;
            with_windows::<S>(src, cols, flat.block_cols, |window, src, stride| {
                let (job, [block_rows, block_cols]) = (self, [flat.block_rows, flat.block_cols]);
                // Rows that a copy brought together are one.
                let whole = window == (0..cols) && stride == cols;
                let joined = whole && block_rows == 1 && cols.is_multiple_of(block_cols);
                let (cols, window) = if joined { (src.len(), 0..src.len()) } else { (cols, window) };
                let stride = if joined { cols } else { stride };
                let (codes, scales) = (&mut *codes, &mut *scales);
                spoiled |= dispatch(Bands::<S, C, PLAIN> {
                    job,
                    at,
                    block,
                    src,
                    stride,
                    window,
                    known,
                    cols,
                    block_rows,
                    block_cols,
                    codes,
                    scales,
                    stream,
                });
            });
            spoiled
        };
        run_tasks(src.len(), tasks, part).into_iter().any(|spoiled| spoiled)
    }

    /// All scales first, then all codes: for blocks too large for a task, and for scales that do not come from amax alone.
    fn two_passes<S: Native, C: Code, const PLAIN: bool>(
        &self,
        src: Array<'_>,
        flat: Blocks,
        from: ScaleSource<'_>,
        codes: &mut [C],
        scales: &mut [u8],
    ) -> bool {
        let bits = |given: &[f32]| given.iter().map(|a| a.to_bits()).collect::<Vec<u32>>();
        let mut found = match from {
            ScaleSource::Known(known) => bits(known),
            _ => amax_bits::<S>(src, flat),
        };
        let spoiled = found.iter().any(|a| *a >= INFINITY);
        let real = found.clone();
        if self.skip_nan {
            numbers_amax::<S>(&S::whole(src), flat, &mut found);
        }
        let mut all = BlockScales::new();
        match from {
            ScaleSource::Given(given) => all.give(&self.scaler, given, self.global),
            from => {
                let amax = if let ScaleSource::Amax(given) = from { bits(given) } else { found };
                if self.scaler.rule.targets().len() > 1 && self.scaler.kind == ScaleKind::Nvfp4 {
                    let chosen =
                        search::<S>(&self.scaler, self.format, &S::whole(src), flat, &amax, self.global);
                    all.give(&self.scaler, &chosen, self.global);
                } else {
                    all.find(&self.scaler, &amax, self.global);
                }
            }
        }
        all.store(self.scaler.kind, scales);
        let mut rest = codes;
        let tasks = flat.row_parts(task::<S>(src)).map(|part| {
            let (codes, after) = std::mem::take(&mut rest).split_at_mut(part.rows * part.cols);
            rest = after;
            (part, codes)
        });
        let tasks = tasks.collect();
        run_tasks(src.len(), tasks, |(part, codes): (RowPart, &mut [C])| {
            let (range, all, found) = (part.range(&flat), &all, &real);
            let at = range.start;
            with_windows::<S>(src.part(range), part.cols, 1, |window, src, stride| {
                let (at, codes) = (at + window.start, &mut codes[window.start..]);
                let pitch = part.cols;
                let part = RowPart { at: part.at + window.start, cols: window.len(), ..part };
                dispatch(Rows::<S, C, PLAIN> {
                    job: self,
                    at,
                    part,
                    flat,
                    src,
                    stride,
                    all,
                    found,
                    codes,
                    pitch,
                });
            });
        });
        spoiled
    }
}
