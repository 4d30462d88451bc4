//! Plans as readable lines.
//!
//! ```text
//! program forward on cpu (B <= 8, S <= 32): 65536 bytes of arena, 65000 live at most, ratio 1.008
//!   in  input_ids: i32[B, S] @0
//!   out logits: f32[B, S, 512] @8192
//!   f32[B, S, 64] @4096 = embed i32[B, S] @0, "model.embed_tokens.weight"  # model.embed_tokens
//! ```
//!
//! `@0` is a place in the arena; a weight stands with its name.

use super::output::json_value;
use super::table::memory;
use dreamc_artifact::plan::{Dim, Kernel, Place, Port, Program, Slots, Step, ValueId};
use dreamc_backend::Liveness;

/// The lines of one program; `weights` are the names of the stored tensors.
pub(crate) fn text(target: &str, program: &Program, weights: &[&str]) -> String {
    let symbols: Vec<String> = program.symbols.iter().map(|s| format!("{} <= {}", s.name, s.max)).collect();
    let mut text = format!(
        "program {} on {target} ({}): {}\n",
        program.name,
        symbols.join(", "),
        memory(program.arena_bytes, Liveness::of(program).peak_bytes())
    );
    let mut printer = Printer { program, weights, text: &mut text };
    printer.ports("in ", &program.inputs);
    printer.ports("out", &program.outputs);
    printer.steps(1, &program.steps);
    text
}

struct Printer<'a> {
    program: &'a Program,
    weights: &'a [&'a str],
    text: &'a mut String,
}

impl Printer<'_> {
    fn ports(&mut self, word: &str, ports: &[Port]) {
        for port in ports {
            let line = format!("  {word} {}: {}\n", port.name, self.value(port.value));
            self.text.push_str(&line);
        }
    }

    fn steps(&mut self, depth: usize, steps: &[Step]) {
        let indent = "  ".repeat(depth);
        for step in steps {
            match step {
                Step::Dispatch(dispatch) => {
                    let list =
                        |ids: &[ValueId]| ids.iter().map(|id| self.value(*id)).collect::<Vec<_>>().join(", ");
                    let (writes, reads) = (list(&dispatch.writes), list(&dispatch.reads));
                    let origin = match dispatch.origin.join(", ") {
                        paths if paths.is_empty() => paths,
                        paths => format!("  # {paths}"),
                    };
                    let kernel = kernel(&dispatch.kernel);
                    self.text.push_str(&format!("{indent}{writes} = {kernel} {reads}{origin}\n"));
                }
                Step::Denoise(denoise) => {
                    let index = self.value(denoise.index);
                    let history = denoise.history.map_or_else(String::new, |(from, to)| {
                        format!(", history of {} in {}", self.value(from), self.value(to))
                    });
                    let slots = denoise.slots.as_ref().map_or_else(String::new, |slots| self.slots(slots));
                    let line =
                        format!("{indent}denoise {} times, index {index}{history}{slots}\n", denoise.steps);
                    self.text.push_str(&line);
                    self.steps(depth + 1, &denoise.body);
                }
            }
        }
    }

    /// What the runtime looks at to count the open slots of each iteration.
    fn slots(&self, slots: &Slots) -> String {
        let idle = slots.idle.map_or_else(String::new, |(temperature, alg_temp)| {
            let [temperature, alg_temp] = [temperature, alg_temp].map(|id| self.value(id));
            format!(", idle iterations left out where {temperature} and {alg_temp} are 0")
        });
        let (symbol, token, eps) = (self.symbol(slots.symbol), slots.token, slots.eps);
        let joint = self.value(slots.joint);
        format!(
            ", {symbol} slots of token {token} by the schedule to eps {eps} unless {joint} joins the rows{idle}"
        )
    }

    fn symbol(&self, index: u32) -> &str {
        self.program.symbols.get(index as usize).map_or("?", |s| s.name.as_str())
    }

    fn value(&self, id: ValueId) -> String {
        // Ids and indices were validated when the artifact was opened.
        let Some(value) = self.program.values.get(id.0 as usize) else { return format!("%{}", id.0) };
        let dims: Vec<String> = value.dims.iter().map(|d| self.dim(d)).collect();
        match value.place {
            Place::Arena(offset) => format!("{}[{}] @{offset}", value.dtype, dims.join(", ")),
            Place::Weight(index) => format!("{:?}", self.weights.get(index as usize).unwrap_or(&"")),
        }
    }

    fn dim(&self, dim: &Dim) -> String {
        let term = |term: &dreamc_artifact::plan::Term| {
            let symbols: Vec<&str> = term.symbols.iter().map(|s| self.symbol(*s)).collect();
            match (term.coefficient, symbols.as_slice()) {
                (n, []) => n.to_string(),
                (1, symbols) => symbols.join("*"),
                (n, symbols) => format!("{n}*{}", symbols.join("*")),
            }
        };
        match dim.terms.as_slice() {
            [] => "0".to_owned(),
            terms => terms.iter().map(term).collect::<Vec<_>>().join("+"),
        }
    }
}

/// Name and settings of a kernel; settings that are off are left out.
pub(super) fn kernel(kernel: &Kernel) -> String {
    use serde_json::Value;
    // As serde has it: the name alone, or an object with the name as its one key.
    let (name, settings) = match json_value(kernel) {
        Ok(Value::String(name)) => (name, Value::Null),
        Ok(Value::Object(map)) => map.into_iter().next().unwrap_or_default(),
        _ => (format!("{kernel:?}"), Value::Null),
    };
    let mut snake = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    let list: Vec<String> = match settings {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null() && *value != Value::Bool(false))
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        Value::Null => vec![],
        other => vec![other.to_string()],
    };
    if list.is_empty() { snake } else { format!("{snake} {{{}}}", list.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_artifact::plan::{Denoise, Dispatch, Linear, Symbol, Term, Value};
    use dreamc_num::DType;

    #[test]
    fn lines() {
        let dims = vec![Dim { terms: vec![Term { coefficient: 2, symbols: vec![0] }] }, Dim::constant(8)];
        let arena = Value { dtype: DType::F32, dims, place: Place::Arena(64) };
        let weight = Value { dtype: DType::F32, dims: vec![], place: Place::Weight(0) };
        let linear = Linear {
            norm_eps: None,
            weights: 1,
            bias: true,
            residual: false,
            swiglu: false,
            smooth: false,
            codes: None,
            activation: None,
        };
        let dispatch = |kernel, reads: &[u32]| {
            Step::Dispatch(Dispatch {
                kernel,
                reads: reads.iter().map(|id| ValueId(*id)).collect(),
                writes: vec![ValueId(0)],
                origin: vec!["lm_head".to_owned()],
                launches: vec![],
            })
        };
        let program = Program {
            name: "f".to_owned(),
            symbols: vec![Symbol { name: "B".to_owned(), max: 8 }],
            values: vec![arena, weight],
            inputs: vec![Port { name: "x".to_owned(), value: ValueId(0) }],
            outputs: vec![],
            steps: vec![dispatch(Kernel::Linear(linear), &[0, 1]), dispatch(Kernel::ShiftRows, &[0])],
            arena_bytes: 128,
        };
        assert_eq!(
            text("cpu", &program, &["w"]),
            "program f on cpu (B <= 8): 128 bytes of arena, 512 live at most, ratio 0.250\n  in  x: f32[2*B, 8] @64\n  \
             f32[2*B, 8] @64 = linear {bias=true, weights=1} f32[2*B, 8] @64, \"w\"  # lm_head\n  \
             f32[2*B, 8] @64 = shift_rows f32[2*B, 8] @64  # lm_head\n"
        );
    }

    #[test]
    fn a_loop_that_counts_its_slots() {
        let arena = |dtype, dims: &[u32], at| {
            let dims = dims.iter().map(|n| Dim::constant(*n)).collect();
            Value { dtype, dims, place: Place::Arena(at) }
        };
        let canvas = arena(DType::I32, &[1, 4], 0);
        let history = arena(DType::I32, &[8, 1, 4], 64);
        let scalars = [(DType::I32, 256), (DType::I32, 320), (DType::F32, 384), (DType::F32, 448)];
        let scalars = scalars.map(|(dtype, at)| arena(dtype, &[], at));
        let [index, joint, temperature, alg_temp] = [2, 3, 4, 5].map(ValueId);
        let mut slots = Slots { symbol: 0, token: 7, eps: 0.5, joint, idle: Some((temperature, alg_temp)) };
        let mut lines = |idle: bool| {
            slots.idle = slots.idle.filter(|_| idle);
            let history_of = Some((ValueId(0), ValueId(1)));
            let slots = Some(slots.clone());
            let denoise = Denoise { steps: 8, index, body: vec![], history: history_of, slots };
            let program = Program {
                name: "f".to_owned(),
                symbols: vec![Symbol { name: "K".to_owned(), max: 4 }],
                values: [&[canvas.clone(), history.clone()], scalars.as_slice()].concat(),
                inputs: vec![],
                outputs: vec![],
                steps: vec![Step::Denoise(denoise)],
                arena_bytes: 512,
            };
            text("cpu", &program, &[]).lines().nth(1).map(str::to_owned)
        };
        let line = "  denoise 8 times, index i32[] @256, history of i32[1, 4] @0 in i32[8, 1, 4] @64, \
                    K slots of token 7 by the schedule to eps 0.5 unless i32[] @320 joins the rows";
        let idle = ", idle iterations left out where f32[] @384 and f32[] @448 are 0";
        assert_eq!(lines(true), Some(format!("{line}{idle}")));
        assert_eq!(lines(false), Some(line.to_owned()));
    }
}
