//! Encoding: the least and largest magnitude of every tile, and the codes of its elements.

use super::definition::{check_bits, widen as to_f64, Finder, LogRounding};
use super::layout::{magnitudes, take, MagnitudeRange, Tiles, ABSOLUTE, INFINITY};
use super::prepared_tiles::{EncodePath, LinearEstimate, Prepare, PreparedTiles};
use crate::error::{same_length, Error};
use crate::formats::bfloat16::to_bfloat16;
use crate::formats::encode::widen;
use crate::formats::philox::random_words;
use crate::formats::source::{Bf16, Code, CodesMut, Input, Source, F32};
use crate::formats::strided::Array;
use crate::quant::amax::RUN;
use crate::quant::native::{as_f32, reads_bf16, task, with_run, Native};
use crate::simd::{dispatch, map_groups, GroupMap, Kernel, Lanes, PhiloxKeys, Walk, MAX_GROUP};
use crate::threads::run_tasks;
use std::marker::PhantomData;
use std::ops::Range;

/// Options of [`logfmt_encode`].
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bits of a code, sign included, from 3 to 16.
    pub bits: u32,
    /// Rounding of magnitudes.
    pub rounding: LogRounding,
    /// True: as DeepEP's kernel does. Numbers are rounded to bfloat16 first, by way of float32; zeros take part in a tile's
    /// least magnitude, which the clip at 2^-32 of the largest then raises; and a tile with a magnitude of 1 or more, which
    /// is sent as bfloat16, has zero codes.
    pub deepep: bool,
    /// True: NaN is skipped (code 0, and no part in a tile's range) instead of being flagged.
    pub skip_nan: bool,
    /// The seed of stochastic rounding.
    pub seed: u64,
    /// Stochastic rounding draws for element `(row / inner * cols + col) * inner + row % inner`: the flat index in the
    /// array whose axis was moved to the end, where `inner` elements lie between neighbours along that axis.
    pub inner: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        let rounding = LogRounding::Linear;
        LogOptions { bits: 8, rounding, deepep: false, skip_nan: false, seed: 0, inner: 1 }
    }
}

/// The results of [`logfmt_encode`] for each tile beside its codes, in C order.
#[derive(Debug)]
pub struct TilesMut<'a> {
    /// Least magnitude other than zero, not below 2^-32 of the largest; 0 where there is none. Where zeros count (`deepep`) and
    /// 2^-32 of the largest is no float32, it is 0 too, and all codes are.
    pub amin: &'a mut [f32],
    /// Largest magnitude.
    pub amax: &'a mut [f32],
    /// 1 where the tile holds NaN or infinity: its codes and magnitudes are then 0.
    pub flags: &'a mut [u8],
}

/// Encodes every element as its sign above the code of its magnitude in the table of its tile
/// ([`TileGrid`](super::TileGrid)). float64 input is rounded to nearest float32 first.
///
/// # Errors
/// [`Error::Range`] for a width that is none, [`Error::Length`] if the arrays do not fit the layout,
/// [`Error::Unsupported`] if `codes` are too narrow or wide.
pub fn logfmt_encode<'a>(
    src: impl Into<Array<'a>>,
    tiles: Tiles,
    options: &LogOptions,
    codes: CodesMut<'_>,
    out: TilesMut<'_>,
) -> Result<(), Error> {
    let src = src.into();
    check_bits(options.bits)?;
    same_length("x", src.len(), tiles.len())?;
    same_length("codes", codes.len(), tiles.len())?;
    same_length("amin", out.amin.len(), tiles.count())?;
    same_length("amax", out.amax.len(), tiles.count())?;
    same_length("flags", out.flags.len(), tiles.count())?;
    let inner = options.inner.max(1);
    if !tiles.rows().is_multiple_of(inner) {
        return Err(Error::Shape { what: "inner", why: "the rows are no multiple of it" });
    }
    let indices = RandomIndices { cols: tiles.cols(), inner, keys: PhiloxKeys::new(options.seed) };
    let dense = matches!(src, Array::Dense(_));
    let job = EncodeJob { options: *options, indices, tiles: if dense { tiles.flattened() } else { tiles } };
    let by_bfloat16 = options.deepep && !matches!(src.memory(), Input::Bf16(_));
    match (codes, reads_bf16(src, tiles.cols())) {
        (CodesMut::U8(codes), _) if options.bits <= 8 && by_bfloat16 => job.by_bfloat16(src, codes, out),
        (CodesMut::U16(codes), _) if options.bits > 8 && by_bfloat16 => job.by_bfloat16(src, codes, out),
        (CodesMut::U8(codes), true) if options.bits <= 8 => job.all::<Bf16, u8>(src, codes, out),
        (CodesMut::U8(codes), false) if options.bits <= 8 => job.all::<F32, u8>(src, codes, out),
        (CodesMut::U16(codes), true) if options.bits > 8 => job.all::<Bf16, u16>(src, codes, out),
        (CodesMut::U16(codes), false) if options.bits > 8 => job.all::<F32, u16>(src, codes, out),
        _ => return Err(wrong_width(options.bits)),
    }
    Ok(())
}

/// The nearest bfloat16 of each number.
fn rounded(src: &[f32]) -> Vec<u16> {
    let mut out = vec![0; src.len()];
    to_bfloat16(src, &mut out);
    out
}

pub(super) fn wrong_width(bits: u32) -> Error {
    let width = if bits <= 8 { "uint8" } else { "uint16" };
    Error::Unsupported(format!("codes: {bits} bits take {width} codes"))
}

struct EncodeJob {
    options: LogOptions,
    indices: RandomIndices,
    tiles: Tiles,
}

impl EncodeJob {
    fn all<S: Native, C: Code>(&self, src: Array<'_>, codes: &mut [C], out: TilesMut<'_>) {
        if self.tiles.tile() > RUN {
            return self.huge::<S, C>(&S::whole(src), codes, out);
        }
        let parts = self.parts(self.run::<S>(src), codes, out);
        run_tasks(src.len().saturating_mul(PER_VALUE), parts, |out| {
            let (part, mut out) = (src.part(out.elements()), Some(out));
            with_run::<S>(part, |src| {
                if let Some(out) = out.take() {
                    dispatch(EncodeTiles::<S, C> { job: self, src, out });
                }
            });
        });
    }

    /// The same of numbers that are rounded to bfloat16 first.
    fn by_bfloat16<C: Code>(&self, src: Array<'_>, codes: &mut [C], out: TilesMut<'_>) {
        if self.tiles.tile() > RUN {
            return self.huge::<Bf16, C>(&rounded(&as_f32(src)), codes, out);
        }
        let parts = self.parts(self.run::<F32>(src), codes, out);
        run_tasks(src.len().saturating_mul(PER_VALUE), parts, |out| {
            let (part, mut out) = (src.part(out.elements()), Some(out));
            with_run::<F32>(part, |src| {
                if let Some(out) = out.take() {
                    dispatch(EncodeTiles::<Bf16, C> { job: self, src: &rounded(src), out });
                }
            });
        });
    }

    /// Elements of a task. Rows that lie apart are read where they stand, one by one.
    fn run<S: Native>(&self, src: Array<'_>) -> usize {
        let apart = matches!(src, Array::Strided(_)) && src.is_rows(self.tiles.cols());
        if apart {
            self.tiles.cols().min(RUN)
        } else {
            task::<S>(src)
        }
    }

    /// Distributes whole tiles over tasks of about `run` elements.
    fn parts<'a, C>(&self, run: usize, mut codes: &'a mut [C], out: TilesMut<'a>) -> Vec<TilesPart<'a, C>> {
        let TilesMut { mut amin, mut amax, mut flags } = out;
        let runs = self.tiles.runs(run).into_iter();
        let parts = runs.map(|run| TilesPart {
            at: run.elements.start,
            codes: take(&mut codes, run.elements.len()),
            amin: take(&mut amin, run.tiles.len()),
            amax: take(&mut amax, run.tiles.len()),
            flags: take(&mut flags, run.tiles.len()),
        });
        parts.collect()
    }

    /// Encodes tiles that are larger than a task: parts of a tile go to tasks, first for the range, then for the codes.
    fn huge<S: Source, C: Code>(&self, src: &[S::Item], mut codes: &mut [C], out: TilesMut<'_>) {
        let mut prepared = PreparedTiles::new();
        for run in self.tiles.runs(1) {
            let (at, tile) = (run.elements.start, run.tiles.start);
            let src = &src[run.elements];
            let parts = run_tasks(src.len().saturating_mul(PER_VALUE), src.chunks(RUN).collect(), |src| {
                dispatch(Scan::<S>(src))
            });
            let whole = parts.into_iter().fold(MagnitudeRange::NONE, MagnitudeRange::and);
            prepared.clear();
            prepared.push(whole, &self.options);
            dispatch(Prepare(&mut prepared, &self.options));
            let one = tile..tile + 1;
            prepared.store(&mut out.amin[one.clone()], &mut out.amax[one.clone()], &mut out.flags[one]);
            let path = prepared.path(0, &self.options);
            let codes = take(&mut codes, src.len());
            let parts = src.chunks(RUN).zip(codes.chunks_mut(RUN)).enumerate();
            let parts = parts.map(|(i, (src, codes))| EncodeRun::<S, C> {
                path,
                indices: self.indices,
                at: at + i * RUN,
                src,
                codes,
            });
            run_tasks(src.len().saturating_mul(PER_VALUE), parts.collect(), dispatch);
        }
    }
}

/// The magnitudes of part of a tile.
struct Scan<'a, S: Source>(&'a [S::Item]);

impl<S: Source> Kernel for Scan<'_, S> {
    type Out = MagnitudeRange;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> MagnitudeRange {
        magnitudes::<L, S>(l, self.0)
    }
}

/// The results of some whole tiles, from element `at` on.
struct TilesPart<'a, C> {
    at: usize,
    codes: &'a mut [C],
    amin: &'a mut [f32],
    amax: &'a mut [f32],
    flags: &'a mut [u8],
}

impl<C> TilesPart<'_, C> {
    fn elements(&self) -> Range<usize> {
        self.at..self.at + self.codes.len()
    }
}

/// Some whole tiles.
struct EncodeTiles<'a, S: Source, C: Code> {
    job: &'a EncodeJob,
    src: &'a [S::Item],
    out: TilesPart<'a, C>,
}

/// Elements of a cast that cost as much as one that is encoded.
const PER_VALUE: usize = 4;

/// Elements prepared together: they stay in the first-level cache between the two passes.
const PANEL: usize = 2048;

impl<S: Source, C: Code> Kernel for EncodeTiles<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let EncodeTiles { job, src, out: TilesPart { at, codes, amin, amax, flags } } = self;
        let (options, tiles, indices) = (&job.options, &job.tiles, job.indices);
        // Software pipelining: scan the next panel while encoding this one, tile by tile. One waits for memory, the
        // other computes.
        let (mut ahead, mut here) = (tiles.walk(at), tiles.walk(at));
        let (mut a, mut b) = (PreparedTiles::new(), PreparedTiles::new());
        let (mut panel, mut next) = (&mut a, &mut b);
        let (mut start, mut i, mut first) = (0, 0, 0);
        let (mut begin, mut end) = (0, 0);
        loop {
            let more = end < src.len() && !next.is_full() && end - begin < PANEL;
            if more {
                let n = ahead.take(usize::MAX);
                next.push(magnitudes::<L, S>(l, &src[end..end + n]), options);
                end += n;
            }
            if i < panel.len() {
                let n = here.take(usize::MAX);
                let (src, codes) = (&src[start..start + n], &mut codes[start..start + n]);
                if panel.plain(i) {
                    let (estimate, finder) = (panel.estimate(i), panel.finder(i, options.bits));
                    let map = EstimateMap::<S, C, false>::new(estimate, finder, options);
                    map_groups(l, &map, 0, src, codes, Walk::CACHED);
                } else {
                    let path = panel.path(i, options);
                    l.call(EncodeRun::<S, C> { path, indices, at: at + start, src, codes });
                }
                start += n;
                i += 1;
            } else if !more {
                if next.len() == 0 {
                    break;
                }
                std::mem::swap(&mut panel, &mut next);
                l.call(Prepare(panel, options));
                let last = first + panel.len();
                panel.store(&mut amin[first..last], &mut amax[first..last], &mut flags[first..last]);
                next.clear();
                (i, first, begin) = (0, last, end);
            }
        }
    }
}

/// Elements of one tile.
struct EncodeRun<'a, S: Source, C: Code> {
    path: EncodePath,
    indices: RandomIndices,
    /// The index of the first element.
    at: usize,
    src: &'a [S::Item],
    codes: &'a mut [C],
}

impl<S: Source, C: Code> Kernel for EncodeRun<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let EncodeRun { path, indices, at, src, codes } = self;
        match path {
            EncodePath::Flagged => codes.fill(C::default()),
            EncodePath::Zero { sign } => {
                let mut bits = [0u32; MAX_GROUP];
                for (src, codes) in src.chunks(MAX_GROUP).zip(codes.chunks_mut(MAX_GROUP)) {
                    widen::<L, S>(l, src, &mut bits);
                    for (bits, code) in bits.iter().zip(codes) {
                        *code = C::from_u32(if bits >> 31 == 0 { 0 } else { sign });
                    }
                }
            }
            EncodePath::Definition { finder, rounding, sign } => {
                let mut random = [0u32; MAX_GROUP];
                for (i, (src, codes)) in src.chunks(MAX_GROUP).zip(codes.chunks_mut(MAX_GROUP)).enumerate() {
                    if rounding == LogRounding::Stochastic {
                        indices.words(at + i * MAX_GROUP, &mut random);
                    }
                    define::<L, S, C>(l, &finder, (rounding, sign), src, &random, codes);
                }
            }
            EncodePath::Estimate { estimate, finder, rounding, bits } => {
                if estimate.deep {
                    let map =
                        EstimateMap::<S, C, true> { estimate, finder, rounding, bits, marker: PhantomData };
                    map_groups(l, &map, 0, src, codes, Walk::CACHED);
                } else {
                    let map =
                        EstimateMap::<S, C, false> { estimate, finder, rounding, bits, marker: PhantomData };
                    map_groups(l, &map, 0, src, codes, Walk::CACHED);
                }
            }
        }
    }
}

/// Codes by the estimate, a group at a time; a group that it cannot tell falls back to the definition.
#[derive(Clone, Copy)]
struct EstimateMap<S, C, const DEEP: bool> {
    estimate: LinearEstimate,
    finder: Finder,
    rounding: LogRounding,
    bits: u32,
    marker: PhantomData<(S, C)>,
}

impl<S, C, const DEEP: bool> EstimateMap<S, C, DEEP> {
    #[inline(always)]
    fn new(estimate: LinearEstimate, finder: Finder, options: &LogOptions) -> Self {
        let LogOptions { bits, rounding, .. } = *options;
        EstimateMap { estimate, finder, rounding, bits, marker: PhantomData }
    }
}

impl<S: Source, C: Code, const DEEP: bool> GroupMap for EstimateMap<S, C, DEEP> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let (estimate, bits) = (&self.estimate, self.bits);
        let (k0, f0) = estimate.codes::<L, DEEP>(l, l.bits(S::load(l, src)), bits);
        let (k1, f1) = estimate.codes::<L, DEEP>(l, l.bits(S::load(l, &src[L::N..])), bits);
        let (k2, f2) = estimate.codes::<L, DEEP>(l, l.bits(S::load(l, &src[2 * L::N..])), bits);
        let (k3, f3) = estimate.codes::<L, DEEP>(l, l.bits(S::load(l, &src[3 * L::N..])), bits);
        C::store(l, [k0, k1, k2, k3], out, stream);
        let worst = l.max(l.max(f0, f1), l.max(f2, f3));
        if l.any(l.gt(worst, l.u32(estimate.limit))) {
            let (mut numbers, mut fractions) = ([0u32; MAX_GROUP], [0u32; MAX_GROUP]);
            for (j, fraction) in [f0, f1, f2, f3].into_iter().enumerate() {
                l.store_u32(l.bits(S::load(l, &src[j * L::N..])), &mut numbers[j * L::N..]);
                l.store_u32(fraction, &mut fractions[j * L::N..]);
            }
            let (finder, limit, rounding) = (&self.finder, estimate.limit, (self.rounding, 1 << (bits - 1)));
            let (numbers, fractions) = (&numbers, &fractions);
            l.call(Fallback { finder, rounding, limit, numbers, fractions, codes: &mut out[..L::GROUP] });
        }
    }
}

/// A group whose codes are stored: those whose fractions are beyond the limit are found by the definition. They are few.
struct Fallback<'a, C: Code> {
    finder: &'a Finder,
    /// The rounding, and the sign bit of a code.
    rounding: (LogRounding, u32),
    limit: u32,
    numbers: &'a [u32; MAX_GROUP],
    fractions: &'a [u32; MAX_GROUP],
    codes: &'a mut [C],
}

impl<C: Code> Kernel for Fallback<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Fallback { finder, rounding: (rounding, sign), limit, numbers, fractions, codes } = self;
        for ((x, fraction), found) in numbers.iter().zip(fractions).zip(codes) {
            if *fraction > limit {
                *found = C::from_u32(l.call(DefineOne { finder, rounding, sign, x: *x }));
            }
        }
    }
}

/// The codes of at most [`MAX_GROUP`] elements by the definition, from a rounding and the sign bit of a code.
#[inline(always)]
fn define<L: Lanes, S: Source, C: Code>(
    l: L,
    finder: &Finder,
    (rounding, sign): (LogRounding, u32),
    src: &[S::Item],
    random: &[u32; MAX_GROUP],
    codes: &mut [C],
) {
    let mut bits = [0u32; MAX_GROUP];
    widen::<L, S>(l, src, &mut bits);
    let found = l.call(Define { finder: *finder, rounding, sign, bits: &bits, random });
    for (code, found) in codes.iter_mut().zip(&found) {
        *code = C::from_u32(*found);
    }
}

/// The code of float32 bits by the definition.
#[inline(always)]
fn code(finder: &Finder, rounding: LogRounding, sign: u32, x: u32, random: u32) -> u32 {
    let a = x & ABSOLUTE;
    let a = if a > INFINITY { 0 } else { a };
    let k = match rounding {
        LogRounding::Linear => finder.nearest(to_f64(a), false),
        LogRounding::Log => finder.nearest(to_f64(a), true),
        LogRounding::Stochastic => finder.stochastic(to_f64(a), random),
    };
    k | if x >> 31 == 0 { 0 } else { sign }
}

/// The definition on the bits of a float32, without random bits.
struct DefineOne<'a> {
    finder: &'a Finder,
    rounding: LogRounding,
    sign: u32,
    x: u32,
}

impl Kernel for DefineOne<'_> {
    type Out = u32;
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) -> u32 {
        code(self.finder, self.rounding, self.sign, self.x, 0)
    }
}

/// The definition on a group of float32 bits: compiled once for all kinds of input and codes.
struct Define<'a> {
    finder: Finder,
    rounding: LogRounding,
    sign: u32,
    bits: &'a [u32; MAX_GROUP],
    random: &'a [u32; MAX_GROUP],
}

impl Kernel for Define<'_> {
    type Out = [u32; MAX_GROUP];
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) -> [u32; MAX_GROUP] {
        let Define { finder, rounding, sign, bits, random } = self;
        let mut found = [0u32; MAX_GROUP];
        for one in LogRounding::ALL {
            // One loop for each rounding, which is a constant in it: the compiler vectorizes them.
            if *one == rounding {
                for ((x, random), found) in bits.iter().zip(random).zip(&mut found) {
                    *found = code(&finder, *one, sign, *x, *random);
                }
            }
        }
        found
    }
}

/// The random bits that each element draws.
#[derive(Clone, Copy, Debug)]
struct RandomIndices {
    /// Elements of a row.
    cols: usize,
    /// Rows that were neighbours before the axis was moved.
    inner: usize,
    /// Bits of the seed.
    keys: PhiloxKeys,
}

impl RandomIndices {
    /// Draws the words of elements `at..`.
    #[inline(always)]
    fn words(&self, at: usize, out: &mut [u32]) {
        if self.inner == 1 {
            return random_words(&self.keys, at as u64, out);
        }
        for (i, word) in out.iter_mut().enumerate() {
            let (row, col) = ((at + i) / self.cols, (at + i) % self.cols);
            let index = ((row / self.inner * self.cols + col) * self.inner + row % self.inner) as u64;
            *word = self.keys.block(index / 4)[(index % 4) as usize];
        }
    }
}
