//! Entities with a deliberate fault each, which the entity test kit must find and name.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use duractor::{
    CodecError, Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Payload,
    Persist, Schema, Upcast, golden,
};
use duractor_testkit::entity::{Check, EntityTestKit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a test says that fails; nothing where it passes.
fn failure(test: impl FnOnce()) -> String {
    match catch_unwind(AssertUnwindSafe(test)) {
        Ok(()) => String::new(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast_ref::<&str>().expect("a text").to_string(),
        },
    }
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[derive(Command)]
#[command(reply = ())]
struct Add {
    by: u64,
}

/// An entity that takes `Add` alone and persists one event for it.
macro_rules! entity {
    ($name:ident, $state:ty, $event:ty, $apply:expr, |$add:ident| $persist:expr) => {
        #[derive(Default)]
        struct $name {
            settings: EntitySettings,
        }

        impl EventSourced for $name {
            const KIND: &'static str = "faulty";
            type State = $state;
            type Event = $event;
            type Commands = (Add,);

            fn apply(state: &mut $state, event: &$event) {
                let apply: fn(&mut $state, &$event) = $apply;
                apply(state, event);
            }

            fn settings(&self) -> EntitySettings {
                self.settings.clone()
            }
        }

        impl Handle<Add> for $name {
            fn handle(&self, _: &$state, $add: Add, _: &Context) -> Effect<Self, ()> {
                Self::persist($persist).no_reply()
            }
        }
    };
}

#[derive(Event)]
struct Added {
    by: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Total {
    total: u64,
}

thread_local! {
    static HANDED_OVER: Cell<u64> = const { Cell::new(0) };
    static APPLIED: Cell<u64> = const { Cell::new(0) };
}

entity!(
    Speculative,
    Total,
    Added,
    // What the handler left, and only the first time.
    |state, event| state.total += event.by + HANDED_OVER.take(),
    |add| {
        HANDED_OVER.set(1);
        Added { by: add.by }
    }
);

#[test]
fn apply_must_not_read_what_a_handler_left() {
    let said = failure(|| drop(EntityTestKit::new(Speculative::default()).run(Add { by: 2 })));
    assert_says(
        &said,
        &[
            "do not give the state that is in memory",
            "`.total`: in memory 3, replayed 2",
            "`apply`",
        ],
    );
    let mut kit = EntityTestKit::builder(Speculative::default()).without(Check::Replay).start();
    assert_eq!(kit.run(Add { by: 2 }).state().total, 3);
}

entity!(
    Unsteady,
    Total,
    Added,
    |state, _| state.total += APPLIED.replace(APPLIED.get() + 1),
    |add| Added { by: add.by }
);

#[test]
fn apply_must_give_the_same_each_time() {
    let said = failure(|| drop(EntityTestKit::new(Unsteady::default()).run(Add { by: 2 })));
    assert_says(&said, &["`.total`: in memory 0, replayed 1", "no statics"]);
}

/// An amount whose encoding drops the cents.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Amount {
    euros: u64,
    cents: u64,
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.euros.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Amount { euros: u64::deserialize(deserializer)?, cents: 0 })
    }
}

#[derive(Event)]
struct Priced {
    amount: Amount,
}

entity!(
    Lossy,
    Total,
    Priced,
    |state, event| state.total += event.amount.euros * 100 + event.amount.cents,
    |add| Priced { amount: Amount { euros: 1, cents: add.by } }
);

#[test]
fn an_event_must_not_lose_a_field() {
    let said = failure(|| drop(EntityTestKit::new(Lossy::default()).run(Add { by: 2 })));
    assert_says(&said, &["`.total`: in memory 102, replayed 100", "the encoding drops"]);
}

/// An event by hand, whose decoding forgets what the encoding wrote.
struct Forgetful {
    by: u64,
}

impl Event for Forgetful {
    fn schemas() -> &'static [Schema] {
        &[Schema { name: "Forgetful", version: 1 }]
    }

    fn schema(&self) -> Schema {
        Self::schemas()[0]
    }

    fn encode(&self) -> Result<Bytes, CodecError> {
        Ok(vec![self.by as u8].into())
    }

    fn decode(name: &str, _: u16, payload: &[u8]) -> Result<Vec<Self>, CodecError> {
        match payload {
            [9] => Ok(Vec::new()),
            [8] => {
                let reason = "eight".to_owned();
                Err(CodecError::Malformed { name: name.to_owned(), version: 1, reason })
            }
            _ => Ok(vec![Forgetful { by: 1 }]),
        }
    }
}

entity!(HandMade, Total, Forgetful, |_, _| {}, |add| Forgetful { by: add.by });

#[test]
fn an_event_must_decode_to_itself() {
    let mut kit = EntityTestKit::new(HandMade::default());
    kit.run(Add { by: 1 });
    let said = failure(|| drop(kit.run(Add { by: 2 })));
    assert_says(
        &said,
        &["event 2 (\"Forgetful\" version 1) does not decode to itself", "\"02\"", "\"01\""],
    );
    let said = failure(|| drop(EntityTestKit::new(HandMade::default()).run(Add { by: 9 })));
    assert_says(&said, &["decodes to 0 event(s)", "The newest version must decode to itself"]);
    let said = failure(|| drop(EntityTestKit::new(HandMade::default()).run(Add { by: 8 })));
    assert_says(&said, &["was written and cannot be read", "would be quarantined"]);
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Skipping {
    total: u64,
    #[serde(skip)]
    highest: u64,
}

entity!(
    Skips,
    Skipping,
    Added,
    |state, event| {
        state.total += event.by;
        state.highest = state.highest.max(event.by);
    },
    |add| Added { by: add.by }
);

#[test]
fn a_state_must_not_lose_a_field() {
    let mut kit = EntityTestKit::builder(Skips::default()).compare_states().start();
    let said = failure(|| drop(kit.run(Add { by: 2 })));
    assert_says(&said, &["the state at revision 1 does not survive", "`==`", "serde(skip)"]);
}

#[derive(Default, Serialize, Deserialize)]
struct Untagged {
    number: Number,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    Text(String),
}

impl Default for Number {
    fn default() -> Self {
        Number::Whole(0)
    }
}

entity!(
    Unreadable,
    Untagged,
    Added,
    |state, event| state.number = Number::Text(event.by.to_string()),
    |add| Added { by: add.by }
);

#[test]
fn a_state_must_decode() {
    let said = failure(|| drop(EntityTestKit::new(Unreadable::default())));
    assert_says(&said, &["the state at revision 0 does not survive", "`untagged`"]);
}

/// In snapshots, one more than was added.
#[derive(Default, Serialize, Deserialize)]
struct Shifting {
    #[serde(serialize_with = "one_more")]
    total: u64,
}

fn one_more<S: Serializer>(total: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    (total + 1).serialize(serializer)
}

entity!(Shifts, Shifting, Added, |state, event| state.total += event.by, |add| Added {
    by: add.by
});

#[test]
fn a_state_must_decode_to_itself() {
    let said = failure(|| drop(EntityTestKit::new(Shifts::default())));
    assert_says(&said, &["`.total`: before 1, after 2"]);
}

#[test]
fn a_snapshot_must_agree_with_the_events() {
    let settings = EntitySettings::default().snapshot_every(2);
    let builder =
        || EntityTestKit::builder(Shifts { settings: settings.clone() }).without(Check::Snapshot);
    let mut kit = builder().start();
    kit.run(Add { by: 1 });
    let said = failure(|| drop(kit.run(Add { by: 1 })));
    assert_says(
        &said,
        &["the newest snapshot", "`.total`: from all events 3, from the snapshot 4"],
    );
}

/// Once in euros; the upcast forgot that.
#[derive(Event)]
#[event(version = 2, upcast(1 = ChargedV1))]
struct Charged {
    cents: u64,
}

#[derive(Payload)]
struct ChargedV1 {
    euros: u64,
}

impl Upcast for ChargedV1 {
    type Next = Charged;
    fn upcast(self) -> impl IntoIterator<Item = Charged> {
        [Charged { cents: self.euros }]
    }
}

entity!(Misread, Total, Charged, |state, event| state.total += event.cents, |add| Charged {
    cents: add.by
});

#[test]
fn an_upcast_must_keep_the_meaning() {
    // By the golden bytes of the older version.
    let said = failure(|| {
        golden(&[
            (&[Charged { cents: 300 }], "Charged", 2, "ac02"),
            (&[Charged { cents: 300 }], "Charged", 1, "03"),
        ]);
    });
    assert_says(&said, &["Correct the upcast"]);
    // By a snapshot that the older release took.
    let builder = EntityTestKit::builder(Misread::default());
    let given =
        builder.given_stored("Charged", 1, vec![3]).given_snapshot(1, &Total { total: 300 });
    let said = failure(|| drop(given.start()));
    assert_says(&said, &["`.total`: from all events 3, from the snapshot 300", "`Upcast`"]);
    // By what a test expects.
    let builder = EntityTestKit::builder(Misread::default());
    let mut kit = builder.given_stored("Charged", 1, vec![3]).start();
    assert_eq!(kit.state().total, 3);
}

#[derive(Command)]
#[command(reply = Amount)]
struct Price {
    amount: Amount,
}

#[derive(Command)]
#[command(reply = HashMap<u64, Half>)]
struct Ask {
    by: Half,
}

/// Written as twice as much, and never halved.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Half(u64);

impl Serialize for Half {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0 * 2).serialize(serializer)
    }
}

struct Wire;

impl EventSourced for Wire {
    const KIND: &'static str = "wire";
    type State = BTreeMap<String, u64>;
    type Event = Added;
    type Commands = (Price, Ask);

    fn apply(_: &mut Self::State, _: &Added) {}
}

impl Handle<Price> for Wire {
    fn handle(&self, _: &Self::State, price: Price, _: &Context) -> Effect<Self, Amount> {
        let Amount { euros, cents } = price.amount;
        assert_eq!(cents, 0, "it came as from another node");
        Effect::reply(Amount { euros, cents: 7 })
    }
}

impl Handle<Ask> for Wire {
    fn handle(&self, _: &Self::State, ask: Ask, _: &Context) -> Effect<Self, HashMap<u64, Half>> {
        Effect::reply(HashMap::from([(1, ask.by)]))
    }
}

#[test]
fn commands_and_replies_come_as_from_another_node() {
    let ran = EntityTestKit::new(Wire).run(Price { amount: Amount { euros: 3, cents: 5 } });
    assert_eq!(ran.reply(), &Amount { euros: 3, cents: 0 });
}

#[test]
fn a_command_must_survive_its_encoding() {
    let said = failure(|| drop(EntityTestKit::new(Wire).run(Ask { by: Half(1) })));
    assert_says(&said, &["the command \"Ask\" version 1 does not survive", "\"02\"", "\"04\""]);
}

#[test]
fn a_reply_must_survive_its_encoding() {
    let mut kit = EntityTestKit::builder(Wire).without(Check::Commands).start();
    let said = failure(|| drop(kit.run(Ask { by: Half(1) })));
    assert_says(
        &said,
        &["the reply to \"Ask\" version 1 does not survive", "replied 2, decoded 4"],
    );
    let mut kit = EntityTestKit::builder(Wire).without_checks().start();
    assert_eq!(kit.run(Ask { by: Half(1) }).reply()[&1], Half(1));
}

entity!(
    Mapped,
    HashMap<u64, u64>,
    Added,
    |state, event| state.extend([(event.by, event.by)]),
    |add| Added { by: add.by }
);

entity!(Sets, HashSet<u64>, Added, |state, event| state.extend(0..event.by), |add| Added {
    by: add.by
});

#[test]
fn maps_may_have_any_order_and_sets_are_named() {
    let mut kit = EntityTestKit::new(Mapped::default());
    for by in 0..10 {
        kit.run(Add { by });
    }
    let said = failure(|| drop(EntityTestKit::new(Sets::default()).run(Add { by: 50 })));
    assert_says(&said, &["in another order", "`BTreeSet`"]);
}

#[test]
fn misuse_is_told() {
    let mut kit = EntityTestKit::new(Wire);
    let ran = kit.run(Price { amount: Amount::default() });
    assert_says(&failure(|| drop(ran.error().clone())), &["has a reply and no error"]);
    let said = failure(|| drop(kit.run_on::<Lossy, _>("x", Add { by: 1 })));
    assert_says(&said, &["\"faulty\" is not registered"]);
    let builder = EntityTestKit::builder(Lossy::default())
        .given_events([Priced { amount: Amount::default() }])
        .given_snapshot(3, &Total::default());
    assert_says(&failure(|| drop(builder.start())), &["Give all events up to the snapshot"]);
    let said = failure(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async { drop(EntityTestKit::new(Wire)) });
    });
    assert_says(&said, &["use it in a plain `#[test] fn`"]);
}
