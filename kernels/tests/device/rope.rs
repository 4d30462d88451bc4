//! Rotary positions against the interpreter.

use crate::common::{FLOATS, Launch, runners};
use crate::judge::{interpret, near_of, tensor, tensor_of};
use dreamc_interp::Tensor;
use dreamc_kernels::{Kernel, Rope, RopeTable};

/// As a caller makes them at build time: frequencies, and by whose positions they turn.
fn constants(theta: f32, sections: &[usize], axial: bool) -> (Vec<f32>, Vec<i32>) {
    let n: usize = sections.iter().sum();
    let (mut frequencies, mut planes) = (Vec::new(), Vec::new());
    for (plane, section) in sections.iter().enumerate() {
        for j in 0..*section {
            let (j, n) = if axial { (j, *section) } else { (frequencies.len(), n) };
            frequencies.push(1.0 / theta.powf((2 * j) as f32 / (2 * n) as f32));
            planes.push(plane as i32);
        }
    }
    (frequencies, planes)
}

#[test]
fn tables() {
    let mut positions: Vec<i32> = vec![0, 1, 2, 31, 767, 2047, 32_767, 131_071];
    for (theta, sections, axial) in [
        (1e6_f32, vec![64], false),
        (1e6, vec![16, 24, 24], false),
        (1e4, vec![20, 20], true),
        (1e4, vec![3], false),
    ] {
        let (b, s, n) = (2, 4, sections.iter().sum::<usize>());
        let planes = sections.len();
        let all: Vec<i32> = (0..planes)
            .flat_map(|_| {
                positions.rotate_left(3);
                positions.clone()
            })
            .collect();
        let (dims, ty) = if planes == 1 {
            (vec![b, s], format!("i32[{b}, {s}]"))
        } else {
            (vec![planes, b, s], format!("i32[{planes}, {b}, {s}]"))
        };
        let given = Tensor::i32(&dims, all);
        let axis = if axial { ", axial=1" } else { "" };
        let text = format!(
            "graph @f(%0: {ty}) {{
              %1, %2 = rope_table %0 {{theta={theta:?}, sections={sections:?}{axis}}} : f32[{b}, {s}, {n}], f32[{b}, {s}, {n}]
              return %1, %2
            }}"
        );
        let wanted = interpret(&text, &[&given]);
        let (frequencies, of_plane) = constants(theta, &sections, axial);
        let kernel = Kernel::RopeTable(RopeTable);
        for on in runners(&kernel) {
            let found = Launch::of(on, &kernel)
                .tensor("positions", &given)
                .floats("frequencies", &frequencies)
                .ints("planes", &of_plane)
                .result("cos", b * s * n)
                .result("sin", b * s * n)
                .int("rows", b * s)
                .int("columns", n)
                .run();
            found.near("cos", wanted[0].floats(), 1e-6);
            found.near("sin", wanted[1].floats(), 1e-6);
        }
    }
}

#[test]
fn rotation() {
    let shapes = [(1, 1, 2), (3, 2, 16), (5, 4, 80), (2, 28, 128)];
    for ((rows, heads, d), float) in shapes.into_iter().flat_map(|s| FLOATS.map(|float| (s, float))) {
        let x = tensor_of(float, &[1, rows, heads * d], 1);
        let (cos, sin) = (tensor(&[1, rows, d / 2], 2), tensor(&[1, rows, d / 2], 3));
        let text = format!(
            "graph @f(%0: f32[1, {rows}, {n}], %1: f32[1, {rows}, {h}], %2: f32[1, {rows}, {h}]) {{
              %3 = rope %0, %1, %2 {{head_dim={d}}} : f32[1, {rows}, {n}]
              return %3
            }}",
            n = heads * d,
            h = d / 2
        );
        let wanted = interpret(&text, &[&x, &cos, &sin]).remove(0);
        for in_place in [false, true] {
            let kernel = Kernel::Rope(Rope { float, head_dim: d as u32, in_place });
            for on in runners(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("cos", &cos).tensor("sin", &sin);
                let launch = launch.int("rows", rows).int("heads", heads).int("stride", heads * d);
                let launch = if in_place {
                    launch.tensor("y", &x)
                } else {
                    launch.tensor("x", &x).result("y", rows * heads * d)
                };
                launch.run().near("y", wanted.floats(), 1e-6);
            }
        }
    }
}

/// Queries and keys of packed rows; the values behind them stay.
#[test]
fn part_of_a_row() {
    let (rows, heads, d, stride) = (3, 3, 8, 32);
    let (cos, sin) = (tensor(&[rows, d / 2], 2), tensor(&[rows, d / 2], 3));
    for float in FLOATS {
        let x = tensor_of(float, &[rows, stride], 1);
        let kernel = Kernel::Rope(Rope { float, head_dim: d as u32, in_place: true });
        for on in runners(&kernel) {
            let launch = Launch::of(on, &kernel).tensor("cos", &cos).tensor("sin", &sin).tensor("y", &x);
            let y = launch.int("rows", rows).int("heads", heads).int("stride", stride).run();
            for (r, after) in y.floats("y").chunks(stride).enumerate() {
                let before = &x.floats()[r * stride..][..stride];
                assert_eq!(before[heads * d..], after[heads * d..]);
                let (c, s) = (cos.floats()[r * d / 2], sin.floats()[r * d / 2]);
                near_of(&y.label(), float, &after[d..=d], &[before[d] * c - before[d + d / 2] * s], 1e-6);
            }
        }
    }
}
