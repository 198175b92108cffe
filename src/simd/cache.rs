//! Sizes of the caches, for choices of speed: what fits them is kept there, and what does not streams past them.

use std::sync::OnceLock;

/// The caches of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Bytes of the third level, which threads share.
    pub third: usize,
    /// Threads of the CPU that share it.
    pub sharing: usize,
    /// True where prefetchers follow one stream as fast as memory goes: on Zen 4, but not on Emerald Rapids, which is
    /// faster with several.
    pub one_stream: bool,
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
        let mut found = [(0, 0); 4];
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
                found[level] = (bytes, (r.eax >> 14 & 0xFFF) as usize + 1);
            }
        }
        let (third, sharing) = found[3];
        let one_stream = leaf == LEAVES[0];
        (third > 0).then_some(Caches { third, sharing, one_stream })
    })
}
