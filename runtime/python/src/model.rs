//! Text.

use crate::arrays;
use crate::failure::Failure;
use crate::info::ModelInfo;
use crate::open::{Shared, options};
use dream::chat::{Message, render};
use dream::{Generate, Sampling, Visual};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;

/// An artifact that generates text.
#[pyclass(frozen, module = "dream")]
pub(crate) struct Model {
    opened: Shared<dream::Model>,
    /// What it takes and gives.
    #[pyo3(get)]
    info: Py<ModelInfo>,
}

/// What was generated.
#[pyclass(frozen, get_all, module = "dream")]
pub(crate) struct Generated {
    /// The answer, without special tokens, up to the first end of text.
    text: String,
    /// The new tokens, int32.
    token_ids: Py<PyArray1<i32>>,
    /// Steps of the schedule.
    steps: u32,
    /// Passes through the model that were really run.
    forwards: u32,
}

impl Model {
    pub(crate) fn of(py: Python<'_>, model: dream::Model) -> PyResult<Model> {
        let info = Py::new(py, ModelInfo::of(&model))?;
        Ok(Model { opened: Shared::new(model), info })
    }
}

#[pymethods]
impl Model {
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
    ) -> PyResult<Model> {
        let options = options(device, threads, pin, lock_weights, warm)?;
        let opened = crate::failure::without_gil(py, || Ok(dream::Model::open(&path, &options)?))?;
        Model::of(py, opened)
    }

    /// Text for a prompt.
    #[pyo3(signature = (
        prompt, images=None, *, seed=0, temperature=0.0, top_p=None, top_k=None, alg_temp=None, eos_penalty=0.0,
        raw=false, on_step=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "as Python's callers name them")]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: &str,
        images: Option<&Bound<'py, PyAny>>,
        seed: u64,
        temperature: f32,
        top_p: Option<f32>,
        top_k: Option<u32>,
        alg_temp: Option<f32>,
        eos_penalty: f32,
        raw: bool,
        on_step: Option<Py<PyAny>>,
    ) -> PyResult<Generated> {
        let seen = images.map(arrays::images).transpose()?;
        let visuals: Vec<Visual> =
            seen.iter().flat_map(|seen| seen.images.iter().cloned().map(Visual::Image)).collect();
        let sampling =
            Sampling { seed, temperature, top_p, top_k, alg_temp, eos_penalty, ..Sampling::default() };
        let (text, generated) = self.opened.with(py, |model| {
            let rendered = render(&[Message::about_images(visuals.len(), prompt)], true);
            let ids = model.encode_with(if raw { prompt } else { &rendered }, &visuals)?;
            let first = ids.len();
            let request = Generate { prompt: vec![ids], visuals, sampling, ..Generate::default() };
            let made = match &on_step {
                // Nobody watches, so a device may replay what it recorded.
                None => model.generate_with(&request, &mut ())?,
                Some(on_step) => {
                    let mut raised = None;
                    let made = model.generate_steps(&request, &mut |step| {
                        let canvas = step.canvas.get(first..).unwrap_or_default();
                        let went_on = told(on_step, (step.done, step.steps), canvas);
                        went_on.unwrap_or_else(|error| {
                            raised = Some(error);
                            false
                        })
                    });
                    if let Some(error) = raised {
                        return Err(Failure::Raised(error));
                    }
                    made?
                }
            };
            Ok((model.answers(&made)?.swap_remove(0), made))
        })?;
        let row = &generated.sequences[0];
        let new = row[row.len().saturating_sub(generated.new_tokens)..].to_vec();
        let token_ids = PyArray1::from_vec(py, new).unbind();
        Ok(Generated { text, token_ids, steps: generated.steps, forwards: generated.forwards })
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
        Ok(format!("Model({})", self.info.bind(py).repr()?))
    }
}

/// Tells a callback of a step; whether it wants to go on. `None` goes on.
fn told(on_step: &Py<PyAny>, (done, steps): (u32, u32), canvas: &[i32]) -> PyResult<bool> {
    Python::attach(|py| {
        let canvas = PyArray1::from_slice(py, canvas);
        let answer = on_step.call1(py, (done, steps, canvas))?;
        let answer = answer.bind(py);
        if answer.is_none() { Ok(true) } else { answer.is_truthy() }
    })
}

#[pymethods]
impl Generated {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let tokens = self.token_ids.bind(py).readonly().len().unwrap_or(0);
        format!("Generated({:?}, {tokens} tokens, {} forwards)", self.text, self.forwards)
    }
}
