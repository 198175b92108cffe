//! The two types that a forward can be computed in.

use super::attention::Round;
use crate::formats::bfloat16::round_bfloat16;
use crate::formats::{Input, Output};
use ndarray::LinalgScalar;
use std::iter::Sum;
use std::ops::{AddAssign, MulAssign, Neg};

/// float32 or float64.
pub trait Real:
    LinalgScalar + PartialOrd + Default + Send + Sync + AddAssign + MulAssign + Neg<Output = Self> + Sum
{
    /// Minus infinity.
    const NEG_INF: Self;
    /// Rounding to bfloat16 within the type; float32 only.
    const ROUND_BFLOAT16: Option<Round<Self>>;
    /// The nearest number to `x`.
    fn near(x: f64) -> Self;
    /// `x`, exactly in float64 and as it is in float32.
    fn widen(x: f32) -> Self;
    /// Exactly.
    fn wide(self) -> f64;
    /// The square root.
    fn sqrt(self) -> Self;
    /// e to the power of it.
    fn exp(self) -> Self;
    /// The order of numbers, with NaN above infinity.
    fn order(&self, other: &Self) -> std::cmp::Ordering;
    /// The slice as something to decode into.
    fn output(out: &mut [Self]) -> Output<'_>;
    /// The slice as something to encode.
    fn input(x: &[Self]) -> Input<'_>;
    /// The numbers as they are, if they are stored in this type.
    fn stored(x: Input<'_>) -> Option<&[Self]>;
}

macro_rules! real {
    ($type:ident, $variant:ident, $round:expr) => {
        impl Real for $type {
            const NEG_INF: $type = $type::NEG_INFINITY;
            const ROUND_BFLOAT16: Option<Round<$type>> = $round;
            #[inline(always)]
            fn near(x: f64) -> $type {
                x as $type
            }
            #[inline(always)]
            fn widen(x: f32) -> $type {
                $type::from(x)
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn sqrt(self) -> $type {
                $type::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> $type {
                $type::exp(self)
            }
            fn order(&self, other: &$type) -> std::cmp::Ordering {
                self.total_cmp(other)
            }
            fn output(out: &mut [$type]) -> Output<'_> {
                Output::$variant(out)
            }
            fn input(x: &[$type]) -> Input<'_> {
                Input::$variant(x)
            }
            fn stored(x: Input<'_>) -> Option<&[$type]> {
                match x {
                    Input::$variant(values) => Some(values),
                    _ => None,
                }
            }
        }
    };
}

real!(f32, F32, Some(round_bfloat16));
real!(f64, F64, None);
