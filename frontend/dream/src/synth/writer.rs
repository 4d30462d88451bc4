//! Writing files of made-up weights.

use super::Progress;
use super::values::{Stream, Tables};
use dreamc_num::DType;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Write};

/// Elements generated and written at a time.
const CHUNK_ELEMENTS: usize = 1 << 20;
/// What is made up is bf16.
const MADE_BYTES: usize = 2;

/// A tensor to write.
#[derive(Clone)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// bf16 or f32.
    pub(super) dtype: DType,
    elements: u64,
}

impl Planned {
    pub(super) fn new(name: String, shape: Vec<u64>, dtype: DType) -> Planned {
        Planned { elements: shape.iter().product(), name, shape, dtype }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.elements * self.dtype.bytes() as u64
    }
}

/// Writes shards and counts what it wrote.
pub(super) struct Writer<'a> {
    pub(super) seed: u64,
    pub(super) tables: Tables,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Writer<'_> {
    /// Writes one file. `folder` is part of what the weights depend on, so that equal names in two files differ.
    pub(super) fn write_shard(
        &mut self,
        folder: &str,
        tensors: &[Planned],
        out: &mut File,
    ) -> io::Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut end = 0;
        for tensor in tensors {
            let start = end;
            end += tensor.bytes();
            let entry = json!({ "dtype": tensor.dtype.to_string().to_uppercase(), "shape": tensor.shape, "data_offsets": [start, end] });
            header.insert(tensor.name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;

        let mut bytes = Vec::new();
        for tensor in tensors {
            let mut stream = Stream::new(self.seed, &format!("{folder}{}", tensor.name));
            let table = self.tables.of(&tensor.name);
            let mut left = tensor.elements;
            while left > 0 {
                let count = left.min(CHUNK_ELEMENTS as u64);
                bytes.resize(count as usize * MADE_BYTES, 0);
                stream.fill(table, &mut bytes);
                if tensor.dtype == DType::F32 {
                    bytes =
                        bytes.as_chunks::<MADE_BYTES>().0.iter().flat_map(|[a, b]| [0, 0, *a, *b]).collect();
                }
                out.write_all(&bytes)?;
                left -= count;
                self.done_bytes += bytes.len() as u64;
                let (done_bytes, total_bytes) = (self.done_bytes, self.total_bytes);
                (self.progress)(Progress { tensor: &tensor.name, done_bytes, total_bytes });
            }
        }
        Ok(())
    }
}
