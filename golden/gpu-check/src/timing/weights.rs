//! Made-up weights: all of them are the same bytes of the host, copied to the device as often as there are tensors.

use dreamc_artifact::WeightInfo;
use dreamc_backend::{Constants, Source};
use dreamc_ir::Literal;
use dreamc_num::DType;
use dreamc_runtime::WeightView;

/// The largest numbers are below it, the smallest a hundredth of it.
const EXPONENT: u16 = 0x3d00;

/// Bytes for a list of constants.
pub(crate) struct Weights {
    table: Vec<WeightInfo>,
    /// Tables of the compiler's own, which are no weights: they are what they are.
    own: Vec<Option<Vec<u8>>>,
    random: Vec<u8>,
}

impl Weights {
    /// For these constants.
    pub(crate) fn new(constants: &Constants) -> Weights {
        let Some(table) = constants.table() else { panic!("a tensor is too large to store") };
        let own: Vec<Option<Vec<u8>>> = constants
            .list()
            .iter()
            .map(|constant| match &constant.source {
                Source::Checkpoint(_) | Source::Rows { .. } | Source::Quantized { .. } => None,
                Source::Literal(literal) => Some(bytes(literal, constant.dtype)),
            })
            .collect();
        let is_random = |(w, own): (&WeightInfo, &Option<Vec<u8>>)| own.is_none().then_some(w.bytes);
        let most = table.iter().zip(&own).filter_map(is_random).max().unwrap_or(0);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = vec![0_u8; most.next_multiple_of(8) as usize];
        for chunk in random.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = state.to_le_bytes();
            for (out, half) in chunk.as_chunks_mut::<2>().0.iter_mut().zip(word.as_chunks::<2>().0) {
                // A bf16 with a random sign, one of four exponents and a random mantissa. Two of them are an f32 that is
                // as small, and no byte of them is the code of fp8 that is no number.
                let half = u16::from_le_bytes(*half);
                *out = ((EXPONENT - ((half >> 8) & 3) * 0x80) | (half & 0x803f)).to_le_bytes();
            }
        }
        Weights { table, own, random }
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.table.iter().map(|w| w.bytes).sum()
    }

    /// As a device takes them.
    pub(crate) fn views(&self) -> Vec<WeightView<'_>> {
        let tensors = self.table.iter().zip(&self.own);
        tensors.map(|(w, own)| self.view(w, own.as_deref())).collect()
    }

    fn view<'a>(&'a self, info: &WeightInfo, own: Option<&'a [u8]>) -> WeightView<'a> {
        let bytes = own.unwrap_or_else(|| &self.random[..info.bytes as usize]);
        WeightView { bytes, layout: info.layout, dtype: info.dtype }
    }
}

fn bytes(literal: &Literal, dtype: DType) -> Vec<u8> {
    match (literal, dtype) {
        (Literal::Floats(list), DType::F32) => list.iter().flat_map(|x| x.to_le_bytes()).collect(),
        (Literal::Ints(list), DType::I32 | DType::U32) => {
            list.iter().flat_map(|n| (*n as i32).to_le_bytes()).collect()
        }
        _ => panic!("a table of the compiler is {dtype}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_artifact::layout::Layout;
    use dreamc_ir::Type;

    #[test]
    fn made_up_numbers_are_small_and_numbers() {
        let mut constants = Constants::default();
        let ty = Type::new(DType::BF16, [64.into(), 3.into()]);
        constants.intern(&Source::Checkpoint(vec!["w".to_owned()]), &ty, Layout::RowMajor).unwrap();
        let table = Source::Literal(Literal::Floats(vec![0.5; 3]));
        constants.intern(&table, &Type::new(DType::F32, [3.into()]), Layout::RowMajor).unwrap();
        let weights = Weights::new(&constants);
        assert_eq!(weights.bytes(), 64 * 3 * 2 + 12);
        let views = weights.views();
        assert_eq!(views[1].bytes, [0.5_f32; 3].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let halves: Vec<f32> = views[0]
            .bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
            .collect();
        assert!(halves.iter().all(|x| x.abs() < 0.1 && x.abs() > 0.001), "{halves:?}");
        assert!(views[0].bytes.iter().all(|byte| byte & 0x7f != 0x7f));
        assert!(halves.iter().any(|x| *x < 0.0) && halves.iter().any(|x| *x > 0.0));
    }
}
