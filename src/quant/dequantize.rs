//! Codes and scales back to numbers.

use super::amax::RUN;
use super::layout::{Blocks, RowPart};
use super::transform::WIDE;
use crate::error::{same_length, Error};
use crate::formats::decode::{
    DecodeMap, Decoder, Multiplier, Sink, Table, ToBf16, ToF16, ToF32, ToF64, Wide,
};
use crate::formats::encode::{wrong_width, STREAM_BYTES};
use crate::formats::source::{Codes, Output};
use crate::formats::table::Format;
use crate::simd::{dispatch, map_groups, Kernel, Lanes, MAX_GROUP};
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
    let stream = std::mem::size_of_val(out) >= STREAM_BYTES;
    let mut rest = out;
    let tasks = flat.row_parts(RUN).map(|part| {
        let range = part.range(&flat);
        let (out, after) = std::mem::take(&mut rest).split_at_mut(range.len());
        rest = after;
        Rows { decoder, sink, part, flat, codes: &codes[range], scales, out, stream }
    });
    let tasks = tasks.collect();
    run_tasks(codes.len(), tasks, dispatch);
}

/// Some rows, or part of one.
struct Rows<'a, D: Decoder, K: Sink> {
    decoder: D,
    sink: K,
    part: RowPart,
    flat: Blocks,
    codes: &'a [D::Code],
    scales: &'a [f32],
    out: &'a mut [K::Item],
    stream: bool,
}

/// One scale for the whole run.
#[derive(Clone, Copy)]
struct By(f32);

impl Multiplier for By {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, _at: usize, _j: usize, x: L::F) -> L::F {
        l.fmul(x, l.f32(self.0))
    }
}

/// A scale for each element; the slice reaches a group beyond the last one.
#[derive(Clone, Copy)]
struct ByEach<'a>(&'a [f32]);

impl Multiplier for ByEach<'_> {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, at: usize, j: usize, x: L::F) -> L::F {
        l.fmul(x, l.load_f32(&self.0[at + j * L::N..]))
    }
}

impl<D: Decoder, K: Sink> Kernel for Rows<'_, D, K> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { decoder, sink, part, flat, codes, scales, out, stream } = self;
        let mut each = Vec::new();
        let mut band = usize::MAX;
        for (k, (codes, out)) in codes.chunks(part.cols).zip(out.chunks_mut(part.cols)).enumerate() {
            let row_band = flat.band_of_row(part.row + k);
            let scales = &scales[row_band * flat.across()..][..flat.across()];
            if flat.block_cols < WIDE {
                if row_band != band {
                    band = row_band;
                    spread(scales, flat.block_cols, part.at, part.cols, &mut each);
                }
                let map = DecodeMap { decoder, multiplier: ByEach(&each), sink };
                map_groups(l, &map, 0, codes, out, stream);
                continue;
            }
            let mut start = 0;
            while start < part.cols {
                let block = (part.at + start) / flat.block_cols;
                let end = ((block + 1) * flat.block_cols - part.at).min(part.cols);
                let map = DecodeMap { decoder, multiplier: By(scales[block]), sink };
                map_groups(l, &map, 0, &codes[start..end], &mut out[start..end], stream);
                start = end;
            }
        }
    }
}

/// The scale of each of the elements `at..at + n` of a row, and a group to spare.
#[inline(always)]
fn spread(scales: &[f32], block_cols: usize, at: usize, n: usize, each: &mut Vec<f32>) {
    each.resize(n + MAX_GROUP, 0.0);
    let mut start = 0;
    while start < n {
        let block = (at + start) / block_cols;
        let end = ((block + 1) * block_cols - at).min(n);
        each[start..end].fill(scales[block]);
        start = end;
    }
}
