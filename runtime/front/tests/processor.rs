//! The image processor against the reference's outputs.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{Golden, distance, fixture, grid, json, noise, numbers};
use dreamc_front::image::{
    Grid, Image, ImageError, ImageProcessor, PATCH_FEATURES, coordinates, merged_tokens, patch_rows,
    resize_bicubic, segments,
};
use serde_json::{Value, json as json_value};

fn processor(fixture_name: &str) -> ImageProcessor {
    ImageProcessor::from_dir(&fixture(fixture_name).join("checkpoint")).unwrap().unwrap()
}

fn limits(min_pixels: u64, max_pixels: u64) -> ImageProcessor {
    let config = json_value!({"min_pixels": min_pixels, "max_pixels": max_pixels});
    ImageProcessor::from_config(config.as_object().unwrap(), "test").unwrap()
}

fn image(name: &str) -> Image {
    Image::open(&fixture("tiny-vl/images").join(name)).unwrap()
}

#[test]
fn images_of_every_kind() {
    let golden = Golden::of("tiny-vl");
    let processor = processor("tiny-vl");
    for (name, file) in [
        ("image0", "image0.png"),
        ("image1", "image1.png"),
        ("image_rgba", "rgba.png"),
        ("image_l", "l.png"),
        ("image_p", "p.png"),
        ("real_small", "real_small.png"),
    ] {
        let image = image(file);
        if golden.has(&format!("{name}/rgb_uint8")) {
            assert!(image.pixels() == golden.u8(&format!("{name}/rgb_uint8")), "{name}");
        }
        let resized = processor.resize(std::slice::from_ref(&image)).unwrap();
        if golden.has(&format!("{name}/resized_uint8")) {
            assert!(resized.frames()[0].pixels() == golden.u8(&format!("{name}/resized_uint8")), "{name}");
        }
        let patches = processor.patches(&resized);
        assert_eq!(vec![patches.grid], golden.grids(&format!("{name}/image_grid_thw")));
        assert_eq!(patches.values.len(), patches.grid.patches() * PATCH_FEATURES);
        let distance = distance(&patches.values, &golden.f32(&format!("{name}/pixel_values")));
        assert!(distance <= 2e-6, "{name}: {distance:e}");
    }
}

#[test]
fn a_video() {
    let golden = Golden::of("tiny-vl");
    let frames: Vec<Image> = (0..4).map(|i| image(&format!("frame{i}.png"))).collect();
    let patches = processor("tiny-vl").preprocess(&frames).unwrap();
    assert_eq!(vec![patches.grid], golden.grids("video/video_grid_thw"));
    assert!(distance(&patches.values, &golden.f32("video/pixel_values_videos")) <= 2e-6);
    for frames in [&frames[..3], &[]] {
        let error = processor("tiny-vl").preprocess(frames).unwrap_err();
        assert!(matches!(error, ImageError::Frames { found } if found == frames.len()), "{error}");
    }
}

#[test]
fn camera_frames_of_robots() {
    let golden = Golden::of("tiny-vla");
    let expected = golden.f32("inputs/pixel_values");
    let mut found = Vec::new();
    for name in ["cam0", "cam1"] {
        let image = Image::open(&fixture(&format!("tiny-vla/images/{name}.png"))).unwrap();
        found.extend(processor("tiny-vla").preprocess(&[image]).unwrap().values);
    }
    assert!(distance(&found, &expected) <= 2e-6);
}

/// A frame of the tabletop task, drawn as `tabletop.md` says.
fn tabletop(scene: &Value) -> Image {
    let place = |v: &Value| [v[0].as_i64().unwrap(), v[1].as_i64().unwrap()];
    let blocks: Vec<[i64; 2]> = scene["blocks"].as_array().unwrap().iter().map(place).collect();
    let grip = place(&scene["grip"]);
    let colors = [[216, 40, 40], [40, 184, 56], [48, 80, 232]];
    let mut pixels = Vec::new();
    for y in 0..112_i64 {
        for x in 0..112_i64 {
            let within = |[cx, cy]: [i64; 2], dx: i64, dy: i64| (x - cx).abs() <= dx && (y - cy).abs() <= dy;
            let shade = if (x / 16 + y / 16) % 2 == 1 { 8 } else { 0 };
            let mut color = [96 + x / 2 - shade, 96 + y / 2 - shade, 120 - shade];
            for (block, own) in blocks.iter().zip(colors) {
                if within(*block, 7, 7) {
                    color = if within(*block, 6, 6) { own } else { [30; 3] };
                }
            }
            if within(grip, 2, 2) {
                color = [250, 220, 0];
            } else if within(grip, 1, 9) || within(grip, 9, 1) {
                color = [250; 3];
            }
            pixels.extend(color.map(|v| v as u8));
        }
    }
    Image::from_rgb8(112, 112, pixels).unwrap()
}

#[test]
fn frames_of_the_tabletop_task() {
    for (seed, scene) in json("tabletop-vla/frames/scenes.json").as_array().unwrap().iter().enumerate() {
        let file = Image::open(&fixture(&format!("tabletop-vla/frames/seed_{seed}.png"))).unwrap();
        assert!(file == tabletop(scene), "seed {seed}");
    }
    for name in ["tabletop-vla", "tabletop-vla-flow", "tabletop-vla-l1"] {
        let expected = Golden::of(name).f32("pixel_values");
        let scenes = &json(&format!("{name}/golden.json"))["observations"];
        let frames = expected.chunks_exact(64 * PATCH_FEATURES);
        for (expected, scene) in frames.zip(scenes.as_array().unwrap()) {
            let patches = processor(name).preprocess(&[tabletop(scene)]).unwrap();
            assert_eq!(patches.grid, Grid { t: 1, h: 8, w: 8 });
            let distance = distance(&patches.values, expected);
            assert!(distance <= 2e-6, "{name}: {distance:e}");
        }
    }
}

#[test]
fn sizes_of_every_recorded_case() {
    let cases = &json("tiny-vl/golden.json")["resize_cases"];
    let number = |case: &Value, key: &str| case[key].as_u64().unwrap();
    let mut checked = 0;
    for case in cases["cases"].as_array().unwrap().iter().chain(cases["small"].as_array().unwrap()) {
        let processor = match case["min_pixels"].as_u64() {
            Some(min) => limits(min, number(case, "max_pixels")),
            None => limits(3136, 3_211_264),
        };
        let (height, width) = (number(case, "height") as u32, number(case, "width") as u32);
        let found = processor.grid(height, width, 1).unwrap();
        assert_eq!(found, grid(&numbers(&case["grid_thw"])), "{case}");
        let size = processor.smart_resize(height, width).unwrap();
        if let Some(height) = case["resized_height"].as_u64() {
            assert_eq!(size, (height as u32, number(case, "resized_width") as u32), "{case}");
            assert_eq!(found.tokens() as u64, number(case, "tokens"));
        }
        checked += 1;
    }
    assert_eq!(checked, 47);
    // Sizes that the specification gives besides.
    let p = limits(3136, 3_211_264);
    for ((h, w), expected, tokens) in [
        ((256, 256), (252, 252), 81),
        ((238, 238), (224, 224), 64),
        ((512, 512), (504, 504), 324),
        ((1365, 2048), (1372, 2044), 3577),
        ((20, 20), (56, 56), 4),
        ((10, 4000), (28, 11200), 400),
        ((1, 1), (56, 56), 4),
        ((3, 4), (56, 84), 6),
    ] {
        assert_eq!(p.smart_resize(h, w).unwrap(), expected, "{h}x{w}");
        assert_eq!(p.grid(h, w, 1).unwrap().tokens(), tokens, "{h}x{w}");
    }
}

#[test]
fn long_images() {
    let p = limits(3136, 3_211_264);
    let refused = |p: &ImageProcessor, h, w| {
        let error = p.smart_resize(h, w).unwrap_err();
        assert!(matches!(error, ImageError::AspectRatio { .. }), "{h}x{w}: {error}");
        assert!(error.to_string().contains(&format!("{w}x{h}")), "{error}");
    };
    refused(&p, 30, 6030);
    assert_eq!(p.smart_resize(30, 6000).unwrap(), (28, 5992));
    // Below 28 pixels there is no such rule, but the short side must not vanish.
    assert_eq!(p.smart_resize(1, 4000).unwrap(), (28, 112_000));
    refused(&p, 1, 5000);
    refused(&p, u32::MAX, 1);
    refused(&p, 1, u32::MAX);
    assert!(matches!(p.smart_resize(0, 5), Err(ImageError::Empty { .. })));
    let (h, w) = limits(1 << 24, 1 << 24).smart_resize(u32::MAX, u32::MAX).unwrap();
    assert_eq!((h, w), (4088, 4088));
}

/// Any size ends in multiples of 28 within the limits, or in an error.
#[test]
fn every_size() {
    let random = noise(8 * 20_000, 5);
    for bytes in random.as_chunks::<8>().0 {
        let number = |at: usize, bits: u8| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) >> bits;
        let (height, width) = (number(0, 16 + bytes[0] % 16).max(1), number(4, 16 + bytes[1] % 16).max(1));
        let p = limits(3136, if bytes[2] < 128 { 3_211_264 } else { 12_845_056 });
        let Ok((h, w)) = p.smart_resize(height, width) else {
            assert!(height.max(width) / height.min(width) >= 200, "{height}x{width}");
            continue;
        };
        assert!(h > 0 && w > 0 && h % 28 == 0 && w % 28 == 0, "{height}x{width}");
        let pixels = u64::from(h) * u64::from(w);
        assert!((p.min_pixels()..=p.max_pixels()).contains(&pixels), "{height}x{width} to {h}x{w}");
    }
}

/// Odd shapes all the way, and that their pixels stay theirs.
#[test]
fn odd_shapes() {
    let p = limits(3136, 3_211_264);
    for (width, height) in [(1, 1), (50, 1), (1, 50), (3, 3), (50, 3), (4000, 10)] {
        let image = Image::from_rgb8(width, height, [9, 120, 250].repeat((width * height) as usize)).unwrap();
        let resized = p.resize(&[image]).unwrap();
        assert!(resized.frames()[0].pixels().chunks_exact(3).all(|c| c == [9, 120, 250]), "{width}x{height}");
        let patches = p.patches(&resized);
        assert_eq!(patches.values.len(), resized.grid().patches() * PATCH_FEATURES);
    }
}

#[test]
fn too_many_frames() {
    let p = limits(3136, 1 << 24);
    assert!(p.grid(4088, 4088, 2).is_ok());
    for frames in [8, usize::MAX - 1] {
        let error = p.grid(4088, 4088, frames).unwrap_err();
        assert!(matches!(error, ImageError::Patches { limit: 262_144, .. }), "{error}");
    }
}

/// Hashes of what Pillow 11.3.0 makes of the same noise.
#[test]
fn bicubic_is_pillows() {
    let cases: [([u32; 2], [u32; 2], u64); 11] = [
        ([1, 1], [56, 56], 0xabbb_e028_e77e_6325),
        ([2, 3], [5, 4], 0x3739_2ec3_c8f9_e3e9),
        ([90, 61], [84, 56], 0xc87d_a851_a159_5090),
        ([45, 100], [56, 112], 0x7ac6_bb7d_95bf_9f62),
        ([100, 100], [28, 140], 0x6181_3e44_87af_dd13),
        ([17, 301], [308, 28], 0x9897_4c4b_acb0_5479),
        ([640, 480], [196, 140], 0x6d65_6447_c206_7d5f),
        ([31, 7], [31, 91], 0xc18f_a10e_a53b_d6b7),
        ([333, 5], [29, 5], 0xd155_5a4b_e396_0741),
        ([3, 200], [600, 28], 0xc3af_f583_31ea_a286),
        ([1920, 30], [308, 56], 0xd3fa_9369_63e2_7294),
    ];
    for ([w, h], [to_w, to_h], expected) in cases {
        let pixels = noise(3 * (w * h) as usize, u64::from(w * 1000 + h));
        let resized = resize_bicubic(&Image::from_rgb8(w, h, pixels).unwrap(), to_w, to_h);
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in resized.pixels() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        assert_eq!(hash, expected, "{w}x{h} to {to_w}x{to_h}");
    }
}

#[test]
fn segments_and_coordinates() {
    let grids = [Grid { t: 1, h: 2, w: 4 }, Grid { t: 2, h: 2, w: 2 }];
    assert_eq!(patch_rows(&grids), 16);
    assert_eq!(merged_tokens(&grids), 4);
    assert_eq!(segments(&grids), [[1; 4], [1; 4], [2; 4], [3; 4]].concat());
    let cell = [[0, 0], [0, 1], [1, 0], [1, 1]];
    let second = [[0, 2], [0, 3], [1, 2], [1, 3]];
    assert_eq!(coordinates(&grids), [cell, second, cell, cell].concat());
    assert!(segments(&[]).is_empty() && coordinates(&[]).is_empty());
}

/// The reference's table of angles is coordinates times frequencies.
#[test]
fn coordinates_are_those_of_the_rope() {
    let golden = Golden::of("tiny-vl");
    let grids = golden.grids("vision/image_grid_thw");
    let expected = golden.f32("vision/rotary_freqs");
    let found: Vec<f32> = coordinates(&grids)
        .into_iter()
        .flat_map(|place| {
            place.map(|p| [0, 1, 2, 3].map(|j| p as f32 * 10000_f32.powf(-2.0 * j as f32 / 8.0)))
        })
        .flatten()
        .collect();
    assert!(distance(&found, &expected) <= 1e-5);
    assert_eq!(segments(&grids), [vec![1; 24], vec![2; 32]].concat());
}

#[test]
fn settings_that_are_refused() {
    let refused = |config: Value, key: &str| {
        let error = ImageProcessor::from_config(config.as_object().unwrap(), "here.json").unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ImageError::Settings { .. }), "{text}");
        assert!(text.contains("`here.json`") && text.contains(key), "{text}");
    };
    refused(json_value!({"patch_size": 16}), "`patch_size` is 16");
    refused(json_value!({"merge_size": 4}), "`merge_size` is 4");
    refused(json_value!({"temporal_patch_size": 1}), "`temporal_patch_size` is 1");
    refused(json_value!({"resample": 2}), "`resample` is 2");
    refused(json_value!({"resample": "bicubic"}), "`resample`");
    for key in ["do_resize", "do_rescale", "do_normalize", "do_convert_rgb"] {
        refused(json_value!({key: false}), &format!("`{key}` is false"));
    }
    refused(json_value!({"rescale_factor": 1.0}), "`rescale_factor`");
    refused(json_value!({"min_pixels": -1}), "`min_pixels`");
    refused(json_value!({"min_pixels": 0}), "`min_pixels` is 0");
    refused(json_value!({"min_pixels": 5000, "max_pixels": 4000}), "`min_pixels` is 5000");
    refused(json_value!({"max_pixels": 1_u64 << 40}), "`max_pixels`");
    refused(json_value!({"min_pixels": 3136, "size": {"min_pixels": 50176}}), "`size.min_pixels` is 50176");
    refused(json_value!({"image_mean": [0.5, 0.5]}), "`image_mean`");
    refused(json_value!({"image_std": [0.5, 0.5, 0.0]}), "`image_std`");
    refused(json_value!({"image_std": [1e300, 0.5, 0.5]}), "`image_std`");

    let dir = tempfile::tempdir().unwrap();
    assert!(ImageProcessor::from_dir(dir.path()).unwrap().is_none());
    std::fs::write(dir.path().join("preprocessor_config.json"), "{\"patch_size\": 16}").unwrap();
    let error = ImageProcessor::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("preprocessor_config.json") && error.contains("patch_size"), "{error}");
    std::fs::write(dir.path().join("preprocessor_config.json"), "[]").unwrap();
    assert!(
        ImageProcessor::from_dir(dir.path()).unwrap_err().to_string().contains("preprocessor_config.json")
    );
}

#[test]
fn settings_in_a_manifest() {
    let p = processor("tiny-vla");
    assert_eq!((p.min_pixels(), p.max_pixels()), (50176, 3_211_264));
    let text = serde_json::to_string(&p).unwrap();
    assert_eq!(serde_json::from_str::<ImageProcessor>(&text).unwrap(), p);
    let damaged = text.replace("50176", "0");
    assert!(serde_json::from_str::<ImageProcessor>(&damaged).unwrap_err().to_string().contains("min_pixels"));
}
