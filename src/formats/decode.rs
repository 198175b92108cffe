//! Codes back to numbers.

use super::encode::wrong_width;
use super::near::Near;
use super::round::Rounder;
use super::source::{Bf16, Code, Codes, Output, Source, F16};
use super::table::{Format, Top, BFLOAT16, FLOAT16};
use crate::error::{same_length, Error};
use crate::simd::{
    dispatch, map_groups, F16Shift, GroupMap, Kernel, Lanes, Lookup, Products, Walk, MAX_GROUP,
};
use crate::threads::run_tasks;
use std::marker::PhantomData;

/// Elements that one task takes.
const CHUNK: usize = 64 * 1024;

/// How a group of codes becomes float32 lanes.
pub trait Decoder: Copy + Send + Sync {
    /// The integer that holds a code.
    type Code: Copy + Default + Send + Sync;
    /// The values of `codes[..L::GROUP]`.
    fn group<L: Lanes>(&self, l: L, codes: &[Self::Code]) -> [L::F; 4];
    /// The table, where values come from one.
    fn table(&self) -> Option<&'static Lookup> {
        None
    }
    /// [`Sink::store_products`] of the table's codes.
    fn store_products<L: Lanes, S: Sink>(
        _l: L,
        _half: F16Shift,
        _products: (&Products, &Products, usize),
        _codes: &[Self::Code],
        _out: &mut [S::Item],
        _stream: bool,
    ) -> bool {
        false
    }
}

/// Formats of at most 8 bits: a table.
#[derive(Clone, Copy)]
pub struct Table(pub &'static Lookup);

impl Decoder for Table {
    type Code = u8;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, codes: &[u8]) -> [L::F; 4] {
        l.lookup(self.0, codes)
    }
    #[inline(always)]
    fn table(&self) -> Option<&'static Lookup> {
        Some(self.0)
    }
    #[inline(always)]
    fn store_products<L: Lanes, S: Sink>(
        l: L,
        half: F16Shift,
        products: (&Products, &Products, usize),
        codes: &[u8],
        out: &mut [S::Item],
        stream: bool,
    ) -> bool {
        S::store_products(l, half, products, codes, out, stream)
    }
}

/// Formats of more than 8 bits: bfloat16 is the top of a float32, formats of at most float16's fields are put into those,
/// the others into the fields of a float32.
#[derive(Clone, Copy)]
pub enum Wide {
    /// bfloat16.
    Bf16,
    /// At most 5 exponent and 10 mantissa bits; as any other where a level has no float16.
    Half(HalfFields, Fields),
    /// Any sign, exponent and mantissa.
    Any(Fields),
}

impl Wide {
    /// The decoder of a format of more than 8 bits.
    pub fn new(f: &Format) -> Wide {
        if *f == BFLOAT16 {
            return Wide::Bf16;
        }
        let fields = Fields::new(f);
        HalfFields::new(f).map_or(Wide::Any(fields), |half| Wide::Half(half, fields))
    }
}

impl Decoder for Wide {
    type Code = u16;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, codes: &[u16]) -> [L::F; 4] {
        let part = |j: usize| &codes[j * L::N..];
        match self {
            Wide::Bf16 => [
                l.quiet_lanes(l.load_bf16(part(0))),
                l.quiet_lanes(l.load_bf16(part(1))),
                l.quiet_lanes(l.load_bf16(part(2))),
                l.quiet_lanes(l.load_bf16(part(3))),
            ],
            Wide::Half(fields, _) if L::WIDENS_F16 => fields.group(l, codes),
            Wide::Half(_, fields) | Wide::Any(fields) => [
                fields.vector(l, u16::load(l, part(0))),
                fields.vector(l, u16::load(l, part(1))),
                fields.vector(l, u16::load(l, part(2))),
                fields.vector(l, u16::load(l, part(3))),
            ],
        }
    }
}

/// float16 or bfloat16, by the loads of a source.
#[derive(Clone, Copy)]
struct Widened<S>(PhantomData<S>);

impl<S: Source<Item = u16>> Decoder for Widened<S> {
    type Code = u16;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, codes: &[u16]) -> [L::F; 4] {
        l.quiet(S::group(l, codes))
    }
}

/// Where the fields of a code go in a float16, which is the value up to a power of two.
#[derive(Clone, Copy)]
pub struct HalfFields {
    bits: u32,
    /// By how many bits magnitudes are shifted left.
    shift: u32,
    scale: f32,
    /// The least magnitude code that is not zero's.
    least: u16,
    max_code: u16,
    inf_code: u16,
    fnuz: bool,
}

impl HalfFields {
    /// None where exponents do not fit, or the smallest number is a subnormal float32.
    fn new(f: &Format) -> Option<HalfFields> {
        let fits = f.exp <= 5 && f.man <= 10 && f.max_code() >> f.man <= 30;
        let scale = 15 - f.bias;
        let normal = (-112..=127).contains(&scale) && 1 - f.bias - f.man as i32 >= -126;
        (fits && normal).then(|| HalfFields {
            bits: f.bits(),
            shift: 10 - f.man,
            scale: f32::from_bits(((scale + 127) as u32) << 23),
            least: if f.subnormals { 0 } else { 1 << f.man },
            max_code: f.max_code() as u16,
            inf_code: f.inf_code().unwrap_or(f.max_code()) as u16,
            fnuz: f.top == Top::Fnuz,
        })
    }

    /// The float16 bits of a code.
    #[inline(always)]
    fn word(self, code: u16) -> u16 {
        let sign = (code << (16 - self.bits)) & 0x8000;
        let magnitude = code & ((1 << (self.bits - 1)) - 1);
        let finite = if magnitude < self.least { 0 } else { magnitude << self.shift };
        let special = if magnitude > self.inf_code { 0x7E00 } else { 0x7C00 };
        let word = if magnitude > self.max_code { special } else { finite };
        let minus_zero = self.fnuz && magnitude | sign == 0x8000;
        sign | if minus_zero { 0x7E00 } else { word }
    }

    // Words are made in a loop that the compiler turns into vectors twice as long as those of float32.
    #[inline(always)]
    fn group<L: Lanes>(self, l: L, codes: &[u16]) -> [L::F; 4] {
        let mut words = [0u16; MAX_GROUP];
        for (word, code) in words[..L::GROUP].iter_mut().zip(&codes[..L::GROUP]) {
            *word = self.word(*code);
        }
        let scale = l.f32(self.scale);
        [
            l.fmul(l.load_f16(&words), scale),
            l.fmul(l.load_f16(&words[L::N..]), scale),
            l.fmul(l.load_f16(&words[2 * L::N..]), scale),
            l.fmul(l.load_f16(&words[3 * L::N..]), scale),
        ]
    }
}

/// Where the fields of a code go in a float32.
#[derive(Clone, Copy)]
pub struct Fields {
    man: u32,
    exp: u32,
    /// The bits of a magnitude, and those of the largest ones that are finite and that are numbers, at their places.
    magnitude: u32,
    finite: u32,
    infinite: u32,
    /// Added to the exponent field.
    rebias: u32,
    /// The smallest normal number, where there are subnormal ones.
    least: Option<f32>,
    fnuz: bool,
}

impl Fields {
    fn new(f: &Format) -> Fields {
        let at = |code: u32| code << (23 - f.man);
        let rebias = ((127 - f.bias) as u32) << 23;
        Fields {
            man: f.man,
            exp: f.exp,
            magnitude: at((1 << (f.bits() - 1)) - 1),
            finite: at(f.max_code()),
            infinite: at(f.inf_code().unwrap_or(f.max_code())),
            rebias,
            least: f.subnormals.then(|| f32::from_bits(rebias.wrapping_add(1 << 23))),
            fnuz: f.top == Top::Fnuz,
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L, code: L::U) -> L::F {
        let moved = l.shl(code, 23 - self.man);
        let magnitude = l.and(moved, l.u32(self.magnitude));
        let sign = l.and(l.shl(moved, 8 - self.exp), l.u32(1 << 31));
        let mut small = l.u32(0);
        if let Some(least) = self.least {
            // A number of the binade of the smallest normal one, less that.
            let above = l.float(l.add(magnitude, l.u32(least.to_bits())));
            small = l.bits(l.fadd(above, l.f32(-least)));
        }
        let normal = l.add(magnitude, l.u32(self.rebias));
        let mut value = l.select(l.gt(l.u32(1 << 23), magnitude), small, normal);
        let special = l.gt(magnitude, l.u32(self.finite));
        if l.any(special) {
            let nan = l.gt(magnitude, l.u32(self.infinite));
            value = l.select(special, l.select(nan, l.u32(0x7FC0_0000), l.u32(0x7F80_0000)), value);
        }
        if self.fnuz {
            // Minus zero is NaN.
            let signed_zero = l.select(l.gt(l.u32(1), magnitude), sign, l.u32(0));
            value = l.select(l.gt(l.shr(signed_zero, 31), l.u32(0)), l.u32(0x7FC0_0000), value);
        }
        l.float(l.or(value, sign))
    }
}

/// Factor of a value, in float32, before it is written.
pub trait Multiplier: Copy + Send + Sync {
    /// The products of `x`, the group that starts at element `at`.
    fn apply<L: Lanes>(&self, l: L, at: usize, x: [L::F; 4]) -> [L::F; 4];
}

/// No scale.
#[derive(Clone, Copy)]
pub struct Unscaled;

impl Multiplier for Unscaled {
    #[inline(always)]
    fn apply<L: Lanes>(&self, _l: L, _at: usize, x: [L::F; 4]) -> [L::F; 4] {
        x
    }
}

/// How float32 lanes are written.
pub trait Sink: Copy + Send + Sync {
    /// Format of the output's elements.
    type Item: Copy + Default + Send + Sync;
    /// True for what is asked for most, which has kernels for more places of scales.
    const COMMON: bool = false;
    /// Writes a group. Its NaNs are the quiet ones.
    fn store<L: Lanes>(&self, l: L, x: [L::F; 4], out: &mut [Self::Item], stream: bool);
    /// True for the output of [`Lanes::lookup_products`].
    const PRODUCTS: bool = false;
    /// [`Lanes::lookup_products`]; false where the output is another.
    fn store_products<L: Lanes>(
        _l: L,
        _half: F16Shift,
        _products: (&Products, &Products, usize),
        _codes: &[u8],
        _out: &mut [Self::Item],
        _stream: bool,
    ) -> bool {
        false
    }
}

macro_rules! sinks {
    ($($(#[$doc:meta])* $name:ident;)+) => { $($(#[$doc])* #[derive(Clone, Copy)] pub struct $name;)+ };
}

sinks! {
    /// float32 output.
    ToF32;
    /// float64 output: the float32 value, widened.
    ToF64;
    /// bfloat16 output, rounded to nearest even.
    ToBf16;
}

impl Sink for ToF32 {
    type Item = f32;
    const COMMON: bool = true;
    #[inline(always)]
    fn store<L: Lanes>(&self, l: L, x: [L::F; 4], out: &mut [f32], stream: bool) {
        l.store_f32(x[0], &mut out[..L::N], stream);
        l.store_f32(x[1], &mut out[L::N..2 * L::N], stream);
        l.store_f32(x[2], &mut out[2 * L::N..3 * L::N], stream);
        l.store_f32(x[3], &mut out[3 * L::N..], stream);
    }
}

impl Sink for ToF64 {
    type Item = f64;
    #[inline(always)]
    fn store<L: Lanes>(&self, l: L, x: [L::F; 4], out: &mut [f64], _stream: bool) {
        let mut group = [0f32; MAX_GROUP];
        ToF32.store(l, x, &mut group[..L::GROUP], false);
        for (out, x) in out[..L::GROUP].iter_mut().zip(group) {
            *out = f64::from(x);
        }
    }
}

impl Sink for ToBf16 {
    type Item = u16;
    const COMMON: bool = true;
    #[inline(always)]
    fn store<L: Lanes>(&self, l: L, x: [L::F; 4], out: &mut [u16], stream: bool) {
        let words = [l.round_bf16(x[0]), l.round_bf16(x[1]), l.round_bf16(x[2]), l.round_bf16(x[3])];
        l.store_u16(words, out, stream);
    }
    const PRODUCTS: bool = true;
    #[inline(always)]
    fn store_products<L: Lanes>(
        l: L,
        half: F16Shift,
        products: (&Products, &Products, usize),
        codes: &[u8],
        out: &mut [u16],
        stream: bool,
    ) -> bool {
        l.lookup_products(half, products, codes, out, stream)
    }
}

/// float16 output, rounded to nearest even; beyond 65504 it overflows to infinity.
#[derive(Clone, Copy)]
pub struct ToF16(Near);

impl Default for ToF16 {
    fn default() -> ToF16 {
        let rounder = Rounder { saturate: false, ..Rounder::saturating(&FLOAT16) };
        ToF16(Near::new(&rounder).unwrap_or_else(|| unreachable!("float16 has room")))
    }
}

impl ToF16 {
    #[inline(always)]
    fn round<L: Lanes>(self, l: L, x: L::F) -> L::U {
        let x = l.bits(x);
        let code = self.0.round(l, self.0.magnitude(l, x));
        self.0.sign::<L, true>(l, code, x)
    }
}

impl Sink for ToF16 {
    type Item = u16;
    #[inline(always)]
    fn store<L: Lanes>(&self, l: L, x: [L::F; 4], out: &mut [u16], stream: bool) {
        if L::ROUNDS_WORDS {
            return l.store_f16(x, false, out, stream);
        }
        let words = [self.round(l, x[0]), self.round(l, x[1]), self.round(l, x[2]), self.round(l, x[3])];
        l.store_u16(words, out, stream);
    }
}

/// Decoding, multiplying and writing, as one elementwise function.
#[derive(Clone, Copy)]
pub struct DecodeMap<D, M, S> {
    /// Codes to float32.
    pub decoder: D,
    /// The scale.
    pub multiplier: M,
    /// float32 to the output.
    pub sink: S,
}

impl<D: Decoder, M: Multiplier, S: Sink> GroupMap for DecodeMap<D, M, S> {
    type In = D::Code;
    type Out = S::Item;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, codes: &[D::Code], out: &mut [S::Item], stream: bool) {
        let y = self.multiplier.apply(l, at, self.decoder.group(l, codes));
        self.sink.store(l, y, out, stream);
    }
}

/// At most 8 bits to bfloat16, which holds every value, or to float16 of a table of that: the table's bytes are the answer.
#[derive(Clone, Copy)]
struct BytesToWords(&'static Lookup);

impl GroupMap for BytesToWords {
    type In = u8;
    type Out = u16;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, codes: &[u8], out: &mut [u16], stream: bool) {
        l.lookup_bf16(self.0, codes, out, stream);
    }
}

/// Decodes every code into `out`: exact where the output type can hold the value, else rounded once to
/// nearest even (overflowing to infinity). NaN codes give the quiet NaN of the code's sign.
///
/// # Errors
/// [`Error::Length`] if the lengths differ, [`Error::Unsupported`] if the codes are too narrow or wide for the
/// format.
pub fn decode(codes: Codes<'_>, format: &'static Format, out: Output<'_>) -> Result<(), Error> {
    same_length("out", out.len(), codes.len())?;
    match codes {
        Codes::U8(codes) if format.bits() <= 8 => {
            let decoder = Table(format.lookup());
            match out {
                Output::Bf16(out) => elementwise(codes, out, BytesToWords(decoder.0)),
                Output::F32(out) => elementwise(codes, out, plain(decoder, ToF32)),
                Output::F64(out) => elementwise(codes, out, plain(decoder, ToF64)),
                Output::F16(out) => elementwise(codes, out, BytesToWords(format.lookup_f16())),
            }
        }
        Codes::U16(codes) if format.bits() > 8 => {
            let decoder = Wide::new(format);
            let (bf16, f16) = (Widened::<Bf16>(PhantomData), Widened::<F16>(PhantomData));
            match out {
                Output::Bf16(out) => elementwise(codes, out, plain(decoder, ToBf16)),
                // Loops of their own for what is asked for most, and is little work.
                Output::F32(out) if *format == BFLOAT16 => elementwise(codes, out, plain(bf16, ToF32)),
                Output::F32(out) if *format == FLOAT16 => elementwise(codes, out, plain(f16, ToF32)),
                Output::F32(out) => elementwise(codes, out, plain(decoder, ToF32)),
                Output::F64(out) => elementwise(codes, out, plain(decoder, ToF64)),
                Output::F16(out) => elementwise(codes, out, plain(decoder, ToF16::default())),
            }
        }
        _ => return Err(wrong_width(format)),
    }
    Ok(())
}

fn plain<D, S>(decoder: D, sink: S) -> DecodeMap<D, Unscaled, S> {
    DecodeMap { decoder, multiplier: Unscaled, sink }
}

/// Runs an elementwise function over arrays, in parallel chunks.
fn elementwise<M: GroupMap + Sync>(src: &[M::In], out: &mut [M::Out], map: M) {
    struct Run<'a, M: GroupMap>(&'a M, &'a [M::In], &'a mut [M::Out], Walk);
    impl<M: GroupMap> Kernel for Run<'_, M> {
        type Out = ();
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            map_groups(l, self.0, 0, self.1, self.2, self.3);
            if self.3.stream {
                l.fence();
            }
        }
    }
    #[inline(never)]
    fn one<M: GroupMap>(run: Run<'_, M>) {
        dispatch(run);
    }
    let walk = Walk::over(std::mem::size_of_val(src), out).aligned(out);
    if src.len() <= CHUNK {
        return one(Run(&map, src, out, walk));
    }
    let chunks = src.chunks(CHUNK).zip(out.chunks_mut(CHUNK)).collect();
    run_tasks(src.len(), chunks, |(src, out): (&[M::In], &mut [M::Out])| one(Run(&map, src, out, walk)));
}
