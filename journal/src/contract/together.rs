//! Batches of several entities of one shard that are written together.

use futures_util::future::join_all;

use super::{
    Provider,
    kit::{Kit, assert_error, entity, refused, sized_event},
};
use crate::{
    error::{Effect, JournalError},
    id::{EntityId, Position, Seq, ShardId, Term},
    port::ReplayRange,
    record::{AppendBatch, MAX_TOGETHER},
};

/// Where one batch does not fit, whichever it is, nothing is written of any of them; and where all
/// fit, everything is.
pub async fn batches_go_together_or_not_at_all<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let shard = ShardId(1);
    let ids = kit.neighbours(shard, 4);
    kit.append(&ids[0], 0, 3).await;
    let mut tail = kit.tail(shard, Position::ZERO);
    tail.take(3).await;
    let right = [3, 0, 0, 0];
    for (stale, wrong, actual) in [(0, 2, 3), (1, 1, 0), (3, 7, 0), (0, 4, 3)] {
        let batches = ids.iter().enumerate().map(|(n, id)| {
            let expected = if n == stale { wrong } else { right[n] };
            kit.numbered(id, expected, 2)
        });
        let error = refused(kit.journal().append_all(batches.collect()).await);
        assert_eq!(error.effect(), Effect::None, "{error}");
        let JournalError::WrongExpectedSeq { entity, expected, actual: found } = error else {
            panic!("another error than expected: {error:?}");
        };
        assert_eq!((entity, expected, found), (ids[stale].clone(), Seq(wrong), Seq(actual)));
        for (id, right) in ids.iter().zip(right) {
            assert_eq!(kit.head(id).await.last_seq, Seq(right), "{id}");
            assert_eq!(kit.read(id, ReplayRange::ALL).await.len() as u64, right, "{id}");
        }
    }
    kit.assert_drained(&mut tail, shard, "refused together").await;
    let batches = ids.iter().zip(right).map(|(id, right)| kit.numbered(id, right, 2));
    let appended = kit.journal().append_all(batches.collect()).await.expect("all of them fit");
    for ((id, right), appended) in ids.iter().zip(right).zip(&appended) {
        assert_eq!(appended.last_seq, Seq(right + 2));
        kit.assert_numbered(id, 1, right + 2).await;
        let last = kit.read(id, ReplayRange::ALL).await.pop().expect("events");
        assert_eq!(last.position, appended.position);
    }
    // Each entity goes on by itself.
    kit.append(&ids[0], 5, 1).await;
    kit.append(&ids[3], 2, 1).await;
}

/// They have the positions of one entry, in the order in which they were given, and a reader that
/// sees one sees all.
pub async fn batches_that_go_together_are_one_entry<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 3);
    let rounds = 40;
    let writes = (0..rounds).map(|round| {
        let batches = ids.iter().map(|id| kit.numbered(id, round * 2, 2)).collect();
        kit.journal().append_all(batches)
    });
    let writes = tokio::spawn(join_all(writes.collect::<Vec<_>>()));
    while !writes.is_finished() {
        // Read from the last to the first: who is looked at later must not be behind.
        let mut least = Seq::ZERO;
        for id in ids.iter().rev() {
            let head = kit.head(id).await.last_seq;
            assert!(head >= least, "a part of what went together is seen");
            least = head;
        }
        tokio::task::yield_now().await;
    }
    let mut before = Position::ZERO;
    for appended in writes.await.expect("the writers run") {
        let appended = appended.expect("an append in order");
        assert_eq!(appended.len(), ids.len());
        for one in &appended {
            assert_eq!(one.position.index(), appended[0].position.index(), "not one entry");
            assert!(one.position > before, "positions must grow");
            before = one.position;
        }
    }
    for id in &ids {
        kit.assert_numbered(id, 1, rounds * 2).await;
    }
}

/// They stand in the order of the calls among the entities' other batches, and what was submitted
/// after them fails with them.
pub async fn batches_that_go_together_are_pipelined<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 3);
    let (journal, all) = (kit.journal(), |a: u64, b: u64, c: u64| {
        let batches = ids.iter().zip([a, b, c]).map(|(id, expected)| kit.numbered(id, expected, 1));
        kit.journal().append_all(batches.collect())
    });
    let first = journal.append(kit.numbered(&ids[0], 0, 1));
    let together = all(1, 0, 0);
    let after = journal.append(kit.numbered(&ids[1], 1, 1));
    let again = all(2, 2, 1);
    first.await.expect("the first");
    let together = together.await.expect("what goes together");
    after.await.expect("what comes after it");
    let again = again.await.expect("once more");
    assert!(together[2].position < again[0].position, "positions must grow");
    // One of them does not fit: what relies on the others does not either.
    let wrong = all(3, 3, 9);
    let late = journal.append(kit.numbered(&ids[0], 4, 1));
    let unrelated = journal.append(kit.numbered(&ids[2], 2, 1));
    assert_error!(refused(wrong.await), JournalError::WrongExpectedSeq { .. });
    assert_error!(refused(late.await), JournalError::WrongExpectedSeq { .. });
    unrelated.await.expect("a batch that does not rely on them");
    for (id, last) in ids.iter().zip([3, 3, 3]) {
        kit.assert_numbered(id, 1, last).await;
    }
}

/// One batch under a stale epoch has all refused.
pub async fn a_stale_epoch_cannot_append_together<P: Provider>(provider: &P) {
    let mut kit = Kit::open(provider).await;
    let shard = ShardId(0);
    let ids = kit.neighbours(shard, 2);
    kit.append(&ids[0], 0, 1).await;
    let stale = kit.numbered(&ids[1], 0, 1);
    let (old, new) = (kit.term(&ids[1]), kit.claim(shard).await);
    let batches = vec![kit.numbered(&ids[0], 1, 1), stale];
    let error = refused(kit.journal().append_all(batches).await);
    assert_eq!(error.effect(), Effect::None, "{error}");
    let JournalError::StaleEpoch { shard: at, stale, current } = error else {
        panic!("another error than expected: {error:?}");
    };
    assert_eq!((at, stale, current), (shard, old, new));
    kit.assert_numbered(&ids[0], 1, 1).await;
    assert_eq!(kit.head(&ids[1]).await.last_seq, Seq::ZERO);
    let batches = vec![kit.numbered(&ids[0], 1, 1), kit.numbered(&ids[1], 0, 1)];
    kit.journal().append_all(batches).await.expect("under the new epoch");
}

/// Batches of two shards, two of one entity, too many, too large together, one without events: refused.
/// None at all, and one alone, are fine.
pub async fn malformed_batches_do_not_go_together<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let (journal, limits) = (kit.journal(), kit.journal().limits());
    let here = kit.neighbours(ShardId(0), MAX_TOGETHER + 1);
    let there = kit.neighbours(ShardId(1), 1);
    let one = |id: &EntityId| kit.numbered(id, 0, 1);
    let heavy = |id: &EntityId| {
        let fill = (limits.max_batch_bytes / 2 / limits.max_payload_bytes).max(1);
        kit.batch(id, 0, vec![sized_event(limits.max_payload_bytes); fill + 1])
    };
    let many =
        |id: &EntityId| kit.batch(id, 0, vec![sized_event(0); limits.max_batch_events / 2 + 1]);
    let malformed: [Vec<AppendBatch>; 5] = [
        vec![one(&here[0]), one(&there[0])],
        vec![one(&here[0]), kit.numbered(&here[0], 1, 1)],
        here.iter().map(one).collect(),
        vec![one(&here[0]), kit.batch(&here[1], 0, Vec::new())],
        here[..2].iter().map(many).collect(),
    ];
    for batches in malformed {
        let error = refused(journal.append_all(batches).await);
        assert_error!(error, JournalError::InvalidBatch { .. });
    }
    let error = refused(journal.append_all(here[..3].iter().map(heavy).collect()).await);
    assert_error!(error, JournalError::TooLarge { .. });
    for id in here.iter().chain(&there) {
        assert_eq!(kit.head(id).await.last_seq, Seq::ZERO, "{id}");
    }
    assert!(journal.append_all(Vec::new()).await.expect("nothing to write").is_empty());
    let alone = journal.append_all(vec![one(&here[0])]).await.expect("one alone");
    assert_eq!(alone.iter().map(|a| a.last_seq).collect::<Vec<_>>(), [Seq(1)]);
    let most = here[1..].iter().map(one).collect();
    assert_eq!(journal.append_all(most).await.expect("as many as fit").len(), MAX_TOGETHER);
}

/// What was written together is there, and what was refused together is not, after reopening too, and
/// after the files were put in order.
pub async fn what_went_together_is_there_after_reopening<P: Provider>(provider: &P) {
    let case = "what_went_together_is_there_after_reopening";
    let Some(mut kit) = Kit::open_persistent(provider, case).await else { return };
    let ids = kit.neighbours(ShardId(0), 3);
    let other = entity("alone");
    kit.append(&other, 0, 1).await;
    for round in 0..4u64 {
        let right = round * 2;
        let wrong =
            ids.iter().enumerate().map(|(n, id)| kit.numbered(id, right + u64::from(n == 1), 2));
        let wrong = wrong.collect();
        assert_error!(
            refused(kit.journal().append_all(wrong).await),
            JournalError::WrongExpectedSeq { .. }
        );
        let batches: Vec<_> = ids.iter().map(|id| kit.numbered(id, right, 2)).collect();
        let stale = batches.iter().cloned().map(|batch| AppendBatch { epoch: Term(0), ..batch });
        refused(kit.journal().append_all(stale.collect()).await);
        kit.journal().append_all(batches).await.expect("all of them fit");
        if round % 2 == 1 {
            kit.maintain().await;
        }
        kit.reopen().await;
        for id in &ids {
            kit.assert_numbered(id, 1, right + 2).await;
        }
    }
    kit.assert_numbered(&other, 1, 1).await;
}
