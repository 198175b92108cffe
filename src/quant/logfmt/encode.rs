//! Encoding: the least and largest magnitude of every tile, and the codes of its elements.

use super::layout::{take, Tiles};
use super::range::{magnitudes, Range};
use super::ready::{Panel, Way};
use super::run::{Estimated, Indices, Run};
use super::tile::{check_bits, LogRounding};
use crate::error::{same_length, Error};
use crate::formats::source::{Code, CodesMut, Input, Source};
use crate::quant::amax::RUN;
use crate::quant::native::each_native;
use crate::simd::{dispatch, map_groups, Kernel, Lanes, Walk};
use crate::threads::run_tasks;

/// How [`logfmt_encode`] encodes.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bits of a code, sign included, from 3 to 16.
    pub bits: u32,
    /// Which neighbour a magnitude becomes.
    pub rounding: LogRounding,
    /// Whether zeros take part in a tile's least magnitude, which the clip at 2^-32 of the largest then raises.
    pub zeros_count: bool,
    /// Whether NaN is passed over (code 0, and no part in a tile's range) instead of being flagged.
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
        LogOptions { bits: 8, rounding, zeros_count: false, skip_nan: false, seed: 0, inner: 1 }
    }
}

/// What [`logfmt_encode`] says of each tile beside its codes, in C order.
#[derive(Debug)]
pub struct TilesMut<'a> {
    /// Least magnitude other than zero, not below 2^-32 of the largest; 0 where there is none. Where zeros count and
    /// 2^-32 of the largest is no float32, it is 0 too, and all codes are.
    pub amin: &'a mut [f32],
    /// Largest magnitude.
    pub amax: &'a mut [f32],
    /// 1 where the tile holds NaN or infinity: its codes and magnitudes are then 0.
    pub flags: &'a mut [u8],
}

/// Encodes every element as its sign above the code of its magnitude in the table of its tile
/// ([`Span`](super::Span)). float64 input is rounded to nearest float32 first.
///
/// # Errors
/// [`Error::Range`] for a width that is none, [`Error::Length`] if the arrays do not fit the layout,
/// [`Error::Unsupported`] if `codes` are too narrow or wide.
pub fn logfmt_encode(
    src: Input<'_>,
    tiles: Tiles,
    options: &LogOptions,
    codes: CodesMut<'_>,
    out: TilesMut<'_>,
) -> Result<(), Error> {
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
    let indices = Indices { cols: tiles.cols(), inner, seed: options.seed };
    let job = Job { options: *options, indices, tiles: tiles.flattened() };
    each_native!(src, S, src => match codes {
        CodesMut::U8(codes) if options.bits <= 8 => job.all::<S, u8>(src, codes, out),
        CodesMut::U16(codes) if options.bits > 8 => job.all::<S, u16>(src, codes, out),
        _ => return Err(wrong_width(options.bits)),
    });
    Ok(())
}

pub(super) fn wrong_width(bits: u32) -> Error {
    let width = if bits <= 8 { "uint8" } else { "uint16" };
    Error::Unsupported(format!("codes: {bits} bits take {width} codes"))
}

struct Job {
    options: LogOptions,
    indices: Indices,
    tiles: Tiles,
}

impl Job {
    fn all<S: Source, C: Code>(&self, src: &[S::Item], codes: &mut [C], out: TilesMut<'_>) {
        if self.tiles.tile() > RUN {
            return self.huge::<S, C>(src, codes, out);
        }
        let TilesMut { mut amin, mut amax, mut flags } = out;
        let mut codes = codes;
        let tasks = self.tiles.pieces(RUN).into_iter().map(|piece| Panels::<S, C> {
            job: self,
            at: piece.elements.start,
            codes: take(&mut codes, piece.elements.len()),
            amin: take(&mut amin, piece.tiles.len()),
            amax: take(&mut amax, piece.tiles.len()),
            flags: take(&mut flags, piece.tiles.len()),
            src: &src[piece.elements],
        });
        let tasks = tasks.collect();
        run_tasks(src.len(), tasks, dispatch);
    }

    /// Tiles that do not fit a task: their parts go to tasks, first for the range, then for the codes.
    fn huge<S: Source, C: Code>(&self, src: &[S::Item], mut codes: &mut [C], out: TilesMut<'_>) {
        let mut panel = Panel::new();
        for piece in self.tiles.pieces(1) {
            let (at, tile) = (piece.elements.start, piece.tiles.start);
            let src = &src[piece.elements];
            let parts = run_tasks(src.len(), src.chunks(RUN).collect(), |src| dispatch(Scan::<S>(src)));
            let whole = parts.into_iter().fold(Range::NONE, Range::and);
            panel.clear();
            panel.push(whole, &self.options);
            panel.prepare(&self.options);
            let one = tile..tile + 1;
            panel.store(&mut out.amin[one.clone()], &mut out.amax[one.clone()], &mut out.flags[one]);
            let way = panel.way(0, &self.options);
            let codes = take(&mut codes, src.len());
            let parts = src.chunks(RUN).zip(codes.chunks_mut(RUN)).enumerate();
            let parts = parts.map(|(i, (src, codes))| Part::<S, C> {
                way,
                indices: self.indices,
                at: at + i * RUN,
                src,
                codes,
            });
            run_tasks(src.len(), parts.collect(), dispatch);
        }
    }
}

/// The range of a part of a tile.
struct Scan<'a, S: Source>(&'a [S::Item]);

impl<S: Source> Kernel for Scan<'_, S> {
    type Out = Range;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Range {
        magnitudes::<L, S>(l, self.0)
    }
}

/// The codes of a part of a tile.
struct Part<'a, S: Source, C: Code> {
    way: Way,
    indices: Indices,
    at: usize,
    src: &'a [S::Item],
    codes: &'a mut [C],
}

impl<S: Source, C: Code> Kernel for Part<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Part { way, indices, at, src, codes } = self;
        l.call(Run::<S, C> { way, indices, at, src, codes });
    }
}

/// Some whole tiles.
struct Panels<'a, S: Source, C: Code> {
    job: &'a Job,
    at: usize,
    src: &'a [S::Item],
    codes: &'a mut [C],
    amin: &'a mut [f32],
    amax: &'a mut [f32],
    flags: &'a mut [u8],
}

/// Elements of a panel, which stays in the first-level cache between its two passes.
const PANEL: usize = 2048;

impl<S: Source, C: Code> Kernel for Panels<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Panels { job, at, src, codes, amin, amax, flags } = self;
        let (options, tiles, indices) = (&job.options, &job.tiles, job.indices);
        // The next panel is looked through while this one is encoded, tile for tile: one waits for memory, the other computes.
        let (mut ahead, mut here) = (tiles.walk(at), tiles.walk(at));
        let (mut a, mut b) = (Panel::new(), Panel::new());
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
                    map_groups(
                        l,
                        &Estimated::<S, C, false>::new(panel, i, options),
                        0,
                        src,
                        codes,
                        Walk::CACHED,
                    );
                } else {
                    let way = panel.way(i, options);
                    l.call(Run::<S, C> { way, indices, at: at + start, src, codes });
                }
                start += n;
                i += 1;
            } else if !more {
                if next.len() == 0 {
                    break;
                }
                std::mem::swap(&mut panel, &mut next);
                panel.prepare(options);
                let last = first + panel.len();
                panel.store(&mut amin[first..last], &mut amax[first..last], &mut flags[first..last]);
                next.clear();
                (i, first, begin) = (0, last, end);
            }
        }
    }
}
