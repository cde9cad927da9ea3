//! `append`: durable writes.

use std::{path::Path, sync::Arc, time::Duration};

use duractor::{EntityRef, EntitySettings};
use duractor_journal::{EntityId, Journal, JournalError, Seq};
use duractor_testkit::Rng;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    cli::{Append, Target},
    entity::{self, Note, Notes},
    latency::{Latency, Summary},
    load::{self, Events, Log},
    report::Row,
    run::{Failure, Run},
    system,
};

const DEFAULT_ENTITIES: usize = 1000;

pub(crate) async fn run(run: &Run, args: &Append) -> Result<(), Failure> {
    for &writers in &args.writers {
        let dir = run.new_folder()?;
        let before = run.probe(args.event_bytes).await?;
        let seconds = Duration::from_secs_f64(args.seconds);
        let what = format!("append, {writers} writers");
        let work = async {
            match args.target {
                Target::Journal => journal(&dir, args, writers).await,
                Target::Entity => entities(&dir, args, writers).await,
            }
        };
        let (entities, measured) = run.timed(&what, seconds, work).await?;
        let probe = before.and(run.probe(args.event_bytes).await?);
        std::fs::remove_dir_all(&dir)?;
        let events_per_s = measured.calls.count as f64 * args.batch as f64 / args.seconds;
        let row = Row::new("append")
            .with("nodes", 1)
            .with("writers", writers)
            .with("target", if args.target == Target::Journal { "journal" } else { "entity" })
            .with("entities", entities)
            .with("event_bytes", args.event_bytes)
            .with("batch", args.batch)
            .number("events_per_s", events_per_s)
            .number("p50_us", measured.calls.p50_us)
            .number("p99_us", measured.calls.p99_us)
            .number("cpu_us", measured.cpu_us(args.batch));
        run.print(row, events_per_s, probe)?;
    }
    Ok(())
}

/// When calls count: those that end within it.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    /// Starts after a tenth of the time, at most a second, and is as long as asked for.
    pub(crate) fn new(seconds: f64) -> Self {
        let start = Instant::now() + Duration::from_secs_f64((seconds / 10.0).min(1.0));
        Self { start, end: start + Duration::from_secs_f64(seconds) }
    }

    /// Notes a call that just ended. False where the time is over.
    pub(crate) fn note(&self, latency: &Latency, task: usize, began: Instant) -> bool {
        let now = Instant::now();
        if now >= self.end {
            return false;
        }
        if now >= self.start {
            latency.record(task, now - began);
        }
        true
    }
}

/// What calls did within their window.
pub(crate) struct Measured {
    pub calls: Summary,
    /// Processor time of this process, in seconds.
    pub cpu: f64,
}

impl Measured {
    /// Processor time of one of `n` things for each call, in microseconds.
    pub(crate) fn cpu_us(&self, n: usize) -> f64 {
        self.cpu * 1e6 / (self.calls.count.max(1) * n as u64) as f64
    }
}

/// Waits for all tasks.
pub(crate) async fn join(
    mut tasks: JoinSet<Result<(), Failure>>,
    window: Window,
    latency: &Latency,
) -> Result<Measured, Failure> {
    let cpu = async {
        sleep_until(window.start).await;
        let before = system::cpu_seconds()?;
        sleep_until(window.end).await;
        Ok::<_, Failure>(system::cpu_seconds()? - before)
    };
    let joined = async {
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    };
    let (cpu, ()) = tokio::try_join!(cpu, joined)?;
    Ok(Measured { calls: latency.total(), cpu })
}

async fn journal(dir: &Path, args: &Append, writers: usize) -> Result<(usize, Measured), Failure> {
    let load = Load::new(args, writers)?;
    let log = Log::open(dir).await?;
    let measured = load.run(&log).await?;
    log.journal.shutdown().await;
    Ok((load.entities, measured))
}

/// Writers that append to a journal, each to entities of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub writers: usize,
    pub entities: usize,
    pub event_bytes: usize,
    pub batch: usize,
    pub seconds: f64,
}

impl Load {
    pub(crate) fn new(args: &Append, writers: usize) -> Result<Self, Failure> {
        let entities = args.entities.unwrap_or(writers);
        if entities < writers {
            return Err(
                "each writer of the journal needs an entity of its own: raise --entities".into()
            );
        }
        let Append { event_bytes, batch, seconds, .. } = *args;
        Ok(Self { writers, entities, event_bytes, batch, seconds })
    }

    /// Appends for its time, to a log that has nothing of these entities yet.
    pub(crate) async fn run(&self, log: &Log) -> Result<Measured, Failure> {
        let mut owned = vec![Vec::new(); self.writers];
        for (i, entity) in load::entities("bench", self.entities)?.into_iter().enumerate() {
            owned[i % self.writers].push((entity, Seq::ZERO));
        }
        let events = Events::new(self.event_bytes, self.batch);
        let latency = Arc::new(Latency::new()?);
        let window = Window::new(self.seconds);
        let mut tasks = JoinSet::new();
        for (task, entities) in owned.into_iter().enumerate() {
            let (log, events, latency) = (log.clone(), events.clone(), latency.clone());
            tasks.spawn(async move {
                write(log, entities, &events, |began| window.note(&latency, task, began)).await
            });
        }
        join(tasks, window, &latency).await
    }
}

/// Appends to these entities in turns, until `went_on` says that it is enough.
pub(crate) async fn write(
    log: Log,
    mut entities: Vec<(EntityId, Seq)>,
    events: &Events,
    went_on: impl Fn(Instant) -> bool,
) -> Result<(), Failure> {
    loop {
        for (entity, seq) in &mut entities {
            let began = Instant::now();
            let appended = loop {
                match log.journal.append(log.batch(entity, *seq, events)).await {
                    // Nothing was written; its time goes into the latency.
                    Err(JournalError::Busy { .. }) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    other => break other?,
                }
            };
            *seq = appended.last_seq;
            if !went_on(began) {
                return Ok(());
            }
        }
    }
}

async fn entities(dir: &Path, args: &Append, writers: usize) -> Result<(usize, Measured), Failure> {
    let count = args.entities.unwrap_or(DEFAULT_ENTITIES);
    let settings = EntitySettings::default().mailbox(writers.max(1024));
    let node = entity::start(dir, settings).await?;
    let entities = entity::references(&node, count)?;
    entity::ask_each(entities.iter().cloned(), 256, 0, || {}).await?;
    let data = load::payload(args.event_bytes);
    let times = u32::try_from(args.batch)?;
    let latency = Arc::new(Latency::new()?);
    let window = Window::new(args.seconds);
    let mut tasks = JoinSet::new();
    for task in 0..writers {
        let (entities, data, latency) = (entities.clone(), data.clone(), latency.clone());
        tasks.spawn(async move {
            let mut rng = Rng::new(task as u64);
            loop {
                let began = Instant::now();
                let entity: &EntityRef<Notes> = &entities[rng.index(entities.len())];
                entity.ask(Note { data: data.clone(), times }).await?;
                if !window.note(&latency, task, began) {
                    return Ok(());
                }
            }
        });
    }
    let measured = join(tasks, window, &latency).await?;
    node.shutdown().await;
    Ok((count, measured))
}
