//! What moves rows and columns, against the interpreter: to the bit.

use crate::common::{FLOATS, Launch, Runner, runners};
use crate::judge::{interpret, rounded, tensor, tensor_of};
use dreamc_interp::Tensor;
use dreamc_kernels::{Embed, Float, Kernel, Rows, Table};

/// Ways to store a table, with the type that its numbers are rounded to.
const TABLES: [(Table, Float); 5] = [
    (Table::Floats(Float::F32), Float::F32),
    (Table::Floats(Float::F16), Float::F16),
    (Table::Floats(Float::BF16), Float::BF16),
    (Table::PackedBF16, Float::BF16),
    (Table::PackedF16, Float::F16),
];

#[test]
fn embeddings() {
    for (v, h) in [(1, 1), (13, 7), (50, 896), (5, 1025)] {
        let ids = Tensor::i32(&[2, 3], (0..6).map(|i| i * 5 % v as i32).collect());
        let text = format!(
            "graph @f(%0: i32[2, 3], %1: f32[{v}, {h}]) {{\n %2 = embed %0, %1 : f32[2, 3, {h}]\n return %2\n}}"
        );
        for (stored, float) in TABLES {
            let table = tensor_of(float, &[v, h], 1);
            let wanted = interpret(&text, &[&ids, &table]).remove(0);
            // As f32, and in the table's type: no rounding in either.
            for y in [Float::F32, float] {
                let kernel = Kernel::Embed(Embed { table: stored, y });
                for on in runners(&kernel) {
                    let launch = Launch::of(on, &kernel).tensor("table", &table).tensor("ids", &ids);
                    let launch = launch.result("y", 6 * h).int("rows", 6).int("columns", h);
                    launch.int("first", 0).int("vocabulary", v).run().same("y", wanted.floats());
                }
            }
        }
    }
}

/// All f16 there are: zeros, subnormals, infinities and what is no number.
#[test]
fn every_f16() {
    let kernel = Kernel::Embed(Embed { table: Table::PackedF16, y: Float::F32 });
    let bits = 0..=u16::MAX;
    let wanted: Vec<f32> = bits.clone().map(|h| half::f16::from_bits(h).to_f32()).collect();
    for on in runners(&kernel) {
        let table = bits.clone().flat_map(u16::to_le_bytes).collect();
        let launch = Launch::of(on, &kernel).bytes("table", table).ints("ids", &[0]).result("y", 1 << 16);
        let launch = launch.int("rows", 1).int("columns", 1 << 16).int("first", 0).int("vocabulary", 1);
        launch.run().same("y", &wanted);
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
    let kernel = Kernel::Embed(Embed { table: Table::Floats(Float::F32), y: Float::F32 });
    for on in runners(&kernel) {
        let part = |y, (first, rows): (usize, usize)| {
            let launch = Launch::of(on, &kernel).ints("ids", &ids).bytes("y", y);
            let launch = launch.floats("table", &table.floats()[first * h..][..rows * h]);
            let launch = launch.int("rows", ids.len()).int("columns", h);
            launch.int("first", first).int("vocabulary", rows).run()
        };
        let parts = [(0, 5), (5, 5), (10, 3)];
        // The first part leaves nothing unwritten.
        let y = part(vec![0xff; 4 * wanted.len()], parts[0]);
        assert!(y.floats("y").iter().all(|y| !y.is_nan()));
        let y = part(y.bytes("y"), parts[1]);
        part(y.bytes("y"), parts[2]).same("y", &wanted);
    }
}

/// What lies outside is 0, and no memory outside is read.
#[test]
fn indices_outside() {
    let kernel = Kernel::Embed(Embed { table: Table::Floats(Float::F32), y: Float::F32 });
    for on in runners(&kernel) {
        let launch = Launch::of(on, &kernel).ints("ids", &[-1, 1, 2]).floats("table", &[1.0, 2.0]);
        let launch = launch.result("y", 3).int("rows", 3).int("columns", 1);
        launch.int("first", 0).int("vocabulary", 2).run().same("y", &[0.0, 2.0, 0.0]);
    }
    for float in FLOATS {
        let kernel = Kernel::Rows(Rows::Take(float));
        for on in runners(&kernel) {
            let launch = Launch::of(on, &kernel).floats("x", &[1.0, 2.0]).ints("index", &[-1, 2, 1]);
            let launch = launch.result("y", 3).int("all", 3).int("taken", 3).int("rows", 2);
            launch.int("columns", 1).run().same("y", &[0.0, 0.0, 2.0]);
        }
        let kernel = Kernel::Rows(Rows::Splice { float, in_place: true });
        for on in runners(&kernel) {
            let launch = Launch::of(on, &kernel).floats("rows", &[1.0]).ints("index", &[-1, 0, 1]);
            let launch = launch.floats("y", &[7.0, 7.0, 7.0]).int("all", 3).int("given", 1);
            launch.int("columns", 1).run().same("y", &[7.0, 1.0, 0.0]);
        }
    }
}

/// Copies blocks: where they begin in `x`, where they go, how many there are.
struct Copy {
    on: &'static Runner,
    kernel: Kernel,
}

impl Copy {
    fn run(
        &self,
        x: &[f32],
        [blocks, length]: [usize; 2],
        from: [usize; 2],
        to: [usize; 2],
        y: &[f32],
    ) -> Vec<f32> {
        let launch = Launch::of(self.on, &self.kernel).floats("x", x).floats("y", y);
        let launch = launch.int("blocks", blocks).int("length", length);
        let launch = launch.int("x_stride", from[0]).int("x_first", from[1]);
        launch.int("y_stride", to[0]).int("y_first", to[1]).run().floats("y")
    }
}

#[test]
fn blocks() {
    let (b, s, n) = (2, 5, 300);
    let fresh = |elements: usize| vec![f32::NAN; elements];
    let text = format!(
        "graph @f(%0: f32[{b}, {s}, {n}], %1: f32[{b}, 3, {n}]) {{
          %2 = slice %0 {{start=7, len=20}} : f32[{b}, {s}, 20]
          %3 = drop_rows %0 {{count=2}} : f32[{b}, 3, {n}]
          %4 = concat %0, %1 {{axis=1}} : f32[{b}, 8, {n}]
          %5 = concat %3, %1 {{axis=2}} : f32[{b}, 3, 600]
          return %2, %3, %4, %5
        }}"
    );
    for float in FLOATS {
        let (x, z) = (tensor_of(float, &[b, s, n], 1), tensor_of(float, &[b, 3, n], 2));
        let wanted = interpret(&text, &[&x, &z]);
        let (x, z) = (x.floats(), z.floats());
        let kernel = Kernel::Rows(Rows::Copy(float));
        for on in runners(&kernel) {
            let copy = Copy { on, kernel: kernel.clone() };
            let slice = copy.run(x, [b * s, 20], [n, 7], [20, 0], &fresh(b * s * 20));
            assert_eq!(slice, wanted[0].floats());
            let dropped = copy.run(x, [b, 3 * n], [s * n, 2 * n], [3 * n, 0], &fresh(b * 3 * n));
            assert_eq!(dropped, wanted[1].floats());
            let joined = copy.run(x, [b, s * n], [s * n, 0], [8 * n, 0], &fresh(b * 8 * n));
            let joined = copy.run(z, [b, 3 * n], [3 * n, 0], [8 * n, 5 * n], &joined);
            assert_eq!(joined, wanted[2].floats());
            let joined = copy.run(&dropped, [b * 3, n], [n, 0], [600, 0], &fresh(b * 3 * 600));
            let joined = copy.run(z, [b * 3, n], [n, 0], [600, n], &joined);
            assert_eq!(joined, wanted[3].floats());
            assert_eq!(copy.run(x, [1, b * s * n], [0, 0], [0, 0], &fresh(b * s * n)), x);
        }
    }
}

#[test]
fn rows_by_index() {
    let (b, s, n) = (2, 4, 1030);
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
    for float in FLOATS {
        let (x, rows) = (tensor(&[b, s, n], 1), tensor(&[3, n], 2));
        let (x, rows) = (rounded(&x, float), rounded(&rows, float));
        let wanted = interpret(&text, &[&x, &index, &rows, &taken]);
        for in_place in [false, true] {
            let kernel = Kernel::Rows(Rows::Splice { float, in_place });
            for on in runners(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("index", &index).tensor("rows", &rows);
                let launch = launch.int("all", b * s).int("given", 3).int("columns", n);
                let launch = if in_place {
                    launch.tensor("y", &x)
                } else {
                    launch.tensor("x", &x).result("y", b * s * n)
                };
                launch.run().same("y", wanted[0].floats());
            }
        }
        let kernel = Kernel::Rows(Rows::Take(float));
        for on in runners(&kernel) {
            let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("index", &taken);
            let launch = launch.result("y", b * 3 * n).int("all", b * 3).int("taken", 3);
            launch.int("rows", s).int("columns", n).run().same("y", wanted[1].floats());
        }
        let kernel = Kernel::Rows(Rows::Shift(float));
        for on in runners(&kernel) {
            let launch = Launch::of(on, &kernel).tensor("x", &x).result("y", b * s * n);
            let y = launch.int("all", b * s).int("rows", s).int("columns", n).run();
            y.same("y", wanted[2].floats());
        }
    }
}
