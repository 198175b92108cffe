//! One documented variant per thing a caller can get wrong.

use thiserror::Error;

/// Everything that can go wrong in the core.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is in none of the tables.
    #[error("{what}: found {found:?}, expected one of {expected}")]
    UnknownName {
        /// The kind of thing that was named.
        what: &'static str,
        /// The name given.
        found: String,
        /// The names that exist.
        expected: String,
    },
    /// An instruction-set level that this CPU lacks.
    #[error("SIMD level {level:?} is not available on this CPU (best: {best:?})")]
    Unavailable {
        /// The level asked for.
        level: &'static str,
        /// The best level there is.
        best: &'static str,
    },
    /// Two arrays that must agree in length do not.
    #[error("{what}: found length {found}, expected {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that the others ask for.
        expected: usize,
    },
    /// A shape whose element count overflows, or a block of size 0.
    #[error("{what}: {why}")]
    Shape {
        /// Which argument.
        what: &'static str,
        /// The fault.
        why: &'static str,
    },
    /// NaN or infinity where none is accepted.
    #[error("{what}: found {value} at flat index {index}, expected finite values")]
    NonFinite {
        /// Which array.
        what: &'static str,
        /// "NaN" or "inf".
        value: &'static str,
        /// Where it stands, in C order.
        index: usize,
    },
    /// NaN for a format that has no code for it.
    #[error("x: found NaN at flat index {index}, but {format} has no NaN code; choose nan=\"zero\" or nan=\"max\"")]
    NoNanCode {
        /// The format.
        format: &'static str,
        /// Where the NaN stands, in C order.
        index: usize,
    },
    /// A combination that does not exist.
    #[error("{0}")]
    Unsupported(String),
    /// A setting outside its range.
    #[error("{what}: found {found}, expected {expected}")]
    Range {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// A safetensors file that cannot be what it says.
    #[error("{0}")]
    Checkpoint(String),
}

impl Error {
    pub(crate) fn unknown<'a>(
        what: &'static str,
        found: &str,
        expected: impl IntoIterator<Item = &'a str>,
    ) -> Error {
        let names: Vec<String> = expected.into_iter().map(|n| format!("{n:?}")).collect();
        Error::UnknownName { what, found: found.to_owned(), expected: names.join(", ") }
    }
}

/// The row of a table that has a name.
///
/// # Errors
/// [`Error::UnknownName`], listing the names there are.
pub(crate) fn by_name<T>(
    what: &'static str,
    name: &str,
    rows: &'static [T],
    name_of: impl Fn(&'static T) -> &'static str,
) -> Result<&'static T, Error> {
    rows.iter()
        .find(|row| name_of(row) == name)
        .ok_or_else(|| Error::unknown(what, name, rows.iter().map(name_of)))
}

/// The product of sizes, checked.
pub(crate) fn elements(what: &'static str, sizes: &[usize]) -> Result<usize, Error> {
    let product = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
    // A size of 0 makes any other sizes possible, but not ones that overflow by themselves.
    let product = product.filter(|n| *n <= isize::MAX as usize / 8);
    product.ok_or(Error::Shape { what, why: "the element count overflows" })
}

pub(crate) fn same_length(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length { what, found, expected })
    }
}
