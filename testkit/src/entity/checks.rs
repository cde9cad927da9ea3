//! What must hold for every entity, and what to say where it does not.
//!
//! A check returns a text for the developer: what is wrong, where, and what to do.

use duractor::{
    Command, Event,
    command::{decode_reply, encode_reply},
    testing::is_kept,
};
use duractor_journal::EventRecord;

use super::{
    observe::Seen,
    tree::{Tree, difference},
};

/// A check that the kit makes by itself. All are on unless
/// [switched off](super::EntityTestKitBuilder::without).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// Each event that was written decodes to itself: the same name, version and bytes.
    Events,
    /// The state survives the encoding that snapshots have.
    Snapshot,
    /// The stored events alone give the state that is in memory, and so does the newest snapshot with
    /// the events after it.
    Replay,
    /// The command survives its encoding. The entity gets the decoded one, as it would from another
    /// node.
    Commands,
    /// The reply survives its encoding. The test gets the decoded one, as a retry would.
    Replies,
}

/// The checks that are off.
#[derive(Debug, Clone, Default)]
pub(super) struct Off(Vec<Check>);

impl Off {
    pub(super) const ALL: [Check; 5] =
        [Check::Events, Check::Snapshot, Check::Replay, Check::Commands, Check::Replies];

    pub(super) fn add(&mut self, check: Check) {
        self.0.push(check);
    }

    pub(super) fn is_on(&self, check: Check) -> bool {
        !self.0.contains(&check)
    }
}

const LOST: &str = "Some field is lost or changed on the way: look for `#[serde(skip)]`, \
                    `skip_serializing_if`, `flatten`, `untagged`, `with = ...` and hand-written \
                    `Serialize` or `Deserialize` in its fields' types.";
const ORDER: &str = "If there is a `HashMap` or `HashSet` in it, its bytes have another order each \
                     time: use a `BTreeMap` or `BTreeSet`.";

/// The events of a record; more than one, or none, where an upcast made them of an older version.
pub(super) fn decode<V: Event>(record: &EventRecord) -> Result<Vec<V>, String> {
    if is_kept(record) {
        return Ok(Vec::new());
    }
    let event = &record.event;
    V::decode(&event.name, event.schema_version, &event.payload).map_err(|error| {
        format!(
            "{} was written and cannot be read: {error}.\nThe entity would be quarantined. {LOST}",
            described(record)
        )
    })
}

/// [`Check::Events`] for one record.
pub(super) fn event<V: Event>(record: &EventRecord) -> Result<(), String> {
    if is_kept(record) {
        return Ok(());
    }
    let events = decode::<V>(record)?;
    let written = &record.event;
    let is = |event: &V| {
        let schema = event.schema();
        (schema.name, schema.version) == (&*written.name, written.schema_version)
    };
    let current = V::schemas()
        .iter()
        .any(|s| (s.name, s.version) == (&*written.name, written.schema_version));
    if current && !matches!(&events[..], [event] if is(event)) {
        return Err(format!(
            "{} is of the newest version, and decodes to {} event(s) of another name or version.\n\
             The newest version must decode to itself: only older ones go through `Upcast`.",
            described(record),
            events.len()
        ));
    }
    for event in &events {
        let (schema, bytes) = (event.schema(), encode(event)?);
        if current && bytes != written.payload {
            return Err(format!(
                "{} does not decode to itself: it was stored as \"{}\", and what is read back \
                 encodes to \"{}\".\n{LOST} {ORDER}",
                described(record),
                hex(&written.payload),
                hex(&bytes)
            ));
        }
        let again = V::decode(schema.name, schema.version, &bytes)
            .map_err(|error| format!("{schema} does not decode once encoded: {error}.\n{LOST}"))?;
        let same = matches!(&again[..], [again] if encode(again)? == bytes);
        if !same {
            return Err(format!(
                "{schema}, read from {}, is another event once encoded and decoded.\n{LOST} {ORDER}",
                described(record)
            ));
        }
    }
    Ok(())
}

fn encode<V: Event>(event: &V) -> Result<Vec<u8>, String> {
    event.encode().map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
}

fn described(record: &EventRecord) -> String {
    let event = &record.event;
    format!("event {} ({:?} version {})", record.seq, event.name, event.schema_version)
}

/// [`Check::Commands`]: the command as another node would get it.
pub(super) fn command<C: Command>(command: &C) -> Result<C, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        format!("the command {} does not {what}: {error}.\n{LOST}", C::schema())
    };
    let bytes = command.encode().map_err(|error| failed("encode", &error))?;
    let decoded = C::decode(C::VERSION, &bytes).map_err(|error| failed("decode", &error))?;
    let again = decoded.encode().map_err(|error| failed("encode again", &error))?;
    if again == bytes {
        return Ok(decoded);
    }
    Err(format!(
        "the command {} does not survive its encoding: it is sent as \"{}\", and what arrives \
         encodes to \"{}\".\n{LOST} {ORDER}",
        C::schema(),
        hex(&bytes),
        hex(&again)
    ))
}

/// [`Check::Replies`]: the reply as a retry would get it.
pub(super) fn reply<C: Command>(reply: &C::Reply) -> Result<C::Reply, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "the reply to {} does not survive its encoding: {error}.\nA retry with a request id, \
             and a caller on another node, would not get this reply. {LOST}",
            C::schema()
        )
    };
    let bytes = encode_reply::<C>(reply).map_err(|error| failed(&error))?;
    let decoded = decode_reply::<C>(&bytes).map_err(|error| failed(&error))?;
    let (before, after) = (Tree::of(reply), Tree::of(&decoded));
    let (before, after) = (before.map_err(|e| failed(&e))?, after.map_err(|e| failed(&e))?);
    match difference(["replied", "decoded"], &before, &after) {
        None => Ok(decoded),
        Some(where_) => Err(failed(&where_)),
    }
}

/// [`Check::Snapshot`].
pub(super) fn snapshot(seen: &Seen) -> Result<(), String> {
    seen.codec.clone().map_err(|reason| {
        format!(
            "the state at revision {} does not survive its encoding: {reason}.\nAn entity that \
             recovers from a snapshot would have another state, or none. {LOST}",
            seen.revision
        )
    })
}

/// [`Check::Replay`] from the events alone.
pub(super) fn replayed(live: &Seen, replayed: Result<Seen, String>) -> Result<(), String> {
    const ADVICE: &str = "`apply` must follow from its two arguments alone: no clock, no random \
                          numbers, no statics, nothing that a handler left somewhere; and \
                          everything that it needs must be stored in the event (a field that the \
                          encoding drops is not).";
    let replayed = replayed.map_err(|error| {
        format!("the entity cannot be recovered from its events: {error}.\n{ADVICE}")
    })?;
    compare(["in memory", "replayed"], live, &replayed).map_err(|where_| {
        format!(
            "the stored events do not give the state that is in memory.\n{where_}\nAfter a \
             restart the entity would go on with another state. {ADVICE}"
        )
    })
}

/// [`Check::Replay`] from the newest snapshot on, against the events alone.
pub(super) fn agreed(events: &Seen, snapshot: Result<Seen, String>) -> Result<(), String> {
    const ADVICE: &str = "Either the snapshot lacks something (`#[serde(skip)]` in the state), or \
                          `upgrade_state` reads an old one wrongly, or an `Upcast` gives old events \
                          another meaning than they had when the snapshot was taken.";
    let snapshot = snapshot.map_err(|error| {
        format!("the entity cannot be recovered from its snapshot: {error}.\n{ADVICE}")
    })?;
    compare(["from all events", "from the snapshot"], events, &snapshot).map_err(|where_| {
        format!(
            "the newest snapshot and the events after it do not give the state that all events \
             give.\n{where_}\n{ADVICE}"
        )
    })
}

fn compare(names: [&str; 2], one: &Seen, other: &Seen) -> Result<(), String> {
    if one.revision != other.revision {
        let ([a, b], x, y) = (names, one.revision, other.revision);
        return Err(format!("the revision: {a} {x}, {b} {y}"));
    }
    match (&one.tree, &other.tree) {
        (Ok(one), Ok(other)) => difference(names, one, other).map_or(Ok(()), Err),
        (Err(error), _) | (_, Err(error)) => Err(format!("the state does not serialize: {error}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
