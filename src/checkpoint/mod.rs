//! The headers of safetensors files, read and validated by the `safetensors` crate.
//!
//! Only headers: what the tensors hold is read by whoever asked.

use safetensors::tensor::Metadata;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, Read};
use std::path::Path;

/// The longest header that is read: the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

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

/// Reads and checks a file's header: every tensor lies inside the file, without gaps or overlaps, and has the size
/// that its dtype and shape ask for.
///
/// # Errors
/// [`HeaderError::Io`] if the file cannot be read, [`HeaderError::Invalid`] if it is truncated or lies.
pub fn read_header(path: &Path) -> Result<Header, HeaderError> {
    let invalid = |why: String| Err(HeaderError::Invalid(why));
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if size < 8 {
        return invalid(format!("truncated: found {size} bytes, expected at least 8"));
    }
    let mut length = [0u8; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > size - 8 {
        return invalid(format!(
            "header length: found {length}, expected at most {} in a file of {size} bytes",
            MAX_HEADER.min(size - 8)
        ));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    // Reading metadata from JSON is where the crate checks sizes, order, gaps and overlaps.
    let metadata: Metadata = match serde_json::from_slice(&text) {
        Ok(metadata) => metadata,
        Err(error) => return invalid(format!("invalid header: {error}")),
    };
    let start = 8 + length;
    let data = (size - start) as usize;
    if metadata.data_len() != data {
        return invalid(format!(
            "truncated or lying: the header describes {} bytes of tensors, the file holds {data}",
            metadata.data_len()
        ));
    }
    let mut tensors: Vec<TensorHeader> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| TensorHeader {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            begin: start + info.data_offsets.0 as u64,
            end: start + info.data_offsets.1 as u64,
        })
        .collect();
    tensors.sort_by(|a, b| (a.begin, &a.name).cmp(&(b.begin, &b.name)));
    Ok(Header { tensors, metadata: metadata.metadata().clone().unwrap_or_default() })
}
