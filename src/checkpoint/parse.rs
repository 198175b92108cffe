//! The text of a header, taken apart without building more than it describes.
//!
//! The `safetensors` crate's own parser keeps the whole text as a tree and lets the last of two tensors of one name win;
//! this one goes through the text once, and refuses both two of a name and shapes that no array has.

use super::columns::{Columns, Pairs};
use crate::interrupt::poll;
use safetensors::tensor::Dtype;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// The most axes of a tensor: as many as a NumPy array can have.
const MAX_AXES: usize = 64;

/// Entries between two looks at an interruption.
const ENTRIES: usize = 256;

/// The content of a header.
pub(super) struct Text {
    pub tensors: Columns,
    pub metadata: Pairs,
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

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Pairs::default();
                for count in 0_usize.. {
                    poll_at(count);
                    let Some((key, value)) = map.next_entry::<String, String>()? else { break };
                    pairs.push(&key, &value);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

/// Ends a long header where the caller is not waiting any more.
fn poll_at(count: usize) {
    if count.is_multiple_of(ENTRIES) {
        poll();
    }
}

struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut tensors = Columns::default();
        let mut metadata = None;
        for count in 0_usize.. {
            poll_at(count);
            let Some(name) = map.next_key::<String>()? else { break };
            if name == "__metadata__" {
                let found: Option<Pairs> = map.next_value()?;
                if metadata.replace(found.unwrap_or_default()).is_some() {
                    return Err(A::Error::duplicate_field("__metadata__"));
                }
            } else {
                let Entry { dtype, shape, data_offsets } = map.next_value()?;
                tensors.push(&name, dtype, &shape, data_offsets);
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
    let found = json.deserialize_map(Header).map_err(|e| e.to_string())?;
    json.end().map_err(|e| e.to_string())?;
    match found.tensors.first_twice() {
        Some(twice) => Err(format!("tensor {twice:?} is there twice")),
        None => Ok(found),
    }
}
