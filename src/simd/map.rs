//! Walking an array in groups: the loop that every elementwise kernel shares.

use super::lanes::{Kernel, Lanes, MAX_GROUP};

/// How far ahead of the loads the cache is asked for lines, in bytes. The hardware's own prefetching stops
/// at page boundaries; 8 KiB ahead measured best on streams out of cache.
const AHEAD: usize = 8192;

/// An elementwise function, one group at a time.
pub trait GroupMap {
    /// Element type read.
    type In: Copy + Default + Send + Sync;
    /// Element type written.
    type Out: Copy + Default + Send + Sync;
    /// Maps `src[..L::GROUP]` to `out[..L::GROUP]`; `at` is the index of the group's first element.
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[Self::In], out: &mut [Self::Out], stream: bool);
}

/// Applies `map` to all of `src`, whose first element has index `at`. With `stream`, stores bypass the cache
/// from the first 64-byte boundary of `out` on, and loads are prefetched. Every element passes through the
/// same vector code: short ends go through a padded copy.
#[inline(always)]
pub fn map_groups<L: Lanes, M: GroupMap>(
    l: L,
    map: &M,
    at: usize,
    src: &[M::In],
    out: &mut [M::Out],
    stream: bool,
) {
    let n = src.len();
    assert_eq!(n, out.len());
    let mut i = 0;
    if stream {
        let head = out.as_ptr().align_offset(64).min(n);
        while i < head {
            let k = (head - i).min(L::GROUP);
            l.call(Partial { map, at: at + i, src: &src[i..i + k], out: &mut out[i..i + k] });
            i += k;
        }
    }
    while i + L::GROUP <= n {
        let group = &src[i..i + L::GROUP];
        if stream {
            for line in 0..std::mem::size_of_val(group).div_ceil(64) {
                l.prefetch(group, AHEAD + 64 * line);
            }
        }
        map.group(l, at + i, group, &mut out[i..i + L::GROUP], stream);
        i += L::GROUP;
    }
    if i < n {
        l.call(Partial { map, at: at + i, src: &src[i..], out: &mut out[i..] });
    }
    if stream {
        l.fence();
    }
}

/// Fewer elements than a group, through padded copies.
struct Partial<'a, M: GroupMap> {
    map: &'a M,
    at: usize,
    src: &'a [M::In],
    out: &'a mut [M::Out],
}

impl<M: GroupMap> Kernel for Partial<'_, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let n = self.src.len();
        let mut input = [M::In::default(); MAX_GROUP];
        let mut output = [M::Out::default(); MAX_GROUP];
        input[..n].copy_from_slice(self.src);
        self.map.group(l, self.at, &input[..L::GROUP], &mut output[..L::GROUP], false);
        self.out.copy_from_slice(&output[..n]);
    }
}
