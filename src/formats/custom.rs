//! Formats made at run time: rows that the table does not have, found again by a name that spells the row.
//!
//! A made format lives as long as the process, once for each row. The rows that can be made are finitely many, because
//! every number of a format has to be a normal float32, or a subnormal one of a normal binade's grid.

use super::table::{Format, Top, FORMATS};
use crate::error::Error;
use crate::simd::Lookup;
use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

/// The tops that a made format may have.
const TOPS: [Top; 4] = [Top::Ieee, Top::NanOnly, Top::Fnuz, Top::None];
const WITHOUT_SUBNORMALS: &str = "_nosub";

struct Made {
    format: Format,
    lookups: OnceLock<[Lookup; 2]>,
}

static MADE: LazyLock<RwLock<HashMap<String, &'static Made>>> = LazyLock::new(RwLock::default);

fn range(what: &'static str, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::Unsupported(format!("{what}: found {}, expected {}", found.to_string(), expected.into()))
}

/// Settles whether a row can be.
fn check(f: &Format) -> Result<(), Error> {
    if f.exp > 8 {
        return Err(range("exponent", f.exp, "0 to 8 bits: every number has to be a float32"));
    }
    if f.man > 15 || !(2..=16).contains(&(1 + f.exp + f.man)) {
        let found = format!("a sign, {} exponent and {} mantissa bits", f.exp, f.man);
        return Err(range("exponent and mantissa", found, "2 to 16 bits in all"));
    }
    if !TOPS.contains(&f.top) {
        let names = TOPS.map(Top::name).join(", ");
        return Err(range("top", format!("{:?}", f.top.name()), format!("one of {names}")));
    }
    let wanting = match f.top {
        Top::Ieee => f.exp == 0 || f.man == 0,
        Top::NanOnly => f.exp + f.man < 2,
        _ => false,
    };
    if wanting {
        let expected = "bits enough: \"ieee\" takes an exponent and a mantissa for infinity and NaN, \
                        \"nan_only\" two bits besides the sign";
        return Err(range("top", format!("{:?}", f.top.name()), expected));
    }
    if !f.subnormals && f.max_code() >> f.man == 0 {
        return Err(range("subnormals", "false", "true where there are no normal numbers"));
    }
    // Exponents of the normal numbers, and of what follows the largest one, are float32's.
    let top = (f.max_code() >> f.man).max(1) as i32;
    let (low, high) = (top - if f.exp == 8 { 127 } else { 126 }, 127);
    if !(low..=high).contains(&f.bias) {
        let expected = if low > high {
            "no such top with 8 exponent bits: its numbers reach beyond float32".to_owned()
        } else {
            format!("{low} to {high} with {} exponent bits and top {:?}", f.exp, f.top.name())
        };
        return Err(range("bias", f.bias, expected));
    }
    Ok(())
}

fn spelled(f: &Format) -> String {
    let suffix = if f.subnormals { "" } else { WITHOUT_SUBNORMALS };
    format!("e{}m{}b{}_{}{suffix}", f.exp, f.man, f.bias, f.top.name())
}

/// The format of a row: the table's, where it has that row, else one that is made once.
///
/// # Errors
/// [`Error::Unsupported`], naming the part that cannot be and what can.
pub fn custom(exp: u32, man: u32, bias: i32, top: Top, subnormals: bool) -> Result<&'static Format, Error> {
    let row = Format { name: "", exp, man, bias, top, subnormals };
    check(&row)?;
    if let Some(named) = FORMATS.iter().find(|f| Format { name: "", ..**f } == row) {
        return Ok(named);
    }
    let name = spelled(&row);
    if let Some(made) = MADE.read().unwrap_or_else(PoisonError::into_inner).get(&name) {
        return Ok(&made.format);
    }
    let mut all = MADE.write().unwrap_or_else(PoisonError::into_inner);
    let made = all.entry(name.clone()).or_insert_with(|| {
        let format = Format { name: Box::leak(name.into_boxed_str()), ..row };
        Box::leak(Box::new(Made { format, lookups: OnceLock::new() }))
    });
    Ok(&made.format)
}

/// Reads a name as [`custom`] gives it; `None` where it is no such name.
pub(super) fn parse(name: &str) -> Option<Result<&'static Format, Error>> {
    let (row, subnormals) = name.strip_suffix(WITHOUT_SUBNORMALS).map_or((name, true), |row| (row, false));
    let (widths, top) = row.strip_prefix('e')?.split_once('_')?;
    let (exp, rest) = widths.split_once('m')?;
    let (man, bias) = rest.split_once('b')?;
    let top = TOPS.into_iter().find(|t| t.name() == top)?;
    let (exp, man, bias) = (exp.parse().ok()?, man.parse().ok()?, bias.parse().ok()?);
    Some(custom(exp, man, bias, top, subnormals))
}

/// The values of all codes of a made format.
pub(super) fn lookups(f: &Format) -> &'static [Lookup; 2] {
    let made = MADE.read().unwrap_or_else(PoisonError::into_inner).get(f.name).copied();
    made.map_or_else(
        || unreachable!("{} is in neither table", f.name),
        |made| made.lookups.get_or_init(|| f.values()),
    )
}
