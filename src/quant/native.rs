//! Inputs of the quantizers' lane code: float32 and bfloat16. The other inputs become float32 first, a part at a time where
//! parts are worked on by themselves.

use super::amax::RUN;
use crate::formats::encode::widen;
use crate::formats::source::{Bf16, Input, Source, F16, F32};
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};
use crate::threads::run_tasks;
use std::borrow::Cow;
use std::cell::RefCell;

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

/// A source of the lane code, and inputs as its elements: where they stand, or as a copy.
pub(super) trait Native: Source {
    /// All of an input.
    fn whole(input: Input<'_>) -> Cow<'_, [Self::Item]>;
    /// True where parts need no copy.
    fn stands(input: Input<'_>) -> bool;
    /// A part of an input; a copy is made in `room`.
    fn part<'a>(input: Input<'a>, room: &'a mut Vec<f32>) -> &'a [Self::Item];
}

impl Native for F32 {
    fn whole(input: Input<'_>) -> Cow<'_, [f32]> {
        as_f32(input)
    }

    fn stands(input: Input<'_>) -> bool {
        matches!(input, Input::F32(_))
    }

    fn part<'a>(input: Input<'a>, room: &'a mut Vec<f32>) -> &'a [f32] {
        if let Input::F32(src) = input {
            return src;
        }
        if room.len() < input.len() {
            room.resize(input.len(), 0.0);
        }
        let out = &mut room[..input.len()];
        dispatch(Convert { input, out });
        out
    }
}

impl Native for Bf16 {
    fn whole(input: Input<'_>) -> Cow<'_, [u16]> {
        match input {
            Input::Bf16(src) => src.into(),
            _ => unreachable!("other inputs are float32, or become it"),
        }
    }

    fn stands(_input: Input<'_>) -> bool {
        true
    }

    fn part<'a>(input: Input<'a>, _room: &'a mut Vec<f32>) -> &'a [u16] {
        match input {
            Input::Bf16(src) => src,
            _ => unreachable!("other inputs are float32, or become it"),
        }
    }
}

thread_local! {
    /// Memory of a part's copy, which every task of a thread takes.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The largest room that a thread keeps, in elements: 4 MiB. A block may be as tall as its array.
const KEPT: usize = 1 << 20;

/// Runs `f` on a part of an input.
pub(super) fn with_part<S: Native, R>(input: Input<'_>, f: impl FnOnce(&[S::Item]) -> R) -> R {
    ROOM.with_borrow_mut(|room| {
        let result = f(S::part(input, room));
        if room.len() > KEPT {
            *room = Vec::new();
        }
        result
    })
}

/// The input as float32: itself, or a copy.
pub(super) fn as_f32(input: Input<'_>) -> Cow<'_, [f32]> {
    if let Input::F32(src) = input {
        return src.into();
    }
    let mut out = vec![0f32; input.len()];
    let chunks = out.chunks_mut(RUN).enumerate().collect();
    run_tasks(input.len(), chunks, |(k, out): (usize, &mut [f32])| {
        let at = k * RUN;
        dispatch(Convert { input: input.part(at..at + out.len()), out });
    });
    out.into()
}

/// Numbers as float32.
struct Convert<'a> {
    input: Input<'a>,
    out: &'a mut [f32],
}

impl Kernel for Convert<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match self.input {
            Input::F32(src) => self.out.copy_from_slice(src),
            Input::F64(src) => {
                for (x, y) in src.iter().zip(self.out) {
                    *y = *x as f32;
                }
            }
            Input::F16(src) => widen_all::<L, F16>(l, src, self.out),
            Input::Bf16(src) => widen_all::<L, Bf16>(l, src, self.out),
        }
    }
}

#[inline(always)]
fn widen_all<L: Lanes, S: Source>(l: L, src: &[S::Item], out: &mut [f32]) {
    let mut bits = [0; MAX_GROUP];
    for (src, out) in src.chunks(MAX_GROUP).zip(out.chunks_mut(MAX_GROUP)) {
        widen::<L, S>(l, src, &mut bits);
        for (y, bits) in out.iter_mut().zip(bits) {
            *y = f32::from_bits(bits);
        }
    }
}
