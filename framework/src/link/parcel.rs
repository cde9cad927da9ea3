//! What the session carries: records for the peer's gateway, many to a message.

use ractor::message::{BoxedDowncastErr, SerializedMessage};

/// Records for the gateway, after the token of the session that they are of.
pub(crate) struct Parcel(pub(crate) Vec<u8>);

impl ractor::Message for Parcel {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        Ok(SerializedMessage::Cast { variant: String::new(), args: self.0, metadata: None })
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Cast { args, .. } => Ok(Self(args)),
            _ => Err(BoxedDowncastErr),
        }
    }
}
