//! What moves rows and columns, against the interpreter: to the bit.

use crate::common::{Launch, bf16, interpret, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Embed, Float, Kernel, Rows, Table};

#[test]
fn embeddings() {
    for (v, h) in [(1, 1), (13, 7), (50, 896), (5, 1025)] {
        let (table, packed) = bf16(&tensor(&[v, h], 1));
        let ids = Tensor::i32(&[2, 3], (0..6).map(|i| i * 5 % v as i32).collect());
        let text = format!(
            "graph @f(%0: i32[2, 3], %1: f32[{v}, {h}]) {{\n %2 = embed %0, %1 : f32[2, 3, {h}]\n return %2\n}}"
        );
        let wanted = interpret(&text, &[&ids, &table]).remove(0);
        for stored in [Table::Floats(Float::F32), Table::PackedBF16] {
            let launch = Launch::of(&Kernel::Embed(Embed { table: stored, y: Float::F32 }));
            let launch = match stored {
                Table::Floats(_) => launch.tensor("table", &table),
                Table::PackedBF16 | Table::PackedF16 => launch.words("table", packed.clone()),
            };
            let launch = launch.tensor("ids", &ids).result("y", 6 * h);
            let y = launch.int("rows", 6).int("columns", h).int("first", 0).int("vocabulary", v).run();
            assert_eq!(y.floats("y"), wanted.floats());
        }
    }
}

/// A table in three parts is read by three launches; negative ids and those behind the last part give zeros.
#[test]
fn parts_of_a_table() {
    let (v, h) = (13, 5);
    let table = tensor(&[v, h], 1);
    let ids = [0, 12, 4, -1, 5, 13, 9, i32::MIN, 10, i32::MAX];
    let row = |id: i32| match usize::try_from(id) {
        Ok(id) if id < v => table.floats()[id * h..][..h].to_vec(),
        _ => vec![0.0; h],
    };
    let wanted: Vec<f32> = ids.iter().flat_map(|id| row(*id)).collect();
    let mut y = vec![u32::MAX; ids.len() * h];
    for (first, rows) in [(0, 5), (5, 5), (10, 3)] {
        let launch = Launch::of(&Kernel::Embed(Embed { table: Table::Floats(Float::F32), y: Float::F32 }));
        let launch = launch.ints("ids", &ids).floats("table", &table.floats()[first * h..][..rows * h]);
        let launch = launch.words("y", y).int("rows", ids.len()).int("columns", h);
        y = launch.int("first", first).int("vocabulary", rows).run().words("y");
    }
    assert_eq!(y, wanted.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
}

/// What lies outside is 0, and no memory outside is read.
#[test]
fn indices_outside() {
    let launch = Launch::of(&Kernel::Embed(Embed { table: Table::Floats(Float::F32), y: Float::F32 }));
    let launch = launch.ints("ids", &[-1, 1, 2]).floats("table", &[1.0, 2.0]).result("y", 3);
    let y = launch.int("rows", 3).int("columns", 1).int("first", 0).int("vocabulary", 2).run();
    assert_eq!(y.floats("y"), [0.0, 2.0, 0.0]);
    let launch = Launch::of(&Kernel::Rows(Rows::Take(Float::F32)));
    let launch = launch.floats("x", &[1.0, 2.0]).ints("index", &[-1, 2, 1]).result("y", 3);
    let y = launch.int("all", 3).int("taken", 3).int("rows", 2).int("columns", 1).run();
    assert_eq!(y.floats("y"), [0.0, 0.0, 2.0]);
    let launch = Launch::of(&Kernel::Rows(Rows::Splice { float: Float::F32, in_place: true }));
    let launch = launch.floats("rows", &[1.0]).ints("index", &[-1, 0, 1]).floats("y", &[7.0, 7.0, 7.0]);
    let y = launch.int("all", 3).int("given", 1).int("columns", 1).run();
    assert_eq!(y.floats("y"), [7.0, 1.0, 0.0]);
}

/// `x`, where its blocks begin, where they go, how many there are.
fn copy(x: &Tensor, [blocks, length]: [usize; 2], from: [usize; 2], to: [usize; 2], y: Vec<u32>) -> Vec<f32> {
    let launch = Launch::of(&Kernel::Rows(Rows::Copy(Float::F32))).tensor("x", x).words("y", y);
    let launch = launch.int("blocks", blocks).int("length", length);
    let launch = launch.int("x_stride", from[0]).int("x_first", from[1]);
    launch.int("y_stride", to[0]).int("y_first", to[1]).run().floats("y")
}

#[test]
fn blocks() {
    let (b, s, n) = (2, 5, 300);
    let (x, z) = (tensor(&[b, s, n], 1), tensor(&[b, 3, n], 2));
    let fresh = |elements: usize| vec![u32::MAX; elements];
    let text = format!(
        "graph @f(%0: f32[{b}, {s}, {n}], %1: f32[{b}, 3, {n}]) {{
          %2 = slice %0 {{start=7, len=20}} : f32[{b}, {s}, 20]
          %3 = drop_rows %0 {{count=2}} : f32[{b}, 3, {n}]
          %4 = concat %0, %1 {{axis=1}} : f32[{b}, 8, {n}]
          %5 = concat %3, %1 {{axis=2}} : f32[{b}, 3, 600]
          return %2, %3, %4, %5
        }}"
    );
    let wanted = interpret(&text, &[&x, &z]);
    let slice = copy(&x, [b * s, 20], [n, 7], [20, 0], fresh(b * s * 20));
    assert_eq!(slice, wanted[0].floats());
    let dropped = copy(&x, [b, 3 * n], [s * n, 2 * n], [3 * n, 0], fresh(b * 3 * n));
    assert_eq!(dropped, wanted[1].floats());
    let bits = |list: Vec<f32>| list.iter().map(|x| x.to_bits()).collect();
    let joined = copy(&x, [b, s * n], [s * n, 0], [8 * n, 0], fresh(b * 8 * n));
    let joined = copy(&z, [b, 3 * n], [3 * n, 0], [8 * n, 5 * n], bits(joined));
    assert_eq!(joined, wanted[2].floats());
    let dropped = Tensor::f32(&[b, 3, n], dropped);
    let joined = copy(&dropped, [b * 3, n], [n, 0], [600, 0], fresh(b * 3 * 600));
    let joined = copy(&z, [b * 3, n], [n, 0], [600, n], bits(joined));
    assert_eq!(joined, wanted[3].floats());
    assert_eq!(copy(&x, [1, b * s * n], [0, 0], [0, 0], fresh(b * s * n)), x.floats());
}

#[test]
fn rows_by_index() {
    let (b, s, n) = (2, 4, 1030);
    let (x, rows) = (tensor(&[b, s, n], 1), tensor(&[3, n], 2));
    let index = Tensor::i32(&[b, s], vec![-1, 2, 0, -1, 1, 1, -1, 2]);
    let taken = Tensor::i32(&[b, 3], vec![3, 0, 0, 2, 1, 3]);
    let text = format!(
        "graph @f(%0: f32[{b}, {s}, {n}], %1: i32[{b}, {s}], %2: f32[3, {n}], %3: i32[{b}, 3]) {{
          %4 = splice %0, %1, %2 : f32[{b}, {s}, {n}]
          %5 = take_rows %0, %3 : f32[{b}, 3, {n}]
          %6 = shift_rows %0 : f32[{b}, {s}, {n}]
          return %4, %5, %6
        }}"
    );
    let wanted = interpret(&text, &[&x, &index, &rows, &taken]);
    for in_place in [false, true] {
        let launch = Launch::of(&Kernel::Rows(Rows::Splice { float: Float::F32, in_place }));
        let launch = launch.tensor("index", &index).tensor("rows", &rows);
        let launch = launch.int("all", b * s).int("given", 3).int("columns", n);
        let launch =
            if in_place { launch.tensor("y", &x) } else { launch.tensor("x", &x).result("y", b * s * n) };
        assert_eq!(launch.run().floats("y"), wanted[0].floats());
    }
    let launch = Launch::of(&Kernel::Rows(Rows::Take(Float::F32))).tensor("x", &x).tensor("index", &taken);
    let launch =
        launch.result("y", b * 3 * n).int("all", b * 3).int("taken", 3).int("rows", s).int("columns", n);
    assert_eq!(launch.run().floats("y"), wanted[1].floats());
    let launch = Launch::of(&Kernel::Rows(Rows::Shift(Float::F32))).tensor("x", &x).result("y", b * s * n);
    let y = launch.int("all", b * s).int("rows", s).int("columns", n).run();
    assert_eq!(y.floats("y"), wanted[2].floats());
}
