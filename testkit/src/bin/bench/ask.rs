//! `ask`: commands to entities, and their replies.

use std::{sync::Arc, time::Duration};

use duractor::{EntitySettings, Node};
use duractor_testkit::Rng;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    append::{Measured, Window, join},
    cli::Ask,
    entity::{self, Count, Note},
    latency::Latency,
    load::payload,
    report::Row,
    run::{Failure, Run},
};

/// Callers that ask, each one thing after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub callers: usize,
    pub entities: usize,
    pub seconds: f64,
    /// Bytes of the event that a command persists; none for reads.
    pub bytes: Option<usize>,
}

impl Load {
    /// Asks for its time; all entities are in memory before.
    pub(crate) async fn run(&self, node: &Node) -> Result<Measured, Failure> {
        let entities = entity::references(node, self.entities)?;
        entity::touch(entities.iter().cloned(), 256).await?;
        let latency = Arc::new(Latency::new()?);
        let window = Window::new(self.seconds);
        let data = self.bytes.map(payload);
        let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
        for task in 0..self.callers {
            let (entities, latency, data) = (entities.clone(), latency.clone(), data.clone());
            tasks.spawn(async move {
                let mut rng = Rng::new(task as u64);
                loop {
                    let entity = &entities[rng.index(entities.len())];
                    let began = Instant::now();
                    match &data {
                        None => entity.ask(Count).await?,
                        Some(data) => entity.ask(Note { data: data.clone(), times: 1 }).await?,
                    };
                    if !window.note(&latency, task, began) {
                        return Ok(());
                    }
                }
            });
        }
        join(tasks, window, &latency).await
    }
}

pub(crate) async fn run(run: &Run, args: &Ask) -> Result<(), Failure> {
    for &callers in &args.callers {
        let dir = run.new_folder()?;
        let before = run.probe(0).await?;
        let settings = EntitySettings::default().mailbox(callers.max(1024));
        let node = entity::start(&dir, settings).await?;
        let load = Load { callers, entities: args.entities, seconds: args.seconds, bytes: None };
        let time = Duration::from_secs_f64(args.seconds);
        let work = load.run(&node);
        let measured = run.timed(&format!("ask, {callers} callers"), time, work).await?;
        node.shutdown().await;
        let probe = before.and(run.probe(0).await?);
        std::fs::remove_dir_all(&dir)?;
        let asks_per_s = measured.calls.count as f64 / args.seconds;
        let row = Row::new("ask")
            .with("callers", callers)
            .with("entities", args.entities)
            .number("asks_per_s", asks_per_s)
            .number("p50_us", measured.calls.p50_us)
            .number("p99_us", measured.calls.p99_us)
            .number("cpu_us", measured.cpu_us(1));
        run.print(row, asks_per_s, probe)?;
    }
    Ok(())
}
