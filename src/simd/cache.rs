//! Sizes of the caches, for choices of speed: what fits them is kept there, and what does not streams past them.

use std::sync::OnceLock;

/// The caches of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// The second level.
    pub second: Second,
    /// Bytes of the third level, which threads share.
    pub third: usize,
    /// Threads of the CPU that share it.
    pub sharing: usize,
    /// True where prefetchers follow one stream as fast as memory goes: on Zen 4, but not on Emerald Rapids, which is
    /// faster with several.
    pub one_stream: bool,
}

/// A second-level cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// Its bytes.
    pub bytes: usize,
    /// The ways that they are divided among.
    pub ways: usize,
}

impl Second {
    /// Counts the lines that it has places for, of rows so many bytes apart: one in each way for each row that is no multiple of
    /// a way from the others.
    pub fn places(self, stride: usize) -> usize {
        let way = self.bytes / self.ways.max(1);
        self.ways * (way >> stride.trailing_zeros().min(way.trailing_zeros()))
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Tests if rows begin with a cache line, the first and those that follow every `pitch` elements.
#[inline(always)]
pub fn whole_lines<T>(rows: &[T], pitch: usize) -> bool {
    rows.as_ptr().addr().is_multiple_of(LINE) && (pitch * std::mem::size_of::<T>()).is_multiple_of(LINE)
}

/// The caches of this machine; `None` where the CPU does not tell.
pub fn caches() -> Option<Caches> {
    static FOUND: OnceLock<Option<Caches>> = OnceLock::new();
    *FOUND.get_or_init(read)
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> Option<Caches> {
    None
}

/// Reads the table of caches that Intel and AMD have in the same form, each at a place of its own.
#[cfg(target_arch = "x86_64")]
fn read() -> Option<Caches> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const LEAVES: [u32; 2] = [0x8000_001D, 4]; // AMD's, Intel's
    const MOST: u32 = 8;
    // The instruction is unsafe to call in older compilers only: every x86-64 CPU has it.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 CPU has the instruction, and it touches no memory.
    let read = |leaf: u32, row: u32| unsafe {
        let highest = __cpuid(leaf & 0x8000_0000).eax;
        (leaf <= highest).then(|| __cpuid_count(leaf, row))
    };
    LEAVES.into_iter().find_map(|leaf| {
        let mut found = [(0, 0, 0); 4];
        for row in 0..MOST {
            let r = read(leaf, row)?;
            let (kind, level) = (r.eax & 0x1F, (r.eax >> 5 & 7) as usize);
            if kind == 0 {
                break;
            }
            let (line, parts, ways) = ((r.ebx & 0xFFF) + 1, (r.ebx >> 12 & 0x3FF) + 1, (r.ebx >> 22) + 1);
            // Data, or data and instructions.
            if kind != 2 && level < found.len() {
                let bytes = [line, parts, ways, r.ecx + 1].iter().map(|n| *n as usize).product();
                found[level] = (bytes, ways as usize, (r.eax >> 14 & 0xFFF) as usize + 1);
            }
        }
        let ((bytes, ways, _), (third, _, sharing)) = (found[2], found[3]);
        let (second, one_stream) = (Second { bytes, ways }, leaf == LEAVES[0]);
        (third > 0).then_some(Caches { second, third, sharing, one_stream })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_find_places() {
        let of = |bytes: usize, ways: usize, stride: usize| Second { bytes, ways }.places(stride);
        let xeon = |stride: usize| of(2 << 20, 16, stride);
        assert_eq!([xeon(64), xeon(9216 * 4), xeon(8192 * 4), xeon(1 << 20)], [32768, 512, 64, 16]);
        assert_eq!([of(256 << 10, 4, 7168 * 4), of(0, 0, 64), of(1280 << 10, 20, 1 << 16)], [64, 0, 20]);
    }

    #[test]
    fn lines_are_whole() {
        let lines = [0u8; 200];
        let at = lines.as_ptr().align_offset(LINE);
        assert!(whole_lines(&lines[at..], 128) && !whole_lines(&lines[at..], 100));
        assert!(!whole_lines(&lines[at + 16..], 128));
    }
}
