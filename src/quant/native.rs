//! Inputs of the quantizers' lane code: float32 and bfloat16. The other inputs become float32 first, a part at a time where
//! parts are worked on by themselves.

use super::amax::RUN;
use crate::formats::source::{Bf16, Input, Source, F32};
use crate::formats::strided::{with_room, Array};
use crate::threads::run_tasks;
use std::borrow::Cow;
use std::ops::Range;

/// Work on a window: which columns, the elements, and how far one row is from the next.
type EachWindow<'a, T> = &'a mut dyn FnMut(Range<usize>, &[T], usize);

/// A source of the lane code, and arrays as its elements: where they stand, or as a copy.
pub(super) trait Native: Source {
    /// All of an array.
    fn whole(array: Array<'_>) -> Cow<'_, [Self::Item]>;
    /// True where an array's elements need not become others.
    fn stands(array: Array<'_>) -> bool;
    /// Runs `f` on rows of `cols`, where they stand, or in `room`, there maybe a window after the other whose width is a
    /// multiple of `unit`.
    fn windows(
        array: Array<'_>,
        cols: usize,
        unit: usize,
        room: &mut Vec<f32>,
        f: EachWindow<'_, Self::Item>,
    );
}

impl Native for F32 {
    fn whole(array: Array<'_>) -> Cow<'_, [f32]> {
        as_f32(array)
    }

    fn stands(array: Array<'_>) -> bool {
        matches!(array.memory(), Input::F32(_))
    }

    fn windows(array: Array<'_>, cols: usize, unit: usize, room: &mut Vec<f32>, f: EachWindow<'_, f32>) {
        let standing = array.rows(cols).map(|rows| (rows.input, rows.stride));
        let width = array.window(cols, unit);
        for from in (0..cols).step_by(width.unwrap_or(cols)) {
            let window = from..cols.min(from + width.unwrap_or(cols));
            let (src, stride) = match standing {
                Some((Input::F32(src), stride)) => (src, stride),
                _ if width.is_some() => array.copy_window(window.clone(), room, false),
                _ => (array.copy(room, false), cols),
            };
            f(window, src, stride);
        }
    }
}

impl Native for Bf16 {
    fn whole(array: Array<'_>) -> Cow<'_, [u16]> {
        match array.rows(array.shape()[2]).map(|rows| (rows.input, rows.cols, rows.stride)) {
            Some((Input::Bf16(src), cols, stride)) if cols == stride => src.into(),
            Some((Input::Bf16(src), cols, stride)) => {
                src.chunks(stride).flat_map(|row| &row[..cols]).copied().collect()
            }
            _ => unreachable!("other arrays are float32, or become it"),
        }
    }

    fn stands(_array: Array<'_>) -> bool {
        true
    }

    fn windows(array: Array<'_>, cols: usize, _unit: usize, _room: &mut Vec<f32>, f: EachWindow<'_, u16>) {
        match array.rows(cols).map(|rows| (rows.input, rows.stride)) {
            Some((Input::Bf16(src), stride)) => f(0..cols, src, stride),
            _ => unreachable!("other arrays are float32, or become it"),
        }
    }
}

/// True where the lane code reads an array of bfloat16 as it stands, in rows of `cols`.
pub(super) fn reads_bf16(array: Array<'_>, cols: usize) -> bool {
    matches!(array.memory(), Input::Bf16(_)) && array.is_rows(cols)
}

/// The elements that a task should take of an array, which takes about `RUN` of those that stand.
pub(super) fn task<S: Native>(array: Array<'_>) -> usize {
    // Elements that become float32 first stay in the second-level cache in between.
    array.task(if S::stands(array) { RUN } else { RUN / 8 })
}

/// Runs `f` on [`Native::windows`] of part of an array.
pub(super) fn with_windows<S: Native>(
    array: Array<'_>,
    cols: usize,
    unit: usize,
    mut f: impl FnMut(Range<usize>, &[S::Item], usize),
) {
    with_room(|room| S::windows(array, cols, unit, room, &mut f));
}

/// Runs `f` on part of an array, one run of elements.
pub(super) fn with_run<S: Native>(array: Array<'_>, mut f: impl FnMut(&[S::Item])) {
    let n = array.len();
    with_windows::<S>(array, n, n, |_, src, _| f(&src[..n]));
}

/// The array as float32: itself, or a copy.
pub(super) fn as_f32(array: Array<'_>) -> Cow<'_, [f32]> {
    if let Array::Dense(Input::F32(src)) = array {
        return src.into();
    }
    let mut out = vec![0f32; array.len()];
    let mut rest = out.as_mut_slice();
    let parts = array.parts(RUN).into_iter().map(|part| {
        let (out, after) = std::mem::take(&mut rest).split_at_mut(part.range.len());
        rest = after;
        (array.part(part.range), out)
    });
    let parts = parts.collect();
    run_tasks(array.len(), parts, |(part, out): (Array<'_>, &mut [f32])| part.copy_to(out, false));
    out.into()
}
