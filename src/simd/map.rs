//! The loop over an array in groups that every elementwise kernel shares.

use super::cache::caches;
use super::lanes::{Kernel, Lanes, MAX_GROUP};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cache policy of [`map_groups`].
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// True: non-temporal stores, from the first 64-byte boundary of the output on.
    pub stream: bool,
    /// Prefetch distance in bytes; 0 leaves it to the hardware prefetcher, which stops at page boundaries.
    pub ahead: usize,
    /// True: groups begin at a 64-byte boundary of the output, which streaming needs anyway. NumPy's arrays begin 16 bytes
    /// behind one, where every store of 64 bytes touches two cache lines.
    pub align: bool,
    /// True: into the second-level cache, which waits for more lines at a time.
    pub far: bool,
}

impl Walk {
    /// The policy for arrays in cache.
    pub const CACHED: Walk = Walk { stream: false, ahead: 0, align: false, far: false };
    /// The policy for arrays out of cache, read once and written once.
    pub const STREAM: Walk = Walk { stream: true, ahead: 1024, align: true, far: false };

    /// Chooses by the bytes that are read and the output: streaming pays where the two do not stay in cache.
    pub fn over<T>(read: usize, out: &[T]) -> Walk {
        let written = std::mem::size_of_val(out);
        let streams = match (LEAST.load(Ordering::Relaxed), caches()) {
            // Three quarters (2^22 elements of 5 bytes in 32 MB take 0.6 of the time that streaming does), and not more
            // than a core can count on where a large cache has many cores. Elsewhere, large outputs stream as long as
            // nobody has measured otherwise.
            (0, Some(found)) if found.one_stream => read + written >= (found.third / 4 * 3).clamp(MANY, MOST),
            (0, _) => written >= MANY,
            (least, _) => read + written >= least,
        };
        if streams {
            Walk::STREAM
        } else {
            Walk::CACHED
        }
    }

    /// The same with groups at boundaries of the output, where that pays for the elements before the first one.
    #[must_use]
    pub fn aligned<T>(self, out: &[T]) -> Walk {
        Walk { align: self.stream || std::mem::size_of_val(out) >= ALIGNED, ..self }
    }
}

/// Bytes of output from which [`Walk::aligned`] pays.
const ALIGNED: usize = 16 << 10;

/// The bytes of output from which it streams where caches do not decide; the least and the most of input and output where
/// they do.
const MANY: usize = 1 << 20;
const MOST: usize = 32 << 20;

static LEAST: AtomicUsize = AtomicUsize::new(0);

/// Sets the bytes of input and output from which stores stream, 0 for those that the caches ask for: for tests, which
/// would otherwise need large arrays.
pub fn set_least_streamed(bytes: usize) {
    LEAST.store(bytes, Ordering::Relaxed);
}

/// An elementwise function, one group at a time.
pub trait GroupMap: Copy {
    /// Element type read.
    type In: Copy + Default + Send + Sync;
    /// Element type written.
    type Out: Copy + Default + Send + Sync;
    /// Maps `src[..L::GROUP]` to `out[..L::GROUP]`; `at` is the index of the group's first element.
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[Self::In], out: &mut [Self::Out], stream: bool);
}

/// Sections that a streaming loop interleaves: memory serves several streams faster than one. Four, each prefetched
/// 1 KiB ahead, measured best.
const SECTIONS: usize = 4;

/// Length from which sections pay.
const LONG: usize = 16 * 1024;

/// Applies `map` to all of `src`, whose first element has index `at`. Every element passes through the same vector
/// code: short ends go through a padded copy. After a streaming loop the caller must [`Lanes::fence`].
#[inline(always)]
pub fn map_groups<L: Lanes, M: GroupMap>(
    l: L,
    map: &M,
    at: usize,
    src: &[M::In],
    out: &mut [M::Out],
    walk: Walk,
) {
    let n = src.len();
    assert_eq!(n, out.len());
    let walk = if L::STREAMS { walk } else { Walk::CACHED };
    let mut i = 0;
    if walk.align {
        let head = out.as_ptr().align_offset(64).min(n);
        while i < head {
            let k = (head - i).min(L::GROUP);
            l.call(Partial { map, at: at + i, src: &src[i..i + k], out: &mut out[i..i + k] });
            i += k;
        }
    }
    let sections = if walk.stream && n >= LONG { SECTIONS } else { 1 };
    let section = (n - i) / L::GROUP / sections * L::GROUP;
    let whole = sections * section;
    let groups =
        Groups { map, at: at + i, src: &src[i..i + whole], out: &mut out[i..i + whole], section, walk };
    if L::SHARES_LOOPS {
        l.call(groups);
    } else {
        groups.run(l);
    }
    i += whole;
    while i < n {
        let k = (n - i).min(L::GROUP);
        l.call(Partial { map, at: at + i, src: &src[i..i + k], out: &mut out[i..i + k] });
        i += k;
    }
}

/// Rows of `cols` elements: the index of the first, how far one is from the next in and out, and how to walk.
#[derive(Clone, Copy, Debug)]
pub struct Laid {
    /// The index of the first element.
    pub at: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Elements from one row to the next that are read.
    pub stride: usize,
    /// The same of those that are written, and of indices.
    pub pitch: usize,
    /// Cache policy.
    pub walk: Walk,
}

impl Laid {
    /// The same for outputs that stay in the caches.
    #[must_use]
    #[inline(always)]
    pub fn plain(self) -> Laid {
        Laid { walk: Walk { stream: false, align: false, ..self.walk }, ..self }
    }

    /// Maps the rows, each by itself; `map` takes the index of a row's first element.
    #[inline(always)]
    pub fn rows<L: Lanes, M: GroupMap>(
        self,
        l: L,
        src: &[M::In],
        out: &mut [M::Out],
        map: impl Fn(usize) -> (usize, M),
    ) {
        let Laid { at, cols, stride, pitch, walk } = self;
        for (k, (src, out)) in src.chunks(stride).zip(out.chunks_mut(pitch)).enumerate() {
            let (src, out) = (&src[..cols], &mut out[..cols]);
            if walk.far && walk.ahead > 0 && cols > 0 {
                // Groups fetch as many lines as they have, one less than they touch where they do not begin with one.
                l.prefetch_far(&src[cols - 1..], walk.ahead);
            }
            let (at, map) = map(at + k * pitch);
            map_groups(l, &map, at, src, out, walk);
        }
    }

    /// Maps the rows, whose elements are known by their indices.
    #[inline(always)]
    pub fn map<L: Lanes, M: GroupMap>(self, l: L, map: &M, src: &[M::In], out: &mut [M::Out]) {
        self.rows(
            l,
            src,
            out,
            #[inline(always)]
            |at| (at, *map),
        );
    }
}

/// Maps whole groups, of sections in turn.
struct Groups<'a, M: GroupMap> {
    map: &'a M,
    at: usize,
    src: &'a [M::In],
    out: &'a mut [M::Out],
    section: usize,
    walk: Walk,
}

impl<M: GroupMap> Kernel for Groups<'_, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { map, at, src, out, section, walk } = self;
        let n = src.len();
        assert!(n == out.len() && section % L::GROUP == 0 && (n == section || n % section == 0));
        // A copy that nothing points to: stores cannot change it, so that what is made of it stays in registers.
        let near = *map;
        if !L::STREAMS {
            let mut i = 0;
            while i < n {
                // SAFETY: `i` is a multiple of a group below `n`, which is one too.
                let (group, out) =
                    unsafe { (src.get_unchecked(i..i + L::GROUP), out.get_unchecked_mut(i..i + L::GROUP)) };
                near.group(l, at + i, group, out, false);
                i += L::GROUP;
            }
            return;
        }
        let (mut i, mut k) = (0, 0);
        while i < section {
            // SAFETY: `k` is at least a group below the end of its section, and all sections end at `n` elements.
            let (group, out) =
                unsafe { (src.get_unchecked(k..k + L::GROUP), out.get_unchecked_mut(k..k + L::GROUP)) };
            if walk.ahead > 0 {
                for line in 0..std::mem::size_of_val(group).div_ceil(64) {
                    if walk.far {
                        l.prefetch_far(group, walk.ahead + 64 * line);
                    } else {
                        l.prefetch(group, walk.ahead + 64 * line);
                    }
                }
            }
            near.group(l, at + k, group, out, walk.stream);
            // To the same place of the next section, or from the last one to the next group of the first.
            k += section;
            if k >= n {
                i += L::GROUP;
                k = i;
            }
        }
    }
}

/// Maps at most one group, through padded copies.
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
        let (src, out) = (&input[..L::GROUP], &mut output[..L::GROUP]);
        if L::SHARES_LOOPS {
            let (map, at, section) = (self.map, self.at, L::GROUP);
            l.call(Groups { map, at, src, out, section, walk: Walk::CACHED });
        } else {
            self.map.group(l, self.at, src, out, false);
        }
        self.out.copy_from_slice(&output[..n]);
    }
}
