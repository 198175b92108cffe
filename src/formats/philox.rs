//! Random bits as a pure function of seed and element index, so that stochastic rounding does not depend on threads,
//! chunks or instruction sets: element `i` gets word `i % 4` of block `i / 4` of Philox4x32-10.

use crate::simd::{Kernel, Lanes, PhiloxKeys, MAX_GROUP};

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
