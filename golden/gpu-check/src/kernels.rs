//! Each kernel against its oracle, the interpreter: the cases of `dreamc_golden::ops`.

use crate::device::dtypes;
use crate::fixtures::Make;
use crate::report::Checks;
use dreamc::compile::Bits;
use dreamc_golden::graph::{Emitted, weight};
use dreamc_golden::ops::{Case, ENTRY, cases};
use dreamc_interp::Tensor;
use dreamc_ir::Module;
use dreamc_num::DType;
use serde_json::{Map, Value};

/// Judges every kernel; or compiles it, where nothing shall run.
pub(crate) fn judge(section: &str, make: Make, checks: &mut Checks) {
    let has = |case: &Case| !case.fp8 || Bits::Fp8.fits(&make.place.target(DType::F32));
    for case in cases().into_iter().filter(has) {
        let dtypes = if case.exact { vec![DType::F32] } else { dtypes(make.place) };
        for dtype in dtypes {
            let name = if case.exact { case.name.clone() } else { format!("{}, {dtype}", case.name) };
            checks.check(section, &name, || {
                if !make.runs {
                    drop(Emitted::new(make.place, &case.module(dtype), ENTRY));
                    return Map::new();
                }
                let execute = |module: &Module, requests: &[Vec<Tensor>]| {
                    let emitted = Emitted::new(make.place, module, ENTRY);
                    emitted.run_on(make.place, module, ENTRY, requests, &weight)
                };
                let numbers = [("off", case.judge(dtype, &execute)), ("limit", case.limit(dtype))];
                numbers.into_iter().map(|(name, x)| (name.to_owned(), Value::from(f64::from(x)))).collect()
            });
        }
    }
}
