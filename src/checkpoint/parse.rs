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
use std::marker::PhantomData;

/// The most axes of a tensor: as many as a NumPy array can have.
const MAX_AXES: usize = 64;

/// Entries between two looks at an interruption.
const ENTRIES: usize = 256;

/// The content of a header.
#[derive(Default)]
pub(super) struct Text {
    pub tensors: Columns,
    pub metadata: Option<Pairs>,
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

/// A value made of an object's entries, one by one.
trait Entries: Default {
    /// Words for such an object.
    const EXPECTED: &'static str;
    /// Takes the value that follows a key.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Entries> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut found = T::default();
        for count in 0_usize.. {
            if count.is_multiple_of(ENTRIES) {
                poll(); // ends a long header where the caller is not waiting any more
            }
            let Some(key) = map.next_key::<String>()? else { break };
            found.take(&key, &mut map)?;
        }
        Ok(found)
    }
}

impl Entries for Pairs {
    const EXPECTED: &'static str = "an object of strings";

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        self.push(key, &map.next_value::<String>()?);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object(PhantomData))
    }
}

impl Entries for Text {
    const EXPECTED: &'static str = "a JSON object of tensors";

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        if key == "__metadata__" {
            let found: Option<Pairs> = map.next_value()?;
            if self.metadata.replace(found.unwrap_or_default()).is_some() {
                return Err(A::Error::duplicate_field("__metadata__"));
            }
            return Ok(());
        }
        let Entry { dtype, shape, data_offsets } = map.next_value()?;
        self.tensors.push(key, dtype, &shape, data_offsets);
        Ok(())
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
    let found = json.deserialize_map(Object::<Text>(PhantomData)).map_err(|e| e.to_string())?;
    json.end().map_err(|e| e.to_string())?;
    match found.tensors.first_twice() {
        Some(twice) => Err(format!("tensor {twice:?} is there twice")),
        None => Ok(found),
    }
}
