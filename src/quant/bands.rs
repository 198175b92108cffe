//! The kernels of quantization: bands of blocks, whose scales are found first, and rows whose scales are known.

use super::layout::{Blocks, RowPart};
use super::nonfinite::{RaiseNumbers, INFINITY};
use super::outgoing::{Outgoing, CHUNK};
use super::panel::{tall_panel, BlockScales, Prepare, PANEL};
use super::quantize::Job;
use super::scale::largest;
use super::transform::{raise_blocks, Encode, EncodeAny, RaiseColumns, RunScales};
use crate::formats::source::{Code, Source};
use crate::simd::{whole_lines, Kernel, Laid, Lanes, Narrow, Walk};
use std::ops::Range;

/// Some bands of blocks of one matrix: amax, scales and codes, a panel of columns at a time so that a band is
/// read from memory once.
pub(super) struct Bands<'a, S: Source, C: Code, const PLAIN: bool> {
    pub job: &'a Job<'a>,
    /// The index of the first element, and of the first block.
    pub at: usize,
    pub block: usize,
    /// Some columns of each row, and elements from one row to the next.
    pub src: &'a [S::Item],
    pub window: Range<usize>,
    pub stride: usize,
    /// Largest magnitudes of the blocks, where they are known.
    pub known: Option<&'a [f32]>,
    pub cols: usize,
    pub block_rows: usize,
    pub block_cols: usize,
    pub codes: &'a mut [C],
    pub scales: &'a mut [u8],
    /// True: codes go past the caches, by way of a room in the first level.
    pub stream: bool,
}

impl<S: Source, C: Code, const PLAIN: bool> Kernel for Bands<'_, S, C, PLAIN> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        let Bands { job, at, block, src, window, stride, known, cols, .. } = self;
        let Bands { block_rows, block_cols, codes, scales, .. } = self;
        let stream = self.stream && L::PAST_CACHES;
        let bytes = job.width();
        let item = std::mem::size_of::<S::Item>();
        // Where rows lie apart, what comes next is the same part of the next row.
        let (tall, apart) = (block_rows > 1, stride > cols);
        let next_row = if apart && tall { stride * item } else { 0 };
        let (width, fetch) = if tall {
            // Codes of narrow panels go past the caches only where they are whole lines.
            let may = L::PAST_CACHES && (!stream || whole_lines(codes, cols));
            let (bytes, fetch) = tall_panel(apart, may, block_rows, stride * item);
            (bytes / (block_rows * item), fetch)
        } else {
            (PANEL, false)
        };
        let width = (width / block_cols).max(1) * block_cols;
        let across = cols.div_ceil(block_cols);
        // Prefetchers are always behind rows that are short.
        let short = apart && window.len() * item <= SHORT && window.len() <= width;
        let fetch = tall && (fetch || short);
        let mut amax = vec![0u32; width.min(window.len()).div_ceil(block_cols)];
        let mut ready = BlockScales::new();
        let mut spoiled = false;
        let mut room = if stream { Outgoing::room() } else { Vec::new() };
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
                    if fetch {
                        let (src, cols) = (&src[here.start..], here.len());
                        l.call(RaiseColumns::<S> { src, stride, cols, block_cols, amax });
                    } else {
                        for row in src.chunks(stride) {
                            raise_blocks::<L, S>(l, &row[here.clone()], block_cols, amax, next_row);
                        }
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
                // The panel's neighbour in the same rows comes next, or the first one of the next rows.
                let neighbour = here.len() * item;
                let below = (block_rows * stride - here.start) * item;
                let walk = match (tall, apart) {
                    (true, _) if fetch => {
                        let ahead = if end < window.end { neighbour } else { below };
                        Walk { ahead, far: true, ..Walk::CACHED }
                    }
                    (true, false) if here.len() < window.len() => Walk { ahead: neighbour, ..Walk::CACHED },
                    (true, _) => Walk::CACHED,
                    (false, true) => Walk { ahead: stride * item, far: true, ..Walk::CACHED },
                    (false, false) => Walk { ahead: neighbour, far: stream, ..Walk::CACHED },
                };
                let scales = ready.run(block_cols, 0, end - start, true);
                let (at, src) = (at + start, &src[here.start..]);
                let rows = Laid { at, cols: here.len(), stride, pitch: cols, walk };
                if !stream {
                    job.encode::<L, S, C, PLAIN>(l, (scales, safe), rows, src, &mut codes[start..]);
                } else {
                    let codes = codes.chunks_mut(cols).map(|row| &mut row[start..end]);
                    job.encode_past::<L, S, C, PLAIN>(l, (scales, safe), rows, src, codes, &mut room);
                }
                start = end;
            }
        }
        l.fence();
        spoiled
    }
}

/// Bytes of rows that are short: each is behind others by the time that prefetchers would follow it.
const SHORT: usize = 2048;
/// Bytes ahead of a long row's loads.
const ROW_AHEAD: usize = 16 * 1024;

impl Job<'_> {
    /// Encodes rows whose codes go past the caches, each by itself.
    #[inline(always)]
    fn encode_past<'c, L: Lanes, S: Source, C: Code + 'c, const PLAIN: bool>(
        &self,
        l: L,
        (scales, safe): (RunScales<'_>, bool),
        rows: Laid,
        src: &[S::Item],
        out: impl Iterator<Item = &'c mut [C]>,
        room: &mut [C],
    ) {
        for (k, (row, out)) in src.chunks(rows.stride).zip(out).enumerate() {
            let mut going = Outgoing::new(room, out);
            for from in (0..rows.cols).step_by(CHUNK) {
                let to = rows.cols.min(from + CHUNK);
                let part = Laid { at: rows.at + k * rows.pitch + from, cols: to - from, ..rows };
                let (scales, out) = ((scales.after(from), safe), going.place(to - from));
                self.encode::<L, S, C, PLAIN>(l, scales, part, &row[from..to], out);
                going.send(l, to - from);
            }
        }
    }

    #[inline(always)]
    fn encode<L: Lanes, S: Source, C: Code, const PLAIN: bool>(
        &self,
        l: L,
        (scales, safe): (RunScales<'_>, bool),
        rows: Laid,
        src: &[S::Item],
        out: &mut [C],
    ) {
        // By reference: a copy is read in other pieces than it was written in, and such a load waits for all stores before it,
        // of which those that stream take long.
        let narrow = self.narrow.as_ref().map(|(narrow, _)| narrow);
        let in_lanes = self.nearest || (L::NARROW_MODES && C::BYTE && safe && narrow.is_some());
        let Some(near) = self.near.as_ref().filter(|_| in_lanes) else {
            let (rounder, divide) = (&self.rounder, self.scaler.divides());
            return l.call(EncodeAny::<S, C> { rounder, safe, divide, scales, rows, src, out });
        };
        match (safe, self.scaler.divides()) {
            (true, true) => {
                l.call(Encode::<S, C, true, true, PLAIN> { near, narrow, scales, rows, src, out })
            }
            (true, false) => {
                l.call(Encode::<S, C, true, false, PLAIN> { near, narrow, scales, rows, src, out })
            }
            (false, true) => {
                l.call(Encode::<S, C, false, true, PLAIN> { near, narrow, scales, rows, src, out })
            }
            (false, false) => {
                l.call(Encode::<S, C, false, false, PLAIN> { near, narrow, scales, rows, src, out })
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
pub(super) struct Rows<'a, S: Source, C: Code, const PLAIN: bool> {
    pub job: &'a Job<'a>,
    /// The index of the first element.
    pub at: usize,
    pub part: RowPart,
    pub flat: Blocks,
    pub src: &'a [S::Item],
    pub stride: usize,
    pub all: &'a BlockScales,
    pub found: &'a [u32],
    pub codes: &'a mut [C],
    /// Codes from one row to the next.
    pub pitch: usize,
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
            let (cols, at) = (part.cols, at + k * pitch);
            let rows = Laid { at, cols, stride: cols, pitch: cols, walk };
            job.encode::<L, S, C, PLAIN>(l, (scales, safe), rows, src, out);
            fresh = false;
        }
    }
}
