//! Random batches whose records say where they belong: a payload begins with the number of its
//! batch and its place in it.

use std::collections::BTreeMap;

use duractor_journal::{AppendBatch, EntityId, NewEvent, Request, RequestId, Seq, Term, Timestamp};

use crate::rng::Rng;

const STAMP: usize = 10;

/// The batch that a record says that it is of, and its place there.
pub(super) fn stamp_of(payload: &[u8]) -> Option<(usize, usize)> {
    let number = u64::from_le_bytes(payload.first_chunk::<8>().copied()?);
    let at = u16::from_le_bytes([*payload.get(8)?, *payload.get(9)?]);
    Some((usize::try_from(number).ok()?, usize::from(at)))
}

/// A batch with this number. Few different sizes, so that frames of different lives end at the
/// same places.
pub(super) fn batch(
    rng: &mut Rng,
    number: usize,
    (entity, epoch, expected_seq): (&EntityId, Term, Seq),
    segment_bytes: u64,
) -> AppendBatch {
    let events = match rng.below(20) {
        0..12 => 1,
        12..19 => 1 + rng.index(5),
        _ => 1 + rng.index(40),
    };
    let size = match rng.below(40) {
        0..16 => 16,
        16..28 => 100,
        28..34 => 420,
        34..39 => rng.index(1500),
        _ => rng.index(segment_bytes as usize * 2 / events),
    };
    let plain = rng.chance(0.8);
    let events = (0..events).map(|at| event(rng, number, at, if plain { size } else { at % 7 }));
    let events = events.collect();
    let request = rng.chance(0.2).then(|| Request {
        id: RequestId::new(&format!("request {number}")).unwrap_or_else(|_| unreachable!()),
        reply: number.to_string().into(),
    });
    let timestamp = Timestamp(number as u64);
    AppendBatch { entity: entity.clone(), epoch, expected_seq, timestamp, request, events }
}

/// The same batch again under another number: its frame is as long as the first one's.
pub(super) fn again(batch: &AppendBatch, number: usize, epoch: Term) -> AppendBatch {
    let mut again = AppendBatch { epoch, request: None, ..batch.clone() };
    for event in &mut again.events {
        let mut payload = event.payload.to_vec();
        payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
        event.payload = payload.into();
    }
    again
}

/// An event whose payload says where it belongs.
pub(super) fn event(rng: &mut Rng, number: usize, at: usize, size: usize) -> NewEvent {
    let mut payload = vec![0; STAMP + size];
    payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
    payload[8..STAMP].copy_from_slice(&(at as u16).to_le_bytes());
    rng.fill(&mut payload[STAMP..]);
    let mut event = NewEvent::new(["placed", "paid"][number % 2], 1, payload);
    if rng.chance(0.1) {
        event.tags.push(format!("tag {at}"));
        event.metadata = BTreeMap::from([("batch".to_owned(), number.to_string())]);
    }
    event
}
