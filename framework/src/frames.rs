//! Frames between nodes of the protocols that are in postcard: a byte for the version of the protocol, a
//! byte for what it is, and the fields. What goes wrong is for the log.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// A frame.
pub(crate) fn pack(version: u8, what: u8, fields: &impl Serialize) -> Result<Bytes, String> {
    let frame = postcard::to_extend(fields, vec![version, what]);
    frame.map(Bytes::from).map_err(|error| error.to_string())
}

/// What a frame of this version is, and its fields.
pub(crate) fn open(version: u8, frame: &[u8]) -> Result<(u8, &[u8]), String> {
    let (&[theirs, what], fields) =
        frame.split_first_chunk().ok_or_else(|| "it is too short".to_owned())?;
    if theirs != version {
        return Err(format!("its version is {theirs}, and {version} is spoken here"));
    }
    Ok((what, fields))
}

/// The fields, where they are of this type and nothing else.
pub(crate) fn unpack<T: DeserializeOwned>(fields: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(fields) {
        Ok((fields, [])) => Ok(fields),
        Ok(_) => Err("it is too long".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
