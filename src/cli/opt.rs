//! `dreamc opt`: runs passes on IR text.

use super::error::Failure;
use super::output::{counted, note, print};
use dreamc_ir::{Module, VerifyErrors, parse, verify};
use dreamc_passes::{PIPELINE, Pass, Seen, Stats, find, names, run_passes};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File with a module as IR text
    file: PathBuf,
    /// Passes to run, in this order; the whole pipeline if left out
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    passes: Option<Vec<String>>,
    /// Run only the first N of them
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// Print each graph after this pass on stderr, or after `all`
    #[arg(long, value_name = "PASS|all")]
    print_after: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let passes = match &args.passes {
        None => PIPELINE.to_vec(),
        Some(names) => names.iter().map(|name| pass(name)).collect::<Result<_, _>>()?,
    };
    if let Some(name) = args.print_after.as_deref().filter(|name| *name != "all") {
        pass(name)?;
    }
    let mut module = read(&args.file)?;
    for pass in &passes[..args.stop_after.unwrap_or(passes.len()).min(passes.len())] {
        let wanted = args.print_after.as_deref().is_some_and(|name| name == "all" || name == pass.name);
        run_passes(&[*pass], &mut module, &mut |pass, seen, stats| {
            note(&line(pass, seen, stats));
            if wanted {
                note(&seen.to_string());
            }
        });
        verify(&module).map_err(|errors| bug(pass, &errors))?;
    }
    print(&module.to_string())
}

/// What a pass did, in one line.
pub(crate) fn line(pass: &Pass, seen: Seen<'_>, stats: &Stats) -> String {
    let place = match seen {
        Seen::Graph(graph) => format!("@{}", graph.name),
        Seen::Module(_) => "the module".to_owned(),
    };
    let rewritten = counted(stats.rewritten.into(), "rewrite");
    let removed = counted(stats.removed.into(), "node");
    format!("{} {place}: {rewritten}, {removed} removed", pass.name)
}

/// A pass by its name; the error lists those that there are.
pub(crate) fn pass(name: &str) -> Result<Pass, Failure> {
    find(name).ok_or_else(|| Failure::usage(format!("there is no pass `{name}`"), known_passes()))
}

/// The names of all passes, in the order of the pipeline, for help texts.
fn known_passes() -> String {
    format!("the passes are: {}", names().join(", "))
}

fn read(path: &Path) -> Result<Module, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let module = parse(&text).map_err(|error| {
        let message = format!("`{}`, {error}", path.display());
        Failure::failed(message, "correct the line; `dreamc inspect FILE --ir` prints IR text that parses")
    })?;
    match verify(&module) {
        Ok(_) => Ok(module),
        Err(errors) => {
            let message = format!("`{}` does not verify: {errors}", path.display());
            Err(Failure::failed(message, "correct the nodes named above"))
        }
    }
}

fn bug(pass: &Pass, errors: &VerifyErrors) -> Failure {
    let message = format!("pass `{}` broke the graph; this is a bug in dreamc: {errors}", pass.name);
    Failure::failed(
        message,
        format!("report it with the input; `--print-after {}` shows the graph", pass.name),
    )
}
