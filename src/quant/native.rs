//! Inputs of the quantizers' lane code: float32 and bfloat16. The other inputs become float32 first.

use super::amax::RUN;
use crate::formats::source::Input;
use crate::simd::f16_to_f32;
use crate::threads::run_tasks;

/// Runs `$body` with `$marker` the [`Source`](crate::formats::source::Source) of an [`Input`] and `$src` its
/// slice, after widening float16 and rounding float64 to nearest float32.
macro_rules! each_native {
    ($input:expr, $marker:ident, $src:ident => $body:expr) => {
        match $input {
            $crate::formats::Input::Bf16($src) => {
                type $marker = $crate::formats::source::Bf16;
                $body
            }
            input => {
                type $marker = $crate::formats::source::F32;
                let $src = &*$crate::quant::native::as_f32(input);
                $body
            }
        }
    };
}
pub(super) use each_native;

/// The input as float32: itself, or a copy.
pub(super) fn as_f32(input: Input<'_>) -> std::borrow::Cow<'_, [f32]> {
    match input {
        Input::F32(src) => src.into(),
        Input::F64(src) => convert(src, |x| x as f32).into(),
        Input::F16(src) => convert(src, f16_to_f32).into(),
        Input::Bf16(src) => convert(src, |x| f32::from_bits(u32::from(x) << 16)).into(),
    }
}

fn convert<T: Copy + Sync>(src: &[T], f: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0f32; src.len()];
    let chunks = src.chunks(RUN).zip(out.chunks_mut(RUN)).collect();
    run_tasks(src.len(), chunks, |(src, out): (&[T], &mut [f32])| {
        for (x, y) in src.iter().zip(out) {
            *y = f(*x);
        }
    });
    out
}
