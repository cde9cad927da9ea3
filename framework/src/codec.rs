//! How events, commands and replies become bytes: a stable name, a schema version, and the fields.
//!
//! The fields are encoded one after the other with [postcard](https://docs.rs/postcard), with
//! nothing before, between or after them:
//!
//! ```text
//! named fields    in the order of their stable names (bytewise), whatever their order in source
//! unnamed fields  by position
//! no fields       no bytes
//! ```
//!
//! Neither the name nor the version is in the payload: the journal's record holds them beside it.
//! [`event`](crate::event) says what may change in an event once it is stored.

use std::fmt;

use bytes::Bytes;
use duractor_journal::{Effect, record::MAX_NAME_BYTES};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};

/// The stable name of an event or command, and the version of its payload's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Schema {
    /// What it is stored as: 1 to 255 bytes of UTF-8.
    pub name: &'static str,
    /// Counted from 1.
    pub version: u16,
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} version {}", self.name, self.version)
    }
}

/// Why an event, a command or a reply could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No event or command of the type has this name. It was removed without being retired, or it
    /// was written by a newer release.
    #[error(
        "{name:?} is not known here: it was removed and not retired, or comes from a newer release"
    )]
    UnknownName {
        /// The name that was asked for.
        name: String,
    },
    /// The name is known, and this version of it is not.
    #[error("{name:?} is known up to version {newest}, and version {version} has no decoder here")]
    UnknownVersion {
        /// The name, which is known.
        name: String,
        /// The version that was asked for.
        version: u16,
        /// The newest version that is known.
        newest: u16,
    },
    /// The bytes are not what this name and version says. Either the type was changed without a
    /// new version, or the bytes are damaged.
    #[error("the payload of {name:?} version {version} does not decode: {reason}")]
    Malformed {
        /// The name.
        name: String,
        /// The version.
        version: u16,
        /// Which field, and what is wrong with it.
        reason: String,
    },
    /// The value has no encoding, as where a field's own `Serialize` fails.
    #[error("{name:?} does not encode: {reason}")]
    Encode {
        /// The name.
        name: String,
        /// Which field, and what is wrong with it.
        reason: String,
    },
    /// A stored reply belongs to another command, or to another version of it. So it is where a
    /// request id was used again for something else.
    #[error("the stored reply answers {found}, and the command is {expected}")]
    OtherReply {
        /// Name and version of the command that the reply was wanted for.
        expected: String,
        /// Name and version of the command that was answered.
        found: String,
    },
}

impl CodecError {
    /// Nothing was written: encoding comes before every write, and decoding changes nothing.
    #[must_use]
    pub fn effect(&self) -> Effect {
        Effect::None
    }
}

/// Why a list of schemas cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A name has no characters.
    #[error("a name must not be empty")]
    EmptyName,
    /// A name is too long for a record.
    #[error("the name {name:?} has {bytes} bytes, and at most {MAX_NAME_BYTES} are allowed")]
    LongName {
        /// The name.
        name: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// Versions count from 1.
    #[error("{name:?} has version 0, and versions count from 1")]
    VersionZero {
        /// The name.
        name: &'static str,
    },
    /// Names that begin with `duractor.` are the framework's.
    #[error("the name {name:?} is taken: those that begin with `duractor.` are the framework's")]
    Reserved {
        /// The name.
        name: &'static str,
    },
    /// Two events, or two commands, have the same name: what is stored could mean either.
    #[error("two of them are called {name:?}: give one another name")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
}

impl SchemaError {
    /// Nothing was done: the check is made before a node starts.
    #[must_use]
    pub fn effect(&self) -> Effect {
        Effect::None
    }
}

/// Checks names and versions that must stand beside each other: all events of one entity kind, or
/// all its commands. The derives check each type by itself at compile time; this check also sees
/// names across types, and types whose traits were written by hand.
///
/// # Errors
/// [`SchemaError`] says which name is wrong. The first in the list is reported.
///
/// ```
/// use duractor::{Schema, SchemaError, check_schemas};
/// let add = Schema { name: "add", version: 1 };
/// assert_eq!(check_schemas(&[add, add]), Err(SchemaError::Duplicate { name: "add" }));
/// ```
pub fn check_schemas(schemas: &[Schema]) -> Result<(), SchemaError> {
    for (i, &Schema { name, version }) in schemas.iter().enumerate() {
        if name.is_empty() {
            return Err(SchemaError::EmptyName);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(SchemaError::LongName { name, bytes: name.len() });
        }
        if version == 0 {
            return Err(SchemaError::VersionZero { name });
        }
        if schemas[..i].iter().any(|earlier| earlier.name == name) {
            return Err(SchemaError::Duplicate { name });
        }
    }
    Ok(())
}

/// The fields of one version of an event or command: what an old version is decoded as.
///
/// `#[derive(Payload)]` implements it for a struct with the fields that the version had. Field
/// order is of no account, as everywhere; `#[event(rename = "...")]` and `#[command(rename =
/// "...")]` on a field give its stable name. A type that only derives serde's `Deserialize` will
/// not do: serde takes the fields in the order of source, which is not the order of storage.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the payload of an old version",
    label = "add `#[derive(duractor::Payload)]` to this struct",
    note = "serde's `Deserialize` is not enough: it depends on the order of fields in source"
)]
pub trait Payload: Sized {
    /// Decodes the fields. `name` and `version` are for the error's text.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] where the bytes are not exactly these fields.
    fn decode(name: &str, version: u16, payload: &[u8]) -> Result<Self, CodecError>;
}

/// Writes the fields of one payload, in the order of the calls.
#[doc(hidden)]
pub struct Encoder {
    name: &'static str,
    serializer: postcard::Serializer<Buffer>,
}

impl Encoder {
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, serializer: postcard::Serializer { output: Buffer::new() } }
    }

    pub fn field<T>(&mut self, field: &'static str, value: &T) -> Result<(), CodecError>
    where
        T: Serialize + ?Sized,
    {
        value.serialize(&mut self.serializer).map_err(|error| CodecError::Encode {
            name: self.name.to_owned(),
            reason: format!("field `{field}`: {error}"),
        })
    }

    #[must_use]
    pub fn finish(self) -> Bytes {
        self.serializer.output.into_bytes()
    }
}

/// Reads the fields of one payload, in the order of the calls.
#[doc(hidden)]
pub struct Decoder<'a> {
    name: &'a str,
    version: u16,
    deserializer: postcard::Deserializer<'a, postcard::de_flavors::Slice<'a>>,
}

impl<'a> Decoder<'a> {
    #[must_use]
    pub fn new(name: &'a str, version: u16, payload: &'a [u8]) -> Self {
        Self { name, version, deserializer: postcard::Deserializer::from_bytes(payload) }
    }

    pub fn field<T: DeserializeOwned>(&mut self, field: &'static str) -> Result<T, CodecError> {
        T::deserialize(&mut self.deserializer)
            .map_err(|error| self.malformed(format!("field `{field}`: {error}")))
    }

    /// All bytes must have been read: bytes left over mean that the fields were others.
    pub fn finish(self) -> Result<(), CodecError> {
        let Self { name, version, deserializer } = self;
        let rest = deserializer.finalize().map_or(0, <[u8]>::len);
        if rest == 0 {
            return Ok(());
        }
        let reason = format!("{rest} bytes are left over after the last field");
        Err(CodecError::Malformed { name: name.to_owned(), version, reason })
    }

    fn malformed(&self, reason: String) -> CodecError {
        CodecError::Malformed { name: self.name.to_owned(), version: self.version, reason }
    }
}

/// The error for a name and version that no decoder took.
#[doc(hidden)]
#[must_use]
pub fn unknown(schemas: &[Schema], name: &str, version: u16) -> CodecError {
    let name = name.to_owned();
    match schemas.iter().find(|schema| schema.name == name) {
        Some(Schema { version: newest, .. }) => {
            CodecError::UnknownVersion { name, version, newest: *newest }
        }
        None => CodecError::UnknownName { name },
    }
}

/// Most payloads fit here, so that encoding allocates once, and exactly what it needs.
const INLINE_BYTES: usize = 256;

/// Where postcard writes to: on the stack first, on the heap from there on.
struct Buffer {
    inline: [u8; INLINE_BYTES],
    len: usize,
    heap: Vec<u8>,
}

impl Buffer {
    fn new() -> Self {
        Self { inline: [0; INLINE_BYTES], len: 0, heap: Vec::new() }
    }

    fn into_bytes(self) -> Bytes {
        if self.heap.is_empty() {
            Bytes::copy_from_slice(&self.inline[..self.len])
        } else {
            // Exact, because an event waits in memory until it is committed.
            Bytes::from(self.heap.into_boxed_slice())
        }
    }
}

impl Flavor for Buffer {
    type Output = Bytes;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        let end = self.len + data.len();
        if self.heap.is_empty() && end <= INLINE_BYTES {
            self.inline[self.len..end].copy_from_slice(data);
            self.len = end;
            return Ok(());
        }
        if self.heap.is_empty() {
            self.heap.reserve(end.max(2 * INLINE_BYTES));
            self.heap.extend_from_slice(&self.inline[..self.len]);
        }
        self.heap.extend_from_slice(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Bytes> {
        Ok(self.into_bytes())
    }
}
