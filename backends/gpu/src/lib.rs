//! Lowers verified graphs for devices that run emitted kernels: what CUDA, ROCm, Metal and WebGPU have in common.
//!
//! ```text
//! Verified graph ──lower──► dispatches, as on every target ──launches──► modules and what they are given
//! ```
//!
//! What these targets cannot do: matmuls whose weights are computed or stored in few bits other than fp8, fp8 where matrix units
//! have none, tensors of more than 2^32 elements, and attention
//! whose heads have more than 256 dimensions. What a target lacks is replaced: conditions are words, and
//! where it has no bf16 or f16 the values in between are f32 and the weights are unpacked as they are read.

mod attention;
mod fp8;
mod handed;
mod launcher;
mod linear;
mod modules;
mod open;
mod rows;
mod sampler;
mod size;
mod weighted;

pub use modules::{Candidates, Modules};

use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Activation, Kernel, Launch, Program, Scalar};
use dreamc_backend::{Constants, EmitError, Job, Target, in_place, is_matrix, kernel, lower};
use dreamc_ir::{Graph, Literal, NodeData, Op, Type, Verified};
use dreamc_kernels::{self as kernels, Elementwise, Float, Map, Norm, RopeTable, Statistic, TimestepEmbed};
use dreamc_num::{DType, Quant, frequency};
use handed::Handed;
use launcher::Launcher;

/// The program of graph `entry`, named `name`. What it stores is added to `constants`, what it launches to `modules`.
///
/// # Errors
///
/// Names the op that the target cannot run, or the symbol or tensor that memory cannot be planned for.
pub fn emit(
    verified: Verified<'_>,
    entry: &str,
    name: &str,
    constants: &mut Constants,
    modules: &mut Modules,
) -> Result<Program, EmitError> {
    lower(verified, entry, name, &mut Gpu { modules, handed: Handed::default() }, constants)
}

struct Gpu<'a> {
    modules: &'a mut Modules,
    handed: Handed,
}

impl Gpu<'_> {
    /// Whether the target computes with this type.
    fn has(&self, dtype: DType) -> bool {
        let capabilities = self.modules.target().capabilities();
        match dtype {
            DType::F32 | DType::I32 | DType::U32 => true,
            DType::F16 => capabilities.f16,
            DType::BF16 => capabilities.bf16,
            DType::Bool => false,
        }
    }
}

impl Target for Gpu<'_> {
    fn name(&self) -> &str {
        self.modules.target().name()
    }

    fn kernel(&self, _graph: &Graph, node: &NodeData) -> Result<Kernel, String> {
        kernel(&node.op)
    }

    fn in_place(&self, node: &NodeData) -> Vec<usize> {
        match node.op {
            // The kernel takes the place of its first operand only, and the two differ.
            Op::SwiGlu => vec![0],
            _ => in_place(node),
        }
    }

    fn layout(&self, _node: &NodeData, _operand: usize, _ty: &Type) -> Option<Layout> {
        Some(Layout::RowMajor)
    }

    fn quantized(&self, quant: Quant, matrix: bool) -> Result<(), String> {
        match quant {
            Quant::Fp8 if !self.modules.target().capabilities().multiplies_fp8() => {
                Err("it multiplies no fp8 in OCP's e4m3; build this target with --quant none".to_owned())
            }
            Quant::Fp8 if !matrix => Err("only matmuls take weights in fp8".to_owned()),
            Quant::Fp8 => Ok(()),
            Quant::Int8 | Quant::Int4 { .. } => {
                Err("it has no kernels for weights in few integers; build this target with --quant none"
                    .to_owned())
            }
        }
    }

    fn stored(&self, dtype: DType) -> DType {
        match dtype {
            _ if self.has(dtype) => dtype,
            DType::Bool => DType::U32,
            DType::F32 | DType::F16 | DType::BF16 | DType::I32 | DType::U32 => DType::F32,
        }
    }

    fn stored_constant(&self, node: &NodeData, operand: usize, ty: &Type) -> DType {
        let matrix = is_matrix(&node.op, operand) || node.op == Op::Embed && operand == 1;
        if matrix { ty.dtype } else { self.stored(ty.dtype) }
    }

    fn launches(&mut self, job: &mut Job<'_, '_>) -> Result<Vec<Launch>, String> {
        let mut launcher = Launcher::new(self.modules, &mut self.handed, job);
        launches(&mut launcher)?;
        Ok(launcher.finish())
    }
}

/// The launches of one dispatch, by family.
fn launches(l: &mut Launcher<'_, '_, '_>) -> Result<(), String> {
    match l.kernel().clone() {
        Kernel::Copy => l.copy_all(l.read(0), l.write(0)),
        Kernel::RopeTable { theta, sections, axial } => rope_table(l, theta, &sections, axial),
        Kernel::RmsNorm { eps } => norm(l, Statistic::RootMeanSquare, eps),
        Kernel::LayerNorm { eps } => norm(l, Statistic::Variance, eps),
        Kernel::Linear(linear) => linear::launches(l, &linear),
        Kernel::Rope { head_dim } => attention::rope(l, head_dim),
        Kernel::Attention(a) => attention::launches(l, &a),
        Kernel::Add => elementwise(l, Map::Add),
        Kernel::Mul => elementwise(l, Map::Mul),
        Kernel::SwiGlu => elementwise(l, Map::SwiGlu),
        Kernel::Activate(activation) => elementwise(
            l,
            match activation {
                Activation::Silu => Map::Silu,
                Activation::Gelu => Map::Gelu,
                Activation::QuickGelu => Map::QuickGelu,
                Activation::Relu => Map::Relu,
            },
        ),
        Kernel::TimestepEmbed { times } => timestep_embed(l, times),
        Kernel::EulerStep { dt } => loop_step(l, Map::Euler, &[("dt", Scalar::Float(dt))], vec![]),
        Kernel::DdimStep { alphas } => {
            let alphas = l.constant(Literal::Floats(alphas))?;
            loop_step(l, Map::Ddim, &[], vec![("alphas", alphas.into()), ("index", l.read(2).into())])
        }
        Kernel::Embed
        | Kernel::Slice { .. }
        | Kernel::Concat { .. }
        | Kernel::DropRows { .. }
        | Kernel::TakeRows
        | Kernel::Splice
        | Kernel::ShiftRows => rows::launches(l),
        Kernel::IsToken { .. }
        | Kernel::EosPenalty { .. }
        | Kernel::KeepTokens { .. }
        | Kernel::SamplingProbs
        | Kernel::RandomBits { .. }
        | Kernel::DrawToken { .. }
        | Kernel::Confidence(_)
        | Kernel::TransferCount { .. }
        | Kernel::SelectSlots
        | Kernel::OriginSlots { .. }
        | Kernel::Commit
        | Kernel::AdvanceStream => sampler::launches(l),
        Kernel::OpenSlots { .. }
        | Kernel::ReadRows { .. }
        | Kernel::SlotBits { .. }
        | Kernel::TakeSlots
        | Kernel::CommitSlots => open::launches(l),
    }
}

/// Sums, products and activations, over either operand where the plan says so.
fn elementwise(l: &mut Launcher<'_, '_, '_>, map: Map) -> Result<(), String> {
    let y = l.write(0);
    let float = l.float(y)?;
    let over = (0..l.read_count()).find(|read| l.in_place(*read));
    let mut buffers = vec![("y", y.into())];
    match over {
        // What is kept is the other one.
        Some(kept) if l.read_count() == 2 => buffers.push(("b", l.read(1 - kept).into())),
        Some(_) => {}
        None => {
            buffers.extend(["a", "b"].into_iter().zip(0..l.read_count()).map(|(b, i)| (b, l.read(i).into())))
        }
    }
    let kernel = Elementwise { map, float, in_place: over.is_some() };
    let elements = l.elements(y)?;
    l.launch(kernels::Kernel::Elementwise(kernel), &buffers, &[("elements", elements)])
}

/// A step of an action loop: over `x` or apart.
fn loop_step(
    l: &mut Launcher<'_, '_, '_>,
    map: Map,
    scalars: &[(&'static str, Scalar)],
    mut buffers: Vec<(&'static str, launcher::Bound)>,
) -> Result<(), String> {
    let y = l.write(0);
    let in_place = l.in_place(0);
    if !in_place {
        buffers.push(("a", l.read(0).into()));
    }
    buffers.extend([("b", l.read(1).into()), ("y", y.into())]);
    let kernel = Elementwise { map, float: l.float(y)?, in_place };
    let mut all = vec![("elements", l.elements(y)?)];
    all.extend_from_slice(scalars);
    l.launch(kernels::Kernel::Elementwise(kernel), &buffers, &all)
}

fn norm(l: &mut Launcher<'_, '_, '_>, statistic: Statistic, eps: f32) -> Result<(), String> {
    let (x, y) = (l.read(0), l.write(0));
    let kernel = Norm { statistic, x: l.float(x)?, y: l.float(y)? };
    let mut buffers = vec![("x", x.into()), ("gain", l.read(1).into()), ("y", y.into())];
    if statistic == Statistic::Variance {
        buffers.push(("bias", l.read(2).into()));
    }
    let scalars = [("rows", l.rows(x)?), ("columns", l.columns(x)?), ("eps", Scalar::Float(eps))];
    l.launch(kernels::Kernel::Norm(kernel), &buffers, &scalars)
}

fn rope_table(l: &mut Launcher<'_, '_, '_>, theta: f32, sections: &[u32], axial: bool) -> Result<(), String> {
    let total: u32 = sections.iter().sum();
    let (mut frequencies, mut planes) = (Vec::new(), Vec::new());
    for (plane, length) in (0..).zip(sections) {
        for j in 0..*length {
            let (j, n) = if axial { (j, *length) } else { (frequencies.len() as u32, total) };
            frequencies.push(frequency::rope(theta, j, n));
            planes.push(plane);
        }
    }
    let (cos, sin) = (l.write(0), l.write(1));
    let buffers = [
        ("positions", l.read(0).into()),
        ("frequencies", l.constant(Literal::Floats(frequencies))?.into()),
        ("planes", l.constant(Literal::Ints(planes))?.into()),
        ("cos", cos.into()),
        ("sin", sin.into()),
    ];
    let scalars = [("rows", l.rows(cos)?), ("columns", l.columns(cos)?)];
    l.launch(kernels::Kernel::RopeTable(RopeTable), &buffers, &scalars)
}

fn timestep_embed(l: &mut Launcher<'_, '_, '_>, times: Vec<f32>) -> Result<(), String> {
    let y = l.write(0);
    let half = l.constant_columns(y)? / 2;
    let steps = launcher::count(times.len() as u32);
    let frequencies = (0..half).map(|k| frequency::timestep(k, half)).collect();
    let buffers = [
        ("index", l.read(0).into()),
        ("times", l.constant(Literal::Floats(times))?.into()),
        ("frequencies", l.constant(Literal::Floats(frequencies))?.into()),
        ("y", y.into()),
    ];
    let scalars = [("rows", l.rows(y)?), ("steps", steps), ("half", launcher::count(half))];
    l.launch(kernels::Kernel::TimestepEmbed(TimestepEmbed), &buffers, &scalars)
}

/// The kernels' word for an element type, if it is a float.
fn float(dtype: DType) -> Option<Float> {
    match dtype {
        DType::F32 => Some(Float::F32),
        DType::F16 => Some(Float::F16),
        DType::BF16 => Some(Float::BF16),
        DType::I32 | DType::U32 | DType::Bool => None,
    }
}
