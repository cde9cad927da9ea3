//! `replay --nodes 3`: events that come back on a follower.

use std::time::Duration;

use super::{
    node::{Order, Read},
    start::{LEADER, ask, start_gathered},
};
use crate::{
    cli::{Replay, Streams},
    report::Row,
    run::{Failure, Run},
};

/// Whose log is read.
const FOLLOWER: u32 = 2;
/// How long filling the log and copying it may take.
const FILLED: Duration = Duration::from_secs(1800);

pub(crate) async fn run(run: &Run, args: &Replay) -> Result<(), Failure> {
    let kinds = args.streams.map_or(vec![Streams::One, Streams::Many], |streams| vec![streams]);
    for streams in kinds {
        measure(run, args, streams).await?;
    }
    Ok(())
}

async fn measure(run: &Run, args: &Replay, streams: Streams) -> Result<(), Failure> {
    let (entities, each) = match streams {
        Streams::One => (1, args.events),
        Streams::Many => (args.events.div_ceil(args.stream_events), args.stream_events),
    };
    let (nodes, groups, dir) = (args.cluster.nodes, &args.cluster.groups, run.new_folder()?);
    let cluster = start_gathered(run, &dir, nodes, groups).await?;
    let bar = run.progress("filling the log", None);
    let fill = Order::Fill { entities, each, event_bytes: args.event_bytes };
    ask::<()>(&cluster, LEADER, &fill, FILLED).await?;
    ask::<()>(&cluster, FOLLOWER, &Order::Barrier, FILLED).await?;
    bar.finish_and_clear();
    for cold in [false, true] {
        let before = run.probe(args.event_bytes).await?;
        let limit = Duration::from_secs_f64(args.seconds);
        let (readers, seconds, drop_caches) = (args.readers, args.seconds, args.drop_caches);
        let order = Order::Read { entities, readers, seconds, cold, drop_caches };
        let longest = 2 * limit + Duration::from_secs(60);
        let what = if cold { "replay, cold" } else { "replay, hot" };
        let reading = ask::<Read>(&cluster, FOLLOWER, &order, longest);
        let read = run.timed(what, limit, reading).await?;
        let probe = before.and(run.probe(args.event_bytes).await?);
        let rate = read.events as f64 / read.seconds;
        let row = Row::new("replay")
            .with("nodes", nodes)
            .with("shards", groups.shards)
            .with("replica", "follower")
            .with("streams", if streams == Streams::One { "one" } else { "many" })
            .with("events", entities * each)
            .with("event_bytes", args.event_bytes)
            .with("stream_events", each)
            .with("cache", if cold { "cold" } else { "hot" })
            .with("cold_by", read.cold_by)
            .with("events_read", read.events)
            .with("disk_read_mib", read.disk_bytes >> 20)
            .number("events_per_s", rate)
            .number("cpu_us", read.cpu * 1e6 / read.events.max(1) as f64);
        run.print(row, rate, probe)?;
    }
    cluster.shutdown().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
