//! The rules of modules and launches.

use super::shapes::{Checked, ensure};
use super::{Checker, Fault};
use crate::code::{
    BUFFER_COUNT_MAX, Code, Extent, IMAGE_BYTES_MAX, IMAGE_COUNT_MAX, INFO_WORD_COUNT_MAX, MODULE_COUNT_MAX,
    Module, SCALAR_COUNT_MAX, SHARED_BYTES_MAX, ScalarType, WORKGROUP_UNITS_MAX, Word,
};
use crate::layout::Layout;
use crate::plan::{
    ARENA_ALIGN, Binding, Candidate, Choice, Dispatch, Launch, Place, Program, Scalar, ValueId, Variant,
};
use crate::{At, CANDIDATE_COUNT_MAX, CHOICE_COUNT_MAX, Rule};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Checks what modules say about themselves.
pub(super) fn check_code(code: &Code) -> Result<(), Fault> {
    let whole = |rule| (At::Program, rule);
    ensure(code.modules.len() <= MODULE_COUNT_MAX, Rule::Limit).map_err(whole)?;
    let mut names = BTreeSet::new();
    for (module, i) in code.modules.iter().zip(0..) {
        let unique = ensure(names.insert(module.name.as_str()), Rule::Names);
        unique.and_then(|()| check_module(module)).map_err(|rule| (At::Module(i), rule))?;
    }
    Ok(())
}

fn check_module(module: &Module) -> Checked {
    let Module { images, workgroup, buffers, scalars, info, .. } = module;
    let units = workgroup.iter().try_fold(1_u32, |units, n| units.checked_mul(*n));
    let limits = buffers.len() <= BUFFER_COUNT_MAX
        && scalars.len() <= SCALAR_COUNT_MAX
        && info.len() <= INFO_WORD_COUNT_MAX
        && (1..=IMAGE_COUNT_MAX).contains(&images.len())
        && images.iter().all(|image| image.bytes.len() <= IMAGE_BYTES_MAX)
        && module.shared_bytes <= SHARED_BYTES_MAX
        && units.is_some_and(|units| (1..=WORKGROUP_UNITS_MAX).contains(&units));
    ensure(limits, Rule::Limit)?;
    ensure(!module.name.is_empty() && !module.name.contains('\0'), Rule::Names)?;
    ensure(buffers.iter().all(|b| matches!(b.element_bytes, 2 | 4)), Rule::Setting)?;
    for extent in &module.grid {
        let sound = match extent {
            Extent::Constant(n) => *n > 0,
            Extent::Ceil { of, per, any: _ } => {
                *per > 0 && scalars.get(*of as usize) == Some(&ScalarType::U32)
            }
        };
        ensure(sound, Rule::Setting)?;
    }
    let known = |word: &Word| match word {
        Word::Scalar(i) => (*i as usize) < scalars.len(),
        Word::Length(i) => (*i as usize) < buffers.len(),
        Word::Zero => true,
    };
    ensure(info.iter().all(known), Rule::Index)
}

/// What a program leaves to be chosen.
pub(super) fn check_choices(program: &Program) -> Result<Vec<Choice>, Rule> {
    let choices = program.choices();
    ensure(choices.len() <= CHOICE_COUNT_MAX, Rule::Limit)?;
    for choice in &choices {
        ensure((2..=CANDIDATE_COUNT_MAX).contains(&choice.candidates), Rule::Candidates)?;
    }
    Ok(choices)
}

impl Checker<'_> {
    /// The launches of a dispatch: what they write lies in the arena, apart from what else they touch and from what the
    /// loop needs. Which elements a kernel touches inside its bindings is the kernel's own business.
    pub(super) fn launches(&self, dispatch: &Dispatch) -> Checked {
        // A device without code knows the kernels itself; one with code knows nothing else.
        ensure(dispatch.launches.is_empty() == self.code.modules.is_empty(), Rule::Launch)?;
        self.variants(&dispatch.launches)?;
        self.candidates(dispatch)?;
        dispatch.launches.iter().try_for_each(|launch| self.launch(launch))
    }

    /// At every length one range of a table serves.
    fn variants(&self, launches: &[Launch]) -> Checked {
        let mut before: Option<&Variant> = None;
        for launch in launches {
            let now = launch.variant.as_ref();
            if let Some(Variant { of, above, up_to }) = now {
                super::polynomial(of, &self.maxima)?;
                ensure(above < up_to, Rule::Setting)?;
            }
            let begins = now.is_none_or(|now| now.above == 0);
            let goes_on = before.zip(now).is_some_and(|(before, now)| {
                let same = (before.above, before.up_to) == (now.above, now.up_to);
                before.of == now.of && (same || before.up_to == now.above)
            });
            ensure(goes_on || (self.complete(before) && begins), Rule::Variant)?;
            before = now;
        }
        ensure(self.complete(before), Rule::Variant)
    }

    /// Whether no length is above the last range of a table.
    fn complete(&self, last: Option<&Variant>) -> bool {
        last.is_none_or(|last| last.of.at(&self.maxima).is_some_and(|most| most <= last.up_to))
    }

    /// Every choice of a dispatch has all its candidates there, for the same lengths, and each writes what the dispatch is to
    /// write, or none does.
    fn candidates(&self, dispatch: &Dispatch) -> Checked {
        let of = |launch: &Launch| launch.candidate.map(|candidate| candidate.choice);
        let chosen: BTreeSet<u32> = dispatch.launches.iter().filter_map(of).collect();
        for number in chosen {
            let choice =
                self.choices.iter().find(|choice| choice.number == number).ok_or(Rule::Candidates)?;
            let mut first = None;
            for nth in 0..choice.candidates {
                let own = Some(Candidate { choice: number, nth });
                let launches = || dispatch.launches.iter().filter(|launch| launch.candidate == own);
                // Launches of one candidate may be several, for the same lengths all.
                let mut lengths: Vec<&Option<Variant>> = Vec::new();
                for launch in launches() {
                    if !lengths.contains(&&launch.variant) {
                        lengths.push(&launch.variant);
                    }
                }
                let writes: Vec<bool> = dispatch
                    .writes
                    .iter()
                    .map(|id| launches().any(|launch| self.writes(launch, *id)))
                    .collect();
                let found = (lengths, writes);
                ensure(!found.0.is_empty(), Rule::Candidates)?;
                ensure(*first.get_or_insert_with(|| found.clone()) == found, Rule::Candidates)?;
            }
        }
        Ok(())
    }

    /// Whether a launch writes this value.
    fn writes(&self, launch: &Launch, id: ValueId) -> bool {
        let module = self.code.modules.get(launch.module as usize);
        let buffers = module.into_iter().flat_map(|module| launch.buffers.iter().zip(&module.buffers));
        buffers.into_iter().any(|(binding, buffer)| buffer.written && binding.value == id)
    }

    fn launch(&self, launch: &Launch) -> Checked {
        let module = self.code.modules.get(launch.module as usize).ok_or(Rule::Index)?;
        let fits = launch.buffers.len() == module.buffers.len()
            && launch.scalars.len() == module.scalars.len()
            && launch.scalars.iter().zip(&module.scalars).all(|(scalar, ty)| {
                matches!(
                    (scalar, ty),
                    (Scalar::Count(_) | Scalar::Part { .. }, ScalarType::U32)
                        | (Scalar::Float(_), ScalarType::F32)
                )
            });
        ensure(fits, Rule::Launch)?;
        for scalar in &launch.scalars {
            let (Scalar::Count(dim) | Scalar::Part { of: dim, .. }) = scalar else { continue };
            super::polynomial(dim, &self.maxima)?;
        }
        for (i, (binding, buffer)) in launch.buffers.iter().zip(&module.buffers).enumerate() {
            self.binding(binding)?;
            if !buffer.written {
                continue;
            }
            self.arena(binding.value)?;
            let others = launch.buffers.iter().enumerate().filter(|(j, _)| *j != i);
            let clear = others.into_iter().all(|(_, other)| !self.overlap(other.value, binding.value));
            ensure(clear, Rule::Overlap)?;
            if let Some(denoise) = self.in_loop {
                self.kept_in_loop(denoise, binding.value)?;
            }
        }
        Ok(())
    }

    fn binding(&self, binding: &Binding) -> Checked {
        let value = self.get(binding.value)?;
        let weight = match value.place {
            Place::Weight(index) => Some(self.weights.get(index as usize).ok_or(Rule::Index)?),
            Place::Arena(_) => None,
        };
        let Some((first, bytes)) = binding.part else {
            // As many bytes as its type and dimensions say are there only where it lies so.
            return ensure(weight.is_none_or(|w| w.layout == Layout::RowMajor), Rule::WeightLayout);
        };
        let all = match value.place {
            Place::Weight(_) => weight.map_or(0, |weight| weight.bytes),
            Place::Arena(_) => self.range(binding.value).map_or(0, |(start, end)| end - start),
        };
        let end = first.checked_add(bytes).filter(|end| *end <= all).ok_or(Rule::Limit)?;
        let aligned = first.is_multiple_of(ARENA_ALIGN) && (bytes.is_multiple_of(ARENA_ALIGN) || end == all);
        ensure(bytes > 0 && aligned, Rule::Align)
    }
}
