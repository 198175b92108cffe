//! Packing codes of 4, 6 and 12 bits, row by row; a short last group is filled with zero codes.
//!
//! | bits | group | layout |
//! |---|---|---|
//! | 4 | 2 codes, 1 byte | first code in the low nibble (OCP MX, NVFP4) |
//! | 6 | 4 codes, 3 bytes | little-endian bit order: first code in the low bits of the first byte |
//! | 12 | 8 codes, three 32-bit words | first code in the top bits of the first word (DeepSeek's E5M6) |

use super::table::Format;
use crate::error::{same_length, Error};
use crate::threads::run_tasks;

/// How one width is packed.
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

const CODES: usize = 0;
const UNITS: usize = 1;

/// Packs 4- or 6-bit codes into bytes.
///
/// # Errors
/// [`Error::Unsupported`] for a format of another width, [`Error::Length`] if the lengths do not fit.
pub fn pack_bytes(codes: &[u8], format: &Format, row_len: usize, out: &mut [u8]) -> Result<(), Error> {
    match format.bits() {
        4 => rows(format, row_len, (codes, CODES), (out, UNITS), |codes, out| {
            for (pair, byte) in codes.chunks(2).zip(out) {
                *byte = (pair[0] & 0xF) | pair.get(1).map_or(0, |c| c << 4);
            }
        }),
        6 => rows(format, row_len, (codes, CODES), (out, UNITS), |codes, out| {
            for (group, bytes) in codes.chunks(4).zip(out.chunks_mut(3)) {
                let word = group.iter().rev().fold(0u32, |w, c| (w << 6) | u32::from(c & 0x3F));
                bytes.copy_from_slice(&word.to_le_bytes()[..3]);
            }
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
            for (byte, pair) in packed.iter().zip(out.chunks_mut(2)) {
                pair[0] = byte & 0xF;
                if let Some(second) = pair.get_mut(1) {
                    *second = byte >> 4;
                }
            }
        }),
        6 => rows(format, row_len, (packed, UNITS), (out, CODES), |packed, out| {
            for (bytes, group) in packed.chunks(3).zip(out.chunks_mut(4)) {
                let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                for (i, code) in group.iter_mut().enumerate() {
                    *code = (word >> (6 * i)) as u8 & 0x3F;
                }
            }
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
        for (group, words) in codes.chunks(8).zip(out.chunks_mut(3)) {
            let mut bits = 0u128; // 96 bits, first code on top
            for i in 0..8 {
                bits = (bits << 12) | u128::from(group.get(i).map_or(0, |c| c & 0xFFF));
            }
            for (i, word) in words.iter_mut().enumerate() {
                *word = (bits >> (64 - 32 * i)) as u32;
            }
        }
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
        for (words, group) in packed.chunks(3).zip(out.chunks_mut(8)) {
            let bits = words.iter().fold(0u128, |b, w| (b << 32) | u128::from(*w));
            for (i, code) in group.iter_mut().enumerate() {
                *code = (bits >> (84 - 12 * i)) as u16 & 0xFFF;
            }
        }
    })
}
