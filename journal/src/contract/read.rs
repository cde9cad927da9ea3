//! Replay, head, delete, and that records come back as written.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt;

use super::{
    Provider,
    kit::{Kit, entity, refused, sized_event},
};
use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Timestamp},
    port::{Head, ReplayRange},
    record::{EventRecord, NewEvent, Request, RequestId},
};

/// `from` and `to` are inclusive, `max` bounds; what is not there is not given.
pub async fn replay_gives_the_range_asked_for<P: Provider>(provider: &P) {
    const ALL: u64 = u64::MAX;
    let kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 4).await;
    kit.append(&id, 4, 1).await;
    kit.append(&id, 5, 5).await;
    let rows = [
        (1, ALL, ALL, 1..11),
        (0, ALL, ALL, 1..11),
        (3, ALL, ALL, 3..11),
        (1, 10, 10, 1..11),
        (1, 7, ALL, 1..8),
        (4, 6, ALL, 4..7),
        (5, 5, ALL, 5..6),
        (10, 10, ALL, 10..11),
        (2, ALL, 3, 2..5),
        (2, 9, 100, 2..10),
        (9, ALL, 3, 9..11),
        // Nothing: no length, backwards, beyond the end.
        (1, ALL, 0, 0..0),
        (1, 0, ALL, 0..0),
        (6, 5, ALL, 0..0),
        (11, ALL, ALL, 0..0),
        (ALL, ALL, ALL, 0..0),
    ];
    for (from, to, max, expected) in rows {
        let range = ReplayRange { from: Seq(from), to: Seq(to), max };
        let seqs = kit.seqs(&id, range).await;
        assert!(seqs.iter().copied().eq(expected.clone()), "{range:?}: {seqs:?}, not {expected:?}");
    }
    kit.assert_numbered(&id, 1, 10).await;
}

/// An entity that never had events has an empty stream and a head of zero; deleting it is nothing.
pub async fn an_unknown_entity_has_nothing<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    kit.append(&entity("known"), 0, 1).await;
    let id = entity("unknown");
    assert_eq!(kit.head(&id).await, Head::default());
    assert!(kit.read(&id, ReplayRange::ALL).await.is_empty());
    kit.delete(&id, Seq::MAX).await;
    kit.delete(&id, Seq::ZERO).await;
    assert_eq!(kit.head(&id).await, Head::default());
    kit.append(&id, 0, 2).await;
    kit.assert_numbered(&id, 1, 2).await;
}

/// A long stream comes back whole and in order, from its middle too.
pub async fn ten_thousand_events_in_order<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let (id, other) = (entity("long"), entity("short"));
    kit.append(&other, 0, 1).await;
    kit.fill(&id, 10_000).await;
    kit.append(&other, 1, 1).await;
    kit.maintain().await;
    kit.assert_numbered(&id, 1, 10_000).await;
    kit.assert_numbered(&other, 1, 2).await;
    let middle = ReplayRange { from: Seq(4_321), to: Seq(8_765), max: u64::MAX };
    assert!(kit.seqs(&id, middle).await.into_iter().eq(4_321..=8_765));
    let first = ReplayRange { max: 5_000, ..ReplayRange::ALL };
    assert!(kit.seqs(&id, first).await.into_iter().eq(1..=5_000));
}

/// The highest sequence number stays when all events are deleted: numbers are not given twice.
pub async fn deleting_everything_keeps_the_head<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 5).await;
    kit.delete(&id, Seq(5)).await;
    let emptied = Head { last_seq: Seq(5), deleted_to: Seq(5) };
    for _ in 0..2 {
        assert_eq!(kit.head(&id).await, emptied);
        assert!(kit.read(&id, ReplayRange::ALL).await.is_empty());
        kit.maintain().await;
    }
    let error = refused(kit.journal().append(kit.numbered(&id, 0, 1)).await);
    assert!(
        matches!(error, JournalError::WrongExpectedSeq { actual: Seq(5), .. }),
        "another error than expected: {error:?}"
    );
    kit.append(&id, 5, 2).await;
    kit.assert_numbered(&id, 6, 7).await;
}

/// Whatever is asked for, a deleted event is not given, and a delete is not undone by a lesser one.
pub async fn deleted_events_are_not_replayed<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 4).await;
    kit.append(&id, 4, 6).await;
    // Within the second batch.
    kit.delete(&id, Seq(6)).await;
    kit.assert_numbered(&id, 7, 10).await;
    for lesser in [0, 3, 6] {
        kit.delete(&id, Seq(lesser)).await;
        kit.maintain().await;
        kit.assert_numbered(&id, 7, 10).await;
    }
    let range = |from, to, max| ReplayRange { from: Seq(from), to: Seq(to), max };
    for (range, expected) in [
        (range(1, 6, 10), 0..0),
        (range(3, 8, 10), 7..9),
        (range(1, 10, 2), 7..9),
        (range(8, 10, 2), 8..10),
    ] {
        let seqs = kit.seqs(&id, range).await;
        assert!(seqs.iter().copied().eq(expected), "{range:?}: {seqs:?}");
    }
    kit.append(&id, 10, 1).await;
    kit.assert_numbered(&id, 7, 11).await;
}

/// A delete beyond the end takes what is there, and spares what comes later.
pub async fn deleting_beyond_the_end_deletes_what_is_there<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 3).await;
    kit.delete(&id, Seq(8)).await;
    assert_eq!(kit.head(&id).await, Head { last_seq: Seq(3), deleted_to: Seq(3) });
    kit.append(&id, 3, 2).await;
    kit.assert_numbered(&id, 4, 5).await;
    kit.delete(&id, Seq::MAX).await;
    assert_eq!(kit.head(&id).await, Head { last_seq: Seq(5), deleted_to: Seq(5) });
    kit.append(&id, 5, 1).await;
    kit.assert_numbered(&id, 6, 6).await;
}

/// A delete touches one entity, however many share its shard.
pub async fn deleting_leaves_other_entities_alone<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 6);
    for expected in 0..4 {
        for id in &ids {
            kit.append(id, expected, 1).await;
        }
    }
    kit.delete(&ids[1], Seq(2)).await;
    kit.delete(&ids[3], Seq::MAX).await;
    kit.maintain().await;
    kit.assert_numbered(&ids[1], 3, 4).await;
    assert!(kit.read(&ids[3], ReplayRange::ALL).await.is_empty());
    for untouched in [0, 2, 4, 5] {
        kit.assert_numbered(&ids[untouched], 1, 4).await;
    }
}

/// An event with everything that an event can have.
pub(super) fn rich_event(n: u64) -> NewEvent {
    let mut event = NewEvent::new("Заказ.размещён", u16::MAX, vec![0, 255, n as u8, 10, 0]);
    event.tags = vec!["b".into(), "a".into(), "b".into(), String::new(), "標籤".into()];
    event.metadata.insert("trace".into(), format!("{n:032x}"));
    event.metadata.insert("leer".into(), String::new());
    event.metadata.insert("ключ".into(), "\u{0}\n\t\"значение\"".into());
    event
}

/// Each entity of the shard of which something is deleted, with how far, once; no other shard's.
pub async fn deletions_are_told_of_a_shard<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let (ours, others) = (kit.neighbours(ShardId(0), 5), kit.neighbours(ShardId(1), 2));
    for id in ours.iter().chain(&others) {
        kit.append(id, 0, 5).await;
    }
    let mut expected = BTreeMap::new();
    for (id, to) in ours.iter().zip([0, 1, 4, 5, 9]).filter(|(_, to)| *to > 0) {
        kit.delete(id, Seq(to)).await;
        expected.insert(id.clone(), Seq(to.min(5)));
    }
    kit.delete(&others[0], Seq(2)).await;
    for _ in 0..2 {
        let mut found = BTreeMap::new();
        let mut pieces = kit.journal().deletions(ShardId(0));
        while let Some(piece) = pieces.next().await {
            let piece = piece.expect("a readable piece");
            assert!(!piece.is_empty(), "an empty piece");
            for (id, to) in piece {
                assert_eq!(found.insert(id.clone(), to), None, "{id} is told of twice");
            }
        }
        assert_eq!(found, expected);
        kit.maintain().await;
    }
}

/// Name, version, tags (with order and repeats), metadata, payload, timestamp, epoch, and the
/// request with its reply on the last event of its batch only: by replay and by tail alike.
pub async fn records_come_back_as_written<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("rich");
    let request = Request {
        id: RequestId::new("запрос-1").expect("valid"),
        reply: Bytes::from_static(b"\x00reply\xff"),
    };
    let bare =
        Request { id: RequestId::new(&"i".repeat(128)).expect("valid"), reply: Bytes::new() };
    let rows = [
        (Timestamp(0), None, vec![rich_event(1)]),
        (Timestamp(u64::MAX), Some(request), vec![rich_event(2), sized_event(1), rich_event(3)]),
        (Timestamp(1), Some(bare), vec![NewEvent::new("plain", 0, "")]),
    ];
    let mut expected = Vec::new();
    for (timestamp, request, events) in rows {
        let mut batch = kit.batch(&id, expected.len() as u64, events);
        (batch.timestamp, batch.request) = (timestamp, request);
        let appended = kit.journal().append(batch.clone()).await.expect("an append");
        let last = batch.events.len() - 1;
        for (n, event) in batch.events.into_iter().enumerate() {
            expected.push(EventRecord {
                entity: id.clone(),
                seq: Seq(expected.len() as u64 + 1),
                position: if n == last { appended.position } else { Position::ZERO },
                epoch: batch.epoch,
                timestamp,
                request: batch.request.clone().filter(|_| n == last),
                event,
            });
        }
    }
    for _ in 0..2 {
        let replayed = kit.read(&id, ReplayRange::ALL).await;
        let tailed = kit.tail(kit.shard(&id), Position::ZERO).take(expected.len()).await;
        assert_eq!(replayed, tailed, "replay and tail differ");
        assert_eq!(replayed.len(), expected.len());
        for (mut record, expected) in replayed.into_iter().zip(&expected) {
            if expected.position == Position::ZERO {
                record.position = Position::ZERO;
            }
            assert_eq!(record, *expected);
        }
        kit.maintain().await;
    }
}

/// Any text is a key: streams do not mix, however alike the ids are.
pub async fn any_key_has_its_own_stream<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let longest = "k".repeat(255);
    let ids: Vec<EntityId> = [
        ("a", "b"),
        ("ab", "b"),
        ("a", "bb"),
        ("a", "B"),
        ("a", " b"),
        ("a", "b "),
        ("a", "b/c"),
        ("a", "b/"),
        ("a", "/b"),
        ("заказ", "№ 17"),
        ("注文", "日本/東京"),
        ("emoji", "🦀🦀"),
        // The same letter, composed and not.
        ("é", "é"),
        ("é", "e\u{301}"),
        (&longest[..64], &longest),
        (&longest[..64], &longest[..254]),
        (&longest[..63], &longest),
    ]
    .into_iter()
    .map(|(kind, key)| EntityId::new(kind, key).expect("a valid id"))
    .collect();
    for expected in [0, 2] {
        for id in &ids {
            kit.append(id, expected, 2).await;
        }
    }
    for _ in 0..2 {
        for id in &ids {
            kit.assert_numbered(id, 1, 4).await;
        }
        kit.maintain().await;
    }
}

/// What is acknowledged is seen by every read that starts afterwards.
pub async fn an_acknowledged_event_is_read_at_once<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let mut before = Position::ZERO;
    for seq in 1..=50 {
        let appended = kit.append(&id, seq - 1, 1).await;
        assert_eq!(kit.head(&id).await.last_seq, Seq(seq));
        assert_eq!(kit.seqs(&id, ReplayRange::from(Seq(seq))).await, [seq]);
        let tailed = kit.tail(kit.shard(&id), before).take(1).await;
        assert_eq!(tailed[0].position, appended.position);
        before = appended.position;
    }
}

/// Clustering and compacting change nothing that is read, also for readers that were under way.
pub async fn maintenance_changes_nothing<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 8);
    for expected in 0..40 {
        for id in &ids {
            kit.append(id, 3 * expected, 3).await;
        }
    }
    kit.delete(&ids[0], Seq::MAX).await;
    kit.delete(&ids[1], Seq(61)).await;
    let mut tail = kit.tail(ShardId(0), Position::ZERO);
    let first = tail.take(1).await;
    let mut replay = kit.journal().replay(&ids[2], ReplayRange::ALL);
    let mut replayed = replay.next().await.expect("events").expect("a readable chunk");
    for _ in 0..2 {
        kit.maintain().await;
        assert_eq!(kit.head(&ids[0]).await, Head { last_seq: Seq(120), deleted_to: Seq(120) });
        assert!(kit.read(&ids[0], ReplayRange::ALL).await.is_empty());
        kit.assert_numbered(&ids[1], 62, 120).await;
        for id in &ids[2..] {
            kit.assert_numbered(id, 1, 120).await;
        }
    }
    while let Some(chunk) = replay.next().await {
        replayed.extend(chunk.expect("a readable chunk"));
    }
    assert!(replayed.iter().map(|record| record.seq.0).eq(1..=120), "the replay under way");
    let mut live = 6 * 120 + 59;
    let is_live = |r: &EventRecord| r.entity != ids[0] && (r.entity != ids[1] || r.seq.0 > 61);
    live -= first.iter().filter(|record| is_live(record)).count();
    while live > 0 {
        let record = tail.next().await.expect("the tail under way");
        live -= usize::from(is_live(&record));
    }
    kit.assert_drained(&mut tail, ShardId(0), "maintained").await;
}
