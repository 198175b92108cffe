//! Matrix products: what is checked, how the work is cut up, and which path runs.

use super::accumulator::{Accumulator, Unit};
use super::bf16_dot;
use super::definition;
use super::emulated;
use super::exact_f64;
use super::float32;
use super::job::{check_c, check_width, each_tile, Blocks, Job, Row, Side, Tile};
use super::prepared::Prepared;
use super::scaled_groups;
use crate::error::{elements, same_length, Error};
use crate::formats::{Codes, Format, Output};
use crate::simd::{level, Level};

/// One side of a product.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Codes in C order, `k` to a row.
    pub codes: Codes<'a>,
    /// Their format.
    pub format: &'static Format,
    /// A factor for each block of each matrix, in C order; `None` for none.
    pub scales: Option<&'a [f32]>,
    /// Rows of a block, and how much of k it spans; the last ones may be short.
    pub group: (usize, usize),
    /// The scales that the unit takes with the codes, where it takes any.
    pub unit_scales: Option<UnitScales<'a>>,
    /// The layout of these codes as a right operand, where there is one; used by the unit that it is for.
    pub prepared: Option<&'a Prepared>,
}

/// Scales that go into a unit, as codes of its scales' format.
#[derive(Clone, Copy, Debug)]
pub struct UnitScales<'a> {
    /// One for each block of each matrix, in C order.
    pub codes: &'a [u8],
    /// Rows of a block, and how much of k it spans; the last ones may be short.
    pub group: (usize, usize),
}

/// The sizes of a product: `stack` times an `m x k` matrix times the transpose of an `n x k` one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Products.
    pub stack: usize,
    /// Rows of a.
    pub m: usize,
    /// Rows of b.
    pub n: usize,
    /// Elements of a row of either.
    pub k: usize,
}

/// How sums are formed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The matrix unit.
    pub accumulator: &'static Accumulator,
    /// After how much of k its result is added to a float32 and it starts anew; `None` for never.
    pub promote_every: Option<usize>,
}

/// Checks one side, which has `matrices` of `rows x k`.
pub(super) fn side<'a>(
    name: &'static str,
    x: &Operand<'a>,
    [matrices, rows, k]: [usize; 3],
    options: &Options,
) -> Result<Side<'a>, Error> {
    options.accumulator.accept(name, x.format)?;
    check_width(name, x.codes, x.format)?;
    same_length(name, x.codes.len(), elements(name, &[matrices, rows, k])?)?;
    let (group_rows, group_k) = x.group;
    if group_rows == 0 || group_k == 0 {
        return Err(Error::Shape { what: name, why: "found a block of size 0, expected at least 1" });
    }
    let blocks = (rows.div_ceil(group_rows), k.div_ceil(group_k));
    if let Some(scales) = x.scales {
        let what = if name == "a" { "a_scales" } else { "b_scales" };
        same_length(what, scales.len(), elements(what, &[matrices, blocks.0, blocks.1])?)?;
        let fits = blocks.1 <= 1 || options.promote_every.is_some_and(|p| group_k % p == 0);
        if !fits {
            return Err(Error::Unsupported(match options.promote_every {
                Some(p) => format!(
                    "promote_every: found {p}, but a scale of {name} spans {group_k} of k, which is no multiple of it"
                ),
                None => format!(
                    "promote_every: found None, but {name} has {} scales along k; expected one, or promotion",
                    blocks.1
                ),
            }));
        }
    }
    let unit_scales = unit_scales(name, x, [matrices, rows, k], options.accumulator)?;
    let prepared = x.prepared.filter(|held| held.fits(options.accumulator, x.format, [matrices, rows, k]));
    let (codes, format, rows) = (x.codes, x.format, rows.max(1));
    Ok(Side { codes, format, k, scales: x.scales, group: x.group, rows, blocks, unit_scales, prepared })
}

/// Checks the scales that go into the unit.
fn unit_scales<'a>(
    name: &'static str,
    x: &Operand<'a>,
    [matrices, rows, k]: [usize; 3],
    accumulator: &Accumulator,
) -> Result<Option<Blocks<'a, u8>>, Error> {
    let refused = |found: String, expected: String| {
        let unit = accumulator.name;
        Err(Error::Unsupported(format!("{name}: found {found}, but accumulator {unit:?} takes {expected}")))
    };
    match (accumulator.scale, x.unit_scales) {
        (None, None) => Ok(None),
        (None, Some(_)) => refused("scales for the unit".to_owned(), "none".to_owned()),
        (Some(scale), None) => {
            refused("no scales for the unit".to_owned(), format!("scales in {}", scale.format.name))
        }
        (Some(scale), Some(UnitScales { codes, group })) => {
            if group.0 == 0 || group.1 == 0 {
                return Err(Error::Shape { what: name, why: "found a block of size 0, expected at least 1" });
            }
            let count = (rows.div_ceil(group.0), k.div_ceil(group.1));
            if count.1 > 1 && !scale.blocks.iter().any(|block| group.1 % block == 0) {
                let blocks: Vec<String> = scale.blocks.iter().map(usize::to_string).collect();
                return refused(
                    format!("a scale for {} of k", group.1),
                    format!("one for a multiple of {}", blocks.join(" or ")),
                );
            }
            let what = if name == "a" { "a_unit_scales" } else { "b_unit_scales" };
            same_length(what, codes.len(), elements(what, &[matrices, count.0, count.1])?)?;
            Ok(Some(Blocks { values: codes, group, rows: rows.max(1), count }))
        }
    }
}

/// Checks both sides.
fn job<'a>(
    a: &Operand<'a>,
    a_shape: [usize; 3],
    b: &Operand<'a>,
    b_shape: [usize; 3],
    options: &Options,
) -> Result<Job<'a>, Error> {
    let step = options.accumulator.interval();
    if options.promote_every.is_some_and(|p| p == 0 || p % step != 0) {
        return Err(Error::Unsupported(format!(
            "promote_every: found {}, expected None or a multiple of {step}, as {:?} adds",
            options.promote_every.unwrap_or(0),
            options.accumulator.name
        )));
    }
    let (a, b) = (side("a", a, a_shape, options)?, side("b", b, b_shape, options)?);
    let (k, unscaled) = (a_shape[2], a.scales.is_none() && b.scales.is_none());
    Ok(Job {
        accumulator: options.accumulator,
        a,
        b,
        k,
        interval: options.promote_every.unwrap_or(k).clamp(1, k.max(1)),
        chained: options.promote_every.is_none() && unscaled,
    })
}

/// `out[i] = a[i] b[i]^T + c[i]` for each matrix of a stack; `b` has one matrix for each of `a`, or (`b_stacked` false)
/// one for all of them. Sums are formed as `options` says; `out` is float32 or bfloat16.
///
/// # Errors
/// [`Error::Length`], [`Error::Shape`] if the arrays do not fit the shape; [`Error::Unsupported`] for a format that the
/// accumulator does not take, a promotion interval that is no multiple of its step or does not fit the scales, a `c`
/// that is no float16 where the accumulator is one, and an output of another type.
pub fn matmul_nt(
    a: &Operand<'_>,
    b: &Operand<'_>,
    shape: Shape,
    b_stacked: bool,
    c: Option<&[f32]>,
    options: &Options,
    out: Output<'_>,
) -> Result<(), Error> {
    let Shape { stack, m, n, k } = shape;
    let job = job(a, [stack, m, k], b, [if b_stacked { stack } else { 1 }, n, k], options)?;
    let out = destination(&job, [stack, m, n], c, out)?;
    // One b for all: the rows of the whole stack are one matrix, as far as the product goes.
    let (count, rows) = if b_stacked { (stack, m) } else { (1, stack * m) };
    let pieces = (0..count).map(|i| RowsByMatrix { a_row: i * m, rows, b_row: i * n });
    run(&job, pieces, n, c, out);
    Ok(())
}

/// `out[i] = a[i] b[e]^T + c[i]` for the rows `i` in `offsets[e]..offsets[e + 1]` of `a`: each matrix of `b`, an expert,
/// takes its own rows. `shape.stack` counts the experts; `shape.m` the rows of `a` in all.
///
/// # Errors
/// As [`matmul_nt`]; [`Error::Range`] for offsets that do not rise from 0 to `shape.m`.
pub fn matmul_grouped_nt(
    a: &Operand<'_>,
    b: &Operand<'_>,
    shape: Shape,
    offsets: &[i64],
    c: Option<&[f32]>,
    options: &Options,
    out: Output<'_>,
) -> Result<(), Error> {
    let Shape { stack, m, n, k } = shape;
    let job = job(a, [1, m, k], b, [stack, n, k], options)?;
    let out = destination(&job, [1, m, n], c, out)?;
    same_length("offsets", offsets.len(), stack.saturating_add(1))?;
    let ends = (offsets[0], offsets[stack]);
    if ends != (0, i64::try_from(m).unwrap_or(i64::MAX)) || offsets.windows(2).any(|w| w[0] > w[1]) {
        return Err(Error::Range {
            what: "offsets",
            found: format!("{} ... {}", ends.0, ends.1),
            expected: "numbers that never fall, from 0 to the rows of a",
        });
    }
    let pieces = offsets.windows(2).enumerate().map(|(expert, w)| RowsByMatrix {
        a_row: w[0] as usize,
        rows: (w[1] - w[0]) as usize,
        b_row: expert * n,
    });
    run(&job, pieces, n, c, out);
    Ok(())
}

/// Checks what a product is added to and where it goes.
fn destination<'a>(
    job: &Job<'_>,
    shape: [usize; 3],
    c: Option<&[f32]>,
    out: Output<'a>,
) -> Result<Row<'a>, Error> {
    let len = elements("out", &shape)?;
    same_length("out", out.len(), len)?;
    if let Some(c) = c {
        same_length("c", c.len(), len)?;
        check_c(job.accumulator, c)?;
    }
    Row::new(out)
}

/// Rows of a that meet one matrix of b.
struct RowsByMatrix {
    a_row: usize,
    rows: usize,
    b_row: usize,
}

/// Runs pieces whose rows, in order, are those of `c` and `out`.
fn run(job: &Job<'_>, pieces: impl Iterator<Item = RowsByMatrix>, n: usize, c: Option<&[f32]>, out: Row<'_>) {
    let (mut tiles, mut rest, mut at) = (Vec::new(), out, 0);
    if n == 0 {
        return;
    }
    for piece in pieces {
        let (out, after) = rest.split_at(piece.rows * n);
        rest = after;
        let c = c.map(|c| &c[at..at + piece.rows * n]);
        at += piece.rows * n;
        if piece.rows > 0 {
            tiles.push(Tile::whole(piece.a_row, piece.b_row, n, c, out));
        }
    }
    match job.accumulator.unit {
        Unit::TensorCore | Unit::Software => emulated::run(job, tiles),
        Unit::ScaledGroups if level() > Level::Scalar => scaled_groups::run(job, tiles),
        Unit::ScaledGroups | Unit::MatrixCoreFp8 | Unit::MatrixCore => by_definition(job, tiles),
        Unit::Exact if level() > Level::Scalar => exact_f64::run(job, tiles),
        Unit::Exact => by_definition(job, tiles),
        Unit::Float32 => float32::run(job, tiles),
        Unit::Bf16Dot if level() > Level::Scalar => bf16_dot::run(job, tiles),
        Unit::Bf16Dot => by_definition(job, tiles),
    }
}

/// Outputs that one task computes.
const TASK: usize = 64;
/// Elements of a cast that cost as much as one product.
const PER_PRODUCT: usize = 32;

fn by_definition(job: &Job<'_>, whole: Vec<Tile<'_>>) {
    let work = job.work(&whole, PER_PRODUCT);
    each_tile(whole, (TASK, TASK), work, |tile| definition::whole_tile(job, tile));
}
