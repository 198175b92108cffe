//! Products at the level that has AMX: tiles where there are rows enough for them, vectors for the others.

use super::{skinny_amx, skinny_simd, tiles, Problem};
use crate::gemm::blocked::{blocks, Region};
use crate::gemm::job::{Job, Tile};
use crate::simd::{level, Level};
use crate::threads::{run_tasks, threads_for};

/// Tests if the level in force has AMX.
pub(super) fn available() -> bool {
    level() == Level::Amx && crate::simd::amx::Amx::detect().is_some()
}

/// Computes tiles of any size; intervals are whole steps, or all of k.
pub(super) fn run(job: &Job<'_>, p: &Problem<'_>, whole: Vec<Tile<'_>>, work: usize) {
    let (few, many): (Vec<_>, Vec<_>) = whole.into_iter().partition(|t| t.rows() <= skinny_amx::MAX_ROWS);
    let (fewer, few): (Vec<_>, Vec<_>) = few.into_iter().partition(|t| t.rows() < skinny_amx::MIN_ROWS);
    skinny_simd::product(p, fewer, work);
    skinny_amx::product(job, p, few, work);
    run_tasks(work, blocks(many, threads_for(work)), |tile| {
        let mut region = Region::new(tile);
        tiles::product(p, &mut region);
        redo_subnormal(job, &mut region);
    });
}

/// Computes the outputs anew that AMX gets wrong: it flushes subnormal accumulators, which only a sum that begins with c
/// can meet.
pub(super) fn redo_subnormal(job: &Job<'_>, region: &mut Region<'_>) {
    if job.chained && job.k > 0 && region.has_c() {
        let c = region.initial();
        region.redo(job, |i, j| c(i, j).is_subnormal());
    }
}
