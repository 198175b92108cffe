//! The portable level: arrays of lanes in plain Rust, which the compiler vectorises as far as the baseline
//! CPU allows. It defines what the other levels must reproduce.

use super::lanes::{self, f16_to_f32, f64_to_f32_odd, horner, ColumnSink, Kernel, Lanes, MIDPOINT};
use super::lookup::Lookup;

/// Lanes of the portable level: one SSE or NEON vector.
const W: usize = 4;

/// The portable level's token: every CPU has it.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Scalar {
    /// Runs a kernel as a function of its own, as the other levels do: inlined into its callers, it would be compiled
    /// once for each of them.
    #[inline(never)]
    pub fn enter<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }
}

// Written out lane by lane: loops and closures over arrays cost the compiler minutes.
#[inline(always)]
fn map<T: Copy, R>(a: [T; W], f: impl Fn(T) -> R) -> [R; W] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn map2<T: Copy, R>(a: [T; W], b: [T; W], f: impl Fn(T, T) -> R) -> [R; W] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline(always)]
fn load<T: Copy, R>(src: &[T], f: impl Fn(T) -> R) -> [R; W] {
    let src = &src[..W];
    [f(src[0]), f(src[1]), f(src[2]), f(src[3])]
}

#[inline(always)]
fn store<T>(x: [[u32; W]; 4], out: &mut [T], cut: impl Fn(u32) -> T) {
    let out = &mut out[..4 * W];
    for j in 0..4 {
        for i in 0..W {
            out[j * W + i] = cut(x[j][i]);
        }
    }
}

#[inline(always)]
fn less(a: u32, b: u32) -> bool {
    (a as i32) < (b as i32) // the baseline x86-64 only compares signed
}

impl Lanes for Scalar {
    const N: usize = W;
    const SHARES_LOOPS: bool = true;
    const PAST_CACHES: bool = false;
    type F = [f32; W];
    type U = [u32; W];
    type M = [bool; W];

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.enter(kernel)
    }
    #[inline(always)]
    fn f32(self, x: f32) -> Self::F {
        [x; W]
    }
    #[inline(always)]
    fn u32(self, x: u32) -> Self::U {
        [x; W]
    }
    #[inline(always)]
    fn bits(self, x: Self::F) -> Self::U {
        map(x, f32::to_bits)
    }
    #[inline(always)]
    fn float(self, x: Self::U) -> Self::F {
        map(x, f32::from_bits)
    }

    #[inline(always)]
    fn load_f32(self, src: &[f32]) -> Self::F {
        load(src, |x| x)
    }
    #[inline(always)]
    fn load_u32(self, src: &[u32]) -> Self::U {
        load(src, |x| x)
    }
    const WIDENS_F16: bool = false;
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> Self::F {
        load(src, f16_to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> Self::F {
        load(src, |x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    fn load_f64(self, src: &[f64]) -> Self::F {
        load(src, f64_to_f32_odd)
    }
    #[inline(always)]
    fn columns(self, table: &Lookup, codes: &[u8], each: impl ColumnSink<Self>) {
        super::columns::portable::<Self, W>(self, table, codes, each);
    }
    #[inline(always)]
    fn transpose(self, rows: &[f32], out: &mut [f32]) {
        super::transpose::portable::<W>(rows, out);
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> Self::U {
        load(src, u32::from)
    }
    #[inline(always)]
    fn polynomial(self, c: &[f64], x: &[f64], out: &mut [f64]) {
        const SIDE: usize = 8;
        let (xs, outs) = (x.chunks_exact(SIDE), out.chunks_exact_mut(SIDE));
        for (x, out) in xs.zip(outs) {
            let mut p = [0f64; SIDE];
            for c in c.iter().rev() {
                for (p, x) in p.iter_mut().zip(x) {
                    *p = *p * x + c;
                }
            }
            out.copy_from_slice(&p);
        }
        let done = x.len() / SIDE * SIDE;
        for (x, out) in x[done..].iter().zip(&mut out[done..]) {
            *out = horner(c, *x);
        }
    }
    #[inline(always)]
    fn products(self, rows: &[f64], steps: &[f64; 16], near: u32, out: &mut [f32]) -> bool {
        let mut found = false;
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(16)) {
            for (step, out) in steps.iter().zip(out) {
                let v = row * step;
                let off = (v.to_bits() as u32).wrapping_sub(MIDPOINT - near) & (2 * MIDPOINT - 1);
                found |= off < 2 * near;
                *out = v as f32;
            }
        }
        found
    }
    #[inline(always)]
    fn gather256(self, table: &[f32; 256], index: Self::U) -> Self::F {
        map(index, |i| table[(i & 255) as usize])
    }
    #[inline(always)]
    fn lookup(self, table: &Lookup, codes: &[u8]) -> [Self::F; 4] {
        let codes = &codes[..4 * W];
        let value = |code: u8| table.values[code as usize];
        [
            load(codes, value),
            load(&codes[W..], value),
            load(&codes[2 * W..], value),
            load(&codes[3 * W..], value),
        ]
    }
    no_register_table!();
    #[inline(always)]
    fn lookup_bf16(self, table: &Lookup, codes: &[u8], out: &mut [u16], _stream: bool) {
        for (out, code) in out[..4 * W].iter_mut().zip(&codes[..4 * W]) {
            *out = (table.values[*code as usize].to_bits() >> 16) as u16;
        }
    }

    #[inline(always)]
    fn store_f32(self, x: Self::F, out: &mut [f32], _stream: bool) {
        out[..W].copy_from_slice(&x);
    }
    #[inline(always)]
    fn store_u32(self, x: Self::U, out: &mut [u32]) {
        out[..W].copy_from_slice(&x);
    }
    #[inline(always)]
    fn store_u8(self, x: [Self::U; 4], out: &mut [u8], _stream: bool) {
        store(x, out, |x| x as u8);
    }
    #[inline(always)]
    fn store_u16(self, x: [Self::U; 4], out: &mut [u16], _stream: bool) {
        store(x, out, |x| x as u16);
    }

    #[inline(always)]
    fn fadd(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn add_toward_zero(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| {
            let sum = a + b;
            f32::from_bits(sum.to_bits().wrapping_sub(u32::from(less(a.to_bits(), (sum - b).to_bits()))))
        })
    }
    #[inline(always)]
    fn add_to_odd(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| {
            let sum = a + b;
            let (given, rest) = (a.to_bits(), (sum - b).to_bits());
            let cut = sum.to_bits().wrapping_sub(u32::from(less(given, rest)));
            f32::from_bits(cut | u32::from(given != rest))
        })
    }
    #[inline(always)]
    fn fmul(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        [
            lanes::fma(a[0], b[0], c[0]),
            lanes::fma(a[1], b[1], c[1]),
            lanes::fma(a[2], b[2], c[2]),
            lanes::fma(a[3], b[3], c[3]),
        ]
    }
    #[inline(always)]
    fn add_product(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fadd(self.fmul(a, b), c)
    }
    #[inline(always)]
    fn estimate(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fadd(self.fmul(a, b), c)
    }
    #[inline(always)]
    fn fmin(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fmax(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn fdiv(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fdiv_by(self, a: Self::F, b: Self::F, _r: Self::F) -> Self::F {
        self.fdiv(a, b)
    }

    #[inline(always)]
    fn and(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn add(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn sub(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, u32::wrapping_sub)
    }
    #[inline(always)]
    fn min(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, |a, b| if less(a, b) { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::U, b: Self::U) -> Self::U {
        map2(a, b, |a, b| if less(a, b) { b } else { a })
    }
    #[inline(always)]
    fn shl(self, a: Self::U, n: u32) -> Self::U {
        map(a, |a| a << (n & 31))
    }
    #[inline(always)]
    fn shr(self, a: Self::U, n: u32) -> Self::U {
        map(a, |a| a >> (n & 31))
    }
    #[inline(always)]
    fn shl_each(self, a: Self::U, n: Self::U) -> Self::U {
        map2(a, n, |a, n| a.checked_shl(n).unwrap_or(0))
    }
    #[inline(always)]
    fn shr_each(self, a: Self::U, n: Self::U) -> Self::U {
        map2(a, n, |a, n| a.checked_shr(n).unwrap_or(0))
    }
    #[inline(always)]
    fn gt(self, a: Self::U, b: Self::U) -> Self::M {
        map2(a, b, |a, b| less(b, a))
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::U, b: Self::U) -> Self::U {
        [
            if m[0] { a[0] } else { b[0] },
            if m[1] { a[1] } else { b[1] },
            if m[2] { a[2] } else { b[2] },
            if m[3] { a[3] } else { b[3] },
        ]
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        m[0] | m[1] | m[2] | m[3]
    }
    #[inline(always)]
    fn hmax(self, a: Self::U) -> u32 {
        a.into_iter().fold(0, |m, x| if less(m, x) { x } else { m })
    }
}
