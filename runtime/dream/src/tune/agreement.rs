//! Whether two kernels have computed the same.

use dreamc_num::DType;
use half::{bf16, f16};

/// How far results may be off, as a share of the largest: each of at most four steps in a row rounds once.
pub fn limit(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 4.0 / 256.0,
        DType::F16 => 4.0 / 2048.0,
        DType::F32 | DType::I32 | DType::U32 | DType::Bool => 1e-4,
    }
}

/// Rows whose largest magnitude is a smaller share of that of all are judged by that share: next to nothing is left of them.
const SMALL: f32 = 1e-3;

/// The largest difference as a share of the largest magnitude of its row, so that a row of large numbers hides nothing in the
/// others. None where something is not finite, on either side. Of other types than floats: 0 where the bytes are the same.
pub(super) fn off(dtype: DType, columns: usize, found: &[u8], wanted: &[u8]) -> Option<f32> {
    let (Some(found_floats), Some(wanted_floats)) = (floats(dtype, found), floats(dtype, wanted)) else {
        return if found == wanted { Some(0.0) } else { None };
    };
    let most = |row: &[f32]| row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    if found_floats.len() != wanted_floats.len()
        || !found_floats.iter().chain(&wanted_floats).all(|x| x.is_finite())
    {
        return None;
    }
    let least = (most(&wanted_floats) * SMALL).max(f32::MIN_POSITIVE);
    let columns = columns.max(1);
    let rows = found_floats.chunks(columns).zip(wanted_floats.chunks(columns));
    let worst = |(found, wanted): (&[f32], &[f32])| {
        let difference = found.iter().zip(wanted).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        difference / most(wanted).max(least)
    };
    Some(rows.map(worst).fold(0.0, f32::max))
}

/// Numbers of a float type; none of another.
fn floats(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = |of: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|b| of(*b)).collect();
    match dtype {
        DType::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        DType::F16 => Some(halves(|b| f16::from_le_bytes(b).to_f32())),
        DType::BF16 => Some(halves(|b| bf16::from_le_bytes(b).to_f32())),
        DType::I32 | DType::U32 | DType::Bool => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(floats: &[f32]) -> Vec<u8> {
        floats.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn each_row_is_judged_by_its_own_numbers() {
        let wanted = bytes(&[1000.0, -500.0, 1.0, 2.0]);
        let off_by = |found: &[f32]| off(DType::F32, 2, &bytes(found), &wanted);
        assert_eq!(off_by(&[1000.0, -500.0, 1.0, 2.0]), Some(0.0));
        assert_eq!(off_by(&[1000.0, -500.0, 1.0, 3.0]), Some(0.5));
        assert_eq!(off_by(&[900.0, -500.0, 1.0, 2.0]), Some(0.1));
        assert_eq!(off_by(&[1000.0, -500.0, 1.0]), None);
    }

    #[test]
    fn what_is_not_finite_agrees_with_nothing() {
        let nan = bytes(&[f32::NAN, 1.0]);
        assert_eq!(off(DType::F32, 2, &nan, &nan), None);
        assert_eq!(off(DType::F32, 2, &bytes(&[1.0, 1.0]), &nan), None);
        assert_eq!(off(DType::F32, 2, &bytes(&[f32::INFINITY, 1.0]), &bytes(&[1.0, 1.0])), None);
        assert_eq!(off(DType::I32, 1, &[1, 0, 0, 0], &[2, 0, 0, 0]), None);
        assert_eq!(off(DType::BF16, 1, &[0x80, 0x3f], &[0x80, 0x3f]), Some(0.0));
    }
}
