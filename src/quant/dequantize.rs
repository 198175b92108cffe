//! Codes and scales back to numbers.

use super::amax::RUN;
use super::layout::{Blocks, RowPart};
use super::place::{spread, Across, Each, Place, Shifted};
use crate::error::{same_length, Error};
use crate::formats::decode::{
    DecodeMap, Decoder, Multiplier, Sink, Table, ToBf16, ToF16, ToF32, ToF64, Wide,
};
use crate::formats::encode::wrong_width;
use crate::formats::source::{Codes, Output};
use crate::formats::table::Format;
use crate::simd::{dispatch, map_groups, Kernel, Lanes, Walk};
use crate::threads::run_tasks;
use std::ops::Range;

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
            all(Table(format.lookup()), Whole(codes), blocks, scales, out);
        }
        Codes::U16(codes) if format.bits() > 8 => all(Wide::new(format), Whole(codes), blocks, scales, out),
        _ => return Err(wrong_width(format)),
    }
    Ok(())
}

/// Does what [`dequantize`] does with 4-bit codes that are packed two a byte, the first in the low bits. `flip` is
/// applied to each code by exclusive or: 8 makes two's complement of codes that are stored with an offset of 8.
///
/// # Errors
/// As [`dequantize`], and [`Error::Unsupported`] for rows of an odd number of codes.
pub fn dequantize_packed(
    packed: &[u8],
    flip: u8,
    format: &'static Format,
    blocks: Blocks,
    scales: &[f32],
    out: Output<'_>,
) -> Result<(), Error> {
    if format.bits() != 4 || !blocks.cols.is_multiple_of(2) {
        let what = format!(
            "packed: {} in rows of {} codes; expected 4 bits and even rows",
            format.name, blocks.cols
        );
        return Err(Error::Unsupported(what));
    }
    same_length("packed", packed.len(), blocks.len() / 2)?;
    same_length("scales", scales.len(), blocks.scales())?;
    same_length("out", out.len(), blocks.len())?;
    all(Table(format.lookup()), Nibbles { packed, flip: flip & 0xF }, blocks, scales, out);
    Ok(())
}

/// Where codes are read from.
trait Fetch: Copy + Send {
    type Code: Copy + Default;

    /// Codes of a range of elements: as they stand, or unpacked into `buffer`.
    fn fetch<'b>(&'b self, range: Range<usize>, buffer: &'b mut Vec<Self::Code>) -> &'b [Self::Code];
}

/// One code an element.
#[derive(Clone, Copy)]
struct Whole<'a, C>(&'a [C]);

impl<C: Copy + Default + Sync> Fetch for Whole<'_, C> {
    type Code = C;
    #[inline(always)]
    fn fetch<'b>(&'b self, range: Range<usize>, _: &'b mut Vec<C>) -> &'b [C] {
        &self.0[range]
    }
}

/// Two codes a byte.
#[derive(Clone, Copy)]
struct Nibbles<'a> {
    packed: &'a [u8],
    flip: u8,
}

impl Fetch for Nibbles<'_> {
    type Code = u8;
    #[inline(always)]
    fn fetch<'b>(&'b self, range: Range<usize>, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        let first = range.start / 2;
        let bytes = &self.packed[first..range.end.div_ceil(2)];
        buffer.resize(2 * bytes.len(), 0);
        for (pair, byte) in buffer.chunks_exact_mut(2).zip(bytes) {
            pair[0] = (byte & 0xF) ^ self.flip;
            pair[1] = (byte >> 4) ^ self.flip;
        }
        &buffer[range.start - 2 * first..][..range.len()]
    }
}

fn all<D: Decoder, F: Fetch<Code = D::Code>>(
    decoder: D,
    codes: F,
    blocks: Blocks,
    scales: &[f32],
    out: Output<'_>,
) {
    match out {
        Output::F32(out) => rows(decoder, ToF32, codes, blocks, scales, out),
        Output::F64(out) => rows(decoder, ToF64, codes, blocks, scales, out),
        Output::F16(out) => rows(decoder, ToF16::default(), codes, blocks, scales, out),
        Output::Bf16(out) => rows(decoder, ToBf16, codes, blocks, scales, out),
    }
}

fn rows<D: Decoder, K: Sink, F: Fetch<Code = D::Code>>(
    decoder: D,
    sink: K,
    codes: F,
    blocks: Blocks,
    scales: &[f32],
    out: &mut [K::Item],
) {
    let flat = blocks.flattened();
    let walk = match Walk::over(blocks.len(), out) {
        walk @ Walk { stream: true, .. } => Walk { ahead: AHEAD, ..walk },
        cached => cached,
    };
    let mut rest = out;
    let tasks = flat.row_parts(RUN).map(|part| {
        let range = part.range(&flat);
        let (out, after) = std::mem::take(&mut rest).split_at_mut(range.len());
        rest = after;
        Rows { decoder, sink, part, flat, codes, scales, out, walk }
    });
    let tasks = tasks.collect();
    run_tasks(blocks.len(), tasks, dispatch);
}

/// Bytes of codes asked for ahead.
const AHEAD: usize = 4096;

/// Elements decoded at a time: their scales, spread, stay in the first-level cache.
const SUB_RUN: usize = 4096;

/// Some rows, or part of one.
struct Rows<'a, D: Decoder, K: Sink, F> {
    decoder: D,
    sink: K,
    part: RowPart,
    flat: Blocks,
    codes: F,
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

impl<D: Decoder, K: Sink, F: Fetch<Code = D::Code>> Kernel for Rows<'_, D, K, F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { decoder, sink, part, flat, codes, scales, out, walk } = self;
        let (mut each, mut buffer) = (Vec::new(), Vec::new());
        let mut spread_for = None;
        for (k, out) in out.chunks_mut(part.cols).enumerate() {
            let first = (part.row + k) * flat.cols + part.at;
            let band = flat.band_of_row(part.row + k);
            let scales = &scales[band * flat.across()..][..flat.across()];
            // A streaming walk starts its groups on a boundary of the output; so do all sub-runs but the first.
            let head = if walk.stream { out.as_ptr().align_offset(64).min(part.cols) } else { 0 };
            let mut start = 0;
            while start < part.cols {
                let end = (start + SUB_RUN + if start == 0 { head } else { 0 }).min(part.cols);
                let codes = codes.fetch(first + start..first + end, &mut buffer);
                let out = &mut out[start..end];
                let (block, phase) =
                    ((part.at + start) / flat.block_cols, (part.at + start) % flat.block_cols);
                let vectors = if start == 0 { head } else { 0 };
                let shifted = Shifted::new(flat.block_cols, phase, end - start)
                    .filter(|_| vectors.is_multiple_of(L::N) || phase + end - start <= flat.block_cols);
                let scales = &scales[block..];
                if let Some(place) = shifted {
                    let map = DecodeMap { decoder, multiplier: By { place, scales }, sink };
                    map_groups(l, &map, 0, codes, out, walk);
                } else if let Some(place) =
                    Across::new(flat.block_cols, phase).filter(|_| K::COMMON && size_of::<D::Code>() == 1)
                {
                    let map = DecodeMap { decoder, multiplier: By { place, scales }, sink };
                    map_groups(l, &map, 0, codes, out, walk);
                } else {
                    if spread_for != Some((band, start)) {
                        spread(scales, flat.block_cols, phase, end - start, &mut each);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::pack::unpack_bytes;

    #[test]
    fn packed_codes_mean_what_unpacked_ones_do() {
        for (name, flip) in [("float4_e2m1fn", 0u8), ("int4", 8)] {
            let format = Format::by_name(name).unwrap();
            for (shape, block) in [
                ([1, 3, 2], [1, 2]),
                ([2, 5, 96], [1, 32]),
                ([1, 7, 4098], [3, 6]),
                ([1, 2, 20_000], [2, 20_000]),
                ([3, 130, 64], [128, 64]),
                ([1, 0, 8], [1, 8]),
            ] {
                let blocks = Blocks::new(shape, block).unwrap();
                let n = blocks.len();
                let packed: Vec<u8> = (0..n / 2).map(|i| (i * 37 + i / 7) as u8).collect();
                let mut codes = vec![0u8; n];
                unpack_bytes(&packed, format, blocks.cols, &mut codes).unwrap();
                codes.iter_mut().for_each(|c| *c ^= flip);
                let scales: Vec<f32> = (0..blocks.scales()).map(|i| 0.1 + i as f32).collect();
                let (mut a, mut b) = (vec![0f32; n + 1], vec![0f32; n + 1]);
                for at in [0, 1] {
                    // An output that begins off a boundary begins its groups elsewhere.
                    let (a, b) = (&mut a[at..at + n], &mut b[at..at + n]);
                    dequantize(Codes::U8(&codes), format, blocks, &scales, Output::F32(a)).unwrap();
                    dequantize_packed(&packed, flip, format, blocks, &scales, Output::F32(b)).unwrap();
                    assert!(
                        a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{name} {shape:?}"
                    );
                }
            }
        }
    }
}
