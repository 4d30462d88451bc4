//! Launches of one dispatch in the making: buffers and scalars by the names that the kernels give them.

use crate::handed::{Handed, Left};
use crate::modules::Modules;
use crate::{float, size};
use dreamc_artifact::layout::{Layout, fp8_scales_at};
use dreamc_artifact::plan::{
    ARENA_ALIGN, Binding, Candidate, Dim, Kernel, Launch, Scalar, Value, ValueId, Variant,
};
use dreamc_backend::{Job, Operand, Users};
use dreamc_ir::Literal;
use dreamc_kernels::{self as kernels, Element, Float, Rows, Table};
use dreamc_num::DType;

/// What a buffer is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    binding: Binding,
    /// What the bytes are, where they are no elements of the value's type.
    bytes_of: Option<Element>,
}

impl From<ValueId> for Bound {
    fn from(value: ValueId) -> Bound {
        Binding { value, part: None }.into()
    }
}

impl From<Binding> for Bound {
    fn from(binding: Binding) -> Bound {
        Bound { binding, bytes_of: None }
    }
}

/// A number that is the same in every request.
pub(crate) fn count(n: u32) -> Scalar {
    Scalar::Count(Dim::constant(n))
}

/// Rows of a matrix that can be bound at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The first row.
    pub(crate) first: u32,
    /// How many.
    pub(crate) rows: u32,
    /// Their bytes, first and length; nothing if they are all.
    bytes: Option<(u64, u64)>,
}

/// See the module.
pub(crate) struct Launcher<'l, 'a, 's> {
    modules: &'l mut Modules,
    pub(crate) handed: &'l mut Handed,
    job: &'l mut Job<'a, 's>,
    maxima: Vec<u32>,
    launches: Vec<Launch>,
    /// Of what is launched from here on.
    variant: Option<Variant>,
    /// Which of several candidates that is.
    nth: Option<u32>,
}

impl<'l, 'a, 's> Launcher<'l, 'a, 's> {
    pub(crate) fn new(
        modules: &'l mut Modules,
        handed: &'l mut Handed,
        job: &'l mut Job<'a, 's>,
    ) -> Launcher<'l, 'a, 's> {
        let maxima = job.maxima();
        Launcher { modules, handed, job, maxima, launches: Vec::new(), variant: None, nth: None }
    }

    /// Who looks at the first result.
    pub(crate) fn users(&self) -> &Users<'a> {
        self.job.users()
    }

    /// A constant that one of the users looks at too.
    pub(crate) fn operand(&mut self, operand: &Operand) -> Result<ValueId, String> {
        self.job.operand(operand)
    }

    /// A value that a dispatch before has handed over is needed; whether it can be had.
    pub(crate) fn keep(&mut self, value: ValueId) -> bool {
        self.job.keep(value)
    }

    pub(crate) fn finish(self) -> Vec<Launch> {
        self.launches
    }

    pub(crate) fn target(&self) -> &kernels::Target {
        self.modules.target()
    }

    /// How many other kernels travel with one of so many products.
    pub(crate) fn others(&self, products: u64) -> usize {
        self.modules.others(products)
    }

    pub(crate) fn kernel(&self) -> &'a Kernel {
        self.job.kernel
    }

    /// Operand `i`; the kernel's documentation says how many there are, which the verifier has checked.
    pub(crate) fn read(&self, i: usize) -> ValueId {
        self.job.reads[i]
    }

    pub(crate) fn read_count(&self) -> usize {
        self.job.reads.len()
    }

    /// Result `i`.
    pub(crate) fn write(&self, i: usize) -> ValueId {
        self.job.writes[i]
    }

    /// Whether the first result lies where operand `read` lies.
    pub(crate) fn in_place(&self, read: usize) -> bool {
        self.job.in_place(read, 0)
    }

    /// Whether operand `read` may be written over.
    pub(crate) fn spare(&self, read: usize) -> bool {
        self.job.spare(read)
    }

    pub(crate) fn value(&self, id: ValueId) -> &Value {
        self.job.value(id)
    }

    pub(crate) fn scratch(&mut self, dtype: DType, dims: &[Dim]) -> Result<ValueId, String> {
        self.job.scratch(dtype, dims)
    }

    /// Integers that are 0 between launches, and how many there are.
    pub(crate) fn counters(&mut self) -> (ValueId, u32) {
        self.job.counters()
    }

    pub(crate) fn constant(&mut self, literal: Literal) -> Result<ValueId, String> {
        self.job.constant(literal)
    }

    /// The float type of a value.
    pub(crate) fn float(&self, id: ValueId) -> Result<Float, String> {
        let dtype = self.value(id).dtype;
        float(dtype).ok_or_else(|| format!("it takes floats, not {dtype}"))
    }

    /// How a matrix of weights is read.
    pub(crate) fn table(&self, id: ValueId) -> Result<Table, String> {
        let capabilities = self.target().capabilities();
        Ok(match self.float(id)? {
            Float::BF16 if !capabilities.bf16 => Table::PackedBF16,
            Float::F16 if !capabilities.f16 => Table::PackedF16,
            float => Table::Floats(float),
        })
    }

    /// A length, which must fit the 32 bits in which kernels count.
    pub(crate) fn length(&self, dims: &[Dim]) -> Result<Dim, String> {
        let product = size::product(dims).filter(|n| n.at(&self.maxima).is_some());
        product.ok_or_else(|| {
            "a tensor has more than 2^32 elements at the maxima; lower --max-prompt or --max-batch".to_owned()
        })
    }

    /// Elements of a value.
    pub(crate) fn elements(&self, id: ValueId) -> Result<Scalar, String> {
        self.length(&self.value(id).dims).map(Scalar::Count)
    }

    /// Product of all dimensions but the last.
    pub(crate) fn row_count(&self, id: ValueId) -> Result<Dim, String> {
        let dims = &self.value(id).dims;
        self.length(&dims[..dims.len().saturating_sub(1)])
    }

    /// The same as a scalar.
    pub(crate) fn rows(&self, id: ValueId) -> Result<Scalar, String> {
        self.row_count(id).map(Scalar::Count)
    }

    /// The last dimension.
    pub(crate) fn columns(&self, id: ValueId) -> Result<Scalar, String> {
        self.constant_columns(id).map(count)
    }

    /// The last dimension, which is the same in every request.
    pub(crate) fn constant_columns(&self, id: ValueId) -> Result<u32, String> {
        let last = self.value(id).dims.last();
        last.and_then(size::constant).ok_or_else(|| "the length of its rows varies".to_owned())
    }

    /// The largest value of a length.
    pub(crate) fn most(&self, dim: &Dim) -> u32 {
        dim.at(&self.maxima).unwrap_or(u32::MAX)
    }

    /// A matrix of weights in parts that the target can bind.
    pub(crate) fn parts(&self, id: ValueId) -> Result<Vec<Part>, String> {
        let Value { dtype, dims, .. } = self.value(id);
        let [Some(rows), Some(columns)] = [0, 1].map(|i| dims.get(i).and_then(size::constant)) else {
            return Err("its weights are no matrix".to_owned());
        };
        let row = u64::from(columns) * dtype.bytes() as u64;
        let stored = Layout::RowMajor.stored_bytes(*dtype, &[rows.into(), columns.into()]);
        let all = stored.ok_or("its weights are too large")?;
        let max = self.target().capabilities().binding_bytes_max;
        if all <= max {
            return Ok(vec![Part { first: 0, rows, bytes: None }]);
        }
        let step = rows_aligned(row);
        let most = u32::try_from(max / row / step * step).unwrap_or(u32::MAX);
        if most == 0 {
            return Err(format!("the target binds {max} bytes, which is too little for rows of {row}"));
        }
        let part = |first: u32| {
            let rows = most.min(rows - first);
            Part { first, rows, bytes: Some((u64::from(first) * row, u64::from(rows) * row)) }
        };
        Ok((0..rows).step_by(most as usize).map(part).collect())
    }

    /// A part of a matrix as a buffer.
    pub(crate) fn bound(&self, value: ValueId, part: Part) -> Bound {
        Binding { value, part: part.bytes }.into()
    }

    /// Rows of a matrix of weights, which are the same in every request.
    pub(crate) fn constant_rows(&self, id: ValueId) -> Result<u32, String> {
        let rows = self.value(id).dims.first().and_then(size::constant);
        rows.ok_or_else(|| "its weights are no matrix".to_owned())
    }

    /// The codes of a matrix in fp8 and their scales, as buffers.
    pub(crate) fn fp8(&self, value: ValueId) -> Result<[Bound; 2], String> {
        let rows = u64::from(self.constant_rows(value)?);
        let begin = fp8_scales_at(rows, self.constant_columns(value)?.into());
        let max = self.target().capabilities().binding_bytes_max;
        let begin = begin.filter(|bytes| *bytes <= max).ok_or_else(|| {
            format!("the target binds {max} bytes, which is too little for its weights in fp8")
        })?;
        let part =
            |part, element| Bound { binding: Binding { value, part: Some(part) }, bytes_of: Some(element) };
        Ok([part((0, begin), Element::U32), part((begin, 4 * rows), Element::F32)])
    }

    /// Adds a launch.
    pub(crate) fn launch(
        &mut self,
        kernel: kernels::Kernel,
        buffers: &[(&str, Bound)],
        scalars: &[(&str, Scalar)],
    ) -> Result<(), String> {
        let module = self.modules.index(&kernel).map_err(|e| e.to_string())?;
        let emitted = &self.modules.list()[module as usize];
        let bug = |name: &str| format!("bug: `{}` is not given `{name}`; please report it", emitted.name);
        if buffers.len() != emitted.buffers.len() || scalars.len() != emitted.scalars.len() {
            return Err(bug("what it takes"));
        }
        let mut bindings = Vec::new();
        for buffer in &emitted.buffers {
            let (_, bound) = buffers.iter().find(|b| b.0 == buffer.name).ok_or_else(|| bug(buffer.name))?;
            let holds = match bound.bytes_of {
                Some(element) => buffer.element == element,
                None => holds(buffer.element, self.job.value(bound.binding.value).dtype),
            };
            if !holds {
                return Err(bug(buffer.name));
            }
            bindings.push(bound.binding);
        }
        let mut ordered = Vec::new();
        for scalar in &emitted.scalars {
            let (_, value) = scalars.iter().find(|s| s.0 == scalar.name).ok_or_else(|| bug(scalar.name))?;
            ordered.push(value.clone());
        }
        self.launches.push(Launch {
            module,
            buffers: bindings,
            scalars: ordered,
            variant: self.variant.clone(),
            // The number of the choice is known when all its candidates are.
            candidate: self.nth.map(|nth| Candidate { choice: u32::MAX, nth }),
        });
        Ok(())
    }

    /// Adds the launches of a table of kernels by a length, each up to so much, of which a request takes one.
    pub(crate) fn variants<K>(
        &mut self,
        of: &Dim,
        table: &[(u32, K)],
        mut launch: impl FnMut(&mut Self, &K) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut above = 0;
        for (up_to, kernel) in table {
            let variant = Variant { of: of.clone(), above, up_to: *up_to };
            self.variant = (table.len() > 1).then_some(variant);
            launch(self, kernel)?;
            above = *up_to;
        }
        self.variant = None;
        Ok(())
    }

    /// Adds the launches of a table of kernels as [`Launcher::variants`] does. Where a row has several kernels each is a
    /// candidate, and what `portable` adds is the last.
    pub(crate) fn choose<K>(
        &mut self,
        of: &Dim,
        table: &[(u32, Vec<K>)],
        mut launch: impl FnMut(&mut Self, &K) -> Result<(), String>,
        mut portable: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.variants(of, table, |l, kernels| {
            if let [only] = kernels.as_slice() {
                return launch(l, only);
            }
            let first = l.launches.len();
            for (kernel, nth) in kernels.iter().zip(0..) {
                l.nth = Some(nth);
                launch(l, kernel)?;
            }
            l.nth = Some(kernels.len() as u32);
            portable(l)?;
            l.nth = None;
            let own = l.launches.get(first..).unwrap_or_default();
            let kernels = own.iter().filter_map(|launch| Some((launch.candidate?.nth, launch.module)));
            let choice = l.handed.choice(Left { variant: l.variant.clone(), kernels: kernels.collect() });
            for launch in l.launches.iter_mut().skip(first) {
                launch.candidate.iter_mut().for_each(|candidate| candidate.choice = choice);
            }
            Ok(())
        })
    }

    /// Adds a launch of a kernel that goes through `rows`, one by one, or several launches where the target cannot bind
    /// all of them at once. `by_row`: buffers that hold a row for each.
    pub(crate) fn launch_rows(
        &mut self,
        kernel: &kernels::Kernel,
        rows: &Dim,
        by_row: &[(&'static str, ValueId)],
        buffers: &[(&str, Bound)],
        scalars: &[(&str, Scalar)],
    ) -> Result<(), String> {
        let all = self.most(rows);
        let max = self.target().capabilities().binding_bytes_max;
        let row_bytes = |id: ValueId| self.bytes(id).map(|bytes| bytes / u64::from(all.max(1)));
        let sizes = by_row.iter().map(|(_, id)| row_bytes(*id)).collect::<Result<Vec<u64>, _>>()?;
        let widest = sizes.iter().copied().max().unwrap_or(0).max(1);
        let most = if widest * u64::from(all) <= max {
            all
        } else {
            let step = sizes.iter().map(|bytes| rows_aligned(*bytes)).max().unwrap_or(1);
            u32::try_from(max / widest / step * step).unwrap_or(u32::MAX)
        };
        if most == 0 {
            return Err(format!("the target binds {max} bytes, which is too little for rows of {widest}"));
        }
        for first in (0..all).step_by(most as usize) {
            let part = |bytes: u64| {
                let count = u64::from(most.min(all - first));
                (most < all).then(|| (u64::from(first) * bytes, count * bytes))
            };
            let parts = by_row
                .iter()
                .zip(&sizes)
                .map(|((name, value), bytes)| (*name, Binding { value: *value, part: part(*bytes) }.into()));
            let all_buffers: Vec<(&str, Bound)> = parts.chain(buffers.iter().copied()).collect();
            let rows = if most < all {
                Scalar::Part { of: rows.clone(), first, most }
            } else {
                Scalar::Count(rows.clone())
            };
            let mut all_scalars = vec![("rows", rows)];
            all_scalars.extend_from_slice(scalars);
            self.launch(kernel.clone(), &all_buffers, &all_scalars)?;
        }
        Ok(())
    }

    /// Bytes of a value at the maxima.
    fn bytes(&self, id: ValueId) -> Result<u64, String> {
        let elements = self.length(&self.value(id).dims)?;
        Ok(u64::from(self.most(&elements)) * self.value(id).dtype.bytes() as u64)
    }

    /// Copies all elements of a value.
    pub(crate) fn copy_all(&mut self, from: ValueId, to: ValueId) -> Result<(), String> {
        let length = self.elements(from)?;
        let zero = || count(0);
        self.copy(from, to, count(1), length, [zero(), zero()], [zero(), zero()])
    }

    /// Copies `blocks` of `length` elements; with stride and first element on either side.
    pub(crate) fn copy(
        &mut self,
        from: ValueId,
        to: ValueId,
        blocks: Scalar,
        length: Scalar,
        [x_stride, x_first]: [Scalar; 2],
        [y_stride, y_first]: [Scalar; 2],
    ) -> Result<(), String> {
        let kernel = kernels::Kernel::Rows(Rows::Copy(moved(self.value(from).dtype)));
        let scalars = [
            ("blocks", blocks),
            ("length", length),
            ("x_stride", x_stride),
            ("x_first", x_first),
            ("y_stride", y_stride),
            ("y_first", y_first),
        ];
        self.launch(kernel, &[("x", from.into()), ("y", to.into())], &scalars)
    }
}

/// The fewest rows of so many bytes behind which a binding may begin.
fn rows_aligned(bytes: u64) -> u64 {
    ARENA_ALIGN >> bytes.trailing_zeros().min(ARENA_ALIGN.trailing_zeros())
}

/// The float type as large as elements that are moved as they are.
pub(crate) fn moved(dtype: DType) -> Float {
    float(dtype).unwrap_or(Float::F32)
}

/// Whether a buffer of such elements may hold values of this type. Moved elements are bits.
fn holds(element: Element, dtype: DType) -> bool {
    match element {
        Element::F32 => dtype == DType::F32,
        Element::F16 | Element::F16x2 => dtype == DType::F16,
        Element::BF16 | Element::BF16x2 => dtype == DType::BF16,
        Element::I32 => dtype == DType::I32,
        Element::Bool => dtype == DType::U32,
        Element::U32 => dtype.bytes() == 4,
    }
}
