//! `dreamc build --calib` from outside: what it takes, says, refuses and leaves behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{dreamc, fails, files, fixture, has, ok, ok_json, stderr, text};
use serde_json::json;
use std::path::PathBuf;

const SUDOKU: [&str; 12] = [
    "--steps",
    "4",
    "--alg",
    "entropy",
    "--new-tokens",
    "16",
    "--max-prompt",
    "32",
    "--max-batch",
    "1",
    "--dtype",
    "f32",
];
const TABLETOP: [&str; 6] = ["--chunk", "5", "--dtype", "f32", "--image", "112x112"];
const FRAME: &str = "tabletop-vla/frames/seed_0.png";

/// A folder for the artifact, and one for requests.
struct Place {
    folder: tempfile::TempDir,
    requests: PathBuf,
}

impl Place {
    fn new(requests: &[(&str, &str)]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { requests: folder.path().join("requests"), folder };
        std::fs::create_dir(&place.requests).unwrap();
        std::fs::create_dir(place.built()).unwrap();
        requests.iter().for_each(|(name, request)| place.write(name, request));
        place
    }

    fn write(&self, name: &str, request: &str) {
        std::fs::write(self.requests.join(name), request).unwrap();
    }

    fn built(&self) -> PathBuf {
        self.folder.path().join("built")
    }

    fn words(&self, name: &str, options: &[&str]) -> Vec<String> {
        let (checkpoint, output) =
            (fixture(&format!("{name}/checkpoint")), text(&self.built().join("a.dream")));
        let calib = text(&self.requests);
        let words = ["build", &checkpoint, "-o", &output, "--calib", &calib];
        words.iter().chain(options).map(|word| (*word).to_owned()).collect()
    }

    /// What is said of a build that succeeds.
    fn build(&self, name: &str, options: &[&str]) -> String {
        let words = self.words(name, options);
        let output = dreamc(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        stderr(&output).to_owned()
    }

    /// What is said of a build that fails, and leaves nothing behind.
    #[track_caller]
    fn refused(&self, code: i32, name: &str, options: &[&str], parts: &[&str]) {
        let words = self.words(name, options);
        has(&fails(code, &words.iter().map(String::as_str).collect::<Vec<_>>()), parts);
        assert_eq!(files(&self.built()), Vec::<PathBuf>::new(), "{parts:?}");
    }
}

/// Figures as `#`, since they differ a little between instruction sets.
fn without_figures(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.trim_end_matches([',', ';']).parse::<f64>() {
        Ok(_) => word.replace(|c: char| c.is_ascii_digit() || c == '.', "").replacen("", "#", 1),
        Err(_) => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn line<'a>(said: &'a str, begin: &str) -> &'a str {
    said.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin} in {said}"))
}

#[test]
fn texts() {
    let place = Place::new(&[
        ("a.json", r#"{"input_ids": [[5, 6, 7, 8, 9, 10]]}"#),
        ("b.json", r#"{"prompt": "12"}"#),
        (".hidden", ""),
    ]);
    let options = [&SUDOKU[..], &["--quant", "w8a8"]].concat();
    let said = place.build("sudoku-text", &options);
    assert_eq!(
        without_figures(line(&said, "against")),
        "against the build without --quant, # requests: logits cosine #, least #; top-1 the same in # of # rows; # of # chosen tokens the same"
    );
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(files(&place.built()), [place.built().join("a.dream")]);
    let file = text(&place.built().join("a.dream"));
    ok(&["verify", &file]);
    let report = ok_json(&["inspect", &file, "--format", "json"]);
    assert_eq!(report["manifest"]["options"]["calib"], json!("4 requests"));
    // Rows behind a norm are divided in its gain, others by an operand.
    let ir = ok(&["inspect", &file, "--ir"]);
    has(
        &ir,
        &[
            "layernorm.weight / model.layers.1.",
            "\"1 / model.layers.1.mlp.down_proj.weight.columns\"",
            "smooth=1",
        ],
    );
    // The same again: the same bytes.
    let once = std::fs::read(&file).unwrap();
    place.build("sudoku-text", &options);
    assert!(std::fs::read(&file).unwrap() == once, "two builds differ");
}

/// The checkpoint is the same, so what its parent answered can be compared with.
#[test]
fn cases_and_golden() {
    let place = Place::new(&[]);
    let parent = text(&place.folder.path().join("parent.dream"));
    ok(&[&["build", &fixture("sudoku-text/checkpoint"), "-o", &parent], &SUDOKU[..]].concat());
    let cases = text(&place.requests.join("a.cases"));
    ok(&["golden", "record", &parent, "-o", &cases]);
    let options = [&SUDOKU[..], &["--quant", "w4a8", "--keep", "none", "--golden", &cases]].concat();
    let said = place.build("sudoku-text", &options);
    has(line(&said, "against the build"), &["4 requests: logits cosine 0.9"]);
    has(line(&said, "against --golden"), &["f32 on cpu", "logits cosine 0.9"]);
    let file = text(&place.built().join("a.dream"));
    ok(&["golden", "check", &file, "--against", &parent, "--cosine", "0.5", "--top1", "0.5"]);
    has(&ok(&["inspect", &file, "--ir"]), &["importance=\"", "columns=\""]);
    // Without calibration, and with a file instead of a folder.
    let plain =
        ["build", &fixture("sudoku-text/checkpoint"), "-o", &file, "--quant", "w8a8", "--golden", &cases];
    let output = dreamc(&[&plain, &SUDOKU[..]].concat());
    has(line(stderr(&output), "against"), &["against --golden", "cosine 0.99"]);
    std::fs::remove_file(&file).unwrap();
    let of_file =
        ["build", &fixture("sudoku-text/checkpoint"), "-o", &file, "--quant", "w4a16", "--calib", &cases];
    ok(&[&of_file, &SUDOKU[..]].concat());
}

#[test]
fn observations() {
    let place = Place::new(&[("a.json", r#"{"task": "pick up the red block", "image": ["frame.png"]}"#)]);
    std::fs::copy(fixture(FRAME), place.requests.join("frame.png")).unwrap();
    let said = place.build("tabletop-vla", &[&TABLETOP[..], &["--quant", "w8a8"]].concat());
    assert_eq!(
        without_figures(line(&said, "against")),
        "against the build without --quant, # request: normalized_actions cosine #, least #; # of # chosen tokens the same"
    );
    // Text alone does not reach the vision tower.
    place.write("a.json", r#"{"input_ids": [[5, 6, 7, 8]]}"#);
    let options = "--steps 2 --entries generate --max-prompt 32 --new-tokens 4 --max-batch 1 --quant w8a8";
    let said = place.build("tiny-vl", &options.split(' ').collect::<Vec<_>>());
    has(&said, &["warning: no request of --calib reaches", "visual.blocks"]);
}

#[test]
fn bad_input_is_named() {
    let text_options = [&SUDOKU[..], &["--quant", "w8a8"]].concat();
    let act_options = [&TABLETOP[..], &["--quant", "w8a8"]].concat();
    let place = Place::new(&[]);
    place.refused(
        1,
        "sudoku-text",
        &text_options,
        &["requests` holds no requests", "golden record", "--help"],
    );
    let texts = |request: &str, parts: &[&str]| {
        place.write("a.json", request);
        place.refused(1, "sudoku-text", &text_options, parts);
    };
    texts("{", &["a.json` holds no request", "\"prompt\""]);
    texts(r#"{"promt": "1"}"#, &["a.json` holds no request", "promt"]);
    texts("{}", &["a.json` is not one request"]);
    texts(r#"{"prompt": "1", "task": "fly"}"#, &["is not one request"]);
    texts(r#"{"task": "fly"}"#, &["a.json` asks for `act`", "forward, generate alone", "--entries"]);
    texts(r#"{"prompt": "1", "image": ["no.png"]}"#, &["no.png"]);
    // Found only when the parent is asked: it goes all the same.
    texts(r#"{"input_ids": [[1000000]]}"#, &["1000000"]);
    let long = format!(r#"{{"input_ids": [{:?}]}}"#, [5; 64]);
    texts(&long, &["64 tokens", "--max-prompt"]);
    place.write("a.json", r#"{"prompt": "1"}"#);
    place.refused(2, "sudoku-text", &SUDOKU, &["--calib", "no effect", "w8a8"]);
    place.write("b.txt", "12");
    place.refused(1, "sudoku-text", &text_options, &["b.txt", "neither an artifact nor a file of cases"]);
    std::fs::remove_file(place.requests.join("b.txt")).unwrap();

    let acts = |request: &str, parts: &[&str]| {
        place.write("a.json", request);
        place.refused(1, "tabletop-vla", &act_options, parts);
    };
    acts(r#"{"prompt": "1"}"#, &["a.json` asks for `generate`", "act alone"]);
    acts(r#"{"task": "fly"}"#, &["1", "image"]);
    std::fs::copy(fixture("tiny-vl/images/image0.png"), place.requests.join("other.png")).unwrap();
    let other = ["a.json` shows an image of", "for 112x112", "--image"];
    acts(r#"{"task": "fly", "image": ["other.png"]}"#, &other);
    place.write("broken.png", "no image");
    acts(r#"{"task": "fly", "image": ["broken.png"]}"#, &["broken.png"]);
    std::fs::remove_dir_all(&place.requests).unwrap();
    place.refused(1, "tabletop-vla", &act_options, &["requests", "help:"]);
}
