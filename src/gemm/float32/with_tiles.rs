//! Products at the level that has AMX: tiles where there are rows enough for them, vectors for the others.

use super::output::Region;
use super::{blocks, skinny_amx, skinny_simd, tiles, Float32Sum, Problem};
use crate::gemm::definition::Chain;
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
        let restart = Restart::of(job, &tile);
        let mut region = Region::new(tile);
        tiles::product(p, &mut region);
        restart.finish(region);
    });
}

/// Results that AMX would get wrong: it flushes subnormal accumulators, which only a sum that begins with c can meet.
pub(super) struct Restart(Vec<(usize, usize, f32)>);

impl Restart {
    pub fn of(job: &Job<'_>, tile: &Tile<'_>) -> Restart {
        let mut results = Vec::new();
        for row in (0..tile.rows()).filter(|_| job.chained && job.k > 0) {
            let Some(c) = tile.c_from(row, 0) else { break };
            for (col, c) in c.iter().enumerate().take(tile.cols()).filter(|(_, c)| c.is_subnormal()) {
                let a = Float32Sum.items(&job.a, tile.a_row + row);
                let b = Float32Sum.items(&job.b, tile.b_row + col);
                results.push((row, col, Float32Sum.run(&a, &b, *c)));
            }
        }
        Restart(results)
    }

    pub fn finish(&self, mut region: Region<'_>) {
        for (row, col, result) in &self.0 {
            region.put(*row, *col, &[*result]);
        }
    }
}
