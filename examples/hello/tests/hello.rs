//! Runs the example twice on one folder.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

const SOURCE: &str = include_str!("../src/main.rs");

fn hello(dir: &std::path::Path) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_hello")).arg(dir).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn the_second_run_finds_what_the_first_one_stored() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(hello(dir.path()), "it was 0, and now it is 1\n");
    assert_eq!(hello(dir.path()), "it was 1, and now it is 2\n");
}

/// The README promises it.
#[test]
fn it_is_at_most_25_lines_without_imports() {
    let no_code = |line: &&str| line.is_empty() || line.starts_with("//") || line.starts_with("#!");
    let lines = SOURCE.lines().map(str::trim).filter(|line| !no_code(line));
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("use ")).collect();
    assert!(lines.len() <= 25, "{} lines", lines.len());
}
