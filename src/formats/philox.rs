//! Random bits as a pure function of seed and element index, so that stochastic rounding does not depend on threads,
//! chunks or instruction sets: element `i` gets word `i % 4` of block `i / 4` of Philox4x32-10, or byte `i % 16`, from the
//! low ones of a word up, of block `i / 16`.

use super::round::Rounding;
use crate::simd::{Kernel, Lanes, PhiloxKeys, MAX_GROUP};

/// The random bits of a group of elements, `first` and what follows: a word or a byte for each, by the mode.
#[inline(always)]
pub fn random_bits<L: Lanes>(l: L, rounding: Rounding, keys: &PhiloxKeys, first: u64) -> [L::U; 4] {
    if rounding == Rounding::Stochastic8 {
        let bytes = random_bytes(l, keys, first);
        return [
            l.load_u8(&bytes),
            l.load_u8(&bytes[L::N..]),
            l.load_u8(&bytes[2 * L::N..]),
            l.load_u8(&bytes[3 * L::N..]),
        ];
    }
    random_group(l, keys, first)
}

/// The bytes of a group of elements, `first` and what follows.
#[inline(always)]
pub fn random_bytes<L: Lanes>(l: L, keys: &PhiloxKeys, first: u64) -> [u8; MAX_GROUP] {
    if first.is_multiple_of(16) {
        return l.philox_bytes(keys, first / 16);
    }
    l.call(ShiftedBytes { keys, first })
}

/// Fills `out` with the words of elements `first..`.
#[inline(always)]
pub fn random_words(keys: &PhiloxKeys, first: u64, out: &mut [u32]) {
    let mut i = 0;
    while i < out.len() {
        let element = first + i as u64;
        let words = keys.block(element / 4);
        let word = (element % 4) as usize;
        let n = (4 - word).min(out.len() - i);
        out[i..i + n].copy_from_slice(&words[word..word + n]);
        i += n;
    }
}

/// The words of a group of elements, `first` and what follows: those of [`random_words`].
#[inline(always)]
pub fn random_group<L: Lanes>(l: L, keys: &PhiloxKeys, first: u64) -> [L::U; 4] {
    if first.is_multiple_of(4) {
        return l.philox(keys, first / 4);
    }
    let words = l.call(Shifted { keys, first });
    let load = |j: usize| l.load_u32(&words[j * L::N..]);
    [load(0), load(1), load(2), load(3)]
}

/// Bytes of a group of elements that begins inside a counter.
struct ShiftedBytes<'a> {
    keys: &'a PhiloxKeys,
    first: u64,
}

impl Kernel for ShiftedBytes<'_> {
    type Out = [u8; MAX_GROUP];
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [u8; MAX_GROUP] {
        let (block, from) = (self.first / 16, (self.first % 16) as usize);
        let (mut bytes, mut out) = ([0; MAX_GROUP + 16], [0; MAX_GROUP]);
        bytes[..MAX_GROUP].copy_from_slice(&l.philox_bytes(self.keys, block));
        bytes[L::GROUP..L::GROUP + 16].copy_from_slice(&self.keys.bytes(block + (L::GROUP / 16) as u64));
        out[..L::GROUP].copy_from_slice(&bytes[from..from + L::GROUP]);
        out
    }
}

/// A group of elements that begins inside a counter: one counter more, and words from the middle of the first.
struct Shifted<'a> {
    keys: &'a PhiloxKeys,
    first: u64,
}

impl Kernel for Shifted<'_> {
    type Out = [u32; MAX_GROUP];
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [u32; MAX_GROUP] {
        let (block, from) = (self.first / 4, (self.first % 4) as usize);
        let (mut words, mut out) = ([0; MAX_GROUP + 4], [0; MAX_GROUP]);
        let aligned = l.philox(self.keys, block);
        for j in 0..4 {
            l.store_u32(aligned[j], &mut words[j * L::N..]);
        }
        words[L::GROUP..L::GROUP + 4].copy_from_slice(&self.keys.block(block + (L::GROUP / 4) as u64));
        out[..L::GROUP].copy_from_slice(&words[from..from + L::GROUP]);
        out
    }
}
