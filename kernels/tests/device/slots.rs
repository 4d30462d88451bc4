//! Slots and the random stream against the interpreter: to the bit.

use crate::common::{Launch, Runner, everywhere};
use crate::judge::{floats, interpret};
use dreamc_interp::Tensor;
use dreamc_kernels::{Kernel, Open, Slots, TimestepEmbed};
use dreamc_num::schedule;
use dreamc_num::stream::Lane;

fn of(on: &'static Runner, kernel: Slots) -> Launch {
    Launch::of(on, &Kernel::Slots(kernel))
}

/// Every third is not active.
fn active(b: usize, s: usize) -> Tensor {
    Tensor::bool(&[b, s], (0..b * s).map(|i| i % 3 != 1).collect())
}

fn bits(b: usize, s: usize) -> Tensor {
    Tensor::u32(&[b, s], (0..b * s).map(|i| (i as u32).wrapping_mul(0x9E37_79B9)).collect())
}

const SHAPES: [[usize; 2]; 3] = [[1, 1], [3, 7], [2, 300]];

#[test]
fn canvas() {
    for [b, s] in SHAPES {
        let canvas = Tensor::i32(&[b, s], (0..b * s).map(|i| i as i32 % 5).collect());
        let token = Tensor::i32(&[b, s], (0..b * s).map(|i| -(i as i32)).collect());
        let select = active(b, s);
        let text = format!(
            "graph @f(%0: i32[{b}, {s}], %1: bool[{b}, {s}], %2: i32[{b}, {s}]) {{
              %3 = is_token %0 {{token=3}} : bool[{b}, {s}]
              %4 = commit %1, %2, %0 : i32[{b}, {s}]
              return %3, %4
            }}"
        );
        let wanted = interpret(&text, &[&canvas, &select, &token]);
        for on in everywhere() {
            let launch = of(on, Slots::IsToken).tensor("canvas", &canvas).result("y", b * s);
            assert_eq!(launch.int("elements", b * s).int("token", 3).run().bools("y"), wanted[0].bools());
            let launch = of(on, Slots::Commit).tensor("select", &select).tensor("token", &token);
            assert_eq!(launch.tensor("y", &canvas).int("elements", b * s).run().ints("y"), wanted[1].ints());
        }
    }
}

/// More slots than there are, fewer, and more than positions.
#[test]
fn open() {
    for [b, s] in SHAPES {
        for k in [1, s.div_ceil(2), s + 3] {
            let canvas = Tensor::i32(&[b, s], (0..b * s).map(|i| (i * i) as i32 % 5).collect());
            let state = Tensor::u32(&[4], vec![0x89ab_cdef, 0xfedc_ba98, 5, 7]);
            let select = active(b, k);
            let token = Tensor::i32(&[b, k], (0..b * k).map(|i| -(i as i32)).collect());
            let text = format!(
                "symbol K <= {k}
                graph @f(%0: i32[{b}, {s}], %1: u32[4], %2: bool[{b}, K], %3: i32[{b}, K]) {{
                  %4, %5 = open_slots %0 {{token=4}} : i32[{b}, K], bool[{b}, K]
                  %6 = read_rows %4 {{before=3}} : i32[{b}, K]
                  %7 = slot_bits %4, %1 {{lane=token}} : u32[{b}, K]
                  %8 = slot_bits %4, %1 {{lane=slot}} : u32[{b}, K]
                  %9 = take_slots %0, %4 : i32[{b}, K]
                  return %4, %5, %6, %7, %8, %9
                }}"
            );
            let wanted = interpret(&text, &[&canvas, &state, &select, &token]);
            let slots = &wanted[0];
            let chosen: Vec<bool> =
                select.bools().iter().zip(wanted[1].bools()).map(|(a, b)| *a && *b).collect();
            let chosen = Tensor::bool(&[b, k], chosen);
            let text = format!(
                "graph @f(%0: bool[{b}, {k}], %1: i32[{b}, {k}], %2: i32[{b}, {k}], %3: i32[{b}, {s}]) {{
                  %4 = commit_slots %0, %1, %2, %3 : i32[{b}, {s}]
                  return %4
                }}"
            );
            let committed = interpret(&text, &[&chosen, &token, slots, &canvas]).remove(0);
            for on in everywhere() {
                let of = |kernel| Launch::of(on, &Kernel::Open(kernel));
                let find =
                    of(Open::Find).tensor("canvas", &canvas).result("slots", b * k).result("open", b * k);
                let find = find.int("rows", b).int("positions", s).int("count", k).int("token", 4).run();
                assert_eq!(find.ints("slots"), slots.ints(), "{}", find.label());
                assert_eq!(find.bools("open"), wanted[1].bools(), "{}", find.label());
                let rows = of(Open::ReadRows).tensor("slots", slots).result("y", b * k);
                assert_eq!(rows.int("elements", b * k).int("before", 3).run().ints("y"), wanted[2].ints());
                for (lane, wanted) in Lane::ALL.into_iter().zip(&wanted[3..]) {
                    let bits = of(Open::Bits(lane)).tensor("slots", slots).tensor("stream", &state);
                    let y = bits.result("y", b * k).int("elements", b * k).int("count", k).run();
                    assert_eq!(y.words("y"), wanted.words(), "{}", y.label());
                }
                let take = of(Open::Take).tensor("x", &canvas).tensor("slots", slots).result("y", b * k);
                let take = take.int("elements", b * k).int("count", k).int("positions", s).run();
                assert_eq!(take.ints("y"), wanted[5].ints(), "{}", take.label());
                let commit = of(Open::Commit).tensor("select", &chosen).tensor("token", &token);
                let commit = commit.tensor("slots", slots).tensor("y", &canvas).int("elements", b * k);
                let commit = commit.int("count", k).int("positions", s).run();
                assert_eq!(commit.ints("y"), committed.ints(), "{}", commit.label());
            }
        }
    }
}

#[test]
fn stream() {
    for [b, s] in SHAPES {
        let canvas = Tensor::i32(&[b, s], vec![0; b * s]);
        let state = Tensor::u32(&[4], vec![0x89ab_cdef, 0xfedc_ba98, 5, u32::MAX]);
        for lane in Lane::ALL {
            let text = format!(
                "graph @f(%0: i32[{b}, {s}], %1: u32[4]) {{
                  %2 = random_bits %0, %1 {{lane={}}} : u32[{b}, {s}]
                  %3 = advance_stream %1 : u32[4]
                  return %2, %3
                }}",
                lane.name()
            );
            let wanted = interpret(&text, &[&canvas, &state]);
            for on in everywhere() {
                let launch = of(on, Slots::RandomBits(lane)).tensor("stream", &state);
                let y = launch.result("y", b * s).int("elements", b * s).int("positions", s).run();
                assert_eq!(y.words("y"), wanted[0].words(), "{}", y.label());
                let y = of(on, Slots::AdvanceStream).tensor("y", &state).run();
                assert_eq!(y.words("y"), wanted[1].words(), "{}", y.label());
            }
        }
    }
}

#[test]
fn counts_and_origin() {
    let steps = 4;
    for [b, s] in SHAPES {
        for joint in [0, 1] {
            for step in 0..steps {
                let (index, joint) = (Tensor::i32(&[], vec![step]), Tensor::i32(&[], vec![joint]));
                let (active, bits) = (active(b, s), bits(b, s));
                let text = format!(
                    "graph @f(%0: bool[{b}, {s}], %1: i32[], %2: i32[], %3: u32[{b}, {s}]) {{
                      %4 = transfer_count %0, %1, %2 {{steps={steps}, eps=0.001}} : i32[{b}]
                      %5 = origin_slots %0, %1, %3 {{steps={steps}, eps=0.001}} : bool[{b}, {s}]
                      return %4, %5
                    }}"
                );
                let wanted = interpret(&text, &[&active, &index, &joint, &bits]);
                let shares: Vec<f32> =
                    (0..steps as u32).map(|k| schedule::transfer_share(k, steps as u32, 0.001)).collect();
                for on in everywhere() {
                    let launch =
                        of(on, Slots::TransferCount).tensor("active", &active).tensor("index", &index);
                    let launch = launch.tensor("joint", &joint).floats("shares", &shares).result("y", b);
                    let launch = launch.int("rows", b).int("positions", s).int("steps", steps as usize);
                    assert_eq!(launch.run().ints("y"), wanted[0].ints());
                    let launch = of(on, Slots::OriginSlots).tensor("active", &active).tensor("index", &index);
                    let launch = launch.tensor("bits", &bits).floats("shares", &shares);
                    let y = launch.result("y", b * s).int("elements", b * s).run();
                    assert_eq!(y.bools("y"), wanted[1].bools());
                }
            }
        }
    }
}

#[test]
fn selection() {
    for [b, s] in SHAPES {
        for joint in [0, 1] {
            for (alg_temp, step) in [(0.0_f32, 1.0), (0.0, 0.25), (0.7, 1.0), (0.01, 1.0)] {
                // Rounded to steps: ties, which go to the lowest position.
                let confidence: Vec<f32> = floats(b * s, 7)
                    .iter()
                    .map(|x| if step < 1.0 { (x / step).round() * step } else { *x })
                    .collect();
                let confidence = Tensor::f32(&[b, s], confidence);
                let (active, bits) = (active(b, s), bits(b, s));
                let count = Tensor::i32(&[b], (0..b).map(|i| (s / 3 + i) as i32).collect());
                let alg_temp = Tensor::f32(&[], vec![alg_temp]);
                let joint = Tensor::i32(&[], vec![joint]);
                let text = format!(
                    "graph @f(%0: f32[{b}, {s}], %1: bool[{b}, {s}], %2: i32[{b}], %3: f32[], %4: u32[{b}, {s}], %5: i32[]) {{
                      %6 = select_slots %0, %1, %2, %3, %4, %5 : bool[{b}, {s}]
                      return %6
                    }}"
                );
                let wanted = interpret(&text, &[&confidence, &active, &count, &alg_temp, &bits, &joint]);
                for on in everywhere() {
                    let y = of(on, Slots::SelectSlots)
                        .tensor("confidence", &confidence)
                        .tensor("active", &active)
                        .tensor("count", &count)
                        .tensor("alg_temp", &alg_temp)
                        .tensor("bits", &bits)
                        .tensor("joint", &joint)
                        .result("y", b * s)
                        .int("rows", b)
                        .int("positions", s)
                        .run();
                    let (y, label) = (y.bools("y"), y.label());
                    let differ: Vec<usize> = (0..b * s).filter(|i| y[*i] != wanted[0].bools()[*i]).collect();
                    assert!(differ.is_empty(), "{label}: {differ:?} at {step} {alg_temp:?} {joint:?}");
                }
            }
        }
    }
}

#[test]
fn times() {
    let (width, times) = (34, [1.0_f32, 0.5, 49.0]);
    let half = width / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|k| (-(10_000_f32.ln() / (half - 1) as f32) * k as f32).exp()).collect();
    for step in 0..3 {
        let index = Tensor::i32(&[], vec![step]);
        let text = format!(
            "graph @f(%0: i32[]) {{
              %1 = timestep_embed %0 {{times=[1.0, 0.5, 49.0], width={width}}} : f32[1, 1, {width}]
              return %1
            }}"
        );
        let wanted = interpret(&text, &[&index]).remove(0);
        for on in everywhere() {
            let launch = Launch::of(on, &Kernel::TimestepEmbed(TimestepEmbed)).tensor("index", &index);
            let launch = launch.floats("times", &times).floats("frequencies", &frequencies);
            let launch = launch.result("y", width).int("rows", 1).int("steps", 3).int("half", half);
            launch.run().near("y", wanted.floats(), 1e-6);
        }
    }
    let (index, rows) = (Tensor::i32(&[4], vec![2, 0, 1, 2]), 4);
    let text = format!(
        "graph @f(%0: i32[{rows}]) {{
          %1 = timestep_embed %0 {{times=[1.0, 0.5, 49.0], width={width}}} : f32[1, {rows}, {width}]
          return %1
        }}"
    );
    let wanted = interpret(&text, &[&index]).remove(0);
    for on in everywhere() {
        let launch = Launch::of(on, &Kernel::TimestepEmbed(TimestepEmbed)).tensor("index", &index);
        let launch = launch.floats("times", &times).floats("frequencies", &frequencies);
        let launch = launch.result("y", rows * width).int("rows", rows).int("steps", 3).int("half", half);
        launch.run().near("y", wanted.floats(), 1e-6);
    }
}
