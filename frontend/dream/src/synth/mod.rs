//! Synthetic checkpoints: made-up weights in the layout of the released models.
//!
//! The weights depend on the seed and on the tensor's name only, and come out the same on every host: integer
//! arithmetic picks entries of a table of normal quantiles. Files are written under temporary names and renamed
//! once all are complete.

mod values;

use crate::layout::{EMBEDDING, LM_HEAD};
use crate::{ImportError, TextConfig, expected_tensors};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use values::{Stream, Tables};

/// How large a synthetic model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The shapes of the released text models: 15 GB in four shards.
    SevenB,
    /// Some hundred million weights in one file.
    Small,
    /// A few layers of width 64, for tests.
    Tiny,
}

/// How far [`synth_text`] is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Bytes of weights written so far.
    pub done_bytes: u64,
    /// Bytes of weights in all.
    pub total_bytes: u64,
}

/// Elements generated and written at a time.
const CHUNK_ELEMENTS: usize = 1 << 20;
/// bf16 throughout.
const ELEMENT_BYTES: u64 = 2;
/// Room for headers, index and configs when free space is checked.
const OVERHEAD_BYTES: u64 = 1 << 20;
impl Size {
    /// The settings of the model.
    pub fn config(self) -> TextConfig {
        let (vocab_size, hidden_size, intermediate_size, num_hidden_layers) = match self {
            Size::SevenB => (152_064, 3584, 18_944, 28),
            Size::Small => (8192, 1024, 2816, 24),
            Size::Tiny => (512, 64, 160, 3),
        };
        let (num_attention_heads, num_key_value_heads) = match self {
            Size::SevenB => (28, 4),
            Size::Small => (16, 4),
            Size::Tiny => (4, 2),
        };
        let (pad_token_id, mask_token_id, max_position_embeddings) = match self {
            Size::SevenB => (151_643, 151_666, 131_072),
            Size::Small => (8160, 8183, 8192),
            Size::Tiny => (500, 502, 2048),
        };
        TextConfig {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            rms_norm_eps: 1e-6,
            rope_theta: 1_000_000.0,
            max_position_embeddings,
            tie_word_embeddings: false,
            mask_token_id,
            pad_token_id,
            eos_token_id: pad_token_id,
        }
    }

    /// The shard, counted from 0, in which the published split puts a tensor.
    fn shard_of(self, name: &str) -> usize {
        if self != Size::SevenB || name == EMBEDDING {
            return 0;
        }
        let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|n| n.split_once('.')) else {
            return if name == LM_HEAD { 3 } else { 2 };
        };
        let attention = part.starts_with("self_attn.");
        let gate_up = part.starts_with("mlp.gate_proj.") || part.starts_with("mlp.up_proj.");
        match layer.parse::<u64>() {
            Ok(0..=7) => 0,
            Ok(8) if attention => 0,
            Ok(8..=17) => 1,
            Ok(18) if attention || gate_up => 1,
            _ => 2,
        }
    }

    fn shard_count(self) -> usize {
        if self == Size::SevenB { 4 } else { 1 }
    }
}

/// Writes a synthetic text checkpoint into a directory, which is created if need be.
pub fn synth_text(
    size: Size,
    seed: u64,
    dir: impl AsRef<Path>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ImportError> {
    let dir = dir.as_ref();
    let config = size.config();
    let mut shards = vec![Vec::new(); size.shard_count()];
    for (name, shape) in expected_tensors(&config) {
        shards[size.shard_of(&name)].push(Planned { elements: shape.iter().product(), name, shape });
    }
    for shard in &mut shards {
        // The order of the library that writes the released files.
        shard.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let total_bytes = shards.iter().flatten().map(|t| t.elements * ELEMENT_BYTES).sum();

    std::fs::create_dir_all(dir).map_err(|source| io_error(dir, source))?;
    let mut output = Output::new(dir)?;
    check_free(dir, total_bytes + OVERHEAD_BYTES)?;

    let mut writer = Writer { seed, tables: Tables::new(), done_bytes: 0, total_bytes, progress };
    let mut weight_map = Map::new();
    for (number, shard) in (1..).zip(&shards) {
        let file = match shards.len() {
            1 => dreamc_weights::SINGLE_FILE.to_owned(),
            count => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), Value::from(file.as_str()));
        }
        output.write(&file, |out| writer.write_shard(shard, out))?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
        output.write(dreamc_weights::INDEX_FILE, |out| write_json(out, &index))?;
    }
    output.write("generation_config.json", |out| write_json(out, &generation_json(&config)))?;
    // Last, so that a directory with a config.json is complete.
    output.write(crate::config::CONFIG_FILE, |out| write_json(out, &config_json(&config)))?;
    output.commit()
}

/// A tensor to write.
#[derive(Clone)]
struct Planned {
    name: String,
    shape: Vec<u64>,
    elements: u64,
}

/// Writes shards and counts what it wrote.
struct Writer<'a> {
    seed: u64,
    tables: Tables,
    done_bytes: u64,
    total_bytes: u64,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Writer<'_> {
    fn write_shard(&mut self, tensors: &[Planned], out: &mut File) -> io::Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut end = 0;
        for tensor in tensors {
            let start = end;
            end += tensor.elements * ELEMENT_BYTES;
            let entry = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end] });
            header.insert(tensor.name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;

        let mut bytes = Vec::new();
        for tensor in tensors {
            let mut stream = Stream::new(self.seed, &tensor.name);
            let table = self.tables.of(&tensor.name);
            let mut left = tensor.elements;
            while left > 0 {
                let count = left.min(CHUNK_ELEMENTS as u64);
                bytes.resize(count as usize * ELEMENT_BYTES as usize, 0);
                stream.fill(table, &mut bytes);
                out.write_all(&bytes)?;
                left -= count;
                self.done_bytes += count * ELEMENT_BYTES;
                let (done_bytes, total_bytes) = (self.done_bytes, self.total_bytes);
                (self.progress)(Progress { tensor: &tensor.name, done_bytes, total_bytes });
            }
        }
        Ok(())
    }
}

/// Files under temporary names. Unless committed, they are removed again.
struct Output<'a> {
    dir: &'a Path,
    files: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Output<'a> {
    /// Refuses a directory that has a checkpoint.
    fn new(dir: &'a Path) -> Result<Output<'a>, ImportError> {
        let names = [crate::config::CONFIG_FILE, dreamc_weights::SINGLE_FILE, dreamc_weights::INDEX_FILE];
        match names.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
            Some(path) => Err(ImportError::OutputExists { path }),
            None => Ok(Output { dir, files: Vec::new() }),
        }
    }

    fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), ImportError> {
        let temporary = self.dir.join(format!("{name}.partial"));
        self.files.push((temporary.clone(), self.dir.join(name)));
        File::create(&temporary)
            .and_then(|mut file| write(&mut file))
            .map_err(|source| io_error(&temporary, source))
    }

    fn commit(mut self) -> Result<(), ImportError> {
        for (temporary, path) in &self.files {
            std::fs::rename(temporary, path).map_err(|source| io_error(path, source))?;
        }
        self.files.clear();
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        for (temporary, _) in &self.files {
            // The error that led here matters more than one in tidying up.
            drop(std::fs::remove_file(temporary));
        }
    }
}

fn check_free(dir: &Path, needed_bytes: u64) -> Result<(), ImportError> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(dir).map_err(|e| io_error(dir, e.into()))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < needed_bytes {
            return Err(ImportError::DiskFull { path: dir.to_owned(), free_bytes, needed_bytes });
        }
    }
    // Elsewhere a full disk shows when writing.
    #[cfg(not(unix))]
    let _ = (dir, needed_bytes);
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Io { path: path.to_owned(), source }
}

fn write_json(out: &mut File, value: &Value) -> io::Result<()> {
    out.write_all(format!("{value:#}\n").as_bytes())
}

/// All keys of the released config.json.
fn config_json(config: &TextConfig) -> Value {
    json!({
        "_name_or_path": "synthetic",
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "bos_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "mask_token_id": config.mask_token_id,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "Dream",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": null,
        "rope_theta": config.rope_theta,
        "sliding_window": null,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "use_cache": true,
        "use_mrope": false,
        "use_sliding_window": false,
        "vocab_size": config.vocab_size,
    })
}

/// All keys of the released generation_config.json. Its mask id is null there too.
fn generation_json(config: &TextConfig) -> Value {
    json!({
        "_from_model_config": true,
        "alg": "origin",
        "alg_temp": null,
        "bos_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "eps": 0.001,
        "mask_token_id": null,
        "output_history": false,
        "pad_token_id": config.pad_token_id,
        "steps": 512,
        "temperature": 0.0,
        "top_k": null,
        "top_p": null,
        "transformers_version": "4.46.2",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_split() {
        let size = Size::SevenB;
        let tensors = expected_tensors(&size.config());
        assert_eq!(tensors.len(), 339);
        let bytes: u64 = tensors.iter().map(|(_, s)| s.iter().product::<u64>() * ELEMENT_BYTES).sum();
        assert_eq!(bytes, 15_231_233_024);
        for (name, shard) in [
            (EMBEDDING, 0),
            ("model.layers.7.mlp.down_proj.weight", 0),
            ("model.layers.8.self_attn.o_proj.weight", 0),
            ("model.layers.8.input_layernorm.weight", 1),
            ("model.layers.8.mlp.gate_proj.weight", 1),
            ("model.layers.17.mlp.up_proj.weight", 1),
            ("model.layers.18.self_attn.q_proj.bias", 1),
            ("model.layers.18.mlp.up_proj.weight", 1),
            ("model.layers.18.mlp.down_proj.weight", 2),
            ("model.layers.18.input_layernorm.weight", 2),
            ("model.norm.weight", 2),
            (LM_HEAD, 3),
        ] {
            assert_eq!(size.shard_of(name), shard, "{name}");
        }
    }
}
