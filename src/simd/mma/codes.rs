//! Steps on codes of bytes: few rows, whose columns are looked up in registers as they are multiplied.
//!
//! Columns taken apart are six (narrow) or three (wide) times their codes, and writing them costs more than the steps of
//! a row or two. Here a step reads the codes themselves, four k of sixteen columns to a vector, in any order within the
//! step: its sum is exact. The terms, and so the bytes, are those of the other steps.

use super::COLUMNS;

/// Four k of sixteen columns: a column's four codes are a lane, the first of them below.
pub const QUAD: usize = 4;
/// Magnitudes of codes of eight bits.
const MAGNITUDES: usize = 128;

/// Exponents of columns are looked up with this added, and zeros as 0. Rows hold what is subtracted from that to have the
/// exponent of the product, biased by 127; a difference below zero is zero.
pub const ABOVE: i32 = 150;
/// The exponent of a row's zero: more than that of any column.
pub const ROW_ZERO: u8 = 255;
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
}

impl CodeTables {
    /// Makes the tables of a format of a sign and seven bits, from its significands and exponents by magnitude. Values are
    /// significands times two to the exponent less `fraction`.
    pub fn new(fraction: i32, split: impl Fn(u8) -> (u8, i32)) -> CodeTables {
        let zeros = [0; MAGNITUDES];
        let mut tables = CodeTables { sig: zeros, exp: zeros, low: zeros, high: zeros };
        for magnitude in 0..MAGNITUDES {
            let (sig, exp) = split(magnitude as u8);
            let bits = (f32::from(sig) * 2f32.powi(exp - fraction)).to_bits();
            tables.sig[magnitude] = sig;
            tables.exp[magnitude] = if sig == 0 { 0 } else { (exp + ABOVE) as u8 };
            (tables.low[magnitude], tables.high[magnitude]) = ((bits >> 16) as u8, (bits >> 24) as u8);
        }
        tables
    }

    /// Four codes of a row; narrow significands are shifted left by `shift`.
    #[inline(always)]
    pub fn row(&self, codes: [u8; QUAD], shift: u32) -> RowQuad {
        let magnitudes = codes.map(|code| usize::from(code & 0x7F));
        let sig = magnitudes.map(|m| u32::from(self.sig[m]) << shift);
        let below = |m: usize| match self.exp[m] {
            0 => ROW_ZERO,
            exp => (2 * ABOVE - 127) as u8 - exp,
        };
        let value = |i: usize, m: usize| {
            let sign = u32::from(codes[i] & 0x80) << 24;
            f32::from_bits(sign | u32::from(self.high[m]) << 24 | u32::from(self.low[m]) << 16)
        };
        let [a, b, c, d] = magnitudes;
        RowQuad {
            signs: u32::from_le_bytes(codes) & 0x8080_8080,
            below: u32::from_le_bytes(magnitudes.map(below)),
            sig: [sig[0] | sig[2] << 16, sig[1] | sig[3] << 16],
            values: [value(0, a), value(1, b), value(2, c), value(3, d)],
        }
    }
}

/// Four k of a row.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RowQuad {
    /// The sign bits, each in its byte.
    pub signs: u32,
    /// The exponents, each in its byte: see [`ABOVE`].
    pub below: u32,
    /// Shifted significands, in halves: of the first and third, and of the second and fourth.
    pub sig: [u32; 2],
    /// The values.
    pub values: [f32; QUAD],
}

/// Panics unless a row and columns have as many quads, which are whole steps.
#[cfg(target_arch = "x86_64")]
pub(super) fn check(unit: super::Unit, row: &[RowQuad], columns: &[f32]) {
    assert!(columns.len() == row.len() * COLUMNS, "as many columns as rows");
    assert!(!unit.software && (QUAD * row.len()).is_multiple_of(unit.products), "whole steps");
}
