//! A code as a matrix unit sees it: significand, exponent, class.

use crate::formats::{Codes, Format, Top};

/// The class of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Finite,
    Infinite,
    Nan,
}

/// `sig * 2^(exp - man)` of a format with `man` mantissa bits. Subnormals keep the smallest exponent: nothing is
/// normalized. Zero has the exponent [`NOWHERE`]; an infinity has a significand of 1 with its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub sig: i32,
    pub exp: i16,
    pub class: Class,
}

/// The exponent of zero, far below that of any number.
const NOWHERE: i16 = -4096;

/// Padding of a row.
pub(crate) const ZERO: Number = Number { sig: 0, exp: NOWHERE, class: Class::Finite };

impl Number {
    /// Takes a code apart. Bits above the code are ignored.
    pub fn new(format: &Format, code: u32) -> Number {
        let bits = format.bits();
        let code = code & ((1 << bits) - 1);
        let negative = code >> (bits - 1) != 0;
        let magnitude = match format.top {
            Top::Integer if negative => (1 << bits) - code,
            _ => code & ((1 << (bits - 1)) - 1),
        };
        let sign = if negative { -1 } else { 1 };
        let class = match format.top {
            Top::Fnuz if negative && magnitude == 0 => Class::Nan,
            Top::NanOnly if magnitude > format.max_code() => Class::Nan,
            Top::Ieee if magnitude > format.max_code() + 1 => Class::Nan,
            Top::Ieee if magnitude > format.max_code() => Class::Infinite,
            _ => Class::Finite,
        };
        if class != Class::Finite {
            return Number { sig: sign, exp: 0, class };
        }
        let field = (magnitude >> format.man) as i32;
        let mantissa = (magnitude & ((1 << format.man) - 1)) as i32;
        let sig = mantissa + if field > 0 { 1 << format.man } else { 0 };
        if sig == 0 {
            return ZERO;
        }
        Number { sig: sign * sig, exp: (field.max(1) - format.bias) as i16, class }
    }

    /// The number times a UE8M0 scale: its exponent moves, NaN spoils it, and what is infinite stays so.
    pub fn scaled(self, scale: u8) -> Number {
        if scale == u8::MAX {
            return Number { class: Class::Nan, ..self };
        }
        Number { exp: self.exp + i16::from(scale) - 127, ..self }
    }

    /// The same number in float16, whose subnormals begin at 2^-15: a subnormal of a narrower range is normalized.
    pub fn widened(self, format: &Format) -> Number {
        let (mut sig, mut exp) = (self.sig, self.exp);
        while sig != 0 && sig.unsigned_abs() < 1 << format.man && exp > -14 {
            (sig, exp) = (2 * sig, exp - 1);
        }
        Number { sig, exp, ..self }
    }
}

/// The tf32 code of float32 bits: the low mantissa bits are cut off, and NaN stays NaN.
pub(crate) fn tf32(bits: u32) -> u32 {
    let nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
    bits >> 13 | u32::from(nan)
}

/// Codes `at..at + len`, taken apart.
pub(crate) fn numbers(codes: Codes<'_>, at: usize, len: usize, format: &Format) -> Vec<Number> {
    match codes {
        Codes::U8(codes) => codes[at..at + len].iter().map(|c| Number::new(format, u32::from(*c))).collect(),
        Codes::U16(codes) => codes[at..at + len].iter().map(|c| Number::new(format, u32::from(*c))).collect(),
        Codes::U32(codes) => codes[at..at + len].iter().map(|c| Number::new(format, tf32(*c))).collect(),
    }
}
