//! The definition of a product, output by output: what runs at the scalar level, and where a vector path gives up.

use super::accumulator::{Accumulator, Unit};
use super::job::{Job, Side, Tile};
use crate::interrupt::poll;
use crate::simd::fma;

/// One accumulator for two formats, as chains of steps.
pub(super) trait Chain: Copy + Sync {
    /// A code, made ready.
    type Item: Copy;
    /// Makes a row ready.
    fn items(&self, side: &Side<'_>, row: usize) -> Vec<Self::Item>;
    /// Adds all products to `c`, in as many steps as they need.
    fn run(&self, a: &[Self::Item], b: &[Self::Item], c: f32) -> f32;
}

/// Runs `$body` with `$chain` the definition of an accumulator for two formats.
macro_rules! each_chain {
    ($accumulator:expr, $a:expr, $b:expr, $chain:ident => $body:expr) => {
        match $accumulator.unit {
            $crate::gemm::accumulator::Unit::TensorCore => {
                let $chain = $crate::gemm::mma::TensorCore::new($accumulator, $a, $b);
                $body
            }
            $crate::gemm::accumulator::Unit::Software => {
                let $chain = $crate::gemm::mma::Software::new($accumulator, $a, $b);
                $body
            }
            $crate::gemm::accumulator::Unit::ScaledGroups => {
                let $chain = $crate::gemm::scaled_groups::ScaledGroups::new($accumulator);
                $body
            }
            $crate::gemm::accumulator::Unit::MatrixCoreFp8 | $crate::gemm::accumulator::Unit::MatrixCore => {
                let $chain = $crate::gemm::matrix_core::MatrixCore::new($accumulator, $a, $b);
                $body
            }
            $crate::gemm::accumulator::Unit::Exact => {
                let $chain = $crate::gemm::exact::ExactSum::new($a, $b);
                $body
            }
            $crate::gemm::accumulator::Unit::Float32 => {
                let $chain = $crate::gemm::float32::Float32Sum;
                $body
            }
            $crate::gemm::accumulator::Unit::Bf16Dot => {
                let $chain = $crate::gemm::bf16_dot::Bf16DotSum;
                $body
            }
        }
    };
}
pub(super) use each_chain;

/// The one NaN that an accumulator gives.
pub(super) fn canonical(accumulator: &Accumulator, x: f32) -> f32 {
    match accumulator.unit {
        _ if !x.is_nan() => x,
        Unit::Float32 | Unit::Bf16Dot => f32::from_bits(0x7FC0_0000),
        _ => super::mma::NAN,
    }
}

/// Rows and columns that are made ready together.
pub(super) const SIDE: usize = 32;

/// Computes a whole tile from the definition.
pub(super) fn whole_tile(job: &Job<'_>, tile: Tile<'_>) {
    let mut results = vec![0f32; tile.rows() * tile.cols()];
    outputs(job, &tile, &|_, _| true, &mut results);
    tile.write(job.accumulator, &results);
}

/// Computes the wanted outputs of a tile into `results`, which has the tile's rows and columns, from the definition.
pub(super) fn outputs(
    job: &Job<'_>,
    tile: &Tile<'_>,
    wanted: &dyn Fn(usize, usize) -> bool,
    results: &mut [f32],
) {
    each_chain!(job.accumulator, job.a.format, job.b.format, chain => {
        each_output(job, tile, chain, wanted, results);
    });
}

fn each_output<C: Chain>(
    job: &Job<'_>,
    tile: &Tile<'_>,
    chain: C,
    wanted: &dyn Fn(usize, usize) -> bool,
    results: &mut [f32],
) {
    let (rows, cols) = (tile.rows(), tile.cols());
    for col0 in (0..cols).step_by(SIDE) {
        let block = col0..cols.min(col0 + SIDE);
        let mut b: Vec<Option<Vec<C::Item>>> = block.clone().map(|_| None).collect();
        for row in 0..rows {
            poll();
            let mut a = None;
            for col in block.clone().filter(|col| wanted(row, *col)) {
                let a = a.get_or_insert_with(|| chain.items(&job.a, tile.a_row + row));
                let b = b[col - col0].get_or_insert_with(|| chain.items(&job.b, tile.b_row + col));
                results[row * cols + col] =
                    output(job, chain, (tile.a_row + row, a), (tile.b_row + col, b), tile.c(row, col));
            }
        }
    }
}

/// One output: intervals of k, each a chain of its own, promoted to float32.
fn output<C: Chain>(
    job: &Job<'_>,
    chain: C,
    (row, a): (usize, &[C::Item]),
    (col, b): (usize, &[C::Item]),
    c: f32,
) -> f32 {
    if job.k == 0 {
        return c;
    }
    if job.chained {
        return chain.run(a, b, c);
    }
    let intervals = a.chunks(job.interval).zip(b.chunks(job.interval)).enumerate();
    intervals.fold(c, |total, (i, (a, b))| {
        let partial = chain.run(a, b, 0.0);
        match job.scale(row, col, i * job.interval) {
            None => total + partial,
            Some(scale) => fma(partial, scale, total),
        }
    })
}
