//! What a snapshot of an entity holds: the state, and the dedup window beside it.
//!
//! ```text
//! format (1)   window (postcard: sequence of request id, seq, time, reply)   state (postcard)
//! ```
//! The version of the state's schema is in the snapshot's own header.

use bytes::Bytes;
use serde::Serialize;

use super::window::{Answered, Window};
use crate::{entity::EventSourced, settings::EntitySettings};

/// The first byte, for the day when something else is kept.
const FORMAT: u8 = 1;

/// Encodes a snapshot.
pub(crate) fn encode<S: Serialize>(state: &S, window: &Window) -> postcard::Result<Bytes> {
    let answered: Vec<&Answered> = window.iter().collect();
    let out = postcard::to_extend(&answered, vec![FORMAT])?;
    postcard::to_extend(state, out).map(Bytes::from)
}

/// Decodes a snapshot that was written with `version` of the state's schema. `Err` says why it
/// cannot be used; then the events must do.
pub(crate) fn decode<E: EventSourced>(
    entity: &E,
    settings: &EntitySettings,
    version: u16,
    bytes: &[u8],
) -> Result<(E::State, Window), String> {
    let Some((&FORMAT, rest)) = bytes.split_first() else {
        return Err("its format is not known".to_owned());
    };
    let (answered, state): (Vec<Answered>, &[u8]) =
        postcard::take_from_bytes(rest).map_err(|e| format!("its dedup window: {e}"))?;
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
    Ok((state, window))
}
