//! Models that see, from the command line: prompts with images, canvases, tensors in and out.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{fails, fixture, has, ok, ok_json, scratch, text};
use safetensors::SafeTensors;
use serde_json::json;
use std::path::Path;
use std::sync::OnceLock;

/// A made-up model that sees and has a tokenizer.
fn seeing() -> String {
    static BUILT: OnceLock<()> = OnceLock::new();
    let path = text(&scratch().join("seeing.dream"));
    BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = text(&folder.path().join("seeing"));
        ok(&["synth", "--variant", "vl", "--size", "tiny", "-o", &checkpoint]);
        let entries = "generate,forward,encode_image";
        let shape = ["--steps", "2", "--new-tokens", "24", "--max-prompt", "256", "--max-batch", "2"];
        let build = ["build", &checkpoint, "-o", &path, "--dtype", "f32", "--entries", entries];
        ok(&[build.as_slice(), &shape].concat());
    });
    path
}

fn image(name: &str) -> String {
    fixture(&format!("tiny-vl/images/{name}.png"))
}

#[test]
fn prompts_with_images() {
    let (file, image0, image1) = (seeing(), image("image0"), image("image1"));
    let none = ok_json(&["run", &file, "--prompt", "hello", "--format", "json"]);
    let one = ok_json(&["run", &file, "--prompt", "hello", "--image", &image0, "--format", "json"]);
    let both =
        ["run", &file, "--prompt", "hello", "--image", &image0, "--image", &image1, "--format", "json"];
    let both = ok_json(&both);
    let length = |answer: &serde_json::Value| answer["sequences"][0].as_array().unwrap().len();
    // 6 and 8 tokens.
    assert_eq!((length(&one) - length(&none), length(&both) - length(&one)), (6, 8));
    assert_eq!(one["forwards"], 2);
    let raw = "<|image_pad|>and<|image_pad|>";
    ok(&["run", &file, "--raw", raw, "--image", &image0, "--image", &image1]);

    let parts = ["1 image placeholders", "2 images"];
    let two = ["run", &file, "--raw", "<|image_pad|>", "--image", &image0, "--image", &image0];
    has(&fails(1, &two), &parts);
    has(&fails(1, &["run", &file, "--raw", "<|image_pad|>"]), &["1 image placeholders", "0 images"]);
    let large = ["--image", &fixture("tiny-vla/images/env.png")];
    let many = [["run", &file, "--prompt", "x"].as_slice(), &large, &large, &large, &large].concat();
    has(&fails(1, &many), &["256", "--max-prompt"]);
}

/// Every kind of pixel that a PNG can have.
#[test]
fn kinds_of_images() {
    let file = seeing();
    for name in ["rgba", "l", "p", "real_small"] {
        ok(&["run", &file, "--prompt", "x", "--image", &image(name)]);
    }
}

/// Words of the canvas stay, slots between them are filled; the check looks at what comes out.
#[test]
fn canvases() {
    let dir = tempfile::tempdir().unwrap();
    let sudoku = text(&dir.path().join("sudoku.dream"));
    let checkpoint = fixture("sudoku-text/checkpoint");
    let shape = ["--new-tokens", "40", "--max-prompt", "17", "--steps", "4", "--alg", "maskgit_plus"];
    ok(&[["build", &checkpoint, "-o", &sudoku].as_slice(), &shape].concat());
    let canvas = |content: &str| {
        let path = dir.path().join("canvas.txt");
        std::fs::write(&path, content).unwrap();
        text(&path)
    };
    let puzzle = "3014010200002001\n";
    let run = |content: &str, more: &[&str]| {
        let path = canvas(content);
        let args = ["run", &sudoku, "--raw", puzzle, "--canvas", &path, "--format", "json"];
        ok_json(&[args.as_slice(), more].concat())
    };
    let answer = run("{\"a\": \"<|mask:3|>\", \"b\": [<|mask|>]}\n", &[]);
    let said = answer["text"][0].as_str().unwrap();
    assert!(said.starts_with("{\"a\": \"") && said.ends_with("]}"), "{said}");
    // The rest of the grid is a frame that the model completes.
    assert_eq!(run("32<|mask:14|>", &[])["text"][0].as_str().unwrap().len(), 16);
    assert_eq!(run("{\"a\": 1, \"b\": \"<|mask|>\"}", &["--expect", "json"])["steps"], 4);

    let refused = |code: i32, content: &str, more: &[&str], parts: &[&str]| {
        let path = canvas(content);
        let args = ["run", &sudoku, "--raw", puzzle, "--canvas", &path];
        has(&fails(code, &[args.as_slice(), more].concat()), parts);
    };
    refused(3, "[1, <|mask|>", &["--expect", "json"], &["row 0", "no JSON"]);
    refused(1, "no slots", &[], &["no slot", "<|mask|>"]);
    refused(1, "<|mask:0|>", &[], &["<|mask:0|>", "1 to 40"]);
    refused(1, "<|mask:many|>", &[], &["<|mask:many|>"]);
    refused(1, "<|mask:41|>", &[], &["1 to 40"]);
    refused(1, &"<|mask|>".repeat(41), &[], &["41 tokens", "--new-tokens 41"]);
    let missing = ["run", &sudoku, "--raw", puzzle, "--canvas", "no/such.txt"];
    has(&fails(1, &missing), &["no/such.txt"]);
    let forward = ["run", &sudoku, "--entry", "forward", "--canvas", "x"];
    has(&fails(2, &forward), &["--canvas", "generate"]);
}

/// The fixture's own tensors go in, logits and image rows come out.
#[test]
fn tensors_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name));
    let (file, input, output) = (path("vl.dream"), path("in.safetensors"), path("out.safetensors"));
    let checkpoint = fixture("tiny-vl/checkpoint");
    let build = ["build", &checkpoint, "-o", &file, "--dtype", "f32", "--steps", "1", "--max-prompt", "64"];
    ok(&[build.as_slice(), &["--new-tokens", "8", "--entries", "forward,encode_image"]].concat());
    let golden = std::fs::read(fixture("tiny-vl/golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let write = |tensors: &[(&str, &str)]| {
        let views = tensors.iter().map(|(name, from)| (*name, golden.tensor(from).unwrap()));
        std::fs::write(&input, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let near = |name: &str, wanted: &str, limit: f32| {
        let bytes = std::fs::read(&output).unwrap();
        let found = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |data: &[u8]| -> Vec<f32> {
            data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let (found, wanted) =
            (floats(found.tensor(name).unwrap().data()), floats(golden.tensor(wanted).unwrap().data()));
        assert_eq!(found.len(), wanted.len());
        let off = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < limit, "{name} is off by {off}");
    };
    let case = "forward/template_one_image";
    let ids = format!("{case}/input_ids");
    let pixels = [("pixel_values", "image0/pixel_values"), ("image_grid_thw", "image0/image_grid_thw")];
    write(&[[("input_ids", ids.as_str())].as_slice(), &pixels].concat());
    let forward = ["run", &file, "--entry", "forward", "--inputs", &input, "--outputs", &output];
    ok(&[forward.as_slice(), &["--probe", "inputs_embeds"]].concat());
    near("logits", &format!("{case}/logits"), 2e-4);
    near("inputs_embeds", &format!("{case}/inputs_embeds"), 5e-5);

    let both = [("pixel_values", "vision/pixel_values"), ("image_grid_thw", "vision/image_grid_thw")];
    write(&both);
    let encode = ["run", &file, "--entry", "encode_image", "--inputs", &input, "--outputs", &output];
    ok(&[encode.as_slice(), &["--probe", "visual.blocks.*"]].concat());
    near("image_features", "vision/projected", 5e-5);
    near("visual.blocks.1", "vision/block.1", 5e-5);

    write(&[("input_ids", &ids)]);
    has(&fails(1, &forward), &["6 places", "0 tokens"]);
    write(&[("input_ids", &ids), ("pixel_values", "image0/pixel_values")]);
    has(&fails(1, &forward), &["grids"]);
    write(&[
        ("input_ids", ids.as_str()),
        ("pixel_values", "image0/pixel_values"),
        ("image_grid_thw", "image1/image_grid_thw"),
    ]);
    has(&fails(1, &forward), &["fewer pixels"]);
    write(&[("input_ids", &ids)]);
    has(&fails(1, &encode), &["`input_ids`"]);
    assert!(!Path::new(&path("none")).exists());
}

/// An adapter folded in at build gives what the summed weights give; one that does not fit is refused.
#[test]
fn adapters() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name));
    let (adapter, target) = (dir.path().join("adapter"), "model.layers.0.self_attn.q_proj");
    std::fs::create_dir(&adapter).unwrap();
    let config =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"});
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    let checkpoint = fixture("sudoku-text/checkpoint");
    let lora = |rows: usize, columns: usize, seed: f32| -> Vec<f32> {
        (0..rows * columns).map(|i| ((i as f32 * 0.37 + seed).sin() * 8.0).round() / 64.0).collect()
    };
    let (a, b) = (lora(2, 128, 0.1), lora(128, 2, 0.7));
    let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let write = |file: &Path, tensors: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>| {
        let views: Vec<_> = tensors
            .iter()
            .map(|(n, t, d, b)| (n.as_str(), safetensors::tensor::TensorView::new(*t, d.clone(), b).unwrap()))
            .collect();
        std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let f32s = safetensors::Dtype::F32;
    let names = ["lora_A", "lora_B"].map(|part| format!("base_model.model.{target}.{part}.weight"));
    write(
        &adapter.join("adapter_model.safetensors"),
        vec![
            (names[0].clone(), f32s, vec![2, 128], bytes(&a)),
            (names[1].clone(), f32s, vec![128, 2], bytes(&b)),
        ],
    );
    // The dense sum, as another checkpoint.
    let summed = dir.path().join("summed");
    std::fs::create_dir(&summed).unwrap();
    for file in std::fs::read_dir(&checkpoint).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), summed.join(file.file_name())).unwrap();
    }
    let stored = std::fs::read(summed.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    let tensors = stored.tensors().into_iter().map(|(name, view)| {
        let (mut dtype, mut data) = (view.dtype(), view.data().to_vec());
        if name == format!("{target}.weight") {
            assert_eq!(dtype, safetensors::Dtype::BF16);
            let base = data.as_chunks::<2>().0.iter();
            let base = base.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
            let sum = |(i, w): (usize, f32)| {
                w + 2.0 * (0..2).map(|k| b[i / 128 * 2 + k] * a[k * 128 + i % 128]).sum::<f32>()
            };
            (dtype, data) = (f32s, bytes(&base.enumerate().map(sum).collect::<Vec<_>>()));
        }
        (name, dtype, view.shape().to_vec(), data)
    });
    write(&summed.join("model.safetensors"), tensors.collect());

    let build = |checkpoint: &str, output: &str, more: &[&str]| {
        let args =
            ["build", checkpoint, "-o", output, "--dtype", "f32", "--steps", "2", "--new-tokens", "16"];
        ok(&[args.as_slice(), &["--max-prompt", "17"], more].concat())
    };
    let (plain, folded, dense) = (path("plain.dream"), path("folded.dream"), path("dense.dream"));
    build(&checkpoint, &plain, &[]);
    build(&checkpoint, &folded, &["--lora", &text(&adapter)]);
    build(&text(&summed), &dense, &[]);
    let input = path("in.safetensors");
    let ids: Vec<u8> = (0..12_i64).flat_map(|i| (i * 7 % 300).to_le_bytes()).collect();
    write(Path::new(&input), vec![("input_ids".to_owned(), safetensors::Dtype::I64, vec![1, 12], ids)]);
    let logits = |file: &str| -> Vec<f32> {
        let output = path("out.safetensors");
        ok(&["run", file, "--entry", "forward", "--inputs", &input, "--outputs", &output]);
        let bytes = std::fs::read(&output).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let logits = file.tensor("logits").unwrap();
        logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let off = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (plain, folded, dense) = (logits(&plain), logits(&folded), logits(&dense));
    assert!(off(&folded, &dense) < 1e-4, "{}", off(&folded, &dense));
    assert!(off(&folded, &plain) > 0.1, "the adapter changes something");

    let tiny = fixture("tiny-text/checkpoint");
    let refused = ["build", &tiny, "-o", &path("x.dream"), "--steps", "1", "--lora", &text(&adapter)];
    has(&fails(1, &refused), &[target]);
    let missing = ["build", &tiny, "-o", &path("x.dream"), "--steps", "1", "--lora", "no/such"];
    has(&fails(1, &missing), &["no/such"]);
}
