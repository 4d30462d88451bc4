//! Codes of fp8 are refused, whoever asks: there are no kernels for them here.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{Tensor, bench, case, random};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Kernel, Linear};
use dreamc_device_cpu::Isa;
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};
use dreamc_runtime::DeviceError;

#[test]
fn weights_and_rows_in_fp8() {
    let stored = |layout: Layout| {
        let bytes = layout.stored_bytes(DType::F32, &[5, 16]).unwrap();
        Tensor { dtype: DType::F32, dims: vec![5, 16], bytes: vec![0; bytes as usize], layout: Some(layout) }
    };
    let (fp8, int8) = (Layout::Quantized(Quant::Fp8), Layout::Quantized(Quant::Int8));
    for (layout, codes) in
        [(fp8, Some(Codes::Fp8)), (fp8, Some(Codes::Int8)), (fp8, None), (int8, Some(Codes::Fp8))]
    {
        let linear = Linear {
            norm_eps: None,
            weights: 1,
            bias: false,
            residual: false,
            swiglu: false,
            smooth: false,
            codes,
            activation: None,
        };
        let reads = [random(DType::F32, &[1, 3, 16], 1), stored(layout)];
        let case = case(Kernel::Linear(linear), &reads, DType::F32, &[1, 3, 5], 0.0);
        let error = bench(&case, Isa::detect(), 1, None).run().unwrap_err();
        assert!(matches!(error, DeviceError::Unsupported { .. }), "{layout:?} {codes:?}: {error}");
    }
}
