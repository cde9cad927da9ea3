//! `ask`: local reads.

use std::{sync::Arc, time::Duration};

use duractor::EntitySettings;
use duractor_testkit::Rng;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    append::{Window, join},
    cli::Ask,
    entity::{self, Count},
    latency::Latency,
    report::Row,
    run::{Failure, Run},
};

pub(crate) async fn run(run: &Run, args: &Ask) -> Result<(), Failure> {
    for &callers in &args.callers {
        let dir = run.new_folder()?;
        let before = run.probe(0).await?;
        let settings = EntitySettings::default().mailbox(callers.max(1024));
        let node = entity::start(&dir, settings).await?;
        let entities = entity::references(&node, args.entities)?;
        entity::ask_each(entities.iter().cloned(), 256, 0, || {}).await?;

        let latency = Arc::new(Latency::new()?);
        let window = Window::new(args.seconds);
        let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
        for task in 0..callers {
            let (entities, latency) = (entities.clone(), latency.clone());
            tasks.spawn(async move {
                let mut rng = Rng::new(task as u64);
                loop {
                    let began = Instant::now();
                    entities[rng.index(entities.len())].ask(Count).await?;
                    if !window.note(&latency, task, began) {
                        return Ok(());
                    }
                }
            });
        }
        let time = Duration::from_secs_f64(args.seconds);
        let work = join(tasks, window, &latency);
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
