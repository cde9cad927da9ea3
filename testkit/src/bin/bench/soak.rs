//! `soak`: memory over time.

use std::{sync::Arc, time::Duration};

use duractor::EntitySettings;
use duractor_testkit::Rng;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cli::Soak,
    entity::{self, Note, Notes},
    latency::Latency,
    load,
    report::Row,
    run::{Failure, Run},
    system,
};

pub(crate) async fn run(run: &Run, args: &Soak) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let before = run.probe(args.event_bytes).await?;
    let settings = EntitySettings::default()
        .idle_timeout(Duration::from_millis(args.idle_ms))
        .active_limit((args.entities / 10).max(1))
        .snapshot_every(100);
    let node = entity::start(&dir, settings).await?;
    let latency = Arc::new(Latency::new()?);
    let time = Duration::from_secs_f64(args.seconds);
    let (began, end) = (Instant::now(), Instant::now() + time);
    let data = load::payload(args.event_bytes);
    let mut callers: JoinSet<Result<(), Failure>> = JoinSet::new();
    for task in 0..args.callers {
        let (node, data, latency) = (node.clone(), data.clone(), latency.clone());
        let entities = args.entities as u64;
        callers.spawn(async move {
            let mut rng = Rng::new(task as u64);
            loop {
                let asked = Instant::now();
                if asked >= end {
                    return Ok(());
                }
                let entity = node.entity::<Notes>(&rng.below(entities).to_string())?;
                entity.ask(Note { data: data.clone(), times: 1 }).await?;
                latency.record(task, asked.elapsed());
            }
        });
    }
    let (samples, active) = run.timed("soak", time, sample(&node, end)).await?;
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let rate = latency.total().count as f64 / began.elapsed().as_secs_f64();
    let log_mib = system::folder_bytes(&entity::log_dir(&dir))? >> 20;
    node.shutdown().await;
    let probe = before.and(run.probe(args.event_bytes).await?);
    std::fs::remove_dir_all(&dir)?;
    let memory = Memory::of(&samples);
    let row = Row::new("soak")
        .number("seconds", args.seconds)
        .with("entities", args.entities)
        .with("active_last", active)
        .with("callers", args.callers)
        .number("events_per_s", rate)
        .number("p99_us", latency.total().p99_us)
        .with("log_mib", log_mib)
        .number("rss_warm_mib", memory.warm)
        .number("rss_max_mib", memory.max)
        .number("rss_last_mib", memory.last)
        .number("drift_percent", (memory.last / memory.warm - 1.0) * 100.0);
    run.print(row, rate, probe)?;
    Ok(())
}

/// Resident MiB at every second (or a twentieth of the time, if that is less), and how many
/// entities are in memory in the end.
async fn sample(node: &duractor::Node, end: Instant) -> Result<(Vec<f64>, usize), Failure> {
    let every = (end - Instant::now()).div_f64(20.0).min(Duration::from_secs(1));
    let mut ticks = tokio::time::interval(every);
    let mut samples = Vec::new();
    while Instant::now() < end {
        ticks.tick().await;
        samples.push(system::rss_bytes()? as f64 / f64::from(1 << 20));
    }
    Ok((samples, node.active::<Notes>()?))
}

/// What the samples say.
struct Memory {
    warm: f64,
    max: f64,
    last: f64,
}

impl Memory {
    fn of(samples: &[f64]) -> Self {
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let quarter = samples.len() / 4;
        let after = &samples[quarter..];
        Self {
            warm: mean(&after[..quarter.max(1).min(after.len())]),
            max: after.iter().copied().fold(0.0, f64::max),
            last: mean(&samples[samples.len() - quarter.max(1).min(samples.len())..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_does_not_count() {
        let memory = Memory::of(&[1.0, 90.0, 10.0, 12.0, 15.0, 14.0, 13.0, 11.0]);
        assert_eq!((memory.warm, memory.max, memory.last), (11.0, 15.0, 12.0));
    }
}
