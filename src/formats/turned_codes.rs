//! Codes of rows that lie in columns of memory: columns are worked on where they stand, and their codes, a quarter of the
//! bytes, are transposed.

use super::source::{Code, Input};
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};
use std::ops::Range;

/// Rows that lie in columns of memory, as [`Array::columns`](super::strided::Array::columns) gives them: columns of `lines`
/// elements, one every `stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    pub input: Input<'a>,
    pub lines: usize,
    pub stride: usize,
}

/// Windows of columns: `cols` in all, a multiple of `unit` at a time, but `head` of them first, unless that is 0. Their rows
/// go past the caches if they `stream`.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub cols: usize,
    pub unit: usize,
    pub head: usize,
    pub stream: bool,
}

/// Elements whose codes wait to be transposed: they stay in the second-level cache.
const WINDOW: usize = 64 * 1024;
/// Bytes that are fetched ahead of the column that is read, in whole columns.
const FETCHED: usize = 8192;

impl<'a> Columns<'a> {
    /// Columns of a window, a multiple of `unit`.
    pub fn window(&self, unit: usize) -> usize {
        (WINDOW / self.lines / unit).max(1) * unit
    }

    /// Makes codes of one window of columns after the other, by `encode`, and transposes them to rows of `out`. Returns true as
    /// soon as `encode` does.
    pub fn turn<C: Code>(
        self,
        windows: Windows,
        out: &mut [C],
        mut encode: impl FnMut(Range<usize>, &mut [C]) -> bool,
    ) -> bool {
        let Windows { cols, unit, head, stream } = windows;
        let (width, stride) = (self.window(unit), self.pitch());
        let mut codes = vec![C::default(); width.min(cols) * stride];
        let (mut from, mut end) = (0, if head > 0 { head } else { width });
        while from < cols {
            let window = from..cols.min(end);
            (from, end) = (window.end, window.end + width);
            let (src, lines, out) = (&mut codes, self.lines, &mut out[window.start..]);
            if encode(window.clone(), src) {
                return true;
            }
            dispatch(TurnCodes { src, lines, cols: window.len(), stride, out, pitch: cols, stream });
        }
        false
    }

    /// Codes from one column of a window to the next: not so that they fight for the same cache sets.
    pub fn pitch(&self) -> usize {
        let lines = self.lines.next_multiple_of(MAX_GROUP);
        if lines > 256 {
            lines + MAX_GROUP
        } else {
            lines
        }
    }

    /// Some of the columns.
    pub fn part(&self, cols: Range<usize>) -> Input<'a> {
        self.input.part(cols.start * self.stride..(cols.end - 1) * self.stride + self.lines)
    }

    /// Columns from the one that is read to the one that is fetched.
    pub fn ahead(&self, item: usize) -> usize {
        (FETCHED / (self.lines * item)).max(1)
    }
}

/// Transposes the codes of a window: `cols` columns of `lines`, one every `stride`, to rows of which one begins every `pitch`.
struct TurnCodes<'a, C> {
    src: &'a [C],
    lines: usize,
    cols: usize,
    stride: usize,
    out: &'a mut [C],
    pitch: usize,
    stream: bool,
}

impl<C: Code> Kernel for TurnCodes<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let TurnCodes { src, lines, cols, stride, out, pitch, stream } = self;
        for row in (0..lines).step_by(L::GROUP) {
            for col in (0..cols).step_by(L::GROUP) {
                let (src, out) = (&src[col * stride + row..], &mut out[row * pitch + col..]);
                let (height, width) = (L::GROUP.min(lines - row), L::GROUP.min(cols - col));
                if (height, width) == (L::GROUP, L::GROUP) {
                    C::transpose(l, src, stride, out, pitch, stream);
                } else {
                    l.call(TurnRest { src, height, width, stride, out, pitch });
                }
            }
        }
        if stream {
            l.fence();
        }
    }
}

/// Part of a tile, through padded copies.
struct TurnRest<'a, C> {
    src: &'a [C],
    height: usize,
    width: usize,
    stride: usize,
    out: &'a mut [C],
    pitch: usize,
}

impl<C: Code> Kernel for TurnRest<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let TurnRest { src, height, width, stride, out, pitch } = self;
        let mut tile = [C::default(); MAX_GROUP * MAX_GROUP];
        let mut turned = [C::default(); MAX_GROUP * MAX_GROUP];
        for (src, tile) in src.chunks(stride).zip(tile.chunks_mut(L::GROUP)).take(width) {
            tile[..height].copy_from_slice(&src[..height]);
        }
        C::transpose(l, &tile, L::GROUP, &mut turned, L::GROUP, false);
        for (turned, out) in turned.chunks(L::GROUP).zip(out.chunks_mut(pitch)).take(height) {
            out[..width].copy_from_slice(&turned[..width]);
        }
    }
}
