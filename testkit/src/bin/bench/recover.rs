//! `recover`: from a restarted node to the entities' first replies.

use duractor::EntitySettings;
use duractor_journal::Journal;
use tokio::time::Instant;

use crate::{
    cli::Recover,
    entity::{self, Notes},
    load::{self, Log},
    report::Row,
    run::{Failure, Run},
    system,
};

pub(crate) async fn run(run: &Run, args: &Recover) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let log_dir = entity::log_dir(&dir);
    let log = Log::open(&log_dir).await?;
    let entities = load::entities("notes", args.entities)?;
    let events = entity::events(args.event_bytes, 1)?;
    load::fill(run, &log, &entities, args.events, &events).await?;
    log.journal.shutdown().await;
    drop(log);

    for clustered in [false, true] {
        if clustered {
            let log = Log::open(&log_dir).await?;
            let bar = run.progress("maintenance", None);
            log.journal.maintain().await?;
            bar.finish_and_clear();
            log.journal.shutdown().await;
        }
        let before = run.probe(args.event_bytes).await?;
        system::fill_cache(&log_dir)?;
        let starting = Instant::now();
        let node = entity::start(&dir, EntitySettings::default()).await?;
        let start_ms = starting.elapsed().as_secs_f64() * 1e3;

        let bar = run.progress("recover", Some(args.entities as u64));
        let (began, cpu) = (Instant::now(), system::cpu_seconds()?);
        let references =
            (0..args.entities).map_while(|i| node.entity::<Notes>(&i.to_string()).ok());
        let expected = args.events as u64;
        entity::ask_each(references, args.callers, expected, || bar.inc(1)).await?;
        let rate = args.entities as f64 / began.elapsed().as_secs_f64();
        let cpu_us = (system::cpu_seconds()? - cpu) * 1e6 / args.entities as f64;
        bar.finish_and_clear();
        node.shutdown().await;
        let probe = before.and(run.probe(args.event_bytes).await?);
        let row = Row::new("recover")
            .with("entities", args.entities)
            .with("events_each", args.events)
            .with("event_bytes", args.event_bytes)
            .with("callers", args.callers)
            .with("clustered", clustered)
            .number("start_ms", start_ms)
            .number("entities_per_s", rate)
            .number("events_per_s", rate * args.events as f64)
            .number("cpu_us", cpu_us);
        run.print(row, rate, probe)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
