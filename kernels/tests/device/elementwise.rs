//! Elementwise kernels against the interpreter.

use crate::common::{Launch, interpret, near, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Elementwise, Float, Kernel, Map};

const LENGTHS: [usize; 4] = [1, 7, 256, 1111];

fn kernel(map: Map, in_place: bool) -> Kernel {
    Kernel::Elementwise(Elementwise { map, float: Float::F32, in_place })
}

#[test]
fn two_operands() {
    for n in LENGTHS {
        let (a, b) = (tensor(&[n], 1), tensor(&[n], 2));
        for (map, op) in [(Map::Add, "add"), (Map::Mul, "mul"), (Map::SwiGlu, "swiglu")] {
            let text = format!(
                "graph @f(%0: f32[{n}], %1: f32[{n}]) {{\n %2 = {op} %0, %1 : f32[{n}]\n return %2\n}}"
            );
            let wanted = interpret(&text, &[&a, &b]).remove(0);
            let apart = Launch::of(&kernel(map, false)).tensor("a", &a).tensor("b", &b).result("y", n);
            near(&apart.int("elements", n).run().floats("y"), wanted.floats(), 1e-6);
            let over = Launch::of(&kernel(map, true)).tensor("b", &b).tensor("y", &a);
            near(&over.int("elements", n).run().floats("y"), wanted.floats(), 1e-6);
        }
    }
}

#[test]
fn activations() {
    for n in LENGTHS {
        // From -8 to 8: the tails as well.
        let x = Tensor::f32(&[n], tensor(&[n], 3).floats().iter().map(|x| x * 8.0).collect());
        for (map, op) in
            [(Map::Silu, "silu"), (Map::Gelu, "gelu"), (Map::QuickGelu, "quick_gelu"), (Map::Relu, "relu")]
        {
            let text = format!("graph @f(%0: f32[{n}]) {{\n %1 = {op} %0 : f32[{n}]\n return %1\n}}");
            let wanted = interpret(&text, &[&x]).remove(0);
            let apart = Launch::of(&kernel(map, false)).tensor("a", &x).result("y", n).int("elements", n);
            near(&apart.run().floats("y"), wanted.floats(), 1e-6);
            let over = Launch::of(&kernel(map, true)).tensor("y", &x).int("elements", n);
            near(&over.run().floats("y"), wanted.floats(), 1e-6);
        }
    }
}

#[test]
fn steps_of_the_action_loops() {
    for n in LENGTHS {
        let (x, v) = (tensor(&[n], 4), tensor(&[n], 5));
        let text = format!(
            "graph @f(%0: f32[{n}], %1: f32[{n}]) {{\n %2 = euler_step %0, %1 {{dt=0.25}} : f32[{n}]\n return %2\n}}"
        );
        let wanted = interpret(&text, &[&x, &v]).remove(0);
        let over = Launch::of(&kernel(Map::Euler, true)).tensor("b", &v).tensor("y", &x);
        near(&over.int("elements", n).float("dt", 0.25).run().floats("y"), wanted.floats(), 1e-6);

        for step in 0..2 {
            let index = Tensor::i32(&[], vec![step]);
            let text = format!(
                "graph @f(%0: f32[{n}], %1: f32[{n}], %2: i32[]) {{
                  %3 = ddim_step %0, %1, %2 {{alphas=[0.2, 0.7, 1.0]}} : f32[{n}]
                  return %3
                }}"
            );
            let wanted = interpret(&text, &[&x, &v, &index]).remove(0);
            let given = |launch: Launch| {
                launch
                    .tensor("b", &v)
                    .floats("alphas", &[0.2, 0.7, 1.0])
                    .tensor("index", &index)
                    .int("elements", n)
            };
            let apart = given(Launch::of(&kernel(Map::Ddim, false))).tensor("a", &x).result("y", n);
            near(&apart.run().floats("y"), wanted.floats(), 1e-6);
            let over = given(Launch::of(&kernel(Map::Ddim, true))).tensor("y", &x);
            near(&over.run().floats("y"), wanted.floats(), 1e-6);
        }
    }
}

#[test]
fn relu_keeps_what_is_no_number() {
    let y = Launch::of(&kernel(Map::Relu, false)).floats("a", &[f32::NAN, -1.0]).result("y", 2);
    let y = y.int("elements", 2).run().floats("y");
    assert!(y[0].is_nan() && y[1] == 0.0);
}
