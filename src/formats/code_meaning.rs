//! Codes as numbers and as places on a line: what a comparison needs to know of a dtype.
//!
//! Neighbouring numbers have neighbouring places, and both zeros one. Distances come in bins: 0, 1, 2, up to 4, up to 8,
//! and so on.

use super::differences::CodeTable;
use crate::error::{same_length, Error};
use crate::simd::f16_to_f32;

/// The meaning of codes of one width.
pub trait Meaning<C>: Copy + Sync {
    /// True: errors of numbers are counted.
    const MEASURED: bool = true;
    /// True: too rare for a kernel at each level.
    const RARE: bool = false;
    /// Differing bits of two codes.
    fn changed(self, a: C, b: C) -> u32;
    /// Distance of two codes.
    fn distance(self, a: C, b: C) -> f64;
    /// Bin of their distance.
    fn bin(self, a: C, b: C) -> u32;
    /// The number of a code.
    fn number(self, code: C) -> f64;
    /// Tests for NaN.
    fn nan(self, code: C) -> bool;
    /// Tests for a finite number.
    fn finite(self, code: C) -> bool;
    /// Tests for a zero of either sign.
    fn zero(self, code: C) -> bool;
    /// Tests for the largest finite number of either sign.
    fn most(self, code: C) -> bool;
}

#[inline(always)]
pub(super) fn bin32(gap: u32) -> u32 {
    let above = 33 - gap.wrapping_sub(1).leading_zeros();
    if gap == 0 {
        0
    } else {
        above
    }
}

#[inline(always)]
fn bin64(gap: u64) -> u32 {
    let above = 65 - gap.wrapping_sub(1).leading_zeros();
    if gap == 0 {
        0
    } else {
        above
    }
}

/// IEEE 754 binary32.
#[derive(Clone, Copy)]
pub struct Float32;
/// IEEE 754 binary64.
#[derive(Clone, Copy)]
pub struct Float64;
/// bfloat16.
#[derive(Clone, Copy)]
pub struct Bfloat16;
/// IEEE 754 binary16.
#[derive(Clone, Copy)]
pub struct Float16;
/// Integers in two's complement, or without sign.
#[derive(Clone, Copy)]
pub struct Integer {
    /// True: in two's complement.
    pub signed: bool,
}

macro_rules! floats {
    ($($name:ident, $code:ty, $wide:ty, $place:ty, $bin:ident, $infinity:literal, $number:expr;)*) => {$(
        impl $name {
            #[inline(always)]
            fn magnitude(code: $code) -> $code {
                code & (<$code>::MAX >> 1)
            }
            #[inline(always)]
            fn gap(a: $code, b: $code) -> $wide {
                let place = |code: $code| {
                    let (negative, magnitude) = (code > <$code>::MAX >> 1, Self::magnitude(code) as $place);
                    if negative { -magnitude } else { magnitude }
                };
                place(a).abs_diff(place(b))
            }
        }
        impl Meaning<$code> for $name {
            #[inline(always)]
            fn changed(self, a: $code, b: $code) -> u32 {
                (a ^ b).count_ones()
            }
            #[inline(always)]
            fn distance(self, a: $code, b: $code) -> f64 {
                Self::gap(a, b) as f64
            }
            #[inline(always)]
            fn bin(self, a: $code, b: $code) -> u32 {
                $bin(Self::gap(a, b))
            }
            #[inline(always)]
            fn number(self, code: $code) -> f64 {
                $number(code)
            }
            #[inline(always)]
            fn nan(self, code: $code) -> bool {
                Self::magnitude(code) > $infinity
            }
            #[inline(always)]
            fn finite(self, code: $code) -> bool {
                Self::magnitude(code) < $infinity
            }
            #[inline(always)]
            fn zero(self, code: $code) -> bool {
                Self::magnitude(code) == 0
            }
            #[inline(always)]
            fn most(self, code: $code) -> bool {
                Self::magnitude(code) == $infinity - 1
            }
        }
    )*};
}

floats! {
    Float32, u32, u32, i32, bin32, 0x7F80_0000, |code| f64::from(f32::from_bits(code));
    Float64, u64, u64, i64, bin64, 0x7FF0_0000_0000_0000, f64::from_bits;
    Bfloat16, u16, u32, i32, bin32, 0x7F80, |code| f64::from(f32::from_bits(u32::from(code) << 16));
    Float16, u16, u32, i32, bin32, 0x7C00, |code| f64::from(f16_to_f32(code));
}

macro_rules! integers {
    ($($code:ty, $signed:ty, $wide:ty, $bin:ident;)*) => {$(
        impl Meaning<$code> for Integer {
            const RARE: bool = true;
            #[inline(always)]
            fn changed(self, a: $code, b: $code) -> u32 {
                (a ^ b).count_ones()
            }
            #[inline(always)]
            fn distance(self, a: $code, b: $code) -> f64 {
                let turn = if self.signed { <$signed>::MIN as $code } else { 0 };
                (a ^ turn).abs_diff(b ^ turn) as f64
            }
            #[inline(always)]
            fn bin(self, a: $code, b: $code) -> u32 {
                let turn = if self.signed { <$signed>::MIN as $code } else { 0 };
                $bin(<$wide>::from((a ^ turn).abs_diff(b ^ turn)))
            }
            #[inline(always)]
            fn number(self, code: $code) -> f64 {
                if self.signed { code as $signed as f64 } else { code as f64 }
            }
            #[inline(always)]
            fn nan(self, _: $code) -> bool {
                false
            }
            #[inline(always)]
            fn finite(self, _: $code) -> bool {
                true
            }
            #[inline(always)]
            fn zero(self, code: $code) -> bool {
                code == 0
            }
            #[inline(always)]
            fn most(self, _: $code) -> bool {
                false
            }
        }
    )*};
}

integers! {
    u8, i8, u32, bin32;
    u16, i16, u32, bin32;
    u32, i32, u32, bin32;
    u64, i64, u64, bin64;
}

/// Codes of a small format, looked up.
#[derive(Clone, Copy)]
pub struct Table<'a, const MEASURED: bool> {
    numbers: &'a [f64],
    places: &'a [i32],
    most: f64,
}

impl<'a, const MEASURED: bool> Table<'a, MEASURED> {
    /// Takes a table of a number and a place for every code.
    ///
    /// # Errors
    /// [`Error::Length`] for a table of another length.
    pub fn new(table: CodeTable<'a>, codes: usize) -> Result<Self, Error> {
        same_length("numbers", table.numbers.len(), codes)?;
        same_length("places", table.places.len(), codes)?;
        let most = table.numbers.iter().filter(|x| x.is_finite()).fold(0.0, |m: f64, x| m.max(x.abs()));
        Ok(Self { numbers: table.numbers, places: table.places, most })
    }
}

macro_rules! tables {
    ($($code:ty, $rare:literal;)*) => {$(
        impl<const MEASURED: bool> Meaning<$code> for Table<'_, MEASURED> {
            const MEASURED: bool = MEASURED;
            const RARE: bool = $rare;
            #[inline(always)]
            fn changed(self, a: $code, b: $code) -> u32 {
                (a ^ b).count_ones()
            }
            #[inline(always)]
            fn distance(self, a: $code, b: $code) -> f64 {
                f64::from(self.places[a as usize].abs_diff(self.places[b as usize]))
            }
            #[inline(always)]
            fn bin(self, a: $code, b: $code) -> u32 {
                bin32(self.places[a as usize].abs_diff(self.places[b as usize]))
            }
            #[inline(always)]
            fn number(self, code: $code) -> f64 {
                self.numbers[code as usize]
            }
            #[inline(always)]
            fn nan(self, code: $code) -> bool {
                self.numbers[code as usize].is_nan()
            }
            #[inline(always)]
            fn finite(self, code: $code) -> bool {
                self.numbers[code as usize].is_finite()
            }
            #[inline(always)]
            fn zero(self, code: $code) -> bool {
                self.numbers[code as usize] == 0.0
            }
            #[inline(always)]
            fn most(self, code: $code) -> bool {
                self.numbers[code as usize].abs() == self.most
            }
        }
    )*};
}

tables! {
    u8, false;
    u16, true;
}
