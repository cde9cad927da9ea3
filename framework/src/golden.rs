//! Golden bytes: tests that what is stored can still be read, and is still written the same.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{codec::CodecError, command::Command, event::Event};

/// Checks events against their stored bytes; for your tests.
///
/// A row is: the events that the bytes decode to, the name, the version, and the payload in
/// hexadecimal. There must be a row for each name in each version that can be decoded, retired
/// ones too. A row of a current version is checked both ways, an old one by decoding alone. Rows
/// are never changed once released: only added.
///
/// To add a row, leave the bytes empty: the failure says what they are.
///
/// ```
/// use duractor::{Event, Payload, Upcast, golden};
///
/// #[derive(Event)]
/// enum Changed {
///     #[event(version = 2, upcast(1 = AddedV1))]
///     Added { by: i64, note: String },
/// }
/// # #[derive(Payload)] struct AddedV1 { by: i64 }
/// # impl Upcast for AddedV1 {
/// #     type Next = Changed;
/// #     fn upcast(self) -> impl IntoIterator<Item = Changed> {
/// #         [Changed::Added { by: self.by, note: String::new() }]
/// #     }
/// # }
///
/// golden(&[
///     (&[Changed::Added { by: 2, note: "ok".into() }], "Added", 2, "04026f6b"),
///     (&[Changed::Added { by: 2, note: "".into() }], "Added", 1, "04"),
/// ]);
/// ```
///
/// # Panics
/// Where a row does not hold or is missing; the text lists all of them, and says what to do.
#[track_caller]
pub fn golden<E: Event>(rows: &[(&[E], &str, u16, &str)]) {
    let mut failures = String::new();
    for &(events, name, version, hex) in rows {
        if let Err(failure) = check_row(events, name, version, hex) {
            let _ = write!(failures, "\n{name:?} version {version}: {failure}");
        }
    }
    let covered: BTreeSet<_> = rows.iter().map(|&(_, name, version, _)| (name, version)).collect();
    for schema in E::schemas() {
        for version in 1..=schema.version {
            let known = || is_known(E::decode(schema.name, version, &[]));
            if !covered.contains(&(schema.name, version)) && known() {
                let _ = write!(failures, "\n{:?} version {version}: {NO_ROW}", schema.name);
            }
        }
    }
    assert!(failures.is_empty(), "golden bytes of events:{failures}");
}

/// Checks one command against its bytes on the wire; for your tests. There must be a row for each
/// version that can be decoded, with the command that its bytes decode to.
///
/// ```
/// # use duractor::{Command, golden_command};
/// # #[derive(Command)] #[command(reply = ())] struct Add { by: i64 }
/// golden_command(&[(&Add { by: 2 }, 1, "04")]);
/// ```
///
/// # Panics
/// As [`golden()`].
#[track_caller]
pub fn golden_command<C: Command>(rows: &[(&C, u16, &str)]) {
    let mut failures = String::new();
    for &(command, version, hex) in rows {
        if let Err(failure) = check_command(command, version, hex) {
            let _ = write!(failures, "\n{:?} version {version}: {failure}", C::NAME);
        }
    }
    for version in 1..=C::VERSION {
        let covered = rows.iter().any(|&(_, covered, _)| covered == version);
        if !covered && is_known(C::decode(version, &[])) {
            let _ = write!(failures, "\n{:?} version {version}: {NO_ROW}", C::NAME);
        }
    }
    assert!(failures.is_empty(), "golden bytes of a command:{failures}");
}

const NO_ROW: &str = "has no row. Add one, with \"\" for the bytes of a current version; this test \
                      then says what they are.";
const NOT_YET_RELEASED: &str = "If this was never released, put the new bytes into the row.";

fn check_row<E: Event>(events: &[E], name: &str, version: u16, hex: &str) -> Result<(), String> {
    if let [event] = events
        && (event.schema().name, event.schema().version) == (name, version)
    {
        check_bytes(&event.encode().map_err(|error| error.to_string())?, version, hex)?;
    } else if let Some(current) =
        E::schemas().iter().find(|current| current.name == name && current.version < version)
    {
        return Err(format!("the newest version is {}. Was it lowered?", current.version));
    }
    let decoded = E::decode(name, version, &from_hex(hex)?).map_err(cannot_read)?;
    let (found, expected) = (encodings(&decoded)?, encodings(events)?);
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "the bytes decode to {found}, and the row says {expected}. Correct the upcast; or the row, \
         if it is new."
    ))
}

fn check_command<C: Command>(command: &C, version: u16, hex: &str) -> Result<(), String> {
    let bytes = command.encode().map_err(|error| error.to_string())?;
    if version == C::VERSION {
        check_bytes(&bytes, version, hex)?;
    }
    let decoded = C::decode(version, &from_hex(hex)?).map_err(cannot_read)?;
    let found = decoded.encode().map_err(|error| error.to_string())?;
    if found == bytes {
        return Ok(());
    }
    let (found, expected) = (to_hex(&found), to_hex(&bytes));
    Err(format!("the bytes decode to {found}, and the row says {expected}. Correct the upcast."))
}

fn check_bytes(bytes: &[u8], version: u16, hex: &str) -> Result<(), String> {
    let found = to_hex(bytes);
    if found == hex {
        return Ok(());
    }
    if hex.is_empty() {
        return Err(format!("its bytes are \"{found}\": put them into the row."));
    }
    Err(format!(
        "it is stored as \"{found}\" now, and was as \"{hex}\". Undo the change; or keep the old \
         fields as a `#[derive(Payload)]` struct, set `version = {}`, name the struct in \
         `upcast({version} = ...)`, and add a row for the new version. {NOT_YET_RELEASED}",
        version + 1
    ))
}

fn cannot_read(error: CodecError) -> String {
    let advice = match error {
        CodecError::UnknownName { .. } => {
            "A renamed event needs `name = \"...\"`; a removed one needs `retired(...)`."
        }
        CodecError::UnknownVersion { .. } => "An old version needs its type in `upcast(...)`.",
        _ => "The old version's type is not what was stored: it must have just those fields.",
    };
    format!("stored events are not readable any more: {error}. {advice} {NOT_YET_RELEASED}")
}

/// A version below the newest is known unless `oldest` says that it is gone.
fn is_known<T>(decoded_from_nothing: Result<T, CodecError>) -> bool {
    !matches!(decoded_from_nothing, Err(CodecError::UnknownVersion { .. }))
}

/// Events as text, to compare and to show: they need not be `Debug` or `PartialEq`.
fn encodings<E: Event>(events: &[E]) -> Result<String, String> {
    let mut text = String::from("[");
    for event in events {
        let bytes = event.encode().map_err(|error| error.to_string())?;
        let separator = if text.len() > 1 { ", " } else { "" };
        let _ = write!(text, "{separator}{}: \"{}\"", event.schema(), to_hex(&bytes));
    }
    Ok(text + "]")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(hex: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("\"{hex}\" is no hexadecimal text");
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return Err(wrong());
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong()))
        .collect()
}
