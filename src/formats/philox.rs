//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random bits as a
//! pure function of seed and element index, so that stochastic rounding does not depend on threads, chunks
//! or instruction sets.

use crate::simd::{Lanes, MAX_GROUP, PHILOX};

const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block: four words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(PHILOX[0]) * u64::from(counter[0]);
        let p1 = u64::from(PHILOX[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Fills `out` with the words of elements `first..`: element `i` gets word `i % 4` of block `i / 4`.
#[inline(always)]
pub fn random_words(seed: u64, first: u64, out: &mut [u32]) {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut i = 0;
    while i < out.len() {
        let element = first + i as u64;
        let (block, word) = (element / 4, (element % 4) as usize);
        let words = philox4x32([block as u32, (block >> 32) as u32, 0, 0], key);
        let n = (4 - word).min(out.len() - i);
        out[i..i + n].copy_from_slice(&words[word..word + n]);
        i += n;
    }
}

/// Fills the start of `out` with the words of a group of elements, `first` and what follows: those of [`random_words`].
#[inline(always)]
pub fn random_group<L: Lanes>(l: L, seed: u64, first: u64, out: &mut [u32; MAX_GROUP]) {
    let (block, into) = (first / 4, (first % 4) as usize);
    if block as u32 > u32::MAX - 17 {
        return random_words(seed, first, &mut out[..L::GROUP]);
    }
    // Counters side by side: (block, block >> 32, 0, 0), (block + 1, ...), ...
    let mut counters = [0; MAX_GROUP];
    for (i, counter) in counters[..L::GROUP].chunks_exact_mut(4).enumerate() {
        (counter[0], counter[1]) = (block as u32 + i as u32, (block >> 32) as u32);
    }
    let load = |j: usize| l.load_u32(&counters[j * L::N..]);
    let mut words = [load(0), load(1), load(2), load(3)];
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        let keys: [u32; 16] = std::array::from_fn(|i| [k0, 0, k1, 0][i % 4]);
        let key = l.load_u32(&keys);
        words = [
            l.philox_round(words[0], key),
            l.philox_round(words[1], key),
            l.philox_round(words[2], key),
            l.philox_round(words[3], key),
        ];
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    for (j, word) in words.into_iter().enumerate() {
        l.store_u32(word, &mut out[j * L::N..]);
    }
    if into > 0 {
        out.copy_within(into..L::GROUP, 0);
        random_words(seed, 4 * (block + (L::GROUP / 4) as u64), &mut out[L::GROUP - into..L::GROUP]);
    }
}

#[cfg(test)]
mod tests {
    use super::philox4x32;

    /// The known-answer vectors published with the Random123 library.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
