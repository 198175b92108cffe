//! Packing codes side by side, row by row; a short last group is filled with zero codes.
//!
//! | bits | group | layout |
//! |---|---|---|
//! | 12 | 8 codes, three 32-bit words | first code in the top bits of the first word (DeepSeek's E5M6) |
//! | others | the fewest codes that fill bytes | little-endian bit order: first code in the low bits of the first byte (OCP MX, NVFP4) |

use super::source::Code;
use super::table::Format;
use crate::error::{same_length, Error};
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;

/// The width that packs into words.
const WORDS: u32 = 12;

/// Codes of a group, and the bytes (or words) that they fill.
fn group(format: &Format) -> (usize, usize) {
    let bits = format.bits();
    if bits == WORDS {
        return (8, 3);
    }
    let common = 1 << bits.trailing_zeros().min(3);
    (8 / common, bits as usize / common)
}

/// Bytes, or 32-bit words of 12-bit codes, that a row of `n` codes packs into.
pub fn packed_len(format: &Format, n: usize) -> usize {
    let (codes, units) = group(format);
    n.div_ceil(codes) * units
}

/// Both directions walk rows of codes beside rows of units.
fn rows<A: Sync + Send, B: Send>(
    format: &Format,
    row_len: usize,
    a: (&[A], usize),
    b: (&mut [B], usize),
    f: impl Fn(&[A], &mut [B]) + Sync,
) -> Result<(), Error> {
    let packed = packed_len(format, row_len);
    if row_len == 0 {
        same_length("codes", a.0.len(), 0)?;
        return same_length("out", b.0.len(), 0);
    }
    let (a_len, b_len) = (if a.1 == 0 { row_len } else { packed }, if b.1 == 0 { row_len } else { packed });
    let n = a.0.len() / a_len;
    same_length(if a.1 == 0 { "codes" } else { "packed" }, a.0.len(), n * a_len)?;
    same_length("out", b.0.len(), n.saturating_mul(b_len))?;
    let band = (32 * 1024 / row_len).max(1);
    let bands = a.0.chunks(band * a_len).zip(b.0.chunks_mut(band * b_len)).collect();
    let whole = row_len.is_multiple_of(group(format).0);
    run_tasks(n.saturating_mul(row_len), bands, |(a, b): (&[A], &mut [B])| {
        // Rows of whole groups are as good as one long row.
        let (a_len, b_len) = if whole { (a.len(), b.len()) } else { (a_len, b_len) };
        a.chunks(a_len).zip(b.chunks_mut(b_len)).for_each(|(a, b)| f(a, b));
    });
    Ok(())
}

/// Packs groups of `N` codes, the last one filled up with zeros.
#[inline(always)]
fn each_group<C: Copy + Default, U, const N: usize>(codes: &[C], out: &mut [U], pack: impl Fn([C; N]) -> U) {
    let (groups, rest) = codes.as_chunks::<N>();
    for (group, unit) in groups.iter().zip(&mut *out) {
        *unit = pack(*group);
    }
    if let (false, Some(unit)) = (rest.is_empty(), out.get_mut(groups.len())) {
        let mut group = [C::default(); N];
        group[..rest.len()].copy_from_slice(rest);
        *unit = pack(group);
    }
}

/// Unpacks groups of `N` codes; the last one may be cut short.
#[inline(always)]
fn each_unit<C: Copy, U: Copy, const N: usize>(packed: &[U], out: &mut [C], unpack: impl Fn(U) -> [C; N]) {
    let (groups, rest) = out.as_chunks_mut::<N>();
    for (group, unit) in groups.iter_mut().zip(packed) {
        *group = unpack(*unit);
    }
    if let Some(unit) = packed.get(groups.len()) {
        let n = rest.len();
        rest.copy_from_slice(&unpack(*unit)[..n]);
    }
}

/// Packs 4-bit codes. Pairs are 16-bit words, which vectors narrow.
struct PackNibbles<'a> {
    codes: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for PackNibbles<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        each_group(self.codes, self.out, |pair: [u8; 2]| {
            let pair = u16::from_le_bytes(pair);
            (pair & 0xF | pair >> 4 & 0xF0) as u8
        });
    }
}

/// Unpacks 4-bit codes.
struct UnpackNibbles<'a> {
    packed: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for UnpackNibbles<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        each_unit(self.packed, self.out, |byte| {
            let byte = u16::from(byte);
            (byte & 0xF | (byte & 0xF0) << 4).to_le_bytes()
        });
    }
}

const CODES: usize = 0;
const UNITS: usize = 1;

fn wrong(format: &Format, unit: &str) -> Error {
    Error::Unsupported(format!("codes: {} of {} bits does not pack into {unit}", format.name, format.bits()))
}

/// Packs codes of any width but 12 bits into bytes, a group at a time.
fn pack_stream<C: Code>(codes: &[C], format: &Format, row_len: usize, out: &mut [u8]) -> Result<(), Error> {
    let (bits, (in_group, units)) = (format.bits(), group(format));
    let mask = (1u32 << bits) - 1;
    rows(format, row_len, (codes, CODES), (out, UNITS), |codes, out| {
        for (group, bytes) in codes.chunks(in_group).zip(out.chunks_mut(units)) {
            let mut stream = 0u128; // 8 codes of 15 bits at the most
            for (i, code) in group.iter().enumerate() {
                stream |= u128::from(code.to_u32() & mask) << (i as u32 * bits);
            }
            bytes.copy_from_slice(&stream.to_le_bytes()[..bytes.len()]);
        }
    })
}

/// Unpacks what [`pack_stream`] packed.
fn unpack_stream<C: Code>(
    packed: &[u8],
    format: &Format,
    row_len: usize,
    out: &mut [C],
) -> Result<(), Error> {
    let (bits, (in_group, units)) = (format.bits(), group(format));
    let mask = (1u32 << bits) - 1;
    rows(format, row_len, (packed, UNITS), (out, CODES), |packed, out| {
        for (bytes, group) in packed.chunks(units).zip(out.chunks_mut(in_group)) {
            let mut stream = [0; 16];
            stream[..bytes.len()].copy_from_slice(bytes);
            let stream = u128::from_le_bytes(stream);
            for (i, code) in group.iter_mut().enumerate() {
                *code = C::from_u32((stream >> (i as u32 * bits)) as u32 & mask);
            }
        }
    })
}

/// Packs codes of at most 8 bits into bytes.
///
/// # Errors
/// [`Error::Unsupported`] for wider codes, [`Error::Length`] if the lengths do not fit.
pub fn pack_bytes(codes: &[u8], format: &Format, row_len: usize, out: &mut [u8]) -> Result<(), Error> {
    match format.bits() {
        4 => rows(format, row_len, (codes, CODES), (out, UNITS), |codes, out| {
            dispatch(PackNibbles { codes, out });
        }),
        6 => rows(format, row_len, (codes, CODES), (out, UNITS), |codes, out| {
            each_group(codes, out.as_chunks_mut::<3>().0, |[a, b, c, d]: [u8; 4]| {
                let code = |c: u8| u32::from(c & 0x3F);
                let [x, y, z, _] = (code(a) | code(b) << 6 | code(c) << 12 | code(d) << 18).to_le_bytes();
                [x, y, z]
            });
        }),
        1..=8 => pack_stream(codes, format, row_len, out),
        _ => Err(wrong(format, "bytes from bytes")),
    }
}

/// Unpacks bytes into codes of at most 8 bits.
///
/// # Errors
/// As [`pack_bytes`].
pub fn unpack_bytes(packed: &[u8], format: &Format, row_len: usize, out: &mut [u8]) -> Result<(), Error> {
    match format.bits() {
        4 => rows(format, row_len, (packed, UNITS), (out, CODES), |packed, out| {
            dispatch(UnpackNibbles { packed, out });
        }),
        6 => rows(format, row_len, (packed, UNITS), (out, CODES), |packed, out| {
            each_unit(packed.as_chunks::<3>().0, out, |[x, y, z]| {
                let word = u32::from_le_bytes([x, y, z, 0]);
                [0, 6, 12, 18].map(|shift| (word >> shift) as u8 & 0x3F)
            });
        }),
        1..=8 => unpack_stream(packed, format, row_len, out),
        _ => Err(wrong(format, "bytes from bytes")),
    }
}

/// Packs codes of more than 8 bits, but not 12, into bytes.
///
/// # Errors
/// [`Error::Unsupported`] for another width, [`Error::Length`] if the lengths do not fit.
pub fn pack_wide(codes: &[u16], format: &Format, row_len: usize, out: &mut [u8]) -> Result<(), Error> {
    match format.bits() {
        WORDS | 0..=8 => Err(wrong(format, "bytes from 16-bit words")),
        _ => pack_stream(codes, format, row_len, out),
    }
}

/// Unpacks bytes into codes of more than 8 bits, but not 12.
///
/// # Errors
/// As [`pack_wide`].
pub fn unpack_wide(packed: &[u8], format: &Format, row_len: usize, out: &mut [u16]) -> Result<(), Error> {
    match format.bits() {
        WORDS | 0..=8 => Err(wrong(format, "bytes from 16-bit words")),
        _ => unpack_stream(packed, format, row_len, out),
    }
}

/// Packs 12-bit codes into 32-bit words.
///
/// # Errors
/// [`Error::Unsupported`] for another width, [`Error::Length`] if the lengths do not fit.
pub fn pack_words(codes: &[u16], format: &Format, row_len: usize, out: &mut [u32]) -> Result<(), Error> {
    if format.bits() != WORDS {
        return Err(wrong(format, "words"));
    }
    rows(format, row_len, (codes, CODES), (out, UNITS), |codes, out| {
        each_group(codes, out.as_chunks_mut::<3>().0, |codes: [u16; 8]| {
            let [a, b, c, d, e, f, g, h] = codes.map(|c| u32::from(c & 0xFFF));
            [a << 20 | b << 8 | c >> 4, c << 28 | d << 16 | e << 4 | f >> 8, f << 24 | g << 12 | h]
        });
    })
}

/// Unpacks 32-bit words into 12-bit codes.
///
/// # Errors
/// As [`pack_words`].
pub fn unpack_words(packed: &[u32], format: &Format, row_len: usize, out: &mut [u16]) -> Result<(), Error> {
    if format.bits() != WORDS {
        return Err(wrong(format, "words"));
    }
    rows(format, row_len, (packed, UNITS), (out, CODES), |packed, out| {
        each_unit(packed.as_chunks::<3>().0, out, |[x, y, z]| {
            let codes = [x >> 20, x >> 8, x << 4 | y >> 28, y >> 16, y >> 4, y << 8 | z >> 24, z >> 12, z];
            codes.map(|c| c as u16 & 0xFFF)
        });
    })
}
