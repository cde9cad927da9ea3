//! A counter outside of the cluster, in a file, that a lock guards.
//!
//! Whoever holds the lock shows its fencing token, reads the counter, and writes it one higher. The file
//! stands for any system outside: it knows the highest token that it was shown, refuses lower ones, and
//! knows nothing else. So a holder that stood still and lost the lock meanwhile changes nothing any more.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use duractor::{CoordinationError, Session};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The lock's name.
const LOCK: &str = "counter";
/// How long a holder thinks before it writes.
const THINKS: Duration = Duration::from_millis(2);

/// What became of a try to count.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Counted {
    Done,
    /// Another holder came in between: nothing was counted.
    FencedOff,
    /// The lock was not to be had: nothing was counted.
    NotHeld(String),
}

/// Counts one higher.
pub(super) async fn count(
    session: &Session,
    path: &Path,
    timeout: Duration,
) -> Result<Counted, CoordinationError> {
    let guard = match session.lock(LOCK)?.try_acquire(timeout).await {
        Ok(guard) => guard,
        Err(error) => return Ok(Counted::NotHeld(error.to_string())),
    };
    let token = guard.token();
    let failed = |error: io::Error| Counted::NotHeld(error.to_string());
    let value = match shown(path, token) {
        Ok(Some(value)) => value,
        Ok(None) => return Ok(Counted::FencedOff),
        Err(error) => return Ok(failed(error)),
    };
    tokio::time::sleep(THINKS).await;
    let counted = match written(path, token, value + 1) {
        Ok(true) => Counted::Done,
        Ok(false) => Counted::FencedOff,
        Err(error) => failed(error),
    };
    // It may be lost, or its owner be gone: it ends with the lease then.
    let _ = guard.release().await;
    Ok(counted)
}

/// Shows a token to the file. The counter, or `None` where a higher token was shown before.
fn shown(path: &Path, token: u64) -> io::Result<Option<u64>> {
    at(path, |state, file| {
        if token < state.highest {
            return Ok(None);
        }
        file.write_all(format!("shown {token}\n").as_bytes())?;
        Ok(Some(state.value))
    })
}

/// Writes the counter. False where a higher token was shown before.
fn written(path: &Path, token: u64, value: u64) -> io::Result<bool> {
    at(path, |state, file| {
        if token < state.highest {
            return Ok(false);
        }
        file.write_all(format!("{token} wrote {value}\n").as_bytes())?;
        Ok(true)
    })
}

/// What the file knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    highest: u64,
    value: u64,
}

/// One thing at a time is done at the file, in one write, so that a killed process leaves no half of a line.
fn at<T>(path: &Path, act: impl FnOnce(State, &mut File) -> io::Result<T>) -> io::Result<T> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    // Until the file is closed.
    flock(&file, FlockOperation::LockExclusive)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let state = read(&text).map_err(io::Error::other)?;
    act(state, &mut file)
}

/// Reads the file, and checks it: tokens never fall, and the counter goes up by one each time.
fn read(text: &str) -> Result<State, String> {
    let mut state = State::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().map_err(|error| format!("{line}: {error}"));
        let token = match words[..] {
            ["shown", token] => number(token)?,
            [token, "wrote", value] => {
                let value = number(value)?;
                if value != state.value + 1 {
                    return Err(format!("the counter went from {} to {value}", state.value));
                }
                state.value = value;
                number(token)?
            }
            _ => return Err(format!("what is {line:?}?")),
        };
        if token < state.highest {
            return Err(format!("token {token} was taken after {}", state.highest));
        }
        state.highest = token;
    }
    Ok(state)
}

/// Compares the file with what was acknowledged, and what may have been counted beside that.
pub(super) fn check(path: &Path, acked: u64, unknown: u64) -> Result<(), String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|error| error.to_string())?,
    };
    let counted = read(&text)?.value;
    if !(acked..=acked + unknown).contains(&counted) {
        return Err(format!(
            "the counter is at {counted}: {acked} were acknowledged, {unknown} are not known"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_was_overtaken_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("counter");
        assert_eq!(shown(&path, 7).expect("a file"), Some(0));
        assert_eq!(shown(&path, 9).expect("a file"), Some(0));
        assert!(!written(&path, 7, 1).expect("a file"), "9 was shown");
        assert!(written(&path, 9, 1).expect("a file"));
        assert_eq!(shown(&path, 8).expect("a file"), None);
        assert_eq!(shown(&path, 11).expect("a file"), Some(1));
        check(&path, 1, 0).expect("exact");
        check(&path, 0, 1).expect("it may be");
        assert!(check(&path, 2, 0).is_err(), "one is lost");
        assert!(check(&path, 0, 0).is_err(), "one is too many");
    }

    #[test]
    fn what_two_holders_at_once_do_is_seen() {
        assert!(read("shown 7\nshown 9\n9 wrote 1\n7 wrote 2\n").is_err(), "not fenced");
        assert!(read("shown 7\n7 wrote 1\nshown 9\n9 wrote 1\n").is_err(), "a lost update");
        assert!(read("shown 7\n7 wrote").is_err(), "torn");
    }
}
