//! Frequencies of rotary tables and of timestep embeddings, in f32 as the reference computes them.

/// Frequency `j` of `n` of a rotary table: `theta^(-2j / 2n)`.
pub fn rope(theta: f32, j: u32, n: u32) -> f32 {
    1.0 / libm::powf(theta, (2 * j) as f32 / (2 * n) as f32)
}

/// Frequency `k` of `half` of a timestep embedding: `exp(-k ln(10000) / (half - 1))`.
pub fn timestep(k: u32, half: u32) -> f32 {
    let fall = (libm::log(10_000.0) / (f64::from(half) - 1.0)) as f32;
    libm::expf(k as f32 * -fall)
}
