//! One run of a helper: a line of JSON in, a line of JSON out, within a time.

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// So much of the end of what it says beside its answer is kept.
const COMPLAINT_BYTES: usize = 4096;
/// How long one that was killed is waited for, and what it says at its end.
const LAST_WORDS: Duration = Duration::from_secs(2);
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
struct Helper(Option<Child>);

impl Drop for Helper {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        let began = Instant::now();
        while began.elapsed() < LAST_WORDS {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LAST_WORDS / 100);
        }
        // One that waits for a storage within a system call ends when the storage answers.
        std::thread::spawn(move || child.wait());
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
    let mut child = command.spawn().map_err(HelperError::Start)?;
    let input = child.stdin.take();
    let output = child.stdout.take();
    let complaints = child.stderr.take();
    let helper = Helper(Some(child));
    let (answer, answered) = mpsc::channel();
    let (complaint, complained) = mpsc::channel();
    let line = format!("{asked}\n");
    // Nobody waits for these threads: what the helper has started may keep its pipes open for longer than it lives.
    std::thread::spawn(move || complaint.send(complaints.map(end_of).unwrap_or_default()));
    std::thread::spawn(move || {
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
    let line = match answered {
        Err(RecvTimeoutError::Timeout) => return Err(HelperError::Late(timeout)),
        Err(RecvTimeoutError::Disconnected) => String::new(),
        Ok(line) => line,
    };
    let answer = serde_json::from_str::<Value>(&line).ok();
    let Some(answer) = answer.filter(Value::is_object) else {
        let complaint = complained.recv_timeout(LAST_WORDS).unwrap_or_default();
        return Err(HelperError::NoAnswer(last_words(&without_secrets(
            complaint, asked,
        ))));
    };
    match answer["error"].as_str() {
        Some(words) => {
            let words = without_secrets(words.to_owned(), asked);
            Err(HelperError::Refused(
                words.chars().take(WORDS_MAX).collect(),
            ))
        }
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
    String::from_utf8_lossy(&kept).trim().to_owned()
}

fn last_words(text: &str) -> String {
    let count = text.chars().count();
    text.chars().skip(count.saturating_sub(WORDS_MAX)).collect()
}

/// A text without what a storage calls a secret, such as the password of a target. Commands that fail are quoted in errors.
fn without_secrets(mut text: String, asked: &Value) -> String {
    let mut parts = vec![&asked["connection"]];
    while let Some(part) = parts.pop() {
        match part {
            Value::Array(items) => parts.extend(items),
            Value::Object(entries) => {
                for (key, value) in entries {
                    match value.as_str() {
                        Some(secret) if !secret.is_empty() && names_a_secret(key) => {
                            text = text.replace(secret, "***");
                        }
                        _ => parts.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    text
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["password", "secret", "key", "token"]
        .iter()
        .any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn what_leaves_its_group_and_keeps_its_pipes_is_not_waited_for() {
        let began = Instant::now();
        let error = played(
            "setsid sleep 30 & exit 1",
            LONG.min(Duration::from_millis(300)),
        );
        assert!(error.is_err());
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn secrets_of_the_storage_are_in_no_error() {
        let asked = json!({ "connection": { "data": { "auth_password": "hunter2", "target_lun": 1,
            "targets": [{ "encryption_key": "cafe" }] } } });
        for script in [
            "echo '{\"error\": \"iscsiadm -v hunter2: cafe\"}'",
            "echo 'iscsiadm -v hunter2: cafe' >&2; exit 1",
        ] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            let error = run(command, &asked, LONG).unwrap_err().to_string();
            assert!(error.ends_with("iscsiadm -v ***: ***"), "{error}");
        }
    }

    #[test]
    fn an_interpreter_that_is_not_there() {
        let error = run(Command::new("/no/python"), &json!({}), LONG).unwrap_err();
        assert!(matches!(error, HelperError::Start(_)));
    }
}
