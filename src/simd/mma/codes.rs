//! Steps on codes of bytes: few rows, whose columns are looked up in registers as they are multiplied.
//!
//! Columns taken apart are six (narrow) or three (wide) times their codes, and writing them costs more than the steps of
//! a row or two. Here a step reads the codes themselves, four k of sixteen columns to a vector, in any order within the
//! step: its sum is exact. The terms, and so the bytes, are those of the other steps.

/// Four k of sixteen columns: a column's four codes are a lane, the first of them below.
pub const QUAD: usize = 4;
/// Magnitudes of codes of eight bits.
const MAGNITUDES: usize = 128;

/// Exponents of columns are looked up with this added, and zeros as 0. Rows hold what is subtracted from that to have the
/// exponent of the product, biased by 127; a difference below zero is zero.
pub const ABOVE: i32 = 150;
/// The exponent of a row's zero: more than that of any column.
pub const ROW_ZERO: u8 = 255;
/// Fraction bits of narrow units.
const NARROW_FRACTION: i32 = 13;
/// The least biased exponent of narrow steps: below it there are only products with zero.
pub const NARROW_LEAST: u8 = 27;

/// Tables to look up by the magnitude of a code.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct CodeTables {
    /// Significands.
    pub sig: [u8; MAGNITUDES],
    /// Exponents, with [`ABOVE`].
    pub exp: [u8; MAGNITUDES],
    /// Bits 16 to 23 of the values, as float32.
    pub low: [u8; MAGNITUDES],
    /// Bits 24 to 31.
    pub high: [u8; MAGNITUDES],
    /// The exponents of rows, by code.
    below: [u8; 2 * MAGNITUDES],
    /// The values, by code.
    values: [f32; 2 * MAGNITUDES],
}

impl CodeTables {
    /// Makes the tables of a format of a sign and seven bits, from its significands and exponents by magnitude. Values are
    /// significands times two to the exponent less `fraction`.
    pub fn new(fraction: i32, split: impl Fn(u8) -> (u8, i32)) -> CodeTables {
        let (zeros, below, values) = ([0; MAGNITUDES], [ROW_ZERO; 2 * MAGNITUDES], [0.0; 2 * MAGNITUDES]);
        let mut tables = CodeTables { sig: zeros, exp: zeros, low: zeros, high: zeros, below, values };
        for magnitude in 0..MAGNITUDES {
            let (sig, exp) = split(magnitude as u8);
            let value = f32::from(sig) * 2f32.powi(exp - fraction);
            let bits = value.to_bits();
            tables.sig[magnitude] = sig;
            if sig != 0 {
                tables.exp[magnitude] = (exp + ABOVE) as u8;
                let below = (ABOVE - 127 - exp) as u8;
                (tables.below[magnitude], tables.below[magnitude + MAGNITUDES]) = (below, below);
            }
            (tables.values[magnitude], tables.values[magnitude + MAGNITUDES]) = (value, -value);
            (tables.low[magnitude], tables.high[magnitude]) = ((bits >> 16) as u8, (bits >> 24) as u8);
        }
        tables
    }

    /// Takes a row apart for a unit: so many quads, the last of which are filled up with zeros. Significands of narrow
    /// units are shifted left by `shift`.
    pub fn row(&self, unit: super::Unit, codes: &[u8], quads: usize, shift: u32) -> CodedRow {
        let mut padded = codes.to_vec();
        padded.resize(quads * QUAD, 0);
        let (quads, _) = padded.as_chunks::<QUAD>();
        let wide = if unit.fraction == NARROW_FRACTION { &[] } else { quads };
        let narrow = if unit.fraction == NARROW_FRACTION { quads } else { &[] };
        let at = |code: u8| usize::from(code);
        let sig = |code: u8| u32::from(self.sig[usize::from(code & 0x7F)]) << shift;
        let mut row = CodedRow {
            below: Vec::with_capacity(quads.len()),
            signs: Vec::with_capacity(narrow.len()),
            sigs: Vec::with_capacity(narrow.len()),
            values: Vec::with_capacity(wide.len()),
        };
        let below = &self.below;
        for [a, b, c, d] in quads.iter().copied() {
            row.below.push(u32::from_le_bytes([below[at(a)], below[at(b)], below[at(c)], below[at(d)]]));
        }
        for [a, b, c, d] in narrow.iter().copied() {
            row.signs.push(u32::from_le_bytes([a, b, c, d]) & 0x8080_8080);
            row.sigs.push([sig(a) | sig(c) << 16, sig(b) | sig(d) << 16]);
        }
        let values = &self.values;
        for [a, b, c, d] in wide.iter().copied() {
            row.values.push([values[at(a)], values[at(b)], values[at(c)], values[at(d)]]);
        }
        row
    }
}

/// A row, four k to an element.
#[derive(Clone, Debug)]
pub struct CodedRow {
    /// The exponents, each in its byte: see [`ABOVE`].
    pub below: Vec<u32>,
    /// The sign bits, each in its byte, for narrow units.
    pub signs: Vec<u32>,
    /// Shifted significands for narrow units, in halves: of the first and third, and of the second and fourth.
    pub sigs: Vec<[u32; 2]>,
    /// The values, for wide units.
    pub values: Vec<[f32; QUAD]>,
}

/// Panics unless there are columns for a part of a row, whole steps of them.
#[cfg(target_arch = "x86_64")]
pub(super) fn check(unit: super::Unit, place: &std::ops::Range<usize>, columns: &[f32]) {
    assert!(columns.len() == place.len() * super::COLUMNS, "as many columns as quads of the row");
    assert!(!unit.software && (QUAD * place.len()).is_multiple_of(unit.products), "whole steps");
}
