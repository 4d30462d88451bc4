//! Ops on the open slots of a canvas, i32[B, K].

use crate::run::RunError;
use crate::tensor::Tensor;
use dreamc_num::distribution::NO_TOKEN;
use dreamc_num::stream::{Lane, StreamState};

/// Positions of `token`, and which of them there are. Without a number of slots, as many as the fullest row has.
pub(crate) fn open(canvas: &Tensor, token: u64, slots: Option<u64>) -> Vec<Tensor> {
    let (rows, s) = (canvas.dims[0], canvas.columns());
    let positions = |row: &[i32]| -> Vec<i32> {
        (0..).zip(row).filter(|(_, t)| i64::from(**t) == token as i64).map(|(p, _)| p).collect()
    };
    let found: Vec<Vec<i32>> = canvas.ints().chunks(s).map(positions).collect();
    let fullest = || found.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let k = slots.map_or_else(fullest, |k| k as usize);
    let (mut slots, mut open) = (vec![0; rows * k], vec![false; rows * k]);
    for (row, found) in found.iter().enumerate() {
        for (at, p) in found.iter().take(k).enumerate() {
            slots[row * k + at] = *p;
            open[row * k + at] = true;
        }
    }
    vec![Tensor::i32(&[rows, k], slots), Tensor::bool(&[rows, k], open)]
}

pub(crate) fn bits(slots: &Tensor, stream: &Tensor, lane: Lane) -> Tensor {
    let words = stream.words();
    let state = StreamState::from_words([words[0], words[1], words[2], words[3]]);
    let k = slots.columns();
    let bits = slots.ints().iter().enumerate().map(|(i, p)| state.bits((i / k) as u32, *p as u32, lane));
    Tensor::u32(&slots.dims, bits.collect())
}

pub(crate) fn take(x: &Tensor, slots: &Tensor) -> Result<Tensor, RunError> {
    let at = places(slots, x.columns())?;
    Ok(Tensor::i32(&slots.dims, at.into_iter().map(|i| x.ints()[i]).collect()))
}

/// Without a choice of slots: every position is one.
pub(crate) fn commit_all(select: &Tensor, token: &Tensor, canvas: &Tensor) -> Tensor {
    let pairs = token.ints().iter().zip(canvas.ints());
    let commit =
        |(s, (token, old)): (&bool, (&i32, &i32))| if *s || *token == NO_TOKEN { *token } else { *old };
    Tensor::i32(&canvas.dims, select.bools().iter().zip(pairs).map(commit).collect())
}

pub(crate) fn commit(
    select: &Tensor,
    token: &Tensor,
    slots: &Tensor,
    canvas: &Tensor,
) -> Result<Tensor, RunError> {
    let mut out = canvas.ints().to_vec();
    for (i, at) in places(slots, canvas.columns())?.into_iter().enumerate() {
        if select.bools()[i] || token.ints()[i] == NO_TOKEN {
            out[at] = token.ints()[i];
        }
    }
    Ok(Tensor::i32(&canvas.dims, out))
}

/// The element of a `[B, s]` tensor that each slot stands for.
fn places(slots: &Tensor, s: usize) -> Result<Vec<usize>, RunError> {
    let k = slots.columns();
    let place = |(i, p): (usize, &i32)| {
        let inside = usize::try_from(*p).ok().filter(|p| *p < s);
        inside.map(|p| i / k * s + p).ok_or(RunError::Row(*p))
    };
    slots.ints().iter().enumerate().map(place).collect()
}
