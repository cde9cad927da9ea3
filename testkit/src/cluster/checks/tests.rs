//! Sound histories pass, and each way of spoiling one is found.

use duractor_journal::{EntityId, Position};

use super::*;
use crate::cluster::history::{Attempt, Claim, Deletion, Read, Request, Seen};

const SHARD: ShardId = ShardId(0);

/// One entity, epochs 1 and 2, requests of one and two events, all acknowledged, a deletion of the
/// first event and reads in between.
fn sound() -> (History, Replica) {
    let id = EntityId::new("account", "1").expect("an id");
    let mut history = History::new(1, vec![id]);
    let mut records = Vec::new();
    let mut seq = 0;
    claim(&mut history, 1);
    for number in 0..6_usize {
        if number == 3 {
            claim(&mut history, 2);
        }
        let epoch = Term(1 + (number / 3) as u64);
        let events = 1 + (number % 2) as u32;
        let expected = Seq(seq);
        let start = history.tick();
        for part in 0..events {
            seq += 1;
            let position = Position::new(seq, 0);
            records.push((0, Seq(seq), Seen { request: number, part, position, epoch }));
        }
        let end = history.tick();
        let position = Position::new(seq, 0);
        let answer = Some((end, Outcome::Acked(Seq(seq), position)));
        let attempts = vec![Attempt { epoch, expected, start, answer }];
        let acked = Some((end, Seq(seq), position));
        let request = Request { entity: 0, events, size: 0, start, acked, lossy: false, attempts };
        history.requests.push(request);
        let (start, end) = (history.tick(), history.tick());
        history.reads.push(Read {
            entity: 0,
            start,
            end,
            linearizable: true,
            reflects: position,
            first: Some(Seq(1)),
            last: Seq(seq),
        });
    }
    let (start, acked) = (history.tick(), Some(history.tick()));
    let deletion = Deletion { entity: 0, to: Seq(1), start, acked, refused: false };
    history.deletions.push(deletion);
    let heads = vec![(0, Seq(seq), Seq(1))];
    records.remove(0);
    (history, Replica { name: "node 1".into(), records, heads })
}

fn claim(history: &mut History, term: u64) {
    let (start, end) = (history.tick(), history.tick());
    history.claims.push(Claim { shard: SHARD, start, granted: Some((end, Term(term))) });
}

fn found(spoil: impl FnOnce(&mut History, &mut Replica)) -> String {
    let (mut history, mut end) = sound();
    spoil(&mut history, &mut end);
    shard(&history, SHARD, &[end]).err().unwrap_or_default()
}

fn assert_found(letter: &str, spoil: impl FnOnce(&mut History, &mut Replica)) {
    let found = found(spoil);
    assert!(found.starts_with(letter), "{letter} expected, and found: {found:?}");
}

#[test]
fn a_sound_history_passes() {
    assert_eq!(found(|_, _| {}), "");
    // Deleted events may be there still.
    let (history, end) = sound();
    let mut other = end.clone();
    other.records.insert(
        0,
        (0, Seq(1), Seen { request: 0, part: 0, position: Position::new(1, 0), epoch: Term(1) }),
    );
    assert_eq!(shard(&history, SHARD, &[end, other]), Ok(()));
}

#[test]
fn lost_doubled_moved_and_made_up_events_are_found() {
    assert_found("A", |_, end| {
        end.records.pop();
    });
    assert_found("A", |_, end| {
        end.records.pop();
        end.heads[0].1 = Seq(8);
    });
    assert_found("A", |_, end| {
        let mut again = end.records[0].clone();
        again.1 = Seq(10);
        again.2.position = Position::new(10, 0);
        again.2.epoch = Term(2);
        end.records.push(again);
        end.heads[0].1 = Seq(10);
    });
    assert_found("A", |_, end| {
        let last = end.records.len() - 1;
        end.records[last].2.position = Position::new(20, 0);
    });
    assert_found("A", |history, _| {
        let known = Seen { request: 3, part: 0, position: Position::new(4, 0), epoch: Term(1) };
        history.seen.insert((0, Seq(4)), known);
    });
    assert_found("A", |history, _| {
        history.requests[2].acked = None;
        history.requests[2].attempts[0].answer = Some((1, Outcome::Refused));
    });
}

#[test]
fn half_a_request_is_found() {
    assert_found("A", |history, end| {
        end.records.pop();
        end.heads[0].1 = Seq(8);
        history.requests[5].acked = None;
        history.reads.pop();
    });
}

#[test]
fn what_nobody_deleted_must_be_there() {
    assert_found("A", |_, end| {
        end.records.remove(0);
    });
    assert_found("A", |_, end| {
        end.records.remove(0);
        end.heads[0].2 = Seq(2);
    });
    assert_found("A", |history, _| history.deletions[0].refused = true);
    assert_found("A", |_, end| end.heads[0].2 = Seq(0));
    assert_found("A", |history, _| history.reads[5].first = Some(Seq(3)));
}

#[test]
fn mixed_epochs_are_found() {
    assert_found("W", |history, end| {
        end.records[2].2.epoch = Term(2);
        end.records[3].2.epoch = Term(1);
        history.requests[2].attempts[0].epoch = Term(2);
        history.requests[3].attempts[0].epoch = Term(1);
    });
    assert_found("W", |history, end| {
        let last = end.records.len();
        for record in &mut end.records[last - 2..] {
            record.2.epoch = Term(3);
        }
        history.requests[5].attempts[0].epoch = Term(3);
        for number in 0..2 {
            // A newer claim was granted before the last request was sent.
            let claim =
                Claim { shard: SHARD, start: number, granted: Some((number, Term(4 + number))) };
            history.claims.push(claim);
        }
    });
    assert_found("W", |history, _| claim(history, 2));
    assert_found("W", |history, _| {
        claim(history, 9);
        claim(history, 8);
    });
    assert_found("W", |history, _| history.requests[5].attempts[0].epoch = Term(1));
}

#[test]
fn reads_that_miss_or_foresee_are_found() {
    assert_found("L", |history, _| {
        history.reads[3].last = Seq(4);
        history.reads[3].reflects = Position::ZERO;
    });
    assert_found("L", |history, _| history.reads[1].last = Seq(4));
    assert_found("L", |history, _| {
        history.reads[3].last = Seq(4);
        history.reads[3].linearizable = false;
    });
    // A stale read may miss what it does not say that it reflects.
    assert_eq!(
        found(|history, _| {
            history.reads[3].last = Seq(4);
            history.reads[3].linearizable = false;
            history.reads[3].reflects = Position::new(4, 0);
        }),
        ""
    );
}

#[test]
fn an_unanswered_write_may_be_there_or_not_but_not_before_it_was_sent() {
    let unanswered = |history: &mut History| {
        history.requests[5].acked = None;
        history.requests[5].attempts[0].answer = None;
        history.reads.pop();
    };
    assert_eq!(found(|history, _| unanswered(history)), "");
    assert_eq!(
        found(|history, end| {
            unanswered(history);
            end.records.truncate(end.records.len() - 2);
            end.heads[0].1 = Seq(7);
        }),
        ""
    );
    assert_found("L", |history, _| {
        unanswered(history);
        history.reads[4].last = Seq(9);
    });
}

#[test]
fn different_replicas_are_found() {
    let (history, end) = sound();
    let spoils: [fn(&mut Replica); 4] = [
        |other| {
            other.records.pop();
        },
        |other| other.records[3].2.position = Position::new(99, 0),
        |other| other.heads[0].1 = Seq(3),
        |other| other.records[2].2.epoch = Term(7),
    ];
    for spoil in spoils {
        let mut other = end.clone();
        spoil(&mut other);
        let found = shard(&history, SHARD, &[end.clone(), other]);
        assert!(found.as_ref().is_err_and(|what| what.starts_with('C')), "{found:?}");
    }
}
