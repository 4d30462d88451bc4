//! Build, run, inspect and verify from outside: JSON shapes, exit codes, and what bad input does.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{dreamc, fails, files, fixture, has, ok, ok_json, scratch, stderr, text};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An artifact that all tests of this file share.
fn built(name: &'static str, file: &OnceLock<PathBuf>, options: &[&str]) -> String {
    let path = file.get_or_init(|| {
        let path = scratch().join(format!("{name}.dream"));
        let checkpoint = fixture(&format!("{name}/checkpoint"));
        ok(&[&["build", &checkpoint, "-o", &text(&path)], options].concat());
        path
    });
    text(path)
}

/// Fills the 16 squares of a sudoku in 16 steps.
fn sudoku() -> String {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let options =
        ["--steps", "16", "--alg", "entropy", "--new-tokens", "16", "--max-prompt", "32", "--dtype", "f32"];
    built("sudoku-text", &FILE, &options)
}

/// Has no tokenizer; 3 layers of width 64 over 512 tokens.
fn tiny() -> String {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let options = [
        "--steps",
        "4",
        "--alg",
        "maskgit_plus",
        "--new-tokens",
        "8",
        "--max-prompt",
        "16",
        "--max-batch",
        "2",
        "--dtype",
        "f32",
    ];
    built("tiny-text", &FILE, &options)
}

const PUZZLE: &str = "3014010200002001\n";
const SOLUTION: &str = "3214413214232341";

mod build {
    use super::*;

    #[test]
    fn same_input_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let build = |name: &str| {
            let path = dir.path().join(name);
            let checkpoint = fixture("tiny-text/checkpoint");
            let output = dreamc(&["build", &checkpoint, "-o", &text(&path), "--steps", "2"]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            (std::fs::read(path).unwrap(), stderr(&output).to_owned())
        };
        let (a, said) = build("a.dream");
        let (b, _) = build("b.dream");
        assert!(a == b, "two builds differ");
        has(
            &said,
            &[
                "alg origin (documented default; give --alg)",
                "new-tokens 128",
                "max-prompt 1920",
                "no tokenizer",
            ],
        );
        assert!(!said.contains("steps 512"), "{said}");
    }

    #[test]
    fn names_its_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, path) = (fixture("tiny-text/checkpoint"), text(&dir.path().join("a.dream")));
        let output =
            dreamc(&["build", &checkpoint, "-o", &path, "-v", "--print-after", "fuse-norm", "--verify-each"]);
        let parts = [
            "steps 512 (documented default; give --steps)",
            "merge-qkv @forward: 3 rewrites",
            "# after fuse-norm",
            "pass               nodes before   after          FLOP before",
            "\nmerge-qkv ",
            "program forward.probe on cpu  ",
            " live at most, ratio 1.",
            "wrote ",
        ];
        has(stderr(&output), &parts);
        assert_eq!(output.stdout, b"");
    }

    /// What is stored in few bits, and how well, is said by the build and by the file.
    #[test]
    fn weights_in_few_bits() {
        let dir = tempfile::tempdir().unwrap();
        let output = text(&dir.path().join("a.dream"));
        let checkpoint = fixture("sudoku-text/checkpoint");
        let build = |options: &[&str]| {
            let fixed = ["build", &checkpoint, "-o", &output, "--steps", "4", "--alg", "entropy"];
            let built = dreamc(&[&fixed, options].concat());
            assert_eq!(built.status.code(), Some(0), "{}", stderr(&built));
            stderr(&built).to_owned()
        };
        let forms = |output: &str| {
            let report = ok_json(&["inspect", output, "--format", "json"]);
            let list = report["weights"]["forms"].as_array().unwrap().clone();
            let form = |f: &Value| (f["form"].as_str().unwrap().to_owned(), f["tensors"].as_u64().unwrap());
            (list.iter().map(form).collect::<Vec<_>>(), report["manifest"]["options"].clone())
        };
        // Two of four layers and the head are kept.
        let said = build(&["--quant", "w4a16", "--group", "64"]);
        has(&said, &["int4g64z", "kept: 15 tensors by --keep or its rule, in int8", "bits a weight"]);
        let (found, options) = forms(&output);
        assert!(
            found.contains(&("int4g64z".to_owned(), 14)) && found.contains(&("int8".to_owned(), 15)),
            "{found:?}"
        );
        assert_eq!(
            (&options["quant"], &options["group"], &options["keep"]),
            (&json!("w4a16"), &json!("64"), &json!("rule"))
        );
        has(&ok(&["inspect", &output]), &["int4g64z: 14 tensors", "bits each"]);
        has(&ok(&["inspect", &output, "--plan"]), &["\"lm_head.weight int8\"", "up_proj.weight int4g64z\""]);
        has(&ok(&["inspect", &output, "--ir"]), &["bits=4, group=64, zero=1"]);
        ok(&["verify", &output]);
        // Queries and values are kept with the keys that they are multiplied together with.
        let said = build(&["--quant", "w8a8", "--keep", "*.1.*.k_proj.*"]);
        has(
            &said,
            &["kept: 1 tensor by", "1.self_attn.v_proj.weight with model.layers.1.self_attn.k_proj.weight"],
        );
        assert!(forms(&output).0.contains(&("int8".to_owned(), 26)), "{:?}", forms(&output));
        build(&["--quant", "w8a8", "--keep", "none"]);
        let (found, options) = forms(&output);
        assert!(found.contains(&("int8".to_owned(), 29)), "{found:?}");
        assert_eq!((&options["keep"], &options["group"]), (&json!("none"), &Value::Null));
    }

    #[test]
    fn refused_with_a_reason_and_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let output = text(&dir.path().join("a.dream"));
        let checkpoint = fixture("tiny-text/checkpoint");
        let build = |code: i32, options: &[&str], parts: &[&str]| {
            has(&fails(code, &[&["build", &checkpoint, "-o", &output], options].concat()), parts);
            assert_eq!(files(dir.path()), Vec::<PathBuf>::new(), "{options:?}");
        };
        build(2, &["--quant", "int3"], &["int3", "unknown", "none, w8a8, w4a16, w4a8, fp8"]);
        let with = "cuda:sm_89, cuda:sm_90a, cuda:sm_120 and cuda:sm_121 have it";
        build(2, &["--quant", "fp8"], &["the CPU multiplies no fp8", with, "w8a8, w4a16 or w4a8"]);
        for target in
            ["cuda", "cuda:sm_86", "rocm:gfx942", "rocm:gfx90a", "rocm:gfx1100", "metal", "wgpu", "wgpu:f16"]
        {
            let named = format!("{target} multiplies no fp8");
            build(2, &["--quant", "fp8", "--target", target], &[&named, with, "--quant none"]);
        }
        // As a whole, whichever comes first.
        build(2, &["--quant", "fp8", "--target", "cuda:sm_89,cpu"], &["the CPU multiplies no fp8", with]);
        build(2, &["--quant", "fp8", "--target", "cuda:sm_89,cuda:sm_80"], &["cuda:sm_80 multiplies no fp8"]);
        let ada = ["--quant", "fp8", "--target", "cuda:sm_89"];
        build(2, &[&ada[..], &["--group", "32"]].concat(), &["--group", "no effect", "no groups"]);
        build(2, &[&ada[..], &["--calib", &checkpoint]].concat(), &["--calib", "no effect", "come with"]);
        build(2, &["--quant", "w8a8", "--target", "cpu,wgpu"], &["w8a8", "for the CPU", "wgpu"]);
        build(2, &["--quant", "w4a16", "--group", "48"], &["--group", "48", "32, 64 or 128"]);
        build(2, &["--quant", "w8a8", "--group", "32"], &["--group", "no effect", "w4a16"]);
        build(2, &["--keep", "lm_head*"], &["--keep", "no effect", "w8a8"]);
        build(2, &["--quant", "w8a8", "--keep", "none", "--keep", "lm_head*"], &["--keep none", "alone"]);
        build(2, &["--quant", "w8a8", "--keep", "lm_hed*"], &["--keep", "`lm_hed*`", "lm_head.weight"]);
        build(2, &["--quant", "w8a8", "--keep", "a["], &["--keep", "`a[`", "pattern"]);
        build(2, &["--dtype", "f64"], &["f64", "unknown", "bf16, f32, f16"]);
        build(2, &["--dtype", "f64"], &["f64", "unknown"]);
        build(2, &["--entries", "forward,act"], &["--entries is act", "text models: forward, generate"]);
        build(2, &["--entries", "fly"], &["fly", "unknown"]);
        build(2, &["--alg", "greedy"], &["greedy", "topk_margin"]);
        build(2, &["--image", "224x224"], &["--image", "text models", "no images"]);
        build(2, &["--image", "224"], &["--image", "224x224"]);
        build(2, &["--only-action-ids"], &["--only-action-ids", "--entries act"]);
        build(2, &["--steps", "0"], &["--steps is 0", "from 1"]);
        build(2, &["--steps", "-1"], &["-1", "--steps"]);
        build(2, &["--eps", "1.5"], &["--eps is 1.5"]);
        build(2, &["--max-prompt", "4000"], &["4128", "max_position_embeddings"]);
        build(2, &["--print-after", "magic"], &["`magic`"]);
        build(2, &["--max-prompt", "20", "--warm", "3,0"], &["--warm is 0", "from 1 to 20"]);
        build(2, &["--max-prompt", "20", "--warm", "21"], &["--warm is 21", "from 1 to 20"]);
        build(2, &["--warm", "1,2,3,4,5,6,7,8,9"], &["--warm is 9 lengths", "at most 8"]);
        build(2, &["--entries", "forward", "--warm", "3"], &["--warm", "`generate` and `act`"]);
        build(2, &["--new-tokens", "8", "--max-slots", "7"], &["--max-slots", "7", "from 8 to"]);
        build(
            2,
            &["--without-pass", "dce", "--without-pass", "magic"],
            &["--without-pass is `magic`", "all, or one of dce, open-slots, drop-idle-steps"],
        );
        has(&fails(1, &["build", "no/such/dir", "-o", &output]), &["no/such/dir", "help:"]);
        has(
            &fails(1, &["build", &checkpoint, "-o", "no/such/dir/a.dream", "--steps", "1"]),
            &["no/such/dir"],
        );
    }

    #[test]
    fn damaged_weights_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "generation_config.json", "model.safetensors"] {
            std::fs::copy(fixture(&format!("tiny-text/checkpoint/{file}")), dir.path().join(file)).unwrap();
        }
        let weights = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&weights).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        // Not a number, in any float type.
        bytes[data..data + 4].fill(0xff);
        std::fs::write(&weights, bytes).unwrap();
        let before = files(dir.path());
        let (checkpoint, output) = (text(dir.path()), text(&dir.path().join("a.dream")));
        let error = fails(1, &["build", &checkpoint, "-o", &output, "--steps", "1"]);
        has(&error, &["NaN", "--allow-non-finite"]);
        assert_eq!(files(dir.path()), before);
        ok(&["build", &checkpoint, "-o", &output, "--steps", "1", "--allow-non-finite"]);
    }
}

mod run {
    use super::*;

    #[test]
    fn solves_a_sudoku() {
        assert_eq!(ok(&["run", &sudoku(), "--raw", PUZZLE]), format!("{SOLUTION}\n"));
        let answer = ok_json(&["run", &sudoku(), "--raw", PUZZLE, "--format", "json"]);
        assert_eq!(answer["text"], json!([SOLUTION]));
        // The first step of 16 slots fills none, so it is not run.
        assert_eq!((&answer["steps"], &answer["forwards"]), (&json!(16), &json!(15)));
        let keys: Vec<_> = answer.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["forwards", "sequences", "steps", "text"]);
        let row = answer["sequences"][0].as_array().unwrap();
        assert_eq!(row.len(), PUZZLE.len() + 16);
        let golden: Value =
            serde_json::from_slice(&std::fs::read(fixture("sudoku-text/golden.json")).unwrap()).unwrap();
        assert_eq!(json!(row[..PUZZLE.len()]), golden["puzzles"][0]["prompt_ids"]);
        assert_eq!(json!(row[PUZZLE.len()..]), golden["puzzles"][0]["answers"]["entropy-16"]["ids"]);
    }

    #[test]
    fn history_and_threads() {
        let run = |threads: &str| {
            ok_json(&[
                "run",
                &sudoku(),
                "--raw",
                PUZZLE,
                "--history",
                "--format",
                "json",
                "--threads",
                threads,
            ])
        };
        let answer = run("1");
        let history = answer["history"].as_array().unwrap();
        assert_eq!(history.len(), 16);
        assert_eq!(history[15], answer["sequences"]);
        assert_eq!(history[0][0].as_array().unwrap().len(), PUZZLE.len() + 16);
        assert_eq!(run("3"), answer);
        let lines = ok(&["run", &sudoku(), "--raw", PUZZLE, "--history"]);
        assert_eq!(lines.lines().count(), 17);
        has(&lines, &["step 1 row 0: \"", "<|mask|>", &format!("step 16 row 0: \"{SOLUTION}\"")]);
    }

    #[test]
    fn prompts_go_through_the_template() {
        // The template adds more than this artifact has room for: the message counts it.
        let rendered = format!(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{PUZZLE}<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        let tokens = ok_json(&["tokenize", &sudoku(), "--text", &rendered, "--format", "json"]);
        let count = tokens["ids"].as_array().unwrap().len();
        let error = fails(1, &["run", &sudoku(), "--prompt", PUZZLE]);
        has(&error, &[&format!("the prompt has {count} tokens"), "at most 32", "--max-prompt"]);
    }

    #[test]
    fn raw_text_is_taken_as_it_stands() {
        let answer = ok_json(&["run", &sudoku(), "--raw", "-5", "--format", "json"]);
        let tokens = ok_json(&["tokenize", &sudoku(), "--text", "-5", "--format", "json"]);
        let row = answer["sequences"][0].as_array().unwrap();
        assert_eq!(json!(row[..row.len() - 16]), tokens["ids"]);
    }

    fn ids(dir: &Path, value: &Value) -> String {
        let path = dir.join("ids.json");
        std::fs::write(&path, value.to_string()).unwrap();
        text(&path)
    }

    #[test]
    fn ids_without_a_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let rows = json!([[0, 7, 8], [5, 6, 9], [1, 2, 3]]);
        let path =
            ids(dir.path(), &json!({"input_ids": rows, "attention_mask": [[0, 1, 1], [1, 1, 1], [1, 1, 1]]}));
        let sampled = [
            "--seed",
            "3",
            "--temperature",
            "0.5",
            "--top-p",
            "0.9",
            "--top-k",
            "9",
            "--alg-temp",
            "0.1",
            "--eos-penalty",
            "-1.3",
        ];
        let run =
            |more: &[&str]| ok_json(&[&["run", &tiny(), "--ids", &path, "--format", "json"], more].concat());
        for more in [&[] as &[&str], &sampled, &["--eos-penalty", "-1e-3"], &["--eos-penalty", "-.5"]] {
            let answer = run(more);
            assert_eq!(answer["text"], json!([]));
            let sequences = answer["sequences"].as_array().unwrap();
            assert_eq!(sequences.len(), 3);
            for (row, prompt) in sequences.iter().zip(rows.as_array().unwrap()) {
                assert_eq!(json!(row.as_array().unwrap()[..3]), *prompt);
                assert_eq!(row.as_array().unwrap().len(), 3 + 8);
            }
            assert_eq!(run(more), answer, "not the same twice");
        }
        assert_eq!(ok(&["run", &tiny(), "--ids", &path]).lines().count(), 3);
        has(&fails(1, &["run", &tiny(), "--raw", "a"]), &["no tokenizer", "--ids"]);
    }

    #[test]
    fn bad_requests_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let bad = |value: Value, parts: &[&str]| {
            let path = ids(dir.path(), &value);
            has(&fails(1, &["run", &tiny(), "--ids", &path]), parts);
        };
        bad(json!({"input_ids": [vec![1; 17]]}), &["17 tokens", "at most 16", "--max-prompt 17"]);
        bad(json!({"input_ids": [[1, 512]]}), &["512", "vocabulary"]);
        bad(json!({"input_ids": [[1, -2]]}), &["-2", "vocabulary"]);
        bad(json!({"input_ids": [[1, 2], [3]]}), &["row 1"]);
        bad(json!({"input_ids": []}), &["empty"]);
        bad(json!({"input_ids": [[1]], "attention_mask": [[2]]}), &["attention mask", "2"]);
        bad(json!({"input_ids": [["a"]]}), &["ids.json", "help:"]);
        bad(json!({"ids": [[1]]}), &["`ids`", "input_ids"]);
        has(&fails(1, &["run", &tiny(), "--ids", "no/such.json"]), &["no/such.json"]);
        has(&fails(1, &["run", "no/such.dream", "--raw", "a"]), &["no/such.dream"]);
    }

    #[test]
    fn wrong_usage_exits_2() {
        let file = sudoku();
        has(&fails(2, &["run", &file]), &["--prompt", "--raw", "--ids"]);
        has(&fails(2, &["run", &file, "--raw", "a", "--prompt", "b"]), &["--prompt"]);
        has(&fails(2, &["run", &file, "--raw", "a", "--top-p", "2"]), &["top_p", "2"]);
        has(&fails(2, &["run", &file, "--raw", "a", "--temperature", "-1"]), &["temperature"]);
        has(
            &fails(1, &["run", &file, "--raw", "a", "--device", "cuda"]),
            &["built for cpu", "--target cuda"],
        );
        has(&fails(2, &["run", &file, "--raw", "a", "--pin", "x"]), &["`x`", "0-3"]);
        let image = fixture("tiny-vl/images/image0.png");
        has(&fails(1, &["run", &file, "--raw", "a", "--image", &image]), &["takes no images"]);
        has(&fails(1, &["run", &file, "--raw", "a", "--image", "no/such.png"]), &["no/such.png"]);
        has(&fails(2, &["run", &file, "--raw", "a", "--probe", "x"]), &["--entry forward"]);
        has(&fails(2, &["run", &file, "--entry", "forward"]), &["--inputs", "--outputs"]);
        has(&fails(2, &["run", &file, "--entry", "forward", "--raw", "a"]), &["--raw"]);
        has(&fails(2, &["run", &file, "--entry", "encode_image"]), &["--inputs", "--outputs"]);
    }
}

mod forward {
    use super::*;

    fn ints(dir: &Path, tensors: &[(&str, [usize; 2], Vec<i64>)]) -> String {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, v)| v.iter().flat_map(|n| n.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, dims, _), bytes)| {
            (*name, TensorView::new(Dtype::I64, dims.to_vec(), bytes).unwrap())
        });
        let path = dir.join("in.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        text(&path)
    }

    fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (view.shape().to_vec(), data)
    }

    #[test]
    fn logits_and_probes() {
        let dir = tempfile::tempdir().unwrap();
        // Three rows, of which two fit at a time.
        let input = ints(
            dir.path(),
            &[
                ("input_ids", [3, 4], (1..13).collect()),
                ("attention_mask", [3, 4], vec![0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            ],
        );
        let output = text(&dir.path().join("out.safetensors"));
        let run = |more: &[&str]| {
            let base = ["run", &tiny(), "--entry", "forward", "--inputs", &input, "--outputs", &output];
            assert_eq!(ok(&[&base, more].concat()), "");
            std::fs::read(&output).unwrap()
        };
        let plain = run(&[]);
        let plain = SafeTensors::deserialize(&plain).unwrap();
        assert_eq!(plain.names(), ["logits"]);
        let (dims, logits) = floats(&plain, "logits");
        assert_eq!(dims, [3, 4, 512]);
        assert!(logits.iter().all(|x| x.is_finite()));

        let probed = run(&["--probe", "hidden.*", "--probe", "model.layers.0.mlp.gate_proj"]);
        let probed = SafeTensors::deserialize(&probed).unwrap();
        let mut names = probed.names();
        names.sort_unstable();
        assert_eq!(
            names,
            ["hidden.0", "hidden.1", "hidden.2", "hidden.3", "logits", "model.layers.0.mlp.gate_proj"]
        );
        assert_eq!(floats(&probed, "hidden.3").0, [3, 4, 64]);
        assert_eq!(floats(&probed, "model.layers.0.mlp.gate_proj").0, [3, 4, 160]);
        // The probed program is not fused: close, not equal. The first position of the first row is padding.
        let unfused = floats(&probed, "logits").1;
        let apart = |(a, b): (&f32, &f32)| (a - b).abs();
        let worst = logits.iter().zip(&unfused).skip(512).map(apart).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{worst}");
        assert_eq!(files(dir.path()).len(), 2);
    }

    #[test]
    fn bad_tensors_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let output = text(&dir.path().join("out.safetensors"));
        let bad = |input: &str, more: &[&str], parts: &[&str]| {
            let base = ["run", &tiny(), "--entry", "forward", "--inputs", input, "--outputs", &output];
            has(&fails(1, &[&base, more].concat()), parts);
            assert!(!Path::new(&output).exists());
        };
        bad("no/such.safetensors", &[], &["no/such.safetensors"]);
        bad(&fixture("tiny-text/golden.json"), &[], &["no safetensors file"]);
        bad(&ints(dir.path(), &[("positions", [1, 1], vec![1])]), &[], &["`positions`", "input_ids"]);
        bad(&ints(dir.path(), &[("position_ids", [1, 1], vec![1])]), &[], &["no tensor `input_ids`"]);
        bad(&ints(dir.path(), &[("input_ids", [1, 1], vec![1 << 40])]), &[], &["input_ids", "1099511627776"]);
        bad(&ints(dir.path(), &[("input_ids", [1, 1], vec![999])]), &[], &["999", "vocabulary"]);
        let input = ints(dir.path(), &[("input_ids", [1, 2], vec![1, 2])]);
        bad(&input, &["--probe", "model.nothing"], &["model.nothing"]);
        let uneven =
            ints(dir.path(), &[("input_ids", [1, 2], vec![1, 2]), ("attention_mask", [1, 1], vec![1])]);
        bad(&uneven, &[], &["row 0"]);
    }
}

mod inspect {
    use super::*;

    #[test]
    fn summary_in_both_forms() {
        let report = ok_json(&["inspect", &sudoku(), "--format", "json"]);
        assert_eq!(report["manifest"]["model"]["steps"], 16);
        assert_eq!(report["manifest"]["targets"], json!(["cpu"]));
        assert_eq!(report["file_bytes"].as_u64(), Some(std::fs::metadata(sudoku()).unwrap().len()));
        assert!(report.get("ir").is_none() && report.get("cost").is_none() && report.get("plan").is_none());
        let lines = ok(&["inspect", &sudoku()]);
        let figures = |value: &Value| value.to_string();
        for section in report["sections"].as_array().unwrap() {
            let hash = section["hash"].as_str().unwrap();
            has(&lines, &[hash, &figures(&section["offset"]), &figures(&section["bytes"])]);
        }
        for entry in report["entries"].as_array().unwrap() {
            let symbols = entry["symbols"].as_array().unwrap();
            assert!(symbols.iter().any(|s| *s == json!({"name": "S", "max": 48})), "{entry}");
            has(&lines, &[entry["name"].as_str().unwrap(), &figures(&entry["arena_bytes"])]);
        }
        has(&lines, &["S <= 48", "entropy", &figures(&report["weights"]["bytes"])]);
        has(&lines, &[report["manifest"]["source_hash"].as_str().unwrap()]);
    }

    #[test]
    fn plan_ir_and_cost() {
        has(
            &ok(&["inspect", &sudoku(), "--plan"]),
            &["program generate on cpu", "denoise 16 times", "linear {"],
        );
        let ir = ok(&["inspect", &sudoku(), "--ir"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ir");
        std::fs::write(&path, &ir).unwrap();
        // What is in the artifact has been through the pipeline already.
        assert_eq!(ok(&["opt", &text(&path)]), ir);

        let report = ok_json(&["inspect", &sudoku(), "--cost", "--plan", "--ir", "--format", "json"]);
        assert_eq!(report["ir"], json!(ir));
        assert_eq!(report["plan"][0]["target"], "cpu");
        let cost = |graph: &str| {
            let costs = report["cost"].as_array().unwrap();
            costs.iter().find(|c| c["graph"] == graph).unwrap()["total"]["flop"].as_u64().unwrap()
        };
        // The first of 16 steps is not run, and later ones have fewer slots.
        let (all, step) = (cost("generate"), cost("generate.step"));
        assert!(all > 14 * step && all < 15 * step, "{all} {step}");
        let totals = report["totals"].as_array().unwrap();
        let total = totals.iter().find(|t| t["entry"] == "generate").unwrap();
        assert_eq!((&total["steps"], &total["passes"]), (&json!(16), &json!(15)));
        assert_eq!(total["compiled"]["flop"], json!(all));
        assert_eq!(total["step"]["flop"], json!(step));
        let reference = total["reference"]["flop"].as_u64().unwrap();
        assert!(reference >= all, "{reference} {all}");
        has(&ok(&["inspect", &sudoku(), "--cost"]), &["reference", "one pass", &reference.to_string()]);
        has(&ok(&["inspect", &sudoku(), "--plan"]), &[" live at most, ratio 1."]);
        has(&ok(&["inspect", &sudoku(), "--cost"]), &["linear", &cost("generate").to_string()]);
        let listed = ok(&["inspect", &sudoku(), "--kernels", "--threads", "1"]);
        has(&listed, &["f32_linear_norm_swiglu", "cpu", "runtime", "GFLOP/s", "1 thread"]);
        let bare = ok(&["inspect", &sudoku(), "--kernels", "--no-rates"]);
        assert!(bare.contains("f32_linear_norm_swiglu") && !bare.contains("GFLOP/s"), "{bare}");
        has(&fails(2, &["inspect", &sudoku(), "--threads", "1"]), &["--kernels"]);
        let report = ok_json(&["inspect", &sudoku(), "--kernels", "--format", "json"]);
        let kernels = report["kernels"].as_array().unwrap();
        let kernel = kernels.iter().find(|k| k["name"] == "f32_linear_norm_swiglu").unwrap();
        let of = ["target", "arch", "form", "op", "dtype"].map(|key| kernel[key].as_str().unwrap());
        assert_eq!(of, ["cpu", "", "runtime", "linear", "f32"]);
        let rates = ["ms", "gflops", "gbytes"].map(|key| kernel["rate"][key].as_f64().unwrap());
        assert!(rates.iter().all(|rate| *rate > 0.0), "{rates:?}");
        assert!(report["rates"]["device"].as_str().unwrap().starts_with("cpu, "), "{report}");
        // What only probes run has none.
        assert!(kernels.iter().any(|k| k.get("rate").is_none()));
        // Each dispatch is of one kernel.
        let launches: u64 = kernels.iter().map(|k| k["launches"].as_u64().unwrap()).sum();
        let entries = report["entries"].as_array().unwrap();
        assert_eq!(launches, entries.iter().map(|e| e["kernels"].as_u64().unwrap()).sum::<u64>());
    }
}

/// The page of `inspect --html` opens without a network, holds together, and names all that is executed.
#[test]
fn plans_as_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("plan.html"));
    let page = || {
        assert_eq!(ok(&["inspect", &sudoku(), "--html", &path]), "");
        std::fs::read_to_string(&path).unwrap()
    };
    let html = page();
    assert_eq!(html, page());
    assert!(!html.contains("http") && !html.contains("src=") && !html.contains("@import"));
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).filter_map(|part| part.split('>').next()) {
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "{tag}"),
            None if ["!DOCTYPE", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());

    let report = ok_json(&["inspect", &sudoku(), "--plan", "--format", "json"]);
    let mut dispatches = 0;
    for program in report["plan"][0]["programs"].as_array().unwrap() {
        let steps = program["steps"].as_array().unwrap().iter();
        let inner = |step: &Value| step["Denoise"]["body"].as_array().cloned().unwrap_or(vec![step.clone()]);
        for dispatch in steps.flat_map(inner) {
            let origin = dispatch["Dispatch"]["origin"].as_array().unwrap();
            let origin: Vec<&str> = origin.iter().map(|path| path.as_str().unwrap()).collect();
            assert!(html.contains(&format!("<td>{}</td>", origin.join(", "))), "{origin:?}");
            dispatches += 1;
        }
    }
    assert_eq!(html.matches("<tr id=").count(), dispatches);
    assert_eq!(html.matches("<rect ").count(), dispatches);
}

#[test]
fn tokenizer_of_an_artifact() {
    let of = |source: &str| ok_json(&["tokenize", source, "--text", PUZZLE, "--format", "json"]);
    assert_eq!(of(&sudoku()), of(&fixture("sudoku-text/checkpoint")));
    has(&fails(1, &["tokenize", &tiny(), "--text", "a"]), &["no tokenizer"]);
}

/// A damaged file is refused by `run` and found by `verify`, wherever the damage is.
#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(sudoku()).unwrap();
    has(&ok(&["verify", &sudoku()]), &["holds"]);
    let report = ok_json(&["verify", &sudoku(), "--format", "json"]);
    assert_eq!((&report["holds"], &report["file_bytes"]), (&json!(true), &json!(whole.len())));

    let path = text(&dir.path().join("bad.dream"));
    let check = |bytes: &[u8], untouched: bool| {
        std::fs::write(&path, bytes).unwrap();
        if !untouched {
            fails(1, &["run", &path, "--raw", PUZZLE]);
        }
        let output = dreamc(&["verify", &path, "--format", "json"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["holds"], false);
        assert!(report["problem"].is_string());
    };
    check(&whole[..whole.len() - 1], false);
    check(&whole[..100], false);
    check(b"", false);
    check(&[&whole[..], b"x"].concat(), false);
    for at in [0, 9, 20, 40, 100, 600, 2000, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        // The last tensor is one of `forward` alone: `run` checks what it uses.
        check(&bytes, at == whole.len() - 1);
    }
    has(&fails(1, &["verify", "no/such.dream"]), &["no/such.dream"]);
}
