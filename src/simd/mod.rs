//! Floor 0: which instruction set runs, and the lane operations that kernels are written in.
//!
//! The only `unsafe` code of the crate lives here. A *level* is a zero-sized token ([`scalar::Scalar`], and `Neon` or
//! `Avx2` and `Avx512` by the architecture) that can only be had when the CPU has its features, so the lane
//! operations of [`Lanes`] have safe signatures and a kernel is ordinary generic code on its own floor:
//! a struct that implements [`Kernel`]. [`dispatch`] runs it at the level in force. The highest levels, `avx512_bf16` and
//! `amx`, have the lanes of `avx512`; their products come with tokens of their own (`bf16_pairs::Avx512Bf16`, `amx::Amx`).
//!
//! Not here: any arithmetic of formats. Next floor: [`crate::formats`].

/// Lane operations that are one intrinsic each: a line of a table, by the level's own names.
#[cfg(target_arch = "x86_64")]
macro_rules! intrinsics {
    ($($name:ident($($x:ident: $t:ty),+) -> $r:ty = $intrinsic:ident;)+) => {$(
        #[inline(always)]
        fn $name(self, $($x: $t),+) -> $r {
            // SAFETY: the token proves the features, and no memory is touched.
            unsafe { $intrinsic($($x),+) }
        }
    )+};
}

/// Copies with non-temporal stores, by the level's own load and `store`.
#[cfg(target_arch = "x86_64")]
macro_rules! streamed {
    ($load:ident) => {
        #[inline(always)]
        fn stream<T: Plain>(self, src: &[T], out: &mut [T]) {
            let vector = Self::N * T::PER_WORD;
            let (head, src) = src.split_at(out.as_ptr().align_offset(64).min(src.len()));
            let (start, out) = out.split_at_mut(head.len());
            start.copy_from_slice(head);
            let (whole, rest) = src.split_at(src.len() / vector * vector);
            let (out, end) = out.split_at_mut(whole.len());
            for (src, out) in whole.chunks_exact(vector).zip(out.chunks_exact_mut(vector)) {
                assert!(std::mem::size_of_val(src) == 4 * Self::N);
                // SAFETY: the slice holds a vector's bytes; the token proves the features.
                store(unsafe { $load(src.as_ptr().cast()) }, out, true);
            }
            end.copy_from_slice(rest);
        }
    };
}

/// Lookups of a level that keeps no table in registers: by the table itself.
macro_rules! no_register_table {
    () => {
        type RegisterTable = &'static Lookup;
        #[inline(always)]
        fn register_table(self, table: &'static Lookup) -> Option<Self::RegisterTable> {
            Some(table)
        }
        #[inline(always)]
        fn lookup_registers(self, table: Self::RegisterTable, codes: &[u8]) -> [Self::F; 4] {
            self.lookup(table, codes)
        }
    };
}

/// Lane operations that stand in files of their own, a function there for each level.
#[cfg(target_arch = "x86_64")]
macro_rules! elsewhere {
    ($level:ident) => {
        #[inline(always)]
        fn columns(self, table: &Lookup, codes: &[u8], each: impl ColumnSink<Self>) {
            super::columns::$level(self, table, codes, each);
        }
        #[inline(always)]
        fn transpose(self, rows: &[f32], out: &mut [f32]) {
            super::transpose::$level(self, rows, out);
        }
        #[inline(always)]
        fn transpose_bytes(self, src: &[u8], stride: usize, out: &mut [u8], pitch: usize, stream: bool) {
            super::byte_tiles::$level(self, src, stride, out, pitch, stream);
        }
        #[inline(always)]
        fn philox(self, keys: &PhiloxKeys, block: u64) -> [Self::U; 4] {
            super::philox::$level(self, keys, block)
        }
        #[inline(always)]
        fn philox_bytes(self, keys: &PhiloxKeys, block: u64) -> [u8; super::MAX_GROUP] {
            super::philox::bytes::$level(self, keys, block)
        }
        #[inline(always)]
        fn lay_out(self, x: &[f64; 16], near: u32, out: &mut [f32; 16]) -> bool {
            super::permutations::$level::lay_out(self, x, near, out)
        }
        #[inline(always)]
        fn lay_out_pairs(self, x: &[f64; 16], near: &mut [f32; 16], rest: &mut [f32; 16]) {
            super::permutations::$level::lay_out_pairs(self, x, near, rest);
        }
        #[inline(always)]
        fn permute_group(
            self,
            low: &[f32; 16],
            high: Option<&[f32; 16]>,
            codes: [Self::U; 4],
            shift: u32,
        ) -> [Self::F; 4] {
            super::permutations::$level::permute_group(self, low, high, codes, shift)
        }
        #[inline(always)]
        fn permute_signed(self, table: &[f32; 16], codes: [Self::U; 4], shift: u32) -> [Self::F; 4] {
            super::permutations::$level::permute_signed(self, table, codes, shift)
        }
        #[inline(always)]
        fn hmax_each(self, a: &[Self::U]) -> Self::U {
            super::maxima::$level(self, a)
        }
    };
}

/// How a token is had, and what it stands for: the features of its level.
#[cfg(target_arch = "x86_64")]
macro_rules! token {
    ($token:ident: $($feature:tt)+) => {
        impl $token {
            /// The token, if the CPU has the features.
            #[inline]
            pub fn detect() -> Option<$token> {
                ($(is_x86_feature_detected!($feature))&&+).then_some($token(()))
            }

            /// Runs a kernel in a function that has the features switched on.
            #[inline]
            pub fn enter<K: Kernel>(self, kernel: K) -> K::Out {
                #[target_feature($(enable = $feature),+)]
                fn inner<K: Kernel>(l: $token, kernel: K) -> K::Out {
                    kernel.run(l)
                }
                // SAFETY: the token proves that the CPU has these features.
                unsafe { inner(self, kernel) }
            }
        }
    };
}

mod ahead;
pub mod bf16_pairs;
mod byte_tiles;
mod cache;
mod columns;
mod lanes;
mod lookup;
mod map;
mod maxima;
#[cfg(target_arch = "x86_64")]
mod onto;
mod packed;
mod permutations;
mod philox;
mod plain;
mod products;
mod register_table;
pub mod scalar;
mod steps;
mod transpose;
pub mod words;

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_halves;
#[cfg(target_arch = "x86_64")]
mod avx512_random;
pub mod mma;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_narrow;
#[cfg(target_arch = "aarch64")]
mod neon_tables;

pub use ahead::Ahead;
pub use cache::{caches, whole_lines, Caches, Second};
pub use lanes::{
    f16_to_f32, f64_to_f32_odd, fma, ByteFormat, ColumnSink, Kernel, Lanes, Narrow, MAX_GROUP, STEP,
};
pub use lookup::{F16Shift, Lookup};
pub use map::{map_groups, set_least_streamed, GroupMap, Laid, Walk};
pub(crate) use packed::each_row;
pub use packed::PackedColumns;
pub use philox::PhiloxKeys;
pub use plain::Plain;
pub use products::Products;
pub use steps::{add_steps, STEP_STRIDE};

use crate::error::{by_name, Error};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::OnceLock;

/// An instruction-set level, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Portable Rust, compiled for the baseline CPU.
    Scalar = 0,
    /// NEON (every AArch64).
    Neon = 1,
    /// AVX2 with FMA and F16C (Haswell, Zen and later).
    Avx2 = 2,
    /// AVX-512 F/BW/DQ/VL/CD with VBMI and VNNI (Ice Lake, Zen 4 and later).
    Avx512 = 3,
    /// AVX-512, and its dot products of bfloat16 (Zen 4, Sapphire Rapids and later).
    Avx512Bf16 = 4,
    /// The same, and AMX tiles of bfloat16 for products (Sapphire Rapids and later).
    Amx = 5,
}

impl Level {
    /// Every level that exists, slowest first.
    pub const ALL: [Level; 6] =
        [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx];

    /// The name that `DSV3_NUMERICS_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512_bf16",
            Level::Amx => "amx",
        }
    }

    /// Tests if this CPU can run the level.
    pub fn available(self) -> bool {
        let here = self != Level::Neon || cfg!(target_arch = "aarch64");
        here && self <= detected()
    }

    /// The available levels, slowest first.
    pub fn all_available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|l| l.available())
    }

    /// Looks a level up by name.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for a name that is none, [`Error::Unavailable`] for one this CPU lacks.
    pub fn parse(name: &str) -> Result<Level, Error> {
        let level = *by_name("SIMD level", name, &Level::ALL, |l| l.name())?;
        if level.available() {
            Ok(level)
        } else {
            Err(Error::Unavailable { level: level.name(), best: detected().name() })
        }
    }
}

fn detected() -> Level {
    static DETECTED: OnceLock<Level> = OnceLock::new();
    *DETECTED.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if amx::Amx::detect().is_some() {
                return Level::Amx;
            }
            if bf16_pairs::Avx512Bf16::detect().is_some() {
                return Level::Avx512Bf16;
            }
            if avx512::Avx512::detect().is_some() {
                return Level::Avx512;
            }
            if avx2::Avx2::detect().is_some() {
                return Level::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if neon::Neon::detect().is_some() {
            return Level::Neon;
        }
        Level::Scalar
    })
}

const UNSET: u8 = u8::MAX;
static IN_FORCE: AtomicU8 = AtomicU8::new(UNSET);

/// The level in force: the best one available, unless `DSV3_NUMERICS_SIMD` or [`set_level`] says otherwise.
/// A variable that names no available level is ignored here; [`level_from_env`] reports it.
pub fn level() -> Level {
    match IN_FORCE.load(Ordering::Relaxed) {
        UNSET => {
            let level = level_from_env().unwrap_or_else(|_| detected());
            IN_FORCE.store(level as u8, Ordering::Relaxed);
            level
        }
        l => Level::ALL[l as usize],
    }
}

/// The level that the environment asks for.
///
/// # Errors
/// As [`Level::parse`].
pub fn level_from_env() -> Result<Level, Error> {
    match std::env::var("DSV3_NUMERICS_SIMD") {
        Ok(name) if !name.is_empty() => Level::parse(&name.to_lowercase()),
        _ => Ok(detected()),
    }
}

/// Forces a level for the whole process (tests and benches).
///
/// # Errors
/// [`Error::Unavailable`] if this CPU lacks it.
pub fn set_level(level: Level) -> Result<(), Error> {
    let level = Level::parse(level.name())?;
    IN_FORCE.store(level as u8, Ordering::Relaxed);
    Ok(())
}

/// Runs a kernel at the level in force.
pub fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    dispatch_at(level(), kernel)
}

/// Runs a kernel at the level in force, one with vectors: for what is done another way where there are none.
pub fn dispatch_vectors<K: Kernel>(kernel: K) -> K::Out {
    with_vectors(level(), kernel).unwrap_or_else(|_| unreachable!("a level with vectors is in force"))
}

/// Runs a kernel at a given level, or at the best available one below it.
pub fn dispatch_at<K: Kernel>(level: Level, kernel: K) -> K::Out {
    with_vectors(level, kernel).unwrap_or_else(portable)
}

/// Runs a kernel at the best level with vectors up to a given one; hands it back if there is none.
#[inline]
fn with_vectors<K: Kernel>(level: Level, kernel: K) -> Result<K::Out, K> {
    #[cfg(target_arch = "x86_64")]
    {
        if level >= Level::Avx512 {
            if let Some(l) = avx512::Avx512::detect() {
                return Ok(l.enter(kernel));
            }
        }
        if level >= Level::Avx2 {
            if let Some(l) = avx2::Avx2::detect() {
                return Ok(l.enter(kernel));
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    if level >= Level::Neon {
        if let Some(l) = neon::Neon::detect() {
            return Ok(l.enter(kernel));
        }
    }
    let _ = level;
    Err(kernel)
}

/// Runs a kernel at the portable level, which defines what the others give: for what is too rare to be compiled for each.
pub fn portable<K: Kernel>(kernel: K) -> K::Out {
    scalar::Scalar.enter(kernel)
}
