//! The transport of a node alone: there is nobody to talk to.

use std::sync::Arc;

use bytes::Bytes;

use crate::transport::{Channel, Class, Member, Receiver, SendError, Transport};

struct Solo;

/// A transport that reaches nobody.
pub(crate) fn nobody() -> Arc<dyn Transport> {
    Arc::new(Solo)
}

impl Transport for Solo {
    fn me(&self) -> Member {
        Member::new(1, 1)
    }

    fn max_frame_bytes(&self) -> usize {
        64 << 20
    }

    fn send(&self, _: Member, _: Channel, _: Class, _: Bytes) -> Result<(), SendError> {
        Err(SendError::NotConnected)
    }

    fn listen(&self, _: Channel, _: Arc<dyn Receiver>) {}

    fn reach(&self, _: &str) {}

    fn forget(&self, _: &str) {}

    fn peers(&self) -> Vec<Member> {
        Vec::new()
    }
}
