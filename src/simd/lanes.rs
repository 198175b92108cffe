//! The lane trait: the small vocabulary every kernel is written in.

use super::lookup::{F16Shift, Lookup};
use super::philox::{self, PhiloxKeys};
use super::plain::Plain;
use super::products::Products;

/// The most elements that one group (four vectors) holds at any level.
pub const MAX_GROUP: usize = 64;

/// Codes of a step of k, the unit of [`Lanes::columns`].
pub const STEP: usize = 32;

/// A computation that can run at any level. `run` must be `#[inline(always)]`, and so must everything
/// it calls, or the compiler leaves it outside the function that has the CPU features switched on.
pub trait Kernel {
    /// The result of the computation.
    type Out;
    /// Runs at level `l`.
    fn run<L: Lanes>(self, l: L) -> Self::Out;
}

/// A float format of at most three mantissa bits with a sign above its magnitude, and a mode of rounding, as
/// [`Lanes::store_narrow`] takes them.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Float32 bits of the smallest normal number.
    pub normal: u32,
    /// Mask of the float32 bits that only count as sticky: those more than two places below the mantissa.
    pub sticky: u32,
    /// Mantissa bits of a float16 that are rounded off.
    pub cut: u32,
    /// Added to magnitudes before bits are cut off; modes that look at signs are not for this.
    pub add: u16,
    /// True: one more is added to odd ones.
    pub even: bool,
    /// The largest magnitude code of a finite number.
    pub limit: u8,
    /// The magnitude code of infinity.
    pub infinite: u8,
    /// The magnitude code of NaN; the limit where no number is NaN.
    pub nan: u8,
    /// The sign bit of a code.
    pub sign: u8,
    /// True: codes of four bits, one of them mantissa, and no number is NaN.
    pub four_bits: bool,
}

impl Narrow {
    /// The same for numbers of which none is NaN.
    #[must_use]
    pub fn without_nan(self) -> Narrow {
        Narrow { nan: self.limit, four_bits: self.cut == 9 && self.limit == 7, ..self }
    }

    /// Calls a loop over an array with the format; where a level has another way for four bits, a loop of its own.
    #[inline(always)]
    pub fn in_loops<L: Lanes>(self, mut each: impl FnMut(Narrow)) {
        if L::FOUR_BITS && self.four_bits {
            each(Narrow { four_bits: true, ..self });
        } else {
            each(Narrow { four_bits: false, ..self });
        }
    }
}

/// A float format of at most eight bits with a sign above its magnitude, as [`Lanes::store_random`] and
/// [`Lanes::store_nearest`] take it: codes of magnitudes are evenly spaced in the bits of a magnitude's sum with the larger
/// of it and the smallest normal number.
#[derive(Clone, Copy, Debug)]
pub struct ByteFormat {
    /// Float32 bits of the smallest normal number.
    pub least: u32,
    /// Bits of such a sum behind the codes: 16 to 22 of them.
    pub cut: u32,
    /// The largest magnitude code, and infinity's.
    pub limit: u8,
    /// The magnitude code of NaN.
    pub nan: u8,
    /// The sign bit of a code.
    pub sign: u8,
}

/// The float32 rounding midpoint, in the 29 mantissa bits that float64 has beyond float32.
pub(super) const MIDPOINT: u32 = 1 << 28;

/// The consumer of [`Lanes::columns`]. `column` must be `#[inline(always)]`, which a closure cannot promise: its values
/// stay in registers.
pub trait ColumnSink<L: Lanes> {
    /// Consumes the values of all steps at `k`.
    fn column(&mut self, k: usize, values: L::F);
}

/// `N` lanes of float32 / uint32 and what can be done with them. A *group* is four vectors, `4 * N`
/// elements. Integer comparisons, minima and maxima are for values below 2^31.
///
/// Loads and stores panic on slices that are too short; they never read or write beyond them.
/// `stream` requests a non-temporal store; unaligned addresses ignore it.
pub trait Lanes: Copy {
    /// Lanes in a vector.
    const N: usize;
    /// Elements in a group.
    const GROUP: usize = 4 * Self::N;
    /// `N` float32.
    type F: Copy;
    /// `N` uint32.
    type U: Copy;
    /// A mask of `N` lanes.
    type M: Copy;
    /// A table of 256 values in registers.
    type RegisterTable: Copy;

    /// True: loops over groups are functions of their own, which ends of arrays use too; half the code, a call slower.
    const SHARES_LOOPS: bool = false;

    /// Runs part of a kernel as a function of its own, compiled once however many kernels use it.
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
    /// True if loops are to stream and prefetch.
    const STREAMS: bool = true;
    /// True if stores that stream go past the caches, and prefetching is more than nothing.
    const PAST_CACHES: bool = true;
    /// True if [`Lanes::load_f16`] is an instruction.
    const WIDENS_F16: bool = true;
    /// `N` float16, widened exactly.
    fn load_f16(self, src: &[u16]) -> Self::F;
    /// `N` bfloat16, widened exactly.
    fn load_bf16(self, src: &[u16]) -> Self::F;
    /// `N` float64, rounded to odd.
    fn load_f64(self, src: &[f64]) -> Self::F;
    /// Looks up `N` consecutive steps of [`STEP`] codes and passes the transpose on: for each `k` in order, a vector with
    /// one value of each step.
    fn columns(self, table: &Lookup, codes: &[u8], each: impl ColumnSink<Self>);
    /// Transposes an `N x N` float32 tile.
    fn transpose(self, rows: &[f32], out: &mut [f32]);
    /// The larger of the halves of each lane, as unsigned numbers.
    #[inline(always)]
    fn max_halves(self, a: Self::U, b: Self::U) -> Self::U {
        let (low, high) = (self.u32(0xFFFF), |x| self.shr(x, 16));
        let upper = self.shl(self.max(high(a), high(b)), 16);
        self.or(upper, self.max(self.and(a, low), self.and(b, low)))
    }
    /// Transposes an `N x N` tile of 32 bits whose rows begin every `stride` elements to rows that begin every `pitch`.
    #[inline(always)]
    fn transpose_into<T: Plain>(self, src: &[T], stride: usize, out: &mut [f32], pitch: usize) {
        let (mut tile, mut turned) = ([0f32; 256], [0f32; 256]);
        let square = Self::N * Self::N;
        for (row, tile) in tile[..square].chunks_exact_mut(Self::N).enumerate() {
            for (words, out) in src[row * stride..].chunks_exact(T::PER_WORD).zip(tile) {
                *out = f32::from_bits(T::word(words));
            }
        }
        self.transpose(&tile[..square], &mut turned[..square]);
        for (row, turned) in turned[..square].chunks_exact(Self::N).enumerate() {
            out[row * pitch..][..Self::N].copy_from_slice(turned);
        }
    }
    /// Transposes a tile of bytes, a group of rows of a group, that begin every `stride` bytes, to rows that begin every
    /// `pitch`.
    #[inline(always)]
    fn transpose_bytes(self, src: &[u8], stride: usize, out: &mut [u8], pitch: usize, _stream: bool) {
        super::byte_tiles::portable(Self::GROUP, src, stride, out, pitch);
    }
    /// Transposes a tile as [`Lanes::transpose_into`] does and passes its rows on, in order.
    #[inline(always)]
    fn turn_rows<T: Plain>(self, src: &[T], stride: usize, mut each: impl ColumnSink<Self>) {
        let mut tile = [0f32; 256];
        self.transpose_into(src, stride, &mut tile, Self::N);
        for (i, row) in tile[..Self::N * Self::N].chunks_exact(Self::N).enumerate() {
            each.column(i, self.load_f32(row));
        }
    }
    /// `N` bytes, widened.
    fn load_u8(self, src: &[u8]) -> Self::U;
    /// Evaluates the polynomial with coefficients `c`, lowest power first, at each of `x`: Horner's rule, product and sum
    /// rounded at each step. Interleaves several vectors to hide latency.
    fn polynomial(self, c: &[f64], x: &[f64], out: &mut [f64]);
    /// Returns `x * q^(j * 2^times)` for j = 7..0 followed by their negatives, and `q^j` for j = 15..0. Multiplication
    /// order is unspecified.
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
    /// Writes the outer product of `rows` and `steps` rounded to float32, row by row; no product may be subnormal. Returns
    /// true if some float64 product is within `near` float64 ulps of a float32 rounding midpoint.
    fn products(self, rows: &[f64], steps: &[f64; 16], near: u32, out: &mut [f32]) -> bool;
    /// True if the level implements [`Lanes::permute_group`] and what it needs, and [`Lanes::estimate`] rounds once.
    const PERMUTES: bool = false;
    /// Rounds 16 values to float32, laid out as [`Lanes::permute_group`] takes them. Returns true as [`Lanes::products`] does.
    fn lay_out(self, _x: &[f64; 16], _near: u32, _out: &mut [f32; 16]) -> bool {
        unreachable!("only where PERMUTES")
    }
    /// The same, and for the rests, rounded to float32.
    fn lay_out_pairs(self, _x: &[f64; 16], _near: &mut [f32; 16], _rest: &mut [f32; 16]) {
        unreachable!("only where PERMUTES")
    }
    /// Permutes 16 table values by the 4 bits from bit `shift` of each code of a group on, or 32 by 5 bits. Codes are below
    /// 65536.
    fn permute_group(
        self,
        _low: &[f32; 16],
        _high: Option<&[f32; 16]>,
        _codes: [Self::U; 4],
        _shift: u32,
    ) -> [Self::F; 4] {
        unreachable!("only where PERMUTES")
    }
    /// The same for 16 table values and their negatives.
    fn permute_signed(self, _table: &[f32; 16], _codes: [Self::U; 4], _shift: u32) -> [Self::F; 4] {
        unreachable!("only where PERMUTES")
    }
    /// Gathers from 256 table values by the low 8 bits of each lane.
    fn gather256(self, table: &[f32; 256], index: Self::U) -> Self::F;
    /// Looks up a group of codes.
    fn lookup(self, table: &Lookup, codes: &[u8]) -> [Self::F; 4];
    /// Loads a table into registers, if the level can decode such a table from there.
    fn register_table(self, table: &'static Lookup) -> Option<Self::RegisterTable>;
    /// Looks up a group of codes in a register table.
    fn lookup_registers(self, table: Self::RegisterTable, codes: &[u8]) -> [Self::F; 4];

    /// Looks up a group of codes and writes the values as bfloat16.
    fn lookup_bf16(self, table: &Lookup, codes: &[u8], out: &mut [u16], stream: bool);
    /// True if the level implements [`Lanes::product_table`] and [`Lanes::lookup_products`].
    const PRODUCTS: bool = false;
    /// Writes the table of [`Products`] of the first values of a format and a scale.
    fn product_table(self, _values: &[f32; 256], _scale: f32, _out: &mut [u8; 32]) {
        unreachable!("only where PRODUCTS")
    }
    /// Looks up a group of codes in the first of two tables of products, but for those from a place on in the second, and
    /// writes bfloat16. False, and nothing is written, if a code has no product.
    fn lookup_products(
        self,
        _half: F16Shift,
        _products: (&Products, &Products, usize),
        _codes: &[u8],
        _out: &mut [u16],
        _stream: bool,
    ) -> bool {
        unreachable!("only where PRODUCTS")
    }
    /// Looks up a group as bfloat16, two to an element, the first of them below.
    #[inline(always)]
    fn lookup_pairs(self, table: &Lookup, codes: &[u8], out: &mut [f32]) {
        let mut words = [0u16; MAX_GROUP];
        self.lookup_bf16(table, codes, &mut words[..Self::GROUP], false);
        for (out, pair) in out[..Self::GROUP / 2].iter_mut().zip(words.as_chunks::<2>().0) {
            *out = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
        }
    }

    /// Stores `N` float32.
    fn store_f32(self, x: Self::F, out: &mut [f32], stream: bool);
    /// Stores `N` uint32.
    fn store_u32(self, x: Self::U, out: &mut [u32]);
    /// Stores a group as bytes; lanes must be below 256.
    fn store_u8(self, x: [Self::U; 4], out: &mut [u8], stream: bool);
    /// Stores a group as 16-bit words; lanes must be below 65536.
    fn store_u16(self, x: [Self::U; 4], out: &mut [u16], stream: bool);
    /// True if the level implements [`Lanes::store_f16`] and [`Lanes::store_bf16`].
    const ROUNDS_WORDS: bool = false;
    /// Rounds a group of float32 to float16, nearest even, and stores it. NaN becomes the quiet NaN of its sign. Where all
    /// is to be `finite`, what would be infinity becomes the largest number.
    fn store_f16(self, _x: [Self::F; 4], _finite: bool, _out: &mut [u16], _stream: bool) {
        unreachable!("only where ROUNDS_WORDS")
    }
    /// The same for bfloat16.
    fn store_bf16(self, _x: [Self::F; 4], _finite: bool, _out: &mut [u16], _stream: bool) {
        unreachable!("only where ROUNDS_WORDS")
    }
    /// The nearest bfloat16 of each lane, ties to even. Rounds the whole word, sign included: a carry into the exponent is
    /// right, and a quiet NaN, whose low bits are zero, stays as it is; others are not for this.
    #[inline(always)]
    fn round_bf16(self, x: Self::F) -> Self::U {
        let x = self.bits(x);
        let odd = self.and(self.shr(x, 16), self.u32(1));
        self.shr(self.add(self.add(x, self.u32(0x7FFF)), odd), 16)
    }
    /// Replaces every NaN of a group by the quiet NaN of its sign.
    #[inline(always)]
    fn quiet(self, x: [Self::F; 4]) -> [Self::F; 4] {
        if self.all_numbers(x) {
            return x;
        }
        [self.quiet_lanes(x[0]), self.quiet_lanes(x[1]), self.quiet_lanes(x[2]), self.quiet_lanes(x[3])]
    }
    /// Replaces every NaN by the quiet NaN of its sign.
    #[inline(always)]
    fn quiet_lanes(self, x: Self::F) -> Self::F {
        let bits = self.bits(x);
        let sign = self.and(bits, self.u32(0x8000_0000));
        let nan = self.gt(self.and(bits, self.u32(0x7FFF_FFFF)), self.u32(0x7F80_0000));
        self.float(self.select(nan, self.or(sign, self.u32(0x7FC0_0000)), bits))
    }
    /// True only if no lane of a group is NaN; false, too, where asking takes a level as long as [`Lanes::quiet`].
    #[inline(always)]
    fn all_numbers(self, _x: [Self::F; 4]) -> bool {
        false
    }
    /// True if the level implements [`Lanes::store_narrow`].
    const NARROW: bool = false;
    /// True if [`Lanes::store_narrow`] takes numbers as they are, whatever [`Narrow::normal`].
    const ANY_NORMAL: bool = false;
    /// True if [`Lanes::store_narrow`] has another way for [`Narrow::four_bits`].
    const FOUR_BITS: bool = false;
    /// True if [`Lanes::store_narrow`] knows other modes than nearest even.
    const NARROW_MODES: bool = false;
    /// Rounds a group of float32 and stores its codes. Unless [`Lanes::ANY_NORMAL`], the caller multiplies by the power of
    /// two that moves the format's smallest normal number to 2^-14, float16's, after [`Lanes::flush`].
    fn store_narrow(self, _x: [Self::F; 4], _format: Narrow, _out: &mut [u8], _stream: bool) {
        unreachable!("only where NARROW")
    }
    /// True if the level implements [`Lanes::store_nearest`].
    const NEAREST_BYTES: bool = false;
    /// Rounds a group of magnitudes below 2^64 to nearest even, and stores their codes with the signs of `x`.
    fn store_nearest(
        self,
        _a: [Self::F; 4],
        _x: [Self::U; 4],
        _f: ByteFormat,
        _out: &mut [u8],
        _stream: bool,
    ) {
        unreachable!("only where NEAREST_BYTES")
    }
    /// True if the level implements [`Lanes::store_random`] and [`Lanes::store_random8`].
    const RANDOM_BYTES: bool = false;
    /// Rounds a group of float32 up or down at random, by the 32 random bits beside each, and stores its codes. False, and
    /// nothing is stored, if bits that a sum lost might decide.
    fn store_random(self, _x: [[Self::U; 4]; 2], _f: ByteFormat, _out: &mut [u8], _stream: bool) -> bool {
        unreachable!("only where RANDOM_BYTES")
    }
    /// The same by the carry of 8 random bits each. False, and nothing is stored, if a number is far beyond the format.
    fn store_random8(
        self,
        _x: [Self::U; 4],
        _random: &[u8; MAX_GROUP],
        _format: ByteFormat,
        _out: &mut [u8],
        _stream: bool,
    ) -> bool {
        unreachable!("only where RANDOM_BYTES")
    }
    /// Flushes subnormal lanes to zero of the same sign, where the float units of the level are slow on them: only for
    /// what makes no difference between the two.
    #[inline(always)]
    fn flush(self, x: Self::F) -> Self::F {
        let bits = self.bits(x);
        let normal = self.gt(self.and(bits, self.u32(0x7FFF_FFFF)), self.u32(0x007F_FFFF));
        self.float(self.select(normal, bits, self.and(bits, self.u32(0x8000_0000))))
    }
    /// Copies, with non-temporal stores where the level has them. The caller must [`Lanes::fence`].
    #[inline(always)]
    fn stream<T: Plain>(self, src: &[T], out: &mut [T]) {
        out.copy_from_slice(src);
    }
    /// Orders non-temporal stores before everything that follows.
    fn fence(self) {}
    /// Prefetches the cache line `bytes` beyond the start of `src`; it may lie outside the slice.
    #[inline(always)]
    fn prefetch<T>(self, src: &[T], bytes: usize) {
        self.prefetch_at(src.as_ptr().cast::<u8>().wrapping_add(bytes));
    }
    /// Prefetches the cache line of an address, wherever it points.
    #[inline(always)]
    fn prefetch_at(self, _at: *const u8) {}
    /// The same into the second-level cache, which waits for more lines at a time.
    #[inline(always)]
    fn prefetch_far<T>(self, src: &[T], bytes: usize) {
        self.prefetch_far_at(src.as_ptr().cast::<u8>().wrapping_add(bytes));
    }
    /// The same for an address.
    #[inline(always)]
    fn prefetch_far_at(self, at: *const u8) {
        self.prefetch_at(at);
    }
    /// The same for the lines of some elements.
    #[inline(always)]
    fn fetch<T>(self, src: &[T], bytes: usize) {
        let mut line = 0;
        while line < std::mem::size_of_val(src) + 63 {
            self.prefetch_far(src, bytes.wrapping_add(line));
            line += 64;
        }
    }

    /// `a + b`.
    fn fadd(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a + b` toward zero, for `0 <= a <= b`. It does not depend on how the CPU is set to treat subnormal numbers, as long
    /// as the last bit of `b` is a normal one.
    #[inline(always)]
    fn add_toward_zero(self, a: Self::F, b: Self::F) -> Self::F {
        let (sum, rest) = self.sum_and_rest(a, b);
        let above = self.gt(self.bits(rest), self.bits(a));
        self.float(self.sub(self.bits(sum), self.select(above, self.u32(1), self.u32(0))))
    }
    /// The same, with the last bit set if the sum is not exact: rounded to odd.
    #[inline(always)]
    fn add_to_odd(self, a: Self::F, b: Self::F) -> Self::F {
        let (sum, rest) = self.sum_and_rest(a, b);
        let (one, zero) = (self.u32(1), self.u32(0));
        let above = self.select(self.gt(self.bits(rest), self.bits(a)), one, zero);
        let below = self.select(self.gt(self.bits(a), self.bits(rest)), one, zero);
        self.float(self.or(self.sub(self.bits(sum), above), self.or(above, below)))
    }
    /// `a + b`, and what of it is not `b`; exact for `0 <= a <= b`.
    #[inline(always)]
    fn sum_and_rest(self, a: Self::F, b: Self::F) -> (Self::F, Self::F) {
        let sum = self.fadd(a, b);
        (sum, self.fadd(sum, self.float(self.xor(self.bits(b), self.u32(1 << 31)))))
    }
    /// `a * b`.
    fn fmul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The same, for sums that stay in registers.
    #[inline(always)]
    fn fma_onto(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma(a, b, c)
    }
    /// The same, with item `I` of some in every lane of `a`.
    #[inline(always)]
    fn fma_item<const I: usize>(self, items: &[f32], b: Self::F, c: Self::F) -> Self::F {
        self.fma_onto(self.f32(items[I]), b, c)
    }
    /// `a * b + c` where `a * b` is a float32: rounded once, whether or not the level has a fused instruction.
    fn add_product(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The same, for sums that stay in registers.
    #[inline(always)]
    fn add_product_onto(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.add_product(a, b, c)
    }
    /// The same, with item `I` of some in every lane of `a`.
    #[inline(always)]
    fn add_product_item<const I: usize>(self, items: &[f32], b: Self::F, c: Self::F) -> Self::F {
        self.add_product_onto(self.f32(items[I]), b, c)
    }
    /// `a * b + c`, rounded once where the level can and else twice: for estimates only, as levels differ.
    fn estimate(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Some number, or NaN if `a`, or any `b` that went into it, is.
    #[inline(always)]
    fn max_or_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.float(self.max(self.bits(a), self.and(self.bits(b), self.u32(0x7FFF_FFFF))))
    }
    /// The smaller lane; unspecified which if one is NaN.
    fn fmin(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger lane; unspecified which if one is NaN.
    fn fmax(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn fdiv(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`, correct wherever `r = RN(1 / b)` and [`crate::quant`]'s reciprocal conditions hold; levels with a fused
    /// multiply-add correct `a * r` once instead of dividing, by what `(a * r) * b` has too much: a difference of +0, taken
    /// away, leaves a zero its sign.
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
    /// `a << n`, lane by lane; zero where `n` is 32 or more.
    fn shl_each(self, a: Self::U, n: Self::U) -> Self::U;
    /// `a >> n`, lane by lane, shifting in zeros; zero where `n` is 32 or more.
    fn shr_each(self, a: Self::U, n: Self::U) -> Self::U;
    /// The words of `GROUP / 4` counters of Philox4x32-10, from `block` on, in order.
    #[inline(always)]
    fn philox(self, keys: &PhiloxKeys, block: u64) -> [Self::U; 4] {
        philox::portable(self, keys, block)
    }
    /// The bytes of `GROUP / 16` counters of Philox4x32-10, from `block` on: one for each element of a group.
    #[inline(always)]
    fn philox_bytes(self, keys: &PhiloxKeys, block: u64) -> [u8; MAX_GROUP] {
        philox::portable_bytes::<Self>(keys, block)
    }
    /// `a > b`.
    fn gt(self, a: Self::U, b: Self::U) -> Self::M;
    /// `a` where true, else `b`.
    fn select(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U;
    /// True if any lane is.
    fn any(self, m: Self::M) -> bool;
    /// The largest lane.
    fn hmax(self, a: Self::U) -> u32;
    /// The largest lane of each of `N` vectors, in order.
    #[inline(always)]
    fn hmax_each(self, a: &[Self::U]) -> Self::U {
        let mut most = [0; MAX_GROUP];
        for (most, a) in most[..Self::N].iter_mut().zip(a) {
            *most = self.hmax(*a);
        }
        self.load_u32(&most)
    }
}

/// [`Lanes::polynomial`] of one number.
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

/// Rounds `x` to odd: truncated to float32, with the last bit set if inexact. Rounding the result again to at most 21
/// significant bits equals rounding `x` once.
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

/// Computes `a * b + c` rounded once, without a fused instruction.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    fma_to_odd(a, b, c) as f32
}

/// Computes `a * b + c` rounded to odd in float64: rounding that again to float32 rounds once.
#[inline(always)]
pub(super) fn fma_to_odd(a: f32, b: f32, c: f32) -> f64 {
    // A product of two float32 is a float64. Their sum is rounded to odd there, which 53 bits are enough for.
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let added = sum - product;
    let error = (product - (sum - added)) + (c - added);
    let bits = sum.to_bits();
    // Inexact and even: move one ulp toward the lost part. (For infinity and NaN the error does not matter.)
    let odd = if error == 0.0 || bits & 1 == 1 || !sum.is_finite() {
        bits
    } else if (error > 0.0) == (sum > 0.0) {
        bits + 1
    } else {
        bits - 1
    };
    f64::from_bits(odd)
}
