//! Ops of images, slots and actions on values that can be worked out by hand.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_interp::{RunError, Tensor, run};
use dreamc_ir::{parse, verify};

fn results(text: &str, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
    let module = parse(text).unwrap();
    let mut none = |_: &str, _: &dreamc_ir::Type| None;
    run(verify(&module).unwrap(), "f", inputs, &mut none, &mut ())
}

fn result(text: &str, inputs: &[Tensor]) -> Tensor {
    results(text, inputs).unwrap().remove(0)
}

fn near(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {wanted:?}");
}

#[test]
fn activations() {
    let x = Tensor::f32(&[4], vec![-1.0, 0.0, 0.5, 2.0]);
    for (op, wanted) in [
        ("relu", [0.0, 0.0, 0.5, 2.0]),
        ("gelu", [-0.158_655_26, 0.0, 0.345_731_23, 1.954_499_7]),
        ("quick_gelu", [-0.154_204_23, 0.0, 0.350_388_44, 1.935_658_6]),
        ("silu", [-0.268_941_43, 0.0, 0.311_229_67, 1.761_594_2]),
    ] {
        let text = format!("graph @f(%0: f32[4]) {{\n %1 = {op} %0 : f32[4]\n return %1\n}}");
        near(result(&text, std::slice::from_ref(&x)).floats(), &wanted);
    }
}

/// With scales of 1 and 2: 17 lies between 16 and 18 and goes to the even code, 2 * 17 likewise; 3.1 to 3.
#[test]
fn rows_in_fp8() {
    let text = "graph @f(%0: f32[1, 3], %1: f32[2, 3]) {
      %2 = linear %0, %1 {fp8=1} : f32[1, 2]
      return %2
    }";
    let x = Tensor::f32(&[1, 3], vec![448.0, 1.0, 3.1]);
    let weight = Tensor::f32(&[2, 3], vec![448.0, 0.0, 17.0, 34.0, 896.0, -1.0]);
    let wanted = [448.0 * 448.0 + 3.0 * 16.0, 448.0 * 32.0 + 896.0 - 3.0];
    assert_eq!(result(text, &[x, weight]).floats(), wanted);
}

#[test]
fn layer_norm_takes_the_mean_away() {
    let text = "graph @f(%0: f32[1, 4], %1: f32[4], %2: f32[4]) {
      %3 = layer_norm %0, %1, %2 {eps=0.75} : f32[1, 4]
      return %3
    }";
    let inputs = [vec![0.0, 1.0, 2.0, 3.0], vec![1.0, 1.0, 1.0, 2.0], vec![0.0, 0.0, 0.5, 0.0]];
    let shapes: [&[usize]; 3] = [&[1, 4], &[4], &[4]];
    let inputs = [0, 1, 2].map(|i| Tensor::f32(shapes[i], inputs[i].clone()));
    // Variance 1.25 and eps 0.75: the scale is 1 / sqrt(2).
    let s = std::f32::consts::FRAC_1_SQRT_2;
    near(result(text, &inputs).floats(), &[-1.5 * s, -0.5 * s, 0.5 * s + 0.5, 3.0 * s]);
}

/// Each axis has frequencies of its own, or all share one sequence.
#[test]
fn rope_tables_by_axis() {
    let table = |axial: &str| {
        let text = format!(
            "graph @f(%0: i32[2, 1, 1]) {{
              %1, %2 = rope_table %0 {{theta=100.0, sections=[1, 2]{axial}}} : f32[1, 1, 3], f32[1, 1, 3]
              return %2
            }}"
        );
        result(&text, &[Tensor::i32(&[2, 1, 1], vec![1, 2])])
    };
    let angles = |list: [f32; 3]| list.map(f32::sin);
    near(table("").floats(), &angles([1.0, 2.0 * 100_f32.powf(-1.0 / 3.0), 2.0 * 100_f32.powf(-2.0 / 3.0)]));
    near(table(", axial=1").floats(), &angles([1.0, 2.0, 0.2]));
}

/// A patch sees its own image only; a patch of no image is 0.
#[test]
fn attention_stays_inside_a_segment() {
    let text = "graph @f(%0: f32[1, 4, 2], %1: i32[1, 4]) {
      %2 = attention %0, %0, %0, %1 {heads=1, kv_heads=1, head_dim=2} : f32[1, 4, 2]
      return %2
    }";
    let x = Tensor::f32(&[1, 4, 2], vec![0.0, 3.0, 7.0, 6.0, 0.0, 3.0, 5.0, 5.0]);
    let inputs = [x, Tensor::i32(&[1, 4], vec![1, 2, 1, 0])];
    near(result(text, &inputs).floats(), &[0.0, 3.0, 7.0, 6.0, 0.0, 3.0, 0.0, 0.0]);
}

/// A query at some row sees what that row sees, and is turned by that row's angles.
#[test]
fn attention_at_some_rows() {
    let graph = |more: &str| {
        format!(
            "graph @f(%0: f32[1, 3, 2], %1: f32[1, 4, 2], %2: i32[1, 4], %3: i32[1, 3], %4: f32[1, 4, 1], %5: f32[1, 4, 1]) {{
              %6 = attention %0, %1, %1, %2, {more}=1}} : f32[1, 3, 2]
              return %6
            }}"
        )
    };
    let plain = graph("%3 {heads=1, kv_heads=1, head_dim=2, rows");
    let turned = graph("%4, %5, %3 {heads=1, kv_heads=1, head_dim=2, rope=1, rows");
    let q = Tensor::f32(&[1, 3, 2], vec![5.0, 5.0, 0.0, 0.0, 0.0, 0.0]);
    let x = Tensor::f32(&[1, 4, 2], vec![0.0, 3.0, 7.0, 6.0, 2.0, 5.0, 5.0, 5.0]);
    let zeros = || Tensor::f32(&[1, 4, 1], vec![0.0; 4]);
    let inputs = |index: Vec<i32>| {
        let mask = Tensor::i32(&[1, 4], vec![1, 2, 1, 0]);
        [q.clone(), x.clone(), mask, Tensor::i32(&[1, 3], index), zeros(), zeros()]
    };
    // Position 3 is padding, 1 is alone, 2 sees 0 and 2 alike; turned to nothing, so does any query.
    near(result(&plain, &inputs(vec![3, 1, 2])).floats(), &[0.0, 0.0, 7.0, 6.0, 1.0, 4.0]);
    near(result(&turned, &inputs(vec![2, 1, 2])).floats(), &[1.0, 4.0, 7.0, 6.0, 1.0, 4.0]);
    assert!(matches!(results(&plain, &inputs(vec![0, 4, 0])), Err(RunError::Row(4))));
    assert!(matches!(results(&plain, &inputs(vec![-1, 0, 0])), Err(RunError::Row(-1))));
}

/// Rows of a weight, an activation before the residual, and a token that is counted from the first.
#[test]
fn a_head_of_some_tokens() {
    let text = "graph @f(%0: f32[1, 1, 2], %1: f32[4, 2], %2: f32[1, 1, 2], %3: f32[], %4: u32[1, 1], %5: i32[1, 1]) {
      %6 = linear %0, %1, %2 {first=1, len=2, activation=relu, residual=1} : f32[1, 1, 2]
      %7 = is_token %5 {token=0} : bool[1, 1]
      %8 = draw_token %6, %7, %3, %4 {first=40} : i32[1, 1]
      return %6, %8
    }";
    let weight = Tensor::f32(&[4, 2], vec![9.0, 9.0, -1.0, -1.0, 2.0, 0.5, 9.0, 9.0]);
    let inputs = [
        Tensor::f32(&[1, 1, 2], vec![1.0, 2.0]),
        weight,
        Tensor::f32(&[1, 1, 2], vec![0.25, 0.5]),
        Tensor::f32(&[], vec![0.0]),
        Tensor::u32(&[1, 1], vec![0]),
        Tensor::i32(&[1, 1], vec![0]),
    ];
    let found = results(text, &inputs).unwrap();
    near(found[0].floats(), &[0.25, 3.5]);
    assert_eq!(found[1].ints(), [41]);
}

#[test]
fn rows_are_moved() {
    let text = "graph @f(%0: f32[1, 3, 2], %1: i32[1, 3], %2: f32[2, 2], %3: i32[1, 2]) {
      %4 = splice %0, %1, %2 : f32[1, 3, 2]
      %5 = concat %4, %0 {axis=1} : f32[1, 6, 2]
      %6 = drop_rows %5 {count=2} : f32[1, 4, 2]
      %7 = take_rows %6, %3 : f32[1, 2, 2]
      %8 = merge_rows %7 {count=2} : f32[1, 1, 4]
      %9 = split_rows %8 {count=4} : f32[1, 4, 1]
      %10 = concat %4, %0 {axis=2} : f32[1, 3, 4]
      return %4, %6, %9, %10
    }";
    let inputs = |index: Vec<i32>, rows: Vec<i32>| {
        [
            Tensor::f32(&[1, 3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            Tensor::i32(&[1, 3], index),
            Tensor::f32(&[2, 2], vec![10.0, 11.0, 12.0, 13.0]),
            Tensor::i32(&[1, 2], rows),
        ]
    };
    let all = results(text, &inputs(vec![-1, 1, 0], vec![3, 0])).unwrap();
    near(all[0].floats(), &[0.0, 1.0, 12.0, 13.0, 10.0, 11.0]);
    near(all[1].floats(), &[10.0, 11.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    near(all[2].floats(), &[4.0, 5.0, 10.0, 11.0]);
    near(all[3].floats(), &[0.0, 1.0, 0.0, 1.0, 12.0, 13.0, 2.0, 3.0, 10.0, 11.0, 4.0, 5.0]);
    assert_eq!(results(text, &inputs(vec![-1, 2, 0], vec![3, 0])), Err(RunError::Row(2)));
    assert_eq!(results(text, &inputs(vec![-1, 1, 0], vec![4, 0])), Err(RunError::Row(4)));
}

#[test]
fn one_row_of_a_table() {
    let text = "graph @f(%0: i32[]) {
      %1 = const {ints=[2, 0]} : i32[2]
      %2 = timestep_embed %1 {times=[0.5, 9.0, 1.5], width=4} : f32[1, 2, 4]
      %3 = take_rows %2, %0 : f32[1, 1, 4]
      %4 = stack %3 : f32[1, 1, 1, 4]
      return %2, %4
    }";
    let at = |row: i32| results(text, &[Tensor::i32(&[], vec![row])]);
    let rows = [1.5_f32, 0.5].map(|t| [t.sin(), t * 1e-4, t.cos(), 1.0]);
    let all = at(1).unwrap();
    near(all[0].floats(), &rows.concat());
    near(all[1].floats(), &rows[1]);
    assert_eq!(all[1].dims, [1, 1, 1, 4]);
    assert_eq!(at(2), Err(RunError::Row(2)));
}

#[test]
fn only_the_kept_tokens_of_marked_rows() {
    let text = "graph @f(%0: f32[1, 2, 4], %1: i32[1, 2]) {
      %2 = keep_tokens %0, %1 {first=1, len=2} : f32[1, 2, 4]
      return %2
    }";
    let inputs = [Tensor::f32(&[1, 2, 4], vec![1.0; 8]), Tensor::i32(&[1, 2], vec![-1, 0])];
    let kept = result(text, &inputs);
    assert_eq!(kept.floats(), [1.0, 1.0, 1.0, 1.0, f32::MIN, 1.0, 1.0, f32::MIN]);
}

/// As many slots as the fullest row has; a row with fewer fills up with position 0, which is not open.
#[test]
fn open_slots_in_the_order_of_positions() {
    let text = "symbol K <= 4
    graph @f(%0: i32[2, 4]) {
      %1, %2 = open_slots %0 {token=7} : i32[2, K], bool[2, K]
      %3 = read_rows %1 {before=2} : i32[2, K]
      %4 = take_slots %0, %1 : i32[2, K]
      return %1, %2, %3, %4
    }";
    let canvas = |ids: [i32; 8]| results(text, &[Tensor::i32(&[2, 4], ids.to_vec())]).unwrap();
    let all = canvas([7, 5, 7, 7, 1, 2, 3, 7]);
    assert_eq!(all[0], Tensor::i32(&[2, 3], vec![0, 2, 3, 3, 0, 0]));
    assert_eq!(all[1], Tensor::bool(&[2, 3], vec![true, true, true, true, false, false]));
    // The first slot reads its own row, as it has none before it.
    assert_eq!(all[2].ints(), [2, 3, 4, 4, 2, 2]);
    assert_eq!(all[3].ints(), [7, 7, 7, 7, 1, 1]);
    // Nothing is open: one slot, so that no value is empty.
    let none = canvas([1; 8]);
    assert_eq!(none[0], Tensor::i32(&[2, 1], vec![0, 0]));
    assert_eq!(none[1].bools(), [false, false]);
}

/// A slot draws the bits of its position, wherever it stands among the slots.
#[test]
fn slots_have_the_bits_of_their_positions() {
    let text = "graph @f(%0: i32[2, 3], %1: u32[4], %2: i32[2, 2]) {
      %3 = random_bits %0, %1 {lane=slot} : u32[2, 3]
      %4 = slot_bits %2, %1 {lane=slot} : u32[2, 2]
      %5 = slot_bits %2, %1 {lane=token} : u32[2, 2]
      return %3, %4, %5
    }";
    let stream = Tensor::u32(&[4], vec![1, 2, 3, 4]);
    let slots = Tensor::i32(&[2, 2], vec![2, 0, 1, 1]);
    let all = results(text, &[Tensor::i32(&[2, 3], vec![0; 6]), stream, slots]).unwrap();
    let [bits, found, others] = [0, 1, 2].map(|i| all[i].words());
    assert_eq!(found, [bits[2], bits[0], bits[4], bits[4]]);
    assert!(others.iter().zip(found).all(|(a, b)| a != b));
}

#[test]
fn slots_that_are_selected_are_written() {
    let text = "graph @f(%0: bool[2, 2], %1: i32[2, 2], %2: i32[2, 2], %3: i32[2, 3]) {
      %4 = commit_slots %0, %1, %2, %3 : i32[2, 3]
      %5 = take_slots %3, %2 : i32[2, 2]
      return %4, %5
    }";
    let inputs = |slots: [i32; 4]| {
        let select = Tensor::bool(&[2, 2], vec![true, false, false, true]);
        let token = Tensor::i32(&[2, 2], vec![10, 11, 12, 13]);
        [select, token, Tensor::i32(&[2, 2], slots.to_vec()), Tensor::i32(&[2, 3], vec![1, 2, 3, 4, 5, 6])]
    };
    let all = results(text, &inputs([2, 0, 2, 1])).unwrap();
    assert_eq!(all[0].ints(), [1, 2, 10, 4, 13, 6]);
    assert_eq!(all[1].ints(), [3, 1, 6, 5]);
    for outside in [3, -1] {
        assert_eq!(results(text, &inputs([2, outside, 2, 1])), Err(RunError::Row(outside)));
    }
}

#[test]
fn values_are_stacked() {
    let text = "graph @f(%0: i32[2, 2]) {
      %1 = stack %0 : i32[1, 2, 2]
      return %1
    }";
    let stacked = result(text, &[Tensor::i32(&[2, 2], vec![1, 2, 3, 4])]);
    assert_eq!(stacked, Tensor::i32(&[1, 2, 2], vec![1, 2, 3, 4]));
}

/// Two rows rank together: the counts add up and the best of all win.
#[test]
fn rows_rank_jointly_if_asked() {
    let text = "graph @f(%0: bool[2, 3], %1: f32[2, 3], %2: i32[], %3: u32[2, 3], %4: f32[], %5: i32[]) {
      %6 = transfer_count %0, %2, %5 {steps=2, eps=0.001} : i32[2]
      %7 = select_slots %1, %0, %6, %4, %3, %5 : bool[2, 3]
      return %6, %7
    }";
    let run = |joint: i32| {
        let active = vec![true, true, true, true, true, false];
        let inputs = [
            Tensor::bool(&[2, 3], active),
            Tensor::f32(&[2, 3], vec![0.1, 0.2, 0.3, 0.9, 0.8, 1.0]),
            Tensor::i32(&[], vec![0]),
            Tensor::u32(&[2, 3], vec![0; 6]),
            Tensor::f32(&[], vec![0.0]),
            Tensor::i32(&[], vec![joint]),
        ];
        let all = results(text, &inputs).unwrap();
        (all[0].ints().to_vec(), all[1].bools().to_vec())
    };
    assert_eq!(run(0), (vec![1, 0], vec![false, false, true, false, false, false]));
    assert_eq!(run(1), (vec![2, 0], vec![false, false, false, true, true, false]));
}

#[test]
fn action_loops() {
    let text = "graph @f(%0: f32[1, 1, 2], %1: f32[1, 1, 2]) {
      %2, %3 = denoise %0, %1 {steps=2, state=1, body=\"step\"} : f32[1, 1, 2], f32[2, 1, 1, 2]
      return %2, %3
    }
    graph @step(%0: i32[], %1: f32[1, 1, 2], %2: f32[1, 1, 2]) {
      %3 = euler_step %1, %2 {dt=0.5} : f32[1, 1, 2]
      return %3
    }";
    let inputs = [Tensor::f32(&[1, 1, 2], vec![1.0, 2.0]), Tensor::f32(&[1, 1, 2], vec![1.0, -1.0])];
    let all = results(text, &inputs).unwrap();
    near(all[0].floats(), &[2.0, 1.0]);
    assert_eq!(all[1].dims, [2, 1, 1, 2]);
    near(all[1].floats(), &[1.5, 1.5, 2.0, 1.0]);

    let text = "graph @f(%0: f32[2], %1: f32[2], %2: i32[]) {
      %3 = ddim_step %0, %1, %2 {alphas=[0.25, 0.64]} : f32[2]
      %4 = timestep_embed %2 {times=[0.5], width=4} : f32[1, 1, 4]
      return %3, %4
    }";
    let at = |step: i32| {
        let vectors = [vec![0.5, 3.0], vec![0.0, 1.0]].map(|v| Tensor::f32(&[2], v));
        results(text, &[vectors.as_slice(), &[Tensor::i32(&[], vec![step])]].concat())
    };
    let all = at(0).unwrap();
    // Clean samples: 0.5 / 0.5, and (3 - sqrt(0.75)) / 0.5 cut off at 1.
    near(all[0].floats(), &[0.8, 0.8 + 0.6]);
    near(all[1].floats(), &[0.5_f32.sin(), 0.000_05, 0.5_f32.cos(), 1.0]);
    assert_eq!(at(1), Err(RunError::Step(1)));
}
