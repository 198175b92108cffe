//! Lookups in NEON: through float16 where a shift makes it of the codes, and otherwise in tables of bytes, of which one
//! instruction sees 64.

use super::lookup::{F16Shift, Lookup};
use super::neon::{widen_f16, Neon, Two};
use std::arch::aarch64::*;

/// Sixteen codes, to the bytes of two vectors.
type Pair = [uint8x16_t; 2];

/// Loads 32 codes.
#[inline(always)]
fn load(codes: &[u8]) -> Pair {
    let codes = &codes[..32];
    // SAFETY: 32 bytes are read from a slice of 32; NEON is proved by the token of the callers.
    unsafe { [vld1q_u8(codes.as_ptr()), vld1q_u8(codes.as_ptr().add(16))] }
}

/// One byte of each table entry, chosen by 32 bytes. Where `sign` is known, the upper half of the table is the lower one
/// with those bits set.
#[inline(always)]
fn bytes(table: &[u8; 256], sign: Option<u8>, index: Pair) -> Pair {
    let quarters = if sign.is_some() { 2 } else { 4 };
    // SAFETY: 64 bytes are read from each quarter of 256; NEON is proved by the token of the callers.
    unsafe {
        let within = vdupq_n_u8(if sign.is_some() { 0x7F } else { 0xFF });
        let mut at = [vandq_u8(index[0], within), vandq_u8(index[1], within)];
        let first = vld1q_u8_x4(table.as_ptr());
        let mut found = [vqtbl4q_u8(first, at[0]), vqtbl4q_u8(first, at[1])];
        for quarter in 1..quarters {
            let next = vld1q_u8_x4(table.as_ptr().add(64 * quarter));
            for (found, at) in found.iter_mut().zip(&mut at) {
                // An index beyond the 64, or before them, leaves what was found.
                *at = vsubq_u8(*at, vdupq_n_u8(64));
                *found = vqtbx4q_u8(*found, next, *at);
            }
        }
        if let Some(sign @ 1..) = sign {
            let sign = vdupq_n_u8(sign);
            found = [vbslq_u8(sign, index[0], found[0]), vbslq_u8(sign, index[1], found[1])];
        }
        found
    }
}

/// The bfloat16 of 32 codes.
#[inline(always)]
fn words(table: &Lookup, index: Pair) -> [uint16x8_t; 4] {
    let sign = |bit: u8| table.symmetric.then_some(bit);
    let (low, high) = (bytes(&table.low, sign(0), index), bytes(&table.high, sign(0x80), index));
    // SAFETY: NEON is proved by the token of the callers.
    unsafe {
        [
            vreinterpretq_u16_u8(vzip1q_u8(low[0], high[0])),
            vreinterpretq_u16_u8(vzip2q_u8(low[0], high[0])),
            vreinterpretq_u16_u8(vzip1q_u8(low[1], high[1])),
            vreinterpretq_u16_u8(vzip2q_u8(low[1], high[1])),
        ]
    }
}

/// Decoding by shift.
#[derive(Clone, Copy)]
pub(super) struct ShiftDecoder {
    down: int16x8_t,
    keep: uint16x8_t,
    scale: float32x4_t,
}

impl ShiftDecoder {
    #[inline(always)]
    pub(super) fn new(half: F16Shift) -> ShiftDecoder {
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            ShiftDecoder {
                down: vdupq_n_s16(-(half.shift as i16)),
                keep: vdupq_n_u16(0x8000 | 0x7F00 >> half.shift),
                scale: vdupq_n_f32(half.scale),
            }
        }
    }

    /// The values of sixteen codes, none of them special.
    #[inline(always)]
    pub(super) fn values(self, codes: uint8x16_t) -> [Two<float32x4_t>; 2] {
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            let zero = vdupq_n_u8(0); // each code on top of a word
            [self.wide(vzip1q_u8(zero, codes)), self.wide(vzip2q_u8(zero, codes))]
        }
    }

    #[inline(always)]
    fn wide(self, words: uint8x16_t) -> Two<float32x4_t> {
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            let shifted = vshlq_s16(vreinterpretq_s16_u8(words), self.down);
            let x = widen_f16(vandq_u16(vreinterpretq_u16_s16(shifted), self.keep));
            Two(vmulq_f32(x.0, self.scale), vmulq_f32(x.1, self.scale))
        }
    }
}

/// Looks up 32 codes.
#[inline(always)]
pub(super) fn lookup(_: Neon, table: &Lookup, codes: &[u8]) -> [Two<float32x4_t>; 4] {
    let index = load(codes);
    if let Some(half) = table.half {
        // SAFETY: NEON is proved by the token.
        let most = unsafe {
            let within = vdupq_n_u8(0x7F);
            vmaxvq_u8(vmaxq_u8(vandq_u8(index[0], within), vandq_u8(index[1], within)))
        };
        if most < half.limit {
            let decoder = ShiftDecoder::new(half);
            let ([a, b], [c, d]) = (decoder.values(index[0]), decoder.values(index[1]));
            return [a, b, c, d];
        }
    }
    // SAFETY: NEON is proved by the token.
    let wide = |x: uint16x8_t| unsafe {
        let (low, high) = (vshll_n_u16::<16>(vget_low_u16(x)), vshll_high_n_u16::<16>(x));
        Two(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
    };
    let [a, b, c, d] = words(table, index);
    [wide(a), wide(b), wide(c), wide(d)]
}

/// Looks up 32 codes and writes the values as bfloat16.
#[inline(always)]
pub(super) fn lookup_bf16(_: Neon, table: &Lookup, codes: &[u8], out: &mut [u16]) {
    let out = &mut out[..32];
    for (i, words) in words(table, load(codes)).into_iter().enumerate() {
        // SAFETY: eight words are written inside a slice of 32; NEON is proved by the token.
        unsafe { vst1q_u16(out.as_mut_ptr().add(8 * i), words) };
    }
}
