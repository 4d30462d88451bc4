//! Triton's and cuBLAS's times of a list of shapes, by a script in Python that may lack, fail, hang or talk nonsense.

use crate::script::{Heard, Script};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// It goes to a temporary file, from which Triton reads the kernel's source.
const SCRIPT: &str = include_str!("../../triton_peer.py");
/// Its name there.
const SCRIPT_NAME: &str = "triton_peer.py";
/// Says whether both can be had.
const PROBE: &str =
    "import triton, torch; print(torch.version.cuda is not None and torch.cuda.is_available())";

/// How long answers may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For one shape, and to begin.
    pub(super) shape: Duration,
    /// For all of them.
    pub(super) all: Duration,
}

/// What is asked: bf16 `[rows, k]` by the transpose of one after the other of `copies` times `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rows: u32,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) copies: usize,
}

/// Microseconds of one product, or why there is no time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) triton: Result<f64, String>,
    pub(super) cublas: Result<f64, String>,
    /// The tile that Triton chose.
    pub(super) config: Option<String>,
}

/// What the script says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// Versions and the device.
    About(Value),
    /// Of the shape of this number.
    Shape(usize, Answer),
}

/// What all runs of the script are for.
struct Asked<'a> {
    script: &'a Path,
    shapes: &'a [Shape],
    rounds: usize,
    limits: Limits,
    /// When [`Limits::all`] is over.
    end: Instant,
}

impl Asked<'_> {
    /// What did not come until a deadline.
    fn late(&self, deadline: Instant) -> String {
        if deadline >= self.end {
            return format!("stopped after {:?}", self.limits.all);
        }
        format!("no answer after {:?}", self.limits.shape)
    }
}

/// Why a run of the script ended.
enum Stop {
    /// For this shape alone.
    Shape(String),
    /// For all that are left.
    All(String),
}

/// `python3`, looked for in this process's PATH or in another.
#[derive(Debug, Default)]
pub(super) struct Python {
    pub(super) path: Option<OsString>,
}

impl Answer {
    /// No time, for one reason.
    pub(super) fn none(why: &str) -> Answer {
        Answer { triton: Err(why.to_owned()), cublas: Err(why.to_owned()), config: None }
    }
}

impl Python {
    fn command(&self) -> Command {
        let mut command = Command::new("python3");
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// Why it cannot be asked; none if it can.
    pub(super) fn lacks(&self, time: Duration) -> Option<String> {
        let end = Instant::now() + time;
        let script = match Script::start(self.command().args(["-c", PROBE]), "") {
            Ok(script) => script,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Some("there is no python3 in PATH".to_owned());
            }
            Err(error) => return Some(format!("python3 does not start: {error}")),
        };
        let mut last = String::new();
        loop {
            match script.line(end) {
                Heard::Line(line) => last = line,
                Heard::End => break,
                Heard::Late => {
                    return Some(format!("python3 has not imported triton and torch after {time:?}"));
                }
            }
        }
        match script.end(end) {
            Err(said) => {
                let said = said.lines().last().unwrap_or_default();
                Some(format!("python3 cannot import triton and torch: {said}"))
            }
            Ok(()) if last.trim() == "True" => None,
            Ok(()) => Some("python3's torch has no CUDA device".to_owned()),
        }
    }

    /// Asks for all shapes, and gives each answer as it comes. A shape that fails or takes too long has that as its answer,
    /// and the script is begun again with the next. An error is why the rest has no answer.
    pub(super) fn ask(
        &self,
        shapes: &[Shape],
        rounds: usize,
        limits: Limits,
        found: &mut dyn FnMut(Found),
    ) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| format!("there is no place for the script: {e}"))?;
        let script = folder.path().join(SCRIPT_NAME);
        std::fs::write(&script, SCRIPT).map_err(|e| format!("{}: {e}", script.display()))?;
        let end = Instant::now() + limits.all;
        let (asked, mut next) = (Asked { script: &script, shapes, rounds, limits, end }, 0);
        while next < shapes.len() {
            match self.once(&asked, &mut next, found) {
                Ok(()) => {}
                Err(Stop::Shape(why)) => {
                    found(Found::Shape(next, Answer::none(&why)));
                    next += 1;
                }
                Err(Stop::All(why)) => return Err(why),
            }
        }
        Ok(())
    }

    /// One run of the script, from shape `next` on, which goes on with each answer.
    fn once(&self, asked: &Asked<'_>, next: &mut usize, found: &mut dyn FnMut(Found)) -> Result<(), Stop> {
        let Asked { shapes, limits, end, .. } = *asked;
        let until = || end.min(Instant::now() + limits.shape);
        let mut command = self.command();
        command.arg(asked.script).arg(format!("--rounds={}", asked.rounds));
        let input: Value = shapes[*next..]
            .iter()
            .map(|s| json!({"rows": s.rows, "n": s.n, "k": s.k, "copies": s.copies}))
            .collect();
        let script = Script::start(&mut command, &input.to_string()).map_err(|e| Stop::All(e.to_string()))?;
        let deadline = until();
        loop {
            match script.line(deadline) {
                Heard::Line(line) => match about(&line) {
                    Some(about) => break found(Found::About(about)),
                    None => passed_over(&line, "it says neither versions nor a device"),
                },
                Heard::End => return Err(Stop::All(failed(script, end))),
                Heard::Late => return Err(Stop::All(asked.late(deadline))),
            }
        }
        while let Some(shape) = shapes.get(*next) {
            let deadline = until();
            loop {
                match script.line(deadline) {
                    Heard::Line(line) => match answer(&line, shape) {
                        Ok(answer) => break found(Found::Shape(*next, answer)),
                        Err(why) => passed_over(&line, &why),
                    },
                    Heard::End => return Err(Stop::Shape(failed(script, end))),
                    Heard::Late if deadline >= end => return Err(Stop::All(asked.late(deadline))),
                    Heard::Late => return Err(Stop::Shape(asked.late(deadline))),
                }
            }
            *next += 1;
        }
        Ok(())
    }
}

/// Why a script whose output has ended gave no answer.
fn failed(script: Script, end: Instant) -> String {
    match script.end(end) {
        Ok(()) => "the script ended without an answer".to_owned(),
        Err(said) => format!("the script failed: {said}"),
    }
}

/// Nothing that is not understood is lost.
fn passed_over(line: &str, why: &str) {
    eprintln!("yardstick: passed over, since {why}: {line}");
}

/// The first line of the script.
fn about(line: &str) -> Option<Value> {
    let about: Value = serde_json::from_str(line).ok()?;
    ["triton", "torch", "device"].iter().all(|key| about[key].is_string()).then_some(about)
}

/// A line for a shape.
fn answer(line: &str, shape: &Shape) -> Result<Answer, String> {
    let said: Value = serde_json::from_str(line).map_err(|_| "it is no JSON".to_owned())?;
    let wanted = [("rows", shape.rows as usize), ("n", shape.n), ("k", shape.k)];
    if wanted.iter().any(|(key, size)| said[key].as_u64() != Some(*size as u64)) {
        return Err(format!("the shape is {wanted:?}"));
    }
    let time = |name: &str| {
        if let Some(error) = said[format!("{name}_error")].as_str() {
            return Ok(Err(error.to_owned()));
        }
        let us = said[format!("{name}_us")].as_f64().filter(|us| us.is_finite() && *us > 0.0);
        us.map(Ok).ok_or_else(|| format!("`{name}_us` is no time, and there is no `{name}_error`"))
    };
    let config = said["triton_config"].as_str().map(str::to_owned);
    Ok(Answer { triton: time("triton")?, cublas: time("cublas")?, config })
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// A stub may not be started while another thread, about to start its own, holds the file open.
    static ALONE: Mutex<()> = Mutex::new(());

    const SHAPES: [Shape; 3] = [
        Shape { rows: 232, n: 8, k: 4, copies: 2 },
        Shape { rows: 301, n: 8, k: 4, copies: 2 },
        Shape { rows: 232, n: 16, k: 4, copies: 1 },
    ];
    const LONG: Limits = Limits { shape: Duration::from_secs(60), all: Duration::from_secs(120) };
    const ABOUT: &str = r#"echo '{"triton":"3.1","torch":"2.5","device":"stub"}'"#;

    /// A folder whose `python3` is a shell script.
    struct Stub {
        folder: tempfile::TempDir,
        _alone: MutexGuard<'static, ()>,
    }

    impl Stub {
        fn new(program: &str) -> Stub {
            let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("python3");
            std::fs::write(&file, format!("#!/bin/sh\n{program}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            Stub { folder, _alone: alone }
        }

        fn python(&self) -> Python {
            Python { path: Some(self.folder.path().into()) }
        }

        fn ask(&self, limits: Limits) -> (Vec<Answer>, Result<(), String>) {
            let mut answers = Vec::new();
            let end = self.python().ask(&SHAPES, 7, limits, &mut |found| match found {
                Found::About(about) => assert_eq!(about["device"], "stub"),
                Found::Shape(number, answer) => {
                    assert_eq!(number, answers.len());
                    answers.push(answer);
                }
            });
            (answers, end)
        }
    }

    /// The shell's line that answers for a shape.
    fn line(shape: &Shape, times: &str) -> String {
        format!("echo '{{\"rows\":{},\"n\":{},\"k\":{},{times}}}'", shape.rows, shape.n, shape.k)
    }

    fn times(triton: f64, cublas: f64) -> Answer {
        Answer { triton: Ok(triton), cublas: Ok(cublas), config: None }
    }

    #[test]
    fn answers_in_order() {
        let lines: Vec<String> = SHAPES
            .iter()
            .zip([
                r#""triton_us":2.5,"cublas_us":2,"triton_config":"64""#,
                r#""triton_us":3,"cublas_error":"full""#,
                r#""triton_us":4,"cublas_us":5"#,
            ])
            .map(|(shape, times)| line(shape, times))
            .collect();
        let input = r#"[{"copies":2,"k":4,"n":8,"rows":232},{"copies":2,"k":4,"n":8,"rows":301},{"copies":1,"k":4,"n":16,"rows":232}]"#;
        let asked = format!(
            "read x; [ \"$x\" = '{input}' ] && [ \"$2\" = --rounds=7 ] && [ -s \"$1\" ] || {{ echo \"$x $2\" >&2; exit 1; }}"
        );
        let (answers, end) = Stub::new(&format!("{asked}\n{ABOUT}\n{}", lines.join("\n"))).ask(LONG);
        assert_eq!(end, Ok(()));
        assert_eq!(answers[0], Answer { config: Some("64".to_owned()), ..times(2.5, 2.0) });
        assert_eq!((&answers[1].triton, &answers[1].cublas), (&Ok(3.0), &Err("full".to_owned())));
        assert_eq!(answers[2], times(4.0, 5.0));
    }

    #[test]
    fn garbage_is_no_answer() {
        let [first, other, _] = &SHAPES;
        let good = r#""triton_us":2,"cublas_us":3"#;
        assert_eq!(answer(&format!("{{\"rows\":232,\"n\":8,\"k\":4,{good}}}"), first), Ok(times(2.0, 3.0)));
        for said in [
            "",
            "Traceback",
            "[]",
            "{}",
            "3.5",
            r#"{"rows":232,"n":8,"k":4}"#,
            r#"{"rows":232,"n":8,"k":4,"triton_us":2}"#,
            r#"{"rows":232,"n":8,"k":4,"triton_us":2,"cublas_us":0}"#,
            r#"{"rows":232,"n":8,"k":4,"triton_us":-2,"cublas_us":3}"#,
            r#"{"rows":232,"n":8,"k":4,"triton_us":NaN,"cublas_us":3}"#,
            r#"{"rows":232,"n":8,"k":4,"triton_us":"2","cublas_us":3}"#,
            r#"{"rows":232,"n":8,"k":4,"triton_us":1e999,"cublas_us":3}"#,
        ] {
            assert!(answer(said, first).is_err(), "{said}");
        }
        assert!(answer(&format!("{{\"rows\":232,\"n\":8,\"k\":4,{good}}}"), other).is_err());
    }

    #[test]
    fn garbage_between_answers_is_passed_over() {
        let lines: Vec<String> = SHAPES
            .iter()
            .map(|shape| format!("echo '%!'; {}", line(shape, r#""triton_us":2,"cublas_us":3"#)))
            .collect();
        let noise = r#"echo 'a warning'; echo '{"triton":1}'; printf '\377\n'"#;
        let (answers, end) = Stub::new(&format!("{noise}\n{ABOUT}\n{}", lines.join("\n"))).ask(LONG);
        assert_eq!((answers, end), (vec![times(2.0, 3.0); 3], Ok(())));
    }

    #[test]
    fn what_is_lacking_is_said() {
        let empty = tempfile::tempdir().unwrap();
        let python = Python { path: Some(empty.path().into()) };
        assert_eq!(python.lacks(LONG.shape).as_deref(), Some("there is no python3 in PATH"));
        let says = |program: &str, time| Stub::new(program).python().lacks(time);
        let none = says(
            "echo 'Traceback' >&2; echo \"ModuleNotFoundError: No module named 'triton'\" >&2; exit 1",
            LONG.shape,
        );
        assert_eq!(
            none.as_deref(),
            Some("python3 cannot import triton and torch: ModuleNotFoundError: No module named 'triton'")
        );
        assert_eq!(says("echo False", LONG.shape).as_deref(), Some("python3's torch has no CUDA device"));
        assert!(says("exec /bin/sleep 600", Duration::from_millis(200)).unwrap().contains("after 200ms"));
        assert_eq!(says("[ \"$1\" = -c ] && echo a warning && echo True", LONG.shape), None);
    }

    #[test]
    fn a_shape_that_fails_leaves_the_rest() {
        let [first, _, third] = SHAPES.map(|shape| line(&shape, r#""triton_us":2,"cublas_us":3"#));
        // Begun anew, it has fewer shapes to read.
        let program =
            format!("read x\n{ABOUT}\ncase $x in *301*) {first}; echo it broke >&2; exit 1;; esac\n{third}");
        let (answers, end) = Stub::new(&program).ask(LONG);
        assert_eq!(end, Ok(()));
        assert_eq!(answers[0], times(2.0, 3.0));
        assert_eq!(answers[1], Answer::none("the script failed: it broke"));
        assert_eq!(answers[2], times(2.0, 3.0));
    }

    #[test]
    fn a_shape_that_hangs_leaves_the_rest() {
        let [first, _, third] = SHAPES.map(|shape| line(&shape, r#""triton_us":2,"cublas_us":3"#));
        let program =
            format!("read x\n{ABOUT}\ncase $x in *301*) {first}; exec /bin/sleep 600;; esac\n{third}");
        let limits = Limits { shape: Duration::from_secs(5), ..LONG };
        let (answers, end) = Stub::new(&program).ask(limits);
        assert_eq!(end, Ok(()));
        assert_eq!(answers[1], Answer::none("no answer after 5s"));
        assert_eq!((&answers[0], &answers[2]), (&times(2.0, 3.0), &times(2.0, 3.0)));
    }

    #[test]
    fn a_script_that_never_begins_gives_nothing() {
        let (answers, end) = Stub::new("echo 'no GPU memory' >&2; exit 1").ask(LONG);
        assert_eq!((answers.len(), end), (0, Err("the script failed: no GPU memory".to_owned())));
        let limits = Limits { all: Duration::from_millis(300), ..LONG };
        let (answers, end) = Stub::new("exec /bin/sleep 600").ask(limits);
        assert_eq!((answers.len(), end), (0, Err("stopped after 300ms".to_owned())));
    }
}
