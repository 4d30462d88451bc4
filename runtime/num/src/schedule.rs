//! The denoising schedule in the reference's f32 arithmetic (`spec/sampling.md` sections 3, 5, 6).

/// Time of step `k` of `steps`: element `k` of `linspace(1, eps, steps + 1)`, `k` in `0..=steps`.
///
/// As the reference computes it: from the start in the lower half, from the end in the upper, each
/// with one rounding.
pub fn timestep(k: u32, steps: u32, eps: f32) -> f32 {
    let delta = (eps - 1.0) / steps as f32;
    if k < steps.div_ceil(2) {
        libm::fmaf(delta, k as f32, 1.0)
    } else {
        libm::fmaf(-delta, (steps - k) as f32, eps)
    }
}

/// The share of the remaining slots that step `step` commits: `1 - s/t`, and 1 at the last step.
///
/// `origin` commits each slot with this probability.
pub fn transfer_share(step: u32, steps: u32, eps: f32) -> f32 {
    if step + 1 == steps { 1.0 } else { 1.0 - timestep(step + 1, steps, eps) / timestep(step, steps, eps) }
}

/// How many of `masks` remaining slots step `step` commits: `trunc(masks * (1 - s/t))` in f32, all
/// of them at the last step.
pub fn transfer_count(masks: u32, step: u32, steps: u32, eps: f32) -> u32 {
    if step + 1 == steps { masks } else { (masks as f32 * transfer_share(step, steps, eps)) as u32 }
}

/// What `eos_penalty` is multiplied by at `step`: `ln(1 - t + eps)`, at most 0 (`spec/sampling.md` section 3).
pub fn eos_penalty_factor(step: u32, steps: u32, eps: f32) -> f32 {
    libm::logf(1.0 - timestep(step, steps, eps) + eps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reveals<const N: usize>(masks: u32) -> [u32; N] {
        let mut left = masks;
        core::array::from_fn(|step| {
            let k = transfer_count(left, step as u32, N as u32, 1e-3);
            left -= k;
            k
        })
    }

    /// `spec/sampling.md` section 6; the whole table is checked in `golden/`.
    #[test]
    fn facts() {
        assert_eq!(reveals(8), [1, 2, 2, 3]);
        assert_eq!(reveals(4), [0, 0, 0, 0, 0, 1, 1, 2]);
        assert_eq!(reveals(5), [0, 1, 1, 1, 2]);
        assert_eq!(reveals(58), [14, 14, 14, 16]);
        assert_eq!(reveals(58), [58]);
    }

    #[test]
    fn ends_are_exact() {
        for steps in 1..=64 {
            assert_eq!(timestep(0, steps, 1e-3), 1.0);
            assert_eq!(timestep(steps, steps, 1e-3), 1e-3);
        }
    }
}
