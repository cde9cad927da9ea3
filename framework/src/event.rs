//! Events: what is stored, and how it may change once it is.
//!
//! An event is a fact that an entity has persisted. It stays in the journal, often for years, and
//! every release of the application must still read it. This page is about that.
//!
//! # What is stored
//! Of each event, three things: its **name**, the **version** of its schema, and its **fields**.
//!
//! ```
//! use duractor::{Event, Schema};
//!
//! #[derive(Event)]
//! enum OrderEvent {
//!     #[event(name = "order-placed")]
//!     Placed { customer: String, total_cents: u64 },
//!     Paid(u64),
//!     Cancelled,
//! }
//!
//! let event = OrderEvent::Placed { customer: "ada".into(), total_cents: 999 };
//! assert_eq!(event.schema(), Schema { name: "order-placed", version: 1 });
//! // `customer` (its length, then the text), then `total_cents` (as a varint): nothing else.
//! assert_eq!(event.encode()?, &b"\x03ada\xe7\x07"[..]);
//! # Ok::<(), duractor::CodecError>(())
//! ```
//!
//! Each variant is an event of its own; a plain struct is one event. The name is the identifier
//! unless `name = "..."` says otherwise, and the version is 1 unless `version = n` says otherwise.
//! The name of the Rust type, its module, and the order of variants are not stored. Named fields
//! are stored in the order of their names, so their order in source is of no account either.
//!
//! What cannot be read is never skipped or guessed: an unknown name, an unknown version, missing
//! bytes or bytes left over quarantine the entity, with an error that says which event it was.
//! Nothing is lost by that: a release that knows the event reads it again.
//!
//! # What may change freely
//! | change | what to do |
//! |---|---|
//! | reorder variants | nothing |
//! | reorder named fields | nothing |
//! | add a variant | nothing |
//! | rename the enum or struct, or move it | nothing, except a struct needs `name = "OldName"` |
//! | rename a variant | `#[event(name = "OldName")]` on the variant |
//! | rename a named field | `#[event(rename = "old_name")]` on the field |
//! | turn a tuple variant into named fields | nothing, if their names are in the order of position |
//! | change a field to a type with equal bytes | nothing: `u16 → u32 → u64`, `i16 → i32 → i64`, `T → Box<T>`, `Vec<T> → VecDeque<T>`, `T →` a newtype of `T` |
//!
//! ```
//! use duractor::Event;
//!
//! #[derive(Event)]
//! enum Before {
//!     Placed { total: u32, customer: String },
//!     Paid(u64),
//! }
//!
//! #[derive(Event)]
//! enum After {
//!     Cancelled,
//!     #[event(name = "Paid")]
//!     Settled(u64),
//!     Placed {
//!         customer: String,
//!         #[event(rename = "total")]
//!         total_cents: u64,
//!     },
//! }
//!
//! let old = Before::Placed { total: 5, customer: "ada".into() };
//! let new = After::Placed { customer: "ada".into(), total_cents: 5 };
//! assert_eq!(old.schema(), new.schema());
//! assert_eq!(old.encode()?, new.encode()?);
//! # Ok::<(), duractor::CodecError>(())
//! ```
//!
//! # What needs a new version
//! Everything else that changes the bytes or **what they mean**: adding or removing a field, a
//! field's type, its unit (`total` in cents, then in euros: equal bytes, another meaning), the
//! order of unnamed fields. Also any such change *inside a field's type*:
//!
//! > Only the event's own fields are stored by name. The types within are encoded by serde in the
//! > order of source: for them, adding, removing or **reordering** fields and variants changes the
//! > bytes. Adding a variant at the end of an inner enum is safe. Serde's `skip_serializing_if`,
//! > `flatten`, `untagged` and `tag = "..."` do not work in a format without names, at any depth.
//!
//! Keep types that are only ever used in events beside the events, and do not put into an event a
//! type that other code wants to change. [Golden bytes](#golden-bytes) find what slips through.
//!
//! To change an event:
//! 1. Copy its fields into a struct with `#[derive(Payload)]`, named after the old version.
//! 2. Change the event, add one to its `version`, and name the struct in `upcast`.
//! 3. Write [`Upcast`]: from the old fields to the event.
//!
//! ```
//! use duractor::{Event, Payload, Upcast};
//!
//! #[derive(Event, Debug, PartialEq)]
//! enum OrderEvent {
//!     #[event(version = 2, upcast(1 = PlacedV1))]
//!     Placed { customer: String, total_cents: u64 },
//! }
//!
//! /// Version 1 had whole euros.
//! #[derive(Payload)]
//! struct PlacedV1 {
//!     customer: String,
//!     euros: u32,
//! }
//!
//! impl Upcast for PlacedV1 {
//!     type Next = OrderEvent;
//!     fn upcast(self) -> impl IntoIterator<Item = OrderEvent> {
//!         let total_cents = u64::from(self.euros) * 100;
//!         [OrderEvent::Placed { customer: self.customer, total_cents }]
//!     }
//! }
//!
//! assert_eq!(
//!     OrderEvent::decode("Placed", 1, b"\x03ada\x09")?,
//!     [OrderEvent::Placed { customer: "ada".into(), total_cents: 900 }]
//! );
//! # Ok::<(), duractor::CodecError>(())
//! ```
//!
//! With version 3, `PlacedV2` joins, and only the newest old version knows the event: version 1
//! becomes version 2, which becomes the event. So no `Upcast` is ever rewritten, except for the
//! one line that says what comes next. A version that is left out does not compile.
//!
//! ```
//! # use duractor::{Event, Payload, Upcast};
//! # #[derive(Event)]
//! # enum OrderEvent {
//! #[event(version = 3, upcast(1 = PlacedV1, 2 = PlacedV2))]
//! # Placed { total_cents: u64, currency: String },
//! # }
//! # #[derive(Payload)] struct PlacedV1 { euros: u32 }
//! # #[derive(Payload)] struct PlacedV2 { total_cents: u64 }
//! # impl Upcast for PlacedV1 {
//! #     type Next = PlacedV2; // was: OrderEvent
//! #     fn upcast(self) -> impl IntoIterator<Item = PlacedV2> { Some(PlacedV2 { total_cents: u64::from(self.euros) * 100 }) }
//! # }
//! # impl Upcast for PlacedV2 {
//! #     type Next = OrderEvent;
//! #     fn upcast(self) -> impl IntoIterator<Item = OrderEvent> { Some(OrderEvent::Placed { total_cents: self.total_cents, currency: "EUR".into() }) }
//! # }
//! # assert_eq!(OrderEvent::decode("Placed", 1, &[9]).unwrap().len(), 1);
//! ```
//!
//! An upcast yields any number of events: several where one became too big and was split, none
//! where it says nothing any more. The stored event keeps its one sequence number. An upcast must
//! be pure, and must not fail or panic: where old data can be odd, choose what it means now.
//!
//! # Retiring an event
//! An event that is no longer written is still stored. Removing its variant alone would quarantine
//! every entity that has one. Retire its name instead, on the enum; the variant can then go, and
//! `apply` no longer has to know about it:
//!
//! ```
//! use duractor::{Event, Payload, Upcast};
//!
//! #[derive(Event, Debug, PartialEq)]
//! #[event(retired(name = "PaidInTwo", 1 = PaidInTwo))] // became two payments
//! #[event(retired(name = "Viewed", 1 = Viewed))] // means nothing any more
//! enum OrderEvent {
//!     Paid { cents: u64 },
//! }
//!
//! #[derive(Payload)]
//! struct PaidInTwo(u64, u64);
//!
//! impl Upcast for PaidInTwo {
//!     type Next = OrderEvent;
//!     fn upcast(self) -> impl IntoIterator<Item = OrderEvent> {
//!         [OrderEvent::Paid { cents: self.0 }, OrderEvent::Paid { cents: self.1 }]
//!     }
//! }
//!
//! #[derive(Payload)]
//! struct Viewed {}
//!
//! impl Upcast for Viewed {
//!     type Next = OrderEvent;
//!     fn upcast(self) -> impl IntoIterator<Item = OrderEvent> {
//!         []
//!     }
//! }
//!
//! assert_eq!(OrderEvent::decode("PaidInTwo", 1, &[3, 4])?.len(), 2);
//! assert_eq!(OrderEvent::decode("Viewed", 1, &[])?, []);
//! # Ok::<(), duractor::CodecError>(())
//! ```
//!
//! A retired name stays taken: giving it to another event does not compile.
//!
//! Once no journal holds versions before `n` (their events were deleted below snapshots, in every
//! environment and every backup that may be restored), `oldest = n` beside `version` or in
//! `retired` lets their types go. If one does turn up, it is refused like any unknown version.
//!
//! # Upgrading a cluster
//! A release reads everything older than itself and nothing newer. While nodes of two releases
//! run, or when a release is rolled back, an old node can meet an event that it does not know; it
//! quarantines that entity until a newer release runs it. To never see that, ship a new event in
//! two steps: first the release that can read it, then the one that writes it.
//!
//! # Golden bytes
//! A compiler does not see what is on disk. [`golden`](crate::golden()) does: a test with the
//! stored bytes of each event in each version. It fails when a change of code changes what is
//! stored, and says what to do about it; it also fails until each version has its row.

use bytes::Bytes;

use crate::codec::{CodecError, Schema};

/// Events of one entity kind: an enum, or a struct where there is but one.
///
/// See the [module's page](self) for what is stored and how events may change.
///
/// # Attributes of the derive
/// On a variant, or on a struct, as `#[event(...)]`:
///
/// | | |
/// |---|---|
/// | `name = "order-placed"` | The stable name, 1 to 255 bytes. The identifier unless given. |
/// | `version = 2` | The version of the fields. 1 unless given. |
/// | `upcast(1 = PlacedV1)` | What each older version is decoded as: a [`Payload`](crate::Payload) with [`Upcast`]. |
/// | `oldest = 2` | The oldest version that may still be stored. 1 unless given. |
///
/// On the enum or struct: `retired(name = "...", 1 = OldType)` keeps decoding a name whose variant
/// is gone; once per name. On a named field: `rename = "..."`, its stable name where the field was
/// renamed.
///
/// Field types must implement serde's `Serialize` and `Deserialize`; the event itself need not.
/// Events are not generic: a name must say what is stored.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "add `#[derive(duractor::Event)]` to this type"
)]
pub trait Event: Sized + Send + Sync + 'static {
    /// Every name that is known, each with its newest version: that of each variant, then the
    /// retired ones.
    fn schemas() -> &'static [Schema];

    /// What this event is stored as.
    fn schema(&self) -> Schema;

    /// The fields as bytes, of the version that [`schema`](Self::schema) says.
    ///
    /// # Errors
    /// [`CodecError::Encode`] where a field cannot be serialized.
    fn encode(&self) -> Result<Bytes, CodecError>;

    /// Back from what is stored: one event, or what an old one is upcast to, which may be several
    /// or none.
    ///
    /// # Errors
    /// [`CodecError::UnknownName`] and [`CodecError::UnknownVersion`] for what this type does not
    /// know; [`CodecError::Malformed`] where the bytes are not of that version, to the last byte.
    fn decode(name: &str, version: u16, payload: &[u8]) -> Result<Vec<Self>, CodecError>;
}

/// From an old version of an event to the next one: to the payload of the version after it, or, for
/// the newest old version, to the event.
///
/// Must be pure: it runs at every recovery of an entity, and the same bytes must give the same
/// events each time.
#[diagnostic::on_unimplemented(
    message = "there is no way from `{Self}` to the next version",
    label = "write `impl duractor::Upcast` for this type"
)]
pub trait Upcast: Sized {
    /// What it becomes.
    type Next;

    /// One for one as a rule; several where the event was split, none where it is dropped.
    fn upcast(self) -> impl IntoIterator<Item = Self::Next>;
}

/// One step of a chain. That the types meet is checked here, at compile time.
#[doc(hidden)]
pub fn upcast<A: Upcast<Next = B>, B>(old: Vec<A>) -> Vec<B> {
    old.into_iter().flat_map(Upcast::upcast).collect()
}
