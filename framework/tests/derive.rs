//! What the derives store and read back.

use std::collections::{BTreeMap, VecDeque};

use duractor::{
    CodecError, Command, Event, Payload, Schema, SchemaError, Upcast, check_schemas, decode_reply,
    encode_reply,
};
use proptest::{prelude::*, test_runner::RngSeed};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    product: String,
    count: u32,
}

#[derive(Debug, Clone, PartialEq, Event)]
enum OrderEvent {
    #[event(name = "order-placed")]
    Placed {
        customer: String,
        lines: Vec<Line>,
        r#type: Option<char>,
    },
    Paid(u64, i64),
    Noted(Box<str>),
    Cancelled,
}

/// The same events, after a lot of tidying up that changes nothing that is stored.
#[derive(Debug, Clone, PartialEq, Event)]
enum Tidied {
    New {
        ignored: BTreeMap<String, f64>,
    },
    #[event(name = "Cancelled")]
    Withdrawn {},
    Paid {
        cents: u64,
        change: i64,
    },
    Noted(String),
    #[event(name = "order-placed")]
    PlacedByCustomer {
        #[event(rename = "type")]
        aaa: Option<char>,
        #[event(rename = "lines")]
        contents: VecDeque<Line>,
        #[event(rename = "customer")]
        zzz: String,
    },
}

fn order_events() -> impl Strategy<Value = OrderEvent> {
    let line = (".{0,8}", any::<u32>()).prop_map(|(product, count)| Line { product, count });
    prop_oneof![
        (".{0,300}", prop::collection::vec(line, 0..40), any::<Option<char>>())
            .prop_map(|(customer, lines, r#type)| OrderEvent::Placed { customer, lines, r#type }),
        (any::<u64>(), any::<i64>()).prop_map(|(cents, change)| OrderEvent::Paid(cents, change)),
        ".{0,600}".prop_map(|text| OrderEvent::Noted(text.into())),
        Just(OrderEvent::Cancelled),
    ]
}

/// The same cases at every run.
fn cases() -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(0x6475_7261),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn events_come_back(event in order_events()) {
        let (Schema { name, version }, bytes) = (event.schema(), event.encode()?);
        prop_assert_eq!(OrderEvent::decode(name, version, &bytes)?, vec![event]);
    }

    #[test]
    fn order_and_rust_names_are_not_stored(event in order_events()) {
        let (Schema { name, version }, bytes) = (event.schema(), event.encode()?);
        let tidied = Tidied::decode(name, version, &bytes)?.pop().expect("one event");
        prop_assert_eq!(tidied.schema(), event.schema());
        prop_assert_eq!(tidied.encode()?, bytes);
    }

    /// Also the proof that no byte string makes the decoder panic.
    #[test]
    fn what_decodes_has_no_bytes_left_over(
        which in 0..4usize,
        payload in prop::collection::vec(any::<u8>(), 0..64),
        more in 1..5usize,
    ) {
        let Schema { name, version } = OrderEvent::schemas()[which];
        if OrderEvent::decode(name, version, &payload).is_ok() {
            let longer = [payload, vec![0; more]].concat();
            prop_assert!(OrderEvent::decode(name, version, &longer).is_err());
        }
    }

    #[test]
    fn a_payload_that_is_cut_off_does_not_decode(event in order_events()) {
        let (Schema { name, version }, bytes) = (event.schema(), event.encode()?);
        for len in 0..bytes.len() {
            prop_assert!(OrderEvent::decode(name, version, &bytes[..len]).is_err());
        }
    }

    #[test]
    fn fields_may_widen(a in any::<u16>(), b in any::<i16>()) {
        let narrow = Narrow { a, b, c: vec![a] };
        let wide = Wide::decode("number", 1, &narrow.encode()?)?;
        let c = VecDeque::from([Newtype(a.into())]);
        prop_assert_eq!(wide, vec![Wide { a: a.into(), b: Box::new(b.into()), c }]);
    }

    #[test]
    fn replies_come_back(reply in any::<Result<i64, String>>()) {
        let bytes = encode_reply::<Add>(&reply)?;
        prop_assert_eq!(decode_reply::<Add>(&bytes)?, reply);
    }
}

#[derive(Event)]
#[event(name = "number")]
struct Narrow {
    a: u16,
    b: i16,
    c: Vec<u16>,
}

#[derive(Debug, PartialEq, Event)]
#[event(name = "number")]
struct Wide {
    c: VecDeque<Newtype>,
    b: Box<i64>,
    a: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(u64);

/// These bytes are on users' disks. Never change the expectations.
#[test]
fn stored_bytes_are_golden() {
    let line = Line { product: "tea".into(), count: 300 };
    duractor::golden(&[
        (
            &[OrderEvent::Placed { customer: "ada".into(), lines: vec![line], r#type: Some('é') }],
            "order-placed",
            1,
            concat!("03616461", "0103746561ac02", "0102c3a9"),
        ),
        (&[OrderEvent::Paid(300, -2)], "Paid", 1, "ac0203"),
        (&[OrderEvent::Noted("".into())], "Noted", 1, "00"),
        (&[OrderEvent::Cancelled], "Cancelled", 1, ""),
    ]);
}

#[test]
fn schemas_list_every_name_with_its_newest_version() {
    let names: Vec<_> = OrderEvent::schemas().iter().map(|schema| schema.name).collect();
    assert_eq!(names, ["order-placed", "Paid", "Noted", "Cancelled"]);
    assert_eq!(
        Account::schemas(),
        [
            Schema { name: "deposited", version: 3 },
            Schema { name: "Young", version: 5 },
            Schema { name: "Moved", version: 2 },
            Schema { name: "Looked", version: 1 },
        ]
    );
}

#[derive(Debug, PartialEq, Event)]
#[event(retired(name = "Moved", 2 = MovedV2, 1 = MovedV1), retired(name = "Looked", 1 = Looked))]
enum Account {
    #[event(name = "deposited", version = 3, upcast(2 = DepositedV2, 1 = DepositedV1))]
    Deposited { cents: i64, currency: String },
    #[event(version = 5, oldest = 4, upcast(4 = Looked))]
    Young(u8),
}

#[derive(Payload)]
struct DepositedV1(u32);

#[derive(Payload)]
struct DepositedV2 {
    note: Option<String>,
    #[event(rename = "amount")]
    cents: i64,
}

#[derive(Payload)]
struct MovedV1 {
    out: i64,
}

#[derive(Payload)]
struct MovedV2 {
    out: i64,
    times: u8,
}

#[derive(Payload)]
struct Looked;

impl Upcast for DepositedV1 {
    type Next = DepositedV2;
    fn upcast(self) -> impl IntoIterator<Item = DepositedV2> {
        [DepositedV2 { note: None, cents: i64::from(self.0) * 100 }]
    }
}

impl Upcast for DepositedV2 {
    type Next = Account;
    fn upcast(self) -> impl IntoIterator<Item = Account> {
        let currency = self.note.unwrap_or("EUR".into());
        [Account::Deposited { cents: self.cents, currency }]
    }
}

impl Upcast for MovedV1 {
    type Next = MovedV2;
    fn upcast(self) -> impl IntoIterator<Item = MovedV2> {
        // Split: one became two, to see that a chain multiplies.
        [MovedV2 { out: self.out, times: 1 }, MovedV2 { out: self.out + 1, times: 2 }]
    }
}

impl Upcast for MovedV2 {
    type Next = Account;
    fn upcast(self) -> impl IntoIterator<Item = Account> {
        (0..self.times).map(move |_| Account::Deposited { cents: -self.out, currency: "".into() })
    }
}

impl Upcast for Looked {
    type Next = Account;
    fn upcast(self) -> impl IntoIterator<Item = Account> {
        []
    }
}

fn deposited(cents: i64, currency: &str) -> Account {
    Account::Deposited { cents, currency: currency.into() }
}

#[test]
fn old_versions_are_brought_up_step_by_step() {
    duractor::golden(&[
        (&[deposited(5, "USD")], "deposited", 3, "0a03555344"),
        (&[deposited(5, "USD")], "deposited", 2, "0a0103555344"),
        (&[deposited(700, "EUR")], "deposited", 1, "07"),
        (&[Account::Young(200)], "Young", 5, "c8"),
        (&[], "Young", 4, ""),
        (&[deposited(-1, ""), deposited(-1, "")], "Moved", 2, "0202"),
        (&[deposited(-1, ""), deposited(-2, ""), deposited(-2, "")], "Moved", 1, "02"),
        (&[], "Looked", 1, ""),
    ]);
}

#[test]
fn what_is_unknown_is_refused_by_name_and_version() {
    let unknown = |version, newest| {
        let name = if newest == 3 { "deposited" } else { "Young" };
        CodecError::UnknownVersion { name: name.into(), version, newest }
    };
    assert_eq!(Account::decode("deposited", 4, &[]), Err(unknown(4, 3)));
    assert_eq!(Account::decode("deposited", 0, &[]), Err(unknown(0, 3)));
    assert_eq!(Account::decode("Young", 3, &[]), Err(unknown(3, 5)));
    let name = "Deposited".to_owned();
    assert_eq!(Account::decode("Deposited", 1, &[7]), Err(CodecError::UnknownName { name }));
}

#[test]
fn an_error_names_the_field() {
    let reason = |payload: &[u8]| match OrderEvent::decode("Paid", 1, payload) {
        Err(CodecError::Malformed { name, version: 1, reason }) if name == "Paid" => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(&[1]).contains("field `1`"), "{}", reason(&[1]));
    assert!(reason(&[]).contains("field `0`"), "{}", reason(&[]));
    assert_eq!(reason(&[1, 1, 1, 1]), "2 bytes are left over after the last field");
}

#[derive(Event)]
struct Unencodable {
    fine: u8,
    broken: Broken,
}

#[derive(Deserialize)]
struct Broken;

impl Serialize for Broken {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

#[test]
fn a_field_that_cannot_be_encoded_is_named() {
    let error = Unencodable { fine: 1, broken: Broken }.encode().expect_err("broken");
    assert!(matches!(&error, CodecError::Encode { name, .. } if name == "Unencodable"));
    assert!(error.to_string().contains("field `broken`"), "{error}");
}

/// All events may be retired, and an entity may have none at all.
#[test]
fn an_enum_without_variants_is_an_event_type() {
    #[derive(Debug, PartialEq, Event)]
    #[event(retired(name = "Seen", 1 = Seen))]
    enum Never {}

    #[derive(Payload)]
    struct Seen {}

    impl Upcast for Seen {
        type Next = Never;
        fn upcast(self) -> impl IntoIterator<Item = Never> {
            []
        }
    }
    assert_eq!(Never::decode("Seen", 1, &[]), Ok(vec![]));
    assert!(Never::decode("Never", 1, &[]).is_err());
}

/// A stack buffer takes small payloads and the heap the others: the seam must not show.
#[test]
fn payloads_of_every_length_come_back() {
    for len in 0..1100 {
        let event = OrderEvent::Noted("x".repeat(len).into());
        let bytes = event.encode().expect("encodes");
        assert_eq!(bytes.len(), len + if len < 128 { 1 } else { 2 });
        assert_eq!(OrderEvent::decode("Noted", 1, &bytes), Ok(vec![event]));
    }
}

/// More fields than a serde tuple can have, and names that generated code might use itself.
#[test]
fn fields_do_not_collide_with_generated_code() {
    #[derive(Debug, PartialEq, Event)]
    struct Many {
        name: u8,
        version: u8,
        payload: u8,
        out: u8,
        self_: u8,
        a: [u8; 3],
        b: (u8, u8),
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
    }
    let event = Many {
        name: 1,
        version: 2,
        payload: 3,
        out: 4,
        self_: 5,
        a: [6, 7, 8],
        b: (9, 10),
        c: 11,
        d: 12,
        e: 13,
        f: 14,
        g: 15,
        h: 16,
        i: 17,
        j: 18,
        k: 19,
        l: 20,
        m: 21,
    };
    let bytes = event.encode().expect("encodes");
    assert_eq!(bytes.len(), 21);
    assert_eq!(Many::decode("Many", 1, &bytes), Ok(vec![event]));
}

#[derive(Debug, PartialEq, Command)]
#[command(name = "add", reply = Result<i64, String>, version = 3)]
#[command(upcast(1 = AddV1, 2 = AddV2))]
struct Add {
    by: i64,
    #[command(rename = "a-note")]
    note: String,
}

#[derive(Payload)]
struct AddV1(i32);

#[derive(Payload)]
struct AddV2 {
    by: i64,
}

impl From<AddV1> for AddV2 {
    fn from(old: AddV1) -> Self {
        AddV2 { by: old.0.into() }
    }
}

impl From<AddV2> for Add {
    fn from(old: AddV2) -> Self {
        Add { by: old.by, note: String::new() }
    }
}

#[derive(Debug, PartialEq, Command)]
#[command(reply = ())]
struct Reset;

#[test]
fn commands_come_back_from_every_version() {
    duractor::golden_command(&[
        (&Add { by: 2, note: "x".into() }, 3, "017804"),
        (&Add { by: 2, note: "".into() }, 2, "04"),
        (&Add { by: 2, note: "".into() }, 1, "04"),
    ]);
    duractor::golden_command(&[(&Reset, 1, "")]);
    assert_eq!(
        Add::decode(4, &[]),
        Err(CodecError::UnknownVersion { name: "add".into(), version: 4, newest: 3 })
    );
}

/// A request id that was used for one command and comes again with another one must not get the
/// first reply's bytes read as its own.
#[test]
fn a_reply_is_only_read_as_what_it_is() {
    #[derive(Command)]
    #[command(name = "add", reply = Result<i64, String>, version = 2, oldest = 2)]
    struct OtherVersion;

    let bytes = encode_reply::<Add>(&Ok(7)).expect("encodes");
    assert_eq!(bytes, &b"\x03add\x03\x00\x0e"[..]);
    assert!(matches!(decode_reply::<Reset>(&bytes), Err(CodecError::OtherReply { .. })));
    assert!(matches!(decode_reply::<OtherVersion>(&bytes), Err(CodecError::OtherReply { .. })));
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(decode_reply::<Add>(&longer), Err(CodecError::Malformed { .. })));
}

#[test]
fn schemas_that_stand_beside_each_other_are_checked() {
    const LONG: &str = match std::str::from_utf8(&[b'x'; 256]) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    };
    let check = |names: &[(&'static str, u16)]| {
        check_schemas(
            &names.iter().map(|&(name, version)| Schema { name, version }).collect::<Vec<_>>(),
        )
    };
    assert_eq!(check(&[("a", 1), ("b", 9), (&LONG[..255], 1)]), Ok(()));
    assert_eq!(check(&[("a", 1), ("", 1)]), Err(SchemaError::EmptyName));
    assert_eq!(check(&[(LONG, 1)]), Err(SchemaError::LongName { name: LONG, bytes: 256 }));
    assert_eq!(check(&[("a", 0)]), Err(SchemaError::VersionZero { name: "a" }));
    assert_eq!(check(&[("a", 1), ("b", 1), ("a", 2)]), Err(SchemaError::Duplicate { name: "a" }));
}
