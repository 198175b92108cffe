//! A file's header, read and held against the file.

use super::parse::{parse, Text};
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::{metadata, File};
use std::io::{Error, Read};
use std::path::Path;

/// The longest header that is read: the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// The longest message: names in a file can be as long as its header.
const MAX_MESSAGE: usize = 400;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHeader {
    /// Its name.
    pub name: String,
    /// Its dtype as the file spells it.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its first byte in the file.
    pub begin: u64,
    /// The byte after its last.
    pub end: u64,
}

/// The tensors of a file, in the order of their data, and the file's own metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors.
    pub tensors: Vec<TensorHeader>,
    /// The metadata.
    pub metadata: HashMap<String, String>,
}

/// Why a header could not be read.
#[derive(Debug)]
pub enum HeaderError {
    /// The file could not be read.
    Io(Error),
    /// The file is not what it says.
    Invalid(String),
}

impl From<Error> for HeaderError {
    fn from(error: Error) -> Self {
        HeaderError::Io(error)
    }
}

/// A message that is safe to print, whatever the file's names are.
fn invalid(why: &str) -> HeaderError {
    let harmless = |c: char| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
    let plain = why.chars().map(|c| if harmless(c) { c.to_string() } else { c.escape_unicode().to_string() });
    let mut message: String = plain.take(MAX_MESSAGE).collect();
    if why.chars().nth(MAX_MESSAGE).is_some() {
        message.push_str("...");
    }
    HeaderError::Invalid(message)
}

/// Reads and checks a file's header: every tensor lies inside the file, without gaps or overlaps, and has the size
/// that its dtype and shape ask for.
///
/// # Errors
/// [`HeaderError::Io`] if the file cannot be read, [`HeaderError::Invalid`] if it is truncated or lies.
pub fn read_header(path: &Path) -> Result<Header, HeaderError> {
    // Looked at before it is opened: opening a pipe waits for its writer.
    if !metadata(path)?.is_file() {
        return Err(invalid("not a regular file"));
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if size < 8 {
        return Err(invalid(&format!("truncated: found {size} bytes, expected at least 8")));
    }
    let mut length = [0u8; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > size - 8 {
        return Err(invalid(&format!(
            "header length: found {length}, expected at most {} in a file of {size} bytes",
            MAX_HEADER.min(size - 8)
        )));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    check_header(&text, size - 8 - length)
}

/// Checks the text of a header that is followed by so many bytes.
///
/// # Errors
/// [`HeaderError::Invalid`].
pub fn check_header(text: &[u8], data: u64) -> Result<Header, HeaderError> {
    let Text { tensors, metadata } = parse(text).map_err(|why| invalid(&format!("invalid header: {why}")))?;
    if let Some(why) = tensors.iter().find_map(unaddressable) {
        return Err(invalid(&format!("invalid header: {why}")));
    }
    // The crate is the judge; only what to say about its verdict is ours.
    let judged = Metadata::new(None, tensors.clone()).map_err(|error| {
        let why = explain(&tensors).unwrap_or_else(|| error.to_string());
        invalid(&format!("invalid header: {why}"))
    })?;
    if judged.data_len() as u64 != data {
        return Err(invalid(&format!(
            "truncated or lying: the header describes {} bytes of tensors, the file holds {data}",
            judged.data_len()
        )));
    }
    let start = 8 + text.len() as u64;
    let tensors = tensors
        .into_iter()
        .map(|(name, info)| TensorHeader {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape,
            begin: start + info.data_offsets.0 as u64,
            end: start + info.data_offsets.1 as u64,
        })
        .collect();
    Ok(Header { tensors, metadata })
}

/// Why no array can have a tensor's shape, even if an axis of length 0 leaves it without elements.
fn unaddressable((name, info): &(String, TensorInfo)) -> Option<String> {
    let axes = info.shape.iter().map(|&length| length.max(1));
    let bits = axes.chain([info.dtype.bitsize()]).try_fold(1usize, usize::checked_mul);
    let fits = bits.is_some_and(|bits| bits <= isize::MAX as usize);
    (!fits).then(|| format!("tensor {name:?}: the shape {:?} overflows", info.shape))
}

/// Explains the fault of the first bad tensor, in the order of the data.
fn explain(tensors: &[(String, TensorInfo)]) -> Option<String> {
    let mut at = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (begin, end) }) in tensors {
        let bits = shape.iter().product::<usize>() * dtype.bitsize();
        if end < begin {
            return Some(format!("tensor {name:?} ends at {end}, before it begins at {begin}"));
        }
        if *begin != at {
            let what = if *begin < at { "overlap" } else { "gap" };
            return Some(format!("tensor {name:?}: {what}, begins at {begin}, expected {at}"));
        }
        if bits % 8 != 0 {
            return Some(format!("tensor {name:?}: {dtype} of shape {shape:?} does not fill whole bytes"));
        }
        if end - begin != bits / 8 {
            let found = end - begin;
            let expected = bits / 8;
            return Some(format!(
                "tensor {name:?}: found {found} bytes, expected {expected} for {dtype} {shape:?}"
            ));
        }
        at = *end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dtype: &str, shape: &str, begin: usize, end: usize) -> String {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    fn message(text: &str, data: u64) -> String {
        match check_header(text.as_bytes(), data) {
            Err(HeaderError::Invalid(why)) => why,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data() {
        let text = format!(
            r#"{{"b":{},"__metadata__":{{"k":"v"}},"empty":{},"a":{}}}  "#,
            entry("F8_E4M3", "[2,3]", 8, 14),
            entry("F32", "[0,7]", 8, 8),
            entry("F32", "[2]", 0, 8)
        );
        let header = check_header(text.as_bytes(), 14).unwrap();
        let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "empty", "b"]);
        assert_eq!(header.tensors[2].begin, 8 + text.len() as u64 + 8);
        assert_eq!(header.metadata["k"], "v");
    }

    #[test]
    fn every_lie_is_told_with_the_tensor_that_tells_it() {
        let two = |a: &str, b: &str| format!(r#"{{"a":{a},"b":{b}}}"#);
        let good = entry("U8", "[4]", 0, 4);
        let huge = format!("[{}]", usize::MAX);
        let long = format!("[{}1]", "1,".repeat(64));
        for (text, data, expected) in [
            (two(&good, &entry("U8", "[4]", 2, 6)), 6, "tensor \"b\": overlap, begins at 2, expected 4"),
            (two(&good, &entry("U8", "[4]", 5, 9)), 9, "tensor \"b\": gap, begins at 5, expected 4"),
            (two(&good, &entry("U8", "[4]", 4, 3)), 9, "ends at 3, before it begins at 4"),
            (two(&good, &entry("F4", "[3]", 4, 5)), 5, "does not fill whole bytes"),
            (two(&good, &entry("F32", "[3]", 4, 5)), 5, "found 1 bytes, expected 12 for F32 [3]"),
            (two(&good, &entry("U8", &huge, 4, 5)), 5, "overflows"),
            (two(&good, &entry("U8", "[0,4294967296,4294967296]", 4, 4)), 4, "overflows"),
            (two(&good, &entry("U8", &long, 4, 5)), 5, "at most 64 axes"),
            (two(&good, &entry("F99", "[1]", 4, 5)), 5, "unknown variant `F99`"),
            (two(&good, &entry("F9\\u001b[2J", "[1]", 4, 5)), 5, "unknown variant `F9\\u{1b}[2J`"),
            (format!(r#"{{"a":{good},"a":{good}}}"#), 4, "tensor \"a\" is there twice"),
            (format!(r#"{{"a":{good}}} {{}}"#), 4, "trailing characters"),
            (format!(r#"{{"a":{good}}}"#), 5, "describes 4 bytes of tensors, the file holds 5"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "duplicate field `__metadata__`"),
            (r#"{"__metadata__":{"k":1}}"#.into(), 0, "expected a string"),
            ("[]".into(), 0, "expected a JSON object of tensors"),
            (format!(r#"{{"{}":1}}"#, "x".repeat(5000)), 0, "expected struct Entry"),
            (format!(r#"{{"a":{}{}}}"#, "[".repeat(9999), "]".repeat(9999)), 0, "invalid header"),
        ] {
            let found = message(&text, data);
            assert!(found.contains(expected), "{found:?} lacks {expected:?}");
            assert!(found.chars().count() <= MAX_MESSAGE * 8 && !found.contains('\u{1b}'), "{found:?}");
        }
    }
}
