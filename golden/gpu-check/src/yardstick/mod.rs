//! Our matmuls beside Triton's and cuBLAS's, shape by shape, where `python3` has Triton. What it lacks or does wrong is said
//! and is no failure; a number is there only where it was measured.

mod products;
mod table;
mod triton;

pub(crate) use products::build;

use crate::report::Results;
use crate::timing::{PEER_PART, SizeName};
use dream::DeviceKind;
use dreamc_golden::runners::Place;
use products::{DTYPE, Ours, Product, ROWS, products};
use serde_json::{Value, json};
use std::time::Duration;
use triton::{Answer, Found, Limits, Python, Shape};

/// The field of the peer's file.
const FIELD: &str = "matmuls";
/// How long Triton gets.
const LIMITS: Limits = Limits { shape: Duration::from_secs(60), all: Duration::from_secs(300) };

/// A product at a number of rows.
struct Row {
    product: Product,
    shape: Shape,
    ours: Result<Ours, String>,
    /// None where nobody was asked.
    theirs: Option<Answer>,
}

/// Times ours, asks for theirs, writes both as they come, and prints a table. Gives the number of our products that failed.
pub(crate) fn compare(place: Place<'static>, size: SizeName, iterations: usize, results: &Results) -> usize {
    let mut record = json!({
        "size": size.name(),
        "dtype": DTYPE.to_string(),
        "iterations": iterations,
        "shapes": [],
    });
    let (mut rows, mut failed): (Vec<Row>, usize) = (Vec::new(), 0);
    for product in products(size.size()) {
        if results.left().is_zero() {
            println!("yardstick: {}: skipped: no time is left", product.name);
            continue;
        }
        let times = product.time(place, iterations).unwrap_or_else(|error| {
            println!("yardstick: {}: FAILED: {error}", product.name);
            failed += 1;
            ROWS.map(|_| Err(error.clone()))
        });
        for (count, ours) in ROWS.into_iter().zip(times) {
            let shape = Shape { rows: count, n: product.n, k: product.k, copies: product.copies() };
            rows.push(Row { product: product.clone(), shape, ours, theirs: None });
        }
        write(&mut record, &rows, results);
    }
    if let Some(why) = lacking(place.device(), &rows, results) {
        eprintln!("yardstick: neither Triton nor cuBLAS is timed: {why}");
        record["skipped"] = why.into();
    } else {
        println!("yardstick: Triton compiles first; at most {} s are for it", LIMITS.all.as_secs());
        let shapes: Vec<Shape> = rows.iter().map(|row| row.shape).collect();
        let limits = Limits { all: LIMITS.all.min(results.left()), ..LIMITS };
        let asked = Python::default().ask(&shapes, iterations, limits, &mut |found| {
            match found {
                Found::About(about) => record["about"] = about,
                Found::Shape(number, answer) => {
                    for (peer, time) in [("Triton", &answer.triton), ("cuBLAS", &answer.cublas)] {
                        if let Err(error) = time {
                            let Shape { rows, n, k, .. } = shapes[number];
                            eprintln!("yardstick: {peer}, [{rows}, {k}] by [{n}, {k}]: {error}");
                        }
                    }
                    rows[number].theirs = Some(answer);
                }
            }
            write(&mut record, &rows, results);
        });
        if let Err(error) = asked {
            eprintln!("yardstick: the rest has no times of Triton and cuBLAS: {error}");
            record["error"] = error.into();
        }
    }
    write(&mut record, &rows, results);
    table::lines(&rows).iter().for_each(|line| println!("yardstick: {line}"));
    failed
}

/// Why nobody is asked.
fn lacking(device: DeviceKind, rows: &[Row], results: &Results) -> Option<String> {
    if device != DeviceKind::Cuda {
        return Some(format!("this is {}, and they are compared on cuda", device.name()));
    }
    if rows.is_empty() || results.left().is_zero() {
        return Some("no time is left; `./run.sh --only yardstick` does this alone".to_owned());
    }
    Python::default().lacks(LIMITS.shape.min(results.left()))
}

fn write(record: &mut Value, rows: &[Row], results: &Results) {
    record["shapes"] = rows.iter().map(Row::record).collect();
    results.set(PEER_PART, FIELD, record.clone());
}

impl Row {
    /// Fields are there where they are known.
    fn record(&self) -> Value {
        let Shape { rows, n, k, copies } = self.shape;
        let mut all = json!({"name": self.product.name, "rows": rows, "n": n, "k": k, "copies": copies});
        let mut put = |name: &str, time: Result<f64, &String>| match time {
            Ok(us) => all[format!("{name}_us")] = us.into(),
            Err(error) => all[format!("{name}_error")] = error.as_str().into(),
        };
        put("ours", self.ours.as_ref().map(|ours| ours.us));
        if let Some(answer) = &self.theirs {
            put("triton", answer.triton.as_ref().copied());
            put("cublas", answer.cublas.as_ref().copied());
            if let Some(config) = &answer.config {
                all["triton_config"] = config.as_str().into();
            }
        }
        if let Ok(ours) = &self.ours {
            all["kernels"] = ours.kernels.as_str().into();
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A product of made-up times.
    pub(super) fn row(ours: Result<f64, &str>, theirs: Option<Answer>) -> Row {
        let ours = ours.map(|us| Ours { kernels: "a".to_owned(), us }).map_err(str::to_owned);
        let shape = Shape { rows: 232, n: 3584, k: 18944, copies: 2 };
        Row { product: Product { name: "down".to_owned(), n: 3584, k: 18944 }, shape, ours, theirs }
    }

    /// Triton's time without cuBLAS's.
    pub(super) fn half() -> Answer {
        Answer { triton: Ok(80.0), ..Answer::none("full") }
    }

    #[test]
    fn only_what_is_known_is_recorded() {
        let shape = json!({"name": "down", "rows": 232, "n": 3584, "k": 18944, "copies": 2});
        let with = |more: Value| -> Value {
            shape.as_object().unwrap().clone().into_iter().chain(more.as_object().unwrap().clone()).collect()
        };
        assert_eq!(row(Ok(100.0), None).record(), with(json!({"ours_us": 100.0, "kernels": "a"})));
        assert_eq!(
            row(Err("lost"), Some(half())).record(),
            with(json!({"ours_error": "lost", "triton_us": 80.0, "cublas_error": "full"}))
        );
    }

    #[test]
    fn who_is_not_asked_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::new(folder.path(), 0).unwrap();
        let rows = [row(Ok(1.0), None)];
        assert!(lacking(DeviceKind::Wgpu, &rows, &results).unwrap().contains("wgpu"));
        assert!(lacking(DeviceKind::Cuda, &rows, &results).unwrap().contains("no time is left"));
    }
}
