//! The lane trait: the small vocabulary every kernel is written in.

/// The most elements that one group (four vectors) holds at any level.
pub const MAX_GROUP: usize = 64;

/// Codes of a step, as [`Lanes::columns`] takes them.
pub const STEP: usize = 32;

/// A computation that can run at any level. `run` must be `#[inline(always)]`, and so must everything
/// it calls, or the compiler leaves it outside the function that has the CPU features switched on.
pub trait Kernel {
    /// What the computation returns.
    type Out;
    /// Runs at level `l`.
    fn run<L: Lanes>(self, l: L) -> Self::Out;
}

/// 256 float32 values, and their upper 16 bits split into bytes (every value is a bfloat16).
#[derive(Clone)]
pub struct Lookup {
    /// The values.
    pub values: [f32; 256],
    /// Bits 16..24 of each value.
    pub low: [u8; 256],
    /// Bits 24..32 of each value.
    pub high: [u8; 256],
    /// Whether the upper half is the lower half with the sign bit set.
    pub symmetric: bool,
    /// How the codes become float16, where they are little else.
    pub half: Option<F16Shift>,
}

/// A format whose codes, moved to the top of a 16-bit word and shifted down keeping the sign in place, are float16 of
/// the same value but for a power of two.
#[derive(Clone, Copy, Debug)]
pub struct F16Shift {
    /// By how many bits to shift: 5 less the bits of the exponent.
    pub shift: u32,
    /// What to multiply by.
    pub scale: f32,
    /// The magnitudes from here on are special.
    pub limit: u8,
}

impl F16Shift {
    /// The float16 bits of a code.
    pub fn word(self, code: u8) -> u16 {
        let (sign, magnitude) = (u16::from(code & 0x80) << 8, u16::from(code & 0x7F) << 8);
        sign | magnitude >> self.shift
    }

    /// The shift and the scale that fit a table, if any do.
    fn of(values: &[f32; 256]) -> Option<F16Shift> {
        (0..3).find_map(|shift| {
            let half = F16Shift { shift, scale: 1.0, limit: 0 };
            let scale = values[1] / f16_to_f32(half.word(1));
            let same = |code: u8| {
                let value = f16_to_f32(half.word(code)) * scale;
                value.to_bits() == values[usize::from(code)].to_bits()
            };
            let limit = (0..0x80u8).take_while(|&m| same(m) && same(m | 0x80)).count() as u8;
            (limit >= 0x70).then_some(F16Shift { scale, limit, ..half })
        })
    }
}

impl Lookup {
    /// Splits a table of bfloat16-representable values.
    pub fn new(values: [f32; 256]) -> Lookup {
        let byte = |shift: u32| values.map(|v| (v.to_bits() >> shift) as u8);
        let (positive, negative) = values.split_at(128);
        let symmetric = positive.iter().zip(negative).all(|(p, n)| n.to_bits() == p.to_bits() | 1 << 31);
        Lookup { low: byte(16), high: byte(24), values, symmetric, half: F16Shift::of(&values) }
    }
}

/// A float format of at most three mantissa bits with a sign above its magnitude, as [`Lanes::store_narrow`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Float32 bits that can matter only by not being zero: those more than two places below the mantissa.
    pub sticky: u32,
    /// Bits of a float16 mantissa that are cut off.
    pub cut: u32,
    /// The largest magnitude code.
    pub limit: u8,
    /// The magnitude code of NaN.
    pub nan: u8,
    /// The sign bit of a code.
    pub sign: u8,
}

/// The middle between two float32, in the bits of a float64 that they do not have.
pub(super) const MIDPOINT: u32 = 1 << 28;

/// What is done with each column of [`Lanes::columns`]. `column` must be `#[inline(always)]`: its values come and go in
/// registers, and a closure need not be inlined.
pub trait ColumnSink<L: Lanes> {
    /// Takes the values of all steps at `k`.
    fn column(&mut self, k: usize, values: L::F);
}

/// `N` lanes of float32 / uint32 and what can be done with them. A *group* is four vectors, `4 * N`
/// elements. Integer comparisons, minima and maxima are for values below 2^31.
///
/// Loads and stores panic on slices that are too short; they never read or write beyond them.
/// `stream` asks for a store that bypasses the cache; it is ignored where the address is not aligned.
pub trait Lanes: Copy {
    /// Lanes in a vector.
    const N: usize;
    /// Elements in a group.
    const GROUP: usize = 4 * Self::N;
    /// `N` float32.
    type F: Copy;
    /// `N` uint32.
    type U: Copy;
    /// `N` truth values.
    type M: Copy;
    /// A table held in registers.
    type RegisterTable: Copy;

    /// Runs a part of a kernel as a function of its own, compiled once however many kernels use it.
    fn call<K: Kernel>(self, kernel: K) -> K::Out;

    /// All lanes `x`.
    fn f32(self, x: f32) -> Self::F;
    /// All lanes `x`.
    fn u32(self, x: u32) -> Self::U;
    /// The bits of each lane.
    fn bits(self, x: Self::F) -> Self::U;
    /// The float of each lane's bits.
    fn float(self, x: Self::U) -> Self::F;

    /// `N` float32.
    fn load_f32(self, src: &[f32]) -> Self::F;
    /// Loads `N` uint32.
    fn load_u32(self, src: &[u32]) -> Self::U;
    /// `N` float16, widened exactly.
    fn load_f16(self, src: &[u16]) -> Self::F;
    /// `N` bfloat16, widened exactly.
    fn load_bf16(self, src: &[u16]) -> Self::F;
    /// `N` float64, rounded to odd.
    fn load_f64(self, src: &[f64]) -> Self::F;
    /// Table values of `N` steps of [`STEP`] codes, one after another: for each `k` of a step, in order, those of all.
    fn columns(self, table: &Lookup, codes: &[u8], each: impl ColumnSink<Self>);
    /// `N` rows of `N` float32, turned into columns.
    fn transpose(self, rows: &[f32], out: &mut [f32]);
    /// `N` bytes, widened.
    fn load_u8(self, src: &[u8]) -> Self::U;
    /// The polynomial with coefficients `c`, lowest power first, at each of `x`: Horner's rule, a product and a sum rounded
    /// at each step. Several vectors are under way side by side, as each waits for itself.
    fn polynomial(self, c: &[f64], x: &[f64], out: &mut [f64]);
    /// `q^7` to `q^0`, each to the power of `2^times` and then times `x`, and the negatives of these; and `q^15` to `q^0`. By
    /// multiplication, in any order.
    #[inline(always)]
    fn powers(self, q: f64, times: u32, x: f64) -> [[f64; 16]; 2] {
        let (q2, q3) = (q * q, q * q * q);
        let q4 = q2 * q2;
        let near = [q4 * q3, q4 * q2, q4 * q, q4, q3, q2, q, 1.0];
        let far = near.map(|p| p * (q4 * q4));
        let mut power = near;
        for _ in 0..times {
            power = power.map(|p| p * p);
        }
        let join = |first: [f64; 8], second: [f64; 8]| {
            let mut out = [0.0; 16];
            out[..8].copy_from_slice(&first);
            out[8..].copy_from_slice(&second);
            out
        };
        [join(power.map(|p| p * x), power.map(|p| p * -x)), join(far, near)]
    }
    /// Each number as the sum of the nearest float32 and another float32, as far as that goes.
    #[inline(always)]
    fn split(self, x: &[f64; 16], near: &mut [f32; 16], rest: &mut [f32; 16]) {
        for ((x, near), rest) in x.iter().zip(near).zip(rest) {
            *near = *x as f32;
            *rest = (x - f64::from(*near)) as f32;
        }
    }
    /// Products of `rows` and `steps`, none subnormal as float32, rounded to nearest float32: row by row, 16 to each. Whether
    /// some product, as float64, is within `near` of its units in the last place of the middle between two float32.
    fn products(self, rows: &[f64], steps: &[f64; 16], near: u32, out: &mut [f32]) -> bool;
    /// Table values chosen by the low 4 bits of each lane.
    fn permute16(self, table: &[f32; 16], index: Self::U) -> Self::F;
    /// Whether [`Lanes::permute16`] takes one instruction.
    const PERMUTES: bool = false;
    /// Table values chosen by the low 8 bits of each lane.
    fn gather256(self, table: &[f32; 256], index: Self::U) -> Self::F;
    /// A group of table values chosen by bytes.
    fn lookup(self, table: &Lookup, codes: &[u8]) -> [Self::F; 4];
    /// A table to look up in again and again, where that pays at this level.
    fn register_table(self, table: &'static Lookup) -> Option<Self::RegisterTable>;
    /// As [`Lanes::lookup`], in a table that is held.
    fn lookup_registers(self, table: Self::RegisterTable, codes: &[u8]) -> [Self::F; 4];

    /// Writes a group of table values chosen by bytes, as bfloat16.
    fn lookup_bf16(self, table: &Lookup, codes: &[u8], out: &mut [u16], stream: bool);

    /// Stores `N` float32.
    fn store_f32(self, x: Self::F, out: &mut [f32], stream: bool);
    /// Stores `N` uint32.
    fn store_u32(self, x: Self::U, out: &mut [u32]);
    /// Stores a group as bytes; lanes must be below 256.
    fn store_u8(self, x: [Self::U; 4], out: &mut [u8], stream: bool);
    /// Stores a group as 16-bit words; lanes must be below 65536.
    fn store_u16(self, x: [Self::U; 4], out: &mut [u16], stream: bool);
    /// Whether the level has [`Lanes::store_narrow`].
    const NARROW: bool = false;
    /// Rounds a group of float32 to nearest even and stores its codes. The numbers come multiplied by the power of two
    /// that brings the format's smallest normal number to 2^-14, float16's; none may be subnormal.
    fn store_narrow(self, _x: [Self::F; 4], _format: Narrow, _out: &mut [u8], _stream: bool) {
        unreachable!("only where NARROW")
    }
    /// Zero, with its sign, where a lane is subnormal.
    fn flush(self, x: Self::F) -> Self::F {
        let bits = self.bits(x);
        let normal = self.gt(self.and(bits, self.u32(0x7FFF_FFFF)), self.u32(0x007F_FFFF));
        self.float(self.select(normal, bits, self.and(bits, self.u32(0x8000_0000))))
    }
    /// Orders streamed stores before anything that follows.
    fn fence(self) {}
    /// Asks for the cache line `bytes` beyond the start of `src` (which need not be inside it).
    #[inline(always)]
    fn prefetch<T>(self, _src: &[T], _bytes: usize) {}

    /// `a + b`.
    fn fadd(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn fmul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b + c` where `a * b` is a float32: rounded once, whether or not the level has a fused instruction.
    fn add_product(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the level can and else twice: for estimates only, as levels differ.
    fn estimate(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; either where a lane is NaN.
    fn fmax(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn fdiv(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`, correct wherever `r = RN(1 / b)` and [`crate::quant`]'s reciprocal conditions hold; levels
    /// with a fused multiply-add correct `a * r` once instead of dividing.
    fn fdiv_by(self, a: Self::F, b: Self::F, r: Self::F) -> Self::F;

    /// `a & b`.
    fn and(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a | b`.
    fn or(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a ^ b`.
    fn xor(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a + b`, wrapping.
    fn add(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a - b`, wrapping.
    fn sub(self, a: Self::U, b: Self::U) -> Self::U;
    /// The smaller.
    fn min(self, a: Self::U, b: Self::U) -> Self::U;
    /// The larger.
    fn max(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a << n`.
    fn shl(self, a: Self::U, n: u32) -> Self::U;
    /// `a >> n`, shifting in zeros.
    fn shr(self, a: Self::U, n: u32) -> Self::U;
    /// `a > b`.
    fn gt(self, a: Self::U, b: Self::U) -> Self::M;
    /// `a` where true, else `b`.
    fn select(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U;
    /// Whether any lane is true.
    fn any(self, m: Self::M) -> bool;
    /// The largest lane.
    fn hmax(self, a: Self::U) -> u32;
}

/// One number's [`Lanes::polynomial`].
#[inline(always)]
pub(super) fn horner(c: &[f64], x: f64) -> f64 {
    c.iter().rev().fold(0.0, |p, c| p * x + c)
}

/// The exact float32 value of float16 bits.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let mag = u32::from(h & 0x7FFF);
    // Normal: move the fields into place. Subnormal: an integer times 2^-24. Inf, NaN: exponent of ones.
    let bits = if mag >= 0x7C00 {
        0x7F80_0000 | (mag << 13)
    } else if mag >= 0x0400 {
        (mag << 13) + (112 << 23)
    } else {
        ((mag as f32) * (1.0 / 16_777_216.0)).to_bits()
    };
    f32::from_bits(bits | sign)
}

/// `x` as float32, rounded to odd: truncated, with the last bit set if anything was cut off. Rounding the
/// result to a format of at most 21 significant bits gives what rounding `x` itself would have given.
#[inline(always)]
pub fn f64_to_f32_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() {
        return near;
    }
    let bits = near.to_bits();
    // Magnitudes order like their bits: step back if the rounding went away from zero.
    let truncated = if back.abs() > x.abs() { bits - 1 } else { bits };
    f32::from_bits(truncated | 1)
}

/// `a * b + c`, rounded once, without a fused instruction.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    // A product of two float32 is a float64. Their sum is rounded to odd there, which 53 bits are enough for.
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let added = sum - product;
    let error = (product - (sum - added)) + (c - added);
    let bits = sum.to_bits();
    // Inexact, and even: move by one towards what was lost. (Of an infinity or NaN the error is NaN, or no matter.)
    let odd = if error == 0.0 || bits & 1 == 1 || !sum.is_finite() {
        bits
    } else if (error > 0.0) == (sum > 0.0) {
        bits + 1
    } else {
        bits - 1
    };
    f64::from_bits(odd) as f32
}
