//! A program of Python, read line by line until a deadline.

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Lines of its errors that are repeated, from the end.
const LINES_MAX: usize = 20;
/// How long a program that has ended may take to hand over its errors.
const ERRORS_WAIT: Duration = Duration::from_secs(1);
/// How often it is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// It runs until it ends or is dropped.
pub(crate) struct Script {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A line of its output.
    Line(String),
    /// The end of its output.
    End,
    /// The deadline.
    Late,
}

impl Script {
    /// Starts it with this as its whole input, which is a few KB at most.
    pub(crate) fn start(command: &mut Command, input: &str) -> Result<Script, Error> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who reads nothing says why in another way.
            drop(stdin.write_all(input.as_bytes()));
        }
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut out =
                out.into_iter().flat_map(|out| BufReader::new(out).split(b'\n')).map_while(Result::ok);
            out.try_for_each(|line| send.send(String::from_utf8_lossy(&line).into_owned()).ok())
        });
        let (send, errors) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            err.into_iter().for_each(|mut err| drop(err.read_to_end(&mut bytes)));
            drop(send.send(String::from_utf8_lossy(&bytes).into_owned()));
        });
        Ok(Script { child, lines, errors })
    }

    /// The next line.
    pub(crate) fn line(&self, until: Instant) -> Heard {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Heard::Line(line),
            Err(RecvTimeoutError::Disconnected) => Heard::End,
            Err(RecvTimeoutError::Timeout) => Heard::Late,
        }
    }

    /// Waits for its end; an error is the end of what it said, or that it had to be stopped.
    pub(crate) fn end(mut self, until: Instant) -> Result<(), String> {
        let status = loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if Instant::now() >= until => return Err("it did not end and was stopped".to_owned()),
                None => std::thread::sleep(POLL),
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = self.errors.recv_timeout(ERRORS_WAIT).unwrap_or_default();
        let mut last: Vec<&str> = said.lines().rev().take(LINES_MAX).collect();
        last.reverse();
        Err(if last.is_empty() { status.to_string() } else { last.join("\n") })
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn shell(program: &str, input: &str) -> Script {
        Script::start(Command::new("/bin/sh").args(["-c", program]), input).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn lines_come_in_order_and_then_the_end() {
        let script = shell("read x; echo got $x; echo '\u{fffd}'; exit 0", "a\n");
        assert_eq!(script.line(soon()), Heard::Line("got a".to_owned()));
        assert_eq!(script.line(soon()), Heard::Line("\u{fffd}".to_owned()));
        assert_eq!(script.line(soon()), Heard::End);
        assert_eq!(script.end(soon()), Ok(()));
    }

    #[test]
    fn a_failure_says_its_last_lines() {
        let script =
            shell("for i in 1 2 3; do for j in 1 2 3 4 5 6 7 8 9; do echo $i$j >&2; done; done; exit 4", "");
        let error = script.end(soon()).unwrap_err();
        assert_eq!((error.lines().count(), error.lines().last()), (LINES_MAX, Some("39")));
        assert!(shell("exit 4", "").end(soon()).unwrap_err().contains('4'));
    }

    #[test]
    fn who_is_late_is_stopped() {
        let script = shell("exec /bin/sleep 600", "");
        let now = Instant::now();
        assert_eq!(script.line(now), Heard::Late);
        assert_eq!(script.end(now), Err("it did not end and was stopped".to_owned()));
        assert!(now.elapsed() < Duration::from_secs(60));
    }
}
