//! The server, as `python -m dream.serve` starts it.

use crate::failure::{Failure, without_gil};
use crate::open::options;
use dream_serve::{Camera, Gripper, Keys, Options, ServeError, Server};
use pyo3::prelude::*;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How often Python looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(100);

/// Serves an artifact until it is interrupted. `started` is called with the address once it is ready.
#[pyfunction]
#[pyo3(signature = (path, started, *, listen, token_file, queue, timeout, late_after, camera, gripper, keys, device, threads, pin, lock_weights))]
#[expect(clippy::too_many_arguments, reason = "as `dream/serve.py` names them")]
pub(crate) fn serve(
    py: Python<'_>,
    path: PathBuf,
    started: Py<PyAny>,
    listen: &str,
    token_file: Option<PathBuf>,
    queue: usize,
    timeout: f64,
    late_after: Option<f64>,
    camera: &str,
    gripper: &str,
    keys: Option<&str>,
    device: &str,
    threads: usize,
    pin: Vec<usize>,
    lock_weights: bool,
) -> PyResult<()> {
    let wrong = |name: &str, found: &str| Failure::argument(format!("{name} is `{found}`"));
    let listen: SocketAddr = listen.parse().map_err(|_| wrong("listen", listen))?;
    let camera = match camera {
        "none" => Camera::None,
        "libero" => Camera::Libero,
        other => return Err(wrong("camera", other).into()),
    };
    let gripper = match gripper {
        "none" => Gripper::None,
        "libero" => Gripper::Libero,
        other => return Err(wrong("gripper", other).into()),
    };
    let keys = keys.map(Keys::parse).transpose().map_err(Failure::argument)?.unwrap_or_default();
    let duration = |name: &str, seconds: f64| {
        Duration::try_from_secs_f64(seconds).map_err(|error| Failure::argument(format!("{name}: {error}")))
    };
    let timeout = duration("timeout", timeout)?;
    let late_after = late_after.map(|ms| duration("late_after", ms / 1e3)).transpose()?;
    let open = options(device, threads, pin, lock_weights, None)?;
    let options = Options { listen, token_file, queue, timeout, late_after, camera, gripper, keys, open };
    let server = without_gil(py, || {
        Server::open(&path, options).map_err(|error| match error {
            ServeError::Open(error) => error.into(),
            error => {
                let (mut text, mut cause) = (error.to_string(), error.source());
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                match error {
                    ServeError::Listen { .. } | ServeError::Threads(_) => {
                        Failure::Said("SystemResourceError", text)
                    }
                    _ => Failure::argument(text),
                }
            }
        })
    })?;
    let (address, stop) = (server.address().to_string(), server.stop());
    let running = std::thread::Builder::new().spawn(move || server.run()).map_err(PyErr::from)?;
    let told = started.call1(py, (address,));
    while told.is_ok() && !running.is_finished() {
        py.detach(|| std::thread::sleep(LOOK));
        if py.check_signals().is_err() {
            break;
        }
    }
    stop.stop();
    py.detach(|| running.join())
        .map_err(|_| Failure::argument("bug: the server panicked; please report it"))?;
    told.map(|_| ())
}
