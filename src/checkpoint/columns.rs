//! Tensors of headers in columns: a few dozen bytes each beside their names, however many there are.

use hashbrown::HashTable;
use safetensors::tensor::Dtype;
use std::hash::{BuildHasher, RandomState};

/// Names, dtypes, shapes and places of tensors.
#[derive(Default)]
pub(super) struct Columns {
    names: String,
    /// Where each name ends in `names`.
    name_ends: Vec<usize>,
    dtypes: Vec<Dtype>,
    axes: Vec<usize>,
    /// Where each shape ends in `axes`.
    shape_ends: Vec<usize>,
    offsets: Vec<(usize, usize)>,
}

impl Columns {
    pub fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], offsets: (usize, usize)) {
        self.names.push_str(name);
        self.name_ends.push(self.names.len());
        self.dtypes.push(dtype);
        self.axes.extend_from_slice(shape);
        self.shape_ends.push(self.axes.len());
        self.offsets.push(offsets);
    }

    pub fn len(&self) -> usize {
        self.dtypes.len()
    }

    pub fn name(&self, i: usize) -> &str {
        &self.names[start(&self.name_ends, i)..self.name_ends[i]]
    }

    pub fn dtype(&self, i: usize) -> Dtype {
        self.dtypes[i]
    }

    pub fn shape(&self, i: usize) -> &[usize] {
        &self.axes[start(&self.shape_ends, i)..self.shape_ends[i]]
    }

    /// First byte, and the byte after the last.
    pub fn offsets(&self, i: usize) -> (usize, usize) {
        self.offsets[i]
    }

    /// Tensors in the order of their data, and of their names where they have none.
    pub fn in_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_unstable_by_key(|&i| (self.offsets(i as usize), self.name(i as usize)));
        order
    }

    /// The first name that is there twice.
    pub fn first_twice(&self) -> Option<&str> {
        let mut index = Index::with_capacity(self.len());
        (0..self.len()).find(|&i| index.take(self, i).is_some()).map(|i| self.name(i))
    }

    /// Appends tensors of another table, their places moved by so many bytes.
    pub fn append(&mut self, other: &Columns, order: &[u32], base: usize) {
        self.names.reserve_exact(other.names.len());
        self.name_ends.reserve_exact(order.len());
        self.dtypes.reserve_exact(order.len());
        self.axes.reserve_exact(other.axes.len());
        self.shape_ends.reserve_exact(order.len());
        self.offsets.reserve_exact(order.len());
        for &i in order {
            let i = i as usize;
            let (begin, end) = other.offsets(i);
            self.push(other.name(i), other.dtype(i), other.shape(i), (base + begin, base + end));
        }
    }
}

fn start(ends: &[usize], i: usize) -> usize {
    if i == 0 {
        0
    } else {
        ends[i - 1]
    }
}

/// A file's own metadata: keys and values one after the other.
#[derive(Default)]
pub(super) struct Pairs {
    text: String,
    /// Where each key and each value ends in `text`.
    ends: Vec<u32>,
}

impl Pairs {
    pub fn push(&mut self, key: &str, value: &str) {
        for part in [key, value] {
            self.text.push_str(part);
            self.ends.push(self.text.len() as u32); // headers are shorter than that
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let part = |i: usize| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
            &self.text[start..self.ends[i] as usize]
        };
        (0..self.ends.len() / 2).map(move |i| (part(2 * i), part(2 * i + 1)))
    }
}

/// Tensors of a table by their names.
#[derive(Default)]
pub(super) struct Index {
    rows: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    pub fn with_capacity(rows: usize) -> Index {
        Index { rows: HashTable::with_capacity(rows), hasher: RandomState::new() }
    }

    /// Takes a row in; returns the one of the same name that is there already, and stays.
    pub fn take(&mut self, table: &Columns, row: usize) -> Option<usize> {
        let hash = self.hasher.hash_one(table.name(row));
        if let Some(there) = self.rows.find(hash, |&i| table.name(i as usize) == table.name(row)) {
            return Some(*there as usize);
        }
        self.rows.insert_unique(hash, row as u32, |&i| self.hasher.hash_one(table.name(i as usize)));
        None
    }

    pub fn find(&self, table: &Columns, name: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.rows.find(hash, |&i| table.name(i as usize) == name).map(|i| *i as usize)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }
}
