//! Commit order, each record once, live; and the end.

use futures_util::{StreamExt, future::join_all};

use super::{
    Provider,
    kit::{Kit, assert_error, entity, refused},
};
use crate::{
    error::JournalError,
    id::{Position, Seq, ShardId},
    port::ReplayRange,
};

/// A tail from the beginning gives what was and what comes, once each, as replay gives it.
pub async fn tail_gives_each_record_once_in_order<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 4);
    let mut early = kit.tail(ShardId(0), Position::ZERO);
    for expected in [0, 3] {
        for id in &ids {
            kit.append(id, expected, 3).await;
        }
    }
    let mut records = early.take(12).await;
    let pending = ids.iter().map(|id| kit.journal().append(kit.numbered(id, 6, 2)));
    for result in join_all(pending.collect::<Vec<_>>()).await {
        result.expect("an append");
    }
    records.extend(early.take(20).await);
    let mut late = kit.tail(ShardId(0), Position::ZERO);
    assert_eq!(late.take(32).await, records, "a later tail gives something else");
    kit.assert_drained(&mut early, ShardId(0), "early").await;
    assert_eq!(late.take(1).await[0].position, early.position());
    for id in &ids {
        let own: Vec<_> = records.iter().filter(|record| record.entity == *id).cloned().collect();
        assert_eq!(kit.read(id, ReplayRange::ALL).await, own, "replay and tail differ");
    }
}

/// A tail goes on after any record's position, in the middle of a batch too.
pub async fn tail_starts_after_any_position<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(1), 2);
    for expected in [0, 4, 8] {
        for id in &ids {
            kit.append(id, expected, 4).await;
        }
    }
    let all = kit.tail(ShardId(1), Position::ZERO).take(24).await;
    for _ in 0..2 {
        for n in 0..24 {
            let mut tail = kit.tail(ShardId(1), all[n].position);
            assert_eq!(tail.take(23 - n).await, all[n + 1..], "after {}", all[n].position);
        }
        kit.maintain().await;
    }
    let mut last = kit.tail(ShardId(1), all[23].position);
    kit.assert_drained(&mut last, ShardId(1), "last").await;
}

/// A tail at the end waits, and wakes for each record that comes.
pub async fn tail_waits_for_what_comes<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let mut tail = kit.tail(kit.shard(&id), Position::ZERO);
    for seq in 1..=20 {
        assert!(tail.is_waiting(), "the tail gave a record before event {seq} was written");
        let written = async {
            // The tail is polled first, so that it waits already.
            tokio::task::yield_now().await;
            kit.append(&id, seq - 1, 1).await
        };
        let (record, appended) = futures_util::future::join(tail.next(), written).await;
        let record = record.expect("a live tail");
        assert_eq!((record.seq, record.position), (Seq(seq), appended.position));
    }
}

/// Records of other shards are not given.
pub async fn tail_keeps_to_its_shard<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let here = &kit.neighbours(ShardId(0), 1)[0];
    let there = &kit.neighbours(ShardId(1), 1)[0];
    let mut tail = kit.tail(ShardId(0), Position::ZERO);
    for expected in 0..10 {
        kit.append(there, expected, 1).await;
        kit.append(here, expected, 1).await;
    }
    assert!(tail.take(10).await.iter().all(|record| record.entity == *here));
    kit.append(there, 10, 1).await;
    kit.assert_drained(&mut tail, ShardId(0), "here").await;
    let records = kit.tail(ShardId(1), Position::ZERO).take(11).await;
    assert!(records.iter().all(|record| record.entity == *there));
}

/// A tail that runs along with many writers gives exactly what they were acknowledged.
pub async fn tail_under_concurrent_writers<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 12);
    let mut tail = kit.tail(ShardId(0), Position::ZERO);
    let reader = tokio::spawn(async move { tail.take(12 * 25 * 2).await });
    let writers = ids.iter().map(|id| {
        let journal = kit.journal().clone();
        let batches: Vec<_> = (0..25).map(|n| kit.numbered(id, 2 * n, 2)).collect();
        tokio::spawn(async move {
            let mut positions = Vec::new();
            for batch in batches {
                positions.push(journal.append(batch).await.expect("an append").position);
            }
            positions
        })
    });
    let mut acknowledged: Vec<Position> = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        acknowledged.extend(writer.await.expect("the writer runs"));
    }
    acknowledged.sort_unstable();
    let records = reader.await.expect("the tail's order holds");
    let ends = records.iter().skip(1).step_by(2).map(|record| record.position);
    assert!(ends.eq(acknowledged), "the tail gave something else than was acknowledged");
    for id in &ids {
        let own = records.iter().filter(|record| record.entity == *id);
        assert!(own.map(|record| record.seq.0).eq(1..=50), "{id} is not whole");
    }
}

/// A tail that is not polled while a lot is written has missed nothing.
pub async fn a_slow_tail_misses_nothing<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let mut tail = kit.tail(kit.shard(&id), Position::ZERO);
    kit.append(&id, 0, 1).await;
    tail.take(1).await;
    assert!(tail.is_waiting());
    let pending = (1..2_000).map(|n| kit.journal().append(kit.numbered(&id, n, 1)));
    for result in join_all(pending.collect::<Vec<_>>()).await {
        result.expect("an append in order");
    }
    let records = tail.take(1_999).await;
    assert!(records.iter().map(|record| record.seq.0).eq(2..=2_000));
    kit.assert_drained(&mut tail, kit.shard(&id), "slow").await;
}

/// Deleted events may be missing from a tail, all others may not.
pub async fn tail_misses_only_deleted_events<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 3);
    for expected in 0..5 {
        for id in &ids {
            kit.append(id, 2 * expected, 2).await;
        }
    }
    kit.delete(&ids[0], Seq(5)).await;
    kit.delete(&ids[1], Seq::MAX).await;
    for round in ["before", "after"] {
        let mut tail = kit.tail(ShardId(0), Position::ZERO);
        let (mut kept, mut whole) = (Vec::new(), Vec::new());
        while whole.len() < 10 {
            let record = tail.next().await.expect("a live tail");
            match &record.entity {
                id if *id == ids[0] && record.seq > Seq(5) => kept.push(record.seq.0),
                id if *id == ids[2] => whole.push(record.seq.0),
                _ => {}
            }
        }
        assert_eq!(kept, [6, 7, 8, 9, 10], "{round} maintenance");
        assert!(whole.into_iter().eq(1..=10), "{round} maintenance");
        kit.maintain().await;
    }
}

/// Batches that were taken before the shutdown are committed, and tails give them before they end.
pub async fn shutdown_finishes_what_was_taken<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let mut tail = kit.tail(kit.shard(&id), Position::ZERO);
    let pending: Vec<_> = (0..50).map(|n| kit.journal().append(kit.numbered(&id, n, 1))).collect();
    kit.journal().shutdown().await;
    for (n, result) in join_all(pending).await.into_iter().enumerate() {
        result.unwrap_or_else(|error| panic!("batch {n} was taken, and failed: {error}"));
    }
    let mut seqs = Vec::new();
    while let Some(record) = tail.next().await {
        seqs.push(record.seq.0);
    }
    // A tail may end before it has given everything; what it gave has no holes.
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
}

/// After the shutdown every call fails as closed, and tails that waited end.
pub async fn after_shutdown_everything_is_closed<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 1).await;
    let shard = kit.shard(&id);
    let mut tail = kit.tail(shard, Position::ZERO);
    tail.take(1).await;
    let waiting = tokio::spawn(async move { tail.next().await });
    tokio::task::yield_now().await;
    let journal = kit.journal();
    journal.shutdown().await;
    assert!(waiting.await.expect("the tail runs").is_none(), "the tail goes on");
    let closed = [
        refused(journal.append(kit.numbered(&id, 1, 1)).await),
        refused(journal.claim(shard).await),
        refused(journal.delete_to(&id, Seq(1), kit.term(&id)).await),
        refused(journal.head(&id).await),
        refused(journal.replay(&id, ReplayRange::ALL).next().await.expect("an error")),
        refused(journal.tail(shard, Position::ZERO).next().await.expect("an error")),
    ];
    for error in closed {
        assert_error!(error, JournalError::Closed);
    }
    // Once more is no mistake.
    journal.shutdown().await;
}
