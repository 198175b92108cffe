//! Transpose of a 16 x 16 tile of 16-bit words.

/// Rows and columns of the tile.
const SIDE: usize = 16;

/// Transposes: word `j` of row `i`, which begins at byte `i * stride`, becomes word `i` of row `j` of `out`.
#[inline(always)]
pub fn transpose(codes: &[u8], stride: usize, out: &mut [u8; 512]) {
    assert!(codes.len() >= (SIDE - 1) * stride + 2 * SIDE);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64; reads end at 15 * stride + 32, which is checked; `out` holds all four quarters.
    unsafe {
        for (row, word) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            let from = codes.as_ptr().add(row * stride + 2 * word);
            let to = out.as_mut_ptr().add(2 * (word * SIDE + row));
            quarter(from, stride, to);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..SIDE {
        for j in 0..SIDE {
            out[2 * (j * SIDE + i)..][..2].copy_from_slice(&codes[i * stride + 2 * j..][..2]);
        }
    }
}

/// Transposes an 8 x 8 tile.
///
/// # Safety
/// Sixteen bytes can be read at each of eight multiples of `stride`, and written at each of eight multiples of 32.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn quarter(from: *const u8, stride: usize, to: *mut u8) {
    use std::arch::x86_64::*;
    // SAFETY: as the function's own.
    unsafe {
        let mut two = [_mm_setzero_si128(); 8];
        for i in 0..4 {
            let a = _mm_loadu_si128(from.add(2 * i * stride).cast());
            let b = _mm_loadu_si128(from.add((2 * i + 1) * stride).cast());
            two[i] = _mm_unpacklo_epi16(a, b);
            two[i + 4] = _mm_unpackhi_epi16(a, b);
        }
        for half in 0..2 {
            let [a, b, c, d] = [two[4 * half], two[4 * half + 1], two[4 * half + 2], two[4 * half + 3]];
            let to = to.add(4 * half * 2 * SIDE);
            let (x, y) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            _mm_storeu_si128(to.cast(), _mm_unpacklo_epi64(x, y));
            _mm_storeu_si128(to.add(2 * SIDE).cast(), _mm_unpackhi_epi64(x, y));
            let (x, y) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            _mm_storeu_si128(to.add(4 * SIDE).cast(), _mm_unpacklo_epi64(x, y));
            _mm_storeu_si128(to.add(6 * SIDE).cast(), _mm_unpackhi_epi64(x, y));
        }
    }
}
