//! Payloads that say what they are: which event of which batch of which run, and nothing else
//! looks like it.

use duractor_journal::NewEvent;
use duractor_testkit::Rng;
use serde::{Deserialize, Serialize};

/// Bytes before the filling.
const HEADER: usize = 20;

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The trial that wrote it.
    pub run: u32,
    /// Its batch: no other of the run has this number.
    pub batch: u64,
    /// Its place in the batch, from 0.
    pub index: u16,
    /// How many events the batch has.
    pub count: u16,
}

impl Mark {
    /// The payload of this event: the mark, its length, and bytes that follow from the mark.
    pub(crate) fn payload(self) -> Vec<u8> {
        let mut rng = Rng::new(self.seed());
        // Most are small; a few need more than a block.
        let filling = if rng.chance(0.02) { rng.index(20_000) } else { rng.index(400) };
        let mut payload = vec![0; HEADER + filling];
        payload[..4].copy_from_slice(&self.run.to_le_bytes());
        payload[4..12].copy_from_slice(&self.batch.to_le_bytes());
        payload[12..14].copy_from_slice(&self.index.to_le_bytes());
        payload[14..16].copy_from_slice(&self.count.to_le_bytes());
        payload[16..20].copy_from_slice(&(filling as u32).to_le_bytes());
        rng.fill(&mut payload[HEADER..]);
        payload
    }

    /// All events of the batch that this is the first one of.
    pub(crate) fn events(self) -> Vec<NewEvent> {
        let event = |index| NewEvent::new("marked", 1, Mark { index, ..self }.payload());
        (0..self.count).map(event).collect()
    }

    /// The mark of a payload, if every byte is as it was written.
    pub(crate) fn of(payload: &[u8]) -> Option<Self> {
        let mark = Mark {
            run: u32::from_le_bytes(payload.get(..4)?.try_into().ok()?),
            batch: u64::from_le_bytes(payload.get(4..12)?.try_into().ok()?),
            index: u16::from_le_bytes(payload.get(12..14)?.try_into().ok()?),
            count: u16::from_le_bytes(payload.get(14..16)?.try_into().ok()?),
        };
        (mark.payload() == payload).then_some(mark)
    }

    fn seed(self) -> u64 {
        let run = u64::from(self.run).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        run ^ self.batch.rotate_left(17) ^ u64::from(self.index) << 48
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let mark = Mark { run: 3, batch: 77, index: 1, count: 2 };
        let payload = mark.payload();
        assert_eq!(Mark::of(&payload), Some(mark));
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert_ne!(Mark::of(&changed), Some(mark), "byte {at}");
        }
    }
}
