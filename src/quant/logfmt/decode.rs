//! Decoding: codes back to numbers.

use super::decode_tables::{look_up, All, Factors, PairProduct, Product, TileTables, NEAR};
use super::definition::{check_bits, direct, exp2, step, top, widen, Precision, TileGrid};
use super::encode::wrong_width;
use super::layout::{take, TileWalk, Tiles};
use crate::error::{same_length, Error};
use crate::formats::decode::{Sink, ToBf16, ToF16, ToF32};
use crate::formats::source::{Code, Codes, Output};
use crate::quant::amax::RUN;
use crate::simd::{dispatch, map_groups, GroupMap, Kernel, Lanes, Walk, MAX_GROUP};
use crate::threads::run_tasks;

/// Writes the values of codes on the grid of their tile, with their signs: float64 the value itself, float32 the
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
    let job = DecodeJob { bits, tiles: tiles.flattened(), amin, amax, precision };
    match codes {
        Codes::U8(codes) if bits <= 8 => job.to(codes, out),
        Codes::U16(codes) if bits > 8 => job.to(codes, out),
        _ => return Err(wrong_width(bits)),
    }
    Ok(())
}

struct DecodeJob<'a> {
    bits: u32,
    tiles: Tiles,
    amin: &'a [f32],
    amax: &'a [f32],
    precision: Precision,
}

impl DecodeJob<'_> {
    fn to<C: Code>(&self, codes: &[C], out: Output<'_>) {
        match out {
            Output::F32(out) => self.narrow(codes, out, ToF32),
            Output::F16(out) => self.narrow(codes, out, ToF16::default()),
            Output::Bf16(out) => self.narrow(codes, out, ToBf16),
            Output::F64(out) => self.all(codes, out, |rows| dispatch(DecodeWide(rows))),
        }
    }

    fn narrow<C: Code, K: Sink>(&self, codes: &[C], out: &mut [K::Item], sink: K) {
        let walk = Walk { ahead: 0, ..Walk::over(std::mem::size_of_val(codes), out) };
        self.all(codes, out, |rows| dispatch(DecodeRows { rows, sink, walk }));
    }

    /// Distributes tiles over tasks, and parts of tiles that are larger than a task.
    fn all<C: Code, T: Send>(&self, codes: &[C], out: &mut [T], task: impl Fn(DecodePart<'_, C, T>) + Sync) {
        let mut rest = out;
        let mut tasks = Vec::new();
        for piece in self.tiles.runs(RUN) {
            let mut at = piece.elements.start;
            let run = if self.tiles.tile() > RUN { RUN } else { piece.elements.len() };
            for codes in codes[piece.elements].chunks(run) {
                tasks.push(DecodePart { job: self, at, codes, out: take(&mut rest, codes.len()) });
                at += codes.len();
            }
        }
        run_tasks(codes.len(), tasks, task);
    }
}

/// Some elements, from index `at` on.
struct DecodePart<'a, C: Code, T> {
    job: &'a DecodeJob<'a>,
    at: usize,
    codes: &'a [C],
    out: &'a mut [T],
}

impl<C: Code, T> DecodePart<'_, C, T> {
    /// The grid of the tile at element `start` of the part, and how many elements of it the part holds from there.
    #[inline(always)]
    fn tile(&self, start: usize) -> (TileGrid, usize) {
        let DecodeJob { bits, tiles, amin, amax, .. } = self.job;
        let (tile, rest) = tiles.of(self.at + start);
        (TileGrid::new(amin[tile].to_bits(), amax[tile].to_bits(), *bits), rest.min(self.codes.len() - start))
    }
}

/// float64 output: the definition.
struct DecodeWide<'a, C: Code>(DecodePart<'a, C, f64>);

impl<C: Code> Kernel for DecodeWide<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let part = self.0;
        let (bits, mut start) = (part.job.bits, 0);
        while start < part.codes.len() {
            let (grid, n) = part.tile(start);
            for (code, out) in part.codes[start..start + n].iter().zip(&mut part.out[start..start + n]) {
                let code = code.to_u32();
                let k = code & top(bits);
                let v = grid.value(f64::from(k as i32));
                let v = if k == 0 { 0.0 } else { v };
                *out = f64::from_bits(v.to_bits() | u64::from(code >> (bits - 1) & 1) << 63);
            }
            start += n;
        }
    }
}

/// The other outputs: float32 in a buffer, then converted to the output.
struct DecodeRows<'a, C: Code, K: Sink> {
    rows: DecodePart<'a, C, K::Item>,
    sink: K,
    walk: Walk,
}

/// Elements after which the buffer is flushed, and its size, with room for a partial group. Small, so that stores drain
/// while the next elements are decoded.
const FULL: usize = 256;
const BUFFER: usize = FULL + MAX_GROUP;

/// Prefetch distance in bytes of codes.
const AHEAD: usize = 4096;

impl<C: Code, K: Sink> Kernel for DecodeRows<'_, C, K> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let DecodeRows { rows, sink, walk } = self;
        let DecodeJob { bits, tiles, amin, amax, precision } = *rows.job;
        let mut known = DecodeTiles::new(bits, precision);
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
            l.call(DecodeRun { known: &mut known, walk: &mut along, amin, amax, codes, out: to });
            start += n;
            filled += n;
            let last = start == rows.codes.len();
            if filled >= FULL || last {
                // A streaming walk writes whole groups from a boundary of the output on; the rest stays.
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

/// The path that decodes a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecodePath {
    /// Every code in float64.
    Direct,
    /// The table of all values.
    All,
    /// Quick: products of two float32.
    Product,
    /// Exact: products of two numbers, each the sum of two float32.
    PairProduct,
}

/// The most tiles prepared together: enough to hide the latency of their powers.
const TILES: usize = 64;

/// The parameters of neighbouring tiles.
struct DecodeTiles {
    bits: u32,
    precision: Precision,
    /// The index of the first tile, and how many there are.
    first: usize,
    len: usize,
    lo: [u32; TILES],
    hi: [u32; TILES],
    step: [f64; TILES],
    /// `2^-step`.
    power: [f64; TILES],
    /// The tile whose tables are filled, and its path.
    ready: Option<(usize, DecodePath)>,
    table: TileTables,
}

/// Tables are for tiles of normal float32 that span less than 64 octaves.
const NORMAL: u32 = 0x0080_0000;
const FAR: u32 = 64 << 23;

/// Pairs are for numbers from 2^-64 to 2^127: the least part of a product is normal then, and none overflows.
const PAIRS: std::ops::Range<u32> = 63 << 23..254 << 23;

impl DecodeTiles {
    fn new(bits: u32, precision: Precision) -> DecodeTiles {
        let (none, zero) = ([0; TILES], [0.0; TILES]);
        let (lo, hi, step, power) = (none, none, zero, zero);
        DecodeTiles {
            bits,
            precision,
            first: 0,
            len: 0,
            lo,
            hi,
            step,
            power,
            ready: None,
            table: TileTables::NONE,
        }
    }

    /// Tests if tile `tile` is among them.
    #[inline(always)]
    fn knows(&self, tile: usize) -> bool {
        tile.wrapping_sub(self.first) < self.len
    }

    /// Computes the parameters of the tiles from index `first` on.
    #[inline(always)]
    fn learn(&mut self, first: usize, amin: &[f32], amax: &[f32]) {
        let n = (amin.len() - first).min(TILES);
        for ((lo, hi), (amin, amax)) in self
            .lo
            .iter_mut()
            .zip(&mut self.hi)
            .zip(amin[first..first + n].iter().zip(&amax[first..first + n]))
        {
            (*lo, *hi) = (amin.to_bits(), amax.to_bits());
        }
        (self.first, self.len) = (first, n);
        let top = top(self.bits);
        for ((lo, hi), s) in self.lo.iter().zip(&self.hi).zip(&mut self.step) {
            *s = step(widen(*lo), widen(*hi), top);
        }
        for (q, s) in self.power.iter_mut().zip(&self.step) {
            *q = exp2(-s);
        }
    }

    /// The best path for `n` elements of tile `i`.
    #[inline(always)]
    fn best<L: Lanes, C: Code>(&self, i: usize, n: usize) -> DecodePath {
        let (lo, hi) = (self.lo[i], self.hi[i]);
        if self.bits > 10 || lo < NORMAL || hi - lo >= FAR {
            return DecodePath::Direct;
        }
        let paired = PAIRS.contains(&lo) && PAIRS.contains(&hi);
        match self.precision {
            _ if L::PERMUTES && n < if C::BYTE { 16 } else { 32 } => DecodePath::Direct,
            Precision::Quick if L::PERMUTES => DecodePath::Product,
            Precision::Exact if L::PERMUTES && paired => DecodePath::PairProduct,
            _ if !C::BYTE || n < 1 << (self.bits - 2) => DecodePath::Direct,
            _ => DecodePath::All,
        }
    }

    /// Fills the tables for `n` elements of tile `i`. Returns the path.
    #[inline(always)]
    fn prepare<L: Lanes, C: Code>(&mut self, l: L, i: usize, n: usize) -> DecodePath {
        let path = self.best::<L, C>(i, n);
        let (hi, q) = (f64::from(f32::from_bits(self.hi[i])), self.power[i]);
        let (bits, table) = (self.bits, &mut self.table);
        let sure = match (path, self.precision) {
            (DecodePath::Product, _) if C::BYTE => table.factors(l, &Factors::new(l, q, hi, bits), NEAR[0]),
            (DecodePath::Product, _) => table.factors(l, &Factors::wide(l, q, hi, bits), NEAR[1]),
            (DecodePath::PairProduct, _) if C::BYTE => table.pairs(l, &Factors::new(l, q, hi, bits)),
            (DecodePath::PairProduct, _) => table.pairs(l, &Factors::wide(l, q, hi, bits)),
            (DecodePath::All, Precision::Exact) if C::BYTE => table.exact(l, q, hi, bits),
            (DecodePath::All, _) if C::BYTE => table.quick(&Factors::new(l, q, hi, bits), bits),
            _ => true,
        };
        if sure {
            path
        } else {
            DecodePath::Direct
        }
    }

    #[inline(always)]
    fn grid(&self, i: usize) -> TileGrid {
        let (lo, hi) = (widen(self.lo[i]), widen(self.hi[i]));
        TileGrid { lo, hi, step: self.step[i], top: f64::from(top(self.bits)) }
    }

    /// Decodes codes of tile `tile`, one of the tiles of `amin` and `amax`.
    #[inline(always)]
    fn decode<L: Lanes, C: Code>(
        &mut self,
        l: L,
        tile: usize,
        (amin, amax): (&[f32], &[f32]),
        codes: &[C],
        out: &mut [f32],
    ) {
        if !self.knows(tile) {
            self.learn(tile, amin, amax);
        }
        let i = tile - self.first;
        let path = match self.ready {
            Some((ready, path)) if ready == tile => path,
            _ => self.prepare::<L, C>(l, i, codes.len()),
        };
        self.ready = Some((tile, path));
        let (grid, table, bits) = (self.grid(i), &self.table, self.bits);
        // The table of all values is for bytes, and products for levels that permute.
        if C::BYTE && path == DecodePath::All {
            look_up::<L, All, C>(l, table, &grid, bits, codes, out);
        } else if L::PERMUTES && path == DecodePath::Product {
            look_up::<L, Product, C>(l, table, &grid, bits, codes, out);
        } else if L::PERMUTES && path == DecodePath::PairProduct {
            look_up::<L, PairProduct, C>(l, table, &grid, bits, codes, out);
        } else {
            direct(l, &grid, bits, self.precision, codes, out);
        }
    }
}

/// Decodes codes, the first of which is the next in `walk`. A kernel of its own: compiled once for all outputs.
struct DecodeRun<'a, C: Code> {
    known: &'a mut DecodeTiles,
    walk: &'a mut TileWalk,
    amin: &'a [f32],
    amax: &'a [f32],
    codes: &'a [C],
    out: &'a mut [f32],
}

impl<C: Code> Kernel for DecodeRun<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let DecodeRun { known, walk, amin, amax, codes, out } = self;
        let mut start = 0;
        while start < codes.len() {
            let tile = walk.tile();
            let end = start + walk.take(codes.len() - start);
            known.decode(l, tile, (amin, amax), &codes[start..end], &mut out[start..end]);
            start = end;
        }
    }
}

/// float32 to the output's type.
#[derive(Clone, Copy)]
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
