//! The arrays that cross the crate's surface: what can be encoded, what can be decoded into, and codes.

use crate::simd::{ByteFormat, Lanes, Narrow, Plain, MAX_GROUP};

/// How the elements of an input array widen to float32 lanes.
pub trait Source: Copy + Send + Sync {
    /// Format of the array's elements.
    type Item: Copy + Send + Sync + Default;
    /// Loads a vector, exactly (float64: rounded to odd).
    fn load<L: Lanes>(l: L, src: &[Self::Item]) -> L::F;
    /// Loads a group.
    #[inline(always)]
    fn group<L: Lanes>(l: L, src: &[Self::Item]) -> [L::F; 4] {
        [
            Self::load(l, src),
            Self::load(l, &src[L::N..]),
            Self::load(l, &src[2 * L::N..]),
            Self::load(l, &src[3 * L::N..]),
        ]
    }
}

macro_rules! sources {
    ($($(#[$doc:meta])* $marker:ident: $item:ty => $load:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $marker;
        impl Source for $marker {
            type Item = $item;
            #[inline(always)]
            fn load<L: Lanes>(l: L, src: &[$item]) -> L::F {
                l.$load(src)
            }
        }
    )*};
}

sources! {
    /// float32.
    F32: f32 => load_f32;
    /// float64, rounded to odd.
    F64: f64 => load_f64;
    /// float16 bits.
    F16: u16 => load_f16;
    /// bfloat16 bits.
    Bf16: u16 => load_bf16;
}

/// An array to encode.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float64.
    F64(&'a [f64]),
    /// float16 bits.
    F16(&'a [u16]),
    /// bfloat16 bits.
    Bf16(&'a [u16]),
}

/// Runs `$body` with `$marker` the [`Source`] of an [`Input`] and `$src` its slice.
macro_rules! each_input {
    ($input:expr, $marker:ident, $src:ident => $body:expr) => {
        $crate::formats::source::each_input!(@F32 F64 F16 Bf16: $input, $marker, $src => $body)
    };
    (@$($kind:ident)+: $input:expr, $marker:ident, $src:ident => $body:expr) => {
        match $input {
            $($crate::formats::Input::$kind($src) => {
                type $marker = $crate::formats::source::$kind;
                $body
            })+
        }
    };
}
pub(crate) use each_input;

impl<'a> Input<'a> {
    /// Bytes of the elements.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Input::F32(src) => std::mem::size_of_val(src),
            Input::F64(src) => std::mem::size_of_val(src),
            Input::F16(src) | Input::Bf16(src) => std::mem::size_of_val(src),
        }
    }

    /// Where the first element is.
    pub(crate) fn address(self) -> usize {
        match self {
            Input::F32(src) => src.as_ptr() as usize,
            Input::F64(src) => src.as_ptr() as usize,
            Input::F16(src) | Input::Bf16(src) => src.as_ptr() as usize,
        }
    }

    /// Some of the elements.
    pub(crate) fn part(self, range: std::ops::Range<usize>) -> Input<'a> {
        match self {
            Input::F32(src) => Input::F32(&src[range]),
            Input::F64(src) => Input::F64(&src[range]),
            Input::F16(src) => Input::F16(&src[range]),
            Input::Bf16(src) => Input::Bf16(&src[range]),
        }
    }
}

/// Codes to read, one in each byte or word.
#[derive(Clone, Copy, Debug)]
pub enum Codes<'a> {
    /// Formats of at most 8 bits.
    U8(&'a [u8]),
    /// Wider formats.
    U16(&'a [u16]),
    /// Bits of float32, which matrix units read as [`table::TF32`](super::table::TF32).
    U32(&'a [u32]),
}

/// Codes to write.
#[derive(Debug)]
pub enum CodesMut<'a> {
    /// Formats of at most 8 bits.
    U8(&'a mut [u8]),
    /// Wider formats.
    U16(&'a mut [u16]),
}

/// An array to decode into.
#[derive(Debug)]
pub enum Output<'a> {
    /// float32.
    F32(&'a mut [f32]),
    /// float64.
    F64(&'a mut [f64]),
    /// float16 bits.
    F16(&'a mut [u16]),
    /// bfloat16 bits.
    Bf16(&'a mut [u16]),
}

/// How long the arrays are.
macro_rules! lengths {
    ($($array:ident { $($variant:ident),+ })+) => {$(
        impl $array<'_> {
            /// Elements.
            pub fn len(&self) -> usize {
                match self { $($array::$variant(x) => x.len(),)+ }
            }

            /// True for no elements.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    )+};
}

lengths! {
    Input { F32, F64, F16, Bf16 }
    Output { F32, F64, F16, Bf16 }
    Codes { U8, U16, U32 }
    CodesMut { U8, U16 }
}

/// The integer that holds a code.
pub trait Code: Plain + Send + Sync + Default + Into<u32> {
    /// Stores a group of codes.
    fn store<L: Lanes>(l: L, codes: [L::U; 4], out: &mut [Self], stream: bool);
    /// [`Lanes::store_f16`], or [`Lanes::store_bf16`].
    fn store_word<L: Lanes, const F16: bool>(
        _l: L,
        _x: [L::F; 4],
        _finite: bool,
        _out: &mut [Self],
        _stream: bool,
    ) {
        unreachable!("codes of a byte")
    }
    /// True where [`Lanes::store_narrow`] stores such codes, and [`Lanes::transpose_bytes`] turns them.
    const BYTE: bool = false;
    /// [`Lanes::store_narrow`].
    fn store_narrow<L: Lanes>(_l: L, _x: [L::F; 4], _format: Narrow, _out: &mut [Self], _stream: bool) {
        unreachable!("codes of more than a byte")
    }
    /// [`Lanes::store_nearest`].
    fn store_nearest<L: Lanes>(
        _l: L,
        _a: [L::F; 4],
        _x: [L::U; 4],
        _f: ByteFormat,
        _out: &mut [Self],
        _stream: bool,
    ) {
        unreachable!("codes of more than a byte")
    }
    /// [`Lanes::store_random`].
    fn store_random<L: Lanes>(
        _l: L,
        _x: [[L::U; 4]; 2],
        _f: ByteFormat,
        _out: &mut [Self],
        _stream: bool,
    ) -> bool {
        unreachable!("codes of more than a byte")
    }
    /// [`Lanes::store_random8`].
    fn store_random8<L: Lanes>(
        _l: L,
        _x: [L::U; 4],
        _random: &[u8; MAX_GROUP],
        _f: ByteFormat,
        _out: &mut [Self],
        _stream: bool,
    ) -> bool {
        unreachable!("codes of more than a byte")
    }
    /// [`Lanes::transpose_bytes`].
    fn transpose<L: Lanes>(
        _l: L,
        _src: &[Self],
        _stride: usize,
        _out: &mut [Self],
        _pitch: usize,
        _stream: bool,
    ) {
        unreachable!("codes of more than a byte")
    }
    /// Loads a vector of codes.
    fn load<L: Lanes>(l: L, codes: &[Self]) -> L::U;
    /// The code of the low bits.
    fn from_u32(code: u32) -> Self;
    /// The code as an integer.
    #[inline(always)]
    fn to_u32(self) -> u32 {
        self.into()
    }
}

impl Code for u8 {
    const BYTE: bool = true;
    #[inline(always)]
    fn store<L: Lanes>(l: L, codes: [L::U; 4], out: &mut [u8], stream: bool) {
        l.store_u8(codes, out, stream);
    }
    #[inline(always)]
    fn store_narrow<L: Lanes>(l: L, x: [L::F; 4], format: Narrow, out: &mut [u8], stream: bool) {
        l.store_narrow(x, format, out, stream);
    }
    #[inline(always)]
    fn store_nearest<L: Lanes>(
        l: L,
        a: [L::F; 4],
        x: [L::U; 4],
        f: ByteFormat,
        out: &mut [u8],
        stream: bool,
    ) {
        l.store_nearest(a, x, f, out, stream);
    }
    #[inline(always)]
    fn store_random<L: Lanes>(l: L, x: [[L::U; 4]; 2], f: ByteFormat, out: &mut [u8], stream: bool) -> bool {
        l.store_random(x, f, out, stream)
    }
    #[inline(always)]
    fn store_random8<L: Lanes>(
        l: L,
        x: [L::U; 4],
        random: &[u8; MAX_GROUP],
        format: ByteFormat,
        out: &mut [u8],
        stream: bool,
    ) -> bool {
        l.store_random8(x, random, format, out, stream)
    }
    #[inline(always)]
    fn transpose<L: Lanes>(l: L, src: &[u8], stride: usize, out: &mut [u8], pitch: usize, stream: bool) {
        l.transpose_bytes(src, stride, out, pitch, stream);
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, codes: &[u8]) -> L::U {
        l.load_u8(codes)
    }
    #[inline(always)]
    fn from_u32(code: u32) -> u8 {
        code as u8
    }
}

impl Code for u16 {
    #[inline(always)]
    fn store_word<L: Lanes, const F16: bool>(
        l: L,
        x: [L::F; 4],
        finite: bool,
        out: &mut [u16],
        stream: bool,
    ) {
        if F16 {
            l.store_f16(x, finite, out, stream);
        } else {
            l.store_bf16(x, finite, out, stream);
        }
    }
    #[inline(always)]
    fn store<L: Lanes>(l: L, codes: [L::U; 4], out: &mut [u16], stream: bool) {
        l.store_u16(codes, out, stream);
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, codes: &[u16]) -> L::U {
        l.shr(l.bits(l.load_bf16(codes)), 16)
    }
    #[inline(always)]
    fn from_u32(code: u32) -> u16 {
        code as u16
    }
}
