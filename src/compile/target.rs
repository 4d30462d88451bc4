//! What an artifact can be built for.

use dreamc_kernels::{Form, Target};
use std::fmt;
use std::str::FromStr;

/// A device, and on those that need it the architecture: `cpu`, `cuda:sm_90a`, `rocm:gfx942`, `metal`, `wgpu`, `wgpu:f16`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildTarget {
    spelling: String,
    /// Name of the target file of the kernels; the CPU's are in the runtime.
    kernels: Option<String>,
    /// What the vendor's compiler is called for, oldest first; none where it is not.
    archs: Vec<String>,
}

/// CUDA without an architecture: kernels as the first of these has them, in a binary for each.
const CUDA: [&str; 7] = ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100", "sm_120"];

impl BuildTarget {
    /// The CPU.
    pub fn cpu() -> BuildTarget {
        BuildTarget { spelling: "cpu".to_owned(), kernels: None, archs: Vec::new() }
    }

    /// Every target, in the order of the command line's help.
    pub fn all() -> Vec<BuildTarget> {
        let mut all = vec![BuildTarget::cpu()];
        for form in [Form::Cuda, Form::Hip, Form::Msl, Form::Wgsl] {
            if form == Form::Cuda {
                all.push(BuildTarget {
                    spelling: "cuda".to_owned(),
                    kernels: Some(CUDA[0].to_owned()),
                    archs: CUDA.map(str::to_owned).to_vec(),
                });
            }
            let of_form = Target::all().into_iter().filter(|target| target.form() == form);
            all.extend(of_form.map(|target| BuildTarget {
                spelling: spelling(&target),
                kernels: Some(target.name().to_owned()),
                archs: target.arch().map(str::to_owned).into_iter().collect(),
            }));
        }
        all
    }

    /// As in the manifest.
    pub fn spelling(&self) -> &str {
        &self.spelling
    }

    /// The processors that kernels are compiled for, oldest first.
    pub fn archs(&self) -> &[String] {
        &self.archs
    }

    /// What kernels are emitted for, unless they are in the runtime.
    pub fn kernels(&self) -> Option<Target> {
        self.kernels.as_deref().and_then(Target::named)
    }
}

fn spelling(target: &Target) -> String {
    match (target.form(), target.arch()) {
        (Form::Cuda, arch) => format!("cuda:{}", arch.unwrap_or_default()),
        (Form::Hip, arch) => format!("rocm:{}", arch.unwrap_or_default()),
        (Form::Msl, _) => "metal".to_owned(),
        (Form::Wgsl, _) if target.capabilities().f16 => "wgpu:f16".to_owned(),
        (Form::Wgsl, _) => "wgpu".to_owned(),
    }
}

impl fmt::Display for BuildTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelling)
    }
}

impl FromStr for BuildTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<BuildTarget, String> {
        let all = BuildTarget::all();
        let names = |of: &dyn Fn(&&BuildTarget) -> bool| {
            all.iter().filter(of).map(BuildTarget::spelling).collect::<Vec<_>>().join(", ")
        };
        if let Some(found) = all.iter().find(|target| target.spelling == text) {
            return Ok(found.clone());
        }
        let device = text.split(':').next().unwrap_or_default();
        let of_device = names(&|target| target.spelling.split(':').next() == Some(device));
        Err(match of_device.as_str() {
            "" => format!("unknown; it is one of {}", names(&|_| true)),
            of_device if text == device => format!("name the architecture: one of {of_device}"),
            of_device => format!("unknown architecture; it is one of {of_device}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for target in BuildTarget::all() {
            assert_eq!(target.spelling().parse(), Ok(target.clone()));
            assert_eq!(target.kernels().is_none(), target == BuildTarget::cpu());
        }
        assert_eq!("cuda".parse::<BuildTarget>().unwrap().archs(), CUDA);
        for arch in CUDA {
            assert_eq!(format!("cuda:{arch}").parse::<BuildTarget>().unwrap().archs(), [arch]);
        }
        let error = |text: &str| text.parse::<BuildTarget>().unwrap_err();
        assert!(error("rocm").contains("rocm:gfx942"), "{}", error("rocm"));
        assert!(error("cuda:sm_10").contains("cuda:sm_90a"));
        assert!(error("tpu").contains("wgpu:f16"));
    }
}
