//! `spawn`: idle entities.

use std::{path::Path, time::Duration};

use duractor::EntitySettings;
use tokio::time::Instant;

use crate::{
    cli::Spawn,
    entity::{self, Notes},
    report::Row,
    run::{Failure, Run, measure_in_child},
    system,
};

/// Entities that come to life before the clock starts.
const WARM: usize = 1000;
const CALLERS: usize = 256;

pub(crate) async fn run(run: &Run, args: &Spawn) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let before = run.probe(0).await?;
    let bar = run.progress("spawn", None);
    let entities = args.entities.to_string();
    let measured = measure_in_child("spawn", &dir, &[&entities]).await?;
    bar.finish_and_clear();
    let probe = before.and(run.probe(0).await?);
    std::fs::remove_dir_all(&dir)?;
    let [seconds, grown, total] = measured[..] else {
        return Err("the child process printed something else".into());
    };
    let rate = args.entities as f64 / seconds;
    let row = Row::new("spawn")
        .with("entities", args.entities)
        .number("entities_per_s", rate)
        .number("bytes_per_entity", grown / args.entities as f64)
        .number("rss_mib", total / f64::from(1 << 20));
    run.print(row, rate, probe)?;
    Ok(())
}

/// Prints the seconds that it took, by how many bytes memory grew, and how many it is.
pub(crate) async fn child(dir: &Path, entities: usize) -> Result<(), Failure> {
    let settings = EntitySettings::default().idle_timeout(Duration::from_secs(3600));
    let node = entity::start(dir, settings).await?;
    let some = |from, to: usize| {
        let node = node.clone();
        (from..to).map_while(move |i: usize| node.entity::<Notes>(&i.to_string()).ok())
    };
    entity::ask_each(some(0, WARM), CALLERS, 0, || {}).await?;
    let (began, before) = (Instant::now(), system::rss_bytes()?);
    entity::ask_each(some(WARM, WARM + entities), CALLERS, 0, || {}).await?;
    let (seconds, after) = (began.elapsed().as_secs_f64(), system::rss_bytes()?);
    let active = node.active::<Notes>()?;
    if active != WARM + entities {
        return Err(format!("{active} entities are in memory").into());
    }
    println!("{seconds} {} {after}", after.saturating_sub(before));
    node.shutdown().await;
    Ok(())
}
