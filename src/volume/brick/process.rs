//! One run of a helper: a line of JSON in, a line of JSON out, within a time.

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// So much of the end of what it says beside its answer is kept.
const COMPLAINT_BYTES: usize = 4096;
/// Longest text of an error.
const WORDS_MAX: usize = 600;

/// Why a helper did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("the helper cannot be started")]
    Start(#[source] io::Error),
    #[error("it took longer than {} s and was ended", .0.as_secs_f64())]
    Late(Duration),
    #[error("the helper gave no answer: {0}")]
    NoAnswer(String),
    /// With its own words.
    #[error("{0}")]
    Refused(String),
}

/// A helper that is ended, with all that it has started, whatever happens. If this process is killed, its input ends,
/// and it ends itself.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.0.wait().ok();
    }
}

/// Asks a helper, which this command starts.
pub(super) fn run(
    mut command: Command,
    asked: &Value,
    timeout: Duration,
) -> Result<Value, HelperError> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut helper = Helper(command.spawn().map_err(HelperError::Start)?);
    let input = helper.0.stdin.take();
    let output = helper.0.stdout.take();
    let complaints = helper.0.stderr.take();
    let (answer, answered) = mpsc::channel();
    let line = format!("{asked}\n");
    std::thread::scope(|scope| {
        let complaint = scope.spawn(move || complaints.map(end_of).unwrap_or_default());
        scope.spawn(move || {
            let mut input = input;
            // One that does not read has no answer either.
            if let Some(input) = &mut input {
                input.write_all(line.as_bytes()).ok();
            }
            let mut read = String::new();
            if let Some(output) = output {
                let mut output = BufReader::new(output.take(ANSWER_BYTES_MAX));
                output.read_line(&mut read).ok();
            }
            answer.send(read).ok();
            // Its input stays open until the answer is there.
            drop(input);
        });
        let answered = answered.recv_timeout(timeout);
        drop(helper);
        let complaint = complaint.join().unwrap_or_default();
        match answered {
            Err(RecvTimeoutError::Timeout) => Err(HelperError::Late(timeout)),
            Err(RecvTimeoutError::Disconnected) => Err(HelperError::NoAnswer(complaint)),
            Ok(line) => understand(&line, complaint),
        }
    })
}

fn understand(line: &str, complaint: String) -> Result<Value, HelperError> {
    let answer = serde_json::from_str::<Value>(line).ok();
    let answer = answer.filter(Value::is_object);
    let answer = answer.ok_or(HelperError::NoAnswer(complaint))?;
    match answer["error"].as_str() {
        Some(words) => Err(HelperError::Refused(
            words.chars().take(WORDS_MAX).collect(),
        )),
        None => Ok(answer),
    }
}

/// The end of what is written to a pipe, read until the pipe ends.
fn end_of(mut pipe: impl Read) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; COMPLAINT_BYTES]);
    while let Ok(count) = pipe.read(&mut piece) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&piece[..count]);
        kept.drain(..kept.len().saturating_sub(COMPLAINT_BYTES));
    }
    let text = String::from_utf8_lossy(&kept);
    let text: Vec<char> = text.trim().chars().collect();
    text[text.len().saturating_sub(WORDS_MAX)..]
        .iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    /// A shell plays the helper.
    fn played(script: &str, timeout: Duration) -> Result<Value, HelperError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, &json!({ "do": "look" }), timeout)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_is_one_line() {
        let answer = played(
            "read asked; echo \"{\\\"said\\\": $asked}\"; sleep 600",
            LONG,
        );
        assert_eq!(answer.unwrap()["said"]["do"], "look");
    }

    #[test]
    fn its_own_words_are_the_error() {
        let error = played("echo '{\"error\": \"no such share\"}'", LONG).unwrap_err();
        assert_eq!(error.to_string(), "no such share");
    }

    #[test]
    fn without_an_answer_the_end_of_its_complaints_is_said() {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo 'No module' >&2; exit 1";
        let error = played(script, LONG).unwrap_err().to_string();
        assert!(error.ends_with("xNo module"), "{error}");
        assert!(error.len() < 1000, "{} bytes", error.len());
        for silent in [
            "exit 0",
            "echo '[]'",
            "echo '{'",
            "head -c 3000000 /dev/zero",
        ] {
            let error = played(silent, LONG).unwrap_err();
            assert!(
                matches!(error, HelperError::NoAnswer(_)),
                "{silent}: {error}"
            );
        }
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_what_it_started() {
        let began = Instant::now();
        let error = played("sleep 600 & sleep 600", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, HelperError::Late(_)), "{error}");
        assert!(error.to_string().contains("0.3 s"), "{error}");
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn an_interpreter_that_is_not_there() {
        let error = run(Command::new("/no/python"), &json!({}), LONG).unwrap_err();
        assert!(matches!(error, HelperError::Start(_)));
    }
}
