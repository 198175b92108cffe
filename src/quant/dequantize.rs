//! Codes and scales back to numbers.

use super::amax::RUN;
use super::layout::{Blocks, RowPart};
use super::place::{spread, Each, Place, Shifted};
use crate::error::{same_length, Error};
use crate::formats::decode::{
    DecodeMap, Decoder, Multiplier, Sink, Table, ToBf16, ToF16, ToF32, ToF64, Wide,
};
use crate::formats::encode::wrong_width;
use crate::formats::source::{Codes, Output};
use crate::formats::table::Format;
use crate::simd::{dispatch, map_groups, Kernel, Lanes, Walk};
use crate::threads::run_tasks;

/// Writes `code * scale`: one float32 product for each element, then rounded once more to nearest even for
/// float16 and bfloat16 output, or widened for float64. `scales` hold what codes are multiplied by, one float32
/// for each block.
///
/// # Errors
/// [`Error::Length`] if the arrays do not fit the layout, [`Error::Unsupported`] if the codes are too narrow or
/// wide for the format.
pub fn dequantize(
    codes: Codes<'_>,
    format: &'static Format,
    blocks: Blocks,
    scales: &[f32],
    out: Output<'_>,
) -> Result<(), Error> {
    same_length("codes", codes.len(), blocks.len())?;
    same_length("scales", scales.len(), blocks.scales())?;
    same_length("out", out.len(), blocks.len())?;
    match codes {
        Codes::U8(codes) if format.bits() <= 8 => {
            all(Table(format.lookup()), codes, blocks, scales, out);
        }
        Codes::U16(codes) if format.bits() > 8 => all(Wide::new(format), codes, blocks, scales, out),
        _ => return Err(wrong_width(format)),
    }
    Ok(())
}

fn all<D: Decoder>(decoder: D, codes: &[D::Code], blocks: Blocks, scales: &[f32], out: Output<'_>) {
    match out {
        Output::F32(out) => rows(decoder, ToF32, codes, blocks, scales, out),
        Output::F64(out) => rows(decoder, ToF64, codes, blocks, scales, out),
        Output::F16(out) => rows(decoder, ToF16::default(), codes, blocks, scales, out),
        Output::Bf16(out) => rows(decoder, ToBf16, codes, blocks, scales, out),
    }
}

fn rows<D: Decoder, K: Sink>(
    decoder: D,
    sink: K,
    codes: &[D::Code],
    blocks: Blocks,
    scales: &[f32],
    out: &mut [K::Item],
) {
    let flat = blocks.flattened();
    let walk = match Walk::over(out) {
        Walk { stream: true, .. } => Walk { stream: true, ahead: AHEAD },
        cached => cached,
    };
    let mut rest = out;
    let tasks = flat.row_parts(RUN).map(|part| {
        let range = part.range(&flat);
        let (out, after) = std::mem::take(&mut rest).split_at_mut(range.len());
        rest = after;
        Rows { decoder, sink, part, flat, codes: &codes[range], scales, out, walk }
    });
    let tasks = tasks.collect();
    run_tasks(codes.len(), tasks, dispatch);
}

/// Bytes of codes asked for ahead.
const AHEAD: usize = 4096;

/// Elements decoded at a time: their scales, spread, stay in the first-level cache.
const SUB_RUN: usize = 4096;

/// Some rows, or part of one.
struct Rows<'a, D: Decoder, K: Sink> {
    decoder: D,
    sink: K,
    part: RowPart,
    flat: Blocks,
    codes: &'a [D::Code],
    scales: &'a [f32],
    out: &'a mut [K::Item],
    walk: Walk,
}

/// Scales, and where each stands.
#[derive(Clone, Copy)]
struct By<'a, P> {
    place: P,
    scales: &'a [f32],
}

impl<P: Place> Multiplier for By<'_, P> {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, at: usize, j: usize, x: L::F) -> L::F {
        l.fmul(x, self.place.load(l, self.scales, at, j))
    }
}

impl<D: Decoder, K: Sink> Kernel for Rows<'_, D, K> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { decoder, sink, part, flat, codes, scales, out, walk } = self;
        let mut each = Vec::new();
        let mut spread_for = None;
        for (k, (codes, out)) in codes.chunks(part.cols).zip(out.chunks_mut(part.cols)).enumerate() {
            let band = flat.band_of_row(part.row + k);
            let scales = &scales[band * flat.across()..][..flat.across()];
            // A streaming walk starts its groups on a boundary of the output; so do all sub-runs but the first.
            let head = if walk.stream { out.as_ptr().align_offset(64).min(part.cols) } else { 0 };
            let mut start = 0;
            while start < part.cols {
                let end = (start + SUB_RUN + if start == 0 { head } else { 0 }).min(part.cols);
                let (codes, out) = (&codes[start..end], &mut out[start..end]);
                let (block, phase) =
                    ((part.at + start) / flat.block_cols, (part.at + start) % flat.block_cols);
                let vectors = if start == 0 { head } else { 0 };
                let shifted = Shifted::new(flat.block_cols, phase, end - start)
                    .filter(|_| vectors.is_multiple_of(L::N) || phase + end - start <= flat.block_cols);
                if let Some(place) = shifted {
                    let map = DecodeMap { decoder, multiplier: By { place, scales: &scales[block..] }, sink };
                    map_groups(l, &map, 0, codes, out, walk);
                } else {
                    if spread_for != Some((band, start)) {
                        spread(&scales[block..], flat.block_cols, phase, end - start, &mut each);
                        spread_for = Some((band, start));
                    }
                    let map = DecodeMap { decoder, multiplier: By { place: Each, scales: &each }, sink };
                    map_groups(l, &map, 0, codes, out, walk);
                }
                start = end;
            }
        }
        l.fence();
    }
}
