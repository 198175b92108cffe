//! Quantization: amax, scale and codes of every block, in one pass where a block fits the cache.

use super::amax::amax_bits;
use super::layout::{Blocks, RowPart};
use super::native::{as_f32, reads_bf16, task, with_windows, Native};
use super::nonfinite::{numbers_amax, FindNonFinite, RaiseNumbers, INFINITY};
use super::panel::{tall_panel_bytes, BlockScales, Limits, Prepare, PANEL};
use super::rule::{AmaxNan, Rule, ScaleKind, Subnormals, RULES};
use super::scale::{largest, Global, Scaler};
use super::search::search;
use super::transform::{raise_blocks, Encode, EncodeAny, RunScales};
use crate::error::{same_length, Error};
use crate::formats::encode::wrong_width;
use crate::formats::lanes::LaneRounder;
use crate::formats::near::Near;
use crate::formats::round::{named_enum, Rounder, Rounding};
use crate::formats::source::{Bf16, Code, CodesMut, Source, F32};
use crate::formats::strided::Array;
use crate::formats::table::{Format, Top};
use crate::simd::{dispatch, Kernel, Lanes, Narrow, Walk};
use crate::threads::{run_tasks, threads_for};
use std::ops::Range;

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
struct Job<'a> {
    scaler: Scaler,
    format: &'static Format,
    global: Global<'a>,
    limits: Limits,
    skip_nan: bool,
    /// Nearest even, where the format takes it, and whether that is the way; else any mode.
    near: Option<Near>,
    nearest: bool,
    /// The mode in float16 lanes.
    narrow: Option<(Narrow, f32)>,
    rounder: LaneRounder,
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
    fn width(&self) -> usize {
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
        let tasks = flat.band_parts(task::<S>(src)).map(|part| {
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

/// Some bands of blocks of one matrix: amax, scales and codes, a panel of columns at a time so that a band is
/// read from memory once.
struct Bands<'a, S: Source, C: Code, const PLAIN: bool> {
    job: &'a Job<'a>,
    /// The index of the first element, and of the first block.
    at: usize,
    block: usize,
    /// Some columns of each row, and elements from one row to the next.
    src: &'a [S::Item],
    window: Range<usize>,
    stride: usize,
    /// Largest magnitudes of the blocks, where they are known.
    known: Option<&'a [f32]>,
    cols: usize,
    block_rows: usize,
    block_cols: usize,
    codes: &'a mut [C],
    scales: &'a mut [u8],
    /// True: codes go past the caches, by way of a room in the first level.
    stream: bool,
}

impl<S: Source, C: Code, const PLAIN: bool> Kernel for Bands<'_, S, C, PLAIN> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        let Bands { job, at, block, src, window, stride, known, cols, .. } = self;
        let Bands { block_rows, block_cols, codes, scales, stream, .. } = self;
        let bytes = job.width();
        let item = std::mem::size_of::<S::Item>();
        let width = if block_rows == 1 { PANEL } else { tall_panel_bytes() / (block_rows * item) };
        let width = (width / block_cols).max(1) * block_cols;
        let across = cols.div_ceil(block_cols);
        // Where rows lie apart, what comes next is the same part of the next row.
        let apart = stride > cols;
        let next_row = if apart && block_rows > 1 { stride * item } else { 0 };
        let mut amax = vec![0u32; width.min(window.len()).div_ceil(block_cols)];
        let mut ready = BlockScales::new();
        let mut spoiled = false;
        let mut room = vec![C::default(); if stream { width.min(window.len()) } else { 0 }];
        for (band, (src, codes)) in
            src.chunks(block_rows * stride).zip(codes.chunks_mut(block_rows * cols)).enumerate()
        {
            let scales = &mut scales[band * across * bytes..(band + 1) * across * bytes];
            let at = at + band * block_rows * cols;
            let mut start = window.start;
            while start < window.end {
                let end = (start + width).min(window.end);
                let here = start - window.start..end - window.start;
                let (first, last) = (start / block_cols, end.div_ceil(block_cols));
                let amax = &mut amax[..last - first];
                if let Some(known) = known {
                    let known = &known[band * across + first..band * across + last];
                    amax.iter_mut().zip(known).for_each(|(bits, a)| *bits = a.to_bits());
                } else {
                    amax.fill(0);
                    for row in src.chunks(stride) {
                        raise_blocks::<L, S>(l, &row[here.clone()], block_cols, amax, next_row);
                    }
                }
                let dirty = largest(amax) >= INFINITY;
                spoiled |= dirty;
                let block = block + band * across + first;
                let global = job.global.part(block..block + amax.len());
                let numbers = (dirty && job.skip_nan).then(|| {
                    let mut numbers = amax.to_vec();
                    let Range { start, end } = here.clone();
                    l.call(RaiseNumbers::<S> { src, stride, start, end, block_cols, amax: &mut numbers });
                    numbers
                });
                l.call(Prepare {
                    scales: &mut ready,
                    scaler: &job.scaler,
                    amax: numbers.as_deref().unwrap_or(amax),
                    found: amax,
                    global,
                    stored: &mut scales[first * bytes..last * bytes],
                    limits: job.limits,
                    fold: job.fold::<L>(),
                });
                let safe = ready.safe;
                // The panel's neighbour in the same row comes next, or the next row.
                let walk = match (apart, block_rows > 1) {
                    (true, true) => Walk::CACHED,
                    (true, false) => Walk { ahead: stride * item, far: true, ..Walk::CACHED },
                    (false, tall) => {
                        let whole = tall && here.len() == window.len();
                        Walk { ahead: if whole { 0 } else { here.len() * item }, ..Walk::CACHED }
                    }
                };
                for (k, (row, out)) in src.chunks(stride).zip(codes.chunks_mut(cols)).enumerate() {
                    let scales = ready.run(block_cols, 0, end - start, k == 0);
                    let (row, out) = (&row[here.clone()], &mut out[start..end]);
                    let at = at + k * cols + start;
                    let codes = if stream { &mut room[..out.len()] } else { &mut *out };
                    job.encode::<L, S, C, PLAIN>(l, (scales, safe), at, row, codes, walk);
                    if stream {
                        l.stream(&room[..out.len()], out);
                    }
                }
                start = end;
            }
        }
        l.fence();
        spoiled
    }
}

/// Bytes ahead of a long row's loads.
const ROW_AHEAD: usize = 16 * 1024;

impl Job<'_> {
    #[inline(always)]
    fn encode<L: Lanes, S: Source, C: Code, const PLAIN: bool>(
        &self,
        l: L,
        (scales, safe): (RunScales<'_>, bool),
        at: usize,
        src: &[S::Item],
        out: &mut [C],
        walk: Walk,
    ) {
        let narrow = self.narrow.map(|(narrow, _)| narrow);
        let in_lanes = self.nearest || (L::NARROW_MODES && C::BYTE && safe && narrow.is_some());
        let Some(near) = self.near.filter(|_| in_lanes) else {
            let (rounder, divide) = (self.rounder, self.scaler.divides());
            return l.call(EncodeAny::<S, C> { rounder, safe, divide, at, scales, src, out, walk });
        };
        match (safe, self.scaler.divides()) {
            (true, true) => {
                l.call(Encode::<S, C, true, true, PLAIN> { near, narrow, scales, src, out, walk })
            }
            (true, false) => {
                l.call(Encode::<S, C, true, false, PLAIN> { near, narrow, scales, src, out, walk })
            }
            (false, true) => {
                l.call(Encode::<S, C, false, true, PLAIN> { near, narrow, scales, src, out, walk })
            }
            (false, false) => {
                l.call(Encode::<S, C, false, false, PLAIN> { near, narrow, scales, src, out, walk })
            }
        }
    }

    /// Factor that quotients are to come with.
    #[inline(always)]
    fn fold<L: Lanes>(&self) -> f32 {
        let used = |format: Narrow| L::NARROW && (format.even || L::NARROW_MODES);
        self.narrow.map_or(1.0, |(format, scale)| if used(format) { scale } else { 1.0 })
    }
}

/// Some rows, or part of one, whose blocks' scales are known.
struct Rows<'a, S: Source, C: Code, const PLAIN: bool> {
    job: &'a Job<'a>,
    /// The index of the first element.
    at: usize,
    part: RowPart,
    flat: Blocks,
    src: &'a [S::Item],
    stride: usize,
    all: &'a BlockScales,
    found: &'a [u32],
    codes: &'a mut [C],
    /// Codes from one row to the next.
    pitch: usize,
}

impl<S: Source, C: Code, const PLAIN: bool> Kernel for Rows<'_, S, C, PLAIN> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { job, at, part, flat, src, stride, all, found, codes, pitch } = self;
        let far = stride > part.cols;
        let ahead = if far { stride * std::mem::size_of::<S::Item>() } else { ROW_AHEAD };
        let walk = Walk { ahead, far, ..Walk::CACHED };
        let (from, to) = (part.at / flat.block_cols, (part.at + part.cols).div_ceil(flat.block_cols));
        let phase = part.at % flat.block_cols;
        let mut ready = BlockScales::new();
        let (mut band, mut fresh) = (usize::MAX, true);
        for (k, (src, out)) in src.chunks(stride).zip(codes.chunks_mut(pitch)).enumerate() {
            let (src, out) = (&src[..part.cols], &mut out[..part.cols]);
            if flat.band_of_row(part.row + k) != band {
                band = flat.band_of_row(part.row + k);
                let blocks = band * flat.across() + from..band * flat.across() + to;
                ready.copy(all, blocks.clone());
                ready.settle(&found[blocks], job.limits, job.fold::<L>());
                fresh = true;
            }
            let safe = ready.safe;
            let scales = ready.run(flat.block_cols, phase, part.cols, fresh);
            job.encode::<L, S, C, PLAIN>(l, (scales, safe), at + k * pitch, src, out, walk);
            fresh = false;
        }
    }
}
