//! Matmuls with a weight of the checkpoint: `y = epilogue(x W^T)`. Here by units; `matrix.rs` has the same for matrix units.
//!
//! Buffers `x` `[rows, K]`, `weight` `[N, K]` row-major, with more weights `second` and `third`, with SwiGLU `up` like it, with a bias `bias` f32, with a residual
//! apart `residual` of the result's type, `y` `[rows, stride]`; scalars `rows`, `stride`, `first`. Feature `n` stands in
//! column `first + n` of `y` and of the residual, and has element `first + n` of the bias: so several weights side by side
//! (queries, keys, values) may be several launches too.
//!
//! Sums in f32, along K in order. A workgroup computes a tile of `rows x columns`, in steps of `depth` along K through
//! shared memory; a unit has `side x side` results. N and K are any numbers. Made for 3584 x 3584, 512 x 3584, 18944 x 3584,
//! 3584 x 18944, 152064 x 3584 of the decoder and 1280 x 1280, 5120 x 1280 of the tower.

use crate::emit::{Element, Extent};
use crate::kernel::Float as Dtype;
use crate::math::{Activation, Packed, activate, load, silu, unpack};
use crate::matrix::Matmul;
use crate::ptx::Multiplied;
use crate::record::Recorder;
use crate::rows::{Table, stored};
use crate::target::{Capabilities, Target};
use crate::tile::{self, MatrixTile};
use cubecl::prelude::*;

/// How a weight is stored.
pub type Weights = Table;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Linear {
    /// Type of `x`.
    pub x: Dtype,
    /// How the weights are stored.
    pub weights: Weights,
    /// Type of the result.
    pub y: Dtype,
    /// Features, rows of the weight.
    pub n: u32,
    /// Features of a second and a third weight, whose results stand behind those of the first; 0 where there is none. On
    /// matrix units, not with SwiGLU.
    pub more: [u32; 2],
    /// Columns of `x` and of the weights.
    pub k: u32,
    /// Whether there is a bias; added first.
    pub bias: bool,
    /// Whether there is a second weight: `silu(x weight^T) * (x up^T)`. Not with a bias.
    pub swiglu: bool,
    /// What is done to the sums, after the bias. Not with SwiGLU.
    pub activation: Option<Activation>,
    /// What is added last.
    pub residual: Residual,
    /// Heads that are turned by the positions of their rows, as [`crate::Rope`] does, once they are rounded to the type of the
    /// result. On matrix units, not with SwiGLU, an activation or a residual.
    pub rope: Option<Turned>,
    /// Whether rows of `x` come as a matmul that weights its result leaves them: times the gain of an RMS norm, and to be
    /// divided by the root of their mean square here. A buffer `squares` f32 `[rows, pitch]`, a scalar `eps`. In bf16, on
    /// matrix units.
    pub scaled: bool,
    /// Whether the result is left for an RMS norm as well: buffers `gain` f32 `[n]`, `weighted` bf16 `[rows, n]`, which is the
    /// result times the gain, `squares` f32 `[rows, pitch]`, which are sums of the squares of [`Linear::SQUARES`]
    /// neighbouring results. A pitch is the number of these sums, rounded up to whole 16 bytes. In bf16, on matrix units; not
    /// with more weights, SwiGLU or turned heads.
    pub weighted: bool,
    /// What computes it.
    pub engine: Engine,
}

/// Heads from the first feature on, whose halves are turned. Angles are buffers `cos` and `sin` f32 `[rows, head_dim / 2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turned {
    /// How many.
    pub heads: u32,
    /// Features of a head, a multiple of 16.
    pub head_dim: u32,
}

impl Turned {
    /// Features that are turned.
    pub(crate) const fn features(self) -> u32 {
        self.heads * self.head_dim
    }
}

/// What computes it, in which tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// Units, one product after the other: on every target, for all types.
    Units(Tile),
    /// Matrix units, where the target has them for the type that `x` and the weights have both.
    Matrix(MatrixTile),
}

/// What is added last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Residual {
    /// Nothing.
    None,
    /// A buffer of its own.
    Apart,
    /// What `y` holds.
    InPlace,
}

/// What a workgroup computes at once. Rows and columns are multiples of `side`, the depth is even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Rows of the result.
    pub rows: u32,
    /// Columns of the result.
    pub columns: u32,
    /// Steps along K between two exchanges.
    pub depth: u32,
    /// Rows and columns of the results of a unit.
    pub side: u32,
}

impl Tile {
    /// For many rows: 256 units.
    pub const WIDE: Tile = Tile { rows: 64, columns: 64, depth: 16, side: 4 };
    /// For up to 16 rows: 64 units.
    pub const FLAT: Tile = Tile { rows: 16, columns: 64, depth: 16, side: 4 };

    const fn units(self) -> u32 {
        self.rows / self.side * (self.columns / self.side)
    }
}

/// What the kernel is made for. Hashed into its identity by CubeCL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    n: u32,
    k: u32,
    rows: u32,
    columns: u32,
    depth: u32,
    side: u32,
    units: u32,
    packed: Packed,
    activation: Option<Activation>,
    in_place: bool,
}

impl Linear {
    /// Results whose squares are added up for a norm.
    pub const SQUARES: u32 = 32;

    /// A plain matmul, all of it in one type.
    pub const fn plain(float: Dtype, n: u32, k: u32, engine: Engine) -> Linear {
        Linear {
            x: float,
            weights: Table::Floats(float),
            y: float,
            n,
            more: [0; 2],
            k,
            bias: false,
            swiglu: false,
            activation: None,
            residual: Residual::None,
            rope: None,
            scaled: false,
            weighted: false,
            engine,
        }
    }

    /// Floats between the sums of squares of two rows of so many results.
    pub const fn squares(columns: u32) -> u32 {
        columns.div_ceil(Linear::SQUARES).next_multiple_of(4)
    }

    /// The same for up to `most` rows on `target`: on matrix units where they will do, then as a table of variants by the
    /// number of rows, each up to so many.
    pub fn fitted(self, most: u32, target: &Target) -> Vec<(u32, Linear)> {
        let capabilities = target.capabilities();
        let matrix = |(up_to, tile)| (up_to, Linear { engine: Engine::Matrix(tile), ..self });
        let table = MatrixTile::table(most, self.operand(), capabilities);
        let table: Vec<(u32, Linear)> = table.into_iter().map(matrix).collect();
        let will_do = |linear: &Linear| linear.lacks(target).is_none() && linear.check(capabilities).is_ok();
        let to_the_end = table.last().is_some_and(|(up_to, _)| *up_to >= most);
        if to_the_end && table.iter().all(|(_, linear)| will_do(linear)) {
            return table;
        }
        let tile = if most <= Tile::FLAT.rows { Tile::FLAT } else { Tile::WIDE };
        vec![(u32::MAX, Linear { engine: Engine::Units(tile), ..self })]
    }

    /// What rows are multiplied with.
    pub(crate) fn operand(&self) -> tile::Matrix {
        let turned = self.rope.map_or(0, Turned::features);
        tile::Matrix {
            multiplied: self.multiplied(),
            columns: self.features() * (1 + u32::from(self.swiglu)),
            k_bytes: self.k * 2,
            shared: !self.swiglu && self.rope.is_none(),
            ends: match self.more {
                [0, _] => [turned, 0, 0],
                [_, 0] => [self.n, turned, 0],
                [second, _] => [self.n, second, turned],
            },
        }
    }

    /// Workgroups that share K.
    pub fn splits(&self) -> u32 {
        match self.engine {
            Engine::Units(_) => 1,
            Engine::Matrix(tile) => tile.splits,
        }
    }

    /// Where workgroups share K: tiles for so many rows, and elements of the sums of all of them.
    pub fn parts(&self, rows: u32) -> Option<(u32, u32)> {
        let Engine::Matrix(tile) = self.engine else { return None };
        tile.parts(rows, self.features())
    }

    /// Whether all its weights are one launch, and their heads turned in it.
    pub fn takes_all(&self) -> bool {
        (self.more == [0; 2] && self.rope.is_none()) || self.is_matrix()
    }

    /// Whether matrix units compute it.
    pub const fn is_matrix(&self) -> bool {
        matches!(self.engine, Engine::Matrix(_))
    }

    /// Of all weights.
    fn features(&self) -> u32 {
        self.n + self.more[0] + self.more[1]
    }

    /// On matrix units, which have no f32.
    fn multiplied(&self) -> Multiplied {
        if self.x == Dtype::F16 { Multiplied::F16 } else { Multiplied::BF16 }
    }

    /// What it needs beyond its float types and `target` does not have.
    pub(crate) fn lacks(&self, target: &Target) -> Option<String> {
        match self.engine {
            Engine::Units(_) => None,
            Engine::Matrix(tile) => tile.lacks(self, target),
        }
    }

    pub(crate) fn name(&self) -> String {
        let mut name = format!("{}w_{}_linear", self.weights.name(), self.x.name());
        let activation = self.activation.map(|a| format!("_{}", a.name())).unwrap_or_default();
        let rope = self.rope.map(|Turned { heads, head_dim }| format!("_rope{heads}x{head_dim}"));
        let rope = rope.unwrap_or_default();
        for (has, part) in [
            (self.scaled, "_scaled"),
            (self.swiglu, "_swiglu"),
            (self.bias, "_bias"),
            (self.activation.is_some(), activation.as_str()),
            (self.rope.is_some(), rope.as_str()),
            (self.residual == Residual::Apart, "_residual"),
            (self.residual == Residual::InPlace, "_residual_inplace"),
            (self.weighted, "_weighted"),
        ] {
            name += if has { part } else { "" };
        }
        let engine = match self.engine {
            Engine::Units(Tile { rows, columns, depth, side }) => {
                format!("tile{rows}x{columns}x{depth}by{side}")
            }
            Engine::Matrix(tile) => tile.name(),
        };
        let more: String = self.more.iter().filter(|n| **n > 0).map(|n| format!("_{n}")).collect();
        format!("{name}_to_{}_n{}{more}k{}_{engine}", self.y.name(), self.n, self.k)
    }

    pub(crate) fn check(&self, capabilities: &Capabilities) -> Result<(), String> {
        if self.swiglu && (self.bias || self.activation.is_some()) {
            return Err("swiglu takes no bias and no activation".into());
        }
        if self.n == 0 || self.k == 0 {
            return Err("n and k are at least 1".into());
        }
        if self.swiglu && self.more != [0; 2] {
            return Err("swiglu takes no more weights".into());
        }
        if self.rope.is_some()
            && (self.swiglu || self.activation.is_some() || self.residual != Residual::None)
        {
            return Err("heads are turned behind a bias, and nothing else is done to them".into());
        }
        if self.scaled || self.weighted {
            self.check_norms()?;
        }
        let tile = match self.engine {
            Engine::Units(_) if self.rope.is_some() => return Err("units turn no heads".into()),
            Engine::Units(_) if self.more != [0; 2] => {
                return Err("units take one weight at a time".into());
            }
            Engine::Units(tile) => tile,
            Engine::Matrix(tile) => {
                // A workgroup has features of one of them.
                let before = if self.more[1] > 0 { vec![self.n, self.more[0]] } else { vec![self.n] };
                if self.more != [0; 2] && before.iter().any(|n| n % tile.columns != 0) {
                    return Err(format!("{before:?} features are not whole tiles of {}", tile.columns));
                }
                if let Some(turned) = self.rope {
                    // A workgroup has as many features of the one half of heads as of the other, or none of either.
                    let features = turned.features();
                    let heads_of = |n: u32| n.is_multiple_of(turned.head_dim.max(1));
                    let fits = features.is_multiple_of(tile.columns)
                        && (1..=self.features()).contains(&features)
                        && turned.head_dim.is_multiple_of(16)
                        && (self.more == [0; 2] || heads_of(self.n) && heads_of(self.more[0]));
                    if !fits {
                        let Turned { heads, head_dim } = turned;
                        return Err(format!(
                            "{heads} heads of {head_dim} are not whole tiles of {}",
                            tile.columns
                        ));
                    }
                }
                if tile.splits > 1 && (self.swiglu || self.rope.is_some()) {
                    return Err("K is shared where one sum is a result".into());
                }
                let weights = 1 + u32::from(self.swiglu);
                let more_bytes = match (self.scaled, self.weighted) {
                    (true, _) => 4 * tile.rows,
                    (_, true) => 4 * tile.columns,
                    (false, false) => 0,
                };
                return tile.check(weights, (self.k, self.multiplied()), more_bytes, capabilities);
            }
        };
        let Tile { rows, columns, depth, side } = tile;
        let whole = side > 0 && rows > 0 && columns > 0 && rows % side == 0 && columns % side == 0;
        if !whole || side > 8 || depth == 0 || depth % 2 != 0 || tile.units() > capabilities.units_max {
            return Err(format!("a tile of {rows}x{columns}x{depth} is not computed in squares of {side}"));
        }
        let bytes = 4 * depth * (rows + side + (columns + side) * if self.swiglu { 2 } else { 1 });
        if bytes > capabilities.shared_bytes {
            return Err(format!(
                "{bytes} bytes of shared memory, the target has {}",
                capabilities.shared_bytes
            ));
        }
        Ok(())
    }

    /// Whether rows can come weighted, or be left so.
    fn check_norms(&self) -> Result<(), String> {
        if self.x != Dtype::BF16 || !self.is_matrix() {
            return Err("rows are weighted for matrix units and in bf16".into());
        }
        if self.scaled && (self.weighted || !self.k.is_multiple_of(Linear::SQUARES)) {
            return Err(format!("squares of {} rows are added up before or behind", self.k));
        }
        let alone = self.more == [0; 2] && !self.swiglu && self.rope.is_none();
        if self.weighted && !(alone && self.n.is_multiple_of(Linear::SQUARES)) {
            return Err(format!("a result of {} features is not weighted", self.n));
        }
        Ok(())
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let Linear { x, weights, y, n, more, k, bias, swiglu, activation, residual, rope, .. } = *self;
        let (scaled, weighted, engine) = (self.scaled, self.weighted, self.engine);
        let tile = match engine {
            Engine::Units(tile) => tile,
            Engine::Matrix(tile) => {
                let multiplied = self.multiplied();
                let matmul = Matmul {
                    multiplied,
                    y,
                    n,
                    more,
                    k,
                    bias,
                    swiglu,
                    activation,
                    residual,
                    rope,
                    scaled,
                    weighted,
                };
                return tile.launch(&matmul, r);
            }
        };
        let units = tile.units();
        let grid = [
            Extent::Constant(n.div_ceil(tile.columns)),
            Extent::Ceil { of: "rows", per: tile.rows, any: false },
            Extent::Constant(1),
        ];
        let shape = |packed| Shape {
            n,
            k,
            rows: tile.rows,
            columns: tile.columns,
            depth: tile.depth,
            side: tile.side,
            units,
            packed,
            activation,
            in_place: residual == Residual::InPlace,
        };
        stored!(weights => (W, packed), (x => X, y => Y) => linear::launch_unchecked::<X, W, Y>(
            r.client(),
            r.grid(grid),
            CubeDim::new_1d(units),
            r.buffer("x", x.element()),
            r.buffer("weight", weights.element()),
            swiglu.then(|| r.buffer("up", weights.element())).into(),
            bias.then(|| r.buffer("bias", Element::F32)).into(),
            (residual == Residual::Apart).then(|| r.buffer("residual", y.element())).into(),
            r.buffer("y", y.element()),
            r.int("rows"),
            r.int("stride"),
            r.int("first"),
            shape(packed),
        ));
    }
}

#[cube(launch_unchecked)]
fn linear<X: Float, W: Numeric, Y: Float>(
    x: &[X],
    weight: &[W],
    up: ComptimeOption<Box<[W]>>,
    bias: ComptimeOption<Box<[f32]>>,
    residual: ComptimeOption<Box<[Y]>>,
    y: &mut [Y],
    rows: u32,
    stride: u32,
    first: u32,
    #[comptime] shape: Shape,
) {
    let k = comptime!(shape.k);
    let depth = comptime!(shape.depth);
    let side = comptime!(shape.side);
    // A few more columns than needed, so that neighbouring steps of K lie in different banks.
    let x_pitch = comptime!(shape.rows + shape.side);
    let w_pitch = comptime!(shape.columns + shape.side);
    // One block: the generator would put several in an order that differs from run to run.
    let w_first = comptime!(depth * x_pitch);
    let u_first = comptime!(w_first + depth * w_pitch);
    let end = comptime!(if up.is_some() { u_first + depth * w_pitch } else { u_first });
    let mut tiles = Shared::<[f32]>::new_slice(comptime!(end as usize));
    let results = comptime!((side * side) as usize);
    let mut sums = Array::<f32>::new(results);
    let mut ups = Array::<f32>::new(comptime!(if up.is_some() { results } else { 1 }));
    #[unroll]
    for i in 0..results {
        sums[i] = 0.0f32;
        if comptime!(up.is_some()) {
            ups[i] = 0.0f32;
        }
    }
    let first_row = CUBE_POS_Y * shape.rows;
    let first_column = CUBE_POS_X * shape.columns;
    let across = comptime!(shape.columns / side);
    let row = UNIT_POS_X / across * side;
    let column = UNIT_POS_X % across * side;
    let mut start = 0u32;
    while start < k {
        let mut i = UNIT_POS_X;
        while i < shape.rows * depth {
            let r = i / depth;
            let d = i % depth;
            let mut value = 0.0f32;
            if first_row + r < rows && start + d < k {
                value = f32::cast_from(x[((first_row + r) * k + start + d) as usize]);
            }
            tiles[(d * x_pitch + r) as usize] = value;
            i += shape.units;
        }
        fetch(weight, &mut tiles, w_first, first_column, start, shape);
        if comptime!(up.is_some()) {
            let up = up.as_ref().unwrap();
            fetch(up, &mut tiles, u_first, first_column, start, shape);
        }
        sync_cube();
        for d in 0..depth {
            let x_at = (d * x_pitch + row) as usize;
            let w_at = (w_first + d * w_pitch + column) as usize;
            #[unroll]
            for i in 0..side {
                let a = tiles[x_at + comptime!(i as usize)];
                #[unroll]
                for j in 0..side {
                    let at = comptime!((i * side + j) as usize);
                    sums[at] += a * tiles[w_at + comptime!(j as usize)];
                    if comptime!(up.is_some()) {
                        ups[at] += a * tiles[w_at + comptime!((j + u_first - w_first) as usize)];
                    }
                }
            }
        }
        sync_cube();
        start += depth;
    }
    #[unroll]
    for i in 0..side {
        #[unroll]
        for j in 0..side {
            let at = comptime!((i * side + j) as usize);
            let n = first_column + column + j;
            let m = first_row + row + i;
            if m < rows && n < shape.n {
                let mut value = sums[at];
                if comptime!(up.is_some()) {
                    value = silu(value) * ups[at];
                }
                let to = (m * stride + first + n) as usize;
                if comptime!(bias.is_some()) {
                    let bias = bias.as_ref().unwrap();
                    value += bias[(first + n) as usize];
                }
                if comptime!(shape.activation.is_some()) {
                    value = activate(value, shape.activation);
                }
                if comptime!(residual.is_some()) {
                    let residual = residual.as_ref().unwrap();
                    value += f32::cast_from(residual[to]);
                }
                if comptime!(shape.in_place) {
                    value += f32::cast_from(y[to]);
                }
                y[to] = Y::cast_from(value);
            }
        }
    }
}

/// Puts columns `start..start + depth` of the tile's features into `to` from `at` on, `[depth, columns +
/// side]`.
#[cube]
fn fetch<W: Numeric>(
    weight: &[W],
    to: &mut [f32],
    #[comptime] at: u32,
    first: u32,
    start: u32,
    #[comptime] shape: Shape,
) {
    let pitch = comptime!(shape.columns + shape.side);
    let k = comptime!(shape.k);
    if comptime!(shape.packed != Packed::No && shape.k.is_multiple_of(2)) {
        // Two steps of K are one word.
        let pairs = comptime!(shape.depth / 2);
        let mut i = UNIT_POS_X;
        while i < shape.columns * pairs {
            let n = i / pairs;
            let d = i % pairs * 2;
            let mut word = 0u32;
            if first + n < shape.n && start + d < k {
                word = u32::cast_from(weight[(((first + n) * k + start + d) / 2) as usize]);
            }
            to[(at + d * pitch + n) as usize] = unpack(word, shape.packed);
            to[(at + (d + 1) * pitch + n) as usize] = unpack(word >> 16u32, shape.packed);
            i += shape.units;
        }
    } else {
        let mut i = UNIT_POS_X;
        while i < shape.columns * shape.depth {
            let n = i / shape.depth;
            let d = i % shape.depth;
            let mut value = 0.0f32;
            if first + n < shape.n && start + d < k {
                value = load(weight, ((first + n) * k + start + d) as usize, shape.packed);
            }
            to[(at + d * pitch + n) as usize] = value;
            i += shape.units;
        }
    }
}
