//! Checkpoint weights: safetensors shards, memory-mapped and checked.
