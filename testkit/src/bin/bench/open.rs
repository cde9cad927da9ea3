//! `open`: start-up by log size.

use std::path::Path;

use duractor_journal::{Env, Journal, LogConfig, LogJournal};
use tokio::time::Instant;

use crate::{
    cli::Open,
    load::{self, Events, Log},
    report::Row,
    run::{Failure, Run, measure_in_child},
    system,
};

/// Events that are appended at once.
const BATCH: usize = 100;

pub(crate) async fn run(run: &Run, args: &Open) -> Result<(), Failure> {
    for &events in &args.events {
        let dir = run.new_folder()?;
        let entities = load::entities("bench", events.div_ceil(args.stream_events))?;
        let log = Log::open(&dir).await?;
        let batch = Events::new(args.event_bytes, BATCH.min(args.stream_events));
        load::fill(run, &log, &entities, args.stream_events, &batch).await?;
        log.journal.shutdown().await;
        drop(log);
        for cold in [true, false] {
            let before = run.probe(args.event_bytes).await?;
            let (folder, whole) = (dir.clone(), args.drop_caches);
            let cold_by = match cold {
                true => Some(run.blocking(move || system::drop_cache(&folder, whole)).await??),
                false => None,
            };
            let bar = run.progress("open", None);
            let measured = measure_in_child("open", &dir, &[]).await?;
            bar.finish_and_clear();
            let probe = before.and(run.probe(args.event_bytes).await?);
            let [seconds, rss, disk] = measured[..] else {
                return Err("the child process printed something else".into());
            };
            let row = Row::new("open")
                .with("events", entities.len() * args.stream_events)
                .with("event_bytes", args.event_bytes)
                .with("log_mib", system::folder_bytes(&dir)? >> 20)
                .with("cache", if cold { "cold" } else { "hot" })
                .with("cold_by", cold_by)
                .number("disk_read_mib", disk / f64::from(1 << 20))
                .number("open_ms", seconds * 1e3)
                .number("rss_mib", rss / f64::from(1 << 20));
            run.print(row, 1.0 / seconds, probe)?;
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Prints the seconds that opening took, the resident bytes after it, and the bytes that were read
/// from the disk.
pub(crate) async fn child(dir: &Path) -> Result<(), Failure> {
    let disk = system::disk_read_bytes();
    let began = Instant::now();
    let journal = LogJournal::open(LogConfig::new(dir), Env::production()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let disk = system::disk_read_bytes() - disk;
    println!("{seconds} {} {disk}", system::rss_bytes()?);
    journal.shutdown().await;
    Ok(())
}
