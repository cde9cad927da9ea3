//! The tools run, and say what they promise. How fast anything is is not tested here.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");
const CRASH: &str = env!("CARGO_BIN_EXE_crash");
const SIM: &str = env!("CARGO_BIN_EXE_sim");

fn run(program: &str, dir: &Path, line: &str) -> Output {
    Command::new(program).args(line.split(' ')).arg("--dir").arg(dir).output().expect("started")
}

/// What a program that must not fail printed, as JSON lines.
fn results(program: &str, line: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let output = run(program, dir.path(), line);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {} {errors}", output.status);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{line} left {left:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn bench(line: &str, rows: usize, fields: &str) -> Vec<Value> {
    let results = results(BENCH, &format!("{line} --probe-seconds 0.02 --json"));
    assert_eq!(results.len(), rows, "{line}: {results:?}");
    for result in &results {
        assert_eq!(result["bench"], line.split(' ').next().expect("a word"));
        for field in fields.split(' ').chain(["fdatasync_per_s", "ratio"]) {
            assert!(result[field].is_number(), "{field} of {line}: {result}");
        }
    }
    results
}

#[test]
fn append_to_the_journal() {
    let results = bench(
        "append --nodes 1 --writers 1,4 --event-bytes 100 --seconds 0.1 --target journal",
        2,
        "nodes writers events_per_s p50_us p99_us",
    );
    assert_eq!((&results[0]["target"], &results[0]["writers"]), (&"journal".into(), &1.into()));
    assert_eq!(results[1]["writers"], 4);
}

#[test]
fn append_in_batches_to_entities_that_writers_share() {
    let line = "append --writers 2 --entities 5 --batch 3 --event-bytes 0 --seconds 0.1";
    let results = bench(line, 1, "events_per_s batch entities");
    assert!(results[0]["events_per_s"].as_f64() > Some(0.0));
}

#[test]
fn append_to_entities() {
    for entities in [1, 20] {
        let line =
            format!("append --writers 8 --seconds 0.1 --target entity --entities {entities}");
        let results = bench(&line, 1, "nodes writers events_per_s p50_us p99_us");
        assert_eq!(results[0]["target"], "entity");
    }
}

#[test]
fn ask() {
    bench("ask --callers 1,8 --entities 5 --seconds 0.1", 2, "callers asks_per_s p50_us p99_us");
}

#[test]
fn replay() {
    let results = bench("replay --events 2000 --stream-events 50", 8, "events_per_s events_read");
    for result in results {
        assert_eq!(result["events_read"], 2000, "{result}");
        assert_eq!(result["cold_by"].is_string(), result["cache"] == "cold", "{result}");
    }
}

#[test]
fn recover() {
    bench("recover --entities 50 --events 4", 2, "entities_per_s events_per_s start_ms");
}

#[test]
fn spawn() {
    bench("spawn --entities 200", 1, "entities_per_s bytes_per_entity rss_mib");
}

#[test]
fn open() {
    let results = bench("open --events 500,1000", 4, "open_ms rss_mib log_mib");
    assert_eq!((&results[0]["events"], &results[2]["events"]), (&500.into(), &1000.into()));
}

#[test]
fn soak() {
    let fields = "rss_warm_mib rss_max_mib rss_last_mib drift_percent events_per_s";
    bench("soak --seconds 0.5 --entities 50 --callers 4 --idle-ms 50", 1, fields);
}

#[test]
fn a_table_without_json() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = "append --writers 1,2 --seconds 0.05 --probe-seconds 0.02";
    let output = run(BENCH, dir.path(), line);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "one heading: {text}");
    assert!(lines[0].contains("fdatasync_per_s") && lines[0].len() == lines[1].len(), "{text}");
}

#[test]
fn a_cluster_has_one_or_at_least_three_nodes() {
    for (program, line) in [(BENCH, "append --nodes 2"), (CRASH, "--nodes 2 --trials 1")] {
        let dir = tempfile::tempdir().expect("a folder");
        let output = run(program, dir.path(), line);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains("1, or 3 to 7"), "{errors}");
    }
}

#[test]
fn append_to_three_nodes() {
    let line = "append --nodes 3 --writers 4 --seconds 0.2 --shards 3";
    let results =
        bench(line, 1, "nodes writers shards events_per_s p50_us p99_us ratio_per_writer");
    assert_eq!((&results[0]["nodes"], &results[0]["tls"]), (&3.into(), &true.into()));
    assert!(results[0]["events_per_s"].as_f64() > Some(0.0), "{results:?}");
}

#[test]
fn replay_on_a_follower() {
    let line = "replay --nodes 3 --events 1000 --streams many --stream-events 50 --shards 3";
    for result in bench(line, 2, "events_per_s events_read") {
        assert_eq!(result["events_read"], 1000, "{result}");
    }
}

#[test]
fn failover() {
    let line = "failover --trials 2 --graceful 1 --shards 3";
    let fields = "trials p50_ms p99_ms worst_ms graceful_worst_ms events_per_s";
    let results = bench(line, 1, fields);
    assert_eq!(results[0]["trials"], 2, "{results:?}");
    assert!(results[0]["p50_ms"].as_f64() > Some(0.0), "{results:?}");
}

#[test]
fn handoff() {
    let line = "handoff --moves 3 --callers 2 --entities 20 --shards 3 --deadline-s 30";
    let fields = "moves gap_p50_ms gap_p99_ms worst_ms errors asks_per_s";
    let results = bench(line, 1, fields);
    assert_eq!(results[0]["errors"], 0, "{results:?}");
    assert!(results[0]["asks_per_s"].as_f64() > Some(0.0), "{results:?}");
}

#[test]
fn rebalance() {
    let line = "rebalance --events 300 --callers 2 --entities 20 --shards 3 --seconds 0.2";
    let fields = "rebalance_s before_per_s meanwhile_per_s after_per_s kept worst_ms errors";
    let results = bench(line, 1, fields);
    assert!(results[0]["events"].as_u64() >= Some(300), "{results:?}");
}

#[test]
fn catchup() {
    let line = "catchup --events 300 --writers 2 --seconds 0.2 --shards 2";
    let results = bench(line, 2, "catch_up_s before_per_s meanwhile_per_s meanwhile_ratio");
    assert_eq!((&results[0]["lag"], &results[1]["lag"]), (&"missed".into(), &"empty".into()));
}

#[test]
fn idle() {
    bench("idle --shards 1,3 --seconds 0.2 --insecure", 2, "cpu_percent us_per_group");
}

#[test]
fn crash_finds_nothing_to_complain_about_in_three_nodes() {
    let results = results(CRASH, "--nodes 3 --trials 3 --json");
    assert_eq!((&results[0]["trials"], &results[0]["nodes"]), (&3.into(), &3.into()));
    assert!(results[0]["acked"].as_u64() > Some(0), "{results:?}");
    assert_eq!(results[0]["replicas_equal"], true, "{results:?}");
    for field in ["lost", "duplicated", "other"] {
        assert_eq!(results[0][field], 0, "{results:?}");
    }
}

#[test]
fn crash_sees_what_is_planted_in_three_nodes() {
    for (plant, field) in [("lose", "lost"), ("duplicate", "duplicated"), ("differ", "other")] {
        let dir = tempfile::tempdir().expect("a folder");
        let line = format!("--nodes 3 --trials 2 --plant {plant} --json");
        let output = run(CRASH, dir.path(), &line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(result[field].as_u64() > Some(0), "{line}: {result}");
        assert_eq!(result["replicas_equal"], plant != "differ", "{line}: {result}");
    }
}

#[test]
fn crash_loses_and_makes_no_money() {
    let results = results(CRASH, "--nodes 3 --scenario transfer --trials 3 --json");
    assert_eq!((&results[0]["trials"], &results[0]["nodes"]), (&3.into(), &3.into()));
    assert!(results[0]["acked"].as_u64() > Some(0), "{results:?}");
    for field in ["lost", "duplicated", "other"] {
        assert_eq!(results[0][field], 0, "{results:?}");
    }
}

#[test]
fn crash_sees_planted_transfers() {
    for (plant, says) in [("lose", "is lost"), ("duplicate", "transfer")] {
        let dir = tempfile::tempdir().expect("a folder");
        let line = format!("--nodes 3 --scenario transfer --trials 4 --plant {plant} --json");
        let output = run(CRASH, dir.path(), &line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(result["other"].as_u64() > Some(0), "{line}: {result}");
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(notes.contains(says), "{line}: {notes}");
    }
}

#[test]
fn crash_finds_nothing_to_complain_about() {
    for target in ["journal", "entity"] {
        let line = format!("--trials 3 --rounds 2 --target {target} --json");
        let results = results(CRASH, &line);
        assert_eq!((results.len(), &results[0]["trials"]), (1, &3.into()), "{results:?}");
        assert!(results[0]["acked"].is_u64(), "{results:?}");
        for field in ["lost", "duplicated", "other"] {
            assert_eq!(results[0][field], 0, "{results:?}");
        }
    }
}

#[test]
fn crash_sees_planted_losses_and_duplicates() {
    for target in ["journal", "entity"] {
        for (plant, field) in [("lose", "lost"), ("duplicate", "duplicated")] {
            let dir = tempfile::tempdir().expect("a folder");
            // The first of these is killed late enough, on any machine, to have written something.
            let line = format!("--trials 50 --target {target} --plant {plant} --json");
            let output = run(CRASH, dir.path(), &line);
            assert_eq!(output.status.code(), Some(1), "{line}");
            let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert!(result[field].as_u64() > Some(0), "{line}: {result}");
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(errors.contains("again with: crash --target"), "{errors}");
        }
    }
}

/// What `sim` printed, as JSON lines, and whether it ended well.
fn sim(line: &str) -> (Vec<Value>, bool) {
    let output = Command::new(SIM).args(line.split(' ')).output().expect("started");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let rows = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    (rows, output.status.success())
}

#[test]
fn sim_runs_for_hours() {
    let dir = tempfile::tempdir().expect("a folder");
    let (report, failures) = (dir.path().join("report.md"), dir.path().join("failures.txt"));
    let line = format!(
        "--scenario snapshot --hours 0.0003 --threads 2 --json --report {} --failures {}",
        report.display(),
        failures.display()
    );
    let (rows, good) = sim(&line);
    assert!(good && rows.len() == 1, "{rows:?}");
    assert!(rows[0]["seeds"].as_u64() >= Some(100), "each process has its first seeds: {rows:?}");
    assert!(rows[0]["acked"].as_u64() > Some(0), "{rows:?}");
    let page = std::fs::read_to_string(report).expect("a report");
    assert!(page.contains("**0 violations**") && page.contains("\n| snapshot | "), "{page}");
    assert!(!failures.exists(), "nothing failed");
}

#[test]
fn sim_says_which_planted_bugs_it_found() {
    let (rows, good) = sim("--scenario log --planted ack-before-fsync --seeds 200 --json");
    let all = rows.last().expect("a summary");
    assert!(good, "{rows:?}");
    assert_eq!((&all["planted"], &all["found"]), (&1.into(), &1.into()), "{all}");
    assert_eq!(all["missed"], serde_json::json!([]), "{all}");
    assert!(all["median_seeds"]["log/ack-before-fsync"].as_u64() <= Some(10), "{all}");
}

#[test]
fn sim_replays_a_seed() {
    let output = Command::new(SIM).args(["--replay", "log:17"]).output().expect("started");
    assert!(output.status.success());
    assert!(!output.stderr.is_empty(), "every step is printed");
}
