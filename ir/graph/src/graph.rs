//! Modules, graphs, nodes and values.

use crate::op::Op;
use crate::types::Type;
use std::collections::BTreeMap;
use std::fmt;

/// One tensor value; prints as `%3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u32);

/// One operation. Ids survive rewriting; program order is [`Graph::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// Module paths in the checkpoint that a node comes from (`model.layers.3.mlp`): our source location in
/// messages and the name that probes match. More than one where nodes were merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(pub Vec<String>);

impl Origin {
    /// A single path.
    pub fn path(path: impl Into<String>) -> Origin {
        Origin(vec![path.into()])
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeData {
    /// What it computes.
    pub op: Op,
    /// Operands, in the order that [`Op`] documents.
    pub inputs: Vec<Value>,
    /// Values that it defines.
    pub outputs: Vec<Value>,
    /// Where it comes from.
    pub origin: Origin,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueData {
    /// Its type.
    pub ty: Type,
}

/// A value with the name that callers know it by; the name may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The value.
    pub value: Value,
    /// `input_ids`, `logits`, ..
    pub name: String,
}

/// One function: parameters, nodes, results.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Without the `@`.
    pub name: String,
    /// Defined on entry.
    pub params: Vec<Port>,
    /// What the function gives back.
    pub results: Vec<Port>,
    nodes: Vec<NodeData>,
    values: Vec<ValueData>,
    order: Vec<Node>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// A new value that nothing defines yet.
    pub fn value(&mut self, ty: Type) -> Value {
        self.values.push(ValueData { ty });
        Value(self.values.len() as u32 - 1)
    }

    /// A new parameter.
    pub fn param(&mut self, name: impl Into<String>, ty: Type) -> Value {
        let value = self.value(ty);
        self.params.push(Port { value, name: name.into() });
        value
    }

    /// Appends a node that defines new values of these types.
    pub fn push(&mut self, op: Op, inputs: Vec<Value>, types: Vec<Type>, origin: Origin) -> Node {
        let at = self.order.len();
        self.insert(at, op, inputs, types, origin)
    }

    /// Inserts a node at place `at` of the program order.
    pub fn insert(
        &mut self,
        at: usize,
        op: Op,
        inputs: Vec<Value>,
        types: Vec<Type>,
        origin: Origin,
    ) -> Node {
        let outputs = types.into_iter().map(|ty| self.value(ty)).collect();
        self.nodes.push(NodeData { op, inputs, outputs, origin });
        let node = Node(self.nodes.len() as u32 - 1);
        self.order.insert(at, node);
        node
    }

    /// Takes a node out of the program. Its values stay named but undefined: nothing may use them.
    pub fn remove(&mut self, node: Node) {
        self.order.retain(|n| *n != node);
    }

    /// Keeps the nodes for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(Node) -> bool) {
        self.order.retain(|n| keep(*n));
    }

    /// Changes what a node computes; its values stay.
    pub fn replace(&mut self, node: Node, op: Op, inputs: Vec<Value>) {
        let data = &mut self.nodes[node.0 as usize];
        data.op = op;
        data.inputs = inputs;
    }

    /// Every use of `old` becomes a use of `new`.
    pub fn replace_uses(&mut self, old: Value, new: Value) {
        let operands = self.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut());
        for value in operands.chain(self.results.iter_mut().map(|p| &mut p.value)) {
            if *value == old {
                *value = new;
            }
        }
    }

    /// Nodes in program order.
    pub fn order(&self) -> &[Node] {
        &self.order
    }

    /// A node.
    pub fn node(&self, node: Node) -> &NodeData {
        &self.nodes[node.0 as usize]
    }

    /// A node, to change.
    pub fn node_mut(&mut self, node: Node) -> &mut NodeData {
        &mut self.nodes[node.0 as usize]
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value.0 as usize].ty
    }

    /// Number of values, used or not: ids are below it.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The node that defines each value; none for parameters.
    pub fn definitions(&self) -> BTreeMap<Value, Node> {
        let outputs = |n: &Node| self.node(*n).outputs.iter().map(|v| (*v, *n)).collect::<Vec<_>>();
        self.order.iter().flat_map(outputs).collect()
    }

    /// How often each value is used, by nodes and as a result.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        let operands = self.order.iter().flat_map(|n| self.node(*n).inputs.iter());
        for value in operands.chain(self.results.iter().map(|p| &p.value)) {
            counts[value.0 as usize] += 1;
        }
        counts
    }
}

/// Graphs and the bounds of their symbols.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Largest value of each symbol; a symbol without a bound can be rewritten but not built.
    pub symbols: BTreeMap<String, u64>,
    /// Entries and loop bodies.
    pub graphs: Vec<Graph>,
}

impl Module {
    /// The graph of this name.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        self.graphs.iter().find(|g| g.name == name)
    }
}

/// Equal programs: same text, whatever the ids.
impl PartialEq for Module {
    fn eq(&self, other: &Module) -> bool {
        self.to_string() == other.to_string()
    }
}
