//! The demo with small numbers: the real program, with its child processes and SIGKILL.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

fn demo(arguments: &[&str]) -> (Output, String) {
    run(&[&["--orders", "40", "--clients", "8"], arguments].concat())
}

fn run(arguments: &[&str]) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_orders"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let left: Vec<_> = folder.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let text = String::from_utf8(run.stdout.clone()).unwrap();
    (run, text)
}

fn row<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).expect(text).trim()
}

#[test]
fn nothing_is_lost_or_doubled_by_kills() {
    let (run, text) = demo(&["--kills", "2"]);
    assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(text.matches("SIGKILL").count(), 3, "two, and one before the check: {text}");
    assert_eq!((row(&text, "lost"), row(&text, "doubled")), ("0", "0"), "{text}");
    assert!(row(&text, "orders checked").starts_with("40, with 290 events"), "{text}");
    assert!(row(&text, "acknowledged").starts_with("210,"), "{text}");
}

#[test]
fn the_check_finds_what_is_lost() {
    let (run, text) = demo(&["--kills", "0", "--plant", "lost"]);
    assert_eq!(run.status.code(), Some(1), "{text}");
    assert_eq!((row(&text, "lost"), row(&text, "doubled")), ("3", "0"), "{text}");
}

#[test]
fn the_check_finds_what_is_doubled() {
    let (run, text) = demo(&["--kills", "1", "--plant", "doubled"]);
    assert_eq!(run.status.code(), Some(1), "{text}");
    assert_eq!((row(&text, "lost"), row(&text, "doubled")), ("0", "1"), "{text}");
}

#[test]
fn the_server_stops_on_sigterm_and_takes_its_port_and_folder_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |listen: &str, folder: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
        command.args(["serve", "--listen", listen, "--data"]).arg(folder);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("RUST_LOG", "off");
        command.spawn().unwrap()
    };
    let mut first = serve("127.0.0.1:0", folder.path());
    let mut line = String::new();
    BufReader::new(first.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();

    let failure = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let same_folder = failure(serve("127.0.0.1:0", folder.path()));
    assert!(same_folder.contains("is in use by another process"), "{same_folder}");
    let elsewhere = tempfile::tempdir().unwrap();
    let same_port = failure(serve(&address, elsewhere.path()));
    assert!(same_port.contains(&format!("cannot listen on {address}")), "{same_port}");

    let id = first.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_cluster_goes_on_without_its_leader_and_loses_nothing() {
    let (run, text) = demo(&["--nodes", "3", "--kills", "1"]);
    assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(text.matches("SIGKILL").count(), 1, "{text}");
    assert!(text.contains("is back and has caught up"), "{text}");
    assert!(text.contains("20 were bought: 13 shipped and paid, 7 refused and undone"), "{text}");
    assert!(text.contains("the receiver was told of each once"), "{text}");
    assert_eq!((row(&text, "lost"), row(&text, "doubled")), ("0", "0"), "{text}");
    // Each of the nodes is asked for each of the orders.
    assert!(row(&text, "orders checked").starts_with("120, with 870 events"), "{text}");
}

/// Clients that try again on 503, and at another node where nobody listens, notice nothing.
#[test]
fn a_rolling_restart_fails_no_request() {
    let (run, text) = run(&["--orders", "800", "--clients", "4", "--nodes", "3", "--rolling"]);
    assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(text.matches("stopped on SIGTERM").count(), 3, "{text}");
    assert!(text.contains("versions 2.0.0, 1.0.0, 1.0.0"), "{text}");
    assert!(text.contains(" 0 requests failed"), "{text}");
    assert_eq!((row(&text, "lost"), row(&text, "doubled")), ("0", "0"), "{text}");
}
