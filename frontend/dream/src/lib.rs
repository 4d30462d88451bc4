//! Imports Dream checkpoints: config and weights to a graph.
