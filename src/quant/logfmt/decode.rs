//! Decoding: codes back to numbers.

use super::encode::wrong_width;
use super::layout::{take, Tiles};
use super::look::{Panel, Values};
use super::tile::{check_bits, top, Span};
use super::values::Precision;
use crate::error::{same_length, Error};
use crate::formats::decode::{Sink, ToBf16, ToF16, ToF32};
use crate::formats::source::{Code, Codes, Output};
use crate::quant::amax::RUN;
use crate::simd::{dispatch, map_groups, GroupMap, Kernel, Lanes, Walk, MAX_GROUP};
use crate::threads::run_tasks;

/// Writes what codes stand for in the table of their tile, with their signs: float64 the value itself, float32 the
/// nearest one ([`Precision::Quick`]: at most 2 units in the last place from it), float16 and bfloat16 that float32
/// rounded to nearest even once more. Bits of a code above its width are ignored.
///
/// # Errors
/// [`Error::Range`] for a width that is none, [`Error::Length`] if the arrays do not fit the layout,
/// [`Error::Unsupported`] if the codes are too narrow or wide, [`Error::Shape`] for magnitudes that no tile has.
pub fn logfmt_decode(
    codes: Codes<'_>,
    bits: u32,
    tiles: Tiles,
    amin: &[f32],
    amax: &[f32],
    out: Output<'_>,
    precision: Precision,
) -> Result<(), Error> {
    check_bits(bits)?;
    same_length("codes", codes.len(), tiles.len())?;
    same_length("out", out.len(), tiles.len())?;
    same_length("amin", amin.len(), tiles.count())?;
    same_length("amax", amax.len(), tiles.count())?;
    let ordered = |(lo, hi): (&f32, &f32)| lo.to_bits() <= hi.to_bits() && hi.to_bits() < 0x7F80_0000;
    if !amin.iter().zip(amax).all(ordered) {
        let why = "found a tile that does not keep 0 <= amin <= amax < inf";
        return Err(Error::Shape { what: "amin", why });
    }
    let job = Job { bits, tiles: tiles.flattened(), amin, amax, precision };
    match codes {
        Codes::U8(codes) if bits <= 8 => job.to(codes, out),
        Codes::U16(codes) if bits > 8 => job.to(codes, out),
        _ => return Err(wrong_width(bits)),
    }
    Ok(())
}

struct Job<'a> {
    bits: u32,
    tiles: Tiles,
    amin: &'a [f32],
    amax: &'a [f32],
    precision: Precision,
}

impl Job<'_> {
    fn to<C: Code>(&self, codes: &[C], out: Output<'_>) {
        match out {
            Output::F32(out) => self.narrow(codes, out, ToF32),
            Output::F16(out) => self.narrow(codes, out, ToF16::default()),
            Output::Bf16(out) => self.narrow(codes, out, ToBf16),
            Output::F64(out) => self.all(codes, out, |rows| dispatch(Wide(rows))),
        }
    }

    fn narrow<C: Code, K: Sink>(&self, codes: &[C], out: &mut [K::Item], sink: K) {
        let walk = Walk { ahead: 0, ..Walk::over(out) };
        self.all(codes, out, |rows| dispatch(Rows { rows, sink, walk }));
    }

    /// Hands tiles to tasks, and parts of tiles where one is too much for a task.
    fn all<C: Code, T: Send>(&self, codes: &[C], out: &mut [T], task: impl Fn(Part<'_, C, T>) + Sync) {
        let mut rest = out;
        let mut tasks = Vec::new();
        for piece in self.tiles.pieces(RUN) {
            let mut at = piece.elements.start;
            let run = if self.tiles.tile() > RUN { RUN } else { piece.elements.len() };
            for codes in codes[piece.elements].chunks(run) {
                tasks.push(Part { job: self, at, codes, out: take(&mut rest, codes.len()) });
                at += codes.len();
            }
        }
        run_tasks(codes.len(), tasks, task);
    }
}

/// Some elements, from number `at` on.
struct Part<'a, C: Code, T> {
    job: &'a Job<'a>,
    at: usize,
    codes: &'a [C],
    out: &'a mut [T],
}

impl<C: Code, T> Part<'_, C, T> {
    /// The span of the tile at element `start` of the part, and how many elements of it the part holds from there.
    #[inline(always)]
    fn tile(&self, start: usize) -> (Span, usize) {
        let Job { bits, tiles, amin, amax, .. } = self.job;
        let (tile, rest) = tiles.of(self.at + start);
        (Span::new(amin[tile].to_bits(), amax[tile].to_bits(), *bits), rest.min(self.codes.len() - start))
    }
}

/// float64 output: the definition.
struct Wide<'a, C: Code>(Part<'a, C, f64>);

impl<C: Code> Kernel for Wide<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let part = self.0;
        let (bits, mut start) = (part.job.bits, 0);
        while start < part.codes.len() {
            let (span, n) = part.tile(start);
            for (code, out) in part.codes[start..start + n].iter().zip(&mut part.out[start..start + n]) {
                let code = code.to_u32();
                let k = code & top(bits);
                let v = span.value(f64::from(k as i32));
                let v = if k == 0 { 0.0 } else { v };
                *out = f64::from_bits(v.to_bits() | u64::from(code >> (bits - 1) & 1) << 63);
            }
            start += n;
        }
    }
}

/// The other outputs: float32 into a buffer, which goes on to the output as that asks for.
struct Rows<'a, C: Code, K: Sink> {
    rows: Part<'a, C, K::Item>,
    sink: K,
    walk: Walk,
}

/// Elements after which the buffer is emptied, and how many it holds: room for what does not fill a group. So few that
/// memory takes what is written while the next ones are decoded.
const FULL: usize = 256;
const BUFFER: usize = FULL + MAX_GROUP;

/// Bytes of codes asked for ahead.
const AHEAD: usize = 4096;

impl<C: Code, K: Sink> Kernel for Rows<'_, C, K> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rows { rows, sink, walk } = self;
        let Job { bits, tiles, amin, amax, precision } = *rows.job;
        let mut panel = Panel::new(bits, precision);
        let mut along = tiles.walk(rows.at);
        let mut buffer = [0f32; BUFFER];
        let mut out = rows.out;
        let (mut start, mut filled) = (0, 0);
        while start < rows.codes.len() {
            let n = (rows.codes.len() - start).min(FULL);
            let codes = &rows.codes[start..start + n];
            for line in 0..std::mem::size_of_val(codes).div_ceil(64) {
                l.prefetch(codes, AHEAD + 64 * line);
            }
            let to = &mut buffer[filled..filled + n];
            l.call(Values { panel: &mut panel, walk: &mut along, amin, amax, codes, out: to });
            start += n;
            filled += n;
            let last = start == rows.codes.len();
            if filled >= FULL || last {
                // A streaming walk writes whole groups from a boundary of the output on; what is left stays.
                let head = if walk.stream { out.as_ptr().align_offset(64) % MAX_GROUP } else { 0 };
                let n = if last { filled } else { filled - (filled - head) % MAX_GROUP };
                map_groups(l, &Write(sink), 0, &buffer[..n], take(&mut out, n), walk);
                buffer.copy_within(n..filled, 0);
                filled -= n;
            }
        }
        l.fence();
    }
}

/// float32 to the output's type.
struct Write<K>(K);

impl<K: Sink> GroupMap for Write<K> {
    type In = f32;
    type Out = K::Item;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, x: &[f32], out: &mut [K::Item], stream: bool) {
        let x =
            [l.load_f32(x), l.load_f32(&x[L::N..]), l.load_f32(&x[2 * L::N..]), l.load_f32(&x[3 * L::N..])];
        self.0.store(l, x, out, stream);
    }
}
