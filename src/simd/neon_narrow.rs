//! Rounding to formats of at most three mantissa bits in NEON.
//!
//! The upper half of a float32 has all of its exponent and more mantissa than such a format: there it is rounded, eight
//! numbers to a register, by adding just below half of the last place, or just half where that place is odd or the number
//! beyond half. Numbers below the format's smallest normal one and beyond its largest are rare: a group that has any is
//! done over for them.

use super::lanes::Narrow;
use super::neon::{low_bytes, Neon, Two};
use std::arch::aarch64::*;
use std::arch::asm;

/// Sixteen bytes, to the codes of two vectors.
type Codes = [uint8x16_t; 2];

/// All ones where a lane has a bit of `mask`. Written out because the compiler takes the test apart.
#[inline(always)]
fn test(x: float32x4_t, mask: uint32x4_t) -> uint16x8_t {
    let found;
    // SAFETY: the instruction is NEON's, which the token of the callers proves, and touches no memory.
    unsafe {
        asm!("cmtst {0:v}.4s, {1:v}.4s, {2:v}.4s", out(vreg) found, in(vreg) x, in(vreg) mask,
             options(pure, nomem, nostack));
    }
    found
}

/// Codes with some bits taken from another vector. Written out because the compiler takes it apart.
#[inline(always)]
fn insert(mut codes: uint8x16_t, from: uint8x16_t, bits: uint8x16_t) -> uint8x16_t {
    // SAFETY: the instruction is NEON's, which the token of the callers proves, and touches no memory.
    unsafe {
        asm!("bit {0:v}.16b, {1:v}.16b, {2:v}.16b", inout(vreg) codes, in(vreg) from, in(vreg) bits,
             options(pure, nomem, nostack));
    }
    codes
}

/// A format in registers.
#[derive(Clone, Copy)]
struct Rounder {
    /// The bits of a float32 that make a number round up if it is half beyond: the odd place, and all below half.
    up: uint32x4_t,
    /// The upper half at which codes begin, less what is just below half of the last place.
    first: uint16x8_t,
    magnitude: uint16x8_t,
    down: int16x8_t,
}

impl Rounder {
    #[inline(always)]
    fn new(f: Narrow) -> Rounder {
        let cut = f.cut - 3; // of the seven mantissa bits of the upper half
        let (last, half) = (1u32 << (16 + cut), 1u32 << (15 + cut));
        let first = (f.normal >> 16) - (1 << 7) - ((1 << (cut - 1)) - 1);
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            let mut magnitude = vdupq_n_u16(0x7FFF);
            // Hides that it is a constant: the compiler would copy what it clears the sign of.
            asm!("/* {0:v} */", inout(vreg) magnitude, options(pure, nomem, nostack, preserves_flags));
            Rounder {
                up: vdupq_n_u32(last | (half - 1)),
                first: vdupq_n_u16(first as u16),
                magnitude,
                down: vdupq_n_s16(-(cut as i16)),
            }
        }
    }

    /// The codes of normal numbers, or a byte beyond them, and the upper halves of the numbers.
    #[inline(always)]
    fn codes(self, x: Two<float32x4_t>) -> (uint8x8_t, uint16x8_t) {
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            let up = vuzp1q_u16(test(x.0, self.up), test(x.1, self.up));
            let top = vuzp2q_u16(vreinterpretq_u16_f32(x.0), vreinterpretq_u16_f32(x.1));
            let sum = vsubq_u16(vandq_u16(top, self.magnitude), up);
            (vqmovn_u16(vshlq_u16(vqsubq_u16(sum, self.first), self.down)), top)
        }
    }
}

/// Rounds a group of float32 to nearest even and stores its codes.
#[inline(always)]
pub(super) fn store(_: Neon, x: [Two<float32x4_t>; 4], f: Narrow, out: &mut [u8]) {
    let out = &mut out[..32];
    let (rounder, least) = (Rounder::new(f), 1u8 << (10 - f.cut));
    let (a, b) = (rounder.codes(x[0]), rounder.codes(x[1]));
    let (c, d) = (rounder.codes(x[2]), rounder.codes(x[3]));
    // SAFETY: 32 bytes are written to a slice of 32; NEON is proved by the token.
    unsafe {
        let mut codes = [vcombine_u8(a.0, b.0), vcombine_u8(c.0, d.0)];
        // From the least normal code on, and no further than the limit.
        let beyond = |codes: uint8x16_t| vsubq_u8(codes, vdupq_n_u8(least));
        if vmaxvq_u8(vmaxq_u8(beyond(codes[0]), beyond(codes[1]))) > f.limit.wrapping_sub(least) {
            codes = rare(x, f, least, codes);
        }
        let (sign, down) = (vdupq_n_u8(f.sign), vdupq_n_s8(f.sign.trailing_zeros() as i8 - 7));
        for (i, (codes, [a, b])) in codes.into_iter().zip([[a.1, b.1], [c.1, d.1]]).enumerate() {
            let top = vuzp2q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
            vst1q_u8(out.as_mut_ptr().add(16 * i), insert(codes, vshlq_u8(top, down), sign));
        }
    }
}

/// The magnitude codes of a group where some are subnormal, too large, or NaN.
#[inline(always)]
fn rare(x: [Two<float32x4_t>; 4], f: Narrow, least: u8, codes: Codes) -> Codes {
    // 1.5 times the power of two that has the format's smallest number as its last place: sums count it, either sign.
    let counter =
        f32::from_bits(f.normal + (23 << 23) - (u32::from(least.trailing_zeros() as u8) << 23)) * 1.5;
    // SAFETY: NEON is proved by the token of the callers.
    unsafe {
        let counter = vdupq_n_f32(counter);
        let words = |x: Two<float32x4_t>| {
            let (low, high) = (vaddq_f32(x.0, counter), vaddq_f32(x.1, counter));
            vuzp1q_u16(vreinterpretq_u16_f32(low), vreinterpretq_u16_f32(high))
        };
        let large = vmaxvq_u8(vmaxq_u8(codes[0], codes[1])) > f.limit;
        let numbers = |x: Two<float32x4_t>| {
            let (low, high) = (vceqq_f32(x.0, x.0), vceqq_f32(x.1, x.1));
            vuzp1q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high))
        };
        let mut out = codes;
        for (i, out) in out.iter_mut().enumerate() {
            let (a, b) = (x[2 * i], x[2 * i + 1]);
            let count = vabsq_s8(vreinterpretq_s8_u8(low_bytes(words(a), words(b))));
            // Larger numbers count as any byte; no normal number has a code below the least.
            let count = vminq_u8(vreinterpretq_u8_s8(count), vdupq_n_u8(least));
            *out = vmaxq_u8(*out, count);
            if large {
                let code = vminq_u8(*out, vdupq_n_u8(f.limit));
                *out = vbslq_u8(low_bytes(numbers(a), numbers(b)), code, vdupq_n_u8(f.nan));
            }
        }
        out
    }
}
