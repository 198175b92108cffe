//! Packing codes of 4, 6 and 12 bits, row by row; a short last group is filled with zero codes.
//!
//! | bits | group | layout |
//! |---|---|---|
//! | 4 | 2 codes, 1 byte | first code in the low nibble (OCP MX, NVFP4) |
//! | 6 | 4 codes, 3 bytes | little-endian bit order: first code in the low bits of the first byte |
//! | 12 | 8 codes, three 32-bit words | first code in the top bits of the first word (DeepSeek's E5M6) |

use super::table::Format;
use crate::error::{same_length, Error};
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;

/// The layout of one width.
struct Layout {
    bits: u32,
    codes: usize,
    units: usize,
}

const LAYOUTS: [Layout; 3] = [
    Layout { bits: 4, codes: 2, units: 1 },
    Layout { bits: 6, codes: 4, units: 3 },
    Layout { bits: 12, codes: 8, units: 3 },
];

fn layout(format: &Format) -> Result<&'static Layout, Error> {
    LAYOUTS.iter().find(|l| l.bits == format.bits()).ok_or_else(|| {
        Error::Unsupported(format!(
            "fmt: {} has {} bits and needs no packing; expected a format of 4, 6 or 12 bits",
            format.name,
            format.bits()
        ))
    })
}

/// Bytes (4- and 6-bit codes) or 32-bit words (12-bit codes) that a row of `n` codes packs into.
///
/// # Errors
/// [`Error::Unsupported`] for other widths.
pub fn packed_len(format: &Format, n: usize) -> Result<usize, Error> {
    let layout = layout(format)?;
    Ok(n.div_ceil(layout.codes) * layout.units)
}

/// Both directions walk rows of codes beside rows of units.
fn rows<A: Sync + Send, B: Send>(
    format: &Format,
    row_len: usize,
    a: (&[A], usize),
    b: (&mut [B], usize),
    f: impl Fn(&[A], &mut [B]) + Sync,
) -> Result<(), Error> {
    let packed = packed_len(format, row_len)?;
    if row_len == 0 {
        same_length("codes", a.0.len(), 0)?;
        return same_length("out", b.0.len(), 0);
    }
    let (a_len, b_len) = (if a.1 == 0 { row_len } else { packed }, if b.1 == 0 { row_len } else { packed });
    let n = a.0.len() / a_len;
    same_length(if a.1 == 0 { "codes" } else { "packed" }, a.0.len(), n * a_len)?;
    same_length("out", b.0.len(), n.saturating_mul(b_len))?;
    let group = (32 * 1024 / row_len).max(1);
    let groups = a.0.chunks(group * a_len).zip(b.0.chunks_mut(group * b_len)).collect();
    run_tasks(n.saturating_mul(row_len), groups, |(a, b): (&[A], &mut [B])| {
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

/// Packs 4- or 6-bit codes into bytes.
///
/// # Errors
/// [`Error::Unsupported`] for a format of another width, [`Error::Length`] if the lengths do not fit.
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
        _ => Err(layout(format).err().unwrap_or_else(|| wide_only(format))),
    }
}

/// Unpacks bytes into 4- or 6-bit codes.
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
        _ => Err(layout(format).err().unwrap_or_else(|| wide_only(format))),
    }
}

fn wide_only(format: &Format) -> Error {
    Error::Unsupported(format!("codes: {} packs uint16 codes into uint32 words", format.name))
}

fn narrow_only(format: &Format) -> Error {
    Error::Unsupported(format!("codes: {} packs uint8 codes into uint8 bytes", format.name))
}

/// Packs 12-bit codes into 32-bit words.
///
/// # Errors
/// As [`pack_bytes`].
pub fn pack_words(codes: &[u16], format: &Format, row_len: usize, out: &mut [u32]) -> Result<(), Error> {
    if layout(format)?.bits != 12 {
        return Err(narrow_only(format));
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
/// As [`pack_bytes`].
pub fn unpack_words(packed: &[u32], format: &Format, row_len: usize, out: &mut [u16]) -> Result<(), Error> {
    if layout(format)?.bits != 12 {
        return Err(narrow_only(format));
    }
    rows(format, row_len, (packed, UNITS), (out, CODES), |packed, out| {
        each_unit(packed.as_chunks::<3>().0, out, |[x, y, z]| {
            let codes = [x >> 20, x >> 8, x << 4 | y >> 28, y >> 16, y >> 4, y << 8 | z >> 24, z >> 12, z];
            codes.map(|c| c as u16 & 0xFFF)
        });
    })
}
