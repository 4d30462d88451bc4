//! Times and coefficients of the action loops (`spec/actions.md` section 6), known when a file is built.

use half::bf16;

/// How the time of a flow advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowClock {
    /// In bf16, as the reference's does: for some numbers of steps it takes more or fewer steps than asked for.
    Reference,
    /// Exactly as many steps as asked for.
    Exact,
}

impl FlowClock {
    /// Every clock.
    pub const ALL: [FlowClock; 2] = [FlowClock::Reference, FlowClock::Exact];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            FlowClock::Reference => "reference",
            FlowClock::Exact => "exact",
        }
    }

    /// Inverse of [`FlowClock::name`].
    pub fn from_name(name: &str) -> Option<FlowClock> {
        FlowClock::ALL.into_iter().find(|clock| clock.name() == name)
    }
}

/// The times of the steps of a flow of `steps` steps, from 0 up. `None` if the reference's clock never ends: a step is
/// too short for it.
pub fn flow_times(steps: u32, clock: FlowClock) -> Option<Vec<f32>> {
    match clock {
        FlowClock::Exact => Some((0..steps).map(|i| i as f32 / steps as f32).collect()),
        FlowClock::Reference => {
            let dt = bf16::from_f32(1.0 / steps as f32);
            let (mut time, mut times) = (bf16::ZERO, Vec::new());
            while time < bf16::ONE {
                times.push(time.to_f32());
                let next = bf16::from_f32(time.to_f32() + dt.to_f32());
                if next <= time {
                    return None;
                }
                time = next;
            }
            Some(times)
        }
    }
}

/// Steps that a DDIM head is trained with.
pub const DDIM_TRAIN_STEPS: u32 = 50;

/// Times of the `steps` steps of DDIM, falling, and the cumulative alphas: one for each, and 1 after the last. `steps`
/// is 1 to [`DDIM_TRAIN_STEPS`].
pub fn ddim(steps: u32) -> (Vec<f32>, Vec<f32>) {
    let share = |u: f64| libm::pow(libm::cos((u + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2), 2.0);
    let train = f64::from(DDIM_TRAIN_STEPS);
    let mut product = 1.0;
    let cumulative: Vec<f32> = (0..DDIM_TRAIN_STEPS)
        .map(|i| {
            let beta = (1.0 - share(f64::from(i + 1) / train) / share(f64::from(i) / train)).min(0.999);
            // The reference keeps betas and alphas in f32, and their running product wider.
            product *= f64::from(1.0 - beta as f32);
            product as f32
        })
        .collect();
    let stride = DDIM_TRAIN_STEPS / steps;
    let times: Vec<u32> = (0..steps).rev().map(|k| k * stride).collect();
    let alphas = times.iter().map(|t| cumulative[*t as usize]).chain([1.0]).collect();
    (times.iter().map(|t| *t as f32).collect(), alphas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_clock() {
        let count = |steps| flow_times(steps, FlowClock::Reference).unwrap().len();
        let pairs = [(1, 1), (4, 4), (7, 8), (9, 10), (11, 12), (12, 13), (14, 15), (34, 33), (57, 61)];
        for (steps, iterations) in pairs {
            assert_eq!(count(steps), iterations, "{steps} steps");
        }
        let ten = [0.0, 0.100_097_656, 0.200_195_31, 0.300_781_25, 0.400_390_63, 0.5, 0.601_562_5];
        assert_eq!(flow_times(10, FlowClock::Reference).unwrap()[..7], ten);
        assert_eq!(flow_times(4, FlowClock::Exact).unwrap(), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(flow_times(1 << 16, FlowClock::Reference), None);
    }

    /// Values of `spec/actions.md` section 6. The last, 1e-6, has few digits left in f32; the golden tests have all of
    /// them to the bit.
    #[test]
    fn ddim_alphas() {
        let (times, alphas) = ddim(50);
        assert_eq!((times[0], times[49], alphas.len(), alphas[50]), (49.0, 0.0, 51, 1.0));
        for (t, wanted) in [(0, 0.998_252_5), (1, 0.994_57), (24, 0.493_843_6), (48, 9.711_93e-4)] {
            assert!((alphas[49 - t] / wanted - 1.0).abs() < 1e-5, "{t}: {}", alphas[49 - t]);
        }
        assert_eq!(ddim(10).0, [45.0, 40.0, 35.0, 30.0, 25.0, 20.0, 15.0, 10.0, 5.0, 0.0]);
    }
}
