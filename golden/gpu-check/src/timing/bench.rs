//! Times one program on a device: whole runs, then kernel by kernel.
//!
//! Dispatches that launch the same kernels on the same shapes are a group. A group is recorded and replayed alone, all
//! of its dispatches one after the other, so each reads weights of its own as in a run, and none waits for the host.
//! Where a device records nothing, the time to launch is in what is found.

use super::cost::{Cost, cost};
use crate::report::Sorted;
use dreamc_artifact::plan::{Dispatch, Program, Step};
use dreamc_frontend::module::ACT;
use dreamc_golden::graph::Emitted;
use dreamc_num::DType;
use dreamc_runtime::{Device, Observer, Operand, Stepper, operand};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// Tokens of one image.
const IMAGE_TOKENS: u32 = 64;
/// Positions from which on a canvas has one image, and two.
const IMAGE_LENGTHS: [u32; 2] = [232, 301];
/// Slots of a chunk of actions.
const ACTION_SLOTS: u32 = 56;
/// Dispatches that a group is repeated to.
pub(crate) const GROUP_COUNT_MIN: usize = 32;
/// Most that is copied to find the bandwidth, in bytes.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// A program on its device.
pub(crate) struct Bench<'a> {
    device: Box<dyn Device + 'a>,
    program: &'a Program,
    modules: Vec<String>,
    stepper: Stepper,
    mask_token: i32,
    /// The request's lengths in the order of the program's symbols.
    symbols: Vec<u32>,
}

/// Looks at nothing, so that a run is done step by step.
struct Watching;

impl Observer for Watching {}

/// Dispatches of the same kernels on the same shapes.
struct Group<'a> {
    /// With their numbers, as the device counts them.
    members: Vec<(u32, &'a Dispatch)>,
    /// How often all of them together are done in a run.
    runs: u64,
    each: Cost,
}

impl<'a> Bench<'a> {
    /// Makes the device ready: weights go there now.
    pub(crate) fn new(mut device: Box<dyn Device + 'a>, emitted: &'a Emitted, mask_token: i32) -> Bench<'a> {
        let program = &emitted.program;
        device.prepare(program).unwrap_or_else(|e| panic!("{e}"));
        let stepper = Stepper::new(program).unwrap_or_else(|e| panic!("{e}"));
        let modules = emitted.code.modules.iter().map(|module| module.name.clone()).collect();
        let symbols = program.symbols.iter().map(|symbol| symbol.max).collect();
        Bench { device, program, modules, stepper, mask_token, symbols }
    }

    /// Everything at a length of the canvas.
    pub(crate) fn time(&mut self, length: u32, iterations: usize) -> Value {
        self.resize(length);
        self.fresh();
        let trip = self.trip();
        let first = self.run();
        // The first is recorded; the second may still settle.
        self.run();
        let runs = Sorted::new((0..iterations).map(|_| self.run()).collect());
        let (bandwidth, copied) = self.bandwidth();
        let operands = self.operands();
        let groups = groups(self.program, &self.modules, &operands, &self.symbols);
        let mut timed = Vec::new();
        for ((kernels, shape), group) in &groups {
            let ms = self.group(group, &operands, trip, iterations);
            timed.push((kernels, shape, group, ms));
        }
        let all = |of: &dyn Fn(&Cost) -> u64| groups.values().map(|g| g.runs * of(&g.each)).sum::<u64>();
        let rate = |(_, _, g, ms): &(_, _, &Group<'_>, f64)| g.each.flop as f64 / (ms / 1e3);
        let best = timed.iter().map(rate).fold(0.0, f64::max);
        let floor = |cost: &Cost| (cost.bytes as f64 / bandwidth).max(cost.flop as f64 / best.max(1.0)) * 1e3;
        let sum: f64 = timed.iter().map(|(_, _, g, ms)| g.runs as f64 * ms).sum();
        let floors: f64 = groups.values().map(|g| g.runs as f64 * floor(&g.each)).sum();
        let p50 = runs.at(0.5);
        println!(
            "timing: {}, {length} positions: {p50:.3} ms (p99 {:.3}), kernels alone {sum:.3} ms, floor {floors:.3} ms",
            self.program.name,
            runs.at(0.99)
        );
        timed.sort_by(|a, b| (b.2.runs as f64 * b.3).total_cmp(&(a.2.runs as f64 * a.3)));
        for (kernels, _, group, ms) in &timed {
            let all = group.runs as f64 * ms;
            println!("timing: {}, {length}: {all:.3} ms of {} x {kernels}", self.program.name, group.runs);
        }
        let entry = |(kernels, shape, group, ms): &(&String, &String, &Group<'_>, f64)| {
            json!({
                "kernels": kernels,
                "shape": shape,
                "origin": group.members.first().map(|(_, d)| d.origin.join(", ")),
                "count": group.runs,
                "ms_each": ms,
                "ms": group.runs as f64 * ms,
                "flop_each": group.each.flop,
                "bytes_each": group.each.bytes,
                "tflop_per_second": group.each.flop as f64 / ms / 1e9,
                "gb_per_second": group.each.bytes as f64 / ms / 1e6,
                "floor_ms_each": floor(&group.each),
            })
        };
        json!({
            "positions": length,
            "symbols": self.program.symbols.iter().map(|s| s.name.as_str()).zip(&self.symbols)
                .map(|(name, n)| (name.to_owned(), Value::from(*n))).collect::<Value>(),
            "iterations": iterations,
            "first_run_ms": first,
            "ms_p50": p50,
            "ms_p99": runs.at(0.99),
            "ms_min": runs.at(0.0),
            "round_trip_ms": trip,
            "kernels_ms": sum,
            "floor_ms": floors,
            "flop": all(&|c| c.flop),
            "bytes": all(&|c| c.bytes),
            "copy_gb_per_second": bandwidth / 1e9,
            "copied_bytes": copied,
            "best_tflop_per_second": best / 1e12,
            "kernels": timed.iter().map(entry).collect::<Vec<_>>(),
        })
    }

    /// The kernels of the program's products at so many rows, and milliseconds of one product: the median of so many
    /// rounds, each as in [`Bench::time`].
    pub(crate) fn product(&mut self, rows: u32, iterations: usize) -> (String, f64) {
        self.resize(rows);
        self.fresh();
        let trip = self.trip();
        let operands = self.operands();
        let groups = groups(self.program, &self.modules, &operands, &self.symbols);
        let mut products = groups.iter().filter(|(_, group)| group.each.flop > 0);
        let (Some(((kernels, _), group)), None) = (products.next(), products.next()) else {
            panic!(
                "this is a bug: equal products have different kernels; `--only timing` lists kernels by shape"
            )
        };
        (kernels.clone(), self.group(group, &operands, trip, iterations))
    }

    /// Sets the lengths of the requests that follow.
    fn resize(&mut self, length: u32) {
        let images = IMAGE_LENGTHS.iter().filter(|from| length >= **from).count() as u32;
        let image_tokens = (images * IMAGE_TOKENS).max(1);
        // A text is nothing but slots.
        let slots = if self.program.name == ACT { length.min(ACTION_SLOTS) } else { length };
        let lengths = [("B", 1), ("S", length), ("M", image_tokens), ("K", slots)];
        self.stepper.resize(&lengths).unwrap_or_else(|e| panic!("{e}"));
        for (symbol, n) in self.program.symbols.iter().zip(&mut self.symbols) {
            *n = lengths.iter().find(|(name, _)| *name == symbol.name).map_or(symbol.max, |(_, n)| *n);
        }
    }

    /// Milliseconds of a wait for nothing.
    fn trip(&mut self) -> f64 {
        Sorted::new((0..50).map(|_| self.clock(|_| ())).collect()).at(0.5)
    }

    /// Every value with the request's lengths.
    fn operands(&self) -> Vec<Operand> {
        let of = |value| operand(value, &self.symbols).unwrap_or_else(|| panic!("the plan is not sound"));
        self.program.values.iter().map(of).collect()
    }

    /// Waits for the device.
    fn wait(&mut self) {
        self.device.read(0, &mut [0; 4]).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Milliseconds until the device has done something.
    fn clock(&mut self, mut work: impl FnMut(&mut Self)) -> f64 {
        let begin = Instant::now();
        work(self);
        self.wait();
        begin.elapsed().as_secs_f64() * 1e3
    }

    /// A whole run on new inputs, and the wait for it.
    fn run(&mut self) -> f64 {
        self.write();
        self.wait();
        self.clock(|bench| {
            bench.stepper.run(bench.device.as_mut(), &mut ()).unwrap_or_else(|e| panic!("{e}"));
        })
    }

    fn write(&mut self) {
        let (operands, image_rows) = (self.operands(), self.symbol("M"));
        for port in &self.program.inputs {
            let operand = &operands[port.value.0 as usize];
            let bytes = input(&port.name, operand, self.symbol("S"), image_rows, self.mask_token);
            let written = self.stepper.write(self.device.as_mut(), &port.name, &bytes);
            written.unwrap_or_else(|e| panic!("{e}"));
        }
    }

    fn symbol(&self, name: &str) -> u32 {
        let at = self.program.symbols.iter().position(|s| s.name == name);
        at.and_then(|at| self.symbols.get(at)).copied().unwrap_or(0)
    }

    /// Forgets what was recorded, and fills memory with what a run leaves there.
    fn fresh(&mut self) {
        self.device.prepare(self.program).unwrap_or_else(|e| panic!("{e}"));
        self.write();
        self.stepper.run(self.device.as_mut(), &mut Watching).unwrap_or_else(|e| panic!("{e}"));
        self.wait();
    }

    /// Milliseconds of one dispatch of a group.
    fn group(&mut self, group: &Group<'_>, operands: &[Operand], trip: f64, iterations: usize) -> f64 {
        self.fresh();
        let times = GROUP_COUNT_MIN.div_ceil(group.members.len());
        let mut work = |bench: &mut Self| {
            let done = bench.device.begin(0).and_then(|replayed| {
                if replayed {
                    return Ok(());
                }
                for _ in 0..times {
                    for (number, dispatch) in &group.members {
                        bench.device.dispatch(*number, dispatch, operands)?;
                    }
                }
                bench.device.end(true)
            });
            done.unwrap_or_else(|e| panic!("{e}"));
        };
        self.clock(&mut work);
        self.clock(&mut work);
        let all = Sorted::new((0..iterations).map(|_| self.clock(&mut work)).collect());
        (all.at(0.5) - trip).max(0.0) / (times * group.members.len()) as f64
    }

    /// Bytes per second of copies inside the device's memory, read and written; and how much was copied at a time.
    fn bandwidth(&mut self) -> (f64, u64) {
        let half = ((self.program.arena_bytes / 2) & !255).min(COPY_BYTES_MAX);
        const TIMES: u32 = 10;
        let mut copy = |bench: &mut Self| {
            for _ in 0..TIMES {
                bench.device.copy(0, half, half).unwrap_or_else(|e| panic!("{e}"));
            }
        };
        self.clock(&mut copy);
        let ms = Sorted::new((0..5).map(|_| self.clock(&mut copy)).collect()).at(0.5);
        (2.0 * half as f64 * f64::from(TIMES) / (ms / 1e3), half)
    }
}

/// All dispatches by the names of their kernels, and their shapes.
fn groups<'a>(
    program: &'a Program,
    modules: &[String],
    operands: &[Operand],
    symbols: &[u32],
) -> BTreeMap<(String, String), Group<'a>> {
    let mut groups = BTreeMap::new();
    let mut number = 0;
    for step in &program.steps {
        let (dispatches, runs): (&[Step], u64) = match step {
            Step::Dispatch(_) => (std::slice::from_ref(step), 1),
            Step::Denoise(denoise) => (&denoise.body, denoise.steps.into()),
        };
        for step in dispatches {
            let Step::Dispatch(dispatch) = step else { continue };
            let launched = dispatch.launches.iter().filter(|launch| launch.serves(symbols) == Some(true));
            let mut names: Vec<&str> = launched.map(|l| modules[l.module as usize].as_str()).collect();
            names.dedup();
            let shapes = dispatch.reads.iter().chain(&dispatch.writes).map(|id| {
                let Operand { dtype, shape, .. } = &operands[id.0 as usize];
                format!("{dtype}{:?}", shape.dims())
            });
            let key = (names.join(" + "), shapes.collect::<Vec<_>>().join(" "));
            let new = || Group { members: Vec::new(), runs: 0, each: cost(dispatch, operands) };
            let group: &mut Group<'_> = groups.entry(key).or_insert_with(new);
            group.members.push((number, dispatch));
            group.runs += runs;
            number += 1;
        }
    }
    // What nothing launches takes no time.
    groups.retain(|(names, _), _| !names.is_empty());
    groups
}

/// What an input may hold: every position counts, every index points inside.
fn input(name: &str, operand: &Operand, length: u32, image_rows: u32, mask_token: i32) -> Vec<u8> {
    let count = operand.shape.elements();
    let ints = |of: &dyn Fn(i32) -> i32| (0..count as i32).flat_map(|i| of(i).to_le_bytes()).collect();
    match (operand.dtype, name) {
        (DType::I32, "attention_mask" | "patch_segments") => ints(&|_| 1),
        (DType::I32, "canvas") => ints(&|_| mask_token),
        (DType::I32, "input_ids") => ints(&|i| i * 37 % 100),
        (DType::I32, "position_ids") => ints(&|i| i % length as i32),
        (DType::I32, "patch_positions") => ints(&|i| i % 16),
        (DType::I32, "image_index") => ints(&|i| if (i as u32) < image_rows { i } else { -1 }),
        (DType::I32, "slot_index") => ints(&|_| -1),
        (DType::I32, "action_rows") => ints(&|i| i % length as i32),
        (DType::F32, "top_p") => 1.0_f32.to_le_bytes().to_vec(),
        (DType::F32, "temperature" | "alg_temp" | "eos_penalty") => 0.0_f32.to_le_bytes().to_vec(),
        (DType::F32, _) => (0..count as u32)
            .flat_map(|i| ((i.wrapping_mul(2_654_435_761) >> 20) as f32 / 4096.0 - 0.5).to_le_bytes())
            .collect(),
        (DType::U32, _) => {
            (0..count as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
        }
        _ => vec![0; count * operand.dtype.bytes()],
    }
}
