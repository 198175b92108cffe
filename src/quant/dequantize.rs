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
use crate::simd::{dispatch, map_groups, F16Shift, GroupMap, Kernel, Lanes, Products, Walk};
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
    fn apply<L: Lanes>(&self, l: L, at: usize, x: [L::F; 4]) -> [L::F; 4] {
        let scales = self.place.group(l, self.scales, at);
        [l.fmul(x[0], scales[0]), l.fmul(x[1], scales[1]), l.fmul(x[2], scales[2]), l.fmul(x[3], scales[3])]
    }
}

/// Decoding by tables of products, one for each block, and the map for codes that have none.
#[derive(Clone, Copy)]
struct ByProducts<'a, D, K> {
    place: Across,
    half: F16Shift,
    tables: &'a [Products],
    map: DecodeMap<D, By<'a, Across>, K>,
}

impl<D: Decoder, K: Sink> GroupMap for ByProducts<'_, D, K> {
    type In = D::Code;
    type Out = K::Item;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, codes: &[D::Code], out: &mut [K::Item], stream: bool) {
        let (block, left) = self.place.block(at);
        let products = (&self.tables[block], &self.tables[(block + 1).min(self.tables.len() - 1)], left);
        if !D::store_products::<L, K>(l, self.half, products, codes, out, stream) {
            l.call(Special { map: self.map, at, codes, out, stream });
        }
    }
}

/// One group with codes that have no product.
struct Special<'a, D: Decoder, K: Sink> {
    map: DecodeMap<D, By<'a, Across>, K>,
    at: usize,
    codes: &'a [D::Code],
    out: &'a mut [K::Item],
    stream: bool,
}

impl<D: Decoder, K: Sink> Kernel for Special<'_, D, K> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        self.map.group(l, self.at, self.codes, self.out, self.stream);
    }
}

impl<D: Decoder, K: Sink, F: Fetch<Code = D::Code>> Kernel for Rows<'_, D, K, F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { decoder, sink, part, flat, codes, scales, out, walk } = self;
        let (mut each, mut buffer, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        let mut spread_for = None;
        let of_row = |row| &scales[flat.band_of_row(row) * flat.across()..][..flat.across()];
        // Rows as one run, where blocks allow it: each edge of a run is part of a group, and of a line of the output.
        let joined =
            part.rows > 1 && Across::fits(flat.block_cols) && flat.cols.is_multiple_of(flat.block_cols);
        let mut of_rows = Vec::new();
        if joined {
            (0..part.rows).for_each(|k| of_rows.extend_from_slice(of_row(part.row + k)));
        }
        let length = if joined { out.len() } else { part.cols };
        for (k, out) in out.chunks_mut(length).enumerate() {
            let first = (part.row + k) * flat.cols + part.at;
            let band = flat.band_of_row(part.row + k);
            let scales = if joined { &of_rows[..] } else { of_row(part.row + k) };
            // A streaming walk starts its groups on a boundary of the output; so do all sub-runs but the first.
            let head = if walk.stream { out.as_ptr().align_offset(64).min(length) } else { 0 };
            let mut start = 0;
            while start < length {
                let end = (start + SUB_RUN + if start == 0 { head } else { 0 }).min(length);
                let codes = codes.fetch(first + start..first + end, &mut buffer);
                let out = &mut out[start..end];
                let (block, phase) =
                    ((part.at + start) / flat.block_cols, (part.at + start) % flat.block_cols);
                let vectors = if start == 0 { head } else { 0 };
                let shifted = Shifted::new(flat.block_cols, phase, end - start)
                    .filter(|_| vectors.is_multiple_of(L::N) || phase + end - start <= flat.block_cols);
                let scales = &scales[block..];
                let across = Across::new(flat.block_cols, phase, end - start);
                let by_products = across.filter(|place| place.width() > L::GROUP).and_then(|place| {
                    let table = decoder.table().filter(|_| L::PRODUCTS && K::PRODUCTS)?;
                    let blocks = (phase + end - start).div_ceil(flat.block_cols);
                    Some((place, Products::fill(l, &mut tables, table, &scales[..blocks])?))
                });
                if let Some((place, half)) = by_products {
                    let map = DecodeMap { decoder, multiplier: By { place, scales }, sink };
                    let map = ByProducts { place, half, tables: &tables, map };
                    map_groups(l, &map, 0, codes, out, walk);
                } else if let Some(place) = shifted {
                    let map = DecodeMap { decoder, multiplier: By { place, scales }, sink };
                    map_groups(l, &map, 0, codes, out, walk);
                } else if let Some(place) = across.filter(|_| K::COMMON && size_of::<D::Code>() == 1) {
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

    /// Every code, blocks that groups begin in anywhere, and scales whose products have no table.
    #[test]
    fn bfloat16_is_float32_rounded() {
        let ordinary = [1.0, 0.1, 7.7e-31, 3.3e33, 1.0e-12, 0.333_333_34, 129.0];
        let any = [2.0e-39, 1.0, -0.3, 0.0, f32::INFINITY, f32::NAN, 1.0e-37, 3.0e38, 1.0e35];
        for name in ["float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4", "float8_e4m3fnuz"] {
            let format = Format::by_name(name).unwrap();
            for (rows, cols, block) in [
                (3, 4500, [1, 128]),
                (5, 1000, [2, 64]),
                (7, 1024, [4, 128]),
                (5, 96, [2, 16]),
                (2, 4200, [1, 4200]),
                (1, 100, [1, 128]),
            ] {
                let blocks = Blocks::new([1, rows, cols], block).unwrap();
                let n = blocks.len();
                let codes: Vec<u8> = (0..n).map(|i| (i * 37 + i / 251) as u8).collect();
                // Runs with NaN in every group, and with none.
                let numbers: Vec<u8> =
                    codes.iter().map(|c| if c & 0x78 == 0x78 { 0x80 } else { *c }).collect();
                for (scales, codes) in [(&ordinary[..], &codes), (&ordinary, &numbers), (&any, &numbers)] {
                    let scales: Vec<f32> = (0..blocks.scales()).map(|i| scales[i % scales.len()]).collect();
                    let (mut wide, mut words) = (vec![0f32; n], vec![0u16; n + 9]);
                    dequantize(Codes::U8(codes), format, blocks, &scales, Output::F32(&mut wide)).unwrap();
                    for at in [0, 1, 9] {
                        let out = &mut words[at..at + n];
                        dequantize(Codes::U8(codes), format, blocks, &scales, Output::Bf16(out)).unwrap();
                        for (i, (x, word)) in wide.iter().zip(out).enumerate() {
                            let bits = x.to_bits();
                            let expected = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
                            assert_eq!(*word, expected, "{name} {block:?} {i} {x:e}");
                        }
                    }
                }
            }
        }
    }

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
