//! The page of `dreamc serve`, in a headless Chromium, against servers of the artifacts that Python's tests have built.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::apt::apt_install;
use crate::python::{self, Folders};
use crate::step::{CommandLine, on_path, step_command, workspace_root};

const TESTS: &str = "runtime/serve/page/tests";
const IMAGE: &str = "golden/fixtures/tabletop-vla/frames/seed_0.png";
const CHROMIUM: &str = "/usr/bin/chromium";
const TOKEN: &str = "a-token-of-the-tests";

/// Builds the command and what it serves, and tests the page.
pub(crate) fn run(pictures: Option<&Path>) -> Result<()> {
    step_command("build the command", &CommandLine::new("cargo build --locked --package dreamc"))?;
    python::build_artifacts(&Folders::new()?)?;
    test(pictures)
}

/// Tests the page; with a folder, `text.png` and `policy.png` go there. The command and the artifacts were built before.
pub(crate) fn test(pictures: Option<&Path>) -> Result<()> {
    let (root, folders) = (workspace_root()?, Folders::new()?);
    apt_install("a browser, and Node.js to drive it", "chromium nodejs npm", missing)?;
    step_command(
        "install what drives the browser",
        &CommandLine::new("npm ci --no-audit --no-fund --prefix").arg(TESTS),
    )?;
    let token = folders.artifacts.join("page-token");
    std::fs::write(&token, TOKEN)?;
    let text = Server::start(&folders, "text.dream", None)?;
    let policy = Server::start(&folders, "policy.dream", None)?;
    let guarded = Server::start(&folders, "text.dream", Some(&token))?;
    let mut test = CommandLine::new("node --test")
        .arg(format!("{TESTS}/page.test.mjs"))
        .env("CHROMIUM", CHROMIUM)
        .env("DREAM_TEXT_URL", text.url.clone())
        .env("DREAM_POLICY_URL", policy.url.clone())
        .env("DREAM_IMAGE", root.join(IMAGE).display().to_string())
        .env("DREAM_TOKEN_URL", guarded.url.clone())
        .env("DREAM_TOKEN", TOKEN);
    if let Some(pictures) = pictures {
        let pictures = root.join(pictures);
        std::fs::create_dir_all(&pictures)
            .with_context(|| format!("cannot create `{}`", pictures.display()))?;
        test = test.env("SCREENSHOT_DIR", pictures.display().to_string());
    }
    step_command("test of the page", &test)
}

fn missing() -> Vec<String> {
    let mut missing = ["node", "npm"].map(str::to_owned).to_vec();
    missing.retain(|program| !on_path(program));
    if !Path::new(CHROMIUM).exists() {
        missing.push("chromium".to_owned());
    }
    missing
}

/// A server that ends with this value.
struct Server {
    process: Child,
    /// Kept open: the server says there what it does.
    _said: BufReader<ChildStderr>,
    url: String,
}

impl Server {
    fn start(folders: &Folders, artifact: &str, token: Option<&PathBuf>) -> Result<Server> {
        let mut command = Command::new(&folders.dreamc);
        command.arg("serve").arg(folders.artifacts.join(artifact)).args(["--listen", "127.0.0.1:0"]);
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        let mut process = command.stderr(Stdio::piped()).spawn().context("cannot start `dreamc serve`")?;
        let said = process.stderr.take().context("its stderr is piped")?;
        let mut said = BufReader::new(said);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
        let server = Server { process, _said: said, url: url.unwrap_or_default() };
        if server.url.is_empty() {
            bail!("`dreamc serve {artifact}` does not serve: {line}");
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
