//! The cases of `fixtures/tiny-vl`, judged at the fixture's own tolerances.

use crate::Fixture;
use crate::fixture::{assert_within, max_difference, rows};
use crate::replay;
use crate::runners::{Make, Runner, Values, build_options};
use dream::{Forward, Grid, Image, Patches, Visual};
use dreamc::compile::{BuildOptions, Entry};
use dreamc_front::{VisionTokens, positions};
use dreamc_interp::Tensor;

/// Modules of the vision path and the names that the fixture gives to their outputs.
const TOWER: [(&str, &str); 11] = [
    ("visual.patch_embed.proj", "patch_embed"),
    ("visual.blocks.0", "block.0"),
    ("visual.blocks.1", "block.1"),
    ("visual.blocks.0.norm1", "block0_norm1"),
    ("visual.blocks.0.attn.qkv", "block0_qkv"),
    ("visual.blocks.0.attn.proj", "block0_attn"),
    ("visual.blocks.0.norm2", "block0_norm2"),
    ("visual.blocks.0.mlp.fc2", "block0_mlp"),
    ("visual.merger.ln_q", "merger_ln_q"),
    ("visual.merger.mlp.2", "merged"),
    ("projector.linear_2", "projected"),
];
/// Cosines and sines of the tower's angles.
const ROTARY: [&str; 2] = ["visual.rotary_pos_emb", "visual.rotary_pos_emb.1"];
/// Modules of the decoder and the names that the fixture gives to their outputs.
const HIDDEN: [(&str, &str); 3] =
    [("model.inputs_embeds", "inputs_embeds"), ("model.layers.0", "hidden.1"), ("model.norm", "hidden.2")];

/// A build of the checkpoint, which is stored in several files, for all requests of the fixture.
pub fn options(fixture: &Fixture) -> BuildOptions {
    let entries = vec![Entry::Forward, Entry::EncodeImage, Entry::Generate];
    BuildOptions { max_prompt: 29, entries, ..build_options(&fixture.path("checkpoint")) }
}

/// The vision path from patches, and from the image files: every part of the tower, the merger and the projector, of two
/// images together and of a video. `fused` for runners that have no values but the result.
pub fn judge_vision(make: Make<'_>, fused: bool) {
    let fixture = Fixture::open("tiny-vl");
    for mut runner in make(&options(&fixture)) {
        let patches = fixture.patches("vision/pixel_values", "vision/image_grid_thw");
        let images = ["image0", "image1"];
        for visuals in [patches.into_iter().map(Visual::ImagePatches).collect(), files(&fixture, &images)] {
            judge_tower(&fixture, runner.as_mut(), "vision", &visuals, fused);
        }
        let patches = fixture.patches("video/pixel_values_videos", "video/video_grid_thw");
        for visuals in [patches.into_iter().map(Visual::VideoPatches).collect(), vec![video(&fixture)]] {
            judge_tower(&fixture, runner.as_mut(), "video", &visuals, fused);
        }
    }
}

fn judge_tower(fixture: &Fixture, runner: &mut dyn Runner, folder: &str, visuals: &[Visual], fused: bool) {
    let limit = fixture.tolerance("vision_abs");
    let golden = |name: &str| fixture.find(&format!("{folder}/{name}"));
    let probes: Vec<&str> = TOWER.iter().map(|(path, _)| *path).chain(ROTARY).collect();
    let mut judged = 0;
    for (path, value) in runner.encode_image(visuals, &probes) {
        let name = TOWER.iter().find(|(p, _)| *p == path).map_or("projected", |(_, name)| name);
        let wanted = match ROTARY.iter().position(|p| *p == path) {
            Some(table) => golden("rotary_freqs").map(|angles| turned(&angles, table, value.columns())),
            None => golden(name),
        };
        let Some(wanted) = wanted else { continue };
        // One sequence of patches, which the fixture does not count as a dimension.
        let dims = &value.dims[value.dims.len() - 2..];
        let off = max_difference(&Tensor::f32(dims, value.floats().to_vec()), &wanted, |_| true);
        assert_within(off, limit, &format!("{folder}: {path}"));
        judged += 1;
    }
    let all = if folder == "vision" { TOWER.len() + ROTARY.len() } else { 2 };
    assert!(judged > if fused { 0 } else { all }, "{folder}: {judged} values judged");
}

/// Cosines (0) or sines (1) of angles, repeated over so many columns.
fn turned(angles: &Tensor, table: usize, columns: usize) -> Tensor {
    let of = |angle: &f32| if table == 0 { angle.cos() } else { angle.sin() };
    let row = |row: &[f32]| row.iter().map(of).cycle().take(columns).collect::<Vec<f32>>();
    let values = angles.floats().chunks(angles.columns()).flat_map(row).collect();
    Tensor::f32(&[angles.dims[0], columns], values)
}

/// Every forward case, from patches and from the image files: positions, spliced embeddings, hidden states, logits.
/// `fused` for runners that have no values but the result.
pub fn judge_forward(make: Make<'_>, fused: bool) {
    let fixture = Fixture::open("tiny-vl");
    let mut runners = make(&options(&fixture));
    let (logits_abs, hidden_abs) = (fixture.tolerance("logits_abs"), fixture.tolerance("hidden_abs"));
    let probes = HIDDEN.map(|(path, _)| path);
    for case in fixture.cases("forward_cases") {
        let about = &fixture.json["forward_cases"][&case];
        let golden = |name: &str| fixture.find(&format!("forward/{case}/{name}"));
        let ids = golden("input_ids").expect("every case has ids");
        let mask = golden("attention_mask");
        let has_video = about["video"].as_bool().expect("every case states it");
        let images = names(&about["images"]);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        judge_positions(&fixture, &case, &ids, mask.as_ref(), &images, has_video);
        let counts = |row: usize| mask.as_ref().is_none_or(|mask| mask.ints()[row] == 1);

        let in_patches = images.iter().map(|name| Visual::ImagePatches(recorded(&fixture, name)));
        let video_patches = fixture.patches("video/pixel_values_videos", "video/video_grid_thw");
        let in_patches = video_patches
            .into_iter()
            .filter(|_| has_video)
            .map(Visual::VideoPatches)
            .chain(in_patches)
            .collect::<Vec<_>>();
        let in_files =
            has_video.then(|| video(&fixture)).into_iter().chain(files(&fixture, &images)).collect();
        for visuals in [in_patches, in_files] {
            let request = Forward {
                input_ids: rows(&ids),
                attention_mask: mask.as_ref().map(rows),
                position_ids: None,
                visuals,
            };
            for runner in &mut runners {
                let values: Values = runner.forward(&request, &probes);
                let mut judged = 0;
                for (path, value) in values {
                    let name = HIDDEN.iter().find(|(p, _)| *p == path).map_or("logits", |(_, name)| name);
                    let wanted = golden(name).expect("every case has it");
                    let off = max_difference(&value, &wanted, counts);
                    let limit = if name == "logits" { logits_abs } else { hidden_abs };
                    assert_within(off, limit, &format!("{case}: {path}"));
                    judged += 1;
                }
                assert!(judged > if fused { 0 } else { HIDDEN.len() }, "{case}: {judged} values judged");
            }
        }
    }
}

/// The positions that runners compute are those of the reference, padding included.
fn judge_positions(
    fixture: &Fixture,
    case: &str,
    ids: &Tensor,
    mask: Option<&Tensor>,
    images: &[&str],
    has_video: bool,
) {
    let id = |key: &str| fixture.json["config"][key].as_i64().expect("the config states it") as i32;
    let tokens = VisionTokens {
        image: id("image_token_id"),
        video: id("video_token_id"),
        vision_start: id("vision_start_token_id"),
    };
    let grids: Vec<Grid> = images.iter().map(|name| recorded(fixture, name).grid).collect();
    let videos = if has_video { fixture.grids("video/video_grid_thw") } else { Vec::new() };
    let ones = vec![1; ids.ints().len()];
    let mask = mask.map_or(ones.as_slice(), Tensor::ints);
    let found = positions::vl_positions(ids.dims[0], ids.ints(), mask, &tokens, &grids, &videos);
    let wanted = fixture.tensor(&format!("forward/{case}/position_ids"));
    assert_eq!(found.as_deref(), Ok(wanted.ints()), "{case}");
}

/// Every sampling case.
pub fn judge_sampling(make: Make<'_>) {
    let fixture = Fixture::open("tiny-vl");
    let options = BuildOptions { entries: vec![Entry::Generate], ..options(&fixture) };
    let cases = fixture.cases("sampling_cases");
    assert_eq!(cases.len(), 15);
    for case in cases {
        judge_case(&fixture, &case, &options, make);
    }
}

/// One sampling case.
pub fn judge_sampling_named(case: &str, make: Make<'_>) {
    let fixture = Fixture::open("tiny-vl");
    let options = BuildOptions { entries: vec![Entry::Generate], ..options(&fixture) };
    judge_case(&fixture, case, &options, make);
}

fn judge_case(fixture: &Fixture, case: &str, options: &BuildOptions, make: Make<'_>) {
    let images = names(&fixture.json["sampling_cases"][case]["images"]);
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    // The reference ranks the slots of all rows together.
    replay::judge_sampling(fixture, case, options, &files(fixture, &images), true, make);
}

fn names(list: &serde_json::Value) -> Vec<String> {
    let names = list.as_array().expect("a list of images").iter();
    names.map(|name| name.as_str().expect("the name of an image").to_owned()).collect()
}

/// The recorded patches of an image.
fn recorded(fixture: &Fixture, name: &str) -> Patches {
    fixture.patches(&format!("{name}/pixel_values"), &format!("{name}/image_grid_thw")).remove(0)
}

/// Image files by their names in the fixture.
pub fn files(fixture: &Fixture, names: &[&str]) -> Vec<Visual> {
    names.iter().map(|name| Visual::Image(image(fixture, name))).collect()
}

fn image(fixture: &Fixture, name: &str) -> Image {
    Image::open(&fixture.path(&format!("images/{name}.png"))).unwrap_or_else(|e| panic!("{e}"))
}

fn video(fixture: &Fixture) -> Visual {
    Visual::Video((0..4).map(|i| image(fixture, &format!("frame{i}"))).collect())
}
