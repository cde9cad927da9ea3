//! One direction between two nodes: how long frames take, what is under way, what is held up.

use std::collections::VecDeque;

use bytes::Bytes;
use duractor_journal::{
    Member,
    transport::{Channel, Class},
};

use crate::rng::Rng;

/// A frame under way.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) from: Member,
    pub(super) to: Member,
    pub(super) session: u64,
    pub(super) channel: Channel,
    pub(super) class: Class,
    pub(super) frame: Bytes,
    /// A second copy, which takes no room of the window.
    pub(super) copy: bool,
}

/// What the sending end of a direction believes of its session, and how the way is.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The session that the sending end has with the other, and who that was.
    pub(super) session: Option<(u64, Member)>,
    pub(super) delay_us: u64,
    pub(super) jitter_us: u64,
    /// Nanoseconds that a byte takes; 0 where the line is as wide as need be.
    pub(super) ns_per_byte: u64,
    pub(super) cut: bool,
    /// Since when nothing of the sending end is heard, not even that it lives.
    pub(super) quiet_since: Option<u64>,
    /// When the last frame of each class arrives, and everything that ends or begins a session.
    last_us: [u64; 3],
    /// Bytes under way: of control and data together, and of bulk.
    in_flight: [usize; 2],
    /// What arrived while the line was cut.
    pub(super) held: VecDeque<Sent>,
}

impl Line {
    pub(super) fn new(delay_us: u64, jitter_us: u64) -> Self {
        Self { delay_us, jitter_us, ..Self::default() }
    }

    /// Whether a frame of this many bytes may be sent. One alone may always be.
    pub(super) fn has_room(&self, class: Class, bytes: usize, window: usize) -> bool {
        let under_way = self.in_flight[lane(class)];
        under_way == 0 || under_way + bytes <= window
    }

    pub(super) fn takes(&mut self, class: Class, bytes: usize) {
        self.in_flight[lane(class)] += bytes;
    }

    pub(super) fn gave(&mut self, sent: &Sent) {
        if !sent.copy {
            let under_way = &mut self.in_flight[lane(sent.class)];
            *under_way = under_way.saturating_sub(sent.frame.len());
        }
    }

    /// A session begins: nothing of an earlier one counts.
    pub(super) fn begin(&mut self, session: u64, peer: Member) {
        self.session = Some((session, peer));
        self.in_flight = [0; 2];
        self.held.clear();
    }

    /// When a frame that is sent now arrives: after every earlier one of its class.
    pub(super) fn arrival_us(
        &mut self,
        now: u64,
        class: Class,
        bytes: usize,
        rng: &mut Rng,
    ) -> u64 {
        let at = now + self.delay_us + rng.below(self.jitter_us + 1);
        let last = &mut self.last_us[class as usize];
        *last = at.max(*last) + self.ns_per_byte * bytes as u64 / 1000;
        *last
    }

    /// When something arrives that comes after all frames of all classes.
    pub(super) fn after_all_us(&mut self, now: u64, rng: &mut Rng) -> u64 {
        let at = now + self.delay_us + rng.below(self.jitter_us + 1);
        let at = self.last_us.iter().copied().fold(at, u64::max);
        self.last_us = [at; 3];
        at
    }
}

fn lane(class: Class) -> usize {
    usize::from(class == Class::Bulk)
}
