//! Arrays whose elements lie apart: where they stand in memory, and parts of them that are made to lie together.
//!
//! Rows of neighbouring elements are read where they stand ([`Array::rows`]). Other parts are copied a part at a time, into a
//! room that a thread keeps: columns that were rows once by transposing tiles, so that lines of memory are read whole.

use super::source::Input;
use super::turned::{read, Run, Turn, TURNED};
use super::turned_codes::Columns;
use crate::error::{same_length, Error};
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};
use std::cell::RefCell;
use std::ops::Range;

/// The elements of an axis, and how far apart they are in memory.
#[derive(Clone, Copy, Debug)]
struct Axis {
    len: usize,
    stride: isize,
}

/// The places of an array's elements in a piece of memory, in C order: axes that follow one another are one.
#[derive(Clone, Debug)]
pub struct Places {
    memory: usize,
    start: usize,
    outer: Vec<Axis>,
    rows: Axis,
    cols: Axis,
}

impl Places {
    /// Checks a layout: the first element is element `start` of `memory`; strides are in elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for an element outside of the memory, and a shape whose element count overflows.
    pub fn new(memory: usize, start: usize, shape: &[usize], strides: &[isize]) -> Result<Places, Error> {
        let wrong = |why| Error::Shape { what: "strides", why };
        same_length("strides", strides.len(), shape.len())?;
        let elements = shape.iter().try_fold(1usize, |n, len| n.checked_mul(*len));
        if elements.is_none_or(|n| n > isize::MAX as usize / 8) {
            return Err(Error::Shape { what: "shape", why: "the element count overflows" });
        }
        let mut axes: Vec<Axis> = Vec::new();
        if elements == Some(0) {
            axes.push(Axis { len: 0, stride: 1 });
        } else {
            // The first and the last element that are reached: no sum of steps lies beyond them.
            let (mut first, mut last) = (isize::try_from(start).ok(), isize::try_from(start).ok());
            for (len, stride) in shape.iter().zip(strides) {
                let reach = stride.checked_mul(*len as isize - 1);
                let far = |end: Option<isize>, reach: isize| end.and_then(|end| end.checked_add(reach));
                first = reach.and_then(|reach| far(first, reach.min(0)));
                last = reach.and_then(|reach| far(last, reach.max(0)));
            }
            let inside = |at: Option<isize>| at.is_some_and(|at| at >= 0 && (at as usize) < memory);
            if !(inside(first) && inside(last)) {
                return Err(wrong("an element lies outside of the memory"));
            }
            for (len, stride) in shape.iter().zip(strides).filter(|(len, _)| **len > 1) {
                match axes.last_mut() {
                    Some(before) if stride.checked_mul(*len as isize) == Some(before.stride) => {
                        *before = Axis { len: before.len * len, stride: *stride };
                    }
                    _ => axes.push(Axis { len: *len, stride: *stride }),
                }
            }
        }
        let cols = axes.pop().unwrap_or(Axis { len: 1, stride: 1 });
        let rows = axes.pop().unwrap_or(Axis { len: 1, stride: 0 });
        Ok(Places { memory, start, outer: axes, rows, cols })
    }

    fn len(&self) -> usize {
        self.outer.iter().map(|axis| axis.len).product::<usize>() * self.rows.len * self.cols.len
    }

    /// The place of an element, by its row and column.
    fn of(&self, row: usize, col: usize) -> isize {
        let (mut matrix, row) = (row / self.rows.len, row % self.rows.len);
        let mut at = self.start as isize + row as isize * self.rows.stride + col as isize * self.cols.stride;
        for axis in self.outer.iter().rev() {
            at += (matrix % axis.len) as isize * axis.stride;
            matrix /= axis.len;
        }
        at
    }

    /// True for rows that lie in columns of memory.
    fn turned(&self) -> bool {
        self.rows.stride == 1 && self.rows.len > 1
    }

    /// Rows that a task takes of those: fewer where there are few.
    fn height(&self) -> usize {
        (self.rows.len / 4).clamp(TURNED / 4, TURNED)
    }
}

/// An array to read in C order.
#[derive(Clone, Copy, Debug)]
pub enum Array<'a> {
    /// Elements that lie together.
    Dense(Input<'a>),
    /// Elements that lie apart.
    Strided(Strided<'a>),
}

/// Some elements of an array that lie apart.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    memory: Input<'a>,
    places: &'a Places,
    at: usize,
    len: usize,
}

/// Rows of `cols` elements, one every `stride` elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub input: Input<'a>,
    pub cols: usize,
    pub stride: usize,
}

/// Cuts `length` into pieces of `step`, after one of `first`, if there is to be such.
pub(crate) fn steps(length: usize, first: Option<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let first = first.unwrap_or(step).min(length);
    let rest = (first..length).step_by(step).map(move |at| at..length.min(at + step));
    std::iter::once(0..first).chain(rest).filter(|piece| !piece.is_empty())
}

/// Some elements in order, as rows that may lie together each.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub range: Range<usize>,
    pub cols: usize,
}

impl<'a> From<Input<'a>> for Array<'a> {
    fn from(input: Input<'a>) -> Array<'a> {
        Array::Dense(input)
    }
}

/// Elements of a row from which it is better read where it stands than copied to lie beside the next one.
const LONG_ROW: usize = 1024;
/// Elements of a window, a copy of some columns of such rows: half of a second-level cache.
const WINDOW: usize = 64 * 1024;
/// Columns of which tiles of codes would be mostly empty.
const FEW: usize = MAX_GROUP / 2;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes from which an array comes from far away, so that each line should be read once.
const FAR: usize = 8 << 20;
/// Elements of a part that is copied: it stays in the second-level cache.
const COPIED: usize = 8 * 1024;

impl<'a> Array<'a> {
    /// An array in `memory`.
    ///
    /// # Errors
    /// [`Error::Length`] if the places are those of another memory.
    pub fn new(memory: Input<'a>, places: &'a Places) -> Result<Array<'a>, Error> {
        same_length("memory", memory.len(), places.memory)?;
        Ok(Array::Strided(Strided { memory, places, at: 0, len: places.len() }))
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Dense(input) => input.len(),
            Array::Strided(strided) => strided.len,
        }
    }

    /// True for no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the elements.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Array::Dense(input) => input.bytes(),
            Array::Strided(Strided { memory, len, .. }) => len * (memory.bytes() / memory.len().max(1)),
        }
    }

    /// The memory that holds the elements.
    pub(crate) fn memory(&self) -> Input<'a> {
        match self {
            Array::Dense(input) => *input,
            Array::Strided(strided) => strided.memory,
        }
    }

    /// Some of the elements.
    pub(crate) fn part(self, range: Range<usize>) -> Array<'a> {
        match self {
            Array::Dense(input) => Array::Dense(input.part(range)),
            Array::Strided(s) => {
                assert!(range.start <= range.end && range.end <= s.len, "a part");
                Array::Strided(Strided { at: s.at + range.start, len: range.len(), ..s })
            }
        }
    }

    /// Matrices, and rows and columns of each, as they lie in memory; of few elements, as rows of one.
    pub(crate) fn shape(&self) -> [usize; 3] {
        match self {
            Array::Dense(input) => [1, 1, input.len()],
            Array::Strided(Strided { places: Places { rows, cols, .. }, len, .. }) => {
                let lines = len / cols.len.max(1);
                if rows.len * cols.len < 2 * LONG_ROW {
                    [1, lines, cols.len]
                } else {
                    [lines / rows.len, rows.len, cols.len]
                }
            }
        }
    }

    /// True where all rows of `cols` elements stand one every so many, as [`Array::rows`] gives them.
    pub(crate) fn is_rows(&self, cols: usize) -> bool {
        match self {
            Array::Dense(_) => true,
            Array::Strided(Strided { places, .. }) => {
                places.outer.is_empty()
                    && places.cols.len == cols
                    && cols >= LONG_ROW
                    && places.cols.stride == 1
                    && places.rows.stride >= cols as isize
            }
        }
    }

    /// True for rows that lie in columns of memory.
    pub(crate) fn is_turned(&self) -> bool {
        matches!(self, Array::Strided(Strided { places, .. }) if places.turned())
    }

    /// Elements that a task should take, which takes about `n` where they lie together.
    pub(crate) fn task(&self, n: usize) -> usize {
        match self {
            Array::Dense(_) => n,
            Array::Strided(Strided { places, .. }) => {
                let Places { rows, cols, .. } = places;
                if places.turned() {
                    // Whole groups of rows, where there are more than one.
                    let rows = (n / cols.len.max(1)).max(places.height());
                    cols.len * if rows > TURNED { rows / TURNED * TURNED } else { rows }
                } else if cols.stride != 1 || cols.len < LONG_ROW {
                    n.min(COPIED)
                } else if rows.stride < cols.len as isize {
                    n.min(cols.len)
                } else {
                    n
                }
            }
        }
    }

    /// Rows from one on to the first that begins a cache line in all columns of memory in which they lie, if there is such and
    /// the array is large: where parts begin there, they share no lines.
    pub(crate) fn rows_to_line(&self, row: usize) -> Option<usize> {
        let Array::Strided(Strided { memory, places, at, .. }) = self else { return None };
        if self.bytes() < FAR || !places.turned() || places.rows.len < 4 * TURNED {
            return None;
        }
        let item = memory.bytes() / memory.len().max(1);
        let first = places.of(at / places.cols.len + row, 0) as usize;
        let rows = memory.part(first..first).address().wrapping_neg() % LINE / item;
        let apart = (places.cols.stride * item as isize) % LINE as isize == 0;
        (apart && rows > 0).then_some(rows)
    }

    /// Parts of about `n` elements, in order.
    #[inline(never)]
    pub(crate) fn parts(&self, n: usize) -> Vec<Part> {
        let ([matrices, rows, cols], n) = (self.shape(), self.task(n));
        let mut parts = Vec::new();
        if self.is_empty() {
            return parts;
        }
        let (step, width) = if cols > n { (1, n) } else { ((n / cols).max(1), cols) };
        for first in (0..matrices).map(|matrix| matrix * rows) {
            for part in steps(rows, self.rows_to_line(first), step) {
                let (row, height) = (part.start, part.len());
                for at in (0..cols).step_by(width) {
                    let (start, cols) = ((first + row) * cols + at, width.min(cols - at));
                    parts.push(Part { range: start..start + height * cols, cols });
                }
            }
        }
        parts
    }

    /// The elements as rows of `cols`, if they lie so, and are long enough to be read so.
    #[inline(never)] // once, not wherever an array is read
    pub(crate) fn rows(self, cols: usize) -> Option<Rows<'a>> {
        let Strided { memory, places, at, len } = match self {
            Array::Dense(input) => return Some(Rows { input, cols, stride: cols }),
            Array::Strided(strided) => strided,
        };
        let (width, height) = (places.cols.len, places.rows.len);
        if places.cols.stride != 1 || width < LONG_ROW {
            return None;
        }
        let (row, col) = (at / width, at % width);
        let start = places.of(row, col) as usize;
        if len <= cols {
            let input = || memory.part(start..start + len);
            return (col + len <= width).then(|| Rows { input: input(), cols: len, stride: len });
        }
        let (lines, stride) = (len / width, usize::try_from(places.rows.stride).ok()?);
        let whole = cols == width && col == 0 && len == lines * width;
        (whole && row % height + lines <= height && stride >= width).then(|| {
            let input = memory.part(start..start + (lines - 1) * stride + width);
            Rows { input, cols, stride }
        })
    }

    /// The elements as rows of `cols` where they stand, or else as one row of float32 in `room`, float64 rounded to odd.
    pub(crate) fn rows_or_copy<'b>(self, cols: usize, room: &'b mut Vec<f32>) -> Rows<'b>
    where
        'a: 'b,
    {
        match self.rows(cols) {
            Some(rows) => rows,
            None => Rows { input: Input::F32(self.copy(room, true)), cols: self.len(), stride: self.len() },
        }
    }

    /// The width of the windows in which rows of `cols` elements are copied, a multiple of `unit`, if they are long and lie
    /// in columns of memory.
    #[inline(never)]
    pub(crate) fn window(&self, cols: usize, unit: usize) -> Option<usize> {
        let lines = self.turned_lines(cols).filter(|_| cols >= LONG_ROW)?;
        Some((WINDOW / lines / unit).max(1) * unit)
    }

    /// How many whole rows of `cols` elements, of one matrix, these are, if they lie in columns of memory.
    fn turned_lines(&self, cols: usize) -> Option<usize> {
        let Array::Strided(Strided { places, at, len, .. }) = self else { return None };
        let (width, height) = (places.cols.len, places.rows.len);
        if !places.turned() || width != cols || at % width != 0 || len % width != 0 {
            return None;
        }
        let lines = len / width;
        (lines > 0 && at / width % height + lines <= height).then_some(lines)
    }

    /// The elements, rows of `cols`, as columns of memory, if they lie so, and groups and tiles would be more than half full.
    #[inline(never)]
    pub(crate) fn columns(self, cols: usize) -> Option<Columns<'a>> {
        let lines = self.turned_lines(cols).filter(|_| cols >= FEW)?;
        if 4 * (lines.next_multiple_of(MAX_GROUP) - lines) > lines {
            return None;
        }
        let Array::Strided(Strided { memory, places, at, .. }) = self else { return None };
        let stride = usize::try_from(places.cols.stride).ok().filter(|stride| *stride >= lines)?;
        let start = places.of(at / cols, 0) as usize;
        let input = memory.part(start..start + (cols - 1) * stride + lines);
        Some(Columns { input, lines, stride })
    }

    /// Copies a window to `room`, as float32; float64 is rounded to odd, or to nearest. Returns rows, and how far one is from
    /// the next: not so that they fight for the same cache sets.
    #[inline(never)]
    pub(crate) fn copy_window<'b>(
        &self,
        cols: Range<usize>,
        room: &'b mut Vec<f32>,
        odd: bool,
    ) -> (&'b [f32], usize) {
        let Array::Strided(Strided { memory, places, at, len }) = *self else { return (&[], 1) };
        let (row, lines, width) = (at / places.cols.len, len / places.cols.len, cols.len());
        let pitch = width + MAX_GROUP / 4;
        if room.len() < lines * pitch {
            room.resize(lines * pitch, 0.0);
        }
        for k in (0..lines).step_by(TURNED) {
            let from = (places.of(row + k, cols.start), places.cols.stride);
            let lines = TURNED.min(lines - k);
            dispatch(Turn { memory, odd, from, lines, width, out: &mut room[k * pitch..], pitch });
        }
        (&room[..lines * pitch], pitch)
    }

    /// Copies the elements to `room`, as float32; float64 is rounded to odd, or to nearest.
    #[inline(never)]
    pub(crate) fn copy(self, room: &mut Vec<f32>, odd: bool) -> &[f32] {
        let n = self.len();
        if room.len() < n {
            room.resize(n, 0.0);
        }
        self.copy_to(&mut room[..n], odd);
        &room[..n]
    }

    /// Copies the elements.
    pub(crate) fn copy_to(self, out: &mut [f32], odd: bool) {
        dispatch(Copy { array: self, odd, out });
    }
}

thread_local! {
    /// Memory of a part's copy, which every task of a thread takes.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The largest room that a thread keeps, in elements: 4 MiB.
const KEPT: usize = 1 << 20;

/// Runs `f` with the thread's room.
pub(crate) fn with_room<R>(f: impl FnOnce(&mut Vec<f32>) -> R) -> R {
    ROOM.with_borrow_mut(|room| {
        let result = f(room);
        if room.len() > KEPT {
            *room = Vec::new();
        }
        result
    })
}

/// The elements of an array as float32.
struct Copy<'a> {
    array: Array<'a>,
    odd: bool,
    out: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Copy { array, odd, out } = self;
        let n = out.len();
        let Strided { memory, places, at, .. } = match array {
            Array::Dense(input) => {
                return read(l, input, odd, Run { first: 0, stride: 1, len: n }, None, out);
            }
            Array::Strided(strided) => strided,
        };
        let (height, width) = (places.rows.len, places.cols.len);
        let mut done = 0;
        while done < n {
            let (row, col) = ((at + done) / width, (at + done) % width);
            let lines = ((n - done) / width).min(height - row % height).min(TURNED);
            let first = places.of(row, col);
            if places.turned() && col == 0 && lines > 1 {
                let (from, out) = ((first, places.cols.stride), &mut out[done..done + lines * width]);
                l.call(Turn { memory, odd, from, lines, width, out, pitch: width });
                done += lines * width;
            } else {
                let run = (width - col).min(n - done).min(PIECE);
                if places.cols.stride == 1 {
                    memory.fetch(l, first.wrapping_add(places.rows.stride), run);
                }
                let (stride, out) = (places.cols.stride, &mut out[done..done + run]);
                read(l, memory, odd, Run { first, stride, len: run }, None, out);
                done += run;
            }
        }
    }
}

/// Elements of a row that are copied at a time, while as many of the next row are fetched.
const PIECE: usize = 512;
