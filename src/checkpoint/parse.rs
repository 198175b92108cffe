//! The text of a header, taken apart without building more than it describes.
//!
//! The `safetensors` crate's own parser keeps the whole text as a tree and lets the last of two tensors of one name win;
//! this one goes through the text once, and refuses both two of a name and shapes that no array has.

use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The most axes of a tensor: as many as a NumPy array can have.
const MAX_AXES: usize = 64;

/// The content of a header, in the order of the data.
pub(super) struct Text {
    pub tensors: Vec<(String, TensorInfo)>,
    pub metadata: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    #[serde(deserialize_with = "axes")]
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

fn axes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Axes;
    impl<'de> Visitor<'de> for Axes {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a shape of at most {MAX_AXES} axes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut shape = Vec::new();
            while let Some(length) = seq.next_element()? {
                if shape.len() == MAX_AXES {
                    return Err(A::Error::invalid_length(MAX_AXES + 1, &self));
                }
                shape.push(length);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(Axes)
}

struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut tensors = Vec::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let found: Option<HashMap<String, String>> = map.next_value()?;
                if metadata.replace(found.unwrap_or_default()).is_some() {
                    return Err(A::Error::duplicate_field("__metadata__"));
                }
            } else {
                let Entry { dtype, shape, data_offsets } = map.next_value()?;
                tensors.push((name, TensorInfo { dtype, shape, data_offsets }));
            }
        }
        Ok(Text { tensors, metadata: metadata.unwrap_or_default() })
    }
}

/// Takes the text of a header apart.
///
/// # Errors
/// A message, where the text is not JSON, not of tensors, or has two of a name.
pub(super) fn parse(text: &[u8]) -> Result<Text, String> {
    // Keys that are skipped are not looked at by the deserializer; the whole text has to be Unicode all the same.
    let text = std::str::from_utf8(text).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut found = json.deserialize_map(Header).map_err(|e| e.to_string())?;
    json.end().map_err(|e| e.to_string())?;
    let mut names = HashSet::with_capacity(found.tensors.len());
    if let Some((twice, _)) = found.tensors.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(format!("tensor {twice:?} is there twice"));
    }
    drop(names);
    found.tensors.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    Ok(found)
}
