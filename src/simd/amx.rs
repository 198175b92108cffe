//! AMX: eight registers of 16 rows of 64 bytes, and products of bfloat16 in them.
//!
//! The compiler knows only the names of the registers, so the instructions are inline assembly. Linux grants the
//! registers' state to a process on request, once; threads and forks inherit the permission.
//!
//! `TDPBF16PS`, bit for bit (measured; it is the definition that [`crate::gemm`] follows at every level):
//! for each output one sum over the even and one over the odd of the 32 k, each from +0 in the order of k, then
//! accumulator + (even + odd), all rounded to nearest even. Subnormal bfloat16 count as zero, and a subnormal
//! accumulator does too: callers keep both away.

use super::avx512::Avx512;
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Proof that this CPU has AMX for bfloat16, that the system lets this process use it, and all that AVX-512 stands for.
#[derive(Clone, Copy)]
pub struct Amx(Avx512);

/// Tests if CPU and system have the tiles: AMX-TILE and AMX-BF16, and their state in XCR0.
fn present() -> bool {
    if __cpuid(0).eax < 0xD {
        return false;
    }
    let (features, extended) = (__cpuid(1), __cpuid_count(7, 0));
    let osxsave = features.ecx >> 27 & 1 == 1;
    if !osxsave || extended.edx >> 22 & 1 == 0 || extended.edx >> 24 & 1 == 0 {
        return false;
    }
    let state: u32;
    // SAFETY: OSXSAVE says that XGETBV exists.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    state >> 17 & 3 == 3
}

/// Requests the tiles' state from Linux: `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    let (call, request, feature) = (158_i64, 0x1023_i64, 18_i64);
    let result: i64;
    // SAFETY: a system call that reads no memory of ours; the kernel clobbers RCX and R11.
    unsafe {
        asm!("syscall", inlateout("rax") call => result, in("rdi") request, in("rsi") feature,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

impl Amx {
    /// The token, if CPU and system have the feature.
    pub fn detect() -> Option<Amx> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512::detect()?;
        ALLOWED.get_or_init(|| present() && permitted()).then_some(Amx(vectors))
    }

    /// The AVX-512 that comes with it.
    pub fn vectors(self) -> Avx512 {
        self.0
    }

    /// Configures the tile registers of this thread until the result is dropped: sums and right-hand tiles have `width`
    /// columns, 1 to 16. One at a time.
    #[inline(always)]
    pub fn tiles(self, width: usize) -> Tiles {
        assert!((1..=16).contains(&width));
        let mut config = Config { palette: 1, rest: [0; 15], bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            let lhs = tile == 4 || tile == 5;
            config.bytes[tile] = if lhs { 64 } else { 4 * width as u16 };
            config.rows[tile] = 16;
        }
        // SAFETY: the token proves that the instruction exists and is permitted; `config` is 64 valid bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags)) };
        Tiles { width, here: PhantomData }
    }
}

/// The operand of `LDTILECFG`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    rest: [u8; 15],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// The configured tile registers of this thread; released on drop.
pub struct Tiles {
    width: usize,
    here: PhantomData<*const ()>, // the registers belong to the thread
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: only [`Amx::tiles`] makes this struct.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

/// Sums of 32 rows by up to 32 columns: 32 rows of the left 16 columns, then of the right ones.
pub type Sums = [[f32; 16]; 64];

/// 32 rows of bfloat16, a left-hand operand. A distance that is no power of two spreads the rows over the cache.
#[derive(Clone, Copy)]
pub struct Lhs<'a> {
    /// The rows, one after another.
    pub words: &'a [u16],
    /// Words from one row to the next.
    pub stride: usize,
}

/// Work that is interleaved with the instructions of a product of tiles.
pub trait Interleave {
    /// Runs what comes after instruction `part` of a step, both counted from 0.
    fn slot(&mut self, step: usize, part: usize);
}

impl Interleave for () {
    #[inline(always)]
    fn slot(&mut self, _: usize, _: usize) {}
}

/// The tile registers hold sums in 0 to 3, left-hand operands in 4 and 5, right-hand ones in 6 and 7.
macro_rules! tile_step {
    ($($line:literal),+; $($name:ident = $value:expr),*; $($tile:tt),+) => {
        asm!($($line),+, $($name = in(reg) $value,)* $(out($tile) _,)+ options(nostack, preserves_flags))
    };
}

impl Tiles {
    /// Adds the products of `steps` times 32 k to `sums`, or overwrites `sums` if `fresh`: 32 rows of `lhs`
    /// by `COLUMNS` (1 or 2) tiles of `rhs`.
    ///
    /// `STEPS` are 4 where there are so many, and else 0.
    ///
    /// `lhs` has 32 words for each step, `rhs` `COLUMNS` tiles of 16 pairs of k of `2 * width` words; both are read from
    /// step `at_left` and `at_right` on. `beside` is called after
    /// each of the `2 * COLUMNS * steps` instructions, to fill the units that they leave idle.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // two operands, a place in each, and the sums
    pub fn product<const COLUMNS: usize, const STEPS: usize>(
        &self,
        lhs: Lhs<'_>,
        at_left: usize,
        rhs: &[u16],
        at_right: usize,
        steps: usize,
        fresh: bool,
        sums: &mut Sums,
        mut beside: impl Interleave,
    ) {
        const { assert!(COLUMNS == 1 || COLUMNS == 2) };
        assert!(STEPS == 0 || STEPS == steps);
        let tile = 32 * self.width;
        assert!(lhs.words.len() >= 31 * lhs.stride + (at_left + steps) * 32);
        assert!(rhs.len() >= (at_right + steps) * COLUMNS * tile);
        let (stride, row) = (4 * self.width, 2 * lhs.stride);
        let store = sums.as_mut_ptr();
        // SAFETY: `Tiles` proves that the registers are set up. A left-hand tile is 16 rows of 64 bytes,
        // a right-hand one 16 rows of `stride` bytes, both inside their slices as checked; a tile of sums is 16 rows
        // of 64 bytes, of which there are four.
        unsafe {
            if fresh {
                tile_step!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3";;
                           "tmm0", "tmm1", "tmm2", "tmm3");
            } else {
                tile_step!("tileloadd tmm0, [{p} + {s}*1]", "tileloadd tmm2, [{p} + {s}*1 + 1024]";
                           p = store, s = 64usize; "tmm0", "tmm2");
                if COLUMNS == 2 {
                    tile_step!("tileloadd tmm1, [{p} + {s}*1 + 2048]", "tileloadd tmm3, [{p} + {s}*1 + 3072]";
                               p = store, s = 64usize; "tmm1", "tmm3");
                }
            }
            let first = Step {
                a: lhs.words.as_ptr().add(at_left * 32),
                lower: 16 * lhs.stride,
                row,
                b: rhs.as_ptr().add(at_right * COLUMNS * tile),
                tile,
                stride,
            };
            if STEPS == 4 {
                // Written out: a loop would not be unrolled, and the parts of `beside` need places that are known.
                first.product::<COLUMNS>(0, &mut beside);
                first.product::<COLUMNS>(1, &mut beside);
                first.product::<COLUMNS>(2, &mut beside);
                first.product::<COLUMNS>(3, &mut beside);
            } else {
                for i in 0..steps {
                    first.product::<COLUMNS>(i, &mut beside);
                }
            }
            tile_step!("tilestored [{p} + {s}*1], tmm0", "tilestored [{p} + {s}*1 + 1024], tmm2";
                       p = store, s = 64usize; "tmm0", "tmm2");
            if COLUMNS == 2 {
                tile_step!("tilestored [{p} + {s}*1 + 2048], tmm1", "tilestored [{p} + {s}*1 + 3072], tmm3";
                           p = store, s = 64usize; "tmm1", "tmm3");
            }
        }
    }
}

/// The operands of the first step of a product.
#[derive(Clone, Copy)]
struct Step {
    /// The first left-hand tile, words to the lower one, and bytes from one of their rows to the next.
    a: *const u16,
    lower: usize,
    row: usize,
    /// The first right-hand tile, words of it, and bytes of its rows.
    b: *const u16,
    tile: usize,
    stride: usize,
}

impl Step {
    /// Adds the products of step `i`, 32 k.
    ///
    /// # Safety
    /// The tile registers are set up, and the operands have so many steps.
    #[inline(always)]
    unsafe fn product<const COLUMNS: usize>(self, i: usize, beside: &mut impl Interleave) {
        let Step { row, tile, stride, .. } = self;
        // SAFETY: as the function's own.
        unsafe {
            let (a, b) = (self.a.add(i * 32), self.b.add(i * COLUMNS * tile));
            tile_step!("tileloadd tmm4, [{a} + {s}*1]", "tileloadd tmm6, [{b} + {t}*1]",
                       "tdpbf16ps tmm0, tmm4, tmm6";
                       a = a, b = b, s = row, t = stride; "tmm0", "tmm4", "tmm6");
            beside.slot(i, 0);
            if COLUMNS == 2 {
                tile_step!("tileloadd tmm7, [{b} + {t}*1]", "tdpbf16ps tmm1, tmm4, tmm7";
                           b = b.add(tile), t = stride; "tmm1", "tmm7");
                beside.slot(i, 2);
            }
            tile_step!("tileloadd tmm5, [{a} + {s}*1]", "tdpbf16ps tmm2, tmm5, tmm6";
                       a = a.add(self.lower), s = row; "tmm2", "tmm5");
            beside.slot(i, 1);
            if COLUMNS == 2 {
                tile_step!("tdpbf16ps tmm3, tmm5, tmm7";; "tmm3");
                beside.slot(i, 3);
            }
        }
    }
}
