//! Layering: which crate of ours may use which.
//!
//! Three rules over `cargo metadata`, checked by `cargo xtask check` and by a test:
//! 1. A crate depends only on those of ours that [`ALLOWED`] lists. As dev-dependencies it may also name
//!    those of [`ALLOWED_IN_TESTS`].
//! 2. The table and the workspace hold the same crates: a new crate must find its place first.
//! 3. No package under `runtime/` reaches, through any number of packages, a crate of the compiler or a
//!    package of CubeCL or Burn: what is deployed cannot compile. Dev-dependencies do not count.
//!
//! Build dependencies count as normal ones throughout.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The crates of ours that a crate may use.
#[derive(Clone, Copy, Debug)]
enum Uses {
    /// These and no others.
    Only(&'static [&'static str]),
    /// All but the crates that nobody uses (see [`USED_BY_NOBODY`]).
    Everything,
}

/// Allowed edges, from the bottom up.
const ALLOWED: &[(&str, Uses)] = &[
    ("dreamc-num", Uses::Only(&[])),
    ("dreamc-ir", Uses::Only(&["dreamc-num"])),
    ("dreamc-weights", Uses::Only(&["dreamc-num"])),
    ("dreamc-artifact", Uses::Only(&["dreamc-num"])),
    ("dreamc-interp", Uses::Only(&["dreamc-ir", "dreamc-num"])),
    ("dreamc-passes", Uses::Only(&["dreamc-ir", "dreamc-num"])),
    ("dreamc-kernels", Uses::Only(&["dreamc-num"])),
    ("dreamc-frontend", Uses::Only(&["dreamc-front", "dreamc-ir", "dreamc-num", "dreamc-weights"])),
    ("dreamc-backend", Uses::Only(&["dreamc-artifact", "dreamc-ir", "dreamc-num"])),
    ("dreamc-backend-cpu", Uses::Only(&["dreamc-artifact", "dreamc-backend", "dreamc-ir", "dreamc-num"])),
    (
        "dreamc-backend-gpu",
        Uses::Only(&["dreamc-artifact", "dreamc-backend", "dreamc-ir", "dreamc-kernels", "dreamc-num"]),
    ),
    ("dreamc-backend-cuda", Uses::Only(&["dreamc-backend"])),
    ("dreamc-backend-rocm", Uses::Only(&["dreamc-backend"])),
    ("dreamc-backend-metal", Uses::Only(&["dreamc-backend"])),
    ("dreamc-backend-wgpu", Uses::Only(&["dreamc-backend"])),
    ("dreamc-runtime", Uses::Only(&["dreamc-artifact", "dreamc-num"])),
    ("dreamc-device-cpu", Uses::Only(&["dreamc-artifact", "dreamc-num", "dreamc-runtime"])),
    ("dreamc-device-metal", Uses::Only(&["dreamc-artifact", "dreamc-num", "dreamc-runtime"])),
    ("dreamc-device-wgpu", Uses::Only(&["dreamc-artifact", "dreamc-num", "dreamc-runtime"])),
    ("dreamc-device-gpu", Uses::Only(&["dreamc-artifact", "dreamc-num", "dreamc-runtime"])),
    (
        "dreamc-device-cuda",
        Uses::Only(&["dreamc-artifact", "dreamc-device-gpu", "dreamc-num", "dreamc-runtime"]),
    ),
    (
        "dreamc-device-rocm",
        Uses::Only(&["dreamc-artifact", "dreamc-device-gpu", "dreamc-num", "dreamc-runtime"]),
    ),
    ("dreamc-front", Uses::Only(&["dreamc-artifact", "dreamc-num", "dreamc-runtime"])),
    (
        "dream",
        Uses::Only(&[
            "dreamc-artifact",
            "dreamc-device-cpu",
            "dreamc-device-cuda",
            "dreamc-device-metal",
            "dreamc-device-rocm",
            "dreamc-device-wgpu",
            "dreamc-front",
            "dreamc-num",
            "dreamc-runtime",
        ]),
    ),
    ("dream-capi", Uses::Only(&["dream", "dreamc-front"])),
    ("dream-serve", Uses::Only(&["dream"])),
    ("dream-python", Uses::Only(&["dream", "dream-serve"])),
    ("tabletop", Uses::Only(&["dream"])),
    ("dreamc", Uses::Everything),
    ("dreamc-golden", Uses::Everything),
    ("dreamc-gpu-check", Uses::Everything),
    ("xtask", Uses::Only(&[])),
];

/// Never a normal dependency, save that the golden harness drives the compiler and the simulated robot, and is driven
/// by the check for machines with a GPU.
const USED_BY_NOBODY: &[&str] = &["dreamc", "dreamc-golden", "dreamc-gpu-check", "tabletop", "xtask"];
const USED_BY_GOLDEN: &[&str] = &["dreamc", "tabletop"];
const USED_BY_GPU_CHECK: &[&str] = &["dreamc", "dreamc-golden", "tabletop"];

/// Any crate may use these in its tests.
const ALLOWED_IN_TESTS: &[&str] = &["dreamc-golden", "dreamc-interp", "dreamc-ir"];

/// How the names of packages begin that the runtime never reaches, besides the compiler's own crates.
const KEPT_FROM_RUNTIME: &[&str] = &["burn", "cubecl", "cubek"];

/// A crate of the workspace.
#[derive(Clone, Debug, Default)]
struct Crate {
    /// Whether it lies under `runtime/`.
    in_runtime: bool,
    /// Normal and build dependencies among the workspace's crates.
    uses: BTreeSet<String>,
    /// Dev-dependencies among the workspace's crates.
    uses_in_tests: BTreeSet<String>,
}

/// A package of the whole dependency tree.
#[derive(Clone, Debug, Default)]
struct Package {
    name: String,
    /// Identities of its normal and build dependencies.
    uses: BTreeSet<String>,
}

/// What the rules look at.
#[derive(Clone, Debug, Default)]
struct Tree {
    /// The workspace's crates by name.
    crates: BTreeMap<String, Crate>,
    /// All packages by identity, since two versions of one name may be present.
    packages: BTreeMap<String, Package>,
}

/// Checks the workspace at `root`; an error lists every broken rule.
pub(crate) fn check_workspace(root: &Path) -> Result<()> {
    let broken = broken_rules(&Tree::from_metadata(&metadata(root)?)?);
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(())
}

/// `cargo metadata` of the workspace at `root`, as Cargo.lock has it.
pub(crate) fn metadata(root: &Path) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    // All features: an optional dependency is an edge too.
    command.current_dir(root).other_options(["--locked".to_owned(), "--all-features".to_owned()]);
    command.exec().context("cannot read the dependencies by `cargo metadata --locked --all-features`")
}

impl Tree {
    fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let members = metadata.workspace_packages();
        let names: BTreeSet<String> = members.iter().map(|package| package.name.to_string()).collect();
        let runtime = metadata.workspace_root.join("runtime");
        let mut tree = Self::default();
        for package in members {
            let in_runtime = package.manifest_path.starts_with(&runtime);
            let mut member = Crate { in_runtime, ..Crate::default() };
            for dependency in package.dependencies.iter().filter(|it| names.contains(&it.name)) {
                let dev = dependency.kind == DependencyKind::Development;
                let edges = if dev { &mut member.uses_in_tests } else { &mut member.uses };
                edges.insert(dependency.name.clone());
            }
            tree.crates.insert(package.name.to_string(), member);
        }
        let resolve = metadata.resolve.as_ref().context("`cargo metadata` has no dependency graph")?;
        for node in &resolve.nodes {
            let counts = |kinds: &[cargo_metadata::DepKindInfo]| {
                kinds.iter().any(|it| it.kind != DependencyKind::Development)
            };
            let uses = node.deps.iter().filter(|it| counts(&it.dep_kinds)).map(|it| it.pkg.repr.clone());
            let name = metadata[&node.id].name.to_string();
            tree.packages.insert(node.id.repr.clone(), Package { name, uses: uses.collect() });
        }
        Ok(tree)
    }
}

/// One sentence per broken rule.
fn broken_rules(tree: &Tree) -> Vec<String> {
    let mut broken = crates_out_of_table(tree);
    broken.extend(edges_not_allowed(tree));
    broken.extend(runtime_reaching_compiler(tree));
    broken
}

fn crates_out_of_table(tree: &Tree) -> Vec<String> {
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let present: BTreeSet<&str> = tree.crates.keys().map(String::as_str).collect();
    let unlisted = present
        .difference(&listed)
        .map(|name| format!("`{name}` is not in the table: add it to ALLOWED in xtask/src/layering.rs"));
    let absent = listed.difference(&present).map(|name| {
        format!("`{name}` is in the table but not in the workspace: remove it from xtask/src/layering.rs")
    });
    unlisted.chain(absent).collect()
}

fn edges_not_allowed(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for (user, member) in &tree.crates {
        for used in &member.uses {
            if !may_use(user, used) {
                broken.push(format!(
                    "`{user}` may not use `{used}`: drop the dependency, or allow it in xtask/src/layering.rs"
                ));
            }
        }
        for used in &member.uses_in_tests {
            if !may_use(user, used) && !ALLOWED_IN_TESTS.contains(&used.as_str()) {
                broken.push(format!(
                    "the tests of `{user}` may not use `{used}`: tests that join layers belong in golden/"
                ));
            }
        }
    }
    broken
}

fn may_use(user: &str, used: &str) -> bool {
    match ALLOWED.iter().find(|(name, _)| *name == user) {
        Some((_, Uses::Only(list))) => list.contains(&used),
        Some((name, Uses::Everything)) => {
            let allowed = match *name {
                "dreamc-golden" => USED_BY_GOLDEN,
                "dreamc-gpu-check" => USED_BY_GPU_CHECK,
                _ => &[],
            };
            !USED_BY_NOBODY.contains(&used) || allowed.contains(&used)
        }
        // Reported by `crates_out_of_table`, once and not per edge.
        None => true,
    }
}

fn runtime_reaching_compiler(tree: &Tree) -> Vec<String> {
    let kept_away = |name: &str| {
        KEPT_FROM_RUNTIME.iter().any(|start| name.starts_with(start))
            || tree.crates.get(name).is_some_and(|member| !member.in_runtime)
    };
    let mut broken = Vec::new();
    for (id, package) in &tree.packages {
        if !tree.crates.get(&package.name).is_some_and(|member| member.in_runtime) {
            continue;
        }
        for path in paths_from(tree, id) {
            let names: Vec<&str> = path.iter().filter_map(|id| tree.packages.get(*id)).map(name_of).collect();
            // The first forbidden package on a path says it all; what it uses in turn would be noise.
            if let [between @ .., last] = &names[..]
                && kept_away(last)
                && !between.iter().any(|name| kept_away(name))
            {
                broken.push(format!("the runtime reaches `{last}`: {}", names.join(" -> ")));
            }
        }
    }
    broken
}

fn name_of(package: &Package) -> &str {
    &package.name
}

/// A shortest path, as identities, to each package that `start` reaches.
fn paths_from<'a>(tree: &'a Tree, start: &'a str) -> Vec<Vec<&'a str>> {
    let mut seen = BTreeSet::from([start]);
    let mut queue = VecDeque::from([vec![start]]);
    let mut paths = Vec::new();
    while let Some(path) = queue.pop_front() {
        let last = path.last().and_then(|id| tree.packages.get(*id));
        for used in last.into_iter().flat_map(|package| &package.uses) {
            if seen.insert(used) {
                let mut longer = path.clone();
                longer.push(used);
                paths.push(longer.clone());
                queue.push_back(longer);
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::workspace_root;

    /// The table's crates, with the given normal edges between packages; a `dev` edge is a dev-dependency.
    fn tree(edges: &[(&str, &str)], dev_edges: &[(&str, &str)]) -> Tree {
        let runtime = [
            "dream",
            "dream-capi",
            "dreamc-artifact",
            "dreamc-device-cpu",
            "dreamc-device-metal",
            "dreamc-device-wgpu",
            "dreamc-front",
            "dreamc-num",
            "dreamc-runtime",
        ];
        let mut tree = Tree::default();
        for (name, _) in ALLOWED {
            let member = Crate { in_runtime: runtime.contains(name), ..Crate::default() };
            tree.crates.insert((*name).to_owned(), member);
        }
        for (user, used) in edges {
            for name in [user, used] {
                tree.packages.entry((*name).to_owned()).or_default().name = (*name).to_owned();
            }
            tree.packages.get_mut(*user).unwrap().uses.insert((*used).to_owned());
            if tree.crates.contains_key(*used)
                && let Some(member) = tree.crates.get_mut(*user)
            {
                member.uses.insert((*used).to_owned());
            }
        }
        for (user, used) in dev_edges {
            tree.crates.get_mut(*user).unwrap().uses_in_tests.insert((*used).to_owned());
        }
        tree
    }

    #[test]
    fn layering_of_this_workspace() {
        check_workspace(&workspace_root().unwrap()).unwrap();
    }

    #[test]
    fn layering_allows_the_table() {
        let edges = [
            ("dreamc-passes", "dreamc-ir"),
            ("dreamc-frontend", "dreamc-front"),
            ("dreamc", "dreamc-frontend"),
            ("dreamc", "dream"),
            ("dreamc-golden", "dreamc"),
            ("dreamc-golden", "tabletop"),
            ("dreamc-gpu-check", "dreamc-golden"),
            ("tabletop", "dream"),
        ];
        let dev_edges = [("dreamc-passes", "dreamc-interp"), ("dreamc-device-cpu", "dreamc-golden")];
        assert_eq!(broken_rules(&tree(&edges, &dev_edges)), Vec::<String>::new());
    }

    #[test]
    fn layering_refuses_edges_outside_the_table() {
        let edges = [
            ("dreamc-ir", "dreamc-weights"),
            ("dreamc-backend-cpu", "dreamc-frontend"),
            ("dreamc", "dreamc-golden"),
            ("dreamc", "tabletop"),
            ("xtask", "dreamc"),
        ];
        let broken = broken_rules(&tree(&edges, &[("dreamc-passes", "dreamc-runtime")])).join("\n");
        for sentence in [
            "`dreamc-ir` may not use `dreamc-weights`",
            "`dreamc-backend-cpu` may not use `dreamc-frontend`",
            "`dreamc` may not use `dreamc-golden`",
            "`dreamc` may not use `tabletop`",
            "`xtask` may not use `dreamc`",
            "the tests of `dreamc-passes` may not use `dreamc-runtime`",
        ] {
            assert!(broken.contains(sentence), "no `{sentence}` in:\n{broken}");
        }
        assert_eq!(broken.lines().count(), 6, "{broken}");
    }

    #[test]
    fn layering_refuses_a_compiler_behind_third_parties() {
        let edges = [
            ("dreamc-device-cpu", "dreamc-runtime"),
            ("dreamc-runtime", "innocent"),
            ("innocent", "cubecl-core"),
            ("cubecl-core", "cubecl-ir"),
        ];
        assert_eq!(
            broken_rules(&tree(&edges, &[])),
            [
                "the runtime reaches `cubecl-core`: dreamc-device-cpu -> dreamc-runtime -> innocent -> cubecl-core",
                "the runtime reaches `cubecl-core`: dreamc-runtime -> innocent -> cubecl-core",
            ]
        );
    }

    #[test]
    fn layering_refuses_our_compiler_in_the_runtime() {
        let broken = broken_rules(&tree(&[("dreamc-front", "dreamc-ir")], &[])).join("\n");
        assert!(broken.contains("`dreamc-front` may not use `dreamc-ir`"), "{broken}");
        assert!(broken.contains("the runtime reaches `dreamc-ir`: dreamc-front -> dreamc-ir"), "{broken}");
    }

    #[test]
    fn layering_wants_each_crate_in_the_table() {
        let mut tree = tree(&[], &[]);
        tree.crates.remove("dreamc-weights");
        tree.crates.insert("dreamc-backend-abacus".to_owned(), Crate::default());
        let broken = broken_rules(&tree).join("\n");
        assert!(broken.contains("`dreamc-backend-abacus` is not in the table"), "{broken}");
        assert!(broken.contains("`dreamc-weights` is in the table but not in the workspace"), "{broken}");
    }
}
