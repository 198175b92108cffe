//! NEON, which every AArch64 CPU has: eight lanes in two registers, as one would leave half of the 32 registers idle.
//!
//! Nothing beyond the first version of the architecture is used. `bf16` and `dotprod` have no operation that keeps the
//! bits of these kernels (`BFMMLA` rounds to odd and flushes subnormal numbers), and conversions between float16 and
//! float32 come without `fullfp16`. They are assembly here, since the compiler's own float16 vectors are younger than the
//! oldest compiler that builds this crate.

use super::lanes::{ColumnSink, Kernel, Lanes, Narrow};
use super::lookup::Lookup;
use super::philox::{self, PhiloxKeys};
use super::scalar::Scalar;
use super::{neon_narrow, neon_tables};
use std::arch::aarch64::*;
use std::arch::asm;

/// Proof that this CPU has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    /// The token, if the CPU has the features.
    #[inline]
    pub fn detect() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    /// Runs a kernel in a function that has the features switched on.
    #[inline]
    pub fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "neon")]
        fn inner<K: Kernel>(l: Neon, kernel: K) -> K::Out {
            kernel.run(l)
        }
        // SAFETY: the token proves that the CPU has NEON.
        unsafe { inner(self, kernel) }
    }
}

const N: usize = 8;

/// Eight 32-bit lanes: the lower four and the upper four.
#[derive(Clone, Copy)]
pub struct Two<T>(pub(super) T, pub(super) T);

/// Operations that are one instruction for each register.
macro_rules! lanewise {
    ($($name:ident($($x:ident: $t:ty),+) -> $r:ty = $op:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($x: Two<$t>),+) -> Two<$r> {
            // SAFETY: the token proves NEON.
            unsafe { Two($op($($x.0),+), $op($($x.1),+)) }
        }
    )*};
}

/// Eight float16, widened.
#[inline(always)]
pub(super) fn widen_f16(h: uint16x8_t) -> Two<float32x4_t> {
    let (low, high);
    // SAFETY: the instructions are NEON's, which the token of the caller proves, and touch no memory.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) low, in(vreg) h, options(pure, nomem, nostack));
        asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) high, in(vreg) h, options(pure, nomem, nostack));
    }
    Two(low, high)
}

/// Four float32, rounded to the nearest float16 and widened again.
#[inline(always)]
pub(super) fn through_f16(x: float32x4_t) -> float32x4_t {
    let y;
    // SAFETY: the instructions are NEON's, which the token of the caller proves, and touch no memory.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", "fcvtl {0:v}.4s, {0:v}.4h", out(vreg) y, in(vreg) x,
             options(pure, nomem, nostack));
    }
    y
}

/// The lower words of eight lanes, in order.
#[inline(always)]
fn low_words(x: Two<uint32x4_t>) -> uint16x8_t {
    // SAFETY: NEON is proved by the token of the caller.
    unsafe { vuzp1q_u16(vreinterpretq_u16_u32(x.0), vreinterpretq_u16_u32(x.1)) }
}

/// The lower bytes of sixteen words, in order.
#[inline(always)]
pub(super) fn low_bytes(a: uint16x8_t, b: uint16x8_t) -> uint8x16_t {
    // SAFETY: NEON is proved by the token of the caller.
    unsafe { vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b)) }
}

impl Lanes for Neon {
    const N: usize = N;
    type F = Two<float32x4_t>;
    type U = Two<uint32x4_t>;
    type M = Two<uint32x4_t>;

    const STREAMS: bool = false;
    const PAST_CACHES: bool = false;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.enter(kernel)
    }
    #[inline(always)]
    fn f32(self, x: f32) -> Self::F {
        // SAFETY: the token proves NEON.
        unsafe { Two(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    fn u32(self, x: u32) -> Self::U {
        // SAFETY: the token proves NEON.
        unsafe { Two(vdupq_n_u32(x), vdupq_n_u32(x)) }
    }

    #[inline(always)]
    fn load_f32(self, src: &[f32]) -> Self::F {
        let src = &src[..N];
        // SAFETY: eight float32 are read from a slice of eight; the token proves NEON.
        unsafe { Two(vld1q_f32(src.as_ptr()), vld1q_f32(src.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn load_u32(self, src: &[u32]) -> Self::U {
        let src = &src[..N];
        // SAFETY: eight words are read from a slice of eight; the token proves NEON.
        unsafe { Two(vld1q_u32(src.as_ptr()), vld1q_u32(src.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> Self::F {
        let src = &src[..N];
        // SAFETY: eight halves are read from a slice of eight; the token proves NEON.
        widen_f16(unsafe { vld1q_u16(src.as_ptr()) })
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> Self::F {
        let src = &src[..N];
        // SAFETY: eight halves are read from a slice of eight; the token proves NEON.
        unsafe {
            let x = vld1q_u16(src.as_ptr());
            // Put together so that the compiler sees what takes them apart again.
            let (low, high) = (vzip1q_u16(vdupq_n_u16(0), x), vzip2q_u16(vdupq_n_u16(0), x));
            Two(vreinterpretq_f32_u16(low), vreinterpretq_f32_u16(high))
        }
    }
    #[inline(always)]
    fn load_f64(self, src: &[f64]) -> Self::F {
        let src = &src[..N];
        // SAFETY: eight float64 are read from a slice of eight; the token proves NEON.
        unsafe {
            let two = |at: usize| {
                let (a, b) = (vld1q_f64(src.as_ptr().add(at)), vld1q_f64(src.as_ptr().add(at + 2)));
                vcvtx_high_f32_f64(vcvtx_f32_f64(a), b) // to odd
            };
            Two(two(0), two(4))
        }
    }
    #[inline(always)]
    fn columns(self, table: &Lookup, codes: &[u8], each: impl ColumnSink<Self>) {
        super::columns::neon(self, table, codes, each);
    }
    #[inline(always)]
    fn transpose(self, rows: &[f32], out: &mut [f32]) {
        super::transpose::neon(self, rows, out);
    }
    #[inline(always)]
    fn transpose_bytes(self, src: &[u8], stride: usize, out: &mut [u8], pitch: usize, _stream: bool) {
        super::byte_tiles::neon(self, src, stride, out, pitch);
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> Self::U {
        let src = &src[..N];
        // SAFETY: eight bytes are read from a slice of eight; the token proves NEON.
        unsafe {
            let words = vmovl_u8(vld1_u8(src.as_ptr()));
            Two(vmovl_u16(vget_low_u16(words)), vmovl_high_u16(words))
        }
    }
    // In float64 the portable code is NEON's: two lanes at a time.
    #[inline(always)]
    fn polynomial(self, c: &[f64], x: &[f64], out: &mut [f64]) {
        Scalar.polynomial(c, x, out);
    }
    #[inline(always)]
    fn products(self, rows: &[f64], steps: &[f64; 16], near: u32, out: &mut [f32]) -> bool {
        Scalar.products(rows, steps, near, out)
    }
    #[inline(always)]
    fn gather256(self, table: &[f32; 256], index: Self::U) -> Self::F {
        let mut lanes = [0; N];
        self.store_u32(index, &mut lanes);
        self.load_f32(&lanes.map(|i: u32| table[(i & 255) as usize]))
    }
    #[inline(always)]
    fn lookup(self, table: &Lookup, codes: &[u8]) -> [Self::F; 4] {
        neon_tables::lookup(self, table, codes)
    }
    no_register_table!();
    #[inline(always)]
    fn lookup_bf16(self, table: &Lookup, codes: &[u8], out: &mut [u16], _stream: bool) {
        neon_tables::lookup_bf16(self, table, codes, out);
    }

    #[inline(always)]
    fn store_f32(self, x: Self::F, out: &mut [f32], _stream: bool) {
        let out = &mut out[..N];
        // SAFETY: eight float32 are written to a slice of eight; the token proves NEON.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), x.0);
            vst1q_f32(out.as_mut_ptr().add(4), x.1);
        }
    }
    #[inline(always)]
    fn store_u32(self, x: Self::U, out: &mut [u32]) {
        let out = &mut out[..N];
        // SAFETY: eight words are written to a slice of eight; the token proves NEON.
        unsafe {
            vst1q_u32(out.as_mut_ptr(), x.0);
            vst1q_u32(out.as_mut_ptr().add(4), x.1);
        }
    }
    #[inline(always)]
    fn store_u8(self, x: [Self::U; 4], out: &mut [u8], _stream: bool) {
        let out = &mut out[..4 * N];
        let first = low_bytes(low_words(x[0]), low_words(x[1]));
        let second = low_bytes(low_words(x[2]), low_words(x[3]));
        // SAFETY: 32 bytes are written to a slice of 32; the token proves NEON.
        unsafe {
            vst1q_u8(out.as_mut_ptr(), first);
            vst1q_u8(out.as_mut_ptr().add(16), second);
        }
    }
    #[inline(always)]
    fn store_u16(self, x: [Self::U; 4], out: &mut [u16], _stream: bool) {
        let out = &mut out[..4 * N];
        for (x, out) in x.into_iter().zip(out.chunks_exact_mut(N)) {
            // SAFETY: eight words are written to a slice of eight; the token proves NEON.
            unsafe { vst1q_u16(out.as_mut_ptr(), low_words(x)) };
        }
    }
    const NARROW: bool = true;
    const ANY_NORMAL: bool = true;
    const FOUR_BITS: bool = true;
    #[inline(always)]
    fn store_narrow(self, x: [Self::F; 4], f: Narrow, out: &mut [u8], _stream: bool) {
        neon_narrow::store(self, x, f, out);
    }
    #[inline(always)]
    fn flush(self, x: Self::F) -> Self::F {
        x // no slower than other numbers
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the token proves NEON.
        unsafe { Two(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn add_product(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma(a, b, c)
    }
    #[inline(always)]
    fn estimate(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma(a, b, c)
    }
    #[inline(always)]
    fn fmin(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves NEON.
        unsafe { Two(vbslq_f32(vcltq_f32(a.0, b.0), a.0, b.0), vbslq_f32(vcltq_f32(a.1, b.1), a.1, b.1)) }
    }
    #[inline(always)]
    fn fmax(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves NEON.
        unsafe { Two(vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0), vbslq_f32(vcgtq_f32(a.1, b.1), a.1, b.1)) }
    }
    #[inline(always)]
    fn max_or_nan(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves NEON.
        unsafe { Two(vmaxq_f32(a.0, b.0), vmaxq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn fdiv_by(self, a: Self::F, b: Self::F, r: Self::F) -> Self::F {
        // SAFETY: the token proves NEON.
        let one = |a: float32x4_t, b: float32x4_t, r: float32x4_t| unsafe {
            // The quotient's negative, so that a residual of +0 leaves a zero its sign.
            let q = vmulq_f32(a, vnegq_f32(r));
            vnegq_f32(vfmsq_f32(q, vfmaq_f32(a, q, b), r))
        };
        Two(one(a.0, b.0, r.0), one(a.1, b.1, r.1))
    }
    #[inline(always)]
    fn hmax_each(self, a: &[Self::U]) -> Self::U {
        let a: &[Self::U; N] = a[..N].try_into().expect("as many");
        // SAFETY: the token proves NEON.
        unsafe {
            let most = a.map(|a| vmaxq_u32(a.0, a.1));
            let four =
                |i: usize| vpmaxq_u32(vpmaxq_u32(most[i], most[i + 1]), vpmaxq_u32(most[i + 2], most[i + 3]));
            Two(four(0), four(4))
        }
    }
    lanewise! {
        bits(x: float32x4_t) -> uint32x4_t = vreinterpretq_u32_f32;
        float(x: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32;
        fadd(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32;
        fmul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32;
        fdiv(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32;
        and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32;
        or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32;
        xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32;
        add(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vaddq_u32;
        sub(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vsubq_u32;
        min(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vminq_u32;
        max(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vmaxq_u32;
        gt(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vcgtq_u32;
        select(m: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vbslq_u32;
    }

    // A shift to the right is one to the left by less than zero, and only a byte of the distance counts.
    #[inline(always)]
    fn shl(self, a: Self::U, n: u32) -> Self::U {
        // SAFETY: the token proves NEON.
        let n = unsafe { vdupq_n_s32(n as i32) };
        // SAFETY: the token proves NEON.
        unsafe { Two(vshlq_u32(a.0, n), vshlq_u32(a.1, n)) }
    }
    #[inline(always)]
    fn shr(self, a: Self::U, n: u32) -> Self::U {
        // SAFETY: the token proves NEON.
        let n = unsafe { vdupq_n_s32(-(n as i32)) };
        // SAFETY: the token proves NEON.
        unsafe { Two(vshlq_u32(a.0, n), vshlq_u32(a.1, n)) }
    }
    #[inline(always)]
    fn shl_each(self, a: Self::U, n: Self::U) -> Self::U {
        // SAFETY: the token proves NEON.
        let one = |a: uint32x4_t, n: uint32x4_t| unsafe {
            vshlq_u32(a, vreinterpretq_s32_u32(vminq_u32(n, vdupq_n_u32(32))))
        };
        Two(one(a.0, n.0), one(a.1, n.1))
    }
    #[inline(always)]
    fn shr_each(self, a: Self::U, n: Self::U) -> Self::U {
        // SAFETY: the token proves NEON.
        let one = |a: uint32x4_t, n: uint32x4_t| unsafe {
            vshlq_u32(a, vnegq_s32(vreinterpretq_s32_u32(vminq_u32(n, vdupq_n_u32(32)))))
        };
        Two(one(a.0, n.0), one(a.1, n.1))
    }
    #[inline(always)]
    fn philox(self, keys: &PhiloxKeys, block: u64) -> [Self::U; 4] {
        philox::neon(self, keys, block)
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        // SAFETY: the token proves NEON.
        unsafe { vmaxvq_u32(vorrq_u32(m.0, m.1)) != 0 }
    }
    #[inline(always)]
    fn hmax(self, a: Self::U) -> u32 {
        // SAFETY: the token proves NEON.
        unsafe { vmaxvq_u32(vmaxq_u32(a.0, a.1)) }
    }
}
