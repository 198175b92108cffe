//! Casting arrays to codes.

use super::lanes::LaneRounder;
use super::near::Near;
use super::round::{NanPolicy, Overflow, Rounder, Rounding};
use super::source::{each_input, Code, CodesMut, Source, F32};
use super::strided::{with_room, Array, Part, Rows};
use super::table::{Format, BFLOAT16, FLOAT16};
use super::turned_codes::{Columns, Windows};
use crate::error::{same_length, Error};
use crate::simd::{dispatch, GroupMap, Kernel, Laid, Lanes, Narrow, Walk, MAX_GROUP};
use crate::threads::run_tasks;
use std::marker::PhantomData;

/// Elements that one task takes.
const CHUNK: usize = 64 * 1024;

/// How [`encode`] casts.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Result of overflow.
    pub overflow: Overflow,
    /// Result of NaN.
    pub nan: NanPolicy,
    /// Seed of stochastic rounding.
    pub seed: u64,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions {
            rounding: Rounding::NearestEven,
            overflow: Overflow::Saturate,
            nan: NanPolicy::Code,
            seed: 0,
        }
    }
}

/// Casts every element of `src` to `format`, one code in each element of `out`, in C order.
///
/// The result is the single rounding of each element, the same for every thread count and instruction set.
///
/// # Errors
/// [`Error::Length`] if the lengths differ; [`Error::Unsupported`] if `out` is too narrow or wide for the
/// format, or overflow asks for a code it does not have; [`Error::NonFinite`] for NaN under
/// [`NanPolicy::Raise`]; [`Error::NoNanCode`] for NaN that the format cannot hold. After an error `out`
/// holds codes of part of the input.
pub fn encode<'a>(
    src: impl Into<Array<'a>>,
    format: &'static Format,
    options: &EncodeOptions,
    out: CodesMut<'_>,
) -> Result<(), Error> {
    let src = src.into();
    same_length("out", out.len(), src.len())?;
    let rounder = Rounder::new(format, options.rounding, options.overflow, options.nan)?;
    let job = Job {
        rounder,
        seed: options.seed,
        refuse_nan: options.nan == NanPolicy::Raise
            || (options.nan == NanPolicy::Code && format.nan_code().is_none()),
    };
    let first_nan = match out {
        CodesMut::U8(out) if format.bits() <= 8 => job.all(src, out),
        CodesMut::U16(out) if format.bits() > 8 => job.all(src, out),
        _ => return Err(wrong_width(format)),
    };
    match first_nan {
        None => Ok(()),
        Some(index) if options.nan == NanPolicy::Raise => {
            Err(Error::NonFinite { what: "x", value: "NaN", index })
        }
        Some(index) => Err(Error::NoNanCode { format: format.name, index }),
    }
}

pub(crate) fn wrong_width(format: &Format) -> Error {
    let width = if format.bits() <= 8 { "uint8" } else { "uint16" };
    Error::Unsupported(format!("codes: {} takes {width} codes", format.name))
}

#[derive(Clone, Copy)]
struct Job {
    rounder: Rounder,
    seed: u64,
    refuse_nan: bool,
}

impl Job {
    /// Encodes everything in parallel parts; the flat index of the first NaN that is not wanted.
    fn all<C: Code>(self, src: Array<'_>, out: &mut [C]) -> Option<usize> {
        let (walk, way) = (Walk::over(src.bytes(), out), Way::new(&self));
        if let (Array::Dense(input), 1..=CHUNK) = (src, src.len()) {
            let n = input.len();
            let rows = Laid { at: 0, cols: n, stride: n, pitch: n, walk };
            return each_input!(input, S, src => self.rows::<S, C>(&way, rows, src, out));
        }
        let mut rest = out;
        let tasks = src.parts(CHUNK).into_iter().map(|part| {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(part.range.len());
            rest = after;
            (part, out)
        });
        let tasks = tasks.collect();
        let nans = run_tasks(src.len(), tasks, |(part, out): (Part, &mut [C])| {
            let (at, cols, src) = (part.range.start, part.cols, src.part(part.range));
            let anywhere = C::BYTE && !self.rounder.rounding.is_random();
            let columns = if anywhere { src.columns(cols) } else { None };
            // Where it meets a NaN, the first in C order is found by going through rows.
            if columns.is_some_and(|columns| !self.turned(&way, columns, cols, &mut *out, walk.stream)) {
                return None;
            }
            with_room(|room| {
                let Some(width) = src.window(cols, 1) else {
                    let Rows { input, cols, stride } = src.rows_or_copy(cols, room);
                    let rows = Laid { at, cols, stride, pitch: cols, walk };
                    return each_input!(input, S, src => self.rows::<S, C>(&way, rows, src, out));
                };
                let mut first = None;
                for from in (0..cols).step_by(width) {
                    let window = from..cols.min(from + width);
                    let width = window.len();
                    let (src, stride) = src.copy_window(window, room, true);
                    let rows = Laid { at: at + from, cols: width, stride, pitch: cols, walk };
                    let nan = self.rows::<F32, C>(
                        &way,
                        Laid { walk: Walk { ahead: 0, ..walk }, ..rows },
                        src,
                        &mut out[from..],
                    );
                    first = first.into_iter().chain(nan).min();
                }
                first
            })
        });
        nans.into_iter().flatten().next()
    }

    /// Encodes rows of `cols` that lie in columns of memory; true where one is a NaN that is not wanted.
    fn turned<C: Code>(
        self,
        way: &Way,
        columns: Columns<'_>,
        cols: usize,
        out: &mut [C],
        stream: bool,
    ) -> bool {
        let (Columns { lines, stride, .. }, pitch) = (columns, columns.pitch());
        // Rows go past the caches in whole lines.
        let head =
            if stream && cols.is_multiple_of(MAX_GROUP) { out.as_ptr().align_offset(MAX_GROUP) } else { 0 };
        columns.turn(Windows { cols, unit: MAX_GROUP, head, stream }, out, |window, codes| {
            each_input!(columns.part(window), S, src => {
                let item = size_of::<<S as Source>::Item>();
                let walk = Walk { ahead: columns.ahead(item) * stride * item, far: true, ..Walk::CACHED };
                self.rows::<S, C>(way, Laid { at: 0, cols: lines, stride, pitch, walk }, src, codes)
            })
            .is_some()
        })
    }

    /// Encodes rows; the first NaN that is not wanted.
    #[inline(never)]
    fn rows<S: Source, C: Code>(
        self,
        way: &Way,
        rows: Laid,
        src: &[S::Item],
        out: &mut [C],
    ) -> Option<usize> {
        let Laid { at, cols, stride, pitch, walk } = rows;
        if self.refuse_nan {
            for (k, src) in src.chunks(stride).enumerate() {
                if let Some(i) = dispatch(FindNan::<S> { src: &src[..cols] }) {
                    return Some(at + k * pitch + i);
                }
            }
        }
        // Where rows lie apart, what comes next is the same part of the next row.
        let apart = walk.ahead > 0 && !walk.far && cols < stride && stride < FAR;
        let bytes = std::mem::size_of::<S::Item>() * stride;
        let walk = if apart { Walk { ahead: bytes, far: true, ..walk } } else { walk };
        way.run::<S, C>(Laid { walk, ..rows }, src, out);
        if walk.stream {
            dispatch(Fence);
        }
        None
    }
}

/// The way to the codes, as the mode and the format ask for.
struct Way {
    word: Option<Word>,
    near: Option<Near>,
    narrow: Narrowed,
    lanes: Option<LaneRounder>,
}

impl Way {
    fn new(job: &Job) -> Way {
        let rounding = job.rounder.rounding;
        let near = Near::new(&Rounder { rounding: Rounding::NearestEven, ..job.rounder });
        let narrow = near.and_then(|near| near.narrow(rounding));
        let narrow =
            narrow.map(|(format, by)| (if job.refuse_nan { format.without_nan() } else { format }, by));
        let near = near.filter(|_| rounding == Rounding::NearestEven);
        let lanes = near.is_none().then(|| LaneRounder::new(&job.rounder, job.seed));
        Way { word: Word::new(&job.rounder), near, narrow, lanes }
    }

    fn run<S: Source, C: Code>(&self, rows: Laid, src: &[S::Item], out: &mut [C]) {
        let narrow = self.narrow;
        // From float32 alone, which is asked for most: each has loops of its own.
        if let Some(word) = self.word.filter(|_| !C::BYTE && size_of::<S::Item>() == size_of::<f32>()) {
            if dispatch(Words::<S, C> { word, rows, src, out: &mut *out }) {
                return;
            }
        }
        match (self.near, self.lanes) {
            (Some(near), _) if near.plain() => {
                let map = NearestMap::<S, C, true> { near, marker: PhantomData };
                dispatch(Mapped::<S, C, _> { map, narrow, rows, src, out });
            }
            (Some(near), _) => {
                let map = NearestMap::<S, C, false> { near, marker: PhantomData };
                dispatch(Mapped::<S, C, _> { map, narrow, rows, src, out });
            }
            (None, Some(rounder)) => {
                let map = AnyModeMap::<S, C> { rounder, marker: PhantomData };
                dispatch(Mapped::<S, C, _> { map, narrow, rows, src, out });
            }
            (None, None) => unreachable!("one of the two"),
        }
    }
}

/// Ends streaming.
struct Fence;

impl Kernel for Fence {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        l.fence();
    }
}

/// Nearest even to float16 or bfloat16, whose NaN is the quiet one: what some levels have operations for.
#[derive(Clone, Copy)]
struct Word {
    f16: bool,
    finite: bool,
}

impl Word {
    fn new(r: &Rounder) -> Option<Word> {
        let f16 = r.format == FLOAT16;
        let known = f16 || r.format == BFLOAT16;
        let plain = r.rounding == Rounding::NearestEven && Some(r.nan) == r.format.nan_code();
        (known && plain).then_some(Word { f16, finite: r.saturate })
    }
}

/// Encoding by [`Lanes::store_f16`] or [`Lanes::store_bf16`].
#[derive(Clone, Copy)]
struct WordMap<S, C, const F16: bool> {
    finite: bool,
    marker: PhantomData<(S, C)>,
}

impl<S: Source, C: Code, const F16: bool> GroupMap for WordMap<S, C, F16> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        C::store_word::<L, F16>(l, S::group(l, src), self.finite, out, stream);
    }
}

/// A [`WordMap`] over an array; false, and nothing is done, where the level has none.
struct Words<'a, S: Source, C> {
    word: Word,
    rows: Laid,
    src: &'a [S::Item],
    out: &'a mut [C],
}

impl<S: Source, C: Code> Kernel for Words<'_, S, C> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        let Words { word: Word { f16, finite }, rows, src, out } = self;
        if L::ROUNDS_WORDS && f16 {
            rows.map(l, &WordMap::<S, C, true> { finite, marker: PhantomData }, src, out);
        } else if L::ROUNDS_WORDS {
            rows.map(l, &WordMap::<S, C, false> { finite, marker: PhantomData }, src, out);
        }
        L::ROUNDS_WORDS
    }
}

/// A format and a mode for [`Lanes::store_narrow`], and the factor of its numbers.
type Narrowed = Option<(Narrow, f32)>;

/// Encoding where the level rounds the format in float16 lanes: subnormal numbers become zero, as they would.
#[derive(Clone, Copy)]
struct NarrowMap<S, C> {
    format: Narrow,
    scale: f32,
    marker: PhantomData<(S, C)>,
}

impl<S: Source, C: Code> GroupMap for NarrowMap<S, C> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let mut format = self.format;
        let x = S::group(l, src);
        if L::ANY_NORMAL {
            format.normal = (f32::from_bits(format.normal) / self.scale).to_bits();
            return C::store_narrow(l, x, format, out, stream);
        }
        let scale = l.f32(self.scale);
        let x = [
            l.fmul(l.flush(x[0]), scale),
            l.fmul(l.flush(x[1]), scale),
            l.fmul(l.flush(x[2]), scale),
            l.fmul(l.flush(x[3]), scale),
        ];
        C::store_narrow(l, x, format, out, stream);
    }
}

/// Elements from one row to the next beyond which no row is fetched ahead.
const FAR: usize = 64 * 1024;

/// A map of groups over an array, in lanes, or the [`NarrowMap`] instead of it.
struct Mapped<'a, S: Source, C, M> {
    map: M,
    narrow: Narrowed,
    rows: Laid,
    src: &'a [S::Item],
    out: &'a mut [C],
}

impl<S: Source, C: Code, M: GroupMap<In = S::Item, Out = C>> Kernel for Mapped<'_, S, C, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Mapped { map, narrow, rows, src, out } = self;
        match narrow.filter(|(format, _)| L::NARROW && C::BYTE && (format.even || L::NARROW_MODES)) {
            Some((format, scale)) => format.in_loops::<L>(
                #[inline(always)]
                |format| {
                    let map = NarrowMap::<S, C> { format, scale, marker: PhantomData };
                    rows.map(l, &map, src, out);
                },
            ),
            None => rows.map(l, &map, src, out),
        }
    }
}

/// Nearest even.
#[derive(Clone, Copy)]
struct NearestMap<S, C, const PLAIN: bool> {
    near: Near,
    marker: PhantomData<(S, C)>,
}

impl<S: Source, C: Code, const PLAIN: bool> GroupMap for NearestMap<S, C, PLAIN> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        if PLAIN && C::BYTE && L::NEAREST_BYTES {
            let x = S::group(l, src);
            let bits = [l.bits(x[0]), l.bits(x[1]), l.bits(x[2]), l.bits(x[3])];
            let a = [
                self.bounded(l, bits[0]),
                self.bounded(l, bits[1]),
                self.bounded(l, bits[2]),
                self.bounded(l, bits[3]),
            ];
            let numbers = l.all_numbers(x);
            C::store_nearest(l, a, bits, self.near.bytes(), out, stream && numbers);
            if !numbers {
                self.mark_nan(l, src, out);
            }
            return;
        }
        let codes =
            [self.vector(l, src, 0), self.vector(l, src, 1), self.vector(l, src, 2), self.vector(l, src, 3)];
        C::store(l, codes, out, stream);
    }
}

impl<S: Source, C, const PLAIN: bool> NearestMap<S, C, PLAIN> {
    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, src: &[S::Item], j: usize) -> L::U {
        let x = l.bits(S::load(l, &src[j * L::N..]));
        let code = self.near.round(l, self.near.magnitude(l, x));
        self.near.sign::<L, PLAIN>(l, code, x)
    }

    #[inline(always)]
    fn bounded<L: Lanes>(&self, l: L, x: L::U) -> L::F {
        self.near.bounded(l, self.near.magnitude(l, x))
    }

    /// Writes the codes of a group's NaNs.
    #[inline(always)]
    fn mark_nan<L: Lanes>(&self, l: L, src: &[S::Item], out: &mut [C])
    where
        C: Code,
    {
        let mut bits = [0u32; MAX_GROUP];
        widen::<L, S>(l, src, &mut bits);
        write_nan(&self.near, &bits[..L::GROUP], out);
    }
}

/// Writes the codes of those that are NaN. Not inlined: it is rare, and would be in the loops of every format of numbers.
#[cold]
#[inline(never)]
fn write_nan<C: Code>(near: &Near, bits: &[u32], out: &mut [C]) {
    for (bits, out) in bits.iter().zip(out) {
        if bits & 0x7FFF_FFFF > 0x7F80_0000 {
            *out = C::from_u32(near.nan_code(*bits));
        }
    }
}

/// Any mode.
#[derive(Clone, Copy)]
struct AnyModeMap<S, C> {
    rounder: LaneRounder,
    marker: PhantomData<(S, C)>,
}

impl<S: Source, C: Code> GroupMap for AnyModeMap<S, C> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let x = [
            l.bits(S::load(l, src)),
            l.bits(S::load(l, &src[L::N..])),
            l.bits(S::load(l, &src[2 * L::N..])),
            l.bits(S::load(l, &src[3 * L::N..])),
        ];
        self.rounder.store(l, at as u64, x, out, stream);
    }
}

/// At most `N` elements where they stand, or, if there are fewer, in a room of zeros.
#[inline(always)]
pub(crate) fn padded<'a, T: Copy, const N: usize>(src: &'a [T], room: &'a mut [T; N]) -> &'a [T; N] {
    src.try_into().unwrap_or_else(|_| {
        room[..src.len()].copy_from_slice(src);
        &*room
    })
}

/// The float32 bits of at most [`MAX_GROUP`] elements.
#[inline(always)]
pub(crate) fn widen<L: Lanes, S: Source>(l: L, src: &[S::Item], bits: &mut [u32; MAX_GROUP]) {
    let mut room = [S::Item::default(); MAX_GROUP];
    let group = padded(src, &mut room);
    let mut i = 0;
    while i < src.len() {
        l.store_u32(l.bits(S::load(l, &group[i..])), &mut bits[i..]);
        i += L::N;
    }
}

/// Elements that are looked through together for a NaN, whole groups at any level.
const STRETCH: usize = 8 * MAX_GROUP;

/// The first NaN.
struct FindNan<'a, S: Source> {
    src: &'a [S::Item],
}

impl<S: Source> Kernel for FindNan<'_, S> {
    type Out = Option<usize>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Option<usize> {
        let mut bits = [0u32; MAX_GROUP];
        for (k, stretch) in self.src.chunks(STRETCH).enumerate() {
            if stretch.len() == STRETCH && !any_nan::<L, S>(l, stretch) {
                continue;
            }
            for (j, src) in stretch.chunks(MAX_GROUP).enumerate() {
                if src.len() == MAX_GROUP && !any_nan::<L, S>(l, src) {
                    continue;
                }
                widen::<L, S>(l, src, &mut bits);
                if let Some(i) = bits[..src.len()].iter().position(|b| b & 0x7FFF_FFFF > 0x7F80_0000) {
                    return Some(k * STRETCH + j * MAX_GROUP + i);
                }
            }
        }
        None
    }
}

/// True if any of some groups' elements is NaN.
#[inline(always)]
fn any_nan<L: Lanes, S: Source>(l: L, src: &[S::Item]) -> bool {
    let mut most = l.f32(0.0);
    for group in src.chunks_exact(L::GROUP) {
        most = l.max_or_nan(most, S::load(l, group));
        most = l.max_or_nan(most, S::load(l, &group[L::N..]));
        most = l.max_or_nan(most, S::load(l, &group[2 * L::N..]));
        most = l.max_or_nan(most, S::load(l, &group[3 * L::N..]));
    }
    l.hmax(l.and(l.bits(most), l.u32(0x7FFF_FFFF))) > 0x7F80_0000
}
