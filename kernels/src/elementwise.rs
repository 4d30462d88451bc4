//! Element by element: sums, products, activations, steps of the action loops.
//!
//! Buffers `a` (left out in place), `b` if there is a second operand, what the map needs besides, `y`; lists of
//! `elements`. In place, `y` holds the first operand. Computed in f32, rounded once. Any lengths; made for the residual
//! stream `[rows, 3584]`, the gated MLP `[rows, 18944]` and action chunks `[chunk, 7]`.

use crate::emit::{Element, Extent};
use crate::kernel::{Float as Dtype, floats};
use crate::math::{UNITS, gelu, quick_gelu, relu, silu};
use crate::record::Recorder;
use cubecl::prelude::*;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Elementwise {
    /// What is computed.
    pub map: Map,
    /// Type of all elements.
    pub float: Dtype,
    /// Whether the result replaces the first operand. Two bindings of one buffer are an error in WebGPU.
    pub in_place: bool,
}

/// What is computed of elements `a` and `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// `a + b`.
    Add,
    /// `a * b`.
    Mul,
    /// `silu(a) * b`.
    SwiGlu,
    /// `a * sigmoid(a)`.
    Silu,
    /// `a * (1 + erf(a / sqrt(2))) / 2`, the error function to 2e-7.
    Gelu,
    /// `a * sigmoid(1.702 a)`.
    QuickGelu,
    /// `max(a, 0)`; what is not a number stays so.
    Relu,
    /// `a + b * dt`, scalar `dt`.
    Euler,
    /// `sqrt(p) * x0 + sqrt(1 - p) * b` with `x0 = clamp((a - sqrt(1 - now) * b) / sqrt(now), -1, 1)`, where `now` and
    /// `p` are elements `i` and `i + 1` of buffer `alphas`, f32, and `i` is the one element of buffer `index`.
    Ddim,
}

impl Map {
    const fn name(self) -> &'static str {
        match self {
            Map::Add => "add",
            Map::Mul => "mul",
            Map::SwiGlu => "swiglu",
            Map::Silu => "silu",
            Map::Gelu => "gelu",
            Map::QuickGelu => "quick_gelu",
            Map::Relu => "relu",
            Map::Euler => "euler",
            Map::Ddim => "ddim",
        }
    }

    const fn has_b(self) -> bool {
        matches!(self, Map::Add | Map::Mul | Map::SwiGlu | Map::Euler | Map::Ddim)
    }
}

impl Elementwise {
    pub(crate) fn name(&self) -> String {
        let variant = if self.in_place { "inplace" } else { "apart" };
        format!("{}_{}_{variant}", self.float.name(), self.map.name())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let element = self.float.element();
        let grid = [
            Extent::Ceil { of: "elements", per: UNITS, any: true },
            Extent::Constant(1),
            Extent::Constant(1),
        ];
        let optional = |wanted: bool, name, element| wanted.then(|| r.buffer(name, element));
        let ddim = self.map == Map::Ddim;
        floats!((self.float => F) => elementwise::launch_unchecked::<F>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(UNITS),
            optional(!self.in_place, "a", element).into(),
            optional(self.map.has_b(), "b", element).into(),
            optional(ddim, "alphas", Element::F32).into(),
            optional(ddim, "index", Element::I32).into(),
            r.buffer("y", element),
            r.int("elements"),
            if self.map == Map::Euler { ComptimeOptionArgs::Some(r.float("dt")) } else { ComptimeOptionArgs::None },
            self.map,
        ));
    }
}

#[cube(launch_unchecked)]
fn elementwise<F: Float>(
    a: ComptimeOption<Box<[F]>>,
    b: ComptimeOption<Box<[F]>>,
    alphas: ComptimeOption<Box<[f32]>>,
    index: ComptimeOption<Box<[i32]>>,
    y: &mut [F],
    elements: u32,
    dt: ComptimeOption<f32>,
    #[comptime] map: Map,
) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    #[comptime]
    let dt = match dt {
        ComptimeOption::Some(dt) => dt,
        ComptimeOption::None => 0.0f32,
    };
    let mut now = 1.0f32;
    let mut next = 1.0f32;
    if comptime!(map == Map::Ddim) {
        let step = index.as_ref().unwrap()[0] as usize;
        now = alphas.as_ref().unwrap()[step];
        next = alphas.as_ref().unwrap()[step + 1];
    }
    while i < elements {
        let at = i as usize;
        #[comptime]
        let first = match &a {
            ComptimeOption::Some(a) => f32::cast_from(a[at]),
            ComptimeOption::None => f32::cast_from(y[at]),
        };
        #[comptime]
        let second = match &b {
            ComptimeOption::Some(b) => f32::cast_from(b[at]),
            ComptimeOption::None => 0.0f32,
        };
        y[at] = F::cast_from(apply(first, second, dt, now, next, map));
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube]
fn apply(a: f32, b: f32, dt: f32, now: f32, next: f32, #[comptime] map: Map) -> f32 {
    if comptime!(map == Map::Add) {
        a + b
    } else if comptime!(map == Map::Mul) {
        a * b
    } else if comptime!(map == Map::SwiGlu) {
        silu(a) * b
    } else if comptime!(map == Map::Silu) {
        silu(a)
    } else if comptime!(map == Map::Gelu) {
        gelu(a)
    } else if comptime!(map == Map::QuickGelu) {
        quick_gelu(a)
    } else if comptime!(map == Map::Relu) {
        relu(a)
    } else if comptime!(map == Map::Euler) {
        a + b * dt
    } else {
        let clean = (a - f32::sqrt(1.0f32 - now) * b) / f32::sqrt(now);
        f32::sqrt(next) * clamp(clean, -1.0f32, 1.0f32) + f32::sqrt(1.0f32 - next) * b
    }
}
