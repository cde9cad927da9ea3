//! `replay`: events that come back.

use std::{path::Path, time::Duration};

use duractor_journal::{EntityId, Journal, ReplayRange};
use duractor_testkit::Rng;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::{
    cli::{Replay, Streams},
    load::{self, Events, Log},
    report::Row,
    run::{Failure, Run},
    system,
};

pub(crate) async fn run(run: &Run, args: &Replay) -> Result<(), Failure> {
    let kinds = args.streams.map_or(vec![Streams::One, Streams::Many], |streams| vec![streams]);
    for streams in kinds {
        let dir = run.new_folder()?;
        measure(run, args, streams, &dir).await?;
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

async fn measure(run: &Run, args: &Replay, streams: Streams, dir: &Path) -> Result<(), Failure> {
    let (count, each) = match streams {
        Streams::One => (1, args.events),
        Streams::Many => (args.events.div_ceil(args.stream_events), args.stream_events),
    };
    let mut entities = load::entities("bench", count)?;
    let log = Log::open(dir).await?;
    load::fill(run, &log, &entities, each, &Events::new(args.event_bytes, 1)).await?;
    shuffle(&mut entities);
    log.journal.shutdown().await;
    drop(log);

    for clustered in [false, true] {
        if clustered {
            let log = Log::open(dir).await?;
            let bar = run.progress("maintenance", None);
            log.journal.maintain().await?;
            bar.finish_and_clear();
            log.journal.shutdown().await;
        }
        for cold in [false, true] {
            let before = run.probe(args.event_bytes).await?;
            let read = read_once(run, args, dir, &entities, cold).await?;
            let probe = before.and(run.probe(args.event_bytes).await?);
            let row = Row::new("replay")
                .with("streams", if streams == Streams::One { "one" } else { "many" })
                .with("events", count * each)
                .with("event_bytes", args.event_bytes)
                .with("stream_events", each)
                .with("clustered", clustered)
                .with("cache", if cold { "cold" } else { "hot" })
                .with("cold_by", read.cold_by)
                .with("events_read", read.events)
                .with("disk_read_mib", read.disk_bytes >> 20)
                .number("events_per_s", read.rate)
                .number("cpu_us", read.cpu_us);
            run.print(row, read.rate, probe)?;
        }
    }
    Ok(())
}

struct Read {
    cold_by: Option<&'static str>,
    events: u64,
    disk_bytes: u64,
    rate: f64,
    cpu_us: f64,
}

/// Opens the log and reads it, once where it is cold, or after a first reading that does not count.
async fn read_once(
    run: &Run,
    args: &Replay,
    dir: &Path,
    entities: &[EntityId],
    cold: bool,
) -> Result<Read, Failure> {
    let log = Log::open(dir).await?;
    let limit = Duration::from_secs_f64(args.seconds);
    let folder = dir.to_owned();
    let mut cold_by = None;
    if cold {
        let whole = args.drop_caches;
        cold_by = Some(run.blocking(move || system::drop_cache(&folder, whole)).await??);
    } else {
        run.blocking(move || system::fill_cache(&folder)).await??;
        read(&log, entities, args.readers, limit).await?;
    }
    let (began, disk) = (Instant::now(), system::disk_read_bytes());
    let cpu = system::cpu_seconds()?;
    let what = if cold { "replay, cold" } else { "replay, hot" };
    let events = run.timed(what, limit, read(&log, entities, args.readers, limit)).await?;
    let rate = events as f64 / began.elapsed().as_secs_f64();
    let cpu_us = (system::cpu_seconds()? - cpu) * 1e6 / events as f64;
    let disk_bytes = system::disk_read_bytes() - disk;
    log.journal.shutdown().await;
    Ok(Read { cold_by, events, disk_bytes, rate, cpu_us })
}

/// Reads all events of the entities, or as many as fit into the time. Says how many.
pub(crate) async fn read(
    log: &Log,
    entities: &[EntityId],
    readers: usize,
    limit: Duration,
) -> Result<u64, Failure> {
    let end = Instant::now() + limit;
    // A task each, so that decoding uses all processors.
    let per_reader = entities.len().div_ceil(readers);
    let readers = entities.chunks(per_reader.max(1)).map(|entities| {
        let (log, entities) = (log.clone(), entities.to_vec());
        tokio::spawn(async move {
            let mut events = 0;
            for entity in &entities {
                let mut chunks = log.journal.replay(entity, ReplayRange::ALL);
                while let Some(chunk) = chunks.next().await {
                    events += chunk?.len() as u64;
                    if Instant::now() > end {
                        return Ok(events);
                    }
                }
            }
            Ok::<_, Failure>(events)
        })
    });
    let mut readers: stream::FuturesUnordered<_> = readers.collect();
    let mut events = 0;
    while let Some(read) = readers.next().await {
        events += read??;
    }
    Ok(events)
}

pub(crate) fn shuffle(entities: &mut [EntityId]) {
    let mut rng = Rng::new(1);
    for i in (1..entities.len()).rev() {
        entities.swap(i, rng.index(i + 1));
    }
}
