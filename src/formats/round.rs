//! Rounding one number to a format's grid: the definition, for every mode, in integers.
//!
//! [`Rounder::code`] is the scalar rule that every faster path must reproduce.

use super::table::{Format, Top};
use crate::error::Error;

macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// Every choice.
            pub const ALL: &[$name] = &[$($name::$variant),*];
            /// The name that Python uses.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
            /// Looks a choice up by name.
            ///
            /// # Errors
            /// [`Error::UnknownName`], listing the names there are.
            pub fn parse(name: &str) -> Result<$name, Error> {
                $crate::error::by_name($what, name, Self::ALL, |c| c.name()).copied()
            }
        }
    };
}
pub(crate) use named_enum;

named_enum! {
    /// Which neighbour on the grid a number between two of them becomes.
    Rounding, "rounding" {
        /// The nearer, ties to the even code.
        NearestEven = "nearest_even",
        /// The smaller magnitude.
        TowardZero = "toward_zero",
        /// The larger.
        Up = "up",
        /// The smaller.
        Down = "down",
        /// The nearer, ties away from zero.
        NearestAway = "nearest_away",
        /// The nearer, ties toward zero.
        NearestTowardZero = "nearest_toward_zero",
        /// Either, with probabilities that make the mean exact.
        Stochastic = "stochastic",
        /// Either, by the carry of 8 random bits: the probability of the larger magnitude is cut to a multiple of 2^-8.
        Stochastic8 = "stochastic8",
    }
}

impl Rounding {
    /// True for modes that take random bits.
    pub fn is_random(self) -> bool {
        matches!(self, Rounding::Stochastic | Rounding::Stochastic8)
    }
}

named_enum! {
    /// Treatment of a number beyond the format's range.
    Overflow, "overflow" {
        /// The largest finite number.
        Saturate = "saturate",
        /// Infinity, or NaN where the format has no infinity.
        NonFinite = "nonfinite",
    }
}

named_enum! {
    /// Treatment of NaN.
    NanPolicy, "nan" {
        /// The format's NaN; an error if it has none.
        Code = "code",
        /// An error.
        Raise = "raise",
        /// Zero.
        Zero = "zero",
        /// The largest finite number.
        Max = "max",
    }
}

/// A format, a rounding mode and an overflow rule, ready to be applied.
#[derive(Clone, Copy, Debug)]
pub struct Rounder {
    /// The format.
    pub format: Format,
    /// The rounding mode.
    pub rounding: Rounding,
    /// True: overflow saturates.
    pub saturate: bool,
    /// The magnitude code that NaN becomes.
    pub nan: u32,
}

impl Rounder {
    /// Settles the policies for a format.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if overflow is to become a code that the format does not have.
    pub fn new(
        format: &Format,
        rounding: Rounding,
        overflow: Overflow,
        nan: NanPolicy,
    ) -> Result<Rounder, Error> {
        if overflow == Overflow::NonFinite && format.overflow_code().is_none() {
            return Err(Error::Unsupported(format!(
                "overflow: found \"nonfinite\", but {} has neither infinity nor NaN; expected \"saturate\"",
                format.name
            )));
        }
        let nan_code = match nan {
            NanPolicy::Code | NanPolicy::Raise => format.nan_code().unwrap_or(0),
            NanPolicy::Zero => 0,
            NanPolicy::Max => format.max_code(),
        };
        Ok(Rounder { format: *format, rounding, saturate: overflow == Overflow::Saturate, nan: nan_code })
    }

    /// The quantizer's rule: nearest even, saturating, NaN to the format's NaN (or zero).
    pub fn saturating(format: &Format) -> Rounder {
        Rounder {
            format: *format,
            rounding: Rounding::NearestEven,
            saturate: true,
            nan: format.nan_code().unwrap_or(0),
        }
    }

    /// The code of a float32. `random` are the random bits of a mode that takes them, 32 or 8.
    #[inline(always)]
    pub fn code(&self, x: u32, random: u32) -> u32 {
        let f = &self.format;
        let (a, negative) = (x & 0x7FFF_FFFF, x >> 31 != 0);
        let infinite = a == 0x7F80_0000;
        let nonfinite = f.max_code() + 1; // only reached where the format has such a code

        // |x| = sig * 2^(field - 150); the grid's quantum is 2^(binade - man).
        let field = (a >> 23).max(1) as i32;
        let normal = a >= 0x0080_0000;
        let sig = (a & 0x007F_FFFF) | u32::from(normal) << 23;
        let binade = (if normal { field - 127 } else { -127 }).max(f.emin());
        let subnormal = (a >> 23) as i32 - 127 < f.emin();
        let flush = if f.subnormals || !subnormal { 0 } else { f.man };
        let shift = binade - (f.man - flush) as i32 + 150 - field; // bits cut off, 8 at the least
        let fixed = if shift < 64 { (u64::from(sig) << 32) >> shift } else { 0 };
        let (whole, fraction) = ((fixed >> 32) as u32, fixed as u32); // the magnitude in quanta, and 2^-32 of one
        let inexact = shift >= 64 || fixed << shift != u64::from(sig) << 32;
        let up = match self.rounding {
            Rounding::NearestEven => {
                fraction > 0x8000_0000 || (fraction == 0x8000_0000 && (inexact || whole & 1 == 1))
            }
            Rounding::NearestAway => fraction >= 0x8000_0000,
            Rounding::NearestTowardZero => fraction > 0x8000_0000 || (fraction == 0x8000_0000 && inexact),
            Rounding::TowardZero => false,
            Rounding::Up => !negative && (fraction != 0 || (inexact && sig != 0)),
            Rounding::Down => negative && (fraction != 0 || (inexact && sig != 0)),
            Rounding::Stochastic => random < fraction,
            Rounding::Stochastic8 => (fraction >> 24) + random > 0xFF,
        };
        let quanta = whole + u32::from(up);
        let above = ((binade - f.emin()) as u32) << f.man;
        let magnitude = match f.top {
            Top::Scale => (above + quanta).saturating_sub(1), // no zero: the first quantum is code 0
            _ => above + (quanta << flush),
        };

        let magnitude = if infinite {
            if self.saturate {
                f.max_code()
            } else {
                nonfinite
            }
        } else if magnitude > f.max_code() {
            let away = match self.rounding {
                Rounding::TowardZero => false,
                Rounding::Up => !negative,
                Rounding::Down => negative,
                _ => true,
            };
            if self.saturate || !away {
                f.max_code()
            } else {
                nonfinite
            }
        } else {
            magnitude
        };
        if a > 0x7F80_0000 {
            return f.signed(self.nan, negative);
        }
        if f.top == Top::Scale {
            return match (a == 0, negative) {
                (true, _) => {
                    if self.saturate {
                        0
                    } else {
                        nonfinite
                    }
                }
                (false, true) => nonfinite,
                (false, false) => magnitude,
            };
        }
        f.signed(magnitude, negative)
    }
}
