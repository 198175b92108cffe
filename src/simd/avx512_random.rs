//! Stochastic rounding to codes of a byte, sixteen lanes at a time until codes fit 16 bits, and 32 from then on.

use super::avx512::{store as store_bytes, Avx512};
use super::lanes::{Lanes, RandomBytes};
use std::arch::x86_64::*;

/// Random bits less the sum of a magnitude and the larger of it and the smallest normal number, in units of the sum's last
/// bit. Rounded down to codes, this is the negative of a magnitude rounded up by as much as the random bits leave of it.
#[inline(always)]
fn below(l: Avx512, x: __m512i, random: __m512i, f: &RandomBytes) -> __m512i {
    let a = l.float(l.and(x, l.u32(0x7FFF_FFFF)));
    let sum = l.bits(l.add_toward_zero(a, l.fmax(a, l.float(l.u32(f.least)))));
    l.sub(l.shr(random, 32 - f.cut), sum)
}

/// Codes of 32 magnitudes in 16-bit lanes.
#[inline(always)]
fn magnitudes(a: __m512i, b: __m512i, f: &RandomBytes) -> __m512i {
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
    f: RandomBytes,
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
        let signs = _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
        let negative = _mm512_movepi8_mask(signs);
        let codes = _mm512_mask_add_epi8(codes, negative, codes, _mm512_set1_epi8(f.sign as i8));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        store_bytes(_mm512_permutexvar_epi32(order, codes), out, stream);
    }
    true
}
