//! Matmuls of codes of fp8 on matrix units: what [`crate::Linear`] computes of rows and weights that are OCP's e4m3, with an
//! f32 scale for each row of either. `y = epilogue((x W^T) * x_scales * weight_scales)`.
//!
//! Buffers `x` `[rows, pitch]` of codes, four in a word, `x_scales` f32 `[rows]`, `weight` `[N, pitch]`, `weight_scales` f32
//! `[N]`, with SwiGLU `up` and `up_scales` like them, `bias`, `residual`, `y` and the scalars as those of [`crate::Linear`].
//! The pitch is K filled up to a multiple of 16 with codes of 0, so that every load has 16 bytes.
//!
//! The kernel is that of `matrix.rs`, in the same tiles: a step along K is twice as many elements in as many bytes. Warps
//! are 64 x 32 where those are 64 x 64: with the sums of a step apart from those before it, 255 registers
//! would not do.
//!
//! Matrix units add products of fp8 in fewer bits than f32 has, by some accounts 14 of mantissa. So they do for one step only,
//! 128 or 256 elements of K, whose sum is then added in f32.
//!
//! `gpu_asm!` rather than the generator's own matrices of fp8: of those it asks for `.kind::f8f6f4`, which PTX has for sm_120
//! only.

use crate::kernel::Float as Dtype;
use crate::linear::Residual;
use crate::math::Activation;
use crate::matrix::Matmul;
use crate::ptx::Multiplied;
use crate::record::Recorder;
use crate::target::{Capabilities, Target};
use crate::tile::{self, Instruction, MatrixTile};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearFp8 {
    /// Type of the result.
    pub y: Dtype,
    /// Features, rows of the weight.
    pub n: u32,
    /// Features of a second and a third weight, whose results stand behind those of the first, with buffers `second`,
    /// `second_scales`, `third`, `third_scales`; 0 where there is none. Not with SwiGLU.
    pub more: [u32; 2],
    /// Columns of `x` and of the weight.
    pub k: u32,
    /// Whether there is a bias; added first.
    pub bias: bool,
    /// Whether there is a second weight: `silu(x weight^T) * (x up^T)`. Not with a bias.
    pub swiglu: bool,
    /// What is done to the sums, after the bias. Not with SwiGLU.
    pub activation: Option<Activation>,
    /// What is added last.
    pub residual: Residual,
    /// What a workgroup computes at once.
    pub tile: MatrixTile,
}

impl LinearFp8 {
    /// A tile with warps that have room for two sets of sums.
    pub const fn tile(tile: MatrixTile) -> MatrixTile {
        match tile.warp_rows * tile.warp_columns >= 48 * 64 {
            true if !tile.by_groups() => MatrixTile { warp_columns: 32, ..tile },
            _ => tile,
        }
    }

    /// The same as a table of variants by the number of rows up to `most`, each up to so many.
    pub fn fitted(self, most: u32, target: &Target) -> Vec<(u32, LinearFp8)> {
        let operand = tile::Matrix {
            multiplied: Multiplied::E4M3,
            columns: self.features() * self.weights(),
            k_bytes: self.k,
            shared: !self.swiglu,
            ends: match self.more {
                [0, _] => [0; 3],
                [_, 0] => [self.n, 0, 0],
                [second, _] => [self.n, second, 0],
            },
        };
        let table = MatrixTile::table(most, operand, target.capabilities());
        let own = |(up_to, tile)| (up_to, LinearFp8 { tile: LinearFp8::tile(tile), ..self });
        table.into_iter().map(own).collect()
    }

    /// Whether every kernel of the table can be emitted. Where not all weights are whole tiles, they are launches of their own.
    pub fn will_do(table: &[(u32, LinearFp8)], target: &Target) -> bool {
        let fits = |kernel: &LinearFp8| kernel.check(target.capabilities()).is_ok();
        !table.is_empty() && table.iter().all(|(_, kernel)| fits(kernel))
    }

    /// Workgroups that share K.
    pub const fn splits(&self) -> u32 {
        self.tile.splits
    }

    /// Where workgroups share K: tiles for so many rows, and elements of the sums of all of them.
    pub fn parts(&self, rows: u32) -> Option<(u32, u32)> {
        self.tile.parts(rows, self.features())
    }

    const fn features(&self) -> u32 {
        self.n + self.more[0] + self.more[1]
    }

    const fn weights(&self) -> u32 {
        if self.swiglu { 2 } else { 1 }
    }

    /// What `target` lacks for it.
    pub(crate) fn lacks(&self, target: &Target) -> Option<String> {
        let capabilities = target.capabilities();
        let has = match self.tile.instruction {
            Instruction::Mma => capabilities.fp8,
            Instruction::Wgmma => capabilities.group_products > 0,
        };
        (!(has && MatrixTile::runs(target))).then(|| "matrices of fp8".to_owned())
    }

    pub(crate) fn name(&self) -> String {
        let mut name = "e4m3w_e4m3_linear".to_owned();
        let activation = self.activation.map(|a| format!("_{}", a.name())).unwrap_or_default();
        for (has, part) in [
            (self.swiglu, "_swiglu"),
            (self.bias, "_bias"),
            (self.activation.is_some(), activation.as_str()),
            (self.residual == Residual::Apart, "_residual"),
            (self.residual == Residual::InPlace, "_residual_inplace"),
        ] {
            name += if has { part } else { "" };
        }
        let more: String = self.more.iter().filter(|n| **n > 0).map(|n| format!("_{n}")).collect();
        format!("{name}_to_{}_n{}{more}k{}_{}", self.y.name(), self.n, self.k, self.tile.name())
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
        if self.swiglu && self.tile.splits > 1 {
            return Err("K is shared where one sum is a result".into());
        }
        // A workgroup has features of one of them.
        let before = if self.more[1] > 0 { vec![self.n, self.more[0]] } else { vec![self.n] };
        if self.more != [0; 2] && before.iter().any(|n| n % self.tile.columns != 0) {
            return Err(format!("{before:?} features are not whole tiles of {}", self.tile.columns));
        }
        // Rows are filled up.
        let k = self.k.next_multiple_of(Multiplied::E4M3.in_chunk());
        self.tile.check(self.weights(), (k, Multiplied::E4M3), 0, capabilities)
    }

    pub(crate) fn launch(&self, r: &Recorder) {
        let LinearFp8 { y, n, more, k, bias, swiglu, activation, residual, tile } = *self;
        let matmul = Matmul {
            multiplied: Multiplied::E4M3,
            y,
            n,
            more,
            k,
            bias,
            swiglu,
            activation,
            residual,
            rope: None,
            scaled: false,
            weighted: false,
        };
        tile.launch(&matmul, r);
    }
}
