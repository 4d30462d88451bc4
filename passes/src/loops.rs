//! The loops of a module, for passes that move work out of them.

use crate::rewrite::place;
use dreamc_ir::{Graph, Module, Node, Op, Origin, Port, Type, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A `denoise` and its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loop {
    /// Number of the graph that holds the loop.
    pub(crate) outer: usize,
    /// The loop in it.
    pub(crate) node: Node,
    /// Number of the body's graph.
    pub(crate) body: usize,
    /// Iterations.
    pub(crate) steps: u64,
    /// States that the loop carries.
    pub(crate) states: usize,
}

/// The loops whose body is theirs alone: what they share could not be changed for one of them.
pub(crate) fn loops(module: &Module) -> Vec<Loop> {
    let mut found = Vec::new();
    for (outer, graph) in module.graphs.iter().enumerate() {
        for node in graph.order() {
            let Op::Denoise { steps, state, body, .. } = &graph.node(*node).op else { continue };
            let Some(body) = module.graphs.iter().position(|g| g.name == *body) else { continue };
            let states = usize::try_from(*state).unwrap_or(usize::MAX);
            found.push(Loop { outer, node: *node, body, steps: *steps, states });
        }
    }
    let alone = |l: &Loop| found.iter().filter(|other| other.body == l.body).count() == 1;
    found.iter().filter(|l| alone(l)).copied().collect()
}

/// Nodes of a loop's body that are put in front of the loop.
pub(crate) struct Outside<'m> {
    module: &'m mut Module,
    of: Loop,
    /// Where the next node is put in the outer graph.
    at: usize,
    /// Values of the body that the outer graph has too.
    known: BTreeMap<Value, Value>,
}

impl<'m> Outside<'m> {
    /// For one loop. What it captures is known outside.
    pub(crate) fn new(module: &'m mut Module, of: &Loop) -> Option<Outside<'m>> {
        let at = place(&module.graphs[of.outer], of.node)?;
        let given = &module.graphs[of.outer].node(of.node).inputs;
        let params = module.graphs[of.body].params.iter().skip(1);
        let captured = params.map(|p| p.value).zip(given.iter().copied()).skip(of.states);
        let known = captured.collect();
        Some(Outside { module, of: *of, at, known })
    }

    /// Puts a new node in front of the loop.
    pub(crate) fn insert(
        &mut self,
        op: Op,
        inputs: Vec<Value>,
        types: Vec<Type>,
        origin: Origin,
    ) -> Vec<Value> {
        let graph = &mut self.module.graphs[self.of.outer];
        let node = graph.insert(self.at, op, inputs, types, origin);
        self.at += 1;
        graph.node(node).outputs.clone()
    }

    /// The body.
    pub(crate) fn body(&self) -> &Graph {
        &self.module.graphs[self.of.body]
    }

    /// What stands outside for a value of the body; constants are put there when they are asked for.
    pub(crate) fn value(&mut self, value: Value) -> Option<Value> {
        if let Some(known) = self.known.get(&value) {
            return Some(*known);
        }
        let node = self.body().definitions().get(&value).copied()?;
        self.add(node);
        self.known.get(&value).copied()
    }

    /// Computes a node of the body outside as well.
    pub(crate) fn add(&mut self, node: Node) {
        self.add_as(node, Type::clone);
    }

    /// As [`Outside::add`], with results of other types.
    pub(crate) fn add_as(&mut self, node: Node, ty: impl Fn(&Type) -> Type) {
        let data = self.body().node(node).clone();
        let types = data.outputs.iter().map(|v| ty(self.body().ty(*v))).collect();
        let Some(inputs) = data.inputs.iter().map(|v| self.value(*v)).collect() else { return };
        let outputs = self.insert(data.op, inputs, types, data.origin);
        self.known.extend(data.outputs.into_iter().zip(outputs));
    }

    /// Notes what stands outside for a value of the body.
    pub(crate) fn define(&mut self, value: Value, outside: Value) {
        self.known.insert(value, outside);
    }

    /// Takes the nodes out of the body that are now outside. What others still use of them becomes a captured parameter.
    pub(crate) fn capture(self, moved: impl Fn(Node) -> bool) {
        let Outside { module, of, known, .. } = self;
        let body = &mut module.graphs[of.body];
        let needed = needed(body, &moved);
        let of_moved = body.order().iter().filter(|n| moved(**n)).flat_map(|n| body.node(*n).outputs.clone());
        let gone: Vec<Value> = of_moved.collect();
        body.retain(|node| !moved(node));
        let mut captured = Vec::new();
        for value in gone.into_iter().filter(|v| needed.contains(v)) {
            let Some(outside) = known.get(&value) else { continue };
            // The value keeps its number: it is a parameter now.
            body.params.push(Port { value, name: String::new() });
            captured.push(*outside);
        }
        module.graphs[of.outer].node_mut(of.node).inputs.extend(captured);
    }

    /// As [`Outside::capture`], where what is outside are tables of which the body takes the row of the step. Gives the
    /// number of nodes that left the body.
    pub(crate) fn look_up(self, step: Value, moved: &BTreeSet<Node>) -> u32 {
        let Outside { module, of, known, .. } = self;
        let needed = needed(&module.graphs[of.body], |node| moved.contains(&node));
        let mut removed = 0;
        for node in moved {
            let output = module.graphs[of.body].node(*node).outputs.first();
            let table = output.filter(|v| needed.contains(v)).and_then(|v| known.get(v));
            match table {
                Some(table) => {
                    let ty = module.graphs[of.outer].ty(*table).clone();
                    module.graphs[of.outer].node_mut(of.node).inputs.push(*table);
                    let body = &mut module.graphs[of.body];
                    let param = body.param("", ty);
                    body.replace(*node, Op::TakeRows, vec![param, step]);
                }
                None => {
                    module.graphs[of.body].remove(*node);
                    removed += 1;
                }
            }
        }
        removed
    }
}

/// Values that nodes which stay use, or that are results.
fn needed(body: &Graph, moved: impl Fn(Node) -> bool) -> BTreeSet<Value> {
    let stay = body.order().iter().filter(|n| !moved(**n)).flat_map(|n| &body.node(*n).inputs);
    stay.chain(body.results.iter().map(|p| &p.value)).copied().collect()
}
