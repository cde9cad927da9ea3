use std::time::Duration;

use super::*;
use crate::golden;

fn id(key: &str) -> EntityId {
    EntityId::new("k", key).unwrap()
}

fn call() -> Call {
    Call { command: "C".into(), version: 2, payload: Bytes::from_static(b"p") }
}

fn then() -> Then {
    Then { command: "T".into(), version: 1 }
}

fn settings() -> EntitySettings {
    EntitySettings::default()
}

fn deliver(number: u64, to: &str) -> Reserved {
    Reserved::Deliver { number, to: id(to), call: call(), then: None }
}

#[test]
fn events_keep_their_bytes() {
    golden::<Reserved>(&[
        (
            &[Reserved::Deliver { number: 7, to: id("1"), call: call(), then: Some(then()) }],
            "duractor.deliver",
            1,
            "01430201700701015401016b0131",
        ),
        (&[Reserved::Delivered { number: 7 }], "duractor.delivered", 1, "07"),
        (
            &[Reserved::Undelivered { number: 7, reason: "r".into() }],
            "duractor.undelivered",
            1,
            "070172",
        ),
        (
            &[Reserved::Received {
                from: id("1"),
                number: 7,
                reply: Some(Bytes::from_static(b"r")),
            }],
            "duractor.received",
            1,
            "016b013107010172",
        ),
        (
            &[Reserved::Remind {
                name: "n".into(),
                id: 7,
                due: Timestamp(300),
                every_ms: 5,
                call: call(),
            }],
            "duractor.remind",
            1,
            "0143020170ac020507016e",
        ),
        (
            &[Reserved::ReminderCancelled { name: "n".into() }],
            "duractor.reminder-cancelled",
            1,
            "016e",
        ),
        (&[Reserved::Reminded { id: 7, given_up: None }], "duractor.reminded", 1, "0007"),
    ]);
}

#[test]
fn sections_keep_their_bytes() {
    let pending = || Pending { to: id("1"), call: call(), then: None, since: Timestamp(3) };
    let letter = DeadLetter { number: 8, pending: pending(), reason: "r".into() };
    let last = Last { number: 7, at: Timestamp(3), reply: None };
    let reminder = Reminder { id: 7, due: Timestamp(300), every_ms: 0, call: call() };
    golden::<Section>(&[
        (
            &[Section::Outbox {
                last: 9,
                pending: vec![(7, pending())],
                dead: 1,
                letters: vec![letter],
            }],
            "outbox",
            1,
            "01090108016b01310143020170000301720107016b013101430201700003",
        ),
        (
            &[Section::Inbox { senders: vec![(id("1"), last)], forgotten: Timestamp(4) }],
            "inbox",
            1,
            "0401016b0131070300",
        ),
        (
            &[Section::Reminders { last: 9, reminders: vec![("n".into(), reminder)] }],
            "reminders",
            1,
            "0901016e07ac02000143020170",
        ),
    ]);
}

fn full() -> Meta {
    let mut meta = Meta::default();
    let events = [
        deliver(1, "a"),
        deliver(2, "b"),
        deliver(3, "a"),
        Reserved::Delivered { number: 2 },
        Reserved::Undelivered { number: 1, reason: "no".into() },
        Reserved::Received { from: id("s"), number: 5, reply: None },
        Reserved::Remind { name: "n".into(), id: 1, due: Timestamp(50), every_ms: 0, call: call() },
    ];
    for event in events {
        meta.apply(event, Timestamp(10), &settings());
    }
    meta
}

#[test]
fn a_snapshot_gives_the_same_meta_back() {
    let meta = full();
    let packed = meta.pack().unwrap();
    let back = Meta::unpack(packed.clone()).unwrap();
    assert_eq!(format!("{back:?}"), format!("{meta:?}"));
    let newer = (String::from("from-the-future"), 1, Bytes::new());
    assert!(Meta::unpack([packed, vec![newer]].concat()).is_err(), "never skipped");
}

#[test]
fn deliveries_come_first_and_then_the_first_reminder() {
    let mut meta = full();
    assert_eq!(meta.due(), Some(Timestamp(0)));
    meta.apply(Reserved::Delivered { number: 3 }, Timestamp(11), &settings());
    assert_eq!(meta.due(), Some(Timestamp(50)));
    assert_eq!(meta.outbox().unwrap().dead(), 1);
    meta.apply(Reserved::Reminded { id: 1, given_up: None }, Timestamp(51), &settings());
    assert_eq!(meta.due(), None);
}

#[test]
fn a_reminder_that_comes_again_leaves_out_what_was_missed() {
    let mut meta = Meta::default();
    let remind = |id| Reserved::Remind {
        name: "n".into(),
        id,
        due: Timestamp(100),
        every_ms: 10,
        call: call(),
    };
    meta.apply(remind(1), Timestamp(0), &settings());
    meta.apply(Reserved::Reminded { id: 1, given_up: None }, Timestamp(135), &settings());
    assert_eq!(meta.due(), Some(Timestamp(140)));
    // Its second time is another one: an old repeat is none of it.
    let old = meta.judge(&Origin::Reminder { id: 1, given_up: None }, Timestamp(140), &settings());
    assert_eq!(old, Judgement::Repeat(None));
    assert_eq!(
        meta.judge(&Origin::Reminder { id: 2, given_up: None }, Timestamp(140), &settings()),
        Judgement::New
    );
}

#[test]
fn a_repeat_of_a_delivery_is_seen() {
    let meta = full();
    let judge = |from: &str, number| {
        let origin =
            Origin::Delivery { from: id(from), number, since: Timestamp(9), wants_reply: false };
        meta.judge(&origin, Timestamp(11), &settings())
    };
    assert_eq!([judge("s", 4), judge("s", 5)], [Judgement::Repeat(None), Judgement::Repeat(None)]);
    assert_eq!([judge("s", 6), judge("t", 1)], [Judgement::New, Judgement::New]);
}

/// Where senders are forgotten, what they may have sent is refused, and not carried out again.
#[test]
fn a_delivery_of_a_sender_that_was_forgotten_is_not_taken_for_new() {
    let hours = |n: u64| n * 60 * 60 * 1000;
    let settings = settings().senders(1).dedup_age(Duration::from_secs(60));
    let mut meta = Meta::default();
    let received = |from: &str, number| Reserved::Received { from: id(from), number, reply: None };
    let judge = |meta: &Meta, from: &str, number, since, now| {
        let origin = Origin::Delivery {
            from: id(from),
            number,
            since: Timestamp(since),
            wants_reply: false,
        };
        meta.judge(&origin, Timestamp(now), &settings)
    };
    let at = hours(100);
    meta.apply(received("a", 1), Timestamp(at), &settings);
    assert_eq!(judge(&meta, "b", 1, at + 1, at + hours(1)), Judgement::Full);
    let later = at + hours(13);
    assert_eq!(judge(&meta, "b", 1, later, later), Judgement::New);
    meta.apply(received("b", 1), Timestamp(later), &settings);
    assert_eq!(judge(&meta, "a", 1, at - 5, later + 1), Judgement::TooLate);
    let much_later = later + hours(13);
    assert_eq!(judge(&meta, "a", 2, much_later, much_later), Judgement::New);
}

#[test]
fn bounds_are_kept() {
    let settings = settings().outbox(1).reminders(1);
    let meta = Meta::default();
    let wish = || Wish::Deliver { to: id("a"), call: call(), then: None };
    let remind = |name: &str| Wish::Remind {
        name: name.into(),
        when: When::After(5),
        every_ms: 0,
        call: call(),
    };
    let grant = |wishes| meta.grant(wishes, Timestamp(10), &settings).map_err(|_| ());
    assert_eq!(grant(vec![wish()]), Ok(vec![deliver(1, "a")]));
    assert!(grant(vec![wish(), wish()]).is_err());
    assert!(grant(vec![remind("a"), remind("b")]).is_err());
    let cancel = || Wish::CancelReminder { name: "a".into() };
    assert_eq!(grant(vec![cancel()]), Ok(vec![]), "there is nothing to cancel");
    let moved = grant(vec![remind("a"), cancel(), remind("b")]).unwrap();
    assert_eq!(moved.len(), 3);
}
