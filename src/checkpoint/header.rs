//! A file's header, read and held against the file.

use super::columns::{Columns, Index, Pairs};
use super::parse::{parse, Text};
use std::fs::{metadata, File};
use std::io::{Error, Read};
use std::ops::Range;
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

/// The tensors of files, in the order of the files and of their data.
///
/// They lie in columns, so that a header takes a small multiple of its own length whatever is in it.
#[derive(Default)]
pub struct TensorTable {
    columns: Columns,
    index: Index,
    /// Metadata of each file.
    metadata: Vec<Pairs>,
}

impl TensorTable {
    /// Reads and checks a file's header: every tensor lies inside the file, without gaps or overlaps, and has the size
    /// that its dtype and shape ask for. Returns its rows; a file that is refused adds none, and counts for none.
    ///
    /// # Errors
    /// [`HeaderError::Io`] if the file cannot be read, [`HeaderError::Invalid`] if it is truncated or lies.
    pub fn read(&mut self, path: &Path) -> Result<Range<usize>, HeaderError> {
        let (text, data) = read_text(path)?;
        self.take_text(text, data)
    }

    fn take_text(&mut self, text: Vec<u8>, data: u64) -> Result<Range<usize>, HeaderError> {
        let Text { tensors, metadata } =
            parse(&text).map_err(|why| invalid(&format!("invalid header: {why}")))?;
        let base = 8 + text.len();
        drop(text);
        let first = self.columns.len();
        if u32::try_from(first + tensors.len()).is_err() {
            return Err(invalid("too many tensors"));
        }
        let order = check(&tensors, data)?;
        self.columns.append(&tensors, &order, base);
        self.metadata.push(metadata.unwrap_or_default());
        Ok(first..self.columns.len())
    }

    /// Makes a row known by its name; returns the one of the same name that is known already, and stays so.
    pub fn take(&mut self, row: usize) -> Option<usize> {
        self.index.take(&self.columns, row)
    }

    /// The row that is known by a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.find(&self.columns, name)
    }

    /// The metadata of a file, by its place among those read; empty where there is none.
    pub fn metadata(&self, file: usize) -> impl Iterator<Item = (&str, &str)> {
        self.metadata.get(file).into_iter().flat_map(Pairs::iter)
    }

    /// Rows that are known by a name.
    pub fn known(&self) -> usize {
        self.index.len()
    }

    /// Rows, known or not.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// True for no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn name(&self, row: usize) -> &str {
        self.columns.name(row)
    }

    /// A row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> TensorHeader {
        let (begin, end) = self.columns.offsets(row);
        TensorHeader {
            name: self.columns.name(row).to_owned(),
            dtype: self.columns.dtype(row).to_string(),
            shape: self.columns.shape(row).to_vec(),
            begin: begin as u64,
            end: end as u64,
        }
    }
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

/// The text of a file's header, and how many bytes follow it.
fn read_text(path: &Path) -> Result<(Vec<u8>, u64), HeaderError> {
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
    let mut text = Vec::with_capacity(length as usize + 1);
    file.take(length).read_to_end(&mut text)?;
    if text.len() as u64 != length {
        return Err(invalid("truncated while it was read"));
    }
    Ok((text, size - 8 - length))
}

/// Holds tensors against the bytes that follow the header; returns them in the order of their data.
///
/// The rules are those of the `safetensors` crate, whose own judge wants the tensors in a map.
fn check(tensors: &Columns, data: u64) -> Result<Vec<u32>, HeaderError> {
    let refused = |why: String| invalid(&format!("invalid header: {why}"));
    if let Some(why) = (0..tensors.len()).find_map(|i| unaddressable(tensors, i)) {
        return Err(refused(why));
    }
    let order = tensors.in_order();
    let mut at = 0;
    for &i in &order {
        at = place(tensors, i as usize, at).map_err(refused)?;
    }
    if at as u64 != data {
        return Err(invalid(&format!(
            "truncated or lying: the header describes {at} bytes of tensors, the file holds {data}"
        )));
    }
    Ok(order)
}

/// Why no array can have a tensor's shape, even if an axis of length 0 leaves it without elements.
fn unaddressable(tensors: &Columns, i: usize) -> Option<String> {
    let shape = tensors.shape(i);
    let axes = shape.iter().map(|&length| length.max(1));
    let bits = axes.chain([tensors.dtype(i).bitsize()]).try_fold(1usize, usize::checked_mul);
    let fits = bits.is_some_and(|bits| bits <= isize::MAX as usize);
    (!fits).then(|| format!("tensor {:?}: the shape {shape:?} overflows", tensors.name(i)))
}

/// Where a tensor ends that has to begin at `at`.
fn place(tensors: &Columns, i: usize, at: usize) -> Result<usize, String> {
    let (name, dtype, shape) = (tensors.name(i), tensors.dtype(i), tensors.shape(i));
    let (begin, end) = tensors.offsets(i);
    let bits = shape.iter().product::<usize>() * dtype.bitsize();
    if end < begin {
        return Err(format!("tensor {name:?} ends at {end}, before it begins at {begin}"));
    }
    if begin != at {
        let what = if begin < at { "overlap" } else { "gap" };
        return Err(format!("tensor {name:?}: {what}, begins at {begin}, expected {at}"));
    }
    if bits % 8 != 0 {
        return Err(format!("tensor {name:?}: {dtype} of shape {shape:?} does not fill whole bytes"));
    }
    if end - begin != bits / 8 {
        let (found, expected) = (end - begin, bits / 8);
        return Err(format!(
            "tensor {name:?}: found {found} bytes, expected {expected} for {dtype} {shape:?}"
        ));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dtype: &str, shape: &str, begin: usize, end: usize) -> String {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    fn message(text: &str, data: u64) -> String {
        match TensorTable::default().take_text(text.as_bytes().to_vec(), data) {
            Err(HeaderError::Invalid(why)) => why,
            other => panic!("expected a refusal, found {:?}", other),
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
        let mut table = TensorTable::default();
        let rows = table.take_text(text.clone().into_bytes(), 14).unwrap();
        let names: Vec<_> = rows.clone().map(|row| table.name(row)).collect();
        assert_eq!(names, ["a", "empty", "b"]);
        assert_eq!(table.row(2).begin, 8 + text.len() as u64 + 8);
        assert_eq!(table.metadata(0).collect::<Vec<_>>(), [("k", "v")]);
        assert_eq!(table.metadata(1).count(), 0);
    }

    #[test]
    fn rows_of_several_files_are_known_by_their_first_name() {
        let mut table = TensorTable::default();
        for (name, other) in [("a", "b"), ("c", "a")] {
            let text = format!(
                r#"{{"{name}":{},"{other}":{}}}"#,
                entry("U8", "[4]", 0, 4),
                entry("F4", "[2,2]", 4, 6)
            );
            table.take_text(text.into_bytes(), 6).unwrap();
        }
        let taken: Vec<_> = (0..table.len()).map(|row| table.take(row)).collect();
        assert_eq!(taken, [None, None, None, Some(0)]);
        assert_eq!(
            (table.find("c"), table.find("a"), table.find("d"), table.known()),
            (Some(2), Some(0), None, 3)
        );
        assert_eq!(table.row(1).shape, [2, 2]);
    }

    #[test]
    fn verdicts_are_those_of_the_safetensors_crate() {
        use safetensors::tensor::{Dtype, Metadata, TensorInfo};
        let mut state = 1u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let (mut good, mut bad) = (0, 0);
        for _ in 0..4000 {
            let (mut tensors, mut columns, mut at) = (Vec::new(), Columns::default(), 0);
            for k in 0..draw(5) {
                let dtype = [Dtype::U8, Dtype::F4, Dtype::BF16, Dtype::F32][draw(4)];
                let shape: Vec<usize> = (0..draw(3)).map(|_| draw(4)).collect();
                let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                let begin = if draw(12) == 0 { draw(20) } else { at };
                let end = if draw(12) == 0 { draw(20) } else { begin + size };
                at = end;
                columns.push(&format!("t{k}"), dtype, &shape, (begin, end));
                tensors.push((format!("t{k}"), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
            }
            tensors.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
            let ours = check(&columns, at as u64).is_ok();
            let theirs = Metadata::new(None, tensors).is_ok_and(|judged| judged.data_len() == at);
            assert_eq!(ours, theirs);
            if ours {
                good += 1;
            } else {
                bad += 1;
            }
        }
        assert!(good > 500 && bad > 500);
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
