//! Two programs, their code and their weights.

use super::Target;
use dreamc_artifact::code::{Buffer, Code, Extent, Image, Module, ScalarType, Word};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::*;
use dreamc_artifact::{WeightInfo, validate};
use dreamc_device_gpu::WeightView;
use dreamc_num::DType;
use std::sync::OnceLock;

/// Columns of the rows that the programs work on.
pub(crate) const COLUMNS: usize = 128;
/// Most rows.
pub(crate) const ROWS_MAX: u32 = 16;
/// Elements of the weight that is copied in pieces.
pub(crate) const LARGE: usize = (9 << 20) / 4 + 1;

const ONE: Extent = Extent::Constant(1);

/// A stored weight, row by row.
pub(crate) fn view(bytes: &[u8]) -> WeightView<'_> {
    WeightView { bytes, layout: Layout::RowMajor, dtype: DType::F32 }
}

fn module<T: Target>(name: &str, buffers: &[bool], scalars: &[ScalarType], info: &[Word]) -> Module {
    let image = format!("binary {name} {} {}\0", buffers.len(), info.len());
    Module {
        name: name.to_owned(),
        images: vec![Image { form: T::BINARY.0, arch: T::BINARY.1.to_owned(), bytes: image.into_bytes() }],
        workgroup: [32, 1, 1],
        shared_bytes: 0,
        buffers: buffers.iter().map(|written| Buffer { element_bytes: 4, written: *written }).collect(),
        scalars: scalars.to_vec(),
        grid: [ONE; 3],
        info: info.to_vec(),
    }
}

/// The same modules, for another processor.
pub(crate) fn built_for(code: &mut Code, arch: &str) {
    let images = code.modules.iter_mut().flat_map(|module| &mut module.images);
    images.for_each(|image| image.arch = arch.to_owned());
}

/// The modules: scales by a part of the gains, writes the loop's index, adds, copies.
pub(crate) fn code<T: Target>() -> Code {
    use ScalarType::{F32, U32};
    use Word::{Length, Scalar, Zero};
    let info = [Scalar(0), Scalar(1), Length(0), Length(1), Length(2), Zero];
    let mut scale = module::<T>("f32_scale", &[false, false, true], &[U32, U32], &info);
    scale.grid = [ONE, Extent::Ceil { of: 0, per: 4, any: false }, ONE];
    let mut index = module::<T>("f32_index", &[false, true], &[], &[Length(0), Length(1)]);
    index.workgroup = [4, 1, 1];
    let info = [Scalar(0), Scalar(1), Length(0), Length(1)];
    let mut add = module::<T>("f32_add_inplace", &[true, false], &[U32, F32], &info);
    add.grid = [Extent::Ceil { of: 0, per: 64, any: true }, ONE, ONE];
    (add.workgroup, add.shared_bytes) = ([64, 1, 1], 60_000);
    let copy = module::<T>("f32_copy", &[false, true], &[U32], &[Scalar(0), Length(0), Length(1)]);
    Code { modules: vec![scale, index, add, copy] }
}

/// Gains, and a large tensor: shapes and bytes.
pub(crate) fn weights() -> &'static [(Vec<u64>, Vec<u8>)] {
    static WEIGHTS: OnceLock<Vec<(Vec<u64>, Vec<u8>)>> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        let bytes = |n: usize, of: fn(usize) -> f32| (0..n).flat_map(|i| of(i).to_le_bytes()).collect();
        vec![
            (vec![COLUMNS as u64], bytes(COLUMNS, |i| i as f32 * 0.5)),
            (vec![LARGE as u64], bytes(LARGE, |i| (i % 1_000_003) as f32)),
        ]
    })
}

/// The weights as a device takes them.
pub(crate) fn views() -> Vec<WeightView<'static>> {
    weights().iter().map(|(_, bytes)| view(bytes)).collect()
}

/// The gain of a column.
pub(crate) fn gain(column: usize) -> f32 {
    column as f32 * 0.5
}

fn rows(coefficient: u32) -> Dim {
    Dim { terms: vec![Term { coefficient, symbols: vec![0] }] }
}

fn value(dims: &[Dim], place: Place) -> Value {
    Value { dtype: DType::F32, dims: dims.to_vec(), place }
}

fn launch(module: u32, buffers: &[(u32, Option<(u64, u64)>)], scalars: Vec<Scalar>) -> Launch {
    let buffers =
        buffers.iter().map(|(value, part)| Binding { value: ValueId(*value), part: *part }).collect();
    Launch { module, buffers, scalars, variant: None, candidate: None }
}

fn dispatch(kernel: Kernel, reads: &[u32], writes: &[u32], launches: Vec<Launch>) -> Step {
    let ids = |ids: &[u32]| ids.iter().map(|id| ValueId(*id)).collect();
    let origin = vec!["model.norm".to_owned()];
    Step::Dispatch(Dispatch { kernel, reads: ids(reads), writes: ids(writes), origin, launches })
}

fn program(
    name: &str,
    values: Vec<Value>,
    ports: [&[(&str, u32)]; 2],
    steps: Vec<Step>,
    bytes: u64,
) -> Program {
    let ports = ports.map(|ports| {
        let port = |(name, value): &(&str, u32)| Port { name: (*name).to_owned(), value: ValueId(*value) };
        ports.iter().map(port).collect()
    });
    let [inputs, outputs] = ports;
    let symbols = vec![Symbol { name: "S".to_owned(), max: ROWS_MAX }];
    Program { name: name.to_owned(), symbols, values, inputs, outputs, steps, arena_bytes: bytes }
}

/// `y = x * gain`, then three times `y += x`, with what the loop's index was. In the arena: `x` at 0, `y` at 8192, the
/// index at 16384, as a number at 16640, all of them at 16896.
fn looped() -> Program {
    let n = Dim::constant;
    let wide = [rows(1), n(COLUMNS as u32)];
    let mut index = value(&[], Place::Arena(16_384));
    index.dtype = DType::I32;
    let values = vec![
        value(&wide, Place::Arena(0)),
        value(&[n(COLUMNS as u32)], Place::Weight(0)),
        value(&wide, Place::Arena(8192)),
        index,
        value(&[n(4)], Place::Arena(16_640)),
        value(&[n(3), n(4)], Place::Arena(16_896)),
    ];
    let part = |first: u32| {
        let scalars = vec![Scalar::Count(rows(1)), Scalar::Count(n(first))];
        launch(0, &[(0, None), (1, Some((u64::from(first) * 4, 256))), (2, None)], scalars)
    };
    // The first part begins at column 0, and no count is 0: a dimension without terms is.
    let mut first = part(0);
    first.scalars[1] = Scalar::Count(Dim { terms: vec![] });
    let scale = dispatch(Kernel::RmsNorm { eps: 0.0 }, &[0, 1], &[2], vec![first, part(64)]);
    let times = vec![0.0, 0.5, 1.0];
    let index = launch(1, &[(3, None), (4, None)], vec![]);
    let scalars = vec![Scalar::Count(rows(COLUMNS as u32)), Scalar::Float(1.5)];
    let add = launch(2, &[(2, None), (0, None)], scalars);
    let body = vec![
        dispatch(Kernel::TimestepEmbed { times }, &[3], &[4], vec![index]),
        dispatch(Kernel::Add, &[2, 0], &[2], vec![add]),
    ];
    let history = Some((ValueId(4), ValueId(5)));
    let steps =
        vec![scale, Step::Denoise(Denoise { steps: 3, index: ValueId(3), body, history, slots: None })];
    program("looped", values, [&[("x", 0)], &[("y", 2), ("history", 5)]], steps, 16_944)
}

/// A loop of three steps over a canvas of `S` positions, whose dispatch has a row for each of `K` open slots. In the arena:
/// the canvas at 0, the index at 256, the history at 512, the rows at 1024, what is added at 8192, `joint` at 16384.
pub(crate) fn slotted() -> Program {
    let n = Dim::constant;
    let of = |symbol| Dim { terms: vec![Term { coefficient: 1, symbols: vec![symbol] }] };
    let int = |dims: &[Dim], at| Value { dtype: DType::I32, ..value(dims, Place::Arena(at)) };
    let values = vec![
        int(&[n(1), of(0)], 0),
        int(&[], 256),
        int(&[n(3), n(1), of(0)], 512),
        value(&[of(1), n(COLUMNS as u32)], Place::Arena(1024)),
        value(&[n(8), n(COLUMNS as u32)], Place::Arena(8192)),
        int(&[], 16_384),
    ];
    let count = Dim { terms: vec![Term { coefficient: COLUMNS as u32, symbols: vec![1] }] };
    let add = launch(2, &[(3, None), (4, None)], vec![Scalar::Count(count), Scalar::Float(1.5)]);
    let body = vec![dispatch(Kernel::Copy, &[4], &[3], vec![add])];
    let slots = Slots { symbol: 1, token: 7, eps: 1e-3, joint: ValueId(5), idle: None };
    let denoise = Denoise {
        steps: 3,
        index: ValueId(1),
        body,
        history: Some((ValueId(0), ValueId(2))),
        slots: Some(slots),
    };
    let ports: [&[(&str, u32)]; 2] = [&[("canvas", 0), ("joint", 5)], &[("history", 2)]];
    let mut program = program("slotted", values, ports, vec![Step::Denoise(denoise)], 16_640);
    program.symbols.push(Symbol { name: "K".to_owned(), max: 8 });
    program
}

/// Copies the large weight into the arena.
fn copying() -> Program {
    let large = [Dim::constant(LARGE as u32)];
    let values = vec![value(&large, Place::Weight(1)), value(&large, Place::Arena(0))];
    let scalars = vec![Scalar::Count(Dim::constant(LARGE as u32))];
    let steps = vec![dispatch(Kernel::Copy, &[0], &[1], vec![launch(3, &[(0, None), (1, None)], scalars)])];
    program("copying", values, [&[], &[("copy", 1)]], steps, LARGE as u64 * 4)
}

/// `copying` and `looped`, validated as the loader does.
pub(crate) fn plan<T: Target>() -> Plan {
    let plan = Plan { programs: vec![copying(), looped()] };
    let info = |(dims, bytes): &(Vec<u64>, Vec<u8>)| WeightInfo {
        name: format!("weight of {}", bytes.len()),
        dtype: DType::F32,
        dims: dims.clone(),
        layout: Layout::RowMajor,
        offset: 0,
        bytes: bytes.len() as u64,
        hash: [0; 32],
    };
    let table: Vec<WeightInfo> = weights().iter().map(info).collect();
    validate(&plan, &code::<T>(), &table).unwrap();
    plan
}
