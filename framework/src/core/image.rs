//! What a snapshot of an entity holds: the state, and beside it the dedup window and what the framework
//! keeps of the entity.
//!
//! ```text
//! format (1)   window (postcard: sequence of request id, seq, time, reply)          state (postcard)
//! format (2)   window   meta (postcard: sequence of section's name, version, fields)   state
//! ```
//! The second one is written only where there is a meta.
//! The version of the state's schema is in the snapshot's own header.

use bytes::Bytes;
use serde::Serialize;

use super::window::{Answered, Window};
use crate::{
    entity::EventSourced,
    meta::{Meta, Packed},
    settings::EntitySettings,
};

/// The first byte.
const PLAIN: u8 = 1;
const WITH_META: u8 = 2;

/// Encodes a snapshot.
pub(crate) fn encode<S: Serialize>(
    state: &S,
    window: &Window,
    meta: &Meta,
) -> Result<Bytes, String> {
    let text = |error: postcard::Error| error.to_string();
    let answered: Vec<&Answered> = window.iter().collect();
    let format = if meta.is_empty() { PLAIN } else { WITH_META };
    let mut out = postcard::to_extend(&answered, vec![format]).map_err(text)?;
    if !meta.is_empty() {
        let packed = meta.pack().map_err(|error| error.to_string())?;
        out = postcard::to_extend(&packed, out).map_err(text)?;
    }
    postcard::to_extend(state, out).map(Bytes::from).map_err(text)
}

/// Decodes a snapshot that was written with `version` of the state's schema. `Err` says why it
/// cannot be used; then the events must do.
pub(crate) fn decode<E: EventSourced>(
    entity: &E,
    settings: &EntitySettings,
    version: u16,
    bytes: &[u8],
) -> Result<(E::State, Window, Meta), String> {
    let Some((&format @ (PLAIN | WITH_META), rest)) = bytes.split_first() else {
        return Err("its format is not known".to_owned());
    };
    let (answered, rest): (Vec<Answered>, &[u8]) =
        postcard::take_from_bytes(rest).map_err(|e| format!("its dedup window: {e}"))?;
    let (meta, state) = if format == WITH_META {
        let taken = postcard::take_from_bytes::<Vec<Packed>>(rest);
        let (packed, state) = taken.map_err(|e| format!("its meta: {e}"))?;
        (Meta::unpack(packed).map_err(|e| format!("its meta: {e}"))?, state)
    } else {
        (Meta::default(), rest)
    };
    let state = if version == settings.state_version {
        match postcard::take_from_bytes(state) {
            Ok((state, [])) => state,
            Ok((_, rest)) => return Err(format!("{} bytes are left over", rest.len())),
            Err(error) => return Err(format!("its state: {error}")),
        }
    } else {
        let upgraded = entity.upgrade_state(version, state);
        upgraded.ok_or_else(|| format!("`upgrade_state` does not take version {version}"))?
    };
    let mut window = Window::default();
    answered.into_iter().for_each(|answered| window.insert(answered, settings));
    Ok((state, window, meta))
}
