//! What entities cost: bytes of memory for an idle one, and processor time for a command.
//!
//! `cargo run --release -p duractor --example cost` prints both, over the journal in memory.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use duractor::prelude::*;
use duractor_journal::{Limits, MemoryJournal};
use duractor_snapshot::MemorySnapshots;

#[derive(Event)]
enum Changed {
    Added { by: i64 },
}

#[derive(Command)]
#[command(reply = i64)]
struct Add {
    by: i64,
}

#[derive(Command)]
#[command(reply = i64)]
struct Get;

struct Counter;

impl EventSourced for Counter {
    const KIND: &'static str = "counter";
    type State = i64;
    type Event = Changed;
    type Commands = (Add, Get);

    fn apply(state: &mut i64, event: &Changed) {
        let Changed::Added { by } = event;
        *state += by;
    }

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().idle_timeout(Duration::from_secs(3600))
    }
}

impl Handle<Add> for Counter {
    fn handle(&self, _: &i64, add: Add, _: &Context) -> Effect<Self, i64> {
        Effect::persist(Changed::Added { by: add.by }).reply(|state| *state)
    }
}

impl Handle<Get> for Counter {
    fn handle(&self, state: &i64, _: Get, _: &Context) -> Effect<Self, i64> {
        Effect::reply(*state)
    }
}

const ENTITIES: usize = 100_000;
const CALLERS: usize = 1024;
const HOT: usize = 1000;
const COMMANDS: usize = 1_000_000;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}

/// User and system time of the process, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split(' ').skip(12).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

async fn start() -> Result<Node, Box<dyn std::error::Error>> {
    let journal = MemoryJournal::new(12, Limits::default());
    let snapshots = Arc::new(MemorySnapshots::new());
    let builder = Node::builder("not used").journal(journal).snapshots(snapshots);
    Ok(builder.register(Counter).start().await?)
}

async fn idle() -> Result<(), Box<dyn std::error::Error>> {
    let node = start().await?;
    let before = resident_bytes();
    let (begun, cpu) = (tokio::time::Instant::now(), cpu_ticks());
    for chunk in 0..ENTITIES / 1000 {
        let mut asks = Vec::with_capacity(1000);
        for n in 0..1000 {
            asks.push(
                node.entity::<Counter>(&format!("k{}", chunk * 1000 + n))?.ask(Get).into_future(),
            );
        }
        futures_util::future::try_join_all(asks).await?;
    }
    let (took, cpu) = (begun.elapsed(), cpu_ticks() - cpu);
    println!(
        "{} bytes for an idle entity; {:.0} entities/s, {:.1} us of processor time each",
        (resident_bytes() - before) / ENTITIES,
        ENTITIES as f64 / took.as_secs_f64(),
        cpu as f64 * 10_000.0 / ENTITIES as f64
    );
    node.shutdown().await;
    Ok(())
}

async fn commands(hot: usize) -> Result<(), Box<dyn std::error::Error>> {
    let node = start().await?;
    let (begun, cpu) = (tokio::time::Instant::now(), cpu_ticks());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let node = node.clone();
            tokio::spawn(async move {
                for n in 0..COMMANDS / CALLERS {
                    let key = format!("k{}", (caller + n * 7) % hot);
                    let Ok(entity) = node.entity::<Counter>(&key) else { return };
                    if let Err(error) = entity.ask(Add { by: 1 }).await {
                        println!("{error}");
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await?;
    }
    let (took, cpu) = (begun.elapsed(), cpu_ticks() - cpu);
    println!(
        "{CALLERS} callers over {hot} entities: {:.0} commands/s, {:.1} us of processor time each",
        COMMANDS as f64 / took.as_secs_f64(),
        cpu as f64 * 10_000.0 / COMMANDS as f64
    );
    node.shutdown().await;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    idle().await?;
    commands(HOT).await?;
    commands(1).await
}
