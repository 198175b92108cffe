//! Rows that lie in columns of memory: columns are quantized where they stand, by blocks that lie as they do, and their codes
//! and scales are transposed.

use super::bands::Bands;
use super::quantize::Job;
use crate::formats::source::{Bf16, Code, Source, F32};
use crate::formats::strided::Array;
use crate::formats::turned_codes::{Columns, Windows};
use crate::formats::Input;
use crate::simd::dispatch;

impl Job<'_> {
    /// Rows that lie in columns of memory, if nothing asks which row and column an element is in.
    pub(super) fn columns<'b, C: Code>(&self, src: Array<'b>, cols: usize) -> Option<Columns<'b>> {
        let anywhere =
            !self.rounder.is_random() && self.global.encode.len() == 1 && self.global.decode.len() == 1;
        src.columns(cols)
            .filter(|columns| C::BYTE && anywhere && matches!(columns.input, Input::F32(_) | Input::Bf16(_)))
    }

    /// Quantizes rows that lie so; says whether anything was not finite.
    pub(super) fn turned<C: Code, const PLAIN: bool>(
        &self,
        columns: Columns<'_>,
        cols: usize,
        [block_rows, block_cols]: [usize; 2],
        codes: &mut [C],
        scales: &mut [u8],
        stream: bool,
    ) -> bool {
        let (lines, width) = (columns.lines, columns.window(block_cols));
        let (pitch, bytes) = (columns.pitch(), self.width());
        let (across, bands) = (cols.div_ceil(block_cols), width.min(cols).div_ceil(block_cols));
        // Bytes of the scales of a row of blocks, as they lie in memory, and those of a window.
        let side = pitch.div_ceil(block_rows) * bytes;
        let mut stored = vec![0; bands * side];
        let shape = (columns, pitch, [block_cols, block_rows]);
        let mut spoiled = false;
        columns.turn(Windows { cols, unit: block_cols, head: 0, stream }, codes, |window, found| {
            let (from, count) = (window.start, window.len());
            spoiled |= match columns.part(window) {
                Input::F32(src) => dispatch(self.standing::<F32, C, PLAIN>(src, shape, found, &mut stored)),
                Input::Bf16(src) => dispatch(self.standing::<Bf16, C, PLAIN>(src, shape, found, &mut stored)),
                _ => unreachable!("other inputs become float32"),
            };
            let scales = &mut scales[from / block_cols * bytes..];
            for (band, found) in stored.chunks(side).take(count.div_ceil(block_cols)).enumerate() {
                for (row, scale) in found.chunks(bytes).take(lines.div_ceil(block_rows)).enumerate() {
                    scales[(row * across + band) * bytes..][..bytes].copy_from_slice(scale);
                }
            }
            false
        });
        spoiled
    }

    /// The kernel for a window of columns, by blocks as they lie in memory.
    fn standing<'a, S: Source, C: Code, const PLAIN: bool>(
        &'a self,
        src: &'a [S::Item],
        (columns, cols, [block_rows, block_cols]): (Columns<'_>, usize, [usize; 2]),
        codes: &'a mut [C],
        scales: &'a mut [u8],
    ) -> Bands<'a, S, C, PLAIN> {
        let (window, stride) = (0..columns.lines, columns.stride);
        let (at, block, known, stream) = (0, 0, None, false);
        Bands {
            job: self,
            at,
            block,
            src,
            window,
            stride,
            known,
            cols,
            block_rows,
            block_cols,
            codes,
            scales,
            stream,
        }
    }
}
