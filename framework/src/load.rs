//! How much is asked of each shard, and of which entities: cheap enough to count every command.
//!
//! A command costs one relaxed addition. One of 16 is sampled, and only those are counted by entity, in a
//! table of 16 rows a shard (*space-saving*: an entity that is not in it takes the row of the one with the
//! least count, and that count with it). So an entity that is asked for a tenth of all commands is always
//! in it, and a rate is at most too great.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use duractor_journal::{EntityId, ShardId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One of so many commands is sampled; a power of two.
const SAMPLED: u64 = 16;
/// How many entities of a shard are told apart.
const ROWS: usize = 16;
/// How many of them are told of.
const TOLD: usize = 3;
/// Entities are counted for so long, and then told of.
const WINDOW: Duration = Duration::from_secs(5);
/// Rates are measured this often.
const MEASURED: Duration = Duration::from_secs(1);

/// What is asked of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardLoad {
    /// Which.
    pub shard: ShardId,
    /// Commands per second, smoothed over some seconds.
    pub commands_per_s: u64,
    /// The entities that were asked most lately, with their commands per second, estimated.
    pub entities: Vec<(String, u64)>,
}

impl ShardLoad {
    /// So much is asked of a shard.
    #[must_use]
    pub fn new(shard: ShardId, commands_per_s: u64) -> Self {
        Self { shard, commands_per_s, entities: Vec::new() }
    }
}

/// The counts of a node.
pub(crate) struct Load {
    shards: Vec<Counter>,
    rates: Mutex<Rates>,
}

struct Counter {
    commands: AtomicU64,
    top: Mutex<Top>,
}

/// What was measured last.
struct Rates {
    at: Instant,
    counted: Vec<u64>,
    per_s: Vec<u64>,
    window: Instant,
    entities: Vec<Vec<(String, u64)>>,
}

impl Load {
    pub(crate) fn new(shards: u16) -> Self {
        let all = usize::from(shards);
        let counter = || Counter { commands: AtomicU64::new(0), top: Mutex::default() };
        let now = Instant::now();
        let rates = Rates {
            at: now,
            counted: vec![0; all],
            per_s: vec![0; all],
            window: now,
            entities: vec![Vec::new(); all],
        };
        let shards = (0..all).map(|_| counter()).collect();
        Self { shards, rates: Mutex::new(rates) }
    }

    /// A command was accepted.
    pub(crate) fn count(&self, shard: ShardId, entity: &EntityId) {
        let Some(counter) = self.shards.get(usize::from(shard.0)) else { return };
        let n = counter.commands.fetch_add(1, Relaxed);
        // Not every 16th: entities that are asked in turn would hide.
        if mix(n).is_multiple_of(SAMPLED) {
            counter.top.lock().unwrap_or_else(PoisonError::into_inner).take(entity);
        }
    }

    /// What is asked of the shards. Measured anew where that is due.
    pub(crate) fn shards(&self) -> Vec<ShardLoad> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        self.measure(&mut rates, Instant::now());
        let rows = rates.per_s.iter().zip(&rates.entities).enumerate();
        rows.map(|(n, (per_s, entities))| ShardLoad {
            shard: ShardId(n as u16),
            commands_per_s: *per_s,
            entities: entities.clone(),
        })
        .collect()
    }

    fn measure(&self, rates: &mut Rates, now: Instant) {
        let since = now.saturating_duration_since(rates.at);
        if since < MEASURED {
            return;
        }
        let ms = since.as_millis() as u64;
        rates.at = now;
        for (n, counter) in self.shards.iter().enumerate() {
            let count = counter.commands.load(Relaxed);
            let new = (count - rates.counted[n]) * 1_000 / ms;
            rates.counted[n] = count;
            // A burst of a moment is not worth a move.
            rates.per_s[n] = (3 * rates.per_s[n] + new).div_ceil(4);
            if new == 0 && rates.per_s[n] < 4 {
                rates.per_s[n] = 0;
            }
        }
        let window = now.saturating_duration_since(rates.window);
        if window < WINDOW {
            return;
        }
        rates.window = now;
        for (n, counter) in self.shards.iter().enumerate() {
            let top =
                std::mem::take(&mut *counter.top.lock().unwrap_or_else(PoisonError::into_inner));
            rates.entities[n] = top.told(window.as_millis() as u64);
        }
    }
}

/// The entities of which most samples were taken.
#[derive(Default)]
struct Top {
    rows: BTreeMap<EntityId, u64>,
}

impl Top {
    fn take(&mut self, entity: &EntityId) {
        if let Some(count) = self.rows.get_mut(entity) {
            *count += 1;
            return;
        }
        let mut count = 0;
        if self.rows.len() >= ROWS {
            let least = self.rows.iter().min_by_key(|(_, count)| **count);
            let Some((least, least_count)) = least.map(|(id, count)| (id.clone(), *count)) else {
                return;
            };
            self.rows.remove(&least);
            count = least_count;
        }
        self.rows.insert(entity.clone(), count + 1);
    }

    fn told(self, ms: u64) -> Vec<(String, u64)> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        rows.truncate(TOLD);
        let per_s = |count: u64| count * SAMPLED * 1_000 / ms.max(1);
        rows.into_iter().map(|(entity, count)| (entity.to_string(), per_s(count))).collect()
    }
}

/// Spreads the bits of a counter.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: &str) -> EntityId {
        EntityId::new("counter", key).expect("fit")
    }

    #[tokio::test(start_paused = true)]
    async fn rates_follow_what_is_asked() {
        let load = Load::new(2);
        for _ in 0..20 {
            (0..500).for_each(|_| load.count(ShardId(1), &id("a")));
            tokio::time::sleep(Duration::from_secs(1)).await;
            load.shards();
        }
        let rates: Vec<_> = load.shards().iter().map(|load| load.commands_per_s).collect();
        assert!(rates[0] == 0 && (480..=510).contains(&rates[1]), "{rates:?}");
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            load.shards();
        }
        assert_eq!(load.shards()[1].commands_per_s, 0, "nothing is asked any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hot_entity_is_found_among_many() {
        let load = Load::new(1);
        // In turn, so that a sample at fixed distances would see the same ones again and again.
        for n in 0..16_000 {
            load.count(ShardId(0), &id(&format!("cold-{}", n % 1_000)));
            if n % 4 == 0 {
                load.count(ShardId(0), &id("hot"));
            }
        }
        tokio::time::sleep(WINDOW).await;
        let top = load.shards().remove(0).entities;
        assert_eq!(top[0].0, "counter/hot");
        // 4 000 in 5 s; what the table adds to it is at most a sixteenth of all others.
        assert!((600..=1_100).contains(&top[0].1), "{top:?}");
    }
}
