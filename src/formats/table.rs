//! THE table of number formats: one line each, everything else is computed from the line.

use super::custom;
use super::round::Rounder;
use crate::error::Error;
use crate::simd::Lookup;
use std::sync::LazyLock;

/// Meaning of the codes at the top of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// All ones is NaN, no infinities (OCP E4M3).
    NanOnly,
    /// Exponent of ones holds infinity and NaNs, as IEEE 754.
    Ieee,
    /// No infinities, no negative zero; the code of negative zero is the only NaN.
    Fnuz,
    /// Nothing special: every code is a finite number.
    None,
    /// Unsigned powers of two without zero; all ones is NaN (OCP E8M0).
    Scale,
    /// Symmetric two's-complement integers.
    Integer,
}

impl Top {
    /// The name that Python sees.
    pub fn name(self) -> &'static str {
        match self {
            Top::NanOnly => "nan_only",
            Top::Ieee => "ieee",
            Top::Fnuz => "fnuz",
            Top::None => "none",
            Top::Scale => "scale",
            Top::Integer => "integer",
        }
    }
}

/// A number format of at most 16 bits. A magnitude code is the exponent field above the mantissa field;
/// its value is `(1 + m / 2^man) * 2^(e - bias)`, or `m / 2^man * 2^(1 - bias)` where the field `e` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The name ml_dtypes gives it, where it has one.
    pub name: &'static str,
    /// Bits of the exponent field.
    pub exp: u32,
    /// Bits of the mantissa field.
    pub man: u32,
    /// Exponent bias.
    pub bias: i32,
    /// Meaning of the top codes.
    pub top: Top,
    /// True: there are numbers below the smallest normal one besides zero. Without them, numbers round to zero or to the
    /// smallest normal one, and the codes in between mean zero.
    pub subnormals: bool,
}

macro_rules! formats {
    ($($constant:ident = $name:literal, $exp:literal, $man:literal, $bias:literal, $top:ident;)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub const $constant: Format =
                Format { name: $name, exp: $exp, man: $man, bias: $bias, top: Top::$top, subnormals: true };
        )*
        /// Every format, in the order of the table.
        pub const FORMATS: &[Format] = &[$($constant),*];
    };
}

formats! {
//  constant        name (= ml_dtypes)    exp man bias  top
    E4M3FN       = "float8_e4m3fn",        4,  3,   7,  NanOnly;
    E5M2         = "float8_e5m2",          5,  2,  15,  Ieee;
    E4M3         = "float8_e4m3",          4,  3,   7,  Ieee;
    E3M4         = "float8_e3m4",          3,  4,   3,  Ieee;
    E4M3FNUZ     = "float8_e4m3fnuz",      4,  3,   8,  Fnuz;
    E5M2FNUZ     = "float8_e5m2fnuz",      5,  2,  16,  Fnuz;
    E4M3B11FNUZ  = "float8_e4m3b11fnuz",   4,  3,  11,  Fnuz;
    E8M0FNU      = "float8_e8m0fnu",       8,  0, 127,  Scale;
    E2M3FN       = "float6_e2m3fn",        2,  3,   1,  None;
    E3M2FN       = "float6_e3m2fn",        3,  2,   3,  None;
    E2M1FN       = "float4_e2m1fn",        2,  1,   1,  None;
    BFLOAT16     = "bfloat16",             8,  7, 127,  Ieee;
    FLOAT16      = "float16",              5, 10,  15,  Ieee;
    E5M6         = "e5m6",                 5,  6,  15,  Ieee;
    // An integer is a float without exponent: all its codes are "subnormals" of quantum 1.
    INT8         = "int8",                 0,  7,  -6,  Integer;
    INT4         = "int4",                 0,  3,  -2,  Integer;
}

/// `tf32`, float32 cut to 10 mantissa bits: an operand of matrix units, wider than the formats of the table.
pub const TF32: Format =
    Format { name: "tf32", exp: 8, man: 10, bias: 127, top: Top::Ieee, subnormals: true };

impl Format {
    /// Looks a format up by name, in the table or among the spelled rows of [`custom`](super::custom()).
    ///
    /// # Errors
    /// [`Error::UnknownName`], listing the table's names; [`Error::Unsupported`] for a spelled row that cannot be.
    pub fn by_name(name: &str) -> Result<&'static Format, Error> {
        if let Some(format) = FORMATS.iter().find(|f| f.name == name) {
            return Ok(format);
        }
        custom::parse(name)
            .unwrap_or_else(|| Err(Error::unknown("format", name, FORMATS.iter().map(|f| f.name))))
    }

    /// Bits of a code.
    pub const fn bits(&self) -> u32 {
        (!matches!(self.top, Top::Scale)) as u32 + self.exp + self.man
    }

    /// Codes there are: 2^bits.
    pub const fn n_codes(&self) -> usize {
        1 << self.bits()
    }

    /// Exponent of the smallest normal number (of the smallest number, for scales).
    pub const fn emin(&self) -> i32 {
        match self.top {
            Top::Scale => -self.bias,
            _ => 1 - self.bias,
        }
    }

    /// The magnitude code of the largest finite number.
    pub const fn max_code(&self) -> u32 {
        let ones = (1 << (self.exp + self.man)) - 1;
        match self.top {
            Top::NanOnly | Top::Scale => ones - 1,
            Top::Ieee => ones - (1 << self.man),
            Top::Fnuz | Top::None | Top::Integer => ones,
        }
    }

    /// The magnitude code of the NaN that encoding produces.
    pub const fn nan_code(&self) -> Option<u32> {
        match self.top {
            Top::NanOnly | Top::Scale | Top::Fnuz => Some(self.max_code() + 1),
            Top::Ieee => Some((self.max_code() + 1) | (1 << (self.man - 1))),
            Top::None | Top::Integer => None,
        }
    }

    /// The magnitude code of infinity.
    pub const fn inf_code(&self) -> Option<u32> {
        match self.top {
            Top::Ieee => Some(self.max_code() + 1),
            _ => None,
        }
    }

    /// Result of overflow that does not saturate: infinity, else NaN. Always `max_code + 1`.
    pub const fn overflow_code(&self) -> Option<u32> {
        match self.top {
            Top::None | Top::Integer => None,
            _ => Some(self.max_code() + 1),
        }
    }

    /// The value of a magnitude code as a number, continuing the grid beyond the largest finite code.
    pub fn grid(&self, magnitude: u32) -> f64 {
        let mantissa = magnitude & ((1 << self.man) - 1);
        let field = (magnitude >> self.man) as i32;
        let power = |e: i32| f64::from_bits(((e + 1023) as u64) << 52);
        match (self.top, field) {
            (Top::Scale, _) => power(field - self.bias),
            (_, 0) if !self.subnormals => 0.0,
            (_, 0) => f64::from(mantissa) * power(1 - self.bias - self.man as i32),
            _ => f64::from(mantissa + (1 << self.man)) * power(field - self.bias - self.man as i32),
        }
    }

    /// The largest finite value.
    pub fn max(&self) -> f32 {
        self.grid(self.max_code()) as f32
    }

    /// The value of a code. NaN codes give quiet NaNs with the code's sign; bits above the code are ignored.
    pub fn value(&self, code: u32) -> f32 {
        let bits = self.bits();
        let code = code & ((1 << bits) - 1);
        let (negative, magnitude) = match self.top {
            Top::Scale => (false, code),
            Top::Integer => {
                let negative = code >> (bits - 1) != 0;
                (negative, if negative { (1 << bits) - code } else { code })
            }
            _ => (code >> (bits - 1) != 0, code & ((1 << (bits - 1)) - 1)),
        };
        let nan = match self.top {
            Top::Fnuz => negative && magnitude == 0,
            Top::None | Top::Integer => false,
            Top::Ieee => magnitude > self.max_code() + 1,
            Top::NanOnly | Top::Scale => magnitude > self.max_code(),
        };
        let value = if nan {
            f32::NAN
        } else if self.inf_code() == Some(magnitude) {
            f32::INFINITY
        } else {
            self.grid(magnitude) as f32
        };
        f32::from_bits((value.to_bits() & 0x7FFF_FFFF) | u32::from(negative) << 31)
    }

    /// A magnitude code with a sign, in the format's own way.
    #[inline(always)]
    pub fn signed(&self, magnitude: u32, negative: bool) -> u32 {
        let bits = self.bits();
        match self.top {
            Top::Scale => magnitude,
            Top::Integer if negative => magnitude.wrapping_neg() & ((1 << bits) - 1),
            Top::Integer => magnitude,
            Top::Fnuz if magnitude == 0 || magnitude > self.max_code() => magnitude,
            _ => magnitude | u32::from(negative) << (bits - 1),
        }
    }

    /// The values of all codes of a format of at most 8 bits.
    pub fn lookup(&self) -> &'static Lookup {
        &self.lookups()[0]
    }

    /// The same rounded to float16, whose bits stand in the place of bfloat16's.
    pub fn lookup_f16(&self) -> &'static Lookup {
        &self.lookups()[1]
    }

    fn lookups(&self) -> &'static [Lookup; 2] {
        static TABLES: LazyLock<Vec<(&str, [Lookup; 2])>> = LazyLock::new(|| {
            FORMATS.iter().filter(|f| f.bits() <= 8).map(|f| (f.name, f.values())).collect()
        });
        let table = TABLES.iter().find(|(name, _)| *name == self.name);
        table.map_or_else(|| custom::lookups(self), |(_, tables)| tables)
    }

    /// The tables of [`Format::lookup`] and [`Format::lookup_f16`], made anew.
    pub(super) fn values(&self) -> [Lookup; 2] {
        let values: [f32; 256] = std::array::from_fn(|code| self.value(code as u32));
        let rounder = Rounder { saturate: false, ..Rounder::saturating(&FLOAT16) };
        let half = values.map(|value| f32::from_bits(rounder.code(value.to_bits(), 0) << 16));
        [Lookup::new(values), Lookup::new(half)]
    }
}
