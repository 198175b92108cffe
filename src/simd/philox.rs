//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), one counter at a time and a
//! group of them side by side.
//!
//! In vectors every counter has two 64-bit lanes, one for each of the products of a round. A product needs the low half of
//! its lane alone, so what the halves above hold does not matter: a round is two products, two shifts and two exclusive ors.

use super::lanes::{Kernel, Lanes, MAX_GROUP};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The keys of the ten rounds, in words of 64 bits as vectors take them.
#[derive(Clone, Copy, Debug)]
pub struct PhiloxKeys([[u64; 2]; ROUNDS]);

impl PhiloxKeys {
    /// Schedules a key: a 64-bit seed, low word first.
    pub fn new(seed: u64) -> PhiloxKeys {
        let (k0, k1) = (seed as u32, (seed >> 32) as u32);
        PhiloxKeys(std::array::from_fn(|i| {
            [k0.wrapping_add(WEYL[0].wrapping_mul(i as u32)), k1.wrapping_add(WEYL[1].wrapping_mul(i as u32))]
                .map(u64::from)
        }))
    }

    /// The four words of a 128-bit counter.
    #[inline(always)]
    pub fn words(&self, mut counter: [u32; 4]) -> [u32; 4] {
        for key in self.0 {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
            counter = [
                (p1 >> 32) as u32 ^ counter[1] ^ key[0] as u32,
                p1 as u32,
                (p0 >> 32) as u32 ^ counter[3] ^ key[1] as u32,
                p0 as u32,
            ];
        }
        counter
    }

    /// The words of counter `block`.
    #[inline(always)]
    pub fn block(&self, block: u64) -> [u32; 4] {
        self.words([block as u32, (block >> 32) as u32, 0, 0])
    }

    /// The bytes of counter `block`: its words, each from its low byte up.
    #[inline(always)]
    pub fn bytes(&self, block: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.block(block)) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }
}

/// A group of counters, one by one, where vectors do not take them.
struct OneByOne<'a>(&'a PhiloxKeys, u64);

impl Kernel for OneByOne<'_> {
    type Out = [u32; MAX_GROUP];
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> [u32; MAX_GROUP] {
        group::<L>(self.0, self.1)
    }
}

/// The words of a group of counters, one by one.
#[inline(always)]
fn group<L: Lanes>(keys: &PhiloxKeys, block: u64) -> [u32; MAX_GROUP] {
    let mut words = [0; MAX_GROUP];
    for (i, words) in words[..L::GROUP].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *words = keys.block(block.wrapping_add(i as u64));
    }
    words
}

#[inline(always)]
fn load<L: Lanes>(l: L, words: &[u32; MAX_GROUP]) -> [L::U; 4] {
    let load = |j: usize| l.load_u32(&words[j * L::N..]);
    [load(0), load(1), load(2), load(3)]
}

/// The words of a group of counters.
#[inline(always)]
pub(super) fn portable<L: Lanes>(l: L, keys: &PhiloxKeys, block: u64) -> [L::U; 4] {
    load(l, &group::<L>(keys, block))
}

/// The bytes of `GROUP / 16` counters.
#[inline(always)]
pub(super) fn portable_bytes<L: Lanes>(keys: &PhiloxKeys, block: u64) -> [u8; MAX_GROUP] {
    let mut bytes = [0; MAX_GROUP];
    for (i, bytes) in bytes[..L::GROUP].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        *bytes = keys.bytes(block.wrapping_add(i as u64));
    }
    bytes
}

/// Vectors that the low words of counters fit, with none to carry beyond them.
#[inline(always)]
fn carries(block: u64) -> bool {
    block as u32 > u32::MAX - 16
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::neon;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

/// Counters as bytes.
#[cfg(target_arch = "x86_64")]
pub(super) mod bytes {
    pub use super::x86::{avx2_bytes as avx2, avx512_bytes as avx512};
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::super::lanes::Lanes;
    use super::super::neon::{Neon, Two};
    use super::{carries, load, OneByOne, PhiloxKeys, MULTIPLIERS};
    use std::arch::aarch64::*;

    /// Eight counters, four at a time.
    #[inline(always)]
    pub fn neon(l: Neon, keys: &PhiloxKeys, block: u64) -> [Two<uint32x4_t>; 4] {
        if carries(block) {
            return load(l, &l.call(OneByOne(keys, block)));
        }
        // SAFETY: four words are read from an array of four; the token proves NEON.
        unsafe {
            let order = vld1q_u32([0, 1, 2, 3].as_ptr());
            let first = |i: u32| vaddq_u32(vdupq_n_u32(block as u32 + i), order);
            let (high, zero) = (vdupq_n_u32((block >> 32) as u32), vdupq_n_u32(0));
            let mut counters = [[first(0), high, zero, zero], [first(4), high, zero, zero]];
            for [k0, k1] in keys.0 {
                let (k0, k1) = (vdupq_n_u32(k0 as u32), vdupq_n_u32(k1 as u32));
                counters = counters.map(
                    #[inline(always)]
                    |c| {
                        let ([high0, low0], [high1, low1]) =
                            (product(c[0], MULTIPLIERS[0]), product(c[2], MULTIPLIERS[1]));
                        let (c0, c2) =
                            (veorq_u32(veorq_u32(high1, c[1]), k0), veorq_u32(veorq_u32(high0, c[3]), k1));
                        [c0, low1, c2, low0]
                    },
                );
            }
            let ([a, b], [c, d]) = (words(counters[0]), words(counters[1]));
            [a, b, c, d]
        }
    }

    /// The upper and lower words of products.
    #[inline(always)]
    fn product(a: uint32x4_t, by: u32) -> [uint32x4_t; 2] {
        // SAFETY: NEON is proved by the token of the caller.
        unsafe {
            let low = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(a), by));
            let high = vreinterpretq_u32_u64(vmull_high_n_u32(a, by));
            [vuzp2q_u32(low, high), vuzp1q_u32(low, high)]
        }
    }

    /// The words of four counters, one counter after the other.
    #[inline(always)]
    fn words(c: [uint32x4_t; 4]) -> [Two<uint32x4_t>; 2] {
        // SAFETY: NEON is proved by the token of the caller.
        unsafe {
            let pair =
                |a, b| (vreinterpretq_u64_u32(vzip1q_u32(a, b)), vreinterpretq_u64_u32(vzip2q_u32(a, b)));
            let ((a, b), (c, d)) = (pair(c[0], c[1]), pair(c[2], c[3]));
            let two =
                |x, y| Two(vreinterpretq_u32_u64(vzip1q_u64(x, y)), vreinterpretq_u32_u64(vzip2q_u64(x, y)));
            [two(a, c), two(b, d)]
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::Avx512;
    use super::super::lanes::Lanes;
    use super::{carries, load, OneByOne, PhiloxKeys, MAX_GROUP, MULTIPLIERS};
    use std::arch::x86_64::*;

    /// The first two rounds, as far as they are the same for all counters: the key of the second in its first lane, and the
    /// words that come of the product of the first.
    #[inline(always)]
    fn first_rounds(keys: &PhiloxKeys, block: u64) -> (u32, u32) {
        let [first, second, ..] = keys.0;
        let product = u64::from(MULTIPLIERS[0]) * (block >> 32 ^ first[0]);
        ((product >> 32 ^ second[1]) as u32, product as u32)
    }

    /// Ten rounds of two chains of counters, step by step side by side: one alone would wait for its products. The unpacks
    /// at the end bring every other counter together. A level names its vector, the order of a chain's counters, how many
    /// they are, and its intrinsics.
    macro_rules! counters {
        ($(#[$doc:meta])* $name:ident($token:ty) -> $vector:ty, $order:expr, $lanes:literal
         { $($intrinsic:ident as $word:ident),+ }) => {
            $(#[$doc])*
            #[inline(always)]
            pub fn $name(l: $token, keys: &PhiloxKeys, block: u64) -> [$vector; 4] {
                $(use $intrinsic as $word;)+
                if carries(block) {
                    return load(l, &l.call(OneByOne(keys, block)));
                }
                // SAFETY: the token proves the features of the level.
                unsafe {
                    let (by0, by1) = (set64(i64::from(MULTIPLIERS[0])), set64(i64::from(MULTIPLIERS[1])));
                    let key = |round: usize, i: usize| set32(keys.0[round][i] as i32);
                    let (third, last) = first_rounds(keys, block);
                    let (third, last) = (set32(third as i32), set32(last as i32));
                    let first = |i: u32| add(set64(i64::from(block as u32 + i)), $order);
                    let (p, q) = (mul(first(0), by0), mul(first($lanes), by0));
                    let k = key(0, 1);
                    let x2 = [xor(upper::<32>(p), k), xor(upper::<32>(q), k)];
                    let mut c1 = [mul(x2[0], by1), mul(x2[1], by1)];
                    let k = key(1, 0);
                    let mut x0 = [xor(upper::<32>(c1[0]), k), xor(upper::<32>(c1[1]), k)];
                    let mut x2 = [xor(p, third), xor(q, third)];
                    let mut c3 = [last; 2];
                    for_rounds!(2 3 4 5 6 7 8, round => {
                        let p0 = [mul(x0[0], by0), mul(x0[1], by0)];
                        let p1 = [mul(x2[0], by1), mul(x2[1], by1)];
                        let (k0, k1) = (key(round, 0), key(round, 1));
                        x0 = [shifted(p1[0], c1[0], k0), shifted(p1[1], c1[1], k0)];
                        x2 = [swapped(p0[0], c3[0], k1), swapped(p0[1], c3[1], k1)];
                        (c1, c3) = (p1, p0);
                    });
                    let p0 = [mul(x0[0], by0), mul(x0[1], by0)];
                    let p1 = [mul(x2[0], by1), mul(x2[1], by1)];
                    let (k0, k1) = (key(9, 0), key(9, 1));
                    let (e, f) = (paired(p1[0], c1[0], k0), paired(p0[0], c3[0], k1));
                    let (g, h) = (paired(p1[1], c1[1], k0), paired(p0[1], c3[1], k1));
                    [low(e, f), high(e, f), low(g, h), high(g, h)]
                }
            }
        };
    }

    /// A body once for each round.
    macro_rules! for_rounds {
        ($($number:literal)*, $round:ident => $body:block) => { $({ let $round = $number; $body })* };
    }

    counters! {
        /// Sixteen counters.
        avx512(Avx512) -> __m512i, _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), 8 {
            _mm512_set1_epi32 as set32, _mm512_set1_epi64 as set64, _mm512_add_epi64 as add, _mm512_mul_epu32 as mul,
            _mm512_xor_si512 as xor, _mm512_srli_epi64 as upper, _mm512_unpacklo_epi64 as low, _mm512_unpackhi_epi64 as high
        }
    }

    counters! {
        /// Eight counters.
        avx2(Avx2) -> __m256i, _mm256_setr_epi64x(0, 2, 1, 3), 4 {
            _mm256_set1_epi32 as set32, _mm256_set1_epi64x as set64, _mm256_add_epi64 as add, _mm256_mul_epu32 as mul,
            _mm256_xor_si256 as xor, _mm256_srli_epi64 as upper, _mm256_unpacklo_epi64 as low, _mm256_unpackhi_epi64 as high,
            shifted_8 as shifted, shifted_8 as swapped, paired_8 as paired
        }
    }

    /// The next word of counters from the upper half of a product.
    #[inline(always)]
    fn shifted(product: __m512i, word: __m512i, key: __m512i) -> __m512i {
        // SAFETY: AVX-512 is proved by the token of the caller.
        unsafe { _mm512_ternarylogic_epi32::<0x96>(_mm512_srli_epi64::<32>(product), word, key) }
    }

    /// The same on another port of the CPU.
    #[inline(always)]
    fn swapped(product: __m512i, word: __m512i, key: __m512i) -> __m512i {
        // SAFETY: AVX-512 is proved by the token of the caller.
        unsafe {
            let upper = _mm512_shuffle_epi32::<0b10_11_00_01>(product);
            _mm512_ternarylogic_epi32::<0x96>(upper, word, key)
        }
    }

    /// Two words of a last round beside each other.
    #[inline(always)]
    fn paired(product: __m512i, word: __m512i, key: __m512i) -> __m512i {
        // SAFETY: AVX-512 is proved by the token of the caller.
        unsafe {
            let swapped = _mm512_shuffle_epi32::<0b10_11_00_01>(product);
            _mm512_mask_ternarylogic_epi32::<0x96>(swapped, 0x5555, word, key)
        }
    }

    /// Multipliers, or the keys of a round, for the first and third word of a counter, as they stand in its 128 bits.
    #[inline(always)]
    fn pair(words: &[u64; 2]) -> __m128i {
        // SAFETY: the array is 16 bytes; SSE2 is part of the baseline.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    const BY: [u64; 2] = [MULTIPLIERS[0] as u64, MULTIPLIERS[1] as u64];

    /// Four counters, each in 128 bits as it is in memory.
    #[inline(always)]
    pub fn avx512_bytes(_l: Avx512, keys: &PhiloxKeys, block: u64) -> [u8; MAX_GROUP] {
        let mut bytes = [0; MAX_GROUP];
        // SAFETY: the token proves AVX-512, and the array is 64 bytes.
        unsafe {
            let by = _mm512_broadcast_i32x4(pair(&BY));
            let first = _mm512_maskz_set1_epi64(0b0101_0101, block as i64);
            let mut words = _mm512_add_epi64(first, _mm512_setr_epi64(0, 0, 1, 0, 2, 0, 3, 0));
            for key in &keys.0 {
                let product = _mm512_shuffle_epi32::<0b00_01_10_11>(_mm512_mul_epu32(words, by));
                let key = _mm512_broadcast_i32x4(pair(key));
                words = _mm512_ternarylogic_epi32::<0x96>(product, _mm512_srli_epi64::<32>(words), key);
            }
            _mm512_storeu_si512(bytes.as_mut_ptr().cast(), words);
        }
        bytes
    }

    /// Two counters, each in 128 bits as it is in memory.
    #[inline(always)]
    pub fn avx2_bytes(_l: Avx2, keys: &PhiloxKeys, block: u64) -> [u8; MAX_GROUP] {
        let mut bytes = [0; MAX_GROUP];
        // SAFETY: the token proves AVX2, and the array is 64 bytes.
        unsafe {
            let by = _mm256_broadcastsi128_si256(pair(&BY));
            let mut words = _mm256_setr_epi64x(block as i64, 0, block.wrapping_add(1) as i64, 0);
            for key in &keys.0 {
                let product = _mm256_shuffle_epi32::<0b00_01_10_11>(_mm256_mul_epu32(words, by));
                let mixed =
                    _mm256_xor_si256(_mm256_srli_epi64::<32>(words), _mm256_broadcastsi128_si256(pair(key)));
                words = _mm256_xor_si256(product, mixed);
            }
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), words);
        }
        bytes
    }

    /// The next word of counters from the upper half of a product.
    #[inline(always)]
    fn shifted_8(product: __m256i, word: __m256i, key: __m256i) -> __m256i {
        // SAFETY: AVX2 is proved by the token of the caller.
        unsafe { _mm256_xor_si256(_mm256_srli_epi64::<32>(product), _mm256_xor_si256(word, key)) }
    }

    /// Two words of a last round beside each other.
    #[inline(always)]
    fn paired_8(product: __m256i, word: __m256i, key: __m256i) -> __m256i {
        // SAFETY: AVX2 is proved by the token of the caller.
        unsafe {
            let swapped = _mm256_shuffle_epi32::<0b10_11_00_01>(product);
            let mixed = _mm256_xor_si256(swapped, _mm256_xor_si256(word, key));
            _mm256_blend_epi32::<0b0101_0101>(swapped, mixed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{dispatch_at, Kernel, Level};

    /// The known-answer vectors published with the Random123 library.
    #[test]
    fn known_answers() {
        let philox =
            |counter, [k0, k1]: [u32; 2]| PhiloxKeys::new(u64::from(k0) | u64::from(k1) << 32).words(counter);
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    struct Group(PhiloxKeys, u64);

    impl Kernel for Group {
        type Out = Vec<u32>;
        fn run<L: Lanes>(self, l: L) -> Vec<u32> {
            let mut words = vec![0; L::GROUP];
            for (word, out) in l.philox(&self.0, self.1).into_iter().zip(words.chunks_exact_mut(L::N)) {
                l.store_u32(word, out);
            }
            words
        }
    }

    struct Bytes(PhiloxKeys, u64);

    impl Kernel for Bytes {
        type Out = Vec<u8>;
        fn run<L: Lanes>(self, l: L) -> Vec<u8> {
            l.philox_bytes(&self.0, self.1)[..L::GROUP].to_vec()
        }
    }

    /// Groups at every level, among them those where the low word of the counter carries.
    #[test]
    fn groups_are_counters_side_by_side() {
        let low = u64::from(u32::MAX);
        for seed in [0, 1, 0x0123_4567_89AB_CDEF, u64::MAX] {
            let keys = PhiloxKeys::new(seed);
            for block in [0, 1, 12_345, low - 40, low - 16, low - 3, low, low + 1, 0x0012_3456_7890_1234] {
                for level in Level::all_available() {
                    for (i, four) in dispatch_at(level, Group(keys, block)).chunks_exact(4).enumerate() {
                        assert_eq!(four, keys.block(block + i as u64), "{seed} {block} {}", level.name());
                    }
                    for (i, bytes) in dispatch_at(level, Bytes(keys, block)).chunks_exact(16).enumerate() {
                        assert_eq!(bytes, keys.bytes(block + i as u64), "{seed} {block} {}", level.name());
                    }
                }
            }
        }
    }
}
