//! Products of the numbers of a format and a scale, rounded to bfloat16, by tables of bytes: the mantissas of a binade and
//! the numbers below it make a table, and codes add their exponents to what they find.

use super::{F16Shift, Lanes, Lookup};

/// Bytes of a table: subnormal numbers and the first binade of a format of at most three mantissa bits.
const CODES: usize = 16;

/// The low bytes of products with a scale, as bfloat16 an exponent lower, and the high ones.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Products([u8; 2 * CODES]);

impl Products {
    /// Fills `tables` with those of scales, and returns how codes lie; `None` where a format has no such tables, or a
    /// product might not be a normal number.
    #[inline(always)]
    pub fn fill<L: Lanes>(
        l: L,
        tables: &mut Vec<Products>,
        table: &Lookup,
        scales: &[f32],
    ) -> Option<F16Shift> {
        const MOST: f32 = 1e38;
        let half = table.half.filter(|half| half.shift <= 1)?;
        let (least, most) = (table.values[1], table.values[usize::from(half.limit) - 1]);
        let normal = |s: f32| (least * s >= f32::MIN_POSITIVE) & (most * s <= MOST);
        if !scales.iter().fold(true, |all, s| all & normal(*s)) {
            return None;
        }
        tables.resize(scales.len(), Products([0; 2 * CODES]));
        for (out, s) in tables.iter_mut().zip(scales) {
            l.product_table(&table.values, *s, &mut out.0);
        }
        Some(half)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx2_table};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::{store, words, Avx2};
    use super::super::{F16Shift, Lanes};
    use super::{Products, CODES};
    use std::arch::x86_64::*;

    /// The place of each code, with the second quarter and the third exchanged.
    static PLACES: [u8; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i ^ if i / 8 == 1 || i / 8 == 2 { 24 } else { 0 }) as u8;
            i += 1;
        }
        places
    };

    /// Sixteen bytes in each half.
    #[inline(always)]
    fn twice(bytes: &[u8; CODES]) -> __m256i {
        // SAFETY: sixteen bytes are read from an array of sixteen; AVX2 is proved by the token of the caller.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }

    /// The low bytes of a table in each half, and the high ones.
    #[inline(always)]
    fn halves(products: &Products) -> [__m256i; 2] {
        let (halves, _) = products.0.as_chunks::<CODES>();
        [twice(&halves[0]), twice(&halves[1])]
    }

    /// The words of eight products.
    #[inline(always)]
    fn rounded(l: Avx2, values: &[f32], scale: f32) -> __m256i {
        let bits = l.bits(l.fmul(l.load_f32(values), l.f32(scale)));
        let odd = l.and(l.shr(bits, 16), l.u32(1));
        l.shr(l.add(l.add(bits, l.u32(0x7FFF)), odd), 16)
    }

    /// Writes a table.
    #[inline(always)]
    pub fn avx2_table(l: Avx2, values: &[f32; 256], scale: f32, out: &mut [u8; 2 * CODES]) {
        // SAFETY: the token proves AVX2.
        let bytes = unsafe {
            let words = words(rounded(l, &values[..8], scale), rounded(l, &values[8..], scale));
            let lower = _mm256_sub_epi16(words, _mm256_set1_epi16(1 << 7));
            let low = _mm256_and_si256(lower, _mm256_set1_epi16(0xFF));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, _mm256_srli_epi16::<8>(lower)))
        };
        store(bytes, out, false);
    }

    /// Writes the products of 32 codes, the first `split` of them by the first table; false, and nothing is written, if a
    /// code has none.
    #[inline(always)]
    pub fn avx2(
        _: Avx2,
        half: F16Shift,
        (first, second, split): (&Products, &Products, usize),
        codes: &[u8],
        out: &mut [u16],
        stream: bool,
    ) -> bool {
        let (codes, out) = (&codes[..32], &mut out[..32]);
        let man = half.shift + 2;
        // SAFETY: 32 bytes are read from arrays of 32; the token proves AVX2.
        unsafe {
            let (all, seven) = (_mm256_loadu_si256(codes.as_ptr().cast()), _mm256_set1_epi8(0x7F));
            let special =
                _mm256_cmpgt_epi8(_mm256_and_si256(all, seven), _mm256_set1_epi8(half.limit as i8 - 1));
            if _mm256_movemask_epi8(special) != 0 {
                return false;
            }
            // Quarters in the order that bytes are interleaved in.
            let all = _mm256_permute4x64_epi64::<0b11_01_10_00>(all);
            let magnitude = _mm256_and_si256(all, seven);
            let (one, mantissa) = (_mm256_set1_epi8(1 << man), _mm256_set1_epi8((1 << man) - 1));
            let index =
                _mm256_min_epu8(magnitude, _mm256_or_si256(_mm256_and_si256(magnitude, mantissa), one));
            let exponent = _mm256_max_epu8(_mm256_andnot_si256(mantissa, magnitude), one);
            let [mut low, mut high] = halves(first);
            (low, high) = (_mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index));
            if split < 32 {
                let others = halves(second);
                let places = _mm256_loadu_si256(PLACES.as_ptr().cast());
                let later = _mm256_cmpgt_epi8(places, _mm256_set1_epi8(split as i8 - 1));
                low = _mm256_blendv_epi8(low, _mm256_shuffle_epi8(others[0], index), later);
                high = _mm256_blendv_epi8(high, _mm256_shuffle_epi8(others[1], index), later);
            }
            let high = _mm256_xor_si256(high, _mm256_andnot_si256(seven, all));
            // An exponent on top of a word, down to where bfloat16 has its own.
            let (zero, down) = (_mm256_setzero_si256(), _mm_cvtsi32_si128(man as i32 + 1));
            let exponents = _mm256_srl_epi16(_mm256_unpacklo_epi8(zero, exponent), down);
            store(_mm256_add_epi16(_mm256_unpacklo_epi8(low, high), exponents), &mut out[..16], stream);
            let exponents = _mm256_srl_epi16(_mm256_unpackhi_epi8(zero, exponent), down);
            store(_mm256_add_epi16(_mm256_unpackhi_epi8(low, high), exponents), &mut out[16..], stream);
        }
        true
    }
}
