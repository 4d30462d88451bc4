//! Programs written by hand, on a driver that executes on the host.

use super::*;
use crate::fake::{Fake, LIMITS, module};
use dreamc_artifact::code::{Module, ScalarType};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{
    Binding, Denoise, Dim, Kernel, Launch, Port, Scalar, Symbol, Term, Value, ValueId,
};
use dreamc_num::DType;
use dreamc_runtime::{StepError, Stepper};

const U: ScalarType = ScalarType::U32;

/// `S` up to 40: one symbol, one dimension of it.
fn length() -> Dim {
    Dim { terms: vec![Term { coefficient: 1, symbols: vec![0] }] }
}

fn value(dims: Vec<Dim>, place: Place) -> Value {
    Value { dtype: DType::U32, dims, place }
}

fn dispatch(launches: Vec<Launch>) -> Dispatch {
    Dispatch {
        kernel: Kernel::Copy,
        reads: vec![],
        writes: vec![],
        origin: vec!["layer".to_owned()],
        launches,
    }
}

fn launch_on(module: u32, buffers: &[(u32, Option<(u64, u64)>)], scalars: Vec<Scalar>) -> Launch {
    let binding = |(v, part): &(u32, Option<(u64, u64)>)| Binding { value: ValueId(*v), part: *part };
    Launch { module, buffers: buffers.iter().map(binding).collect(), scalars, variant: None, candidate: None }
}

/// `x[S]` at 0 is in- and output; the loop of 3 steps adds 5 and the step to `x`, and remembers it; then a launch that
/// follows the loop adds the second part of a weight.
fn program() -> Program {
    let add_five = launch_on(0, &[(0, None)], vec![Scalar::Count(length()), Scalar::Count(Dim::constant(5))]);
    let add_index = launch_on(1, &[(0, None), (1, None)], vec![Scalar::Count(Dim::constant(1))]);
    let nothing =
        launch_on(0, &[(0, None)], vec![Scalar::Count(Dim::constant(0)), Scalar::Count(Dim::constant(9))]);
    let add_weight = launch_on(1, &[(0, None), (3, Some((256, 12)))], vec![Scalar::Count(Dim::constant(2))]);
    let denoise = Denoise {
        steps: 3,
        index: ValueId(1),
        body: vec![
            Step::Dispatch(dispatch(vec![add_five])),
            Step::Dispatch(dispatch(vec![add_index, nothing])),
        ],
        history: Some((ValueId(0), ValueId(2))),
        slots: None,
    };
    let port = |name: &str, v| Port { name: name.to_owned(), value: ValueId(v) };
    Program {
        name: "generate".to_owned(),
        symbols: vec![Symbol { name: "S".to_owned(), max: 40 }],
        values: vec![
            value(vec![length()], Place::Arena(0)),
            value(vec![], Place::Arena(256)),
            value(vec![Dim::constant(3), length()], Place::Arena(512)),
            value(vec![Dim::constant(67)], Place::Weight(0)),
        ],
        inputs: vec![port("x", 0)],
        outputs: vec![port("x", 0), port("history", 2)],
        steps: vec![Step::Denoise(denoise), Step::Dispatch(dispatch(vec![add_weight]))],
        arena_bytes: 1024,
    }
}

fn modules() -> Vec<Module> {
    vec![module("add_constant", 1, &[U, U]), module("add", 2, &[U])]
}

/// 67 words, each its own index.
fn stored() -> Vec<u8> {
    bytes(&(0..67).collect::<Vec<u32>>())
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn engine<'a>(modules: Vec<Module>, stored: &'a [u8], launches_max: u32) -> Engine<'a, Fake> {
    let weight = WeightView { bytes: stored, layout: Layout::RowMajor, dtype: DType::U32 };
    Engine::new(Fake::default(), &Code { modules }, vec![weight], launches_max)
}

fn words(stepper: &Stepper, engine: &mut Engine<'_, Fake>, name: &str) -> Vec<u32> {
    let (_, shape) = stepper.output(name).unwrap();
    let mut bytes = vec![0; shape.elements() * 4];
    stepper.read(engine, name, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
}

/// Runs with `x` of these words.
#[track_caller]
fn run(engine: &mut Engine<'_, Fake>, stepper: &mut Stepper, x: &[u32]) {
    stepper.resize(&[("S", x.len() as u32)]).unwrap();
    stepper.write(engine, "x", &bytes(x)).unwrap();
    assert_eq!(stepper.run(engine, &mut ()), Ok(3));
}

#[test]
fn a_loop_its_history_and_what_follows() {
    let (program, stored) = (program(), stored());
    let (mut engine, mut stepper) = (engine(modules(), &stored, 64), Stepper::new(&program).unwrap());
    engine.prepare(&program).unwrap();
    for _ in 0..2 {
        run(&mut engine, &mut stepper, &[100, 200]);
        // The weight's part begins at word 64.
        assert_eq!(words(&stepper, &mut engine, "x"), [100 + 15 + 3 + 64, 200 + 15 + 65]);
        assert_eq!(words(&stepper, &mut engine, "history"), [105, 205, 111, 210, 118, 215]);
    }
}

/// Everything between the host's own accesses goes to the device together, or by as many launches as was said.
#[test]
fn commits() {
    let (program, stored) = (program(), stored());
    let counts = |launches_max| {
        let (mut engine, mut stepper) =
            (engine(modules(), &stored, launches_max), Stepper::new(&program).unwrap());
        engine.prepare(&program).unwrap();
        run(&mut engine, &mut stepper, &[1]);
        words(&stepper, &mut engine, "x");
        engine.driver().commits.clone()
    };
    // Per step the index, two launches and the history; a launch of nothing is none.
    assert_eq!(counts(64), [13]);
    assert_eq!(counts(2), [3, 4, 4, 2]);
    assert_eq!(counts(0), counts(1));
    assert_eq!(counts(1), [2, 1, 3, 1, 3, 1, 2]);
}

/// Who times waits for each dispatch, which goes to the device alone.
#[test]
fn timed_runs() {
    struct Timing;
    impl dreamc_runtime::Observer for Timing {
        fn times(&self) -> bool {
            true
        }
    }
    let (program, stored) = (program(), stored());
    let (mut engine, mut stepper) = (engine(modules(), &stored, 64), Stepper::new(&program).unwrap());
    engine.prepare(&program).unwrap();
    run(&mut engine, &mut stepper, &[100, 200]);
    let wanted = words(&stepper, &mut engine, "x");
    let before = engine.driver().commits.len();
    stepper.write(&mut engine, "x", &bytes(&[100, 200])).unwrap();
    assert_eq!(stepper.run(&mut engine, &mut Timing), Ok(3));
    assert!(engine.driver().commits.len() - before >= 4, "{:?}", engine.driver().commits);
    assert_eq!(words(&stepper, &mut engine, "x"), wanted);
}

#[test]
fn grids_follow_the_lengths() {
    let (program, stored) = (program(), stored());
    let (mut engine, mut stepper) = (engine(modules(), &stored, 64), Stepper::new(&program).unwrap());
    engine.prepare(&program).unwrap();
    run(&mut engine, &mut stepper, &[0; 33]);
    assert_eq!(engine.driver().grids[..2], [[2, 1, 1], [1, 1, 1]]);
    engine.driver().grids.clear();
    run(&mut engine, &mut stepper, &[0; 32]);
    assert_eq!(engine.driver().grids[..2], [[1, 1, 1], [1, 1, 1]]);
}

/// Odd and overlapping copies are made all the same.
#[test]
fn copies_of_any_bytes() {
    let (program, stored) = (program(), stored());
    let mut engine = engine(modules(), &stored, 64);
    engine.prepare(&program).unwrap();
    engine.write(0, b"0123456789").unwrap();
    engine.copy(0, 2, 8).unwrap();
    engine.copy(4, 512, 4).unwrap();
    engine.copy(0, 517, 3).unwrap();
    engine.copy(0, 0, 0).unwrap();
    // No number of a step, then one at an odd place.
    engine.set(16, 0x4142_4344).unwrap();
    engine.set(21, 2).unwrap();
    let (mut start, mut end) = ([0; 25], [0; 8]);
    engine.read(0, &mut start).unwrap();
    engine.read(512, &mut end).unwrap();
    assert_eq!(&start, b"0101234567\0\0\0\0\0\0DCBA\0\x02\0\0\0");
    assert_eq!(&end, b"2345\x00010");
}

#[test]
fn outside_the_arena() {
    let (program, stored) = (program(), stored());
    let mut engine = engine(modules(), &stored, 64);
    engine.prepare(&program).unwrap();
    let outside = Err(DeviceError::Unsupported { kernel: "memory outside the arena" });
    assert_eq!(engine.write(1021, &[0; 4]), outside);
    assert_eq!(engine.read(u64::MAX, &mut [0; 4]), outside);
    assert_eq!(engine.copy(0, 1020, 8), outside);
    assert_eq!(engine.copy(1020, 0, 8), outside);
    assert_eq!(engine.set(1024, 0), outside);
    assert_eq!(engine.write(1020, &[0; 4]), Ok(()));
}

/// Calls out of turn.
#[test]
fn before_its_program() {
    let (program, stored) = (program(), stored());
    let mut engine = engine(modules(), &stored, 64);
    let unprepared = Err(DeviceError::Unsupported { kernel: "a step before its program" });
    assert_eq!(engine.write(0, &[0; 4]), unprepared);
    assert_eq!(engine.resize(&[1]), unprepared);
    engine.prepare(&program).unwrap();
    let Step::Dispatch(last) = &program.steps[1] else { panic!() };
    assert_eq!(engine.dispatch(2, last, &[]), Err(UNSOUND), "no lengths yet");
    engine.resize(&[1]).unwrap();
    assert_eq!(engine.dispatch(3, last, &[]), Err(UNSOUND), "there are three dispatches");
    assert_eq!(engine.dispatch(1, last, &[]), Err(UNSOUND), "another dispatch's number");
    assert_eq!(engine.dispatch(2, last, &[]), Ok(()), "those of a loop's body count once");
}

/// What fails when a program is prepared, and that the device runs the next one.
#[track_caller]
fn refused(modules: Vec<Module>, broken: &Program, stored: &[u8]) -> DeviceError {
    let mut engine = engine(modules, stored, 64);
    let error = engine.prepare(broken).unwrap_err();
    let unprepared = Err(DeviceError::Unsupported { kernel: "a step before its program" });
    assert_eq!(engine.write(0, &[0; 4]), unprepared);
    let empty = Program { steps: vec![], values: vec![], inputs: vec![], outputs: vec![], ..program() };
    engine.prepare(&Program { arena_bytes: 64, ..empty }).unwrap();
    assert_eq!(engine.write(0, &[0; 4]), Ok(()));
    error
}

#[test]
fn kernels_that_are_refused_are_named() {
    let mut broken = modules();
    broken[1].images[0].bytes = b"ad".to_vec();
    let error = refused(broken, &program(), &stored());
    assert_eq!(error.to_string(), "compiling kernel `add`: line 1: `ad` is not a kernel");
    let mut wide = modules();
    wide[0].workgroup = [65, 1, 1];
    let error = refused(wide, &program(), &stored()).to_string();
    assert!(error.starts_with("compiling kernel `add_constant`: it is launched with 65 units"), "{error}");
}

#[test]
fn memory_that_is_not_there() {
    let large = Program { arena_bytes: LIMITS.buffer_bytes + 1, ..program() };
    let bytes = 4096 + 256;
    assert_eq!(refused(modules(), &large, &stored()), DeviceError::Buffer { bytes, max: 4096 });
    let heavy = vec![0; 4100];
    let error = refused(modules(), &program(), &heavy);
    assert_eq!(error, DeviceError::Buffer { bytes: 4112, max: 4096 });
    // Each fits, both together do not.
    let both = Program { arena_bytes: 4096, ..program() };
    let heavy = vec![0; 4096];
    assert_eq!(refused(modules(), &both, &heavy), DeviceError::OutOfMemory { bytes: 8192 });
}

#[test]
fn weights_that_are_not_what_the_plan_says() {
    let unsound = DeviceError::Unsupported { kernel: "a weight" };
    assert_eq!(refused(modules(), &program(), &[0; 267]), unsound, "its part ends at 268");
    assert_eq!(refused(modules(), &program(), &[]), unsound);
    let mut other = program();
    other.values[3].dtype = DType::F32;
    assert_eq!(refused(modules(), &other, &stored()), unsound);
    other.values[3].place = Place::Weight(1);
    assert_eq!(refused(modules(), &other, &stored()), unsound);
}

#[test]
fn plans_that_are_not_sound() {
    let mut short = program();
    short.arena_bytes = 512 + 3 * 40 * 4;
    short.values[0].place = Place::Arena(short.arena_bytes - 4);
    assert_eq!(refused(modules(), &short, &stored()), UNSOUND, "`x` would end outside the arena");
    assert_eq!(refused(modules()[..1].to_vec(), &program(), &stored()), UNSOUND, "there is no module 1");
    let mut more = modules();
    more[1].buffers.truncate(1);
    assert_eq!(refused(more, &program(), &stored()), UNSOUND, "two bindings for one buffer");
}

/// What fails on the device is told with what it was doing, and does not end it.
#[test]
fn failures_while_running() {
    let (program, stored) = (program(), stored());
    let (mut engine, mut stepper) = (engine(modules(), &stored, 4), Stepper::new(&program).unwrap());
    engine.prepare(&program).unwrap();
    stepper.resize(&[("S", 1)]).unwrap();
    engine.driver().failure = Some("page fault\n".to_owned());
    let Err(StepError::Device { origin, error }) = stepper.run(&mut engine, &mut ()) else { panic!() };
    assert_eq!(origin, "layer");
    assert_eq!(error.to_string(), "running the kernels up to `add`: page fault");
    engine.driver().failure = Some("gone".to_owned());
    let error = engine.read(0, &mut [0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "running the kernels up to `add`: gone");
    run(&mut engine, &mut stepper, &[1]);
    assert_eq!(words(&stepper, &mut engine, "x"), [1 + 15 + 3 + 64]);
}
