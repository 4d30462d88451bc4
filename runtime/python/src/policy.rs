//! Robot actions.

use crate::arrays;
use crate::failure::Failure;
use crate::info::PolicyInfo;
use crate::open::{Shared, options};
use dream::{ActOptions, Observation};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;

/// An artifact that acts.
#[pyclass(frozen, module = "dream")]
pub(crate) struct Policy {
    opened: Shared<dream::Policy>,
    /// What it takes and gives.
    #[pyo3(get)]
    info: Py<PolicyInfo>,
}

/// A chunk of actions.
#[pyclass(frozen, get_all, module = "dream")]
pub(crate) struct Actions {
    /// What the robot is to do, in its own units: float64 `[chunk, action_dim]`.
    actions: Py<PyArray2<f64>>,
    /// The same as the model gives them, about -1 to 1.
    normalized: Py<PyArray2<f64>>,
    /// The tokens that say so, int32 `[chunk * action_dim]`, in the discrete modes.
    token_ids: Option<Py<PyArray1<i32>>>,
    /// How many of the tokens are no action tokens. They were read as the nearest.
    outside: usize,
    /// Passes through the decoder.
    forwards: u32,
}

impl Policy {
    pub(crate) fn of(py: Python<'_>, policy: dream::Policy) -> PyResult<Policy> {
        let info = Py::new(py, PolicyInfo::of(&policy))?;
        Ok(Policy { opened: Shared::new(policy), info })
    }
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (path, *, device="auto", threads=0, pin=Vec::new(), lock_weights=false, warm=None))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        device: &str,
        threads: usize,
        pin: Vec<usize>,
        lock_weights: bool,
        warm: Option<Vec<u32>>,
    ) -> PyResult<Policy> {
        let options = options(device, threads, pin, lock_weights, warm)?;
        let opened = crate::failure::without_gil(py, || Ok(dream::Policy::open(&path, &options)?))?;
        Policy::of(py, opened)
    }

    /// A chunk of actions for what the robot sees.
    #[pyo3(signature = (images, task, proprio=None, *, seed=0, noise=None, out=None))]
    #[expect(clippy::too_many_arguments, reason = "as Python's callers name them")]
    fn act<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        task: &str,
        proprio: Option<&Bound<'py, PyAny>>,
        seed: u64,
        noise: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Actions> {
        let shape @ [_, columns] = self.info.get().shape();
        let seen = arrays::images(images)?;
        let proprio = proprio.map(|given| arrays::vector("proprio", given)).transpose()?;
        let noise = noise.map(|given| arrays::matrix("noise", given, shape)).transpose()?;
        let out = out.map(|given| arrays::out(given, shape)).transpose()?;
        let mut options = ActOptions { noise, ..ActOptions::default() };
        options.sampling.seed = seed;
        let images = seen.images.as_slice();
        let made = self.opened.with(py, |policy| {
            let observation = Observation { images, task, proprio: proprio.as_deref() };
            Ok(policy.act(&observation, &options)?)
        })?;
        let array = |rows: &[Vec<f64>]| {
            let all: Vec<f64> = rows.concat();
            let array = PyArray1::from_vec(py, all).reshape([rows.len(), columns])?;
            Ok::<_, Failure>(array)
        };
        let actions = match out {
            Some(out) => {
                let mut room =
                    out.try_readwrite().map_err(|error| Failure::argument(format!("out: {error}")))?;
                let to = room.as_slice_mut().map_err(|error| Failure::argument(format!("out: {error}")))?;
                to.iter_mut().zip(made.actions.iter().flatten()).for_each(|(to, action)| *to = *action);
                out
            }
            None => array(&made.actions)?,
        };
        Ok(Actions {
            actions: actions.unbind(),
            normalized: array(&made.normalized)?.unbind(),
            token_ids: made.token_ids.map(|ids| PyArray1::from_vec(py, ids).unbind()),
            outside: made.outside,
            forwards: made.forwards,
        })
    }

    /// Frees what it has.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        Ok(self.opened.close(py)?)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Policy({})", self.info.bind(py).repr()?))
    }
}

#[pymethods]
impl Actions {
    fn __len__(&self, py: Python<'_>) -> usize {
        numpy::PyUntypedArrayMethods::shape(self.actions.bind(py))[0]
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let shape = numpy::PyUntypedArrayMethods::shape(self.actions.bind(py)).to_vec();
        format!("Actions({} of {}, {} forwards)", shape[0], shape[1], self.forwards)
    }
}
