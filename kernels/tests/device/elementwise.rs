//! Elementwise kernels against the interpreter.

use crate::common::{FLOATS, Launch, runners};
use crate::judge::{interpret, rounded, tensor, tensor_of};
use dreamc_interp::Tensor;
use dreamc_kernels::{Elementwise, Float, Kernel, Map};

const LENGTHS: [usize; 4] = [1, 7, 256, 1111];

fn kernel(map: Map, float: Float, in_place: bool) -> Kernel {
    Kernel::Elementwise(Elementwise { map, float, in_place })
}

/// Launches of a kernel on all that can run it, apart from its first operand and over it.
fn each(map: Map, float: Float, a: &Tensor, wanted: &Tensor, rest: impl Fn(Launch) -> Launch) {
    let n = a.floats().len();
    for in_place in [false, true] {
        let kernel = kernel(map, float, in_place);
        for on in runners(&kernel) {
            let launch = rest(Launch::of(on, &kernel)).int("elements", n);
            let launch = if in_place { launch.tensor("y", a) } else { launch.tensor("a", a).result("y", n) };
            launch.run().near("y", wanted.floats(), 1e-6);
        }
    }
}

fn cases() -> impl Iterator<Item = (usize, Float)> {
    FLOATS.into_iter().flat_map(|float| LENGTHS.map(|n| (n, float)))
}

#[test]
fn two_operands() {
    for (n, float) in cases() {
        let (a, b) = (tensor_of(float, &[n], 1), tensor_of(float, &[n], 2));
        for (map, op) in [(Map::Add, "add"), (Map::Mul, "mul"), (Map::SwiGlu, "swiglu")] {
            let text = format!(
                "graph @f(%0: f32[{n}], %1: f32[{n}]) {{\n %2 = {op} %0, %1 : f32[{n}]\n return %2\n}}"
            );
            let wanted = interpret(&text, &[&a, &b]).remove(0);
            each(map, float, &a, &wanted, |launch| launch.tensor("b", &b));
        }
    }
}

#[test]
fn activations() {
    for (n, float) in cases() {
        // From -8 to 8: the tails as well.
        let x = Tensor::f32(&[n], tensor(&[n], 3).floats().iter().map(|x| x * 8.0).collect());
        let x = rounded(&x, float);
        for (map, op) in
            [(Map::Silu, "silu"), (Map::Gelu, "gelu"), (Map::QuickGelu, "quick_gelu"), (Map::Relu, "relu")]
        {
            let text = format!("graph @f(%0: f32[{n}]) {{\n %1 = {op} %0 : f32[{n}]\n return %1\n}}");
            let wanted = interpret(&text, &[&x]).remove(0);
            each(map, float, &x, &wanted, |launch| launch);
        }
    }
}

#[test]
fn steps_of_the_action_loops() {
    for (n, float) in cases() {
        let (x, v) = (tensor_of(float, &[n], 4), tensor_of(float, &[n], 5));
        let text = format!(
            "graph @f(%0: f32[{n}], %1: f32[{n}]) {{\n %2 = euler_step %0, %1 {{dt=0.25}} : f32[{n}]\n return %2\n}}"
        );
        let wanted = interpret(&text, &[&x, &v]).remove(0);
        each(Map::Euler, float, &x, &wanted, |launch| launch.tensor("b", &v).float("dt", 0.25));
        for step in 0..2 {
            let index = Tensor::i32(&[], vec![step]);
            let text = format!(
                "graph @f(%0: f32[{n}], %1: f32[{n}], %2: i32[]) {{
                  %3 = ddim_step %0, %1, %2 {{alphas=[0.2, 0.7, 1.0]}} : f32[{n}]
                  return %3
                }}"
            );
            let wanted = interpret(&text, &[&x, &v, &index]).remove(0);
            each(Map::Ddim, float, &x, &wanted, |launch| {
                launch.tensor("b", &v).floats("alphas", &[0.2, 0.7, 1.0]).tensor("index", &index)
            });
        }
    }
}

#[test]
fn relu_keeps_what_is_no_number() {
    for float in FLOATS {
        let kernel = kernel(Map::Relu, float, false);
        for on in runners(&kernel) {
            let y = Launch::of(on, &kernel).floats("a", &[f32::NAN, -1.0]).result("y", 2);
            y.int("elements", 2).run().same("y", &[f32::NAN, 0.0]);
        }
    }
}
