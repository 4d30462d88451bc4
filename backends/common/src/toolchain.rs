//! Where the vendors' compilers are looked for, and what is said about them.
//!
//! A toolchain folder has a folder for each vendor, and `packages`, a folder of Python's packages; `cargo xtask toolchain` fills
//! `toolchain` of Cargo's target folder, `dreamc toolchain install` that of the user. None of the compilers needs a device.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whose devices a compiler is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// NVIDIA: NVRTC.
    Nvidia,
    /// AMD: clang with the device library.
    Amd,
    /// Apple: clang parses what is shipped as source.
    Apple,
}

impl Vendor {
    /// The command that installs what is missing, for whoever runs this program: in a checkout of the repository one for all.
    pub fn install(self) -> &'static str {
        match self {
            _ if !targets().is_empty() => "cargo xtask toolchain",
            Vendor::Nvidia => "dreamc toolchain install cuda",
            Vendor::Amd => "apt install clang-19 lld-19 rocm-device-libs",
            Vendor::Apple => "apt install clang-19",
        }
    }
}

/// Names a toolchain folder, which is looked at first.
pub const FOLDER_VARIABLE: &str = "DREAM_TOOLCHAIN";

/// Names the clang to use.
pub const CLANG_VARIABLE: &str = "DREAM_CLANG";

/// A file that Cargo puts into its target folder.
const CARGO_MARK: &str = ".rustc_info.json";

/// Versions of clang in the order of preference: the tested one, then what also knows the targets.
const CLANG_NAMES: [&str; 6] = ["clang-19", "clang-20", "clang-21", "clang-22", "clang-18", "clang"];

/// The clang of AMD's own packages, which are outside the search path.
const CLANG_OF_ROCM: &str = "/opt/rocm/llvm/bin/clang";

/// What a backend can say about its compiler without using it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The compiler that will be used, with its version.
    pub found: Option<String>,
    /// The command that installs it, if none was found.
    pub missing: Option<String>,
}

impl Status {
    /// This compiler will be used.
    pub fn found(description: impl Into<String>) -> Self {
        Self { found: Some(description.into()), missing: None }
    }

    /// There is none; `command` installs it.
    pub fn missing(command: impl Into<String>) -> Self {
        Self { found: None, missing: Some(command.into()) }
    }
}

/// A toolchain that is in none of the places it may be in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not installed: run `{command}`, or set {variable}{}", listed(.looked_for))]
pub struct Missing {
    /// What is missing.
    pub what: &'static str,
    /// The command that installs it.
    pub command: &'static str,
    /// The environment variable that says where it is.
    pub variable: &'static str,
    /// Where it could have been.
    pub looked_for: Vec<PathBuf>,
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if paths.is_empty() { String::new() } else { format!(" (looked for: {})", paths.join(", ")) }
}

/// Where to look for compilers, in order.
#[derive(Clone, Debug)]
pub struct Search {
    folders: Vec<PathBuf>,
    /// Folders of Python's packages.
    packages: Vec<PathBuf>,
    system: bool,
}

/// Cargo's target folders, by whatever name, that this program lies in.
fn targets() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().skip(1).filter(|it| it.join(CARGO_MARK).is_file()).map(Path::to_owned).collect()
}

/// The user's toolchain folder, which `dreamc toolchain install` fills. None where there is no home.
pub fn user_toolchain() -> Option<PathBuf> {
    let data = user_folder(std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"), ".local/share");
    data.map(|it| it.join("dreamc/toolchain"))
}

/// Where pip puts packages beside the programs of `prefix`: an environment, the user's, or the system's.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64"] {
        let entries = std::fs::read_dir(prefix.join(lib)).into_iter().flatten().flatten();
        let pythons = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
        found.extend(
            pythons.flat_map(|entry| ["site-packages", "dist-packages"].map(|it| entry.path().join(it))),
        );
    }
    found.retain(|folder| folder.is_dir());
    found.sort();
    found
}

impl Search {
    /// The folder of `DREAM_TOOLCHAIN`; `toolchain` of Cargo's target folder, by whatever name, if the program lies in it;
    /// `dreamc/toolchain` in the user's data folder; packages that pip has put beside the program or into the environment that
    /// is active; and then what the system has.
    pub fn new() -> Self {
        let named = std::env::var_os(FOLDER_VARIABLE).filter(|it| !it.is_empty());
        let named = named.map(|it| std::path::absolute(&it).unwrap_or_else(|_| it.into()));
        let built = targets().into_iter().map(|target| target.join("toolchain"));
        let folders: Vec<PathBuf> = named.into_iter().chain(built).chain(user_toolchain()).collect();
        let program = std::env::current_exe().unwrap_or_default();
        let beside = program.parent().and_then(Path::parent).map(Path::to_owned);
        let active = std::env::var_os("VIRTUAL_ENV").filter(|it| !it.is_empty()).map(PathBuf::from);
        let prefixes = beside.into_iter().chain(active);
        let own = folders.iter().map(|folder| folder.join("packages"));
        let packages = own.chain(prefixes.flat_map(|prefix| site_packages(&prefix))).collect();
        Self { folders, packages, system: true }
    }

    /// Nothing: only folders that are added.
    pub fn nowhere() -> Self {
        Self { folders: Vec::new(), packages: Vec::new(), system: false }
    }

    /// Looks at `folder` too, behind the other folders.
    #[must_use]
    pub fn and(mut self, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        self.packages.push(folder.join("packages"));
        self.folders.push(folder);
        self
    }

    /// Folders of Python's packages, which need not exist.
    pub fn packages(&self) -> &[PathBuf] {
        &self.packages
    }

    /// Toolchain folders, which need not exist.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Whether what the system has will do.
    pub fn system(&self) -> bool {
        self.system
    }

    /// Programs named clang, best first: that of `DREAM_CLANG` alone if it is set; `llvm/bin/clang` of the folders; on
    /// the search path; AMD's.
    pub fn clangs(&self) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = self.folders.iter().map(|it| it.join("llvm/bin/clang")).collect();
        if self.system {
            if let Some(named) = std::env::var_os(CLANG_VARIABLE).filter(|it| !it.is_empty()) {
                return vec![std::path::absolute(&named).unwrap_or_else(|_| named.into())];
            }
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path: Vec<PathBuf> = std::env::split_paths(&path).collect();
            places.extend(CLANG_NAMES.iter().flat_map(|name| path.iter().map(move |it| it.join(name))));
            places.push(CLANG_OF_ROCM.into());
        }
        places.retain(|place| place.is_file());
        places
    }
}

impl Default for Search {
    fn default() -> Self {
        Self::new()
    }
}

fn user_folder(
    xdg: Option<impl Into<PathBuf>>,
    home: Option<impl Into<PathBuf>>,
    in_home: &str,
) -> Option<PathBuf> {
    // The standard says that a relative path is to be ignored.
    let xdg = xdg.map(Into::into).filter(|path: &PathBuf| path.is_absolute());
    xdg.or_else(|| home.map(|home| home.into().join(in_home)))
}

/// The user's folder for what can be made again, `dreamc/kernels` in it: where compiled kernels are kept if nobody says
/// otherwise. None where there is no home.
pub fn cache_folder() -> Option<PathBuf> {
    let cache = user_folder(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"), ".cache");
    cache.map(|folder| folder.join("dreamc/kernels"))
}

/// A clang that does the same wherever it is called: of the environment it sees only the search path and `folder`,
/// where it runs and puts its temporary files.
pub fn clang_command(clang: &Path, folder: &Path) -> Command {
    let mut command = Command::new(clang);
    command.env_clear().current_dir(folder).env("TMPDIR", folder).arg("--no-default-config");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// What `clang` answers to `question`, such as `--version`: the first line.
pub fn ask_clang(clang: &Path, question: &str) -> Option<String> {
    let output = Command::new(clang).arg(question).output().ok().filter(|it| it.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_names_the_command_and_the_places() {
        let mut missing = Missing {
            what: "the compiler",
            command: Vendor::Nvidia.install(),
            variable: FOLDER_VARIABLE,
            looked_for: vec!["/a".into(), "/b".into()],
        };
        assert_eq!(
            missing.to_string(),
            "the compiler is not installed: run `cargo xtask toolchain`, or set DREAM_TOOLCHAIN \
             (looked for: /a, /b)"
        );
        missing.looked_for.clear();
        assert!(missing.to_string().ends_with("or set DREAM_TOOLCHAIN"), "{missing}");
    }

    #[test]
    fn packages_beside_a_program() {
        let folder = std::env::temp_dir().join(format!("dreamc-packages-{}", std::process::id()));
        let packages = folder.join("lib/python3.11/site-packages");
        std::fs::create_dir_all(&packages).unwrap();
        std::fs::create_dir_all(folder.join("lib/python3.11/other")).unwrap();
        assert_eq!(site_packages(&folder), [packages]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(site_packages(&folder), Vec::<PathBuf>::new());
    }

    #[test]
    fn nowhere_is_nowhere() {
        assert!(Search::nowhere().clangs().is_empty());
        assert_eq!(Search::nowhere().and("/a").folders(), [PathBuf::from("/a")]);
    }

    #[test]
    fn folders_follow_the_standard() {
        assert_eq!(user_folder(Some("/x"), Some("/home/me"), ".cache"), Some("/x".into()));
        assert_eq!(user_folder(Some("x"), Some("/home/me"), ".cache"), Some("/home/me/.cache".into()));
        assert_eq!(user_folder(None::<&str>, None::<&str>, ".cache"), None);
    }

    #[test]
    fn clang_that_is_none_answers_nothing() {
        assert_eq!(ask_clang(Path::new("no-such-program"), "--version"), None);
    }
}
