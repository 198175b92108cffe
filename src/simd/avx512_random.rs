//! Stochastic rounding to codes of a byte, sixteen lanes at a time until codes fit 16 bits, and 32 from then on.

use super::avx512::{store as store_bytes, Avx512};
use super::lanes::{ByteFormat, Lanes, MAX_GROUP};
use std::arch::x86_64::*;

/// The sum of a magnitude and the larger of it and the smallest normal number, as bits.
#[inline(always)]
fn sum(l: Avx512, x: __m512i, f: &ByteFormat) -> __m512i {
    let a = l.float(l.and(x, l.u32(0x7FFF_FFFF)));
    l.bits(l.add_toward_zero(a, l.fmax(a, l.float(l.u32(f.least)))))
}

/// Random bits less a sum, in units of the sum's last bit. Rounded down to codes, this is the negative of a magnitude
/// rounded up by as much as the random bits leave of it.
#[inline(always)]
fn below(l: Avx512, x: __m512i, random: __m512i, f: &ByteFormat) -> __m512i {
    l.sub(l.shr(random, 32 - f.cut), sum(l, x, f))
}

/// Codes of 32 magnitudes in 16-bit lanes.
#[inline(always)]
fn magnitudes(a: __m512i, b: __m512i, f: &ByteFormat) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let cut = _mm512_set1_epi32(f.cut as i32);
        let negative = _mm512_packs_epi32(_mm512_srav_epi32(a, cut), _mm512_srav_epi32(b, cut));
        let zero = -((f.least >> f.cut) as i16);
        let code = _mm512_sub_epi16(_mm512_set1_epi16(zero), negative);
        // Nothing but NaN is above infinity.
        let infinity = zero + (0x7F80_0000u32 >> f.cut) as i16;
        let nan = _mm512_cmpgt_epi16_mask(code, _mm512_set1_epi16(infinity));
        let code = _mm512_min_epi16(code, _mm512_set1_epi16(i16::from(f.limit)));
        _mm512_mask_mov_epi16(code, nan, _mm512_set1_epi16(i16::from(f.nan)))
    }
}

/// [`Lanes::store_random`].
#[inline(always)]
pub(super) fn store(
    l: Avx512,
    [x, random]: [[__m512i; 4]; 2],
    f: ByteFormat,
    out: &mut [u8],
    stream: bool,
) -> bool {
    let d = [
        below(l, x[0], random[0], &f),
        below(l, x[1], random[1], &f),
        below(l, x[2], random[2], &f),
        below(l, x[3], random[3], &f),
    ];
    // SAFETY: the token proves AVX-512.
    unsafe {
        // Equal to the random bits, as far as the sum goes: what was cut off it decides.
        let behind = _mm512_set1_epi32((1 << f.cut) - 1);
        let undecided = _mm512_testn_epi32_mask(d[0], behind)
            | _mm512_testn_epi32_mask(d[1], behind)
            | _mm512_testn_epi32_mask(d[2], behind)
            | _mm512_testn_epi32_mask(d[3], behind);
        if undecided != 0 {
            return false;
        }
        let codes = _mm512_packus_epi16(magnitudes(d[0], d[1], &f), magnitudes(d[2], d[3], &f));
        store_bytes(ordered(signed(codes, x, &f)), out, stream);
    }
    true
}

/// Codes of magnitudes with the signs of numbers, both in the order in which four vectors are packed.
#[inline(always)]
fn signed(codes: __m512i, x: [__m512i; 4], f: &ByteFormat) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let signs = _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
        let negative = _mm512_movepi8_mask(signs);
        _mm512_mask_add_epi8(codes, negative, codes, _mm512_set1_epi8(f.sign as i8))
    }
}

/// Bytes in the order of elements of those in the order of packs, and the other way about: each four bytes are an entry of a
/// matrix that is transposed.
#[inline(always)]
fn ordered(bytes: __m512i) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_epi32(order, bytes)
    }
}

/// Codes of sixteen magnitudes with eight bits behind the point.
#[inline(always)]
fn fixed(l: Avx512, x: __m512i, f: &ByteFormat) -> __m512i {
    l.shr(l.sub(sum(l, x, f), l.u32(f.least)), f.cut - 8)
}

/// [`Lanes::store_random8`].
#[inline(always)]
pub(super) fn store8(
    l: Avx512,
    x: [__m512i; 4],
    random: &[u8; MAX_GROUP],
    f: ByteFormat,
    out: &mut [u8],
    stream: bool,
) -> bool {
    // SAFETY: the token proves AVX-512, and the array is 64 bytes.
    unsafe {
        let random = ordered(_mm512_loadu_si512(random.as_ptr().cast()));
        let zero = _mm512_setzero_si512();
        // Sums beyond 16 bits stay there as the largest of them, and more added changes nothing.
        let low = _mm512_packus_epi32(fixed(l, x[0], &f), fixed(l, x[1], &f));
        let high = _mm512_packus_epi32(fixed(l, x[2], &f), fixed(l, x[3], &f));
        let low = _mm512_adds_epu16(low, _mm512_unpacklo_epi8(random, zero));
        let high = _mm512_adds_epu16(high, _mm512_unpackhi_epi8(random, zero));
        let codes = _mm512_packus_epi16(_mm512_srli_epi16::<8>(low), _mm512_srli_epi16::<8>(high));
        // NaN and infinity are among these.
        if _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(-1)) != 0 {
            return false;
        }
        let codes = _mm512_min_epu8(codes, _mm512_set1_epi8(f.limit as i8));
        store_bytes(ordered(signed(codes, x, &f)), out, stream);
    }
    true
}
