//! `failover`: the leader dies, or is restarted with notice.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duractor_testkit::{
    Rng,
    process::{Client, Cluster, client::Deadline},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    node::{Order, entity_of},
    start::start,
};
use crate::{
    cli::Failover,
    report::Row,
    run::{Failure, Run},
};

/// How long a group may take until it is written to again.
const SERVED: Duration = Duration::from_secs(30);
/// Load before each trial, and after a restart.
const QUIET: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(2);

pub(crate) async fn run(run: &Run, args: &Failover) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let before = run.probes(args.event_bytes, 3).await?;
    let cluster = start(run, &dir, 3, &args.groups).await?;
    let load = Load::start(&cluster, args)?;
    sleep(QUIET).await;
    let bar = run.progress("failover", Some((args.trials + args.graceful) as u64));
    let mut rng = Rng::new(run.env.entropy.next_u64());
    let (mut chosen, mut groups, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.trials {
        let shard = rng.below(u64::from(args.groups.shards)) as u16;
        let (of_shard, of_all) = kill(&cluster, &load, shard).await?;
        chosen.push(of_shard);
        groups.extend(of_all);
        bar.inc(1);
    }
    for _ in 0..args.graceful {
        let shard = rng.below(u64::from(args.groups.shards)) as u16;
        gaps.push(restart(&cluster, &load, shard).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let acked = load.acked();
    let seconds = load.stop().await?;
    cluster.shutdown().await?;
    std::fs::remove_dir_all(&dir)?;
    let probe = before.and(run.probes(args.event_bytes, 3).await?);
    let events_per_s = acked as f64 / seconds;
    let row = Row::new("failover")
        .with("nodes", 3)
        .with("shards", args.groups.shards)
        .with("tls", !args.groups.insecure)
        .with("trials", args.trials);
    let all = [("p50", 0.5), ("p99", 0.99), ("worst", 1.0)];
    let row = row
        .quantiles("", &mut chosen, &all)
        .quantiles("groups_", &mut groups, &all)
        .with("graceful_trials", args.graceful)
        .quantiles("graceful_", &mut gaps, &all)
        .number("events_per_s", events_per_s);
    run.print(row, events_per_s, probe)?;
    Ok(())
}

/// Kills the leader of a group and starts it again when the others have taken over. How long this
/// group was without a leader, and how long each was that the node led.
async fn kill(
    cluster: &Cluster,
    load: &Load,
    shard: u16,
) -> Result<(Duration, Vec<Duration>), Failure> {
    let victim = led_by(cluster, shard).await?;
    let led = groups_of(cluster, victim).await?;
    load.forget();
    let began = Instant::now();
    cluster.kill(&[victim]).await?;
    let mut took = Vec::new();
    for group in &led {
        took.push(load.first_from_another(*group, victim, began).await? - began);
    }
    let of_shard = led.iter().zip(&took).find(|(group, _)| **group == shard);
    let of_shard = *of_shard.ok_or("the leader changed before it was killed")?.1;
    cluster.restart(victim).await?;
    back(cluster, victim).await?;
    sleep(QUIET).await;
    Ok((of_shard, took))
}

/// Restarts the leader of a group with notice. The longest time without an acknowledged write of a
/// group that it led.
async fn restart(cluster: &Cluster, load: &Load, shard: u16) -> Result<Duration, Failure> {
    let node = led_by(cluster, shard).await?;
    let led = groups_of(cluster, node).await?;
    load.forget();
    let began = Instant::now();
    for group in &led {
        // Its groups go to the others in turns.
        let to = (node + u32::from(*group) % 2) % 3 + 1;
        cluster.hand_over(*group, to, SERVED).await?;
    }
    cluster.stop(node).await?;
    cluster.restart(node).await?;
    back(cluster, node).await?;
    sleep(QUIET).await;
    let end = Instant::now();
    Ok(led.iter().map(|group| load.longest_gap(*group, began, end)).max().unwrap_or_default())
}

async fn led_by(cluster: &Cluster, shard: u16) -> Result<u32, Failure> {
    cluster.wait_led(SERVED).await?;
    let leader = cluster.leader(shard).await;
    leader.map(|(node, _)| node).ok_or_else(|| format!("shard {shard} has no leader").into())
}

async fn groups_of(cluster: &Cluster, node: u32) -> Result<Vec<u16>, Failure> {
    let groups = cluster.status(node).await?.into_iter().zip(0..);
    Ok(groups.filter(|(group, _)| group.leads).map(|(_, shard)| shard).collect())
}

/// Waits until a node has what the others had when it came back.
async fn back(cluster: &Cluster, node: u32) -> Result<(), Failure> {
    let end = Instant::now() + SERVED;
    for shard in 0..cluster.setup().shards {
        let (_, there) = cluster.leader(shard).await.ok_or("a group has no leader")?;
        while cluster.status(node).await?[usize::from(shard)].applied_index < there.applied_index {
            if Instant::now() > end {
                let statuses = cluster.statuses().await;
                return Err(format!("node {node} does not catch up: {statuses}").into());
            }
            sleep(TICK).await;
        }
    }
    Ok(())
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy)]
struct Acked {
    at: Instant,
    by: u32,
}

/// Writers of all groups, and when their writes were acknowledged.
struct Load {
    groups: Arc<Vec<Mutex<Vec<Acked>>>>,
    total: Arc<std::sync::atomic::AtomicU64>,
    writers: JoinSet<Result<(), Failure>>,
    stop: Arc<Deadline>,
    began: Instant,
}

impl Load {
    fn start(cluster: &Arc<Cluster>, args: &Failover) -> Result<Self, Failure> {
        let shards = args.groups.shards;
        let client = Arc::new(Client::new(cluster.clone()));
        let groups = Arc::new((0..shards).map(|_| Mutex::default()).collect::<Vec<_>>());
        let total = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (mut writers, stop) = (JoinSet::new(), Arc::new(Deadline::default()));
        let mut wanted = vec![args.writers; usize::from(shards)];
        for entity in 0.. {
            let shard = entity_of(entity)?.shard(shards).0;
            if wanted.iter().all(|wanted| *wanted == 0) {
                break;
            }
            let wanted = &mut wanted[usize::from(shard)];
            if *wanted == 0 {
                continue;
            }
            *wanted -= 1;
            let (client, groups, stop) = (client.clone(), groups.clone(), stop.clone());
            let (total, event_bytes) = (total.clone(), args.event_bytes);
            writers.spawn(async move {
                for number in 0_u64.. {
                    if stop.is_set() {
                        break;
                    }
                    let request = format!("{entity}-{number}");
                    let order = Order::Write { entity, request, event_bytes };
                    let order = serde_json::to_value(order)?;
                    let written = client.write(shard, order, || stop.is_over()).await;
                    written.map_err(|unfinished| unfinished.trouble)?;
                    let acked = Acked { at: Instant::now(), by: client.leader(shard) };
                    total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let group: &Mutex<Vec<Acked>> = &groups[usize::from(shard)];
                    group.lock().unwrap_or_else(PoisonError::into_inner).push(acked);
                }
                Ok(())
            });
        }
        Ok(Self { groups, total, writers, stop, began: Instant::now() })
    }

    fn group<T>(&self, shard: u16, see: impl FnOnce(&mut Vec<Acked>) -> T) -> T {
        let group = &self.groups[usize::from(shard)];
        see(&mut group.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets what was acknowledged before, but the last of each group.
    fn forget(&self) {
        for shard in 0..self.groups.len() as u16 {
            self.group(shard, |acked| *acked = acked.last().copied().into_iter().collect());
        }
    }

    /// When another node than this one first acknowledged a write of a group after `began`.
    async fn first_from_another(
        &self,
        shard: u16,
        node: u32,
        began: Instant,
    ) -> Result<Instant, Failure> {
        loop {
            let first = self.group(shard, |acked| {
                acked.iter().find(|acked| acked.at > began && acked.by != node).copied()
            });
            if let Some(first) = first {
                return Ok(first.at);
            }
            if began.elapsed() > SERVED {
                return Err(format!("shard {shard} takes no writes after {SERVED:?}").into());
            }
            sleep(TICK).await;
        }
    }

    /// The longest time without an acknowledged write between the two.
    fn longest_gap(&self, shard: u16, began: Instant, end: Instant) -> Duration {
        let times = self.group(shard, |acked| acked.iter().map(|acked| acked.at).collect());
        longest_gap(times, began, end)
    }

    fn acked(&self) -> u64 {
        self.total.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends all writers. How many seconds they were at work.
    async fn stop(mut self) -> Result<f64, Failure> {
        self.stop.set(SERVED);
        let seconds = self.began.elapsed().as_secs_f64();
        while let Some(writer) = self.writers.join_next().await {
            writer??;
        }
        Ok(seconds)
    }
}

/// The longest time between two neighbours of these times, of those from `began` to `end`: the time
/// before the first and the one after the last count too.
fn longest_gap(mut times: Vec<Instant>, began: Instant, end: Instant) -> Duration {
    times.retain(|time| (began..end).contains(time));
    times.extend([began, end]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_at_the_ends_count() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let gap = |times: &[u64]| {
            let times = times.iter().map(|ms| at(*ms)).collect();
            longest_gap(times, at(10), at(100)).as_millis()
        };
        assert_eq!(gap(&[]), 90);
        assert_eq!(gap(&[5, 20, 30, 90, 120]), 60);
        assert_eq!(gap(&[80]), 70);
    }
}
