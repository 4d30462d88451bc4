//! The one place where tests of passes touch the interpreter.

use crate::{Pass, Run, Stats, run_passes};
use dreamc_interp::{Data, Tensor, seeded};
use dreamc_ir::{Graph, Module, Type, parse, verify};

/// Runs a pass on text and gives text before, what it did and text after.
///
/// Checked on the way: both verify, a second run changes nothing, and the interpreter gives equal results
/// on seeded inputs.
pub(crate) fn check(run: fn(&mut Graph) -> Stats, text: &str) -> String {
    check_each(Run::Graph(run), text)
}

/// As [`check`], for a pass over modules.
pub(crate) fn check_module(run: fn(&mut Module) -> Stats, text: &str) -> String {
    check_each(Run::Module(run), text)
}

fn check_each(run: Run, text: &str) -> String {
    let before = parse(text).unwrap();
    let mut after = before.clone();
    let mut stats = Stats::default();
    let pass = Pass { name: "checked", run, why: "" };
    let mut run_all = |module: &mut Module| run_passes(&[pass], module, &mut |_, _, done| stats += *done);
    run_all(&mut after);
    let once = after.to_string();
    run_all(&mut after);
    assert_eq!(once, after.to_string(), "a second run changes the graph");
    assert_same(&before, &after, 7);
    format!("{before}---- {} rewritten, {} removed\n{after}", stats.rewritten, stats.removed)
}

/// Fails where two modules do not both verify, read back as printed and compute the same from these seeds.
pub(crate) fn assert_same(before: &Module, after: &Module, seed: u64) {
    for module in [before, after] {
        verify(module).unwrap();
        assert_eq!(parse(&module.to_string()).unwrap(), *module);
    }
    let (expected, found) = (results(before, seed), results(after, seed));
    assert_eq!(expected.len(), found.len());
    for (a, b) in expected.iter().zip(&found) {
        assert!(close(a, b), "{a:?}\n{b:?}\n{before}\n{after}");
    }
}

fn results(module: &Module, seed: u64) -> Vec<Tensor> {
    let symbols = module.symbols.iter().map(|(name, max)| (name.clone(), (*max).min(4))).collect();
    let graph = &module.graphs[0];
    let of_type = |(i, ty): (usize, &Type)| seeded(ty, &symbols, seed + i as u64);
    let inputs: Vec<Tensor> =
        graph.params.iter().map(|p| graph.ty(p.value)).enumerate().map(of_type).collect();
    let mut weights = |name: &str, ty: &Type| {
        let seed = name.bytes().fold(seed, |seed, b| seed.wrapping_mul(31).wrapping_add(u64::from(b)));
        Some(seeded(ty, &symbols, seed))
    };
    dreamc_interp::run(verify(module).unwrap(), &graph.name, &inputs, &mut weights, &mut ()).unwrap()
}

/// Floats within 1e-4 of the largest magnitude, since sums may be taken in another order; the rest equal.
fn close(a: &Tensor, b: &Tensor) -> bool {
    match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) if a.dims == b.dims => {
            let scale = x.iter().filter(|v| v.is_finite()).fold(1e-6_f32, |max, v| max.max(v.abs()));
            x.iter().zip(y).all(|(p, q)| p == q || (p - q).abs() <= 1e-4 * scale)
        }
        _ => a == b,
    }
}
