//! Three real processes, with the configurations that a reader starts them with, but for ports and
//! folders. One is killed, and every number is there once.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// How long any step may take on a busy machine.
const STEP: Duration = Duration::from_secs(120);
/// No more lines than this are under way.
const LINES: usize = 1024;

/// What a node printed.
#[derive(Debug, Clone, Copy)]
struct Line {
    total: u64,
    by: usize,
    run_by: usize,
    kept: usize,
}

impl Line {
    /// `17: counted by node 2, run by node 1, kept on 3 nodes`
    fn parse(line: &str) -> Self {
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        let &[total, by, run_by, kept] = &numbers[..] else { panic!("{line:?}") };
        Self { total, by: by as usize, run_by: run_by as usize, kept: kept as usize }
    }
}

struct Nodes {
    folder: PathBuf,
    addresses: Vec<SocketAddr>,
    /// By number. Killed when dropped.
    children: BTreeMap<usize, Child>,
    /// `None` at the end of a node's output.
    sender: mpsc::Sender<(usize, Option<Line>)>,
    lines: mpsc::Receiver<(usize, Option<Line>)>,
    seen: Vec<Line>,
}

impl Nodes {
    fn new(folder: &Path) -> Self {
        // All at once, so that they differ.
        let listeners = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let (sender, lines) = mpsc::channel(LINES);
        let (children, seen) = (BTreeMap::new(), Vec::new());
        Self { folder: folder.to_owned(), addresses, children, sender, lines, seen }
    }

    fn start(&mut self, number: usize, bootstrap: bool) {
        let seeds: Vec<_> = self.addresses.iter().map(SocketAddr::to_string).collect();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("node{number}.toml"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_counter"))
            .arg("--config")
            .arg(config)
            .arg("--node-data-dir")
            .arg(self.folder.join(number.to_string()))
            .args(["--net-listen", &seeds[number - 1], "--discovery-seeds", &seeds.join(",")])
            .args(bootstrap.then_some("--bootstrap"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send((number, Some(Line::parse(&line)))).await;
            }
            let _ = sender.send((number, None)).await;
        });
        self.children.insert(number, child);
    }

    /// Takes lines until each of these nodes has printed one that is as wanted.
    async fn until(&mut self, nodes: &[usize], wanted: impl Fn(&Line) -> bool) {
        let mut missing = nodes.to_vec();
        while !missing.is_empty() {
            let next = timeout(STEP, self.lines.recv()).await;
            let (number, line) = next.expect("a line in time").unwrap();
            let line = line.unwrap_or_else(|| panic!("node {number} has ended"));
            assert_eq!(line.by, number);
            self.seen.push(line);
            missing.retain(|node| *node != number || !wanted(&line));
        }
    }

    /// SIGKILL, which no process can catch; takes the lines up to its last.
    async fn kill(&mut self, number: usize) {
        self.children.remove(&number).unwrap().kill().await.unwrap();
        loop {
            match timeout(STEP, self.lines.recv()).await.expect("the end in time").unwrap() {
                (ended, None) => return assert_eq!(ended, number),
                (_, Some(line)) => self.seen.push(line),
            }
        }
    }

    /// The totals up to the last one of the node that has counted least: what they print later is more.
    fn totals(&self) -> Vec<u64> {
        let mut last = BTreeMap::new();
        for line in &self.seen {
            // A node counts one after the other.
            assert!(last.insert(line.by, line.total) < Some(line.total), "{:?}", self.seen);
        }
        let least = *last.values().min().unwrap();
        self.seen.iter().map(|line| line.total).filter(|total| *total <= least).collect()
    }
}

/// How many numbers from 1 to the highest are missing, and how many are there twice.
fn faults(mut totals: Vec<u64>) -> (usize, usize) {
    let printed = totals.len();
    totals.sort_unstable();
    totals.dedup();
    let highest = totals.last().copied().unwrap_or(0) as usize;
    (highest - totals.len(), printed - totals.len())
}

#[tokio::test]
async fn every_number_is_there_once_though_a_node_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::new(folder.path());
    for number in 1..=3 {
        nodes.start(number, number == 1);
    }
    nodes.until(&[1, 2, 3], |line| line.kept == 3).await;
    assert_eq!(faults(nodes.totals()), (0, 0), "{:?}", nodes.seen);

    let killed = nodes.seen.last().unwrap().run_by;
    nodes.kill(killed).await;
    let others: Vec<_> = (1..=3).filter(|number| *number != killed).collect();
    nodes.until(&others, |line| line.run_by != killed).await;

    nodes.start(killed, false);
    nodes.until(&[killed], |_| true).await;
    let now = nodes.seen.last().unwrap().total;
    nodes.until(&[1, 2, 3], |line| line.total > now).await;
    // What the killed one had under way may have counted without being printed.
    let (missing, twice) = faults(nodes.totals());
    assert!(missing <= 1 && twice == 0, "{missing} missing, {twice} twice: {:?}", nodes.seen);

    for number in 1..=3 {
        nodes.children.get_mut(&number).unwrap().kill().await.unwrap();
    }
}

#[test]
fn the_check_finds_what_is_missing_and_what_is_there_twice() {
    assert_eq!(faults(vec![3, 1, 2]), (0, 0));
    assert_eq!(faults(vec![4, 1, 2]), (1, 0));
    assert_eq!(faults(vec![3, 1, 2, 2]), (0, 1));
}

/// The entity and the cluster around it are no more than this; what is printed comes after them.
#[test]
fn it_is_short() {
    let source = include_str!("../src/main.rs");
    let no_code = |line: &&str| line.is_empty() || line.starts_with("//") || line.starts_with("#!");
    let (source, _) = source.split_once("// Which node").unwrap();
    let lines = source.lines().map(str::trim).filter(|line| !no_code(line));
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("use ")).collect();
    assert!(lines.len() <= 33, "{} lines", lines.len());
}
