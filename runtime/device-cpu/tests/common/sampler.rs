//! Cases of the sampler's kernels.

use super::{Case, Tensor, bools, case, ints, numbers, random, random_words, real, scalar, words};
use dreamc_artifact::plan::{Confidence, Kernel};
use dreamc_num::DType::{Bool, F32, I32, U32};
use dreamc_num::stream::Lane;

/// Vocabularies around the widths of registers, and the ends.
const VOCABULARIES: [u32; 7] = [1, 2, 15, 17, 333, 1000, 5001];

/// True is any byte but 0.
fn active() -> Tensor {
    bools(&[2, 3], &[1, 0, 255, 1, 1, 2])
}

/// Logits of six rows; the values of `steps` per unit make ties.
fn logits(v: u32, steps: f32) -> Tensor {
    let values: Vec<f32> =
        numbers(6 * v as usize, v).iter().map(|x| (x * 8.0 * steps).round() / steps).collect();
    real(F32, &[2, 3, v], &values)
}

/// Rows that sum to about 1.
fn probs(v: u32, steps: f32) -> Tensor {
    let mut values: Vec<f32> =
        numbers(6 * v as usize, v).iter().map(|x| (x * steps).round() / steps + 1.0).collect();
    for row in values.chunks_mut(v as usize) {
        let total: f32 = row.iter().sum();
        row.iter_mut().for_each(|p| *p = if total > 0.0 { *p / total } else { 0.0 });
    }
    real(F32, &[2, 3, v], &values)
}

pub(crate) fn sampling_probs() -> Vec<Case> {
    let mut cases = vec![];
    for v in VOCABULARIES {
        for steps in [4.0, 1e6] {
            for (temperature, top_p, top_k) in [
                (0.0, 1.0, 0),
                (0.7, 0.0, 0),
                (0.3, 0.95, 0),
                (5.0, 0.9, 0),
                (1.0, 0.3, 0),
                (1.0, 1.0, 1),
                (1.0, 1.0, 50),
                (1.0, -1.0, i32::MAX),
                (2.0, 0.9, 3),
                (-1.0, f32::NAN, -5),
            ] {
                let reads =
                    [logits(v, steps), active(), scalar(temperature), scalar(top_p), ints(&[], &[top_k])];
                cases.push(case(Kernel::SamplingProbs, &reads, F32, &[2, 3, v], 2e-6).over(&[0]));
            }
        }
    }
    cases
}

pub(crate) fn tokens() -> Vec<Case> {
    let mut cases = vec![];
    for v in VOCABULARIES {
        for steps in [4.0, 1e6] {
            for temperature in [0.0, 0.5, -1.0] {
                for seed in 0..4 {
                    let bits = random_words(&[2, 3], seed);
                    let reads = [probs(v, steps), active(), scalar(temperature), bits];
                    cases.push(case(Kernel::DrawToken { first: v * 7 }, &reads, I32, &[2, 3], 0.0));
                }
            }
            // Nothing to draw from: the lowest id.
            let nothing = real(F32, &[2, 3, v], &vec![0.0; 6 * v as usize]);
            let reads = [nothing, active(), scalar(1.0), random_words(&[2, 3], 1)];
            cases.push(case(Kernel::DrawToken { first: v * 7 }, &reads, I32, &[2, 3], 0.0));
            for kind in [Confidence::Probability, Confidence::Margin, Confidence::NegativeEntropy] {
                // Tokens outside the vocabulary have no probability.
                let token = ints(&[2, 3], &[0, 1, v as i32 - 1, -1, i32::MAX, v as i32]);
                let reads = [probs(v, steps), active(), token];
                cases.push(case(Kernel::Confidence(kind), &reads, F32, &[2, 3], 1e-5));
            }
        }
        for (first, len) in [(0, 1), (v / 2, v - v / 2), (v - 1, 1)] {
            let rows = ints(&[2, 3], &[-1, 0, 7, -9, i32::MIN, i32::MAX]);
            let reads = [logits(v, 1e6), rows];
            cases.push(case(Kernel::KeepTokens { first, len }, &reads, F32, &[2, 3, v], 0.0).over(&[0]));
        }
        let eos = Kernel::EosPenalty { token: v / 2, steps: 4, eps: 1e-3 };
        for step in 0..4 {
            let reads = [logits(v, 1e6), scalar(2.5), ints(&[], &[step])];
            cases.push(case(eos.clone(), &reads, F32, &[2, 3, v], 1e-6).over(&[0]));
        }
    }
    cases
}

/// Fewer slots than are open, as many, more, and more than positions.
pub(crate) fn open_slots() -> Vec<Case> {
    let mut cases = vec![];
    for (b, s) in [(2, 3), (1, 1), (3, 70)] {
        let n = (b * s) as usize;
        let canvas = ints(&[b, s], &(0..n).map(|i| (i * i) as i32 % 5).collect::<Vec<_>>());
        for k in [2, 1, s.div_ceil(2), s, s + 3] {
            let m = (b * k) as usize;
            for token in [4, 9] {
                let mut found =
                    case(Kernel::OpenSlots { token }, std::slice::from_ref(&canvas), I32, &[b, k], 0.0);
                found.writes.push((Bool, vec![b, k]));
                cases.push(found);
            }
            // Each position at most once among those that are chosen.
            let slots: Vec<i32> =
                (0..m).map(|i| if i % (k as usize) < s as usize { i as i32 % k as i32 } else { 0 }).collect();
            let slots = ints(&[b, k], &slots);
            for before in [0, 2] {
                cases.push(case(
                    Kernel::ReadRows { before },
                    std::slice::from_ref(&slots),
                    I32,
                    &[b, k],
                    0.0,
                ));
            }
            let stream = words(&[4], &[1, u32::MAX, 9, u32::MAX]);
            for lane in Lane::ALL {
                let reads = [slots.clone(), stream.clone()];
                cases.push(case(Kernel::SlotBits { lane }, &reads, U32, &[b, k], 0.0));
            }
            cases.push(case(Kernel::TakeSlots, &[canvas.clone(), slots.clone()], I32, &[b, k], 0.0));
            let chosen: Vec<u8> =
                (0..m).map(|i| u8::from(i % (k as usize) < s as usize && i % 3 != 1) * 3).collect();
            let token = ints(&[b, k], &(0..m).map(|i| -(i as i32)).collect::<Vec<_>>());
            let reads = [bools(&[b, k], &chosen), token, slots, canvas.clone()];
            cases.push(case(Kernel::CommitSlots, &reads, I32, &[b, s], 0.0).over(&[3]));
        }
    }
    cases
}

pub(crate) fn slots() -> Vec<Case> {
    let mut cases = vec![];
    let canvas = ints(&[2, 3], &[5, -1, 7, 5, 5, i32::MAX]);
    for token in [5, 9] {
        cases.push(case(Kernel::IsToken { token }, std::slice::from_ref(&canvas), Bool, &[2, 3], 0.0));
    }
    let stream = words(&[4], &[1, u32::MAX, 9, u32::MAX]);
    for lane in Lane::ALL {
        let reads = [canvas.clone(), stream.clone()];
        cases.push(case(Kernel::RandomBits { lane }, &reads, U32, &[2, 3], 0.0));
    }
    cases.push(case(Kernel::AdvanceStream, &[stream], U32, &[4], 0.0).over(&[0]));
    let commit = [active(), ints(&[2, 3], &[1, 2, 3, 4, 5, 6]), canvas];
    cases.push(case(Kernel::Commit, &commit, I32, &[2, 3], 0.0).over(&[2]));
    for (b, s) in [(1, 1), (2, 3), (3, 70)] {
        let n = (b * s) as usize;
        let active = bools(&[b, s], &(0..n).map(|i| (i % 3 != 1) as u8 * 3).collect::<Vec<_>>());
        for step in 0..5 {
            let (count, origin) =
                (Kernel::TransferCount { steps: 5, eps: 1e-3 }, Kernel::OriginSlots { steps: 5, eps: 1e-3 });
            let index = ints(&[], &[step]);
            for joint in [0, 1, -1] {
                let reads = [active.clone(), index.clone(), ints(&[], &[joint])];
                cases.push(case(count.clone(), &reads, I32, &[b], 0.0));
            }
            let reads = [active.clone(), index, random_words(&[b, s], step as u32)];
            cases.push(case(origin, &reads, Bool, &[b, s], 0.0));
        }
        let ties: Vec<f32> = numbers(n, 3).iter().map(|x| (x * 3.0).round()).collect();
        for confidence in [random(F32, &[b, s], 2), real(F32, &[b, s], &ties)] {
            for (count, alg_temp) in [(0, 0.0), (2, 0.0), (2, 0.5), (17, -1.0), (17, 2.0), (1000, 0.1)] {
                for joint in [0, 1] {
                    let counts: Vec<i32> = (0..b as i32).map(|row| (count - row).max(0)).collect();
                    let (counts, bits) = (ints(&[b], &counts), random_words(&[b, s], 5));
                    let (alg_temp, joint) = (scalar(alg_temp), ints(&[], &[joint]));
                    let reads = [confidence.clone(), active.clone(), counts, alg_temp, bits, joint];
                    cases.push(case(Kernel::SelectSlots, &reads, Bool, &[b, s], 0.0));
                }
            }
        }
    }
    cases
}
