//! Quantization: amax, scale and codes of every block, in one pass where a block fits the cache.

use super::amax::{amax_bits, RUN};
use super::layout::{Blocks, RowPart};
use super::native::each_native;
use super::panel::{BlockScales, Prepare};
use super::scale::{Rule, ScaleKind, Scaler, RULES};
use super::transform::{raise_each, run_amax, Encode, RunScales};
use crate::error::{same_length, Error};
use crate::formats::encode::{widen, wrong_width};
use crate::formats::near::Near;
use crate::formats::round::{named_enum, Rounder};
use crate::formats::source::{Code, CodesMut, Input, Source};
use crate::formats::table::{Format, Top};
use crate::simd::{dispatch, Kernel, Lanes, Narrow, MAX_GROUP};
use crate::threads::{num_threads, run_tasks};

named_enum! {
    /// What to do about NaN and infinity.
    NonFinitePolicy, "nonfinite" {
        /// An error.
        Raise = "raise",
        /// IEEE arithmetic: they spoil their block.
        Propagate = "propagate",
    }
}

/// How [`quantize`] scales.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeOptions<'a> {
    /// The kind of scale.
    pub scale: ScaleKind,
    /// The project whose rule is followed.
    pub rule: &'static Rule,
    /// The least amax; the rule's own where `None`. Microscaling and NVFP4 have none.
    pub floor: Option<f32>,
    /// The tensor's factor, for NVFP4 (see [`nvfp4_global`]); else 1.
    pub global: f32,
    /// Largest magnitudes to use instead of the blocks' own, one for each block.
    pub amax: Option<&'a [f32]>,
    /// NaN and infinity.
    pub nonfinite: NonFinitePolicy,
}

impl Default for QuantizeOptions<'_> {
    fn default() -> Self {
        QuantizeOptions {
            scale: ScaleKind::Float32,
            rule: &RULES[0],
            floor: None,
            global: 1.0,
            amax: None,
            nonfinite: NonFinitePolicy::Raise,
        }
    }
}

/// The NVFP4 factor of a tensor whose largest magnitude is `amax`.
pub fn nvfp4_global(amax: f32, format: &Format) -> f32 {
    Scaler::nvfp4_global(amax, format)
}

/// A block larger than this (in elements) is not kept in cache between its two passes, but its parts are
/// spread over threads.
const BLOCK_LIMIT: usize = 256 * 1024;

/// Quantizes `src` with a scale for each block: one code for each element, and what is stored of each
/// block's scale, as a float32 (without the tensor's factor). float64 input is rounded to nearest float32 first.
///
/// # Errors
/// [`Error::Length`] if the arrays do not fit the layout; [`Error::Unsupported`] for a format that takes no scale
/// or, under [`NonFinitePolicy::Propagate`], has no NaN; [`Error::Range`] for a floor, factor or amax that is
/// negative or not finite; [`Error::NonFinite`] for NaN or infinity in `src`. After an error `codes` and
/// `scales` hold parts of the result.
pub fn quantize(
    src: Input<'_>,
    blocks: Blocks,
    format: &'static Format,
    options: &QuantizeOptions<'_>,
    codes: CodesMut<'_>,
    scales: &mut [f32],
) -> Result<(), Error> {
    same_length("x", src.len(), blocks.len())?;
    same_length("codes", codes.len(), blocks.len())?;
    same_length("scales", scales.len(), blocks.scales())?;
    let job = Job::new(format, options)?;
    if let Some(amax) = options.amax {
        same_length("amax", amax.len(), blocks.scales())?;
        if let Some(a) = amax.iter().find(|a| !(a.is_finite() && **a >= 0.0)) {
            return Err(range("amax", *a, "finite numbers, none negative"));
        }
    }
    let spoiled = each_native!(src, S, src => match codes {
        CodesMut::U8(codes) if format.bits() <= 8 => {
            if job.near.plain() {
                job.all::<S, u8, true>(src, blocks, options.amax, codes, scales)
            } else {
                job.all::<S, u8, false>(src, blocks, options.amax, codes, scales)
            }
        }
        CodesMut::U16(codes) if format.bits() > 8 => {
            job.all::<S, u16, true>(src, blocks, options.amax, codes, scales)
        }
        _ => return Err(wrong_width(format)),
    });
    if spoiled && options.nonfinite == NonFinitePolicy::Raise {
        let (index, value) = each_native!(src, S, src => dispatch(FindNonFinite::<S>(src)))
            .map_or((0, "inf"), |(i, nan)| (i, if nan { "NaN" } else { "inf" }));
        return Err(Error::NonFinite { what: "x", value, index });
    }
    Ok(())
}

fn range(what: &'static str, found: f32, expected: &'static str) -> Error {
    Error::Range { what, found: found.to_string(), expected }
}

#[derive(Clone, Copy)]
struct Job {
    scaler: Scaler,
    near: Near,
    narrow: Option<(Narrow, f32)>,
}

impl Job {
    fn new(format: &'static Format, options: &QuantizeOptions<'_>) -> Result<Job, Error> {
        if format.top == Top::Scale || format.bits() > 12 {
            return Err(Error::Unsupported(format!(
                "dtype: {} takes no scale; expected a format of at most 12 bits (encode casts without one)",
                format.name
            )));
        }
        if format.nan_code().is_none() && options.nonfinite == NonFinitePolicy::Propagate {
            return Err(Error::Unsupported(format!(
                "nonfinite: found \"propagate\", but {} has no NaN; expected \"raise\"",
                format.name
            )));
        }
        if format.top == Top::Integer && matches!(options.scale, ScaleKind::Mx | ScaleKind::Nvfp4) {
            return Err(Error::Unsupported(format!(
                "scale: {:?} is defined for floating-point formats, found {}",
                options.scale.name(),
                format.name
            )));
        }
        let floor = match options.scale {
            ScaleKind::Float32 | ScaleKind::Ue8m0 => options.floor.unwrap_or(options.rule.floor),
            ScaleKind::Mx | ScaleKind::Nvfp4 => 0.0,
        };
        if !(floor.is_finite() && floor >= 0.0) {
            return Err(range("floor", floor, "a finite number, not negative"));
        }
        let global = options.global;
        if !(global.is_finite() && global >= f32::MIN_POSITIVE) {
            return Err(range("global_scale", global, "a positive, normal float32"));
        }
        let rule = Rule { floor, ..*options.rule };
        let scaler = Scaler { kind: options.scale, rule, max: format.max(), global };
        let near = Near::new(&Rounder::saturating(format));
        Ok(Job { scaler, near, narrow: near.narrow() })
    }

    /// Quantizes everything; says whether anything was not finite.
    fn all<S: Source, C: Code, const PLAIN: bool>(
        &self,
        src: &[S::Item],
        blocks: Blocks,
        amax: Option<&[f32]>,
        codes: &mut [C],
        scales: &mut [f32],
    ) -> bool {
        if blocks.is_empty() {
            return false;
        }
        let flat = blocks.flattened();
        let tall = flat.block_rows > 1;
        let bands = flat.stack * flat.bands();
        let block = flat.block_rows * flat.block_cols;
        let starved = tall && num_threads() > 1 && bands < 2 * num_threads();
        if amax.is_some() || block > BLOCK_LIMIT || starved {
            self.two_passes::<S, C, PLAIN>(src, flat, amax, codes, scales)
        } else {
            self.one_pass::<S, C, PLAIN>(src, flat, codes, scales)
        }
    }

    /// Amax, scales and codes of each band of blocks, or of each run where blocks are one row high.
    fn one_pass<S: Source, C: Code, const PLAIN: bool>(
        &self,
        src: &[S::Item],
        flat: Blocks,
        codes: &mut [C],
        scales: &mut [f32],
    ) -> bool {
        // Whole bands of a matrix, or whole blocks of a long row; a matrix may end in a short band.
        let band = flat.block_rows * flat.cols;
        let (elements, cols, blocks) = if flat.block_rows == 1 && flat.cols > RUN {
            let blocks = RUN.div_ceil(flat.block_cols);
            (blocks * flat.block_cols, blocks * flat.block_cols, blocks)
        } else {
            let bands = (RUN / band).max(1);
            (bands * band, flat.cols, bands * flat.across())
        };
        let mut tasks = Vec::new();
        let (unit, unit_scales) = if cols == flat.cols {
            (flat.rows * flat.cols, flat.bands() * flat.across())
        } else {
            (flat.cols, flat.across())
        };
        for ((src, codes), scales) in
            src.chunks(unit).zip(codes.chunks_mut(unit)).zip(scales.chunks_mut(unit_scales))
        {
            for ((src, codes), scales) in
                src.chunks(elements).zip(codes.chunks_mut(elements)).zip(scales.chunks_mut(blocks))
            {
                let cols = cols.min(src.len());
                let (block_rows, block_cols) = (flat.block_rows, flat.block_cols);
                tasks.push(Bands::<S, C, PLAIN> {
                    job: self,
                    src,
                    cols,
                    block_rows,
                    block_cols,
                    codes,
                    scales,
                });
            }
        }
        run_tasks(src.len(), tasks, dispatch).into_iter().any(|spoiled| spoiled)
    }

    /// All amax first (or those given), then all codes: for blocks too large for a task.
    fn two_passes<S: Source, C: Code, const PLAIN: bool>(
        &self,
        src: &[S::Item],
        flat: Blocks,
        given: Option<&[f32]>,
        codes: &mut [C],
        scales: &mut [f32],
    ) -> bool {
        let found = amax_bits::<S>(src, flat);
        let spoiled = found.iter().any(|a| *a >= 0x7F80_0000);
        let amax: Vec<u32> = match given {
            // A block that is not finite keeps its own amax, so that it is seen to be spoiled.
            Some(given) => {
                let pick = |(given, found): (&f32, &u32)| (given.to_bits()).max(*found & spoil(*found));
                given.iter().zip(&found).map(pick).collect()
            }
            None => found,
        };
        dispatch(Prepare {
            scales: &mut BlockScales::new(),
            scaler: &self.scaler,
            amax: &amax,
            trusted: false,
            stored: Some(scales),
            fold: 1.0,
        });
        let mut rest = codes;
        let tasks = flat.row_parts(RUN).map(|part| {
            let range = part.range(&flat);
            let (codes, after) = std::mem::take(&mut rest).split_at_mut(range.len());
            rest = after;
            let src = &src[range];
            Rows::<S, C, PLAIN> { job: self, part, flat, src, amax: &amax, trusted: given.is_none(), codes }
        });
        let tasks = tasks.collect();
        run_tasks(src.len(), tasks, dispatch);
        spoiled
    }
}

/// All ones for the bits of NaN and infinity, else zero.
fn spoil(bits: u32) -> u32 {
    if bits >= 0x7F80_0000 {
        u32::MAX
    } else {
        0
    }
}

/// Some bands of blocks of one matrix: amax, scales and codes, a panel of columns at a time so that a band is
/// read from memory once.
struct Bands<'a, S: Source, C: Code, const PLAIN: bool> {
    job: &'a Job,
    src: &'a [S::Item],
    cols: usize,
    block_rows: usize,
    block_cols: usize,
    codes: &'a mut [C],
    scales: &'a mut [f32],
}

/// Elements of a panel: of a single row, and bytes where rows lie apart.
const PANEL: usize = 2048;
const TALL_PANEL_BYTES: usize = 512 * 1024;

impl<S: Source, C: Code, const PLAIN: bool> Kernel for Bands<'_, S, C, PLAIN> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        let Bands { job, src, cols, block_rows, block_cols, codes, scales } = self;
        let item = std::mem::size_of::<S::Item>();
        let width = if block_rows == 1 { PANEL } else { TALL_PANEL_BYTES / (block_rows * item) };
        let width = (width / block_cols).max(1) * block_cols;
        let across = cols.div_ceil(block_cols);
        let mut amax = vec![0u32; width.min(cols).div_ceil(block_cols)];
        let mut ready = BlockScales::new();
        let mut spoiled = false;
        for (band, (src, codes)) in
            src.chunks(block_rows * cols).zip(codes.chunks_mut(block_rows * cols)).enumerate()
        {
            let scales = &mut scales[band * across..(band + 1) * across];
            let mut start = 0;
            while start < cols {
                let end = (start + width).min(cols);
                let (first, last) = (start / block_cols, end.div_ceil(block_cols));
                let amax = &mut amax[..last - first];
                amax.fill(0);
                for row in src.chunks(cols) {
                    raise_blocks::<L, S>(l, &row[start..end], block_cols, amax);
                }
                l.call(Prepare {
                    scales: &mut ready,
                    scaler: &job.scaler,
                    amax,
                    trusted: true,
                    stored: Some(&mut scales[first..last]),
                    fold: job.fold::<L>(),
                });
                spoiled |= amax.iter().any(|a| *a >= 0x7F80_0000);
                let safe = ready.safe;
                // A long row is read straight on; in a band, the panel's neighbour in the same row comes next.
                let ahead = if block_rows == 1 { ROW_AHEAD } else { (end - start) * item };
                for (k, (row, out)) in src.chunks(cols).zip(codes.chunks_mut(cols)).enumerate() {
                    let scales = ready.run(block_cols, 0, end - start, k == 0);
                    let (row, out) = (&row[start..end], &mut out[start..end]);
                    job.encode::<L, S, C, PLAIN>(l, (scales, safe), row, out, ahead);
                }
                start = end;
            }
        }
        spoiled
    }
}

/// Bytes ahead of a long row's loads: two panels, since each is passed over twice.
const ROW_AHEAD: usize = 16 * 1024;

/// Raises each block's maximum over a run that begins with a block.
#[inline(always)]
fn raise_blocks<L: Lanes, S: Source>(l: L, run: &[S::Item], block_cols: usize, amax: &mut [u32]) {
    if block_cols == 1 {
        return raise_each::<L, S>(l, run, amax);
    }
    for (block, amax) in run.chunks(block_cols).zip(amax) {
        *amax = (*amax).max(run_amax::<L, S>(l, block));
    }
}

impl Job {
    #[inline(always)]
    fn encode<L: Lanes, S: Source, C: Code, const PLAIN: bool>(
        &self,
        l: L,
        (scales, safe): (RunScales<'_>, bool),
        src: &[S::Item],
        out: &mut [C],
        ahead: usize,
    ) {
        let (near, narrow) = (self.near, self.narrow.map(|(narrow, _)| narrow));
        match (safe, self.scaler.divides()) {
            (true, true) => {
                l.call(Encode::<S, C, true, true, PLAIN> { near, narrow, scales, src, out, ahead })
            }
            (true, false) => {
                l.call(Encode::<S, C, true, false, PLAIN> { near, narrow, scales, src, out, ahead })
            }
            (false, true) => {
                l.call(Encode::<S, C, false, true, PLAIN> { near, narrow, scales, src, out, ahead })
            }
            (false, false) => {
                l.call(Encode::<S, C, false, false, PLAIN> { near, narrow, scales, src, out, ahead })
            }
        }
    }

    /// What quotients are to come multiplied by.
    #[inline(always)]
    fn fold<L: Lanes>(&self) -> f32 {
        self.narrow.map_or(1.0, |(_, scale)| if L::NARROW { scale } else { 1.0 })
    }
}

/// Some rows, or part of one, whose blocks' amax are known.
struct Rows<'a, S: Source, C: Code, const PLAIN: bool> {
    job: &'a Job,
    part: RowPart,
    flat: Blocks,
    src: &'a [S::Item],
    amax: &'a [u32],
    trusted: bool,
    codes: &'a mut [C],
}

impl<S: Source, C: Code, const PLAIN: bool> Kernel for Rows<'_, S, C, PLAIN> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { job, part, flat, src, amax, trusted, codes } = self;
        let (from, to) = (part.at / flat.block_cols, (part.at + part.cols).div_ceil(flat.block_cols));
        let phase = part.at % flat.block_cols;
        let mut ready = BlockScales::new();
        let (mut band, mut fresh) = (usize::MAX, true);
        for (k, (src, out)) in src.chunks(part.cols).zip(codes.chunks_mut(part.cols)).enumerate() {
            if flat.band_of_row(part.row + k) != band {
                band = flat.band_of_row(part.row + k);
                let amax = &amax[band * flat.across()..][from..to];
                l.call(Prepare {
                    scales: &mut ready,
                    scaler: &job.scaler,
                    amax,
                    trusted,
                    stored: None,
                    fold: job.fold::<L>(),
                });
                fresh = true;
            }
            let safe = ready.safe;
            let scales = ready.run(flat.block_cols, phase, part.cols, fresh);
            job.encode::<L, S, C, PLAIN>(l, (scales, safe), src, out, ROW_AHEAD);
            fresh = false;
        }
    }
}

/// The first element that is not finite, and whether it is NaN.
struct FindNonFinite<'a, S: Source>(&'a [S::Item]);

impl<S: Source> Kernel for FindNonFinite<'_, S> {
    type Out = Option<(usize, bool)>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Option<(usize, bool)> {
        for (k, src) in self.0.chunks(MAX_GROUP).enumerate() {
            let mut bits = [0u32; MAX_GROUP];
            widen::<L, S>(l, src, &mut bits);
            if let Some(i) = bits[..src.len()].iter().position(|b| b & 0x7FFF_FFFF >= 0x7F80_0000) {
                return Some((k * MAX_GROUP + i, bits[i] & 0x7FFF_FFFF > 0x7F80_0000));
            }
        }
        None
    }
}
