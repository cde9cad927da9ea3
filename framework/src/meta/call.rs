//! A command as the framework keeps it: by its name, as its bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{codec::CodecError, command::Command};

/// A command as bytes. Stored: its fields stay in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) command: String,
    pub(crate) version: u16,
    pub(crate) payload: Bytes,
}

impl Call {
    pub(crate) fn of<C: Command>(command: &C) -> Result<Self, CodecError> {
        let payload = command.encode()?;
        Ok(Self { command: C::NAME.to_owned(), version: C::VERSION, payload })
    }
}

/// The sender's own command that the outcome of a delivery comes back as. Stored: its fields stay in
/// this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Then {
    pub(crate) command: String,
    pub(crate) version: u16,
}
