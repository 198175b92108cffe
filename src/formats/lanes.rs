//! Rounding in lanes, in integers: every mode and every format, E8M0 among them.
//!
//! The significand is shifted down to whole quanta; the bits that fall off, moved to the top of a word, are the fraction
//! of a quantum that decides. [`Rounder::code`](super::Rounder::code) says the same of one number.

use super::philox::random_group;
use super::round::{Rounder, Rounding};
use super::table::Top;
use crate::simd::{Kernel, Lanes, MAX_GROUP};

const INFINITY: u32 = 0x7F80_0000;
const MAGNITUDE: u32 = 0x7FFF_FFFF;

/// A rounder's numbers, broadcast once for each call.
#[derive(Clone, Copy, Debug)]
pub struct LaneRounder {
    rounding: Rounding,
    top: Top,
    /// The exponent field of the smallest normal number, as float32 has it.
    emin: u32,
    man: u32,
    bits: u32,
    /// Quanta are this many bits larger below the smallest normal number: its mantissa, where there are no subnormals.
    flush: u32,
    max_code: u32,
    nan: u32,
    infinite: u32,
    /// Codes of overflow, of positive and of negative numbers.
    overflow: [u32; 2],
    /// Larger magnitudes are this one.
    clip: u32,
    zero_code: u32,
    negative_code: u32,
    /// True: zero keeps its sign.
    signed_zero: bool,
    /// True: below the smallest normal number the low 17 bits of the float32 decide, not the bits that are cut.
    float32_tail: bool,
}

impl LaneRounder {
    /// Prepares a rounder.
    pub fn new(r: &Rounder) -> LaneRounder {
        let f = &r.format;
        let beyond = f.max_code() + 1; // only reached where the format has such a code
        let code = |away: bool| if r.saturate || !away { f.max_code() } else { beyond };
        let away = match r.rounding {
            Rounding::TowardZero => [false, false],
            Rounding::Up => [true, false],
            Rounding::Down => [false, true],
            _ => [true, true],
        };
        LaneRounder {
            rounding: r.rounding,
            top: f.top,
            emin: (f.emin() + 127) as u32,
            man: f.man,
            bits: f.bits(),
            flush: if f.subnormals { 0 } else { f.man },
            max_code: f.max_code(),
            nan: r.nan,
            infinite: code(true),
            overflow: away.map(code),
            clip: INFINITY,
            zero_code: if r.saturate { 0 } else { beyond },
            negative_code: beyond,
            signed_zero: f.top != Top::Fnuz,
            float32_tail: false,
        }
    }

    /// Brings magnitudes down to `max` before they are rounded.
    #[must_use]
    pub fn clipped(self, max: f32) -> LaneRounder {
        LaneRounder { clip: max.to_bits(), ..self }
    }

    /// Gives zero no sign.
    #[must_use]
    pub fn without_negative_zero(self) -> LaneRounder {
        LaneRounder { signed_zero: false, ..self }
    }

    /// Rounds subnormals of a format with six mantissa bits as TileKernels does, as if they had been cut where normal
    /// numbers are.
    #[must_use]
    pub fn with_float32_tail(self) -> LaneRounder {
        LaneRounder { float32_tail: true, ..self }
    }

    /// Replaces the float32 bits of a group of elements, the first of which is `first` of its array, by their codes. `seed` is
    /// that of stochastic rounding.
    #[inline(always)]
    pub fn round<L: Lanes>(&self, l: L, seed: u64, first: u64, group: &mut [u32; MAX_GROUP]) {
        l.call(RoundGroup { rounder: self, seed, first, group });
    }

    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, x: L::U, random: L::U, rounding: Rounding) -> L::U {
        let one = l.u32(1);
        let negative = l.shr(x, 31);
        let given = l.and(x, l.u32(MAGNITUDE));
        let a = l.min(given, l.u32(self.clip));
        let field = l.shr(a, 23);
        let least = l.max(field, one);
        let hidden = l.select(l.gt(field, l.u32(0)), l.u32(1 << 23), l.u32(0));
        let sig = l.or(l.and(a, l.u32(0x007F_FFFF)), hidden);
        let binade = l.max(field, l.u32(self.emin));
        let mut cut = l.add(l.sub(binade, least), l.u32(23 - self.man));
        let small = l.gt(l.u32(self.emin), field);
        if self.flush > 0 {
            cut = l.add(cut, l.select(small, l.u32(self.flush), l.u32(0)));
        }

        let whole = l.shr_each(sig, cut);
        let fraction = l.or(l.shl_each(sig, l.sub(l.u32(32), cut)), l.shr_each(sig, l.sub(cut, l.u32(32))));
        let nonzero = |v: L::U| l.shr(l.or(v, l.sub(l.u32(0), v)), 31);
        let up = match rounding {
            Rounding::NearestEven => {
                let beyond = l.or(nonzero(l.shl(fraction, 1)), l.and(whole, one));
                l.and(l.shr(fraction, 31), beyond)
            }
            Rounding::NearestAway => l.shr(fraction, 31),
            Rounding::NearestTowardZero => l.and(l.shr(fraction, 31), nonzero(l.shl(fraction, 1))),
            Rounding::TowardZero => l.u32(0),
            Rounding::Up | Rounding::Down => {
                let inexact = nonzero(l.sub(sig, l.shl_each(whole, cut)));
                let there = if rounding == Rounding::Up { l.xor(negative, one) } else { negative };
                l.and(inexact, there)
            }
            Rounding::Stochastic => {
                // random < fraction: the carry of fraction + !random
                let other = l.xor(random, l.u32(u32::MAX));
                let sum = l.xor(l.add(fraction, other), l.u32(u32::MAX));
                l.shr(l.or(l.and(fraction, other), l.and(l.or(fraction, other), sum)), 31)
            }
        };
        let up = if self.float32_tail {
            let tail = l.add(l.and(a, l.u32(0x1_FFFF)), l.and(whole, one));
            l.select(small, l.select(l.gt(tail, l.u32(0x1_0000)), one, l.u32(0)), up)
        } else {
            up
        };
        let quanta = l.add(whole, up);
        let mut code = l.add(l.shl(l.sub(binade, l.u32(self.emin)), self.man), quanta);
        if self.flush > 0 {
            code = l.select(small, l.shl(quanta, self.man), code);
        }
        if self.top == Top::Scale {
            code = l.sub(l.max(code, one), one); // no zero: the first quantum is code 0
        }

        let sign = l.gt(negative, l.u32(0));
        let overflow = l.select(sign, l.u32(self.overflow[1]), l.u32(self.overflow[0]));
        code = l.select(l.gt(code, l.u32(self.max_code)), overflow, code);
        if self.clip == INFINITY {
            code = l.select(l.gt(a, l.u32(INFINITY - 1)), l.u32(self.infinite), code);
        }
        let nan = l.gt(given, l.u32(INFINITY));
        if self.top == Top::Scale {
            code = l.select(sign, l.u32(self.negative_code), code);
            code = l.select(l.gt(given, l.u32(0)), code, l.u32(self.zero_code));
            return l.select(nan, l.u32(self.nan), code);
        }
        code = l.select(nan, l.u32(self.nan), code);
        if self.top == Top::Integer {
            let ones = l.sub(l.u32(0), negative);
            return l.and(l.sub(l.xor(code, ones), ones), l.u32((1 << self.bits) - 1));
        }
        let minus = l.or(code, l.shl(negative, self.bits - 1));
        if self.signed_zero {
            return minus;
        }
        l.select(l.gt(code, l.u32(0)), minus, code)
    }
}

/// Instantiated once for each level: seven modes take the compiler long.
struct RoundGroup<'a> {
    rounder: &'a LaneRounder,
    seed: u64,
    first: u64,
    group: &'a mut [u32; MAX_GROUP],
}

impl Kernel for RoundGroup<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let RoundGroup { rounder, seed, first, group } = self;
        let mut random = [0; MAX_GROUP];
        if rounder.rounding == Rounding::Stochastic {
            random_group(l, seed, first, &mut random);
        }
        for rounding in Rounding::ALL {
            // One loop for each mode, with the mode a constant in it.
            if *rounding == rounder.rounding {
                for (x, random) in group.chunks_exact_mut(L::N).zip(random.chunks_exact(L::N)).take(4) {
                    let code = rounder.vector(l, l.load_u32(x), l.load_u32(random), *rounding);
                    l.store_u32(code, x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::philox::random_words;
    use crate::formats::round::{NanPolicy, Overflow};
    use crate::formats::{custom, FORMATS};
    use crate::simd::{dispatch_at, Level};

    struct Group(LaneRounder, u64, [u32; MAX_GROUP]);

    impl Kernel for Group {
        type Out = [u32; MAX_GROUP];
        fn run<L: Lanes>(mut self, l: L) -> [u32; MAX_GROUP] {
            // A level's group is shorter than the longest one.
            for k in 0..MAX_GROUP / L::GROUP {
                let mut part = [0; MAX_GROUP];
                part[..L::GROUP].copy_from_slice(&self.2[k * L::GROUP..(k + 1) * L::GROUP]);
                self.0.round(l, 7, self.1 + (k * L::GROUP) as u64, &mut part);
                self.2[k * L::GROUP..(k + 1) * L::GROUP].copy_from_slice(&part[..L::GROUP]);
            }
            self.2
        }
    }

    /// Every mode and format, named and made, against the definition: around every binade, and bits at random.
    #[test]
    fn lanes_are_the_definition() {
        let made = [
            (3, 4, 3, Top::None, true),
            (5, 2, 15, Top::NanOnly, false),
            (2, 1, 1, Top::None, false),
            (7, 8, 63, Top::Ieee, true),
            (7, 2, 127, Top::Fnuz, false),
            (1, 14, 1, Top::None, true),
            (6, 0, 31, Top::NanOnly, true),
            (0, 7, 1, Top::None, true),
        ];
        let made = made.map(|(e, m, b, top, s)| custom(e, m, b, top, s).unwrap_or_else(|e| panic!("{e}")));
        let mut inputs: Vec<u32> = (0..256u32)
            .flat_map(|field| {
                [0, 1, 0x3F_FFFF, 0x40_0000, 0x40_0001, 0x60_0000, 0x7F_FFFF].map(|m| field << 23 | m)
            })
            .collect();
        let mut bits = vec![0; 4096];
        random_words(1, 0, &mut bits);
        inputs.extend(bits);
        inputs.extend(inputs.clone().iter().map(|x| x ^ 1 << 31));
        for format in FORMATS.iter().chain(made) {
            for rounding in Rounding::ALL {
                for overflow in [Overflow::Saturate, Overflow::NonFinite] {
                    let Ok(rounder) = Rounder::new(format, *rounding, overflow, NanPolicy::Zero) else {
                        continue;
                    };
                    let lanes = LaneRounder::new(&rounder);
                    for (k, chunk) in inputs.chunks_exact(MAX_GROUP).enumerate() {
                        let first = (k * MAX_GROUP + k % 5) as u64;
                        let mut random = [0; MAX_GROUP];
                        random_words(7, first, &mut random);
                        let group: [u32; MAX_GROUP] = std::array::from_fn(|i| chunk[i]);
                        for level in Level::all_available() {
                            let codes = dispatch_at(level, Group(lanes, first, group));
                            for ((x, r), code) in group.iter().zip(random).zip(codes) {
                                let expected = rounder.code(*x, r);
                                assert_eq!(code, expected, "{} {rounding:?} {overflow:?} {x:x}", format.name);
                            }
                        }
                    }
                }
            }
        }
    }
}
