//! What programs take on a GPU that is not at hand, by the model of `dreamc_kernels`: estimates, launch by launch.

use dreamc_artifact::code::{Code, Module};
use dreamc_artifact::plan::{Dispatch, Launch, Program, Scalar, Step};
use dreamc_kernels::model::{Estimate, Gpu, Launched};
use dreamc_runtime::{Active, Launches};

/// Module paths of the vision tower begin so.
const VISUAL: &str = "visual";

/// Kernels that read some rows of a table, or write some numbers of many, or have nothing to do at temperature 0: how often
/// their results count, and nothing else.
const SPARSE: [(&str, u64); 5] = [
    ("_embed_", 2),
    ("_take_rows_", 2),
    ("_eos_penalty_", 0),
    ("_sampling_probs_bisected_behind_greedy", 0),
    ("_behind_greedy", 1),
];

/// What a request is like. It is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Lengths, one for each symbol of the program. Open slots stay as many in every step.
    pub symbols: &'a [u32],
    /// Images, none of which sees another.
    pub images: u32,
}

/// A launch of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimated {
    /// Its module.
    pub module: u32,
    /// Module path of what it computes, in the checkpoint; empty where there is none.
    pub origin: String,
    /// How often it is made: once, or in every step of a loop.
    pub times: u64,
    /// What one takes.
    pub estimate: Estimate,
}

/// Every launch of a program. None where plan and code are not those of one artifact, or a launch has no place in a grid.
pub fn launches(program: &Program, code: &Code, gpu: &Gpu, request: Request<'_>) -> Option<Vec<Estimated>> {
    let module = |i: u32| code.modules.get(i as usize);
    let mut launches = Launches::new(program, module, 1).ok()?;
    launches.resize(request.symbols, module, |_| [u32::MAX; 3]).ok()?;
    let mut times = Vec::new();
    for step in &program.steps {
        match step {
            Step::Dispatch(_) => times.push(1),
            Step::Denoise(denoise) => times.extend(denoise.body.iter().map(|_| u64::from(denoise.steps))),
        }
    }
    let mut list = Vec::new();
    for ((number, dispatch), times) in (0..).zip(program.dispatches()).zip(times) {
        for active in launches.of(number, dispatch).ok()? {
            let estimate = gpu.estimate(&launched(program, code, dispatch, &active, request)?);
            let origin = dispatch.origin.first().cloned().unwrap_or_default();
            list.push(Estimated { module: active.module, origin, times, estimate });
        }
    }
    Some(list)
}

fn launched<'c>(
    program: &Program,
    code: &'c Code,
    dispatch: &Dispatch,
    active: &Active<'_>,
    request: Request<'_>,
) -> Option<Launched<'c>> {
    let module = code.modules.get(active.module as usize)?;
    let visual = dispatch.origin.iter().any(|path| path.starts_with(VISUAL));
    Some(Launched {
        name: &module.name,
        grid: active.grid,
        units: module.workgroup.iter().product(),
        shared_bytes: module.shared_bytes,
        bytes: bytes(program, module, dispatch, active.launch, request.symbols)?,
        rows: scalar(active.launch, 0, request.symbols),
        positions: scalar(active.launch, 1, request.symbols),
        segments: if visual { request.images } else { 1 },
    })
}

/// Of everything that is bound, once. What lives for a dispatch alone stays in L2.
fn bytes(
    program: &Program,
    module: &Module,
    dispatch: &Dispatch,
    launch: &Launch,
    symbols: &[u32],
) -> Option<u64> {
    let sparse = SPARSE.iter().find(|(of, _)| module.name.contains(of)).map(|(_, times)| *times);
    launch.buffers.iter().zip(&module.buffers).try_fold(0_u64, |sum, (binding, buffer)| {
        let times = sparse.map_or(1, |times| if buffer.written { times } else { 0 });
        let value = program.values.get(binding.value.0 as usize)?;
        if value.place.weight().is_none()
            && !dispatch.reads.iter().chain(&dispatch.writes).any(|id| *id == binding.value)
        {
            return Some(sum);
        }
        let elements =
            value.dims.iter().try_fold(1_u64, |n, dim| n.checked_mul(u64::from(dim.at(symbols)?)))?;
        let all = elements.checked_mul(value.dtype.bytes() as u64)?;
        sum.checked_add(binding.part.map_or(all, |(_, part)| part.min(all)).checked_mul(times)?)
    })
}

/// 0 for what is no length.
fn scalar(launch: &Launch, i: usize, symbols: &[u32]) -> u32 {
    match launch.scalars.get(i) {
        Some(Scalar::Count(dim)) => dim.at(symbols).unwrap_or(0),
        Some(Scalar::Part { of, first, most }) => {
            of.at(symbols).unwrap_or(0).saturating_sub(*first).min(*most)
        }
        Some(Scalar::Float(_)) | None => 0,
    }
}
