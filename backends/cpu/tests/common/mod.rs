//! Programs as lines, and a check that no value is overwritten while it is needed.
//!
//! ```text
//! 2 b @64: f32[B, 8], 64 bytes, until 3 = Add over a (a @64, c @0)
//! ```
//!
//! Step 2 writes value `b`, which takes the place of `a` and is read last in step 3. A value's name is the path it
//! comes from.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use dreamc_artifact::plan::{Dim, Dispatch, Place, Program, Step, ValueId};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of a value at the maxima.
pub(crate) fn bytes(program: &Program, id: ValueId) -> u64 {
    let value = &program.values[id.0 as usize];
    let maxima = program.maxima();
    let elements: u64 = value.dims.iter().map(|d| u64::from(d.at(&maxima).unwrap())).product();
    elements * value.dtype.bytes() as u64
}

/// Where a value lies; weights lie elsewhere.
pub(crate) fn arena(program: &Program, id: ValueId) -> Option<u64> {
    match program.values[id.0 as usize].place {
        Place::Arena(offset) => Some(offset),
        Place::Weight(_) => None,
    }
}

/// Runs a program without computing anything: whoever reads a value must find its bytes as they were written.
pub(crate) struct Replay<'a> {
    program: &'a Program,
    /// Start, end and owner of what was written last; later entries lie over earlier ones.
    written: Vec<(u64, u64, ValueId)>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(program: &'a Program) -> Replay<'a> {
        Replay { program, written: Vec::new() }
    }

    pub(crate) fn run(mut self) {
        let ids = |ports: &[dreamc_artifact::plan::Port]| ports.iter().map(|p| p.value).collect::<Vec<_>>();
        ids(&self.program.inputs).into_iter().for_each(|id| self.write(id));
        self.steps(&self.program.steps);
        ids(&self.program.outputs).into_iter().for_each(|id| self.read(id));
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Dispatch(dispatch) => {
                    dispatch.reads.iter().for_each(|id| self.read(*id));
                    dispatch.writes.iter().for_each(|id| self.write(*id));
                }
                Step::Denoise(denoise) => {
                    for iteration in 0..3 {
                        self.write(denoise.index);
                        self.steps(&denoise.body);
                        let (from, history) = denoise.history.unwrap();
                        self.read(from);
                        if iteration > 0 {
                            // Written piece by piece: nothing may come between.
                            self.read(history);
                        }
                        self.write(history);
                    }
                }
            }
        }
    }

    fn write(&mut self, id: ValueId) {
        let start = arena(self.program, id).unwrap();
        let end = start + bytes(self.program, id);
        self.written.retain(|(s, e, _)| *e <= start || end <= *s);
        self.written.push((start, end, id));
    }

    fn read(&self, id: ValueId) {
        if let Some(start) = arena(self.program, id) {
            let whole = (start, start + bytes(self.program, id), id);
            assert!(
                self.written.contains(&whole),
                "value {} was overwritten\n{}",
                id.0,
                render(self.program)
            );
        }
    }
}

/// The program as lines.
pub(crate) fn render(program: &Program) -> String {
    let mut lines =
        Lines { program, names: BTreeMap::new(), until: BTreeMap::new(), text: String::new(), step: 0 };
    lines.name_all();
    let symbols: Vec<String> = program.symbols.iter().map(|s| format!("{} <= {}", s.name, s.max)).collect();
    let _ = writeln!(lines.text, "{} ({}): {} bytes", program.name, symbols.join(", "), program.arena_bytes);
    for (word, ports) in [("in ", &program.inputs), ("out", &program.outputs)] {
        for port in ports {
            let _ = writeln!(lines.text, "{word} {} = {}", port.name, lines.placed(port.value));
        }
    }
    lines.steps(&program.steps, 0);
    lines.text
}

struct Lines<'a> {
    program: &'a Program,
    names: BTreeMap<ValueId, String>,
    /// The step that reads a value last.
    until: BTreeMap<ValueId, String>,
    text: String,
    step: u32,
}

impl Lines<'_> {
    fn name_all(&mut self) {
        for port in &self.program.inputs {
            self.names.insert(port.value, port.name.clone());
        }
        self.name_steps(&self.program.steps);
        self.step = 0;
        for port in &self.program.outputs {
            self.until.insert(port.value, "the end".to_owned());
        }
    }

    fn name_steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.step += 1;
            match step {
                Step::Dispatch(dispatch) => {
                    for id in &dispatch.reads {
                        self.until.insert(*id, self.step.to_string());
                    }
                    for (result, id) in dispatch.writes.iter().enumerate() {
                        let number = if result == 0 { String::new() } else { format!(".{result}") };
                        let name = format!("{}{number}", dispatch.origin.join("+"));
                        self.names.entry(*id).or_insert(name);
                    }
                }
                Step::Denoise(denoise) => {
                    self.names.insert(denoise.index, "index".to_owned());
                    denoise.history.iter().for_each(|(_, id)| {
                        self.names.insert(*id, "history".to_owned());
                    });
                    self.name_steps(&denoise.body);
                }
            }
        }
    }

    fn name(&self, id: ValueId) -> String {
        match self.program.values[id.0 as usize].place {
            Place::Arena(offset) => format!("{} @{offset}", self.names[&id]),
            Place::Weight(index) => format!("weight {index}"),
        }
    }

    fn placed(&self, id: ValueId) -> String {
        let value = &self.program.values[id.0 as usize];
        let dims: Vec<String> = value.dims.iter().map(|d| self.dim(d)).collect();
        let until = self.until.get(&id).map_or_else(String::new, |step| format!(", until {step}"));
        let (name, bytes) = (self.name(id), bytes(self.program, id));
        format!("{name}: {}[{}], {bytes} bytes{until}", value.dtype, dims.join(", "))
    }

    fn dim(&self, dim: &Dim) -> String {
        let term = |t: &dreamc_artifact::plan::Term| {
            let symbols = t.symbols.iter().map(|s| self.program.symbols[*s as usize].name.clone());
            let factors = (t.coefficient != 1 || t.symbols.is_empty()).then(|| t.coefficient.to_string());
            factors.into_iter().chain(symbols).collect::<Vec<_>>().join("*")
        };
        dim.terms.iter().map(term).collect::<Vec<_>>().join("+")
    }

    fn steps(&mut self, steps: &[Step], depth: usize) {
        let indent = "  ".repeat(depth);
        for step in steps {
            self.step += 1;
            match step {
                Step::Dispatch(dispatch) => {
                    let Dispatch { kernel, reads, writes, .. } = dispatch;
                    let kernel = format!("{kernel:?}");
                    let kernel = kernel.split([' ', '(']).next().unwrap().to_owned();
                    let over = reads.iter().find(|r| {
                        arena(self.program, **r).is_some()
                            && writes.iter().any(|w| arena(self.program, *w) == arena(self.program, **r))
                    });
                    let over = over.map_or_else(String::new, |id| format!(" over {}", self.names[id]));
                    let list =
                        |ids: &[ValueId]| ids.iter().map(|id| self.name(*id)).collect::<Vec<_>>().join(", ");
                    let placed = |ids: &[ValueId]| {
                        ids.iter().map(|id| self.placed(*id)).collect::<Vec<_>>().join("; ")
                    };
                    let (writes, reads) = (placed(writes), list(reads));
                    let _ = writeln!(self.text, "{indent}{} {writes} = {kernel}{over} ({reads})", self.step);
                }
                Step::Denoise(denoise) => {
                    let (from, history) = denoise.history.unwrap();
                    let (index, from, history) =
                        (self.placed(denoise.index), self.name(from), self.placed(history));
                    let _ = writeln!(
                        self.text,
                        "{indent}{} denoise {} times ({index}): {history} of {from}",
                        self.step, denoise.steps
                    );
                    self.steps(&denoise.body, depth + 1);
                }
            }
        }
    }
}
