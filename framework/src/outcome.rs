//! What came of a delivery, for the entity that sent it.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use duractor_journal::EntityId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    codec::CodecError,
    command::{Command, decode_reply},
};

/// What came of a command that was [delivered](crate::Effect::deliver_then) to another entity: the one
/// field of the command that brings it back.
///
/// ```
/// use duractor::{Command, Outcome};
///
/// #[derive(Command)]
/// #[command(reply = Result<(), String>)]
/// struct Charge {
///     cents: u64,
/// }
///
/// #[derive(Command)]
/// #[command(reply = ())]
/// struct Charged(Outcome<Charge>);
///
/// impl From<Outcome<Charge>> for Charged {
///     fn from(outcome: Outcome<Charge>) -> Self {
///         Charged(outcome)
///     }
/// }
/// ```
pub struct Outcome<C: Command> {
    told: Told,
    command: PhantomData<fn() -> C>,
}

/// Stored: its fields stay in this order.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    by: EntityId,
    number: u64,
    result: Result<Bytes, String>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undelivered {
    /// The receiver refused it each time, and it was given up: it was not carried out, unless the text
    /// says otherwise.
    #[error("the delivery was given up: {reason}")]
    GivenUp {
        /// What the receiver's node said last.
        reason: String,
    },
    /// It was carried out, and its reply is of another version than this release knows.
    #[error("it was carried out, and its reply cannot be read: {0}")]
    Unreadable(CodecError),
}

impl<C: Command> Outcome<C> {
    /// Who answered.
    #[must_use]
    pub fn by(&self) -> &EntityId {
        &self.told.by
    }

    /// The delivery's number among all of this sender's, counted from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.told.number
    }

    /// The reply.
    ///
    /// # Errors
    /// [`Undelivered`] where there is none.
    pub fn reply(&self) -> Result<C::Reply, Undelivered> {
        match &self.told.result {
            Ok(reply) => decode_reply::<C>(reply).map_err(Undelivered::Unreadable),
            Err(reason) => Err(Undelivered::GivenUp { reason: reason.clone() }),
        }
    }

    /// As the payload of the command that brings it back.
    pub(crate) fn sample(by: EntityId) -> Self {
        let told = Told { by, number: 0, result: Err(String::new()) };
        Self { told, command: PhantomData }
    }
}

/// The payload of the command that brings an outcome back.
pub(crate) fn payload(
    by: &EntityId,
    number: u64,
    result: Result<Bytes, String>,
) -> Result<Bytes, postcard::Error> {
    let told = Told { by: by.clone(), number, result };
    postcard::to_extend(&told, Vec::new()).map(Bytes::from)
}

impl<C: Command> Clone for Outcome<C> {
    fn clone(&self) -> Self {
        Self { told: self.told.clone(), command: PhantomData }
    }
}

impl<C: Command> fmt::Debug for Outcome<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { by, number, result } = &self.told;
        let answered = result.is_ok();
        f.debug_struct("Outcome")
            .field("by", by)
            .field("number", number)
            .field("answered", &answered)
            .finish()
    }
}

impl<C: Command> Serialize for Outcome<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.told.serialize(serializer)
    }
}

impl<'de, C: Command> Deserialize<'de> for Outcome<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { told: Told::deserialize(deserializer)?, command: PhantomData })
    }
}
