//! Packing: codes without their unused bits.
//!
//! | layout | a row of n-bit codes |
//! |---|---|
//! | plain | one stream, code after code, low bit first; the last byte is filled with zeros |
//! | deepep | for each 16 elements, the last ones filled up with zero codes: 16 magnitudes of n - 1 bits, then 16 signs |

use super::definition::{check_bits, top};
use super::encode::wrong_width;
use super::layout::take;
use crate::error::{same_length, Error};
use crate::formats::encode::padded;
use crate::formats::round::named_enum;
use crate::formats::source::{Code, Codes, CodesMut};
use crate::quant::amax::RUN;
use crate::threads::run_tasks;

named_enum! {
    /// Order of the bits.
    LogLayout, "layout" {
        /// One stream.
        Plain = "plain",
        /// Magnitudes and signs of 16 elements at a time.
        Deepep = "deepep",
    }
}

/// Elements whose magnitudes and signs stand together in DeepEP's layout.
const GROUP: usize = 16;

impl LogLayout {
    /// Bytes of a row of `n` codes, or `None` where that overflows.
    pub fn row_bytes(self, n: usize, bits: u32) -> Option<usize> {
        match self {
            LogLayout::Plain => (n.checked_mul(bits as usize)?).checked_add(7).map(|n| n / 8),
            LogLayout::Deepep => n.div_ceil(GROUP).checked_mul(2 * bits as usize),
        }
    }
}

/// Runs `$f::<BITS>(..)` for a width known at run time, so that every shift in it is a constant.
macro_rules! with_bits {
    ($bits:expr, $f:ident $given:tt) => { with_bits!(@3 4 5 6 7 8 9 10 11 12 13 14 15: $bits, $f $given) };
    (@$($known:literal)+: $bits:expr, $f:ident $given:tt) => {
        match $bits {
            $($known => $f::<_, $known> $given,)+
            _ => $f::<_, 16> $given,
        }
    };
}

/// Rows of codes, packed.
#[derive(Clone, Copy, Debug)]
pub struct PackedRows {
    /// Codes of a row.
    pub row_len: usize,
    /// Bits of a code.
    pub bits: u32,
    /// Their order.
    pub layout: LogLayout,
}

impl PackedRows {
    /// Checks the lengths of codes and bytes, each with its name; bytes of a row.
    fn row_bytes(
        self,
        (codes_name, codes): (&'static str, usize),
        (bytes_name, bytes): (&'static str, usize),
    ) -> Result<usize, Error> {
        let PackedRows { row_len, bits, layout } = self;
        check_bits(bits)?;
        let n = codes.checked_div(row_len).unwrap_or(0);
        same_length(codes_name, codes, n * row_len)?;
        let row_bytes = layout
            .row_bytes(row_len, bits)
            .filter(|row| row.checked_mul(n).is_some())
            .ok_or(Error::Shape { what: "row_len", why: "the byte count overflows" })?;
        same_length(bytes_name, bytes, n * row_bytes)?;
        Ok(row_bytes)
    }
}

/// Packs rows of codes.
///
/// # Errors
/// [`Error::Range`] for a width that is none, [`Error::Unsupported`] if the codes are too narrow or wide,
/// [`Error::Length`] if the lengths do not fit.
pub fn logfmt_pack(codes: Codes<'_>, rows: PackedRows, out: &mut [u8]) -> Result<(), Error> {
    let row_bytes = rows.row_bytes(("codes", codes.len()), ("out", out.len()))?;
    match codes {
        Codes::U8(codes) if rows.bits <= 8 => pack_rows(codes, rows, row_bytes, out),
        Codes::U16(codes) if rows.bits > 8 => pack_rows(codes, rows, row_bytes, out),
        _ => return Err(wrong_width(rows.bits)),
    }
    Ok(())
}

/// Unpacks rows of codes; bits that fill up are ignored.
///
/// # Errors
/// As [`logfmt_pack`].
pub fn logfmt_unpack(packed: &[u8], rows: PackedRows, out: CodesMut<'_>) -> Result<(), Error> {
    let row_bytes = rows.row_bytes(("out", out.len()), ("packed", packed.len()))?;
    match out {
        CodesMut::U8(out) if rows.bits <= 8 => unpack_rows(packed, rows, row_bytes, out),
        CodesMut::U16(out) if rows.bits > 8 => unpack_rows(packed, rows, row_bytes, out),
        _ => return Err(wrong_width(rows.bits)),
    }
    Ok(())
}

/// Cuts rows of codes and of bytes into runs that end with whole groups: (codes, bytes) of one run after the other.
fn runs(n: usize, rows: PackedRows, row_bytes: usize) -> Vec<(usize, usize)> {
    let PackedRows { row_len, bits, .. } = rows;
    let mut out = Vec::new();
    for _ in 0..n.checked_div(row_len).unwrap_or(0) {
        let (mut codes, mut bytes) = (row_len, row_bytes);
        while codes > RUN {
            out.push((RUN, RUN / 8 * bits as usize));
            codes -= RUN;
            bytes -= RUN / 8 * bits as usize;
        }
        out.push((codes, bytes));
    }
    out
}

fn pack_rows<C: Code>(codes: &[C], rows: PackedRows, row_bytes: usize, out: &mut [u8]) {
    let (mut rest, mut at) = (out, 0);
    let mut tasks = Vec::new();
    for (n, bytes) in runs(codes.len(), rows, row_bytes) {
        tasks.push((&codes[at..at + n], take(&mut rest, bytes)));
        at += n;
    }
    run_tasks(codes.len(), tasks, |(codes, out): (&[C], &mut [u8])| match rows.layout {
        LogLayout::Plain => with_bits!(rows.bits, pack_plain(codes, out)),
        LogLayout::Deepep => with_bits!(rows.bits, pack_deepep(codes, out)),
    });
}

fn unpack_rows<C: Code>(packed: &[u8], rows: PackedRows, row_bytes: usize, out: &mut [C]) {
    let (total, mut rest, mut at) = (out.len(), out, 0);
    let mut tasks = Vec::new();
    for (n, bytes) in runs(total, rows, row_bytes) {
        tasks.push((&packed[at..at + bytes], take(&mut rest, n)));
        at += bytes;
    }
    run_tasks(total, tasks, |(packed, out): (&[u8], &mut [C])| match rows.layout {
        LogLayout::Plain => with_bits!(rows.bits, unpack_plain(packed, out)),
        LogLayout::Deepep => with_bits!(rows.bits, unpack_deepep(packed, out)),
    });
}

/// `BITS` low bits of eight codes, as `BITS` bytes in the low end of a word.
#[inline(always)]
fn join<C: Code, const BITS: usize>(codes: &[C; 8]) -> u128 {
    let mask = (1u64 << BITS) - 1;
    let half = |c: &[C]| {
        (u64::from(c[0].to_u32()) & mask)
            | (u64::from(c[1].to_u32()) & mask) << BITS
            | (u64::from(c[2].to_u32()) & mask) << (2 * BITS)
            | (u64::from(c[3].to_u32()) & mask) << (3 * BITS)
    };
    u128::from(half(&codes[..4])) | u128::from(half(&codes[4..])) << (4 * BITS)
}

/// Eight codes of `BITS` bits.
#[inline(always)]
fn split<C: Code, const BITS: usize>(word: u128) -> [C; 8] {
    let mask = (1u64 << BITS) - 1;
    let (low, high) = (word as u64, (word >> (4 * BITS)) as u64);
    let code = |half: u64, i: usize| C::from_u32((half >> (i * BITS) & mask) as u32);
    [
        code(low, 0),
        code(low, 1),
        code(low, 2),
        code(low, 3),
        code(high, 0),
        code(high, 1),
        code(high, 2),
        code(high, 3),
    ]
}

/// At most 16 bytes as a word.
#[inline(always)]
fn word(bytes: &[u8]) -> u128 {
    let mut raw = [0u8; 16];
    raw[..bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(raw)
}

fn pack_plain<C: Code, const BITS: usize>(codes: &[C], out: &mut [u8]) {
    for (codes, out) in codes.chunks(8).zip(out.chunks_mut(BITS)) {
        let bytes = join::<C, BITS>(padded(codes, &mut [C::default(); 8])).to_le_bytes();
        out.copy_from_slice(&bytes[..out.len()]);
    }
}

fn unpack_plain<C: Code, const BITS: usize>(packed: &[u8], out: &mut [C]) {
    for (packed, out) in packed.chunks(BITS).zip(out.chunks_mut(8)) {
        out.copy_from_slice(&split::<C, BITS>(word(packed))[..out.len()]);
    }
}

fn pack_deepep<C: Code, const BITS: usize>(codes: &[C], out: &mut [u8]) {
    let magnitude = top(BITS as u32);
    for (codes, out) in codes.chunks(GROUP).zip(out.chunks_exact_mut(2 * BITS)) {
        let mut room = [C::default(); GROUP];
        let codes = padded(codes, &mut room);
        let k = codes.map(|c| C::from_u32(c.to_u32() & magnitude));
        let signs = codes.iter().rev().fold(0u32, |s, c| s << 1 | (c.to_u32() >> (BITS - 1) & 1));
        let (magnitudes, sign_bytes) = out.split_at_mut(2 * (BITS - 1));
        narrower::<C, BITS>(&k, magnitudes);
        sign_bytes.copy_from_slice(&(signs as u16).to_le_bytes());
    }
}

fn unpack_deepep<C: Code, const BITS: usize>(packed: &[u8], out: &mut [C]) {
    for (packed, out) in packed.chunks_exact(2 * BITS).zip(out.chunks_mut(GROUP)) {
        let (magnitudes, signs) = packed.split_at(2 * (BITS - 1));
        let signs = u32::from(u16::from_le_bytes([signs[0], signs[1]]));
        let k = wider::<C, BITS>(magnitudes);
        let mut codes = [C::default(); GROUP];
        for (i, (code, k)) in codes.iter_mut().zip(&k).enumerate() {
            *code = C::from_u32(k.to_u32() | (signs >> i & 1) << (BITS - 1));
        }
        out.copy_from_slice(&codes[..out.len()]);
    }
}

/// Sixteen magnitudes of `BITS - 1` bits as a stream.
#[inline(always)]
fn narrower<C: Code, const BITS: usize>(k: &[C; GROUP], out: &mut [u8]) {
    let mask = (1u64 << (BITS - 1)) - 1;
    for (eight, out) in k.chunks_exact(8).zip(out.chunks_exact_mut(BITS - 1)) {
        let half =
            |c: &[C]| c.iter().rev().fold(0u64, |w, c| w << (BITS - 1) | (u64::from(c.to_u32()) & mask));
        let word = u128::from(half(&eight[..4])) | u128::from(half(&eight[4..])) << (4 * (BITS - 1));
        out.copy_from_slice(&word.to_le_bytes()[..BITS - 1]);
    }
}

/// Sixteen magnitudes of `BITS - 1` bits out of a stream.
#[inline(always)]
fn wider<C: Code, const BITS: usize>(packed: &[u8]) -> [C; GROUP] {
    let mask = (1u64 << (BITS - 1)) - 1;
    let mut out = [C::default(); GROUP];
    for (packed, eight) in packed.chunks_exact(BITS - 1).zip(out.chunks_exact_mut(8)) {
        let word = word(packed);
        let halves = [word as u64, (word >> (4 * (BITS - 1))) as u64];
        for (i, code) in eight.iter_mut().enumerate() {
            *code = C::from_u32((halves[i / 4] >> (i % 4 * (BITS - 1)) & mask) as u32);
        }
    }
    out
}
