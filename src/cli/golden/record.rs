//! What an artifact makes of requests: its answers as cases.

use super::super::device::failure;
use super::super::error::Failure;
use super::super::requests::{Answer, Lengths, Request, Subject, make};
use super::cases::{Answered, Built, Case, Cases};
use dream::{Generated, Manifest, Model, Observer, Output, Settings, Visual};
use dreamc::compile::Entry;

/// Tokens of a made-up prompt, and slots behind it: enough for a judgement, and a file of some megabytes.
const PROMPT_TOKENS: u32 = 32;
const NEW_TOKENS: u32 = 32;

/// An artifact that can be asked for everything it has.
pub(in crate::cli) fn subject(model: Model) -> Result<Subject, Failure> {
    let acts = model.manifest().entries.iter().any(|entry| entry == Entry::Act.name());
    Subject::of(model, if acts { Entry::Act } else { Entry::Forward })
}

/// Made-up requests: `count` for each entry of the artifact.
pub(in crate::cli) fn requests(
    model: &Model,
    count: u32,
    tokens: Option<u32>,
) -> Result<Vec<Request>, Failure> {
    let built = &model.manifest().model;
    let mut list = Vec::new();
    for entry in Entry::ALL {
        if !model.manifest().entries.iter().any(|name| name == entry.name()) {
            continue;
        }
        let prompt = Some(tokens.unwrap_or(PROMPT_TOKENS.min(built.max_prompt)));
        let new = Some(NEW_TOKENS.min(built.new_tokens));
        let lengths = match entry {
            Entry::Forward => Lengths { prompt, new: None },
            Entry::Generate => Lengths { prompt, new },
            Entry::EncodeImage | Entry::Act => Lengths::default(),
        };
        for seed in 0..u64::from(count) {
            let mut request = make(model, entry, lengths, seed)?;
            cut(&mut request, model.settings())?;
            list.push(request);
        }
    }
    Ok(list)
}

/// Cuts images into patches, the form in which they are recorded.
pub(in crate::cli) fn cut(request: &mut Request, settings: Option<&Settings>) -> Result<(), Failure> {
    let visuals = match request {
        Request::Forward(f) => &mut f.visuals,
        Request::Generate(g) => &mut g.visuals,
        Request::EncodeImage(visuals) => visuals,
        Request::Act(_) => return Ok(()),
    };
    for visual in visuals {
        if let (Visual::Image(image), Some(settings)) = (&*visual, settings) {
            let patches = settings.images.processor.preprocess(std::slice::from_ref(image))?;
            *visual = Visual::ImagePatches(patches);
        }
    }
    Ok(())
}

/// Asks for all of them, with the states between layers if `deep`, watched by `observer`. `heard` is told how many are done.
pub(in crate::cli) fn record(
    subject: &mut Subject,
    requests: Vec<Request>,
    deep: bool,
    observer: &mut dyn Observer,
    heard: &mut dyn FnMut(u64),
) -> Result<Cases, Failure> {
    let mut list: Vec<Case> = Vec::new();
    for request in requests {
        let case = Case { name: String::new(), request, answer: Answered::default() };
        let entry = case.entry();
        let number = list.iter().filter(|case| case.entry() == entry).count();
        let answer = answer(subject, &case.request, deep, observer)?;
        list.push(Case { name: format!("{}.{number}", entry.name()), answer, ..case });
        heard(list.len() as u64);
    }
    let model = subject.model();
    let manifest = model.manifest();
    let device = model.device().unwrap_or_default();
    let quant = manifest.options.get("quant").map(|quant| format!(", {quant}")).unwrap_or_default();
    Ok(Cases {
        source_hash: manifest.source_hash.clone(),
        about: format!("{}{quant} on {device}", manifest.model.dtype),
        built: Built::of(manifest, model.settings()),
        list,
    })
}

/// What an artifact makes of a request, and of `forward` the states between layers if `deep`: those of the program that fuses
/// nothing; logits are not.
pub(in crate::cli) fn answer(
    subject: &mut Subject,
    request: &Request,
    deep: bool,
    observer: &mut dyn Observer,
) -> Result<Answered, Failure> {
    let answer = subject.serve(request, observer)?;
    Ok(match answer {
        Answer::Tensors(mut values) => {
            if let (Request::Forward(forward), true) = (request, deep) {
                let names = hidden(subject.model().manifest());
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                if !names.is_empty() {
                    let probed = subject.model_mut().forward(forward, &names).map_err(failure)?;
                    values.extend(probed.into_iter().filter(|value| value.name != "logits"));
                }
                // As deep as they are in the model, not by the letters of their names.
                values.sort_by_key(|value| depth(&value.name));
            }
            Answered { values, tokens: None }
        }
        Answer::Text(Generated { sequences, .. }) => Answered { values: Vec::new(), tokens: Some(sequences) },
        Answer::Actions(actions) => {
            let dims = vec![actions.normalized.len(), actions.normalized.first().map_or(0, Vec::len)];
            let data = actions.normalized.iter().flatten().map(|x| *x as f32).collect();
            let name = "normalized_actions".to_owned();
            Answered {
                values: vec![Output { name, dims, data }],
                tokens: actions.token_ids.map(|ids| vec![ids]),
            }
        }
    })
}

const HIDDEN: &str = "hidden.";

/// The states between layers, as probes.
fn hidden(manifest: &Manifest) -> Vec<String> {
    let names = manifest.aliases.iter().map(|(alias, _)| alias);
    names.filter(|alias| depth(alias).is_some()).cloned().collect()
}

/// The number behind `hidden.`; nothing for any other name, which comes first.
pub(in crate::cli) fn depth(name: &str) -> Option<u32> {
    name.strip_prefix(HIDDEN)?.parse().ok()
}
