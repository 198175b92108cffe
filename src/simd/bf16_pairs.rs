//! Sums of products of bfloat16, two at a time, in the order of `VDPBF16PS`.
//!
//! The instruction, bit for bit (Intel's manual, and measured): `c = fma(a[0], b[0], fma(a[1], b[1], c))`, rounded to
//! nearest even, with subnormal numbers taken as zero before and after each step; a result is subnormal if it is after
//! rounding to 24 bits. It does not look at MXCSR. [`dot_pair`] is the definition. [`Fused`] has its bytes at levels
//! without the instruction, as long as no number on the way is subnormal.

use super::ahead::Ahead;
use super::lanes::{fma_to_odd, Kernel, Lanes, MAX_GROUP};
use super::packed::{each_row, PackedColumns};

/// The smallest normal float32.
const NORMAL: f32 = f32::MIN_POSITIVE;

/// Zero of the same sign for a subnormal number, and any other as it is.
#[inline(always)]
pub fn flushed(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

/// `a * b + c`, rounded once, with subnormal `c` and results flushed; `a` and `b` are not subnormal.
#[inline(always)]
fn fma_flushed(a: f32, b: f32, c: f32) -> f32 {
    /// Moves the numbers about the smallest normal one to where float32 keeps all 24 bits of smaller ones.
    const UP: f64 = (1u64 << 40) as f64;
    let sum = fma_to_odd(a, b, flushed(c));
    if sum.abs() < f64::from(NORMAL) {
        let least = f64::from((sum * UP) as f32).abs() < f64::from(NORMAL) * UP;
        return if least { 0f32 } else { NORMAL }.copysign(sum as f32);
    }
    sum as f32
}

/// The sum of `c` and two products, the second of which is added first; `a` and `b` are not subnormal.
#[inline(always)]
pub fn dot_pair(a: [f32; 2], b: [f32; 2], c: f32) -> f32 {
    fma_flushed(a[0], b[0], fma_flushed(a[1], b[1], c))
}

/// A level's way to add the products of pairs.
///
/// A pair is the bits of a float32: the first bfloat16 below, the second above. It is packed as [`PairSum::PLANES`]
/// float32, each of which takes one instruction.
pub trait PairSum: Copy {
    /// The lanes of the level.
    type L: Lanes;
    /// Float32 that a pair is packed as.
    const PLANES: usize;
    /// The lanes.
    fn lanes(self) -> Self::L;
    /// Runs a kernel as a function that has the level's features.
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.lanes().call(kernel)
    }
    /// One of the float32 that pairs are packed as.
    fn plane(self, plane: usize, pairs: <Self::L as Lanes>::F) -> <Self::L as Lanes>::F;
    /// Adds the products of a plane: by a fused step, where the level has nothing else.
    #[inline(always)]
    fn add(
        self,
        a: <Self::L as Lanes>::F,
        b: <Self::L as Lanes>::F,
        c: <Self::L as Lanes>::F,
    ) -> <Self::L as Lanes>::F {
        self.lanes().fma_onto(a, b, c)
    }
    /// The same, with item `I` of some in every lane of `a`.
    #[inline(always)]
    fn add_item<const I: usize>(
        self,
        items: &[f32],
        b: <Self::L as Lanes>::F,
        c: <Self::L as Lanes>::F,
    ) -> <Self::L as Lanes>::F {
        self.lanes().fma_item::<I>(items, b, c)
    }
}

/// Two fused steps, on float32.
#[derive(Clone, Copy)]
pub struct Fused<L>(pub L);

impl<L: Lanes> PairSum for Fused<L> {
    type L = L;
    const PLANES: usize = 2;
    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }
    /// The second number of each pair, or the first, without subnormal ones.
    #[inline(always)]
    fn plane(self, plane: usize, pairs: L::F) -> L::F {
        let (l, pairs) = (self.0, self.0.bits(pairs));
        let bits = if plane == 0 { l.and(pairs, l.u32(0xFFFF_0000)) } else { l.shl(pairs, 16) };
        let normal = l.gt(l.and(bits, l.u32(0x7FFF_FFFF)), l.u32(0x007F_FFFF));
        l.float(l.select(normal, bits, l.and(bits, l.u32(0x8000_0000))))
    }
}

/// Single float32 in the place of pairs.
#[derive(Clone, Copy)]
pub struct Single<L>(pub L);

impl<L: Lanes> PairSum for Single<L> {
    type L = L;
    const PLANES: usize = 1;
    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }
    #[inline(always)]
    fn plane(self, _: usize, numbers: L::F) -> L::F {
        numbers
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::Avx512Bf16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx512::Avx512;
    use super::super::lanes::Kernel;
    use super::super::onto;
    use super::super::{level, Level};
    use super::PairSum;
    use std::arch::x86_64::*;
    use std::sync::OnceLock;

    /// Proof that this CPU has AVX-512 BF16, and all that AVX-512 stands for.
    #[derive(Clone, Copy)]
    pub struct Avx512Bf16(Avx512);

    impl Avx512Bf16 {
        /// The token, if the CPU has the feature.
        #[inline]
        pub fn detect() -> Option<Avx512Bf16> {
            let vectors = Avx512::detect()?;
            is_x86_feature_detected!("avx512bf16").then_some(Avx512Bf16(vectors))
        }

        /// Tests if the instruction adds more products in a time than fused steps on float32 do: half as many on Intel's
        /// cores, which begin one in two cycles and two fused steps in each; twice as many on AMD's.
        pub fn is_fastest() -> bool {
            static FASTEST: OnceLock<bool> = OnceLock::new();
            *FASTEST.get_or_init(|| __cpuid(0).ebx != u32::from_le_bytes(*b"Genu"))
        }

        /// The token, if the level in force has the feature.
        #[inline]
        pub fn in_force() -> Option<Avx512Bf16> {
            Avx512Bf16::detect().filter(|_| level() >= Level::Avx512Bf16)
        }
    }

    impl PairSum for Avx512Bf16 {
        type L = Avx512;
        const PLANES: usize = 1;
        #[inline(always)]
        fn lanes(self) -> Avx512 {
            self.0
        }
        #[inline]
        fn call<K: Kernel>(self, kernel: K) -> K::Out {
            #[target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vbmi,avx512vnni,avx512bf16,avx2,fma,f16c,bmi1,bmi2,lzcnt"
            )]
            fn inner<K: Kernel>(l: Avx512, kernel: K) -> K::Out {
                kernel.run(l)
            }
            // SAFETY: the token proves that the CPU has these features.
            unsafe { inner(self.0, kernel) }
        }
        #[inline(always)]
        fn plane(self, _: usize, pairs: __m512) -> __m512 {
            pairs
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the token proves AVX-512 BF16.
            unsafe { onto::pairs(a, b, c) }
        }
        #[inline(always)]
        fn add_item<const I: usize>(self, items: &[f32], b: __m512, c: __m512) -> __m512 {
            // SAFETY: the token proves AVX-512 BF16.
            unsafe { onto::pairs_item::<I>(items, b, c) }
        }
    }
}

/// The least magnitude among the normal numbers of some pairs, as float32 bits; all ones below the sign if there are none.
#[inline(always)]
pub fn least_normal<L: Lanes>(l: L, pairs: &[f32]) -> u32 {
    const NONE: u32 = 0x7FFF_FFFF;
    let least = |least: L::U, bits: L::U| {
        let magnitude = l.and(bits, l.u32(0x7FFF_0000));
        let normal = l.gt(magnitude, l.u32(0x007F_FFFF));
        l.min(least, l.select(normal, magnitude, l.u32(NONE)))
    };
    let (whole, rest) = pairs.split_at(pairs.len() / L::N * L::N);
    let mut padded = [0f32; MAX_GROUP];
    padded[..rest.len()].copy_from_slice(rest);
    let mut found = l.u32(NONE);
    for pairs in whole.chunks_exact(L::N).chain([&padded[..L::N]]) {
        let bits = l.bits(l.load_f32(pairs));
        found = least(least(found, bits), l.shl(bits, 16));
    }
    let mut each = [NONE; MAX_GROUP];
    l.store_u32(found, &mut each[..L::N]);
    each[..L::N].iter().copied().fold(NONE, u32::min)
}

/// Float32 from one packed row to the next: no power of two, which would map them to the same cache sets.
pub const STRIDE: usize = 784;

/// Packed rows, in planes.
#[derive(Clone, Copy)]
pub struct PairRows<'a> {
    /// The rows, from the first pair on, one every [`STRIDE`].
    pub items: &'a [f32],
    /// From one plane of a row to the next.
    pub plane: usize,
}

/// Pairs between two times of prefetching.
pub const PART: usize = 4;

/// Adds the products of `R` rows and `V` panels of columns to `sums`, pair by pair, and prefetches beside it.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
pub fn add_pairs<P: PairSum, const R: usize, const V: usize>(
    p: P,
    rows: PairRows<'_>,
    columns: PackedColumns<'_>,
    pairs: usize,
    ahead: &mut Ahead,
    sums: &mut [[<P::L as Lanes>::F; V]; R],
) {
    let (l, lanes) = (p.lanes(), P::L::N);
    assert!(rows.items.len() >= (R - 1) * STRIDE + (P::PLANES - 1) * rows.plane + pairs);
    assert!(columns.items.len() >= (V - 1) * columns.panel + pairs * P::PLANES * lanes);
    let mut held = *sums; // in registers from here on
    for i in 0..pairs {
        if i % PART == 0 {
            ahead.prefetch(l);
        }
        for plane in 0..P::PLANES {
            let mut each = [l.f32(0.0); V];
            for v in 0..V {
                let at = v * columns.panel + (i * P::PLANES + plane) * lanes;
                // SAFETY: the last of these ends where the second assertion says.
                each[v] = l.load_f32(unsafe { columns.items.get_unchecked(at..at + lanes) });
            }
            let at = plane * rows.plane + i;
            // SAFETY: these end where the first assertion says.
            let items = unsafe { rows.items.get_unchecked(at..at + (R - 1) * STRIDE + 1) };
            each_row!(ROW < R, {
                if const { V == 1 } {
                    held[ROW][0] = p.add_item::<{ ROW * STRIDE }>(items, each[0], held[ROW][0]);
                } else {
                    let x = l.f32(items[ROW * STRIDE]);
                    for v in 0..V {
                        held[ROW][v] = p.add(x, each[v], held[ROW][v]);
                    }
                }
            });
        }
    }
    *sums = held;
}
