//! Modules to text.

use crate::graph::{Graph, Module, Port, Value};
use crate::text::Attribute;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, max) in &self.symbols {
            writeln!(f, "symbol {name} <= {max}")?;
        }
        for (i, graph) in self.graphs.iter().enumerate() {
            if i > 0 || !self.symbols.is_empty() {
                writeln!(f)?;
            }
            write!(f, "{graph}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = Numbers::default();
        write!(f, "graph @{}(", self.name)?;
        for (i, Port { value, name }) in self.params.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}: {}", numbers.of(*value), self.ty(*value))?;
            port_name(f, name)?;
        }
        writeln!(f, ") {{")?;
        for node in self.order() {
            let data = self.node(*node);
            let inputs: Vec<_> = data.inputs.iter().map(|v| numbers.of(*v).to_string()).collect();
            let outputs: Vec<_> = data.outputs.iter().map(|v| numbers.of(*v).to_string()).collect();
            let types: Vec<_> = data.outputs.iter().map(|v| self.ty(*v).to_string()).collect();
            let (name, attributes) = data.op.spelling();
            write!(f, "  {} = {name}", outputs.join(", "))?;
            if !inputs.is_empty() {
                write!(f, " {}", inputs.join(", "))?;
            }
            if !attributes.is_empty() {
                let list: Vec<_> =
                    attributes.iter().map(|(key, a)| format!("{key}={}", Spelled(a))).collect();
                write!(f, " {{{}}}", list.join(", "))?;
            }
            write!(f, " : {}", types.join(", "))?;
            for (i, path) in data.origin.0.iter().enumerate() {
                write!(f, "{}{}", if i > 0 { ", " } else { " loc " }, Quoted(path))?;
            }
            writeln!(f)?;
        }
        write!(f, "  return")?;
        for (i, Port { value, name }) in self.results.iter().enumerate() {
            write!(f, "{} {}", if i > 0 { "," } else { "" }, numbers.of(*value))?;
            port_name(f, name)?;
        }
        writeln!(f, "\n}}")
    }
}

fn port_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if name.is_empty() { Ok(()) } else { write!(f, " {}", Quoted(name)) }
}

/// Dense numbers in order of first appearance.
#[derive(Default)]
struct Numbers(BTreeMap<Value, u32>);

impl Numbers {
    fn of(&mut self, value: Value) -> Value {
        let next = self.0.len() as u32;
        Value(*self.0.entry(value).or_insert(next))
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

struct Spelled<'a>(&'a Attribute);

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: Vec<String>| write!(f, "[{}]", items.join(", "));
        match self.0 {
            Attribute::Int(n) => write!(f, "{n}"),
            // Debug prints the shortest text that reads back, always with a point or an exponent.
            Attribute::Float(x) => write!(f, "{x:?}"),
            Attribute::Text(text) => write!(f, "{}", Quoted(text)),
            Attribute::Word(word) => f.write_str(word),
            Attribute::Ints(v) => list(f, v.iter().map(i64::to_string).collect()),
            Attribute::Floats(v) => list(f, v.iter().map(|x| format!("{x:?}")).collect()),
        }
    }
}
