//! The program with small numbers, and what becomes of a device that does not report.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, process::Command, time::Duration};

use devices::{
    device::{DeviceEvent, Devices, Look, Overdue, Report},
    nodes::Nodes,
};
use duractor::{Seq, golden, golden_command};
use serde_json::Value;
use tokio::time::{sleep, timeout};

fn run(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_devices"))
        .args(["--json", "--entities", "300", "--active", "40", "--sample", "30"])
        .args(arguments)
        .arg("--data")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let left: Vec<_> = folder.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    serde_json::from_slice(&run.stdout).unwrap()
}

#[test]
fn a_killed_node_serves_all_again_and_few_are_in_memory() {
    let outcome = run(&[]);
    assert_eq!(outcome["wrong"], 0, "{outcome}");
    // The limit is soft: those that have something under way stay for a moment.
    let active = outcome["active"].as_u64().unwrap();
    assert!((20..=80).contains(&active), "{outcome}");
    assert!(outcome["served_ms"].as_f64() > outcome["up_ms"].as_f64(), "{outcome}");
}

#[test]
fn a_cluster_serves_all_again() {
    let outcome = run(&["--nodes", "3"]);
    assert_eq!(outcome["wrong"], 0, "{outcome}");
}

async fn start(folder: &Path, fresh: bool, silent_after: Duration) -> Nodes {
    let devices = Devices { active: 1, silent_after };
    Nodes::start(folder, &[], fresh, &devices).await.unwrap()
}

#[tokio::test]
async fn a_device_that_does_not_report_is_marked_though_the_node_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = start(folder.path(), true, Duration::from_secs(1)).await;
    assert_eq!(nodes.device(1).unwrap().ask(Report { milli: 7 }).await.unwrap(), 1);
    nodes.stop().await;

    let nodes = start(folder.path(), false, Duration::from_secs(3600)).await;
    let device = nodes.device(1).unwrap();
    // Reads the log and does not bring the device into memory.
    let marked = async {
        while device.history(Seq(1), 9).await.unwrap().last().unwrap().event
            != DeviceEvent::WentSilent
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), marked).await.unwrap();
    assert!(device.ask(Look).await.unwrap().silent);

    // It is not any more once it reports; and the next reminder is an hour away.
    assert_eq!(device.ask(Report { milli: 8 }).await.unwrap(), 2);
    let now = device.ask(Look).await.unwrap();
    assert_eq!((now.last, now.count, now.silent), (Some(8), 2, false));
    nodes.stop().await;
}

#[test]
fn what_is_stored_keeps_its_bytes() {
    golden::<DeviceEvent>(&[
        (&[DeviceEvent::Reported { milli: 300 }], "reported", 1, "d804"),
        (&[DeviceEvent::WentSilent], "went-silent", 1, ""),
    ]);
    // It is stored with its reminder.
    golden_command(&[(&Overdue, 1, "")]);
}
