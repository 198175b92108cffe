//! Rounding in lanes: every mode and every format, E8M0 among them. [`Rounder::code`](super::Rounder::code) says the same
//! of one number.
//!
//! Codes in order are evenly spaced in the bits of a float32, but for subnormal numbers, and those a sum puts in place: a
//! magnitude and the larger of it and the smallest normal number add up to bits that are the code, with what is below a
//! quantum behind it ([`Fixed`]). A mode then is something to add before that is cut off. Formats that leave a sum no room
//! shift their significands instead, each by its own distance.

use super::fixed::{sign, Fixed, Place, Tail, ALIKE, OTHER, POWERS, SAME, SCALE, SIGNED, SUM};
use super::philox::{random_bits, random_bytes};
use super::round::{Rounder, Rounding};
use super::source::Code;
use super::table::Top;
use crate::simd::{ByteFormat, Kernel, Lanes, PhiloxKeys, MAX_GROUP};

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
    nan: u32,
    infinite: u32,
    /// The largest codes of positive and of negative numbers: overflow's own where it is not cut off.
    limit: [u32; 2],
    /// Larger magnitudes are this one.
    clip: u32,
    zero_code: u32,
    negative_code: u32,
    /// True: zero keeps its sign.
    signed_zero: bool,
    /// True: below the smallest normal number the low 17 bits of the float32 decide, not the bits that are cut.
    float32_tail: bool,
    fixed: Option<Fixed>,
    tail: Tail,
    /// Codes of bytes at random, where a level has an operation for them.
    random_bytes: Option<ByteFormat>,
    /// Bits of the seed of stochastic rounding.
    keys: PhiloxKeys,
}

impl LaneRounder {
    /// Prepares a rounder; `seed` is that of stochastic rounding.
    pub fn new(r: &Rounder, seed: u64) -> LaneRounder {
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
            nan: r.nan,
            infinite: code(true),
            limit: away.map(code),
            clip: INFINITY,
            zero_code: if r.saturate { 0 } else { beyond },
            negative_code: beyond,
            signed_zero: f.top != Top::Fnuz,
            float32_tail: false,
            fixed: Fixed::new(f, r.rounding),
            tail: OTHER,
            random_bytes: None,
            keys: PhiloxKeys::new(seed),
        }
        .with_tail()
    }

    fn with_tail(self) -> LaneRounder {
        let plain = self.signed_zero && self.top != Top::Integer && self.clip == INFINITY;
        let cut = self.limit != [self.infinite; 2];
        let tail = match &self.fixed {
            _ if self.top == Top::Scale => SCALE,
            Some(fixed) if plain && !cut && !fixed.even => {
                if fixed.add[0] == fixed.add[1] {
                    ALIKE
                } else {
                    SIGNED
                }
            }
            _ => OTHER,
        };
        let rounder = LaneRounder { tail, ..self };
        LaneRounder { random_bytes: rounder.random_bytes(), ..rounder }
    }

    /// Brings magnitudes down to `max` before they are rounded.
    #[must_use]
    pub fn clipped(self, max: f32) -> LaneRounder {
        LaneRounder { clip: max.to_bits(), ..self }.with_tail()
    }

    /// Gives zero no sign.
    #[must_use]
    pub fn without_negative_zero(self) -> LaneRounder {
        LaneRounder { signed_zero: false, ..self }.with_tail()
    }

    /// Rounds subnormals of a format with six mantissa bits as TileKernels does, as if they had been cut where normal
    /// numbers are.
    #[must_use]
    pub fn with_float32_tail(self) -> LaneRounder {
        LaneRounder { float32_tail: true, fixed: None, ..self }.with_tail()
    }

    /// True: however small a number is, its code may not be zero's.
    pub fn minds_tiny(&self) -> bool {
        self.float32_tail || matches!(self.rounding, Rounding::Up | Rounding::Down)
    }

    /// True for modes that take random bits.
    pub fn is_random(&self) -> bool {
        self.rounding.is_random()
    }

    /// The format as [`Lanes::store_random`] takes it.
    fn random_bytes(&self) -> Option<ByteFormat> {
        let fixed = self.fixed.filter(|fixed| fixed.place == SUM && (16..=22).contains(&fixed.cut))?;
        (self.rounding.is_random() && self.tail == ALIKE && self.bits <= 8).then(|| ByteFormat {
            least: fixed.least,
            cut: fixed.cut,
            limit: self.limit[0] as u8,
            nan: self.nan as u8,
            sign: 1 << (self.bits - 1),
        })
    }

    /// Stores the codes of a group of elements, as [`LaneRounder::group`] makes them.
    #[inline(always)]
    pub fn store<L: Lanes, C: Code>(&self, l: L, first: u64, x: [L::U; 4], out: &mut [C], stream: bool) {
        if let (true, true, Some(format)) = (L::RANDOM_BYTES, C::BYTE, self.random_bytes) {
            let stored = if self.rounding == Rounding::Stochastic8 {
                C::store_random8(l, x, &random_bytes(l, &self.keys, first), format, out, stream)
            } else {
                C::store_random(l, [x, self.random(l, first)], format, out, stream)
            };
            if stored {
                return;
            }
        }
        C::store(l, self.group(l, first, x), out, stream);
    }

    /// The codes of a group of elements, given as the bits of float32. The first of them is `first` of its array, which
    /// matters to stochastic rounding.
    #[inline(always)]
    pub fn group<L: Lanes>(&self, l: L, first: u64, x: [L::U; 4]) -> [L::U; 4] {
        // Common cases have their code here, the rest is called.
        if let Some(fixed) = &self.fixed {
            match (fixed.place, self.tail, self.rounding.is_random()) {
                (SUM, ALIKE | SIGNED, false) => return self.vectors::<L, SUM, SIGNED>(l, fixed, x),
                (POWERS, _, false) => return self.vectors::<L, POWERS, SCALE>(l, fixed, x),
                (SUM, ALIKE, true) => return self.at_random::<L, SUM, ALIKE>(l, fixed, first, x),
                _ => {}
            }
        }
        self.called(l, first, x, false)
    }

    /// The same by a call; `shift` for one to [`ShiftGroup`].
    #[inline(always)]
    fn called<L: Lanes>(&self, l: L, first: u64, x: [L::U; 4], shift: bool) -> [L::U; 4] {
        let mut group = [0; MAX_GROUP];
        for j in 0..4 {
            l.store_u32(x[j], &mut group[j * L::N..]);
        }
        if shift {
            l.call(ShiftGroup(InPlace { rounder: self, first, group: &mut group }));
        } else {
            l.call(RoundGroup(InPlace { rounder: self, first, group: &mut group }));
        }
        let code = |j: usize| l.load_u32(&group[j * L::N..]);
        [code(0), code(1), code(2), code(3)]
    }

    #[inline(always)]
    fn vectors<L: Lanes, const PLACE: Place, const TAIL: Tail>(
        &self,
        l: L,
        fixed: &Fixed,
        x: [L::U; 4],
    ) -> [L::U; 4] {
        [
            self.vector::<L, PLACE, TAIL>(l, fixed, x[0]),
            self.vector::<L, PLACE, TAIL>(l, fixed, x[1]),
            self.vector::<L, PLACE, TAIL>(l, fixed, x[2]),
            self.vector::<L, PLACE, TAIL>(l, fixed, x[3]),
        ]
    }

    /// The random bits of a group.
    #[inline(always)]
    fn random<L: Lanes>(&self, l: L, first: u64) -> [L::U; 4] {
        random_bits(l, self.rounding, &self.keys, first)
    }

    /// The codes of a group by stochastic rounding.
    #[inline(always)]
    fn at_random<L: Lanes, const PLACE: Place, const TAIL: Tail>(
        &self,
        l: L,
        fixed: &Fixed,
        first: u64,
        x: [L::U; 4],
    ) -> [L::U; 4] {
        let random = self.random(l, first);
        if self.rounding == Rounding::Stochastic8 {
            let mut codes = random;
            for j in 0..4 {
                let a = self.magnitude::<L, TAIL>(l, x[j]);
                let code = fixed.round_by_byte::<L, PLACE>(l, a, random[j]);
                codes[j] = self.finish::<L, TAIL>(l, code, x[j]);
            }
            return codes;
        }
        let (mut codes, mut least) = ([l.u32(0); 4], l.u32(MAGNITUDE));
        for j in 0..4 {
            let a = self.magnitude::<L, TAIL>(l, x[j]);
            let (code, left) = fixed.round_at_random::<L, PLACE>(l, a, random[j]);
            codes[j] = self.finish::<L, TAIL>(l, code, x[j]);
            least = l.min(least, left);
        }
        // A sum cut bits off, which decide where those that are left are equal.
        if PLACE == SUM && l.any(l.gt(l.u32(1), least)) {
            return self.called(l, first, x, true);
        }
        codes
    }

    /// The codes of a vector, but for stochastic rounding.
    #[inline(always)]
    fn vector<L: Lanes, const PLACE: Place, const TAIL: Tail>(&self, l: L, fixed: &Fixed, x: L::U) -> L::U {
        let code = fixed.round::<L, PLACE, TAIL>(l, self.magnitude::<L, TAIL>(l, x), x);
        self.finish::<L, TAIL>(l, code, x)
    }

    /// The magnitude bits of each lane, clipped.
    #[inline(always)]
    fn magnitude<L: Lanes, const TAIL: Tail>(&self, l: L, x: L::U) -> L::U {
        let a = l.and(x, l.u32(MAGNITUDE));
        if TAIL == OTHER {
            l.select(l.gt(a, l.u32(self.clip)), l.u32(self.clip), a)
        } else {
            a
        }
    }

    /// Magnitude codes by shifts, as far as codes go up.
    #[inline(always)]
    fn shifted<L: Lanes>(&self, l: L, a: L::U, x: L::U, random: L::U, rounding: Rounding) -> L::U {
        let one = l.u32(1);
        let negative = l.shr(x, 31);
        let a = l.min(a, l.u32(INFINITY));
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
            Rounding::Stochastic8 => l.shr(l.add(l.shr(fraction, 24), random), 8),
        };
        let up = if self.float32_tail {
            let tail = l.add(l.and(a, l.u32(0x1_FFFF)), l.and(whole, one));
            l.select(small, l.select(l.gt(tail, l.u32(0x1_0000)), one, l.u32(0)), up)
        } else {
            up
        };
        let quanta = l.add(whole, up);
        let code = l.add(l.shl(l.sub(binade, l.u32(self.emin)), self.man), quanta);
        if self.flush > 0 {
            l.select(small, l.shl(quanta, self.man), code)
        } else {
            code
        }
    }

    /// Codes from magnitude codes that go on beyond the largest one, and the bits they were made of.
    #[inline(always)]
    fn finish<L: Lanes, const TAIL: Tail>(&self, l: L, mut code: L::U, x: L::U) -> L::U {
        let given = l.and(x, l.u32(MAGNITUDE));
        let mut limit = l.u32(self.limit[0]);
        if TAIL != ALIKE {
            limit = l.select(sign(l, x), l.u32(self.limit[1]), limit);
        }
        code = l.min(code, limit);
        if matches!(TAIL, OTHER | SCALE) && self.clip == INFINITY {
            code = l.select(l.gt(given, l.u32(INFINITY - 1)), l.u32(self.infinite), code);
        }
        let nan = l.gt(given, l.u32(INFINITY));
        if TAIL == SCALE {
            code = l.select(sign(l, x), l.u32(self.negative_code), code);
            code = l.select(l.gt(given, l.u32(0)), code, l.u32(self.zero_code));
            return l.select(nan, l.u32(self.nan), code);
        }
        code = l.select(nan, l.u32(self.nan), code);
        if TAIL == OTHER && self.top == Top::Integer {
            let ones = l.sub(l.u32(0), l.shr(x, 31));
            return l.and(l.sub(l.xor(code, ones), ones), l.u32((1 << self.bits) - 1));
        }
        let minus = l.or(code, l.and(l.shr(x, 32 - self.bits), l.u32(1 << (self.bits - 1))));
        if TAIL != OTHER || self.signed_zero {
            return minus;
        }
        l.select(l.gt(code, l.u32(0)), minus, code)
    }
}

/// Instantiated once for each level: all the ways there are take the compiler long.
struct RoundGroup<'a>(InPlace<'a>);

/// A group that is rounded where it stands.
struct InPlace<'a> {
    rounder: &'a LaneRounder,
    first: u64,
    group: &'a mut [u32; MAX_GROUP],
}

impl Kernel for RoundGroup<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let RoundGroup(InPlace { rounder, first, group }) = self;
        let Some(fixed) = &rounder.fixed else {
            return l.call(ShiftGroup(InPlace { rounder, first, group }));
        };
        let x = [
            l.load_u32(&group[..L::N]),
            l.load_u32(&group[L::N..]),
            l.load_u32(&group[2 * L::N..]),
            l.load_u32(&group[3 * L::N..]),
        ];
        // A loop for each way, with the way a constant in it.
        let codes = match (fixed.place, rounder.tail, rounder.rounding.is_random()) {
            (SUM, _, true) => rounder.at_random::<L, SUM, OTHER>(l, fixed, first, x),
            (SAME, ALIKE, true) => rounder.at_random::<L, SAME, ALIKE>(l, fixed, first, x),
            (SAME, _, true) => rounder.at_random::<L, SAME, OTHER>(l, fixed, first, x),
            (_, _, true) => rounder.at_random::<L, POWERS, SCALE>(l, fixed, first, x),
            (SUM, _, false) => rounder.vectors::<L, SUM, OTHER>(l, fixed, x),
            (SAME, ALIKE | SIGNED, false) => rounder.vectors::<L, SAME, SIGNED>(l, fixed, x),
            (SAME, _, false) => rounder.vectors::<L, SAME, OTHER>(l, fixed, x),
            (_, _, false) => rounder.vectors::<L, POWERS, SCALE>(l, fixed, x),
        };
        for j in 0..4 {
            l.store_u32(codes[j], &mut group[j * L::N..]);
        }
    }
}

/// Rounds by shifts what has no fixed-point codes, or not bits enough in them.
struct ShiftGroup<'a>(InPlace<'a>);

impl Kernel for ShiftGroup<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let ShiftGroup(InPlace { rounder, first, group }) = self;
        let mut random = [l.u32(0); 4];
        if rounder.rounding.is_random() {
            random = rounder.random(l, first);
        }
        for rounding in Rounding::ALL {
            // One loop for each mode, with the mode a constant in it.
            if *rounding == rounder.rounding {
                for j in 0..4 {
                    let x = l.load_u32(&group[j * L::N..]);
                    let a = rounder.magnitude::<L, OTHER>(l, x);
                    let code = rounder.shifted(l, a, x, random[j], *rounding);
                    l.store_u32(rounder.finish::<L, OTHER>(l, code, x), &mut group[j * L::N..]);
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
    use std::marker::PhantomData;

    struct Group<C>(LaneRounder, u64, [u32; MAX_GROUP], PhantomData<C>);

    impl<C: Code> Kernel for Group<C> {
        type Out = [u32; MAX_GROUP];
        fn run<L: Lanes>(self, l: L) -> [u32; MAX_GROUP] {
            let mut codes = [C::default(); MAX_GROUP];
            // A level's group is shorter than the longest one.
            for (k, part) in self.2.chunks_exact(L::GROUP).enumerate() {
                let load = |j: usize| l.load_u32(&part[j * L::N..]);
                let (at, x) = (k * L::GROUP, [load(0), load(1), load(2), load(3)]);
                let out = &mut codes[at..at + L::GROUP];
                self.0.store::<L, C>(l, self.1 + at as u64, x, out, false);
            }
            codes.map(C::to_u32)
        }
    }

    /// The random bits of elements under seed 7.
    fn bits_of(rounding: Rounding, first: u64, out: &mut [u32]) {
        let keys = PhiloxKeys::new(7);
        if rounding == Rounding::Stochastic8 {
            let byte = |i: u64| u32::from(keys.bytes(i / 16)[(i % 16) as usize]);
            (first..).zip(out).for_each(|(i, out)| *out = byte(i));
        } else {
            random_words(&keys, first, out);
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
        random_words(&PhiloxKeys::new(1), 0, &mut bits);
        inputs.extend(bits);
        inputs.extend(inputs.clone().iter().map(|x| x ^ 1 << 31));
        for format in FORMATS.iter().chain(made) {
            for rounding in Rounding::ALL {
                for overflow in [Overflow::Saturate, Overflow::NonFinite] {
                    let Ok(rounder) = Rounder::new(format, *rounding, overflow, NanPolicy::Zero) else {
                        continue;
                    };
                    let lanes = LaneRounder::new(&rounder, 7);
                    for (k, chunk) in inputs.chunks_exact(MAX_GROUP).enumerate() {
                        let first = (k * MAX_GROUP + k % 5) as u64;
                        let mut random = [0; MAX_GROUP];
                        bits_of(*rounding, first, &mut random);
                        let group: [u32; MAX_GROUP] = std::array::from_fn(|i| chunk[i]);
                        for level in Level::all_available() {
                            let codes = if format.bits() <= 8 {
                                dispatch_at(level, Group::<u8>(lanes, first, group, PhantomData))
                            } else {
                                dispatch_at(level, Group::<u16>(lanes, first, group, PhantomData))
                            };
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
