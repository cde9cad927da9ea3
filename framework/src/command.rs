//! Commands: what is asked of an entity, and the reply that each must get.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{CodecError, Decoder, Encoder, Schema};

/// A command: a struct with the type of its reply.
///
/// ```
/// use duractor::Command;
///
/// #[derive(Command)]
/// #[command(reply = i64)]
/// struct Add {
///     by: i64,
/// }
/// assert_eq!((Add::NAME, Add::VERSION), ("Add", 1));
///
/// let bytes = Add { by: 2 }.encode()?;
/// assert_eq!(Add::decode(1, &bytes)?.by, 2);
/// # Ok::<(), duractor::CodecError>(())
/// ```
///
/// # Attributes of the derive
/// On the struct, as `#[command(...)]`:
///
/// | | |
/// |---|---|
/// | `reply = Type` | The type of the reply; `()` for none but the confirmation. Must be given. A failure that the caller should see is a reply too: `reply = Result<Receipt, Refused>`. |
/// | `name = "add"` | The stable name, 1 to 255 bytes. The identifier unless given. |
/// | `version = 2` | The version of the fields **and of the reply**. 1 unless given. |
/// | `upcast(1 = AddV1)` | What the older versions are decoded as: a struct with `#[derive(Payload)]`, and `From<AddV1>` for the next version or for the command itself. |
/// | `oldest = 2` | The oldest version that may still arrive. 1 unless given. |
///
/// On a named field: `#[command(rename = "old")]`, its stable name where the field was renamed.
///
/// # Changing a command
/// While a cluster is upgraded, nodes of two releases talk to each other, so the rules are those
/// of [`event`](crate::event): order is of no account, everything else takes a new version. A node
/// that gets a version it does not know refuses the command, typed, and nothing has happened.
///
/// ```
/// use duractor::{Command, Payload};
///
/// #[derive(Command)]
/// #[command(reply = i64, version = 2, upcast(1 = AddV1))]
/// struct Add {
///     by: i64,
///     note: Option<String>,
/// }
///
/// /// Version 1 had no note.
/// #[derive(Payload)]
/// struct AddV1 {
///     by: i64,
/// }
///
/// impl From<AddV1> for Add {
///     fn from(old: AddV1) -> Add {
///         Add { by: old.by, note: None }
///     }
/// }
/// # assert_eq!(Add::decode(1, &[4]).unwrap().by, 2);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    label = "add `#[derive(duractor::Command)]` and `#[command(reply = ...)]` to this struct"
)]
pub trait Command: Sized + Send + 'static {
    /// What the entity answers. Kept in the journal where the command came with a request id.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// The stable name: one command of an entity kind has it.
    const NAME: &'static str;
    /// The version of the fields and of the reply, counted from 1.
    const VERSION: u16;

    /// The fields as bytes, at [`VERSION`](Self::VERSION).
    ///
    /// # Errors
    /// [`CodecError::Encode`] where a field cannot be serialized.
    fn encode(&self) -> Result<Bytes, CodecError>;

    /// Back from the bytes of any version that is known.
    ///
    /// # Errors
    /// [`CodecError::UnknownVersion`] for a version that is newer, or older than the oldest that
    /// is kept; [`CodecError::Malformed`] where the bytes are not of that version.
    fn decode(version: u16, payload: &[u8]) -> Result<Self, CodecError>;

    /// Name and version together.
    #[must_use]
    fn schema() -> Schema {
        Schema { name: Self::NAME, version: Self::VERSION }
    }
}

/// A reply as bytes, marked with the command's name and version: a request id that is used again
/// for another command must not get its bytes read as something else.
///
/// # Errors
/// [`CodecError::Encode`] where the reply cannot be serialized.
pub fn encode_reply<C: Command>(reply: &C::Reply) -> Result<Bytes, CodecError> {
    let mut out = Encoder::new(C::NAME);
    out.field("name", C::NAME)?;
    out.field("version", &C::VERSION)?;
    out.field("reply", reply)?;
    Ok(out.finish())
}

/// A reply back from [`encode_reply`].
///
/// # Errors
/// [`CodecError::OtherReply`] where it answers another command, or another version of it;
/// [`CodecError::Malformed`] where the bytes do not decode.
pub fn decode_reply<C: Command>(bytes: &[u8]) -> Result<C::Reply, CodecError> {
    let mut input = Decoder::new(C::NAME, C::VERSION, bytes);
    let name: String = input.field("name")?;
    let version: u16 = input.field("version")?;
    if (name.as_str(), version) != (C::NAME, C::VERSION) {
        return Err(CodecError::OtherReply {
            expected: C::schema().to_string(),
            found: format!("{name:?} version {version}"),
        });
    }
    let reply = input.field("reply")?;
    input.finish()?;
    Ok(reply)
}
