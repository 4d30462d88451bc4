//! Calibration: what the rows that matmuls read look like, over requests of the kind that the artifact is for.
//!
//! A parent is built beside the output: the same artifact without `--quant`, and with norms apart from the matmuls behind
//! them, so that every matmul reads the rows that are to be rounded. It answers the requests, watched by a [`Collector`],
//! which keeps two numbers for each column, for weights of 4 bits also products of columns ([`feedback`]), and is gone when it
//! is dropped. [`factors`] makes of them what the packer needs.

mod factors;
mod feedback;

use super::{BuildError, BuildOptions, Events, Report, build_with};
use crate::output_path::OutputPath;
use crate::whole::Partial;
use dream::{Observer, Read};
use dreamc_artifact::plan::{Dispatch, Kernel, Place};
use dreamc_backend::Source;
use dreamc_num::DType;
pub(super) use factors::{Calibrated, calibrated};
use feedback::Products;
use std::collections::BTreeMap;
use std::path::Path;

/// The pass that would hide the rows behind a norm.
const HIDES_ROWS: &str = "fuse-norm";

/// Beginnings of the names of tensors that only images reach: without one, the tower is given an empty patch to compute.
const OF_IMAGES: [&str; 2] = ["visual.", "projector."];

/// What is known of the rows that each tensor was multiplied with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// By tensor.
    tensors: BTreeMap<String, Rows>,
    /// By the first of the tensors of a matmul.
    products: BTreeMap<String, Products>,
    /// How many requests they are of.
    requests: u64,
}

/// What is known of some rows, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rows {
    /// Largest magnitudes.
    max: Vec<f32>,
    /// Sums of squares.
    squares: Vec<f64>,
    /// Number of rows.
    count: u64,
}

impl Rows {
    /// Adds rows of `k` elements. What is no number counts for nothing.
    fn add(&mut self, elements: &[f32], k: usize) {
        self.max.resize(k, 0.0);
        self.squares.resize(k, 0.0);
        for row in elements.chunks_exact(k) {
            let columns = self.max.iter_mut().zip(&mut self.squares);
            for (x, (max, squares)) in row.iter().zip(columns).filter(|(x, _)| x.is_finite()) {
                *max = max.max(x.abs());
                *squares += f64::from(*x).powi(2);
            }
        }
        self.count += (elements.len() / k) as u64;
    }

    /// Adds what is known of other rows as wide.
    fn merge(&mut self, other: &Rows) {
        self.max.resize(other.max.len(), 0.0);
        self.squares.resize(other.squares.len(), 0.0);
        self.max.iter_mut().zip(&other.max).for_each(|(a, b)| *a = a.max(*b));
        self.squares.iter_mut().zip(&other.squares).for_each(|(a, b)| *a += b);
        self.count += other.count;
    }
}

impl Statistics {
    /// How many requests they are of.
    pub fn requests(&self) -> u64 {
        self.requests
    }
}

/// An artifact like the one to be built, but not quantised. Its file goes when this does.
#[derive(Debug)]
pub struct Parent {
    // Removed before the lock that says that it is in use.
    file: tempfile::TempPath,
    _lock: Partial,
    /// The tensor that each stored weight is, or is rows of.
    names: Vec<Option<String>>,
    /// Whether errors are to be fed back.
    feeds: bool,
}

impl Parent {
    /// Builds it beside the output of `options`.
    ///
    /// # Errors
    ///
    /// As [`build`](super::build).
    pub fn build(options: &BuildOptions, events: &mut dyn Events) -> Result<Parent, BuildError> {
        let failed = |source| BuildError::File { path: options.output.clone(), source };
        let output = OutputPath::new("-o", &options.output, &options.inputs())?;
        let lock = Partial::beside(&output.target()?).map_err(failed)?;
        let file = tempfile::TempPath::try_from_path(lock.parent()).map_err(failed)?;
        let feeds = options.quant.as_ref().is_some_and(|quant| quant.bits.has_groups());
        let mut without = options.without.clone();
        without.push(HIDES_ROWS.to_owned());
        let options = BuildOptions {
            output: file.to_path_buf(),
            quant: None,
            golden: None,
            emit: None,
            without,
            ..options.clone()
        };
        let (Report { .. }, constants) = build_with(&options, events)?;
        let name = |source: &Source| match source {
            Source::Checkpoint(names) => <[String; 1]>::try_from(names.clone()).ok().map(|[name]| name),
            Source::Rows { name, .. } => Some(name.clone()),
            Source::Quantized { .. } | Source::Literal(_) => None,
        };
        let names = constants.list().iter().map(|constant| name(&constant.source)).collect();
        Ok(Parent { file, _lock: lock, names, feeds })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// To watch it while it answers.
    pub fn collector(&self) -> Collector<'_> {
        Collector {
            names: &self.names,
            feeds: self.feeds,
            statistics: Statistics::default(),
            blind: false,
            stopped: &|| false,
        }
    }
}

/// Collects statistics of the rows that matmuls read, in the order in which they run: the same for the same requests,
/// whatever the number of threads.
pub struct Collector<'a> {
    names: &'a [Option<String>],
    feeds: bool,
    statistics: Statistics,
    blind: bool,
    stopped: &'a dyn Fn() -> bool,
}

impl<'a> Collector<'a> {
    /// The same; `stopped` is asked after every pass whether to stop the run.
    #[must_use]
    pub fn until(self, stopped: &'a dyn Fn() -> bool) -> Collector<'a> {
        Collector { stopped, ..self }
    }

    /// Whether the requests from here on show images; they do at first. Of those that do not, the tower's rows say nothing.
    pub fn show(&mut self, images: bool) {
        self.blind = !images;
    }

    /// What was collected over so many requests.
    pub fn finish(self, requests: u64) -> Statistics {
        Statistics { requests, ..self.statistics }
    }
}

impl Observer for Collector<'_> {
    fn reads(&self, dispatch: &Dispatch) -> bool {
        matches!(dispatch.kernel, Kernel::Linear(_))
    }

    fn read(&mut self, read: Read<'_>) {
        let Kernel::Linear(linear) = &read.dispatch.kernel else { return };
        let elements: Vec<f32> = match read.dtype {
            DType::BF16 => {
                let elements = read.bytes.as_chunks::<2>().0.iter();
                elements.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect()
            }
            DType::F32 => read.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            // The CPU has no other matmuls.
            DType::F16 | DType::I32 | DType::U32 | DType::Bool => return,
        };
        let (k, mut rows, mut first) = (read.shape.columns().max(1), Rows::default(), true);
        rows.add(&elements, k);
        for id in read.dispatch.reads.get(linear.weight_operands()).unwrap_or_default() {
            let place = read.operands.get(id.0 as usize).map(|operand| operand.place);
            let name = place.and_then(Place::weight).and_then(|i| self.names.get(i as usize)?.as_ref());
            let says_nothing = |name: &&String| self.blind && OF_IMAGES.iter().any(|of| name.starts_with(of));
            if let Some(name) = name.filter(|name| !says_nothing(name)) {
                self.statistics.tensors.entry(name.clone()).or_default().merge(&rows);
                if self.feeds && std::mem::take(&mut first) {
                    self.statistics.products.entry(name.clone()).or_default().add(&elements, k);
                }
            }
        }
    }

    fn step(&mut self, _done: u32, _steps: u32) -> bool {
        !(self.stopped)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_column_by_column() {
        let mut rows = Rows::default();
        rows.add(&[1.0, -2.0, 3.0, f32::NAN, 0.5, 0.0], 3);
        assert_eq!(rows, Rows { max: vec![1.0, 2.0, 3.0], squares: vec![1.0, 4.25, 9.0], count: 2 });
        let mut twice = rows.clone();
        twice.merge(&rows);
        assert_eq!((twice.max, twice.squares, twice.count), (rows.max, vec![2.0, 8.5, 18.0], 4));
    }
}
