//! Who listens on which channel.

use std::sync::{Arc, PoisonError, RwLock};

use duractor_journal::transport::{Channel, Event, Receiver};

const CHANNELS: [Channel; 5] =
    [Channel::Journal, Channel::Cluster, Channel::Snapshots, Channel::Entities, Channel::Leader];

/// One receiver a channel.
#[derive(Default)]
pub(crate) struct Receivers {
    slots: RwLock<[Option<Arc<dyn Receiver>>; CHANNELS.len() + 1]>,
}

impl Receivers {
    fn get(&self, channel: u8) -> Option<Arc<dyn Receiver>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(usize::from(channel))?.clone()
    }

    pub(crate) fn set(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots[channel as usize] = Some(receiver);
    }

    /// Hands an event to whoever listens on this channel; lost where nobody does.
    pub(crate) fn tell(&self, channel: u8, event: Event) {
        if let Some(receiver) = self.get(channel) {
            receiver.event(event);
        }
    }

    /// Hands an event to whoever listens on any channel.
    pub(crate) fn tell_all(&self, event: impl Fn() -> Event) {
        for channel in CHANNELS {
            self.tell(channel as u8, event());
        }
    }
}
