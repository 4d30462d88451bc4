//! `dreamc tokenize`: text to token ids, and back.

use super::device::{failure, open_to_read};
use super::error::Failure;
use super::output::{Format, print, print_json};
use dream::Tokenizer;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with tokenizer files, or an artifact
    source: PathBuf,
    #[command(flatten)]
    what: What,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Text to turn into ids; added tokens in it become their ids
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// Ids to turn into text: `1,2,3`
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    decode: Option<String>,
}

#[derive(Serialize)]
struct Tokens {
    ids: Vec<u32>,
    text: String,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let wanted = args.what.decode.as_deref().map(ids).transpose()?;
    let tokenizer = open(&args.source)?;
    let tokens = match (&wanted, &args.what.text) {
        (Some(ids), _) => Tokens { ids: ids.clone(), text: tokenizer.decode(ids, false)? },
        (None, text) => {
            let text = text.clone().unwrap_or_default();
            Tokens { ids: tokenizer.encode(&text)?, text }
        }
    };
    match (args.format, wanted) {
        (Format::Json, _) => print_json(&tokens),
        (Format::Text, Some(_)) => print(&format!("{}\n", tokens.text)),
        (Format::Text, None) => {
            let ids: Vec<String> = tokens.ids.iter().map(u32::to_string).collect();
            print(&format!("{}\n", ids.join(",")))
        }
    }
}

fn open(source: &Path) -> Result<Tokenizer, Failure> {
    let metadata = std::fs::metadata(source).map_err(|error| Failure::io("open", source, &error))?;
    if metadata.is_dir() {
        return Ok(Tokenizer::from_dir(source)?);
    }
    let model = open_to_read(source)?;
    let tokenizer = model.tokenizer().ok_or(dream::Error::NoTokenizer);
    tokenizer.map(|tokenizer| tokenizer.as_ref().clone()).map_err(failure)
}

/// Ids with commas or white space between them, in brackets or not.
fn ids(text: &str) -> Result<Vec<u32>, Failure> {
    let list = text.trim();
    let list = list.strip_prefix('[').and_then(|l| l.strip_suffix(']')).unwrap_or(list);
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().map_err(|_| {
                Failure::usage(
                    format!("`--decode` holds `{word}`, which is no token id"),
                    "give ids as `1,2,3`",
                )
            })
        })
        .collect()
}
