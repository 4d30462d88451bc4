//! Cases of matmuls with weights in few bits.

use super::{Case, Tensor, case, numbers, random, real};
use dreamc_artifact::layout::{Layout, PANEL, QUANTIZED_HEAD, quantized_panel_bytes};
use dreamc_artifact::plan::{Activation, Kernel, Linear};
use dreamc_num::DType::{BF16, F32};
use dreamc_num::quant::{Codes, Group, int8, int8_scale, row_inverse};
use dreamc_num::{DType, Quant};

const FORMS: [(Quant, bool); 9] = [
    (Quant::Int8, true),
    (Quant::Int8, false),
    (Quant::Int4 { group: 32, zero: false }, true),
    (Quant::Int4 { group: 32, zero: true }, true),
    (Quant::Int4 { group: 32, zero: true }, false),
    (Quant::Int4 { group: 64, zero: false }, false),
    (Quant::Int4 { group: 128, zero: true }, true),
    (Quant::Int4 { group: 128, zero: false }, false),
    // No kernel is made for this length, all take it.
    (Quant::Int4 { group: 24, zero: true }, false),
];

fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    bytes[at..at + from.len()].copy_from_slice(from);
}

/// Where group `i` of a panel begins.
fn group_at(group: u32, zero: bool, i: usize) -> usize {
    let head = if zero { 4 * PANEL } else { 2 * PANEL };
    QUANTIZED_HEAD + i * (group as usize * PANEL / 2 + head)
}

/// A matrix `[n, k]` rounded and packed.
pub(crate) fn weight(dtype: DType, quant: Quant, n: usize, k: usize, values: &[f32]) -> Tensor {
    let layout = Layout::Quantized(quant);
    let panel_bytes = quantized_panel_bytes(quant, k as u64).unwrap() as usize;
    let mut bytes = vec![0; n.div_ceil(PANEL) * panel_bytes];
    // Columns that do not exist have any codes.
    bytes.chunks_mut(panel_bytes).for_each(|panel| panel[QUANTIZED_HEAD..].fill(0x55));
    for row in 0..n.next_multiple_of(PANEL) {
        let zeros = vec![0.0; k];
        let of_row = if row < n { &values[row * k..][..k] } else { &zeros };
        let start = row / PANEL * panel_bytes;
        let rounded: Vec<f32> = match quant {
            Quant::Int8 => of_row.to_vec(),
            Quant::Int4 { group, zero } => {
                let mut all = vec![];
                for (i, of_group) in of_row.chunks(group as usize).enumerate() {
                    let spanning = Group::spanning(of_group, zero);
                    let at = start + group_at(group, zero, i) + row % PANEL * 2;
                    put(&mut bytes, at, &super::bf16(spanning.scale));
                    if zero {
                        put(&mut bytes, at + 2 * PANEL, &super::bf16(spanning.min));
                    }
                    for (j, x) in of_group.iter().enumerate() {
                        let (code, at) = (spanning.code(*x), layout.index(k, row, i * group as usize + j));
                        let shift = at % 2 * 4;
                        bytes[at / 2] = bytes[at / 2] & !(15 << shift) | code << shift;
                        all.push(spanning.value(code));
                    }
                }
                all
            }
            Quant::Fp8 => unreachable!("it has no panels"),
        };
        let scale = int8_scale(&rounded);
        let codes: Vec<i8> = rounded.iter().map(|x| int8(*x, row_inverse(scale))).collect();
        let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
        put(&mut bytes, start + row % PANEL * 4, &scale.to_le_bytes());
        put(&mut bytes, start + 4 * PANEL + row % PANEL * 4, &sum.to_le_bytes());
        if quant == Quant::Int8 {
            for (column, code) in codes.iter().enumerate() {
                bytes[layout.index(k, row, column)] = *code as u8;
            }
        }
    }
    Tensor { dtype, dims: vec![n as u32, k as u32], bytes, layout: Some(layout) }
}

/// What a packed matrix stands for, in f32.
pub(crate) fn values(quant: Quant, tensor: &Tensor) -> Vec<f32> {
    let (n, k) = (tensor.dims[0] as usize, tensor.dims[1] as usize);
    let bytes = &tensor.bytes;
    let panel_bytes = quantized_panel_bytes(quant, k as u64).unwrap() as usize;
    let layout = Layout::Quantized(quant);
    let half = |at: usize| f32::from_bits(u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])) << 16);
    let value = |row: usize, column: usize| {
        let (start, lane, at) = (row / PANEL * panel_bytes, row % PANEL, layout.index(k, row, column));
        match quant {
            Quant::Int8 => {
                let scale: [u8; 4] = bytes[start + lane * 4..][..4].try_into().unwrap();
                f32::from(bytes[at] as i8) * f32::from_le_bytes(scale)
            }
            Quant::Int4 { group, zero } => {
                let head = start + group_at(group, zero, column / group as usize) + lane * 2;
                let scale = half(head);
                let of =
                    if zero { Group { scale, min: half(head + 2 * PANEL) } } else { Group::symmetric(scale) };
                of.value(bytes[at / 2] >> (at % 2 * 4) & 15)
            }
            Quant::Fp8 => unreachable!("it has no panels"),
        }
    };
    (0..n * k).map(|i| value(i / k, i % k)).collect()
}

fn plain(int8: bool) -> Linear {
    Linear { codes: int8.then_some(Codes::Int8), ..super::plain() }
}

/// Every form with everything that may stand before and after the product, at lengths that fill no block.
pub(crate) fn linear() -> Vec<Case> {
    let shapes = [
        (1, 17, 1030),
        (2, 33, 70),
        (11, 5, 3),
        (12, 20, 260),
        (13, 49, 33),
        (25, 18, 5),
        (265, 19, 70),
        (2, 20, 4),
        (12, 7, 1),
        (265, 7, 1030),
        (3, 18, 2085),
        (14, 18, 2085),
    ];
    let types = [(F32, F32, F32), (BF16, BF16, BF16), (F32, BF16, F32), (BF16, BF16, F32)];
    let mut cases = vec![];
    for (i, (quant, int8)) in FORMS.into_iter().enumerate() {
        for (j, (m, n, k)) in shapes.into_iter().enumerate() {
            let (x, w, y) = types[(i + j) % types.len()];
            let matrix = |rows: u32, seed: u32| {
                weight(w, quant, rows as usize, k as usize, &numbers((rows * k) as usize, seed))
            };
            let float = if [x, w, y].contains(&BF16) { 1.2e-2 } else { 3e-5 };
            let long = (f64::from(k) / 1024.0).max(1.0);
            // Codes are exact; what is left is rounding of the result.
            let product = match (int8, y) {
                (true, F32) => 3e-6,
                (true, _) => 1.2e-2,
                (false, _) => float * long,
            };
            // A norm is not computed in the same order as the interpreter's: a code that is nearly a tie may be the next
            // one, a step of at most 2 / 127 by weights below 1, in few elements of a row. Otherwise normed rows, and those
            // that are smoothed, are rounded to the weights' type.
            let normed = if int8 {
                4.0 * 2.0 / 127.0
            } else if w == BF16 {
                4e-3 * f64::from(k).sqrt()
            } else {
                0.0
            };
            let smoothed = if int8 || x == F32 { 0.0 } else { normed };
            let linear = plain(int8);
            let (input, gain, smooth) = (random(x, &[m, k], 1), random(F32, &[k], 2), random(F32, &[k], 9));
            let all = n + 7 + 16;
            let full = Linear {
                norm_eps: Some(1e-6),
                weights: 3,
                bias: true,
                residual: true,
                smooth: true,
                ..linear.clone()
            };
            let reads = [
                input.clone(),
                gain.clone(),
                smooth.clone(),
                matrix(n, 3),
                matrix(7, 4),
                matrix(16, 5),
                random(F32, &[all], 6),
                random(F32, &[m, all], 7),
            ];
            let full = case(Kernel::Linear(full), &reads, y, &[m, all], product + normed);
            cases.push(if y == F32 { full.over(&[7]) } else { full });
            let reads = [input.clone(), matrix(n, 3)];
            cases.push(case(Kernel::Linear(linear.clone()), &reads, y, &[m, n], product));
            let swiglu = Linear { weights: 2, swiglu: true, residual: true, smooth: true, ..linear.clone() };
            let reads = [input.clone(), smooth, matrix(n, 3), matrix(n, 4), random(F32, &[m, n], 8)];
            let bound = (product + smoothed) * 8.0 * long;
            cases.push(case(Kernel::Linear(swiglu), &reads, y, &[m, n], bound));
            let activated =
                Linear { norm_eps: Some(1e-5), bias: true, activation: Some(Activation::Silu), ..linear };
            let reads = [input, gain, matrix(n, 3), random(F32, &[n], 4)];
            cases.push(case(Kernel::Linear(activated), &reads, y, &[m, n], product + normed));
        }
    }
    // Smoothing of weights that are not in few bits.
    for (x, w) in [(F32, F32), (BF16, BF16), (F32, BF16)] {
        let (m, n, k) = (13, 33, 70);
        let matrix = super::weight(w, n as usize, k as usize, &numbers((n * k) as usize, 3));
        let reads = [random(x, &[m, k], 1), random(F32, &[k], 2), matrix];
        let smooth = Linear { smooth: true, ..plain(false) };
        let bound = if x == BF16 { 4e-2 } else { 3e-5 };
        cases.push(case(Kernel::Linear(smooth), &reads, F32, &[m, n], bound));
    }
    whole(&mut cases);
    cases
}

/// Panels in pairs, none cut off: ends of tiles may come late. Many rows of many columns are multiplied in blocks of both.
fn whole(cases: &mut Vec<Case>) {
    for (m, n, k) in [(29, 64, 70), (265, 64, 2100)] {
        for ((quant, int8), y) in FORMS.into_iter().zip([BF16, F32].into_iter().cycle()) {
            if m == 265 && quant != Quant::Int8 {
                continue;
            }
            let matrix = |seed| weight(BF16, quant, n as usize, k as usize, &numbers((n * k) as usize, seed));
            let input = random(BF16, &[m, k], 1);
            // As above: codes are exact.
            let long = (f64::from(k) / 1024.0).max(1.0);
            let product = |y| if int8 && y == F32 { 3e-6 } else { 1.2e-2 };
            let bound = |y| product(y) * if int8 { 1.0 } else { long };
            let linear = Linear { bias: true, residual: true, ..plain(int8) };
            let reads = [input.clone(), matrix(2), random(F32, &[n], 3), random(y, &[m, n], 4)];
            cases.push(case(Kernel::Linear(linear), &reads, y, &[m, n], bound(y)).over(&[3]));
            for y in [BF16, F32] {
                cases.push(case(Kernel::Linear(plain(int8)), &reads[..2], y, &[m, n], bound(y)));
                let gated = Linear { weights: 2, swiglu: true, ..plain(int8) };
                let reads = [input.clone(), matrix(2), matrix(5)];
                cases.push(case(Kernel::Linear(gated), &reads, y, &[m, n], product(y) * 8.0 * long));
            }
        }
    }
}

/// Integers, the largest of every row having the largest code: nothing is rounded anywhere.
pub(crate) fn exact() -> Vec<Case> {
    let mut cases = vec![];
    for k in [1, 3, 4, 5, 33, 70, 260, 1030] {
        for m in [1, 2, 11, 12, 13, 25, 265] {
            let n = 21;
            for (quant, int8) in FORMS {
                // Codes of 4 bits are no grid of 8 bits, and with a zero their scale is no integer.
                let most = match (quant, int8) {
                    (Quant::Int8, _) => 127,
                    (Quant::Int4 { zero: false, .. }, false) => 8,
                    (Quant::Int4 { .. } | Quant::Fp8, _) => continue,
                };
                if m == 265 && k > 100 && quant != Quant::Int8 {
                    continue;
                }
                let integers = |rows: usize, most: i32, first: i32, seed: u32| -> Vec<f32> {
                    let mut all: Vec<f32> = numbers(rows * k as usize, seed)
                        .iter()
                        .map(|v| (v * (most as f32 - 0.5)).round())
                        .collect();
                    let every = if most == 8 { 8 } else { k as usize };
                    all.chunks_mut(k as usize).for_each(|row| {
                        row.iter_mut().step_by(every).for_each(|x| *x = first as f32);
                    });
                    all
                };
                let x = real(F32, &[m, k], &integers(m as usize, 127, 127, 1));
                let first = if most == 8 { -8 } else { 127 };
                let w = weight(F32, quant, n, k as usize, &integers(n, most, first, 2));
                let kernel = Kernel::Linear(plain(int8));
                cases.push(case(kernel, &[x, w], F32, &[m, n as u32], 0.0));
            }
        }
    }
    // The largest sums there can be.
    let k = dreamc_artifact::INT8_COLUMNS_MAX;
    for sign in [1.0, -1.0] {
        let x = real(F32, &[1, k], &vec![127.0 * sign; k as usize]);
        let w = weight(F32, Quant::Int8, 3, k as usize, &vec![127.0; 3 * k as usize]);
        cases.push(case(Kernel::Linear(plain(true)), &[x, w], F32, &[1, 3], 0.0));
    }
    cases
}
