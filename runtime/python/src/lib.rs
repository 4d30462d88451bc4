//! The runtime for Python, module `dream`. It holds no compiler.
//!
//! Everything that can be said in Python is in `python/dream`: names, errors, types for checkers. Here is what has to be
//! native: opened models, calls without the GIL, pixels that are borrowed.

mod arrays;
mod failure;
mod info;
mod model;
mod open;
mod policy;
mod serve;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _dream {
    #[pymodule_export]
    use crate::info::{ModelInfo, PolicyInfo};
    #[pymodule_export]
    use crate::model::{Generated, Model};
    #[pymodule_export]
    use crate::open::load;
    #[pymodule_export]
    use crate::policy::{Actions, Policy};
    #[pymodule_export]
    use crate::serve::serve;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
