//! Transpose of a tile of bytes, of as many rows as a group has elements.
//!
//! Sixteen rows are interleaved four times, each with the one eight rows below it: that moves a bit of a byte's place in its
//! row to the number of its row, so that after four times rows are columns.

/// Definition.
#[inline(always)]
pub(super) fn portable(side: usize, src: &[u8], stride: usize, out: &mut [u8], pitch: usize) {
    for row in 0..side {
        for (col, byte) in src[row * stride..][..side].iter().enumerate() {
            out[col * pitch + row] = *byte;
        }
    }
}

/// Interleaves sixteen rows four times, within each 128 bits.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! interleaved {
    ($rows:expr, $low:ident, $high:ident) => {{
        let mut rows = $rows;
        for _ in 0..4 {
            let before = rows;
            for i in 0..8 {
                rows[2 * i] = $low(before[i], before[i + 8]);
                rows[2 * i + 1] = $high(before[i], before[i + 8]);
            }
        }
        rows
    }};
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::Avx512;
    use super::super::cache::whole_lines;
    use super::super::transpose::rows_fit;
    use std::arch::x86_64::*;

    /// Transposes a 32 x 32 tile.
    #[inline(always)]
    pub fn avx2(_: Avx2, src: &[u8], stride: usize, out: &mut [u8], pitch: usize, _stream: bool) {
        assert!(rows_fit(32, 32, stride, src.len()) && rows_fit(32, 32, pitch, out.len()), "a tile");
        // SAFETY: the token proves the level; the last rows were just found to end in the slices.
        unsafe { avx2_at(src.as_ptr(), stride, out.as_mut_ptr(), pitch) }
    }

    /// Transposes 32 rows, sixteen at a time.
    ///
    /// # Safety
    /// There must be 32 rows of 32 bytes, one every `stride` bytes from `src` on, and room for as many from `out` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2_at(src: *const u8, stride: usize, out: *mut u8, pitch: usize) {
        let mut half = [[_mm256_setzero_si256(); 16]; 2];
        for (k, half) in half.iter_mut().enumerate() {
            let mut rows = [_mm256_setzero_si256(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                // SAFETY: the row is there.
                *row = unsafe { _mm256_loadu_si256(src.add((16 * k + i) * stride).cast()) };
            }
            *half = interleaved!(rows, _mm256_unpacklo_epi8, _mm256_unpackhi_epi8);
        }
        for (i, (first, second)) in half[0].iter().zip(half[1]).enumerate() {
            let low = _mm256_permute2x128_si256::<0x20>(*first, second);
            let high = _mm256_permute2x128_si256::<0x31>(*first, second);
            // SAFETY: there is room for each of 32 rows.
            unsafe {
                _mm256_storeu_si256(out.add(i * pitch).cast(), low);
                _mm256_storeu_si256(out.add((i + 16) * pitch).cast(), high);
            }
        }
    }

    /// Transposes a 64 x 64 tile; rows that are whole cache lines go past the caches if they are to.
    #[inline(always)]
    pub fn avx512(_: Avx512, src: &[u8], stride: usize, out: &mut [u8], pitch: usize, stream: bool) {
        assert!(rows_fit(64, 64, stride, src.len()) && rows_fit(64, 64, pitch, out.len()), "a tile");
        let stream = stream && whole_lines(out, pitch);
        // SAFETY: the token proves the level; the last rows were just found to end in the slices, and to begin where
        // streaming asks for it.
        unsafe { avx512_at(src.as_ptr(), stride, out.as_mut_ptr(), pitch, stream) }
    }

    /// Transposes 64 rows, sixteen at a time.
    ///
    /// # Safety
    /// There must be 64 rows of 64 bytes, one every `stride` bytes from `src` on, and room for as many from `out` on, each at
    /// a multiple of 64 bytes for `stream`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512_at(src: *const u8, stride: usize, out: *mut u8, pitch: usize, stream: bool) {
        let mut quarter = [[_mm512_setzero_si512(); 16]; 4];
        for (k, quarter) in quarter.iter_mut().enumerate() {
            let mut rows = [_mm512_setzero_si512(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                // SAFETY: the row is there.
                *row = unsafe { _mm512_loadu_si512(src.add((16 * k + i) * stride).cast()) };
            }
            *quarter = interleaved!(rows, _mm512_unpacklo_epi8, _mm512_unpackhi_epi8);
        }
        let even = |a, b| _mm512_shuffle_i64x2::<0x88>(a, b);
        let odd = |a, b| _mm512_shuffle_i64x2::<0xDD>(a, b);
        let [first, second, third, fourth] = quarter;
        for i in 0..16 {
            let (a, b, c, d) = (first[i], second[i], third[i], fourth[i]);
            let (x, y, z, w) = (even(a, b), even(c, d), odd(a, b), odd(c, d));
            for (k, row) in [even(x, y), even(z, w), odd(x, y), odd(z, w)].into_iter().enumerate() {
                // SAFETY: there is room for each of 64 rows, at a boundary for `stream`.
                unsafe {
                    let out = out.add((16 * k + i) * pitch);
                    if stream {
                        _mm512_stream_si512(out.cast(), row);
                    } else {
                        _mm512_storeu_si512(out.cast(), row);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::super::neon::Neon;
    use super::super::transpose::rows_fit;
    use std::arch::aarch64::*;

    /// Transposes a 32 x 32 tile, a quarter at a time.
    #[inline(always)]
    pub fn neon(_: Neon, src: &[u8], stride: usize, out: &mut [u8], pitch: usize) {
        assert!(rows_fit(32, 32, stride, src.len()) && rows_fit(32, 32, pitch, out.len()), "a tile");
        for (row, col) in [(0, 0), (0, 16), (16, 0), (16, 16)] {
            // SAFETY: the token proves NEON; the last rows were just found to end in the slices.
            unsafe {
                let mut rows = [vdupq_n_u8(0); 16];
                for (i, to) in rows.iter_mut().enumerate() {
                    *to = vld1q_u8(src.as_ptr().add((row + i) * stride + col));
                }
                for (i, turned) in interleaved!(rows, vzip1q_u8, vzip2q_u8).into_iter().enumerate() {
                    vst1q_u8(out.as_mut_ptr().add((col + i) * pitch + row), turned);
                }
            }
        }
    }
}
