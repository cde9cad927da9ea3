//! Round trips over a link between two processes, with mutual TLS: what the lanes cost.
//!
//! ```text
//! cargo run --release -p duractor --example links [SECONDS]
//! ```
//!
//! Prints, for each lane of Data frames, size of frames and number of round trips at once: round trips
//! a second, the median and the 99th percentile, and the CPU time of both processes for each. With
//! 64 KiB frames fewer than 1000 are under way, for the link takes 4 MiB.

use std::{
    collections::VecDeque,
    error::Error,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use duractor::link::{DataLane, LinkConfig, Links, Security, dev::DevCa};
use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class, Event, Receiver, SendError},
};
use tokio::time::Instant;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "echo") {
        return echo(Path::new(&args[2])).await;
    }
    let seconds = args.get(1).map_or(Ok(3), |arg| arg.parse())?;
    let dir = tempfile::tempdir()?;
    println!("lane     class    bytes  at once        /s  p50 us  p99 us  CPU us each");
    for lane in [DataLane::Session, DataLane::Own] {
        for (class, bytes, at_once) in [
            (Class::Control, 256, 1),
            (Class::Data, 256, 1),
            (Class::Data, 256, 1000),
            (Class::Data, 64 << 10, 1),
            (Class::Data, 64 << 10, 1000),
        ] {
            measure(dir.path(), lane, (class, bytes, at_once), seconds).await?;
        }
    }
    Ok(())
}

fn config(dir: &Path, node: u32) -> Result<LinkConfig, Failure> {
    let files = Security::Tls(DevCa::create(dir, "bench")?.node(node)?);
    Ok(LinkConfig::new(Member::new(node, 1), "bench", "127.0.0.1:0".parse()?, files))
}

/// Sends back what comes, until its standard input ends.
async fn echo(dir: &Path) -> Result<(), Failure> {
    let links = Links::start(config(dir, 2)?).await?;
    links.listen(Channel::Journal, Arc::new(Echo::new(&links)));
    println!("{}", links.address());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let _ = ended.await?;
    links.shutdown().await;
    Ok(())
}

/// Sends frames, later where the link is full.
struct Sender {
    links: Arc<Links>,
    waiting: Mutex<VecDeque<(Member, Class, Bytes)>>,
}

impl Sender {
    fn send(&self, to: Member, class: Class, frame: Bytes) {
        let mut waiting = self.waiting.lock().expect("nobody panicked");
        waiting.push_back((to, class, frame));
        while let Some((to, class, frame)) = waiting.front() {
            match self.links.send(*to, Channel::Journal, *class, frame.clone()) {
                Err(SendError::Full) => return,
                _ => waiting.pop_front(),
            };
        }
    }
}

struct Echo(Sender);

impl Echo {
    fn new(links: &Arc<Links>) -> Self {
        Self(Sender { links: links.clone(), waiting: Mutex::default() })
    }
}

impl Receiver for Echo {
    fn event(&self, event: Event) {
        if let Event::Frame { from, frame, .. } = event {
            // The first byte says the class, so that answers go the way of the questions.
            let class = if frame[0] == 0 { Class::Control } else { Class::Data };
            self.0.send(from, class, frame);
        }
    }
}

/// Sends the next frame when one has come back.
struct Load {
    links: Arc<Links>,
    running: AtomicBool,
    under_way: AtomicUsize,
    /// When each frame under way was sent: they come back in order.
    sent: Mutex<VecDeque<Instant>>,
    took: Mutex<Vec<u32>>,
    shape: (Class, usize, usize),
}

impl Load {
    fn fill(&self, to: Member) {
        let (class, bytes, at_once) = self.shape;
        let mut sent = self.sent.lock().expect("nobody panicked");
        while self.running.load(SeqCst) && sent.len() < at_once {
            let frame = Bytes::from(vec![u8::from(class != Class::Control); bytes]);
            sent.push_back(Instant::now());
            if self.links.send(to, Channel::Journal, class, frame).is_err() {
                sent.pop_back();
                break;
            }
        }
        self.under_way.store(sent.len(), SeqCst);
    }
}

impl Receiver for Load {
    fn event(&self, event: Event) {
        if let Event::Frame { from, .. } = event {
            let begun = self.sent.lock().expect("nobody panicked").pop_front();
            if let Some(begun) = begun {
                let took = begun.elapsed().as_nanos() as u32;
                self.took.lock().expect("nobody panicked").push(took);
            }
            self.fill(from);
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(
    dir: &Path,
    lane: DataLane,
    shape: (Class, usize, usize),
    seconds: u64,
) -> Result<(), Failure> {
    let child = Command::new(std::env::current_exe()?)
        .arg("echo")
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut child = Killed(child);
    let mut address = String::new();
    let output = child.0.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut address)?;

    let mut config = config(dir, 1)?;
    config.data_lane = lane;
    let links = Links::start(config).await?;
    let load = Arc::new(Load {
        links: links.clone(),
        running: AtomicBool::new(true),
        under_way: AtomicUsize::new(0),
        sent: Mutex::default(),
        took: Mutex::default(),
        shape,
    });
    links.listen(Channel::Journal, load.clone());
    links.reach(address.trim());
    let peer = loop {
        match links.peers().first() {
            Some(peer) => break *peer,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let processes = [std::process::id(), child.0.id()];
    let run = async |time: Duration| {
        load.fill(peer);
        tokio::time::sleep(time).await;
    };
    run(Duration::from_millis(500)).await;
    load.took.lock().expect("nobody panicked").clear();
    let cpu = cpu_us(&processes)?;
    let begun = Instant::now();
    run(Duration::from_secs(seconds)).await;
    let (elapsed, cpu) = (begun.elapsed(), cpu_us(&processes)? - cpu);
    load.running.store(false, SeqCst);
    let mut took = std::mem::take(&mut *load.took.lock().expect("nobody panicked"));
    took.sort_unstable();
    let at = |part: f64| {
        let index = ((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1));
        took.get(index).map_or(f64::NAN, |ns| f64::from(*ns) / 1000.0)
    };
    let (class, bytes, at_once) = shape;
    println!(
        "{:8} {:8} {bytes:5} {at_once:8} {:9.0} {:7.1} {:7.1} {:12.1}",
        format!("{lane:?}"),
        format!("{class:?}"),
        took.len() as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        cpu as f64 / took.len() as f64,
    );
    links.shutdown().await;
    Ok(())
}

/// User and system time of processes so far.
fn cpu_us(processes: &[u32]) -> Result<u64, Failure> {
    let mut total = 0;
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        // The 14th and 15th field, in hundredths of a second.
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        total += ticks * 10_000;
    }
    Ok(total)
}
