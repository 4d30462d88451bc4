//! What a device does when nothing fails.

use super::program::{COLUMNS, LARGE, code, gain, plan, slotted, views, weights};
use super::{LAUNCH_FAILED, Stub, Target, device};
use dreamc_artifact::plan::{Program, Step};
use dreamc_device_gpu::{
    Driver, GRAPH_COUNT_MAX, GpuDevice, GpuOptions, InfoPlace, STAGING_BYTES, STAGING_COUNT,
};
use dreamc_runtime::{Device, DeviceError, Observer, StepError, Stepper};

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// The program with a loop.
pub(crate) fn looped<T: Target>() -> Program {
    plan::<T>().programs.pop().unwrap()
}

/// Runs the prepared program with a loop on `rows` rows.
pub(crate) fn run<D: Driver>(
    device: &mut GpuDevice<'_, D>,
    stepper: &mut Stepper,
    rows: usize,
    observer: &mut dyn Observer,
) -> Result<(), StepError> {
    stepper.resize(&[("S", rows as u32)])?;
    let x: Vec<f32> = (0..rows * COLUMNS).map(|i| (i + rows) as f32).collect();
    stepper.write(device, "x", &bytes(&x))?;
    assert_eq!(stepper.run(device, observer)?, 3);
    let mut y = vec![0; x.len() * 4];
    stepper.read(device, "y", &mut y)?;
    let expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * gain(i % COLUMNS) + x + x + x).collect();
    assert_eq!(numbers(&y), expected);
    let mut history = [0; 48];
    stepper.read(device, "history", &mut history)?;
    assert_eq!(numbers(&history), [0., 0., 0., 0., 1., 1., 1., 1., 2., 2., 2., 2.]);
    Ok(())
}

/// Whoever watches, a bit.
struct Watching;

impl Observer for Watching {}

/// Whoever times.
struct Timing;

impl Observer for Timing {
    fn times(&self) -> bool {
        true
    }
}

/// What one run of the program with a loop launches on `rows` rows, each line after `indent`.
fn expected(rows: usize, indent: &str) -> Vec<String> {
    let (n, groups) = (rows * COLUMNS, rows * COLUMNS / 64);
    let scale = |first: usize, gains: usize| {
        let grid = rows.div_ceil(4);
        format!(
            "launch f32_scale 1,{grid},1 x 32,1,1 shared 0 (m0+0 m1+{gains} m0+8192) [{rows} {first} {n} 64 {n} 0]"
        )
    };
    let mut lines = vec![scale(0, 0), scale(64, 256)];
    for step in 0..3 {
        lines.push(format!("fill m0+16384 {step} x1"));
        lines.push("launch f32_index 1,1,1 x 4,1,1 shared 0 (m0+16384 m0+16640) [1 4]".to_owned());
        let float = 1.5_f32.to_bits();
        lines.push(format!(
            "launch f32_add_inplace {groups},1,1 x 64,1,1 shared 60000 (m0+8192 m0+0) [{n} {float} {n} {n}]"
        ));
        lines.push(format!("copy m0+{} m0+16640 16", 16_896 + 16 * step));
    }
    lines.iter().map(|line| format!("{indent}{line}")).collect()
}

const WORK: [&str; 8] = ["launch", "fill", "copy m", "begin", "end", "instantiate", "run", "destroy"];

/// Memory, modules and weights of a program are there once, the arena as zeros.
pub(crate) fn prepares<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    assert_eq!(device.name(), "Stub 0");
    assert_eq!(device.arch(), T::BINARY.1);
    assert_eq!(stub.log_of(&["load", "take", "pin"]), [""; 0]);
    let program = looped::<T>();
    device.prepare(&program).unwrap();
    let log = stub.log();
    for line in
        ["take m0 16944", "take m1 512", "copy in m1+0 512", "fill m0+0 0 x4236", "load binary f32_scale"]
    {
        assert_eq!(log.iter().filter(|l| *l == line).count(), 1, "{line}: {log:?}");
    }
    assert!(!log.iter().any(|line| line.contains("f32_copy")), "{log:?}");
    let mut arena = [1; 16_944];
    device.read(0, &mut arena).unwrap();
    assert!(arena.iter().all(|b| *b == 0));
    // Again, and after another program: modules and weights stay.
    let other = &plan::<T>().programs[0];
    for next in [&program, other, &program] {
        stub.log();
        device.prepare(next).unwrap();
        let loads = if next == other { vec!["load binary f32_copy", "pin 16777216"] } else { vec![] };
        assert_eq!(stub.log_of(&["load", "pin", "copy in m1"]), loads);
    }
    drop(device);
    stub.finish();
}

/// A run is recorded once for its lengths, and replayed after that.
pub(crate) fn records_and_replays<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = looped::<T>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stub.log();
    for (rows, made, run_of) in [(2, true, 0), (2, false, 0), (5, true, 1), (2, false, 0), (5, false, 1)] {
        run(&mut device, &mut stepper, rows, &mut ()).unwrap();
        let mut lines = Vec::new();
        if made {
            lines.extend(["begin".to_owned(), format!("end g{run_of} of 14")]);
            lines.push(format!("instantiate g{run_of} x{run_of}"));
        }
        lines.push(format!("run x{run_of}"));
        lines.extend(expected(rows, "  "));
        assert_eq!(stub.log_of(&WORK), lines, "{rows} rows");
    }
    // The next program has lengths of its own.
    device.prepare(&program).unwrap();
    assert_eq!(stub.log_of(&["destroy"]).len(), 2);
    drop(device);
    stub.finish();
}

/// What a run of the program with slots launches, with so many of them in each step.
fn slotted_lines<T: Target>(slots: [usize; 3]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut now = slots[0];
    let mut counted = |lines: &mut Vec<String>, next: usize| {
        // The number of elements, and that of the buffer they are in: what changed, and no more.
        if now != next && T::Driver::INFO == InfoPlace::Buffer {
            lines.extend([0, 8].map(|at| format!("  fill m1+{at} {} x1", next * COLUMNS)));
        }
        now = next;
    };
    for (step, k) in slots.into_iter().enumerate() {
        counted(&mut lines, k);
        let (n, float) = (k * COLUMNS, 1.5_f32.to_bits());
        lines.push(format!("  fill m0+256 {step} x1"));
        lines.push(format!(
            "  launch f32_add_inplace {},1,1 x 64,1,1 shared 60000 (m0+1024 m0+8192) [{n} {float} {n} 1024]",
            2 * k
        ));
        lines.push(format!("  copy m0+{} m0+0 8", 512 + 8 * step));
    }
    counted(&mut lines, slots[0]);
    lines
}

/// The number of slots changes in a recorded run, which is replayed as it was.
pub(crate) fn slots_shrink_within_a_run<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = slotted();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stub.log();
    let mut made = 0;
    // Rows that are counted together keep their slots: another run at the same lengths.
    let runs: [(u32, i32, [usize; 3]); 6] = [
        (4, 0, [4, 3, 2]),
        (4, 0, [4, 3, 2]),
        (4, 1, [4, 4, 4]),
        (8, 0, [8, 6, 4]),
        (4, 1, [4, 4, 4]),
        (4, 0, [4, 3, 2]),
    ];
    let mut known: Vec<(u32, i32)> = Vec::new();
    for (open, joint, slots) in runs {
        stepper.resize(&[("S", 2), ("K", open)]).unwrap();
        stepper.write(&mut device, "canvas", &[7; 8]).unwrap();
        stepper.write(&mut device, "joint", &joint.to_le_bytes()).unwrap();
        assert_eq!(stepper.run(&mut device, &mut ()), Ok(3));
        device.read(0, &mut [0; 4]).unwrap();
        let run = slotted_lines::<T>(slots);
        let mut lines = Vec::new();
        let place = known.iter().position(|k| *k == (open, joint)).unwrap_or_else(|| {
            lines.extend(["begin".to_owned(), format!("end g{made} of {}", run.len())]);
            lines.push(format!("instantiate g{made} x{made}"));
            made += 1;
            known.push((open, joint));
            made - 1
        });
        lines.push(format!("run x{place}"));
        lines.extend(run);
        assert_eq!(stub.log_of(&WORK), lines, "{open} slots, joint {joint}");
    }
    // Watched, the same is done step by step.
    stepper.run(&mut device, &mut Watching).unwrap();
    device.read(0, &mut [0; 4]).unwrap();
    let lines: Vec<String> =
        slotted_lines::<T>([4, 3, 2]).into_iter().map(|line| line.trim_start().to_owned()).collect();
    assert_eq!(stub.log_of(&WORK), lines);
    drop(device);
    stub.finish();
}

/// A run that fails between two numbers of slots leaves none of them behind.
pub(crate) fn slots_after_a_failure<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = slotted();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stepper.resize(&[("S", 2), ("K", 4)]).unwrap();
    stepper.write(&mut device, "joint", &[0; 4]).unwrap();
    // Stops behind the first step, where 4 slots were open, and is not recorded.
    struct Stopping;
    impl Observer for Stopping {
        fn step(&mut self, done: u32, _: u32) -> bool {
            done < 2
        }
    }
    assert_eq!(stepper.run(&mut device, &mut Stopping), Err(StepError::Stopped));
    device.read(0, &mut [0; 4]).unwrap();
    stub.log();
    stepper.resize(&[("K", 3)]).unwrap();
    stepper.run(&mut device, &mut Watching).unwrap();
    device.read(0, &mut [0; 4]).unwrap();
    let launches: Vec<String> = stub.log_of(&["launch"]);
    let wanted = [3, 3, 2].map(|k| format!("[{} {} {} 1024]", k * COLUMNS, 1.5_f32.to_bits(), k * COLUMNS));
    assert_eq!(launches.len(), 3);
    assert!(launches.iter().zip(wanted).all(|(line, end)| line.ends_with(&end)), "{launches:?}");
    drop(device);
    stub.finish();
}

/// Who looks on sees every step done at once.
pub(crate) fn watched_runs_are_not_recorded<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = looped::<T>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stub.log();
    for rows in [2, 2, 5] {
        for observer in [&mut Watching as &mut dyn Observer, &mut Timing] {
            run(&mut device, &mut stepper, rows, observer).unwrap();
            assert_eq!(stub.log_of(&WORK), expected(rows, ""));
        }
    }
    drop(device);
    stub.finish();
}

/// A device may be handed to another thread between calls.
pub(crate) fn moves_between_threads<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = looped::<T>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    std::thread::scope(|scope| {
        let device = &mut device;
        let stepper = &mut stepper;
        scope.spawn(move || run(device, stepper, 3, &mut ()).unwrap());
    });
    run(&mut device, &mut stepper, 3, &mut ()).unwrap();
    // Every call by itself.
    let Step::Dispatch(first) = &program.steps[0] else { panic!("the first step is a dispatch") };
    type Call<'c, D> = &'c (dyn Fn(&mut GpuDevice<'static, D>) -> Result<(), DeviceError> + Sync);
    let calls: [Call<'_, T::Driver>; 8] = [
        &|device| device.prepare(&program),
        &|device| device.resize(&[2]),
        &|device| device.write(0, &[1]),
        &|device| device.dispatch(0, first, &[]),
        &|device| device.set(0, 1),
        &|device| device.copy(0, 4, 4),
        &|device| device.read(0, &mut [0]),
        &|device| device.begin(0).and_then(|_| device.end(true)),
    ];
    for call in calls {
        std::thread::scope(|scope| {
            let device = &mut device;
            scope.spawn(move || call(device).unwrap());
        });
    }
    std::thread::spawn(move || drop(device)).join().unwrap();
    stub.finish();
}

/// There are so many recordings and no more; the one that was not used for longest goes.
pub(crate) fn least_recently_used_goes<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = looped::<T>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    for rows in (1..=GRAPH_COUNT_MAX).chain([1]) {
        run(&mut device, &mut stepper, rows, &mut ()).unwrap();
    }
    assert_eq!(stub.log_of(&["destroy"]), [""; 0]);
    run(&mut device, &mut stepper, GRAPH_COUNT_MAX + 1, &mut ()).unwrap();
    assert_eq!(stub.log_of(&["destroy", "instantiate"]), ["destroy x1", "instantiate g8 x8"]);
    for (rows, log) in [(1, vec![]), (3, vec![]), (2, vec!["destroy x3", "instantiate g9 x9"])] {
        run(&mut device, &mut stepper, rows, &mut ()).unwrap();
        assert_eq!(stub.log_of(&["destroy", "instantiate"]), log, "{rows} rows");
    }
    drop(device);
    stub.finish();
}

/// What does not fit the pinned memory goes through it piece by piece.
pub(crate) fn copies_in_pieces<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = &plan::<T>().programs[0];
    device.prepare(program).unwrap();
    let rest = LARGE * 4 - STAGING_BYTES;
    let pieces = [format!("copy in m1+0 {STAGING_BYTES}"), format!("copy in m1+{STAGING_BYTES} {rest}")];
    assert_eq!(stub.log_of(&["copy in m1"]), pieces);
    let mut stepper = Stepper::new(program).unwrap();
    stepper.run(&mut device, &mut ()).unwrap();
    let mut copy = vec![0; LARGE * 4];
    stepper.read(&mut device, "copy", &mut copy).unwrap();
    assert!(copy == super::program::weights()[1].1);
    // In and out again, one after the other without waiting.
    copy.reverse();
    device.write(0, &copy).unwrap();
    device.write(8, &[7; 16]).unwrap();
    device.write(12, &[9; 4]).unwrap();
    let mut back = vec![0; copy.len()];
    device.read(0, &mut back).unwrap();
    copy[8..24].fill(7);
    copy[12..16].fill(9);
    assert!(copy == back);
    drop(device);
    stub.finish();
}

/// However small the buffers that weights go through: none is filled before what was in it is on the device, and there
/// are no more of them. The stub copies when somebody waits, and no sooner.
pub(crate) fn weights_through_few_buffers<T: Target>() {
    for staging_bytes in [4096, 1 << 20, 5_000_000] {
        let stub = Stub::new::<T>(&[]);
        let options = GpuOptions { staging_bytes, ..stub.options() };
        let mut device = GpuDevice::<T::Driver>::new(&code::<T>(), views(), &options).unwrap();
        let program = &plan::<T>().programs[0];
        device.prepare(program).unwrap();
        let log = stub.log();
        let pieces = (LARGE * 4).div_ceil(staging_bytes);
        let copies: Vec<&String> = log.iter().filter(|line| line.starts_with("copy in m1+")).collect();
        assert_eq!(copies.len(), pieces);
        let places =
            copies.iter().map(|line| line.split(['+', ' ']).nth(3).unwrap().parse::<usize>().unwrap());
        assert!(places.eq((0..pieces).map(|piece| piece * staging_bytes)), "in order");
        let pinned = pieces.min(STAGING_COUNT) * staging_bytes;
        // Those of requests stay, those of weights do not.
        let pins: Vec<&String> = log.iter().filter(|line| line.contains("pin")).collect();
        assert_eq!(pins, ["pin 8388608", &format!("pin {pinned}"), "unpin"]);
        let mut stepper = Stepper::new(program).unwrap();
        stepper.run(&mut device, &mut ()).unwrap();
        let mut copy = vec![0; LARGE * 4];
        stepper.read(&mut device, "copy", &mut copy).unwrap();
        assert!(copy == weights()[1].1, "other weights, in pieces of {staging_bytes}");
        drop(device);
        stub.finish();
    }
}

/// A run that nobody asked for is recorded, brought to the device and not done.
pub(crate) fn records_ahead<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = looped::<T>();
    device.prepare(&program).unwrap();
    let mut stepper = Stepper::new(&program).unwrap();
    stub.log();
    let brought = if T::Driver::INFO == InfoPlace::Value { vec!["upload x0"] } else { vec![] };
    for (made, log) in
        [(true, [vec!["begin", "end g0 of 14", "instantiate g0 x0"], brought].concat()), (false, vec![])]
    {
        stepper.resize(&[("S", 2)]).unwrap();
        assert_eq!(stepper.warm(&mut device), Ok(made));
        assert_eq!(stub.log_of(&["launch", "begin", "end", "instantiate", "upload", "run"]), log);
    }
    run(&mut device, &mut stepper, 2, &mut ()).unwrap();
    assert_eq!(stub.log_of(&["begin", "run"]), ["run x0"]);
    // One that fails in between is forgotten.
    stub.fail(T::FUNCTIONS.launch, 2, LAUNCH_FAILED);
    stepper.resize(&[("S", 3)]).unwrap();
    assert!(stepper.warm(&mut device).is_err());
    run(&mut device, &mut stepper, 3, &mut ()).unwrap();
    drop(device);
    stub.finish();
}

/// Two devices on one GPU, in turns and from two threads: each has its own memory, stream, modules and recordings, and
/// what one does, or that it goes, is nothing to the other.
pub(crate) fn two_on_one_gpu<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut both = [device::<T>(&stub).unwrap(), device::<T>(&stub).unwrap()];
    let program = looped::<T>();
    let mut steppers = [0, 1].map(|_| Stepper::new(&program).unwrap());
    both.iter_mut().for_each(|device| device.prepare(&program).unwrap());
    stub.log();
    // `run` compares with what is expected.
    for rows in [2, 5, 2] {
        for (device, stepper) in both.iter_mut().zip(&mut steppers) {
            run(device, stepper, rows, &mut ()).unwrap();
        }
    }
    assert_eq!(stub.log_of(&["run"]), ["run x0", "run x1", "run x2", "run x3", "run x0", "run x1"]);
    // Each between two steps of the other.
    let [one, other] = &mut both;
    let [of_one, of_other] = &mut steppers;
    struct Between<'b, D: Driver>(&'b mut GpuDevice<'static, D>, &'b mut Stepper);
    impl<D: Driver> Observer for Between<'_, D> {
        fn step(&mut self, done: u32, _: u32) -> bool {
            run(self.0, self.1, done as usize, &mut ()).is_ok()
        }
    }
    run(one, of_one, 3, &mut Between(other, of_other)).unwrap();
    std::thread::scope(|scope| {
        for (device, stepper) in both.iter_mut().zip(&mut steppers) {
            scope.spawn(move || {
                for rows in (1..=12).chain([3, 1, 12]) {
                    run(device, stepper, rows, &mut ()).unwrap();
                }
            });
        }
    });
    let [one, mut other] = both;
    drop(one);
    run(&mut other, &mut steppers[1], 4, &mut ()).unwrap();
    drop(other);
    stub.finish();
}

/// Calls that no sound plan makes are refused.
pub(crate) fn refuses_what_is_unsound<T: Target>() {
    let stub = Stub::new::<T>(&[]);
    let mut device = device::<T>(&stub).unwrap();
    let program = looped::<T>();
    let (Step::Dispatch(first), end) = (&program.steps[0], program.arena_bytes) else {
        panic!("the first step is a dispatch");
    };
    // Before there is a program.
    assert!(
        device.resize(&[1]).is_err() && device.begin(0).is_err() && device.dispatch(0, first, &[]).is_err()
    );
    assert!(device.write(0, &[0]).is_err() && device.read(0, &mut [0]).is_err() && device.set(0, 1).is_err());
    assert_eq!(device.end(true), Ok(()));
    device.prepare(&program).unwrap();
    // Before there are lengths.
    assert!(device.dispatch(0, first, &[]).is_err());
    assert_eq!(device.begin(0), Ok(false));
    assert!(device.resize(&[]).is_err() && device.dispatch(0, first, &[]).is_err());
    device.resize(&[1]).unwrap();
    device.dispatch(0, first, &[]).unwrap();
    assert!(device.dispatch(3, first, &[]).is_err() && device.dispatch(u32::MAX, first, &[]).is_err());
    for offset in [end, end - 3, u64::MAX] {
        assert!(device.set(offset, 1).is_err() && device.write(offset, &[0; 4]).is_err());
        assert!(device.read(offset, &mut [0; 4]).is_err() && device.copy(offset, 0, 4).is_err());
        assert!(device.copy(0, offset, 4).is_err());
    }
    assert!(device.set(2, 1).is_err());
    assert!(device.copy(0, 4, 8).is_err() && device.copy(0, 0, 8).is_err());
    device.copy(0, 8, 8).unwrap();
    device.copy(0, 0, 0).unwrap();
    // What waits cannot be recorded; the recording goes on.
    assert_eq!(device.begin(0), Ok(false));
    assert!(device.write(0, &[0]).is_err() && device.read(0, &mut [0]).is_err());
    device.set(0, 1).unwrap();
    device.end(true).unwrap();
    // A recording that was not ended is dropped.
    device.resize(&[2]).unwrap();
    assert_eq!(device.begin(0), Ok(false));
    device.set(0, 77).unwrap();
    device.resize(&[2]).unwrap();
    let mut word = [0; 4];
    device.read(0, &mut word).unwrap();
    assert_eq!(word, [1, 0, 0, 0]);
    device.begin(0).unwrap();
    drop(device);
    stub.finish();
}
