//! Hostile plans are refused, and never make the validator panic.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{plan, weights};
use dreamc_artifact::code::*;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::*;
use dreamc_artifact::*;
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};
use proptest::prelude::*;

/// The rule that the plan breaks after an edit of its program.
fn broken(edit: impl FnOnce(&mut Program)) -> Option<Rule> {
    let mut plan = plan();
    edit(&mut plan.programs[0]);
    validate(&plan, &Code::default(), &weights().0).err().map(|e| e.rule)
}

fn denoise(program: &mut Program) -> &mut Denoise {
    match &mut program.steps[0] {
        Step::Denoise(denoise) => denoise,
        Step::Dispatch(_) => unreachable!("the plan is one loop"),
    }
}

fn dispatch(program: &mut Program, index: usize) -> &mut Dispatch {
    match &mut denoise(program).body[index] {
        Step::Dispatch(dispatch) => dispatch,
        Step::Denoise(_) => unreachable!("the body holds no loop"),
    }
}

#[test]
fn the_plan_is_valid() {
    assert_eq!(broken(|_| ()), None);
}

#[test]
fn each_rule_is_checked() {
    assert_eq!(broken(|p| p.symbols[0].max = 0), Some(Rule::SymbolMax));
    assert_eq!(broken(|p| p.symbols[1].name = "B".into()), Some(Rule::Names));
    assert_eq!(broken(|p| p.symbols[1].max = 1000), Some(Rule::ArenaEnd));
    assert_eq!(broken(|p| p.arena_bytes = 5120), Some(Rule::ArenaEnd));
    assert_eq!(broken(|p| p.arena_bytes = u64::MAX), Some(Rule::Limit));
    assert_eq!(broken(|p| p.values[7].place = Place::Arena(4097)), Some(Rule::Align));
    assert_eq!(broken(|p| p.values[7].place = Place::Arena(u64::MAX - 255)), Some(Rule::ArenaEnd));
    assert_eq!(broken(|p| p.values[1].place = Place::Weight(9)), Some(Rule::Index));
    assert_eq!(broken(|p| p.values[1].dims[0] = Dim::constant(21)), Some(Rule::WeightShape));
    assert_eq!(broken(|p| p.values[0].dims[0].terms[0].symbols[0] = 9), Some(Rule::Index));
    assert_eq!(broken(|p| p.values[7].dims[2] = Dim { terms: vec![] }), Some(Rule::Dim));
    assert_eq!(broken(|p| p.values[7].dims = vec![Dim::constant(1); 5]), Some(Rule::Limit));
    assert_eq!(broken(|p| p.outputs[0].value = ValueId(99)), Some(Rule::Index));
    assert_eq!(broken(|p| p.outputs[0].value = ValueId(1)), Some(Rule::Place));
    assert_eq!(broken(|p| denoise(p).steps = 0), Some(Rule::Setting));
    assert_eq!(broken(|p| denoise(p).steps = 4), Some(Rule::Shape));
    assert_eq!(broken(|p| denoise(p).index = ValueId(0)), Some(Rule::Shape));
    assert_eq!(broken(|p| p.values[5].place = Place::Arena(0)), Some(Rule::Overlap));
    assert_eq!(
        broken(|p| {
            let inner = p.steps.clone();
            denoise(p).body.extend(inner);
        }),
        Some(Rule::Nesting)
    );
    assert_eq!(broken(|p| dispatch(p, 0).reads.clear()), Some(Rule::OperandCount));
    assert_eq!(broken(|p| dispatch(p, 0).reads[1] = ValueId(3)), Some(Rule::WeightLayout));
    assert_eq!(broken(|p| dispatch(p, 2).reads[1] = ValueId(1)), Some(Rule::WeightLayout));
    assert_eq!(broken(|p| dispatch(p, 1).writes[0] = ValueId(1)), Some(Rule::Place));
    assert_eq!(broken(|p| dispatch(p, 0).reads[0] = ValueId(2)), Some(Rule::DType));
    // A linear must not write over what it multiplies.
    assert_eq!(broken(|p| dispatch(p, 2).reads[0] = ValueId(2)), Some(Rule::Overlap));
    // In place is exactly in place.
    assert_eq!(broken(|p| p.values[4].place = Place::Arena(1024 + 256)), Some(Rule::Overlap));
    // Equal at the maxima is not equal.
    assert_eq!(broken(|p| p.values[7].dims[1] = Dim::constant(16)), Some(Rule::Shape));
}

/// A plan of one sum with one launch, and its code.
fn launched() -> (Plan, Code) {
    let row = (DType::F32, vec![Dim::constant(8)]);
    let mut plan = single(Kernel::Add, &[row.clone(), row.clone()], &[row]);
    let bound = |id| Binding { value: ValueId(id), part: None };
    let scalars = vec![Scalar::Count(Dim::constant(8)), Scalar::Float(1.0)];
    let launch =
        Launch { module: 0, buffers: [0, 1, 2].map(bound).to_vec(), scalars, variant: None, candidate: None };
    let Step::Dispatch(dispatch) = &mut plan.programs[0].steps[0] else { unreachable!("it is one") };
    dispatch.launches = vec![launch];
    let buffer = |written| Buffer { element_bytes: 4, written };
    let module = Module {
        name: "f32_add_apart".into(),
        images: vec![Image::any(Form::Wgsl, b"code".to_vec())],
        workgroup: [256, 1, 1],
        shared_bytes: 0,
        buffers: [false, false, true].map(buffer).to_vec(),
        scalars: vec![ScalarType::U32, ScalarType::F32],
        grid: [Extent::Ceil { of: 0, per: 256, any: true }, Extent::Constant(1), Extent::Constant(1)],
        info: vec![Word::Scalar(0), Word::Scalar(1), Word::Length(2), Word::Zero],
    };
    (plan, Code { modules: vec![module] })
}

/// Modules and launches: sound settings, buffers and scalars that fit, what is written apart and in the arena.
#[test]
fn each_rule_of_launches_is_checked() {
    type Edit<'a> = &'a dyn Fn(&mut Module, &mut Launch);
    let broken = |edit: Edit<'_>| {
        let (mut plan, mut code) = launched();
        let Step::Dispatch(dispatch) = &mut plan.programs[0].steps[0] else { unreachable!("it is one") };
        edit(&mut code.modules[0], &mut dispatch.launches[0]);
        validate(&plan, &code, &weights().0).err().map(|e| e.rule)
    };
    assert_eq!(broken(&|_, _| ()), None);
    let bound = |id| Binding { value: ValueId(id), part: None };
    let cases: [(Edit<'_>, Rule); 17] = [
        (&|_, l| l.module = 1, Rule::Index),
        (&|_, l| l.buffers.truncate(2), Rule::Launch),
        (&|_, l| l.scalars.truncate(1), Rule::Launch),
        (&|_, l| l.scalars.swap(0, 1), Rule::Launch),
        (&|_, l| l.buffers[0].value = ValueId(9), Rule::Index),
        (&|_, l| l.buffers[2] = bound(0), Rule::Overlap),
        (&|_, l| l.scalars[0] = Scalar::Count(linear(1, &[(1, 9)])), Rule::Index),
        (&|_, l| l.scalars[0] = Scalar::Part { of: linear(1, &[(1, 9)]), first: 0, most: 1 }, Rule::Index),
        (&|_, l| l.buffers[0].part = Some((0, 33)), Rule::Limit),
        (&|_, l| l.buffers[0].part = Some((u64::MAX, 32)), Rule::Limit),
        (&|_, l| l.buffers[0].part = Some((4, 28)), Rule::Align),
        (&|_, l| l.buffers[0].part = Some((0, 0)), Rule::Align),
        (&|m, _| m.name.clear(), Rule::Names),
        (&|m, _| m.workgroup = [1025, 1, 1], Rule::Limit),
        (&|m, _| m.grid[0] = Extent::Ceil { of: 1, per: 1, any: true }, Rule::Setting),
        (&|m, _| m.grid[1] = Extent::Constant(0), Rule::Setting),
        (&|m, _| m.info.push(Word::Length(3)), Rule::Index),
    ];
    for (i, (edit, rule)) in cases.into_iter().enumerate() {
        assert_eq!(broken(edit), Some(rule), "case {i}");
    }
    // A device without code has no use for launches, and one with code none for a dispatch without.
    let (plan, code) = launched();
    let rule = |plan: &Plan, code: &Code| validate(plan, code, &weights().0).err().map(|e| e.rule);
    assert_eq!(rule(&plan, &Code::default()), Some(Rule::Launch));
    let mut none = plan.clone();
    let Step::Dispatch(dispatch) = &mut none.programs[0].steps[0] else { unreachable!("it is one") };
    dispatch.launches.clear();
    assert_eq!(rule(&none, &code), Some(Rule::Launch));
    let mut twice = code.clone();
    twice.modules.push(code.modules[0].clone());
    assert_eq!(rule(&plan, &twice), Some(Rule::Names));
    assert_eq!(decode_code(&encode_code(&code).unwrap()), Ok(code));
    assert_eq!(decode_code(b"\x01x\xff\xff\xff\xff\x0f"), Err(OpenError::CodeBytes));
}

/// Variants are tables: ranges of one length that meet, from 0 to the maximum.
#[test]
fn variants_of_launches() {
    let rule = |ranges: &[Option<(u32, u32, u32)>]| {
        let (mut plan, code) = launched();
        plan.programs[0].symbols = vec![Symbol { name: "S".into(), max: 40 }];
        let Step::Dispatch(dispatch) = &mut plan.programs[0].steps[0] else { unreachable!("it is one") };
        let launch = dispatch.launches.remove(0);
        let of = |(times, above, up_to)| Variant { of: linear(0, &[(times, 0)]), above, up_to };
        let with = |range: &Option<_>| Launch { variant: range.map(of), ..launch.clone() };
        dispatch.launches = ranges.iter().map(with).collect();
        validate(&plan, &code, &weights().0).err().map(|e| e.rule)
    };
    for sound in [
        &[Some((1, 0, 40))][..],
        &[Some((1, 0, 16)), Some((1, 16, 32)), Some((1, 32, u32::MAX))],
        // Two launches for long requests; a table, a launch, a table.
        &[Some((1, 0, 16)), Some((1, 16, 40)), Some((1, 16, 40))],
        &[Some((1, 0, 16)), Some((1, 16, 40)), None, Some((2, 0, 8)), Some((2, 8, 80))],
        &[Some((1, 0, 40)), Some((1, 0, 16)), Some((1, 16, 40))],
    ] {
        assert_eq!(rule(sound), None, "{sound:?}");
    }
    for (unsound, why) in [
        (&[Some((1, 0, 39))][..], Rule::Variant),
        (&[Some((1, 1, 40))], Rule::Variant),
        (&[Some((1, 0, 16)), Some((1, 17, 40))], Rule::Variant),
        (&[Some((1, 0, 16)), Some((1, 15, 40))], Rule::Variant),
        (&[Some((1, 0, 16)), Some((2, 16, 80))], Rule::Variant),
        (&[Some((1, 0, 16)), None, Some((1, 16, 40))], Rule::Variant),
        (&[Some((1, 16, 40)), Some((1, 0, 16))], Rule::Variant),
        (&[Some((1, 0, 0)), Some((1, 0, 40))], Rule::Setting),
    ] {
        assert_eq!(rule(unsound), Some(why), "{unsound:?}");
    }
}

/// Candidates of a choice are numbered without a gap, for the same lengths, and write the same.
#[test]
fn candidates_of_choices() {
    /// Range of lengths, candidate, and whether it writes elsewhere.
    type One = (Option<(u32, u32)>, Option<(u32, u32)>, bool);
    let rule = |launches: &[One]| {
        let (mut plan, code) = launched();
        plan.programs[0].symbols = vec![Symbol { name: "S".into(), max: 40 }];
        let mut other = plan.programs[0].values[2].clone();
        other.place = Place::Arena(plan.programs[0].arena_bytes);
        plan.programs[0].arena_bytes += 1 << 10;
        plan.programs[0].values.push(other);
        let Step::Dispatch(dispatch) = &mut plan.programs[0].steps[0] else { unreachable!("it is one") };
        let launch = dispatch.launches.remove(0);
        let with = |(range, candidate, elsewhere): &One| {
            let variant = range.map(|(above, up_to)| Variant { of: linear(0, &[(1, 0)]), above, up_to });
            let candidate = candidate.map(|(choice, nth)| Candidate { choice, nth });
            let mut launch = Launch { variant, candidate, ..launch.clone() };
            if *elsewhere {
                launch.buffers[2].value = ValueId(3);
            }
            launch
        };
        dispatch.launches = launches.iter().map(with).collect();
        let choices = plan.programs[0].choices();
        (validate(&plan, &code, &weights().0).err().map(|e| e.rule), choices)
    };
    let one = |choice, nth| (None, Some((choice, nth)), false);
    let choice = |number, candidates| Choice { number, candidates };
    assert_eq!(rule(&[one(3, 0), one(3, 1)]), (None, vec![choice(3, 2)]));
    // A candidate of two launches, a launch of none, another choice; twice the same.
    let mixed = [one(0, 0), one(0, 1), one(0, 1), (None, None, false), one(7, 0), one(7, 1), one(7, 2)];
    assert_eq!(rule(&mixed), (None, vec![choice(0, 2), choice(7, 3)]));
    assert_eq!(rule(&[one(0, 0), one(0, 1), one(0, 0), one(0, 1)]).0, None);
    let of = |range: (u32, u32), nth| (Some(range), Some((range.0, nth)), false);
    assert_eq!(rule(&[of((0, 16), 0), of((0, 16), 1), of((16, 40), 0), of((16, 40), 1)]).0, None);
    for unsound in [
        &[one(0, 0)][..],
        &[one(0, 1)],
        &[one(0, 0), one(0, 2)],
        &[one(0, 0), one(0, CANDIDATE_COUNT_MAX)],
        &[one(0, 0), (None, Some((0, 1)), true)],
        &[of((0, 16), 0), of((0, 16), 1), (Some((16, 40)), Some((0, 1)), false)],
    ] {
        assert_eq!(rule(unsound).0, Some(Rule::Candidates), "{unsound:?}");
    }
}

/// Fp8 is for devices with code, in parts, and where rows are in fp8 too.
#[test]
fn weights_in_fp8() {
    let rule = |layout: Layout, codes: Option<Codes>, with_code: bool, part: Option<(u64, u64)>| {
        let (mut table, _) = weights();
        table[1].layout = layout;
        table[1].bytes = layout.stored_bytes(DType::F32, &table[1].dims).unwrap();
        let row = (DType::F32, vec![Dim::constant(1), Dim::constant(8)]);
        let plain = Linear {
            norm_eps: None,
            weights: 1,
            bias: false,
            residual: false,
            swiglu: false,
            smooth: false,
            codes,
            activation: None,
        };
        let matrix = (DType::F32, vec![Dim::constant(8); 2]);
        let mut plan = single(Kernel::Linear(plain), &[row.clone(), matrix], &[row]);
        plan.programs[0].values[1].place = Place::Weight(1);
        let (_, mut code) = launched();
        let Step::Dispatch(dispatch) = &mut plan.programs[0].steps[0] else { unreachable!("it is one") };
        let bound = |(id, part)| Binding { value: ValueId(id), part };
        let scalars = vec![Scalar::Count(Dim::constant(8)), Scalar::Float(1.0)];
        let buffers = [(0, None), (1, part), (2, None)].map(bound).to_vec();
        if with_code {
            dispatch.launches = vec![Launch { module: 0, buffers, scalars, variant: None, candidate: None }];
        } else {
            code = Code::default();
        }
        validate(&plan, &code, &table).err().map(|e| e.rule)
    };
    let fp8 = Layout::Quantized(Quant::Fp8);
    // Eight rows of 16 bytes, filled up to 256, and eight scales.
    let (codes, scales) = (Some((0, 256)), Some((256, 32)));
    assert_eq!(rule(fp8, Some(Codes::Fp8), true, codes), None);
    assert_eq!(rule(fp8, Some(Codes::Fp8), true, scales), None);
    assert_eq!(rule(fp8, Some(Codes::Fp8), true, Some((256, 64))), Some(Rule::Limit));
    assert_eq!(rule(fp8, Some(Codes::Fp8), true, None), Some(Rule::WeightLayout));
    assert_eq!(rule(fp8, Some(Codes::Int8), true, codes), Some(Rule::WeightLayout));
    assert_eq!(rule(fp8, None, true, codes), Some(Rule::WeightLayout));
    assert_eq!(rule(fp8, Some(Codes::Fp8), false, None), Some(Rule::WeightLayout));
    assert_eq!(rule(Layout::RowMajor, Some(Codes::Fp8), true, None), Some(Rule::WeightLayout));
    assert_eq!(rule(Layout::RowMajor, None, true, None), None);
    assert_eq!(
        rule(Layout::Quantized(Quant::Int8), Some(Codes::Int8), true, codes),
        Some(Rule::WeightLayout)
    );
    assert_eq!(rule(Layout::Quantized(Quant::Int8), Some(Codes::Fp8), false, None), Some(Rule::WeightLayout));
    assert_eq!(rule(Layout::Quantized(Quant::Int8), Some(Codes::Int8), false, None), None);
}

type Typed = (DType, Vec<Dim>);

/// A plan of one kernel on values of these types and shapes, each in a place of its own. Of the symbols, `B` is 0 and
/// `S` is 1.
fn single(kernel: Kernel, reads: &[Typed], writes: &[Typed]) -> Plan {
    let mut plan = plan();
    let program = &mut plan.programs[0];
    program.arena_bytes = 1 << 20;
    let value =
        |(i, (dtype, dims)): (usize, Typed)| Value { dtype, dims, place: Place::Arena(i as u64 * (1 << 16)) };
    program.values = reads.iter().chain(writes).cloned().enumerate().map(value).collect();
    program.inputs.clear();
    program.outputs.clear();
    let ids = |from: usize, n: usize| (from..from + n).map(|i| ValueId(i as u32)).collect();
    let (reads, writes) = (ids(0, reads.len()), ids(reads.len(), writes.len()));
    program.steps =
        vec![Step::Dispatch(Dispatch { kernel, reads, writes, origin: vec![], launches: vec![] })];
    plan
}

/// The rule that this kernel breaks.
fn alone(kernel: Kernel, reads: &[Typed], write: Typed) -> Option<Rule> {
    validate(&single(kernel, reads, &[write]), &Code::default(), &weights().0).err().map(|e| e.rule)
}

/// `n + coefficient * symbol`.
fn linear(n: u32, terms: &[(u32, u32)]) -> Dim {
    let term =
        |(coefficient, symbol): &(u32, u32)| Term { coefficient: *coefficient, symbols: vec![*symbol] };
    let mut dim = Dim::constant(n);
    dim.terms.extend(terms.iter().map(term));
    dim
}

#[test]
fn shapes_that_add_up() {
    let (b, s, n) = (linear(0, &[(1, 0)]), linear(0, &[(1, 1)]), Dim::constant);
    let f32 = |dims: &[&Dim]| (DType::F32, dims.iter().map(|d| (*d).clone()).collect::<Vec<_>>());
    let i32 = |dims: &[&Dim]| (DType::I32, f32(dims).1);
    // Sums.
    let parts = [f32(&[&b, &s, &n(4)]), f32(&[&b, &n(3), &n(4)]), f32(&[&b, &s, &n(4)])];
    let joined = |dim: Dim| alone(Kernel::Concat { axis: 1 }, &parts, f32(&[&b, &dim, &n(4)]));
    assert_eq!(joined(linear(3, &[(2, 1)])), None);
    assert_eq!(joined(linear(1, &[(1, 1), (1, 1), (0, 0)])), Some(Rule::Shape));
    assert_eq!(joined(linear(4, &[(2, 1)])), Some(Rule::Shape));
    assert_eq!(joined(n(35)), Some(Rule::Shape));
    let wide = |axis| alone(Kernel::Concat { axis }, &parts[..1], parts[0].clone());
    assert_eq!((wide(2), wide(3), wide(u32::MAX)), (None, Some(Rule::Setting), Some(Rule::Setting)));
    let many = vec![parts[0].clone(); 9];
    let nine = f32(&[&b, &linear(0, &[(9, 1)]), &n(4)]);
    assert_eq!(alone(Kernel::Concat { axis: 1 }, &many, nine), Some(Rule::OperandCount));
    assert_eq!(alone(Kernel::Concat { axis: 0 }, &[], f32(&[&n(1)])), Some(Rule::OperandCount));
    // What is left out.
    let dropped = |count, dim: Dim| {
        alone(Kernel::DropRows { count }, &[f32(&[&b, &dim, &n(4)])], f32(&[&b, &s, &n(4)]))
    };
    assert_eq!(dropped(3, linear(3, &[(1, 1)])), None);
    assert_eq!(dropped(2, linear(3, &[(1, 1)])), Some(Rule::Shape));
    assert_eq!(dropped(u32::MAX, linear(3, &[(1, 1)])), Some(Rule::Shape));
    // Products.
    let copied = |from: &[&Dim], to: &[&Dim]| alone(Kernel::Copy, &[f32(from)], f32(to));
    assert_eq!(copied(&[&b, &linear(0, &[(4, 1)]), &n(6)], &[&b, &s, &n(24)]), None);
    assert_eq!(
        copied(
            &[&linear(1, &[(1, 1)]), &b],
            &[&Dim {
                terms: vec![
                    Term { coefficient: 1, symbols: vec![1, 0] },
                    Term { coefficient: 1, symbols: vec![0] },
                ]
            }]
        ),
        None
    );
    assert_eq!(copied(&[&b, &s], &[&s]), Some(Rule::Shape));
    assert_eq!(copied(&[&b, &s], &[&n(32)]), Some(Rule::Shape));
    assert_eq!(alone(Kernel::Copy, &[f32(&[&b])], i32(&[&b])), Some(Rule::DType));
    // Rows.
    let x = f32(&[&b, &s, &n(4)]);
    let taken =
        |index: (DType, Vec<Dim>)| alone(Kernel::TakeRows, &[x.clone(), index], f32(&[&b, &n(2), &n(4)]));
    assert_eq!(taken(i32(&[&b, &n(2)])), None);
    assert_eq!(taken(i32(&[&b, &n(3)])), Some(Rule::Shape));
    assert_eq!(taken(f32(&[&b, &n(2)])), Some(Rule::DType));
    let one_row = |x: &[&Dim], y: &[&Dim]| alone(Kernel::TakeRows, &[f32(x), i32(&[])], f32(y));
    assert_eq!(one_row(&[&n(1), &s, &n(4)], &[&n(1), &n(1), &n(4)]), None);
    for y in [&[&n(1), &n(2), &n(4)], &[&n(1), &n(1), &n(5)]] {
        assert_eq!(one_row(&[&n(1), &s, &n(4)], y), Some(Rule::Shape));
    }
    assert_eq!(one_row(&[&b, &s, &n(4)], &[&n(1), &n(1), &n(4)]), Some(Rule::Shape));
    let spliced = |rows| alone(Kernel::Splice, &[x.clone(), i32(&[&b, &s]), rows], x.clone());
    assert_eq!((spliced(f32(&[&n(9), &n(4)])), spliced(f32(&[&n(4)]))), (None, None));
    assert_eq!((spliced(f32(&[&n(9), &n(5)])), spliced(f32(&[]))), (Some(Rule::Shape), Some(Rule::Shape)));
}

#[test]
fn settings_are_checked() {
    let (b, s, n) = (linear(0, &[(1, 0)]), linear(0, &[(1, 1)]), Dim::constant);
    let f32 = |dims: &[&Dim]| (DType::F32, dims.iter().map(|d| (*d).clone()).collect::<Vec<_>>());
    let i32 = |dims: &[&Dim]| (DType::I32, f32(dims).1);
    let setting = Some(Rule::Setting);
    let embed = |times, w| alone(Kernel::TimestepEmbed { times }, &[i32(&[])], f32(&[&n(1), &n(w)]));
    assert_eq!((embed(vec![0.5], 4), embed(vec![0.0; STEPS_MAX as usize], 6)), (None, None));
    assert_eq!((embed(vec![], 4), embed(vec![0.0; STEPS_MAX as usize + 1], 4)), (setting, setting));
    assert_eq!((embed(vec![f32::NAN], 4), embed(vec![f32::INFINITY], 4)), (setting, setting));
    assert_eq!((embed(vec![0.5], 2), embed(vec![0.5], 5)), (Some(Rule::Shape), Some(Rule::Shape)));
    let table =
        |index: &[&Dim], y: &[&Dim]| alone(Kernel::TimestepEmbed { times: vec![0.5] }, &[i32(index)], f32(y));
    assert_eq!((table(&[&n(7)], &[&n(1), &n(7), &n(4)]), table(&[&n(7)], &[&n(7), &n(4)])), (None, None));
    for (index, y) in [
        (vec![n(7)], vec![n(1), n(6), n(4)]),
        (vec![n(7)], vec![n(2), n(7), n(4)]),
        (vec![n(4)], vec![n(4)]),
        (vec![s.clone()], vec![n(1), s.clone(), n(4)]),
        (vec![n(1), n(7)], vec![n(1), n(7), n(4)]),
    ] {
        let refs = |dims: &[Dim]| dims.to_vec();
        let found = alone(
            Kernel::TimestepEmbed { times: vec![0.5] },
            &[(DType::I32, refs(&index))],
            (DType::F32, refs(&y)),
        );
        assert_eq!(found, Some(Rule::Shape), "{index:?} {y:?}");
    }
    let (x, index) = (f32(&[&b, &n(4)]), i32(&[]));
    let ddim = |alphas| alone(Kernel::DdimStep { alphas }, &[x.clone(), x.clone(), index.clone()], x.clone());
    assert_eq!(ddim(vec![0.5, 1.0]), None);
    for alphas in [vec![], vec![1.0], vec![0.0, 1.0], vec![0.5, 1.1], vec![f32::NAN; 2]] {
        assert_eq!(ddim(alphas), setting);
    }
    let euler = |dt| alone(Kernel::EulerStep { dt }, &[x.clone(), x.clone()], x.clone());
    assert_eq!((euler(-0.1), euler(f32::NAN)), (None, setting));
    let logits = f32(&[&b, &s, &n(10)]);
    let keep = |first, len| {
        alone(Kernel::KeepTokens { first, len }, &[logits.clone(), i32(&[&b, &s])], logits.clone())
    };
    assert_eq!((keep(0, 10), keep(9, 1)), (None, None));
    assert_eq!((keep(1, 10), keep(0, 0), keep(u32::MAX, 2)), (setting, setting, setting));
    let norm = |eps| {
        let row = f32(&[&n(10)]);
        alone(Kernel::LayerNorm { eps }, &[logits.clone(), row.clone(), row], logits.clone())
    };
    assert_eq!((norm(0.0), norm(-1.0), norm(f32::NAN)), (None, setting, setting));
    let table = |sections: Vec<u32>, planes: u32| {
        let total = sections.iter().fold(0, |sum: u32, n| sum.saturating_add(*n));
        let positions = if planes <= 1 { i32(&[&b, &s]) } else { i32(&[&n(planes), &b, &s]) };
        let angles = f32(&[&b, &s, &n(total.clamp(1, 64))]);
        let kernel = Kernel::RopeTable { theta: 1e4, sections, axial: true };
        let plan = single(kernel, &[positions], &[angles.clone(), angles]);
        validate(&plan, &Code::default(), &weights().0).err().map(|e| e.rule)
    };
    assert_eq!((table(vec![64], 1), table(vec![16, 24, 24], 3), table(vec![1; 4], 4)), (None, None, None));
    for sections in [vec![], vec![0], vec![3, 0], vec![1; 5], vec![u32::MAX, 2]] {
        assert_eq!(table(sections.clone(), sections.len() as u32), setting, "{sections:?}");
    }
    assert_eq!((table(vec![2, 2], 3), table(vec![2, 2], 1)), (Some(Rule::Shape), Some(Rule::Shape)));
}

/// Queries stand at the rows of an index; tokens are counted from one that fits.
#[test]
fn rows_and_tokens_are_checked() {
    let (b, s, r, n) = (linear(0, &[(1, 0)]), linear(0, &[(1, 1)]), Dim::constant(3), Dim::constant);
    let f32 = |dims: &[&Dim]| (DType::F32, dims.iter().map(|d| (*d).clone()).collect::<Vec<_>>());
    let i32 = |dims: &[&Dim]| (DType::I32, f32(dims).1);
    let attend = |packed, rope, index: Option<Typed>, y: Typed| {
        let attention = Attention { heads: 2, kv_heads: 1, head_dim: 4, packed, rope, rows: true };
        let (q, k, table) = (f32(&[&b, &r, &n(8)]), f32(&[&b, &s, &n(4)]), f32(&[&b, &s, &n(2)]));
        let mut reads = vec![q, k.clone(), k, i32(&[&b, &s])];
        if rope {
            reads.extend([table.clone(), table]);
        }
        reads.extend(index);
        alone(Kernel::Attention(attention), &reads, y)
    };
    let (index, y) = (Some(i32(&[&b, &r])), f32(&[&b, &r, &n(8)]));
    assert_eq!(attend(false, false, index.clone(), y.clone()), None);
    assert_eq!(attend(false, true, index.clone(), y.clone()), None);
    assert_eq!(attend(true, false, index.clone(), y.clone()), Some(Rule::Setting));
    assert_eq!(attend(false, true, None, y.clone()), Some(Rule::OperandCount));
    assert_eq!(attend(false, true, Some(i32(&[&b, &s])), y.clone()), Some(Rule::Shape));
    assert_eq!(attend(false, true, Some(f32(&[&b, &r])), y), Some(Rule::DType));
    assert_eq!(attend(false, true, index, f32(&[&b, &s, &n(8)])), Some(Rule::Shape));
    let draw = |first| {
        let reads = [
            f32(&[&b, &s, &n(10)]),
            (DType::Bool, f32(&[&b, &s]).1),
            f32(&[]),
            (DType::U32, f32(&[&b, &s]).1),
        ];
        alone(Kernel::DrawToken { first }, &reads, i32(&[&b, &s]))
    };
    assert_eq!((draw(0), draw(i32::MAX as u32 - 10)), (None, None));
    assert_eq!((draw(i32::MAX as u32), draw(u32::MAX)), (Some(Rule::Setting), Some(Rule::Setting)));
}

/// A loop does not run past the schedule of what it holds.
#[test]
fn schedules_cover_the_loop() {
    let timed = |steps: usize| {
        broken(|p| {
            p.values[7] = Value {
                dtype: DType::F32,
                dims: vec![Dim::constant(1), Dim::constant(4)],
                ..p.values[7].clone()
            };
            let embed = Dispatch {
                kernel: Kernel::TimestepEmbed { times: vec![0.0; steps] },
                reads: vec![ValueId(5)],
                writes: vec![ValueId(7)],
                origin: vec![],
                launches: vec![],
            };
            denoise(p).body = vec![Step::Dispatch(embed)];
        })
    };
    assert_eq!((timed(2), timed(3), timed(4)), (Some(Rule::Setting), None, None));
    let denoised = |alphas: usize| {
        broken(|p| {
            let ddim = Dispatch {
                kernel: Kernel::DdimStep { alphas: vec![0.5; alphas] },
                reads: vec![ValueId(2), ValueId(7), ValueId(5)],
                writes: vec![ValueId(2)],
                origin: vec![],
                launches: vec![],
            };
            denoise(p).body = vec![Step::Dispatch(ddim)];
        })
    };
    assert_eq!((denoised(3), denoised(4)), (Some(Rule::Setting), None));
}

/// The history holds whatever is copied into it.
#[test]
fn history_of_any_type() {
    let history = |from: (DType, Vec<Dim>), into: (DType, Vec<Dim>)| {
        broken(|p| {
            p.arena_bytes = 1 << 20;
            let place = |at: u64| Place::Arena((1 << 18) + at * (1 << 16));
            p.values.push(Value { dtype: from.0, dims: from.1, place: place(0) });
            p.values.push(Value { dtype: into.0, dims: into.1, place: place(1) });
            denoise(p).history = Some((ValueId(11), ValueId(12)));
        })
    };
    let n = Dim::constant;
    for dtype in [DType::F32, DType::BF16, DType::Bool, DType::I32] {
        assert_eq!(history((dtype, vec![]), (dtype, vec![n(3)])), None);
        assert_eq!(history((dtype, vec![n(2), n(4), n(5)]), (dtype, vec![n(3), n(2), n(4), n(5)])), None);
        assert_eq!(history((dtype, vec![n(2)]), (dtype, vec![n(3), n(1), n(2)])), Some(Rule::Shape));
        assert_eq!(history((dtype, vec![n(2)]), (dtype, vec![n(4), n(2)])), Some(Rule::Shape));
    }
    assert_eq!(history((DType::F32, vec![n(2)]), (DType::I32, vec![n(3), n(2)])), Some(Rule::DType));
    let deep = vec![n(3), n(1), n(1), n(1), n(1)];
    assert_eq!(history((DType::F32, vec![n(1); 4]), (DType::F32, deep)), Some(Rule::Limit));
}

/// The plan, with a loop that knows its slots: symbol 2 counts them, values 11 and 12 hold them, 13 to 15 are inputs.
fn slotted() -> Plan {
    let mut plan = plan();
    let p = &mut plan.programs[0];
    p.arena_bytes = 1 << 20;
    p.symbols.push(Symbol { name: "K".into(), max: 16 });
    let by_slot = vec![linear(0, &[(1, 0)]), linear(0, &[(1, 2)])];
    let added = [
        (DType::I32, by_slot.clone()),
        (DType::Bool, by_slot),
        (DType::I32, vec![]),
        (DType::F32, vec![]),
        (DType::F32, vec![]),
    ];
    for ((dtype, dims), at) in added.into_iter().zip(1..) {
        p.values.push(Value { dtype, dims, place: Place::Arena(at << 16) });
    }
    for (name, value) in [("joint", 13), ("temperature", 14), ("alg_temp", 15)] {
        p.inputs.push(Port { name: name.into(), value: ValueId(value) });
    }
    let dispatch = |kernel, reads: &[u32], writes: &[u32]| {
        let ids = |ids: &[u32]| ids.iter().map(|id| ValueId(*id)).collect();
        let (reads, writes) = (ids(reads), ids(writes));
        Step::Dispatch(Dispatch { kernel, reads, writes, origin: vec![], launches: vec![] })
    };
    let loop_ = denoise(p);
    loop_.slots = Some(Slots {
        symbol: 2,
        token: 7,
        eps: 1e-3,
        joint: ValueId(13),
        idle: Some((ValueId(14), ValueId(15))),
    });
    loop_.body.insert(0, dispatch(Kernel::OpenSlots { token: 7 }, &[0], &[11, 12]));
    loop_.body.insert(1, dispatch(Kernel::CommitSlots, &[12, 11, 11, 10], &[9]));
    plan
}

/// What depends on the number of open slots lives in one iteration, and what the loop looks at are inputs.
#[test]
fn rules_of_slots() {
    fn slots(p: &mut Program) -> &mut Slots {
        denoise(p).slots.as_mut().unwrap()
    }
    let broken = |edit: &dyn Fn(&mut Program)| {
        let mut plan = slotted();
        edit(&mut plan.programs[0]);
        let bytes = encode_plan(&plan).unwrap();
        let read = decode_plan(&bytes).unwrap();
        // Not the plans, which may hold what is no number.
        assert_eq!(encode_plan(&read).unwrap(), bytes);
        validate(&read, &Code::default(), &weights().0).err().map(|e| e.rule)
    };
    assert_eq!(broken(&|_| ()), None);
    assert_eq!(broken(&|p| slots(p).idle = None), None);
    assert_eq!(broken(&|p| slots(p).symbol = 3), Some(Rule::Index));
    assert_eq!(broken(&|p| slots(p).token = u32::MAX), Some(Rule::Setting));
    for eps in [0.0, 1.0, f32::NAN] {
        assert_eq!(broken(&|p| slots(p).eps = eps), Some(Rule::Setting));
    }
    assert_eq!(broken(&|p| slots(p).joint = ValueId(99)), Some(Rule::Slots));
    assert_eq!(broken(&|p| slots(p).joint = ValueId(5)), Some(Rule::Slots));
    assert_eq!(broken(&|p| slots(p).joint = ValueId(14)), Some(Rule::DType));
    assert_eq!(broken(&|p| slots(p).idle = Some((ValueId(14), ValueId(13)))), Some(Rule::DType));
    assert_eq!(broken(&|p| slots(p).idle = Some((ValueId(2), ValueId(15)))), Some(Rule::Slots));
    assert_eq!(broken(&|p| denoise(p).history = None), Some(Rule::Slots));
    let twice = |p: &mut Program| p.steps.push(p.steps[0].clone());
    assert_eq!(broken(&twice), Some(Rule::Limit));
    // Read before it is written: it would come from an iteration with more slots.
    assert_eq!(broken(&|p| denoise(p).body.swap(0, 1)), Some(Rule::Slots));
    // Outside of the loop, or of the program.
    assert_eq!(
        broken(&|p| {
            let first = denoise(p).body[0].clone();
            p.steps.push(first);
        }),
        Some(Rule::Slots)
    );
    let port = |value| Port { name: "k".into(), value: ValueId(value) };
    assert_eq!(broken(&|p| p.outputs.push(port(11))), Some(Rule::Slots));
    assert_eq!(broken(&|p| p.inputs.push(port(12))), Some(Rule::Slots));
}

#[test]
fn kernels_of_slots() {
    let (b, s, k, n) = (linear(0, &[(1, 0)]), linear(0, &[(1, 1)]), Dim::constant(5), Dim::constant);
    let of = |dtype, dims: &[&Dim]| (dtype, dims.iter().map(|d| (*d).clone()).collect::<Vec<_>>());
    let (canvas, slots) = (of(DType::I32, &[&b, &s]), of(DType::I32, &[&b, &k]));
    let (open, bits) = (of(DType::Bool, &[&b, &k]), of(DType::U32, &[&b, &k]));
    let (shape, dtype, setting) = (Some(Rule::Shape), Some(Rule::DType), Some(Rule::Setting));
    let find = |token, slots: &Typed, open: &Typed| {
        let plan = single(
            Kernel::OpenSlots { token },
            std::slice::from_ref(&canvas),
            &[slots.clone(), open.clone()],
        );
        validate(&plan, &Code::default(), &weights().0).err().map(|e| e.rule)
    };
    assert_eq!((find(7, &slots, &open), find(u32::MAX, &slots, &open)), (None, setting));
    assert_eq!((find(7, &slots, &of(DType::Bool, &[&b, &s])), find(7, &bits, &open)), (shape, dtype));
    assert_eq!(find(7, &of(DType::I32, &[&s, &k]), &of(DType::Bool, &[&s, &k])), shape);
    let rows =
        |before, y: &Typed| alone(Kernel::ReadRows { before }, std::slice::from_ref(&slots), y.clone());
    assert_eq!((rows(1, &slots), rows(u32::MAX, &slots), rows(0, &canvas)), (None, setting, shape));
    let lane = dreamc_num::stream::Lane::Token;
    let drawn = |words: u32, y: &Typed| {
        alone(Kernel::SlotBits { lane }, &[slots.clone(), of(DType::U32, &[&n(words)])], y.clone())
    };
    assert_eq!((drawn(4, &bits), drawn(3, &bits), drawn(4, &slots)), (None, shape, dtype));
    let take = |x: &Typed, y: &Typed| alone(Kernel::TakeSlots, &[x.clone(), slots.clone()], y.clone());
    assert_eq!((take(&canvas, &slots), take(&canvas, &canvas)), (None, shape));
    assert_eq!(
        (take(&of(DType::I32, &[&n(2), &s]), &slots), take(&of(DType::F32, &[&b, &s]), &slots)),
        (shape, dtype)
    );
    let commit = |select: &Typed, token: &Typed, y: &Typed| {
        let reads = [select.clone(), token.clone(), slots.clone(), canvas.clone()];
        alone(Kernel::CommitSlots, &reads, y.clone())
    };
    assert_eq!((commit(&open, &slots, &canvas), commit(&open, &canvas, &canvas)), (None, shape));
    assert_eq!((commit(&slots, &slots, &canvas), commit(&open, &slots, &slots)), (dtype, shape));
}

/// Lists inside a kernel are bounded while they are read.
#[test]
fn long_lists_are_refused() {
    let read = |kernel: Kernel| {
        let mut plan = plan();
        plan.programs[0].steps = vec![Step::Dispatch(Dispatch {
            kernel,
            reads: vec![],
            writes: vec![],
            origin: vec![],
            launches: vec![],
        })];
        let back = decode_plan(&encode_plan(&plan).unwrap());
        assert!(back == Ok(plan) || back == Err(OpenError::PlanBytes));
        back.is_ok()
    };
    let steps = STEPS_MAX as usize;
    let times = |n| read(Kernel::TimestepEmbed { times: vec![0.5; n] });
    assert!(times(0) && times(steps) && !times(steps + 1));
    let alphas = |n| read(Kernel::DdimStep { alphas: vec![0.5; n] });
    assert!(alphas(steps + 1) && !alphas(steps + 2));
    let table = |n| read(Kernel::RopeTable { theta: 1e4, sections: vec![1; n], axial: false });
    assert!(table(ROPE_SECTION_COUNT_MAX) && !table(ROPE_SECTION_COUNT_MAX + 1));
}

/// A loop in a loop in a loop .. is refused while it is read, before it could exhaust the stack.
#[test]
fn deep_nesting_is_refused() {
    let mut plan = plan();
    plan.programs[0].steps = vec![];
    let bytes = encode_plan(&plan).unwrap();
    // Behind the empty list of steps stand the arena's bytes (7168, two bytes).
    let mut hostile = bytes[..bytes.len() - 3].to_vec();
    hostile.push(1);
    for _ in 0..1_000_000 {
        // Loop, one iteration, value 0, one step in the body.
        hostile.extend_from_slice(&[1, 1, 0, 1]);
    }
    assert_eq!(decode_plan(&hostile), Err(OpenError::PlanBytes));
}

proptest! {
    /// Damaged bytes that still read as a plan are the most natural source of odd plans.
    #[test]
    fn mutations_do_not_panic(
        which in 0..5_usize,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (b, s, f32) = (linear(0, &[(1, 0)]), linear(0, &[(1, 1)]), |dims: Vec<Dim>| (DType::F32, dims));
        let part = f32(vec![b.clone(), linear(2, &[(1, 1)])]);
        let joined = f32(vec![b.clone(), linear(4, &[(2, 1)])]);
        let positions = (DType::I32, vec![Dim::constant(2), b.clone(), s.clone()]);
        let angles = f32(vec![b, s, Dim::constant(5)]);
        let table = Kernel::RopeTable { theta: 1e4, sections: vec![2, 3], axial: true };
        let plans = [
            plan(),
            slotted(),
            single(Kernel::Concat { axis: 1 }, &[part.clone(), part.clone()], &[joined]),
            single(Kernel::Copy, std::slice::from_ref(&part), std::slice::from_ref(&part)),
            single(table, &[positions], &[angles.clone(), angles]),
        ];
        let mut bytes = encode_plan(&plans[which]).unwrap();
        for (at, byte) in places {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(plan) = decode_plan(&bytes) {
            let _ = validate(&plan, &Code::default(), &weights().0);
        }
    }

    #[test]
    fn odd_values_do_not_panic(
        index in 0..11_usize,
        dtype in prop::sample::select(DType::ALL.to_vec()),
        terms in prop::collection::vec((any::<u32>(), prop::collection::vec(0..4_u32, 0..10)), 0..20),
        rank in 0..6_usize,
        place in prop_oneof![any::<u64>().prop_map(Place::Arena), any::<u32>().prop_map(Place::Weight)],
    ) {
        let terms = terms.into_iter().map(|(coefficient, symbols)| Term { coefficient, symbols }).collect();
        let mut plan = plan();
        plan.programs[0].values[index] = Value { dtype, dims: vec![Dim { terms }; rank], place };
        let _ = validate(&plan, &Code::default(), &weights().0);
    }
}
