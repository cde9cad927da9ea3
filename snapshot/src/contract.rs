//! The suite that every implementation of [`SnapshotStore`] passes.
//!
//! Give [`snapshot_store_contract!`](crate::snapshot_store_contract) the name of a type that
//! implements [`Subject`]; it makes one test per case.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use duractor_journal::{EntityId, Seq, Timestamp};

use crate::{
    error::SnapshotError,
    port::{Criteria, MAX_STATE_BYTES, Retention, Saved, Snapshot, SnapshotStore},
};

/// An implementation under test, with the place where it keeps its snapshots.
pub trait Subject: Sized {
    /// A new, empty place.
    fn new() -> Self;

    /// Opens the store at this place. It is called again after the store was shut down.
    fn open(&self) -> impl Future<Output = Arc<dyn SnapshotStore>>;
}

/// Makes one test of each case of the contract for a type that implements
/// [`Subject`](crate::contract::Subject). The caller needs tokio with its macros.
#[macro_export]
macro_rules! snapshot_store_contract {
    ($subject:ty) => {
        $crate::snapshot_store_contract!($subject:
            none_for_unknown, none_for_too_old_criteria, the_newest, bounded_by_seq,
            bounded_by_timestamp, overwrite_at_the_same_seq, delete_one, delete_a_range,
            a_mismatched_timestamp_deletes_nothing, delete_of_an_unknown_entity,
            retention_keeps_the_newest, retention_says_the_oldest_left, retention_is_per_entity,
            many_entities_in_one_save, one_entity_twice_in_one_save, an_empty_save,
            states_of_all_sizes, a_state_that_is_too_large, everything_round_trips,
            entities_that_are_alike, the_greatest_sequence_number, concurrent_saves,
            calls_take_effect_in_order, reopened, closed,
        );
    };
    ($subject:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::contract::$case::<$subject>().await;
            }
        )*
    };
}

fn id(key: &str) -> EntityId {
    EntityId::new("order", key).expect("a valid id")
}

/// A snapshot whose timestamp is ten times its sequence number.
fn snap(entity: &EntityId, seq: u64) -> Snapshot {
    Snapshot {
        entity: entity.clone(),
        seq: Seq(seq),
        timestamp: Timestamp(seq * 10),
        schema_version: 1,
        state: Bytes::from(format!("{entity} at {seq}")),
    }
}

async fn save(store: &Arc<dyn SnapshotStore>, snapshots: Vec<Snapshot>) -> Vec<Saved> {
    store.save(snapshots, Retention::All).await.expect("a save")
}

/// A store with snapshots of one entity.
async fn store_with<S: Subject>(seqs: &[u64]) -> (S, Arc<dyn SnapshotStore>, EntityId) {
    let subject = S::new();
    let store = subject.open().await;
    let entity = id("1");
    save(&store, seqs.iter().map(|seq| snap(&entity, *seq)).collect()).await;
    (subject, store, entity)
}

async fn loaded(store: &Arc<dyn SnapshotStore>, entity: &EntityId, c: Criteria) -> Option<u64> {
    let found = store.load(entity, c).await.expect("a load");
    found.map(|s| {
        assert_eq!(s, snap(entity, s.seq.0), "what was saved comes back");
        s.seq.0
    })
}

/// All sequence numbers that the store has of an entity.
async fn seqs(store: &Arc<dyn SnapshotStore>, entity: &EntityId) -> Vec<u64> {
    let mut seqs = Vec::new();
    let mut criteria = Criteria::ALL;
    while let Some(seq) = loaded(store, entity, criteria).await {
        seqs.insert(0, seq);
        let Some(below) = seq.checked_sub(1) else { break };
        criteria = Criteria::up_to(Seq(below));
    }
    seqs
}

/// An entity without snapshots has none, in an empty store and in a full one.
pub async fn none_for_unknown<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    assert_eq!(loaded(&store, &id("1"), Criteria::ALL).await, None);
    save(&store, vec![snap(&id("1"), 5)]).await;
    assert_eq!(loaded(&store, &id("2"), Criteria::ALL).await, None);
}

/// Criteria that are older than every snapshot find none.
pub async fn none_for_too_old_criteria<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5, 9]).await;
    assert_eq!(loaded(&store, &entity, Criteria::up_to(Seq(4))).await, None);
    assert_eq!(loaded(&store, &entity, Criteria::ALL.taken_until(Timestamp(49))).await, None);
    assert_eq!(loaded(&store, &entity, Criteria::between(Seq(9), Seq(5))).await, None);
}

/// Without bounds the newest is loaded, in whatever order they were saved.
pub async fn the_newest<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5, 300, 9]).await;
    assert_eq!(loaded(&store, &entity, Criteria::ALL).await, Some(300));
}

/// The newest within sequence numbers, both bounds included.
pub async fn bounded_by_seq<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5, 9, 300]).await;
    assert_eq!(loaded(&store, &entity, Criteria::up_to(Seq(299))).await, Some(9));
    assert_eq!(loaded(&store, &entity, Criteria::up_to(Seq(9))).await, Some(9));
    assert_eq!(loaded(&store, &entity, Criteria::up_to(Seq(8))).await, Some(5));
    assert_eq!(loaded(&store, &entity, Criteria::at(Seq(5))).await, Some(5));
    assert_eq!(loaded(&store, &entity, Criteria::between(Seq(10), Seq(299))).await, None);
}

/// The newest within timestamps, both bounds included.
pub async fn bounded_by_timestamp<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5, 9, 300]).await;
    let until = |time| Criteria::ALL.taken_until(Timestamp(time));
    assert_eq!(loaded(&store, &entity, until(2999)).await, Some(9));
    assert_eq!(loaded(&store, &entity, until(90)).await, Some(9));
    assert_eq!(loaded(&store, &entity, until(89)).await, Some(5));
    assert_eq!(loaded(&store, &entity, until(2999).taken_from(Timestamp(91))).await, None);
}

/// A save at the same sequence number replaces the snapshot there.
pub async fn overwrite_at_the_same_seq<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5]).await;
    let newer = Snapshot { timestamp: Timestamp(7), schema_version: 2, ..snap(&entity, 5) };
    save(&store, vec![newer.clone()]).await;
    assert_eq!(store.load(&entity, Criteria::ALL).await, Ok(Some(newer)));
    assert_eq!(store.delete(&entity, Criteria::ALL).await, Ok(1));
}

/// Deleting one leaves the others.
pub async fn delete_one<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5, 9, 300]).await;
    assert_eq!(store.delete(&entity, Criteria::at(Seq(9))).await, Ok(1));
    assert_eq!(store.delete(&entity, Criteria::at(Seq(9))).await, Ok(0));
    assert_eq!(seqs(&store, &entity).await, [5, 300]);
}

/// Deleting a range takes both of its bounds.
pub async fn delete_a_range<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1, 5, 9, 300]).await;
    assert_eq!(store.delete(&entity, Criteria::between(Seq(5), Seq(299))).await, Ok(2));
    assert_eq!(seqs(&store, &entity).await, [1, 300]);
    assert_eq!(store.delete(&entity, Criteria::between(Seq(300), Seq(1))).await, Ok(0));
    let old = Criteria::ALL.taken_until(Timestamp(10));
    assert_eq!(store.delete(&entity, old).await, Ok(1));
    assert_eq!(seqs(&store, &entity).await, [300]);
}

/// All criteria must hold.
pub async fn a_mismatched_timestamp_deletes_nothing<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5, 9]).await;
    let wrong = Criteria::at(Seq(9)).taken_until(Timestamp(89));
    assert_eq!(store.delete(&entity, wrong).await, Ok(0));
    let wrong = Criteria::at(Seq(9)).taken_from(Timestamp(91));
    assert_eq!(store.delete(&entity, wrong).await, Ok(0));
    assert_eq!(seqs(&store, &entity).await, [5, 9]);
}

/// Nothing to delete is no error.
pub async fn delete_of_an_unknown_entity<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[5]).await;
    assert_eq!(store.delete(&id("2"), Criteria::ALL).await, Ok(0));
    assert_eq!(seqs(&store, &entity).await, [5]);
}

/// Retention removes the oldest, in the same call.
pub async fn retention_keeps_the_newest<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1, 5, 9]).await;
    store.save(vec![snap(&entity, 300)], Retention::newest(2)).await.expect("a save");
    assert_eq!(seqs(&store, &entity).await, [9, 300]);
    store.save(vec![snap(&entity, 301)], Retention::newest(1)).await.expect("a save");
    assert_eq!(seqs(&store, &entity).await, [301]);
    store.save(vec![snap(&entity, 302)], Retention::newest(0)).await.expect("a save");
    assert_eq!(seqs(&store, &entity).await, [301, 302], "0 keeps all");
}

/// The answer names the oldest snapshot that is left.
pub async fn retention_says_the_oldest_left<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1, 5]).await;
    let saved = store.save(vec![snap(&entity, 9)], Retention::All).await;
    assert_eq!(saved, Ok(vec![Saved { oldest: Seq(1) }]));
    let saved = store.save(vec![snap(&entity, 300)], Retention::newest(2)).await;
    assert_eq!(saved, Ok(vec![Saved { oldest: Seq(9) }]));
}

/// Other entities' snapshots are not touched.
pub async fn retention_is_per_entity<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1, 5]).await;
    store.save(vec![snap(&id("2"), 9)], Retention::newest(1)).await.expect("a save");
    assert_eq!(seqs(&store, &entity).await, [1, 5]);
}

/// One save may hold many entities, and answers for each in order.
pub async fn many_entities_in_one_save<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let ids: Vec<_> = (0..500).map(|i| id(&i.to_string())).collect();
    let all = ids.iter().zip(1..).map(|(id, seq)| snap(id, seq)).collect();
    let saved = save(&store, all).await;
    let expected: Vec<_> = (1..=500).map(|seq| Saved { oldest: Seq(seq) }).collect();
    assert_eq!(saved, expected);
    for (id, seq) in ids.iter().zip(1..) {
        assert_eq!(loaded(&store, id, Criteria::ALL).await, Some(seq));
    }
}

/// Retention is applied after all of a save's snapshots are in.
pub async fn one_entity_twice_in_one_save<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1]).await;
    let two = vec![snap(&entity, 9), snap(&entity, 5)];
    let saved = store.save(two, Retention::newest(2)).await;
    assert_eq!(saved, Ok(vec![Saved { oldest: Seq(5) }; 2]));
    assert_eq!(seqs(&store, &entity).await, [5, 9]);
}

/// A save of nothing is no error.
pub async fn an_empty_save<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1]).await;
    assert_eq!(save(&store, Vec::new()).await, []);
    assert_eq!(seqs(&store, &entity).await, [1]);
}

/// States of 0 bytes, around the sizes where compression and pages begin, and of 1 MiB; some that
/// compress and some that do not.
pub async fn states_of_all_sizes<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for size in [0, 1, 1023, 1024, 1025, 4096, 70_000, 1 << 20] {
        let noise = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(size).collect();
        for (key, state) in [("flat", vec![7; size]), ("noise", noise)] {
            let saved = Snapshot { state: state.into(), ..snap(&id(key), size as u64) };
            save(&store, vec![saved.clone()]).await;
            assert_eq!(store.load(&id(key), Criteria::ALL).await, Ok(Some(saved)), "{key} {size}");
        }
    }
}

/// A state over the limit is refused before anything of the save is written.
pub async fn a_state_that_is_too_large<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1]).await;
    let state = Bytes::from(vec![0; MAX_STATE_BYTES + 1]);
    let large = Snapshot { state, ..snap(&id("2"), 5) };
    let refused = store.save(vec![snap(&entity, 5), large], Retention::All).await;
    assert!(matches!(refused, Err(SnapshotError::TooLarge { .. })), "{refused:?}");
    assert_eq!(seqs(&store, &entity).await, [1]);
}

/// Every field comes back, at its extremes too.
pub async fn everything_round_trips<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    for (seq, timestamp, schema_version) in [(0, 0, 0), (1, u64::MAX, u16::MAX)] {
        let saved = Snapshot {
            timestamp: Timestamp(timestamp),
            schema_version,
            state: Bytes::from_static(b"\0\xff state"),
            ..snap(&id("日本/заказ 🦀"), seq)
        };
        save(&store, vec![saved.clone()]).await;
        assert_eq!(store.load(&saved.entity, Criteria::at(Seq(seq))).await, Ok(Some(saved)));
    }
}

/// Entities whose kinds and keys are prefixes of each other's, or as long as they may be, do not
/// see each other's snapshots.
pub async fn entities_that_are_alike<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let (kind, key) = ("k".repeat(64), "ключ".repeat(32)[..254].to_owned());
    let names = [
        ("a", "b"),
        ("a", "bc"),
        ("a", "b/"),
        ("a", "a/b"),
        ("ab", "b"),
        ("ab", "c"),
        ("a", "c"),
        (&kind, "b"),
        (&kind[..63], "kb"),
        ("a", &key),
        (&kind, &key),
        (&kind, &key[..252]),
    ];
    let ids: Vec<_> = names.iter().map(|(k, n)| EntityId::new(k, n).expect("valid")).collect();
    for (id, seq) in ids.iter().zip((1..).step_by(7)) {
        save(&store, vec![snap(id, seq), snap(id, seq + 1)]).await;
    }
    for (id, seq) in ids.iter().zip((1..).step_by(7)) {
        assert_eq!(seqs(&store, id).await, [seq, seq + 1], "{id}");
    }
    for (id, seq) in ids.iter().zip((1..).step_by(7)) {
        assert_eq!(store.delete(id, Criteria::up_to(Seq(seq))).await, Ok(1), "{id}");
    }
    for (id, seq) in ids.iter().zip((1..).step_by(7)) {
        assert_eq!(seqs(&store, id).await, [seq + 1], "{id}");
    }
}

/// Sequence numbers at both ends of their range.
pub async fn the_greatest_sequence_number<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let at = |seq| Snapshot { seq: Seq(seq), ..snap(&id("1"), 0) };
    save(&store, vec![at(u64::MAX), at(0)]).await;
    assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(at(u64::MAX))));
    let below = Criteria::up_to(Seq(u64::MAX - 1));
    assert_eq!(store.load(&id("1"), below).await, Ok(Some(at(0))));
}

/// Saves that are under way at once all take effect.
pub async fn concurrent_saves<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let ids: Vec<_> = (0..40).map(|i| id(&i.to_string())).collect();
    let mut under_way = Vec::new();
    for seq in 1..=10 {
        for id in &ids {
            under_way.push(store.save(vec![snap(id, seq)], Retention::newest(3)));
        }
    }
    for save in under_way {
        save.await.expect("a save");
    }
    for id in &ids {
        assert_eq!(seqs(&store, id).await, [8, 9, 10]);
    }
}

/// Calls take effect in the order in which they were made, whichever is waited for first.
pub async fn calls_take_effect_in_order<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1]).await;
    let first = store.save(vec![snap(&entity, 5)], Retention::All);
    let second = store.delete(&entity, Criteria::ALL);
    let third = store.save(vec![snap(&entity, 3)], Retention::All);
    assert_eq!(third.await, Ok(vec![Saved { oldest: Seq(3) }]));
    assert_eq!(second.await, Ok(2));
    assert_eq!(first.await, Ok(vec![Saved { oldest: Seq(1) }]));
    assert_eq!(seqs(&store, &entity).await, [3]);
}

/// What was saved is there after the store was shut down and opened again, and what was deleted is
/// not.
pub async fn reopened<S: Subject>() {
    let (subject, store, entity) = store_with::<S>(&[1, 5, 9]).await;
    store.delete(&entity, Criteria::at(Seq(5))).await.expect("a delete");
    store.shutdown().await;
    drop(store);
    let store = subject.open().await;
    assert_eq!(seqs(&store, &entity).await, [1, 9]);
    save(&store, vec![snap(&entity, 10)]).await;
    assert_eq!(seqs(&store, &entity).await, [1, 9, 10]);
    assert_eq!(store.damaged(), 0);
}

/// A store that was shut down refuses calls, and a second shutdown is no error.
pub async fn closed<S: Subject>() {
    let (_subject, store, entity) = store_with::<S>(&[1]).await;
    let under_way = store.save(vec![snap(&entity, 2)], Retention::All);
    store.shutdown().await;
    assert!(under_way.await.is_ok(), "a save that was taken up is finished");
    store.shutdown().await;
    assert_eq!(store.load(&entity, Criteria::ALL).await, Err(SnapshotError::Closed));
    assert_eq!(store.delete(&entity, Criteria::ALL).await, Err(SnapshotError::Closed));
    let refused = store.save(vec![snap(&entity, 5)], Retention::All).await;
    assert_eq!(refused, Err(SnapshotError::Closed));
}
