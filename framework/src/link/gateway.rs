//! The gateway: the node's one actor that peers can send to.
//!
//! Every actor with a message that can be serialized is known to every peer, so there is exactly this
//! one, it has no name, and everything else goes through it.

use std::sync::Weak;

use bytes::{Buf, Bytes};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{core::Core, parcel::Parcel, wire::Token};

pub(crate) struct Gateway;

impl Actor for Gateway {
    type Msg = Parcel;
    type State = Weak<Core>;
    type Arguments = Weak<Core>;

    async fn pre_start(
        &self,
        _: ActorRef<Parcel>,
        core: Weak<Core>,
    ) -> Result<Weak<Core>, ActorProcessingErr> {
        Ok(core)
    }

    async fn handle(
        &self,
        _: ActorRef<Parcel>,
        Parcel(bytes): Parcel,
        core: &mut Weak<Core>,
    ) -> Result<(), ActorProcessingErr> {
        let mut bytes = Bytes::from(bytes);
        let token: Option<Token> = bytes.get(..16).and_then(|token| token.try_into().ok());
        let link = core.upgrade().zip(token).and_then(|(core, token)| core.by_token(&token));
        if let Some(link) = link {
            bytes.advance(16);
            link.parcel(bytes);
        }
        Ok(())
    }
}
