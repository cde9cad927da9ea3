//! What `golden` says when stored events and code no longer fit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use duractor::{Command, Event, Payload, Upcast, golden, golden_command};

#[derive(Event)]
enum Changed {
    #[event(version = 2, upcast(1 = AddedV1))]
    Added {
        by: i64,
    },
    Reset,
}

#[derive(Payload)]
struct AddedV1(u8);

impl Upcast for AddedV1 {
    type Next = Changed;
    fn upcast(self) -> impl IntoIterator<Item = Changed> {
        [Changed::Added { by: self.0.into() }]
    }
}

type Row<'a> = (&'a [Changed], &'a str, u16, &'a str);

const ADDED: Row<'_> = (&[Changed::Added { by: 2 }], "Added", 2, "04");
const ADDED_V1: Row<'_> = (&[Changed::Added { by: 2 }], "Added", 1, "02");
const RESET: Row<'_> = (&[Changed::Reset], "Reset", 1, "");

/// The failure text, or nothing.
fn failure(rows: &[Row<'_>]) -> String {
    match catch_unwind(AssertUnwindSafe(|| golden(rows))) {
        Ok(()) => String::new(),
        Err(panic) => *panic.downcast::<String>().expect("a text"),
    }
}

#[test]
fn rows_that_hold_pass() {
    assert_eq!(failure(&[ADDED, ADDED_V1, RESET]), "");
}

#[test]
fn other_bytes_ask_for_a_version() {
    let text = failure(&[(ADDED.0, "Added", 2, "06"), ADDED_V1, RESET]);
    assert!(text.contains("\"Added\" version 2: it is stored as \"04\" now, and was as \"06\""));
    assert!(text.contains("set `version = 3`, name the struct in `upcast(2 = ...)`"), "{text}");
}

#[test]
fn a_new_row_is_told_its_bytes() {
    let text = failure(&[(ADDED.0, "Added", 2, ""), ADDED_V1, RESET]);
    assert!(text.contains("its bytes are \"04\""), "{text}");
}

#[test]
fn each_version_must_have_a_row() {
    let text = failure(&[ADDED]);
    assert!(text.contains("\"Added\" version 1: has no row"), "{text}");
    assert!(text.contains("\"Reset\" version 1: has no row"), "{text}");
    assert!(!text.contains("\"Added\" version 2"), "{text}");
}

#[test]
fn an_upcast_that_says_something_else_is_found() {
    let text = failure(&[ADDED, (&[Changed::Added { by: 3 }], "Added", 1, "02"), RESET]);
    assert!(text.contains("decode to [\"Added\" version 2: \"04\"]"), "{text}");
    assert!(text.contains("says [\"Added\" version 2: \"06\"]"), "{text}");
}

#[test]
fn events_that_cannot_be_read_any_more_are_found() {
    let text = failure(&[ADDED, ADDED_V1, RESET, (&[], "Removed", 1, "")]);
    assert!(text.contains("a removed one needs `retired(...)`"), "{text}");
    let text = failure(&[ADDED, ADDED_V1, RESET, (ADDED.0, "Added", 3, "04")]);
    assert!(text.contains("the newest version is 2. Was it lowered?"), "{text}");
    let text = failure(&[ADDED, (ADDED.0, "Added", 1, "0202"), RESET]);
    assert!(text.contains("it must have just those fields"), "{text}");
    let text = failure(&[ADDED, (ADDED.0, "Added", 1, "0x"), RESET]);
    assert!(text.contains("\"0x\" is no hexadecimal text"), "{text}");
}

#[derive(Command)]
#[command(reply = (), version = 3, oldest = 2, upcast(2 = AddV2))]
struct Add {
    by: i64,
}

#[derive(Payload)]
struct AddV2(u8);

impl From<AddV2> for Add {
    fn from(old: AddV2) -> Self {
        Add { by: old.0.into() }
    }
}

#[test]
fn commands_are_checked_alike() {
    let failure = |rows: &[(&Add, u16, &str)]| match catch_unwind(AssertUnwindSafe(|| {
        golden_command(rows);
    })) {
        Ok(()) => String::new(),
        Err(panic) => *panic.downcast::<String>().expect("a text"),
    };
    let two = &Add { by: 2 };
    assert_eq!(failure(&[(two, 3, "04"), (two, 2, "02")]), "");
    let text = failure(&[(two, 3, "04")]);
    assert!(text.contains("\"Add\" version 2: has no row"), "{text}");
    assert!(!text.contains("version 1"), "{text}");
    let text = failure(&[(two, 3, "06"), (two, 2, "03")]);
    assert!(text.contains("is stored as \"04\" now, and was as \"06\""), "{text}");
    assert!(text.contains("the bytes decode to 06, and the row says 04"), "{text}");
}
