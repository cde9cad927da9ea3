//! Everything is there after reopening. Skipped where nothing persists.

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    Provider,
    kit::{Kit, assert_error, entity, refused},
    read::rich_event,
};
use crate::{
    error::JournalError,
    id::{Position, Seq, ShardId},
    port::{Head, ReplayRange},
    record::{Request, RequestId},
};

/// Records, with their positions and requests, and heads are what they were, and writing goes on
/// behind them.
pub async fn everything_is_there_after_reopening<P: Provider>(provider: &P) {
    let case = "everything_is_there_after_reopening";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let ids: Vec<_> = (0..10).map(|n| entity(&format!("kept {n}"))).collect();
    let mut written = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        kit.append(id, 0, 3).await;
        let mut batch = kit.batch(id, 3, vec![rich_event(1), rich_event(2)]);
        let request = RequestId::new(&format!("request {n}")).expect("valid");
        batch.request = Some(Request { id: request, reply: Bytes::from_static(b"reply") });
        kit.journal().append(batch).await.expect("an append");
        written.push(kit.read(id, ReplayRange::ALL).await);
    }
    for round in 0..3 {
        kit.reopen().await;
        for (id, written) in ids.iter().zip(&written) {
            assert_eq!(kit.head(id).await.last_seq, Seq(5 + round), "{id}");
            let read = kit.read(id, ReplayRange::ALL).await;
            assert_eq!(read[..5], written[..], "{id}");
            let appended = kit.append(id, 5 + round, 1).await;
            assert!(appended.position > read[read.len() - 1].position, "positions must grow");
        }
        kit.maintain().await;
    }
    for id in &ids {
        assert!(kit.seqs(id, ReplayRange::ALL).await.into_iter().eq(1..=8), "{id}");
    }
}

/// Deleted events stay deleted and heads are kept, of entities without any event too.
pub async fn deletes_outlast_reopening<P: Provider>(provider: &P) {
    let case = "deletes_outlast_reopening";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let (part, all, late) = (entity("part"), entity("all"), entity("late"));
    for id in [&part, &all, &late] {
        kit.append(id, 0, 6).await;
    }
    kit.delete(&part, Seq(4)).await;
    kit.delete(&all, Seq::MAX).await;
    for round in 0..3 {
        kit.reopen().await;
        kit.assert_numbered(&part, 5, 6).await;
        assert_eq!(kit.head(&all).await, Head { last_seq: Seq(6), deleted_to: Seq(6) });
        assert!(kit.read(&all, ReplayRange::ALL).await.is_empty());
        kit.assert_numbered(&late, 1 + round, 6).await;
        kit.delete(&late, Seq(1 + round)).await;
        kit.maintain().await;
    }
    let error = refused(kit.journal().append(kit.numbered(&all, 0, 1)).await);
    assert_error!(error, JournalError::WrongExpectedSeq { actual: Seq(6), .. });
    kit.append(&all, 6, 1).await;
    kit.assert_numbered(&all, 7, 7).await;
}

/// A claim after reopening gives a greater term than any before, and the writers from before are
/// refused.
pub async fn terms_grow_across_reopening<P: Provider>(provider: &P) {
    let case = "terms_grow_across_reopening";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let id = entity("a");
    for written in 0..4 {
        // Several claims, of which the last was never written under.
        kit.claim(kit.shard(&id)).await;
        kit.append(&id, written, 1).await;
        let before = kit.claim(kit.shard(&id)).await;
        kit.reopen().await;
        let term = kit.term(&id);
        assert!(term > before, "{term} after {before}");
        let mut stale = kit.numbered(&id, written + 1, 1);
        stale.epoch = before;
        let error = refused(kit.journal().append(stale).await);
        assert_error!(error, JournalError::StaleEpoch { .. });
    }
    kit.assert_numbered(&id, 1, 4).await;
}

/// A reader that keeps its position gets each record once, before and after.
pub async fn tail_goes_on_across_reopening<P: Provider>(provider: &P) {
    let case = "tail_goes_on_across_reopening";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let ids = kit.neighbours(ShardId(0), 3);
    let mut seen = Vec::new();
    for round in 0..4 {
        for id in &ids {
            kit.append(id, 4 * round, 4).await;
        }
        let after =
            seen.last().map_or(Position::ZERO, |record: &crate::EventRecord| record.position);
        let mut tail = kit.tail(ShardId(0), after);
        // Ends in the middle of a batch.
        seen.extend(tail.take(10).await);
        drop(tail);
        kit.reopen().await;
        if round % 2 == 1 {
            kit.maintain().await;
        }
    }
    let mut tail = kit.tail(ShardId(0), seen[39].position);
    seen.extend(tail.take(8).await);
    kit.assert_drained(&mut tail, ShardId(0), "reopened").await;
    let whole = kit.tail(ShardId(0), Position::ZERO).take(48).await;
    assert_eq!(seen, whole, "a tail in pieces gives something else");
    for id in &ids {
        let own = seen.iter().filter(|record| record.entity == *id);
        assert!(own.map(|record| record.seq.0).eq(1..=16), "{id}");
    }
}

/// Batches that were under way at the shutdown are there when they were acknowledged.
pub async fn writes_taken_before_shutdown_outlast_it<P: Provider>(provider: &P) {
    let case = "writes_taken_before_shutdown_outlast_it";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let id = entity("a");
    let pending: Vec<_> =
        (0..30).map(|n| kit.journal().append(kit.numbered(&id, 2 * n, 2))).collect();
    kit.journal().shutdown().await;
    for result in join_all(pending).await {
        result.expect("a batch that was taken");
    }
    kit.reopen().await;
    kit.assert_numbered(&id, 1, 60).await;
}

/// A journal that was never written to can be opened again, and then written to.
pub async fn an_empty_journal_reopens<P: Provider>(provider: &P) {
    let case = "an_empty_journal_reopens";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let id = entity("a");
    kit.reopen().await;
    kit.maintain().await;
    kit.reopen().await;
    assert_eq!(kit.head(&id).await, Head::default());
    kit.append(&id, 0, 1).await;
    kit.reopen().await;
    kit.assert_numbered(&id, 1, 1).await;
}
