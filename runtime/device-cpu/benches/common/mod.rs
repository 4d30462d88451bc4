//! One dispatch on a device of its own, ready to be run again and again.

pub(crate) mod peak;

use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dim, Dispatch, Kernel, Place, Program, Step, Value, ValueId};
use dreamc_device_cpu::{CpuDevice, CpuOptions, WeightView};
use dreamc_num::DType;
use dreamc_num::stream::{Lane, StreamState, uniform};
use dreamc_runtime::{Device, Operand, Shape};

/// An operand; the last one given is the result.
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
    /// Given for a weight.
    pub(crate) layout: Option<Layout>,
}

/// A device and what it is to do.
pub(crate) struct Prepared<'a> {
    pub(crate) device: CpuDevice<'a>,
    dispatch: Dispatch,
    operands: Vec<Operand>,
}

impl Prepared<'_> {
    pub(crate) fn run(&mut self) {
        self.device.dispatch(0, &self.dispatch, &self.operands).expect("the dispatch fits");
    }
}

/// Reads and writes are in `tensors`, one result.
pub(crate) fn prepare(kernel: Kernel, tensors: &[Tensor], threads: usize) -> Prepared<'_> {
    let (mut values, mut operands, mut weights, mut arena_bytes) = (vec![], vec![], vec![], 0_u64);
    for tensor in tensors {
        let place = if let Some(layout) = tensor.layout {
            weights.push(WeightView { bytes: &tensor.bytes, layout, dtype: tensor.dtype });
            Place::Weight(weights.len() as u32 - 1)
        } else {
            let offset = arena_bytes;
            arena_bytes += (tensor.bytes.len() as u64).next_multiple_of(64);
            Place::Arena(offset)
        };
        let dims = tensor.dims.iter().map(|d| Dim::constant(*d)).collect();
        values.push(Value { dtype: tensor.dtype, dims, place });
        let shape = Shape::new(&tensor.dims).expect("few dimensions");
        operands.push(Operand { dtype: tensor.dtype, shape, place });
    }
    let result = tensors.len() as u32 - 1;
    let reads = (0..result).map(ValueId).collect();
    let dispatch =
        Dispatch { kernel, reads, writes: vec![ValueId(result)], origin: vec![], launches: vec![] };
    let program = Program {
        name: String::new(),
        symbols: vec![],
        values,
        inputs: vec![],
        outputs: vec![],
        steps: vec![Step::Dispatch(dispatch.clone())],
        arena_bytes,
    };
    let options = CpuOptions { threads, ..CpuOptions::default() };
    let mut device = CpuDevice::new(weights, options).expect("the best instruction set is there");
    device.prepare(&program).expect("memory");
    for (tensor, operand) in tensors.iter().zip(&operands) {
        if let Place::Arena(offset) = operand.place {
            device.write(offset, &tensor.bytes).expect("inside the arena");
        }
    }
    Prepared { device, dispatch, operands }
}

/// A tensor of numbers in -1..1.
pub(crate) fn random(dtype: DType, dims: &[u32], seed: u64, layout: Option<Layout>) -> Tensor {
    let state = StreamState { seed, first_row: 0, step: 0 };
    let elements: u64 = dims.iter().map(|d| u64::from(*d)).product();
    let wide: Vec<u64> = dims.iter().map(|d| u64::from(*d)).collect();
    let stored = layout.unwrap_or(Layout::RowMajor).stored_bytes(dtype, &wide).expect("it fits");
    // Values repeat after a while: their order does not matter here, making them would take longer than the bench.
    let table: Vec<f32> = (0..65_521).map(|i| 2.0 * uniform(state.bits(0, i, Lane::Token)) - 1.0).collect();
    let size = dtype.bytes();
    let bytes = (0..stored as usize / size)
        .flat_map(|i| table[i % table.len()].to_le_bytes()[4 - size..].to_vec())
        .collect();
    debug_assert!(elements * size as u64 <= stored);
    Tensor { dtype, dims: dims.to_vec(), bytes, layout }
}

/// A tensor of these bytes.
pub(crate) fn bytes(dtype: DType, dims: &[u32], bytes: Vec<u8>) -> Tensor {
    Tensor { dtype, dims: dims.to_vec(), bytes, layout: None }
}
