//! Placeholder.
/// Tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: u64,
    /// Width of the tower.
    pub embed_dim: u64,
    /// Number of heads.
    pub num_heads: u64,
    /// MLP width over `embed_dim`.
    pub mlp_ratio: u64,
    /// Width of the merger's result.
    pub hidden_size: u64,
    /// Colours.
    pub in_channels: u64,
}

impl VisionConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> u64 {
        self.embed_dim / self.num_heads
    }
    /// Width of the MLP.
    pub fn mlp_size(&self) -> u64 {
        self.embed_dim * self.mlp_ratio
    }
    /// Numbers of a patch.
    pub fn patch_values(&self) -> u64 {
        self.in_channels * 2 * 14 * 14
    }
}
