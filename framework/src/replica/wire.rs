//! Frames on [`Channel::Snapshots`](duractor_journal::transport::Channel::Snapshots), as
//! [`frames`](crate::frames) has them.

use bytes::Bytes;
use duractor_journal::{EntityId, Seq, ShardId, Timestamp};
use duractor_snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use crate::frames::{open, pack, unpack};

const VERSION: u8 = 1;

/// What nodes say to each other about snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Keep this snapshot, and the newest `keep` of its entity.
    Save { id: u64, keep: u32, snapshot: Snapshot },
    /// It is durable. `oldest` is the oldest one of the entity that is kept.
    Saved { id: u64, oldest: Seq },
    /// Is there a snapshot at `least` or after it?
    Fetch { id: u64, entity: EntityId, least: Seq },
    /// The newest one, or none.
    Fetched { id: u64, snapshot: Option<Snapshot> },
    /// Get all snapshots of a shard that you lack and need.
    Complete { id: u64, shard: ShardId },
    /// That is done, or why it is not.
    Completed { id: u64, problem: Option<String> },
}

#[derive(Serialize, Deserialize)]
struct Image {
    kind: String,
    key: String,
    seq: u64,
    timestamp: u64,
    schema_version: u16,
    state: Bytes,
}

impl From<&Snapshot> for Image {
    fn from(snapshot: &Snapshot) -> Self {
        let Snapshot { entity, seq, timestamp, schema_version, state } = snapshot;
        Self {
            kind: entity.kind().to_owned(),
            key: entity.key().to_owned(),
            seq: seq.0,
            timestamp: timestamp.0,
            schema_version: *schema_version,
            state: state.clone(),
        }
    }
}

impl Image {
    fn snapshot(self) -> Result<Snapshot, String> {
        let Image { kind, key, seq, timestamp, schema_version, state } = self;
        Ok(Snapshot {
            entity: entity(&kind, &key)?,
            seq: Seq(seq),
            timestamp: Timestamp(timestamp),
            schema_version,
            state,
        })
    }
}

fn entity(kind: &str, key: &str) -> Result<EntityId, String> {
    EntityId::new(kind, key).map_err(|error| error.to_string())
}

impl Frame {
    pub(super) fn encode(&self) -> Result<Bytes, String> {
        match self {
            Frame::Save { id, keep, snapshot } => {
                pack(VERSION, 1, &(id, keep, Image::from(snapshot)))
            }
            Frame::Saved { id, oldest } => pack(VERSION, 2, &(id, oldest.0)),
            Frame::Fetch { id, entity, least } => {
                pack(VERSION, 3, &(id, entity.kind(), entity.key(), least.0))
            }
            Frame::Fetched { id, snapshot } => {
                pack(VERSION, 4, &(id, snapshot.as_ref().map(Image::from)))
            }
            Frame::Complete { id, shard } => pack(VERSION, 5, &(id, shard.0)),
            Frame::Completed { id, problem } => pack(VERSION, 6, &(id, problem)),
        }
    }

    /// What went wrong is for the log.
    pub(super) fn decode(frame: &[u8]) -> Result<Self, String> {
        let (what, fields) = open(VERSION, frame)?;
        Ok(match what {
            1 => {
                let (id, keep, image) = unpack::<(u64, u32, Image)>(fields)?;
                Frame::Save { id, keep, snapshot: image.snapshot()? }
            }
            2 => {
                let (id, oldest) = unpack::<(u64, u64)>(fields)?;
                Frame::Saved { id, oldest: Seq(oldest) }
            }
            3 => {
                let (id, kind, key, least) = unpack::<(u64, String, String, u64)>(fields)?;
                Frame::Fetch { id, entity: entity(&kind, &key)?, least: Seq(least) }
            }
            4 => {
                let (id, image) = unpack::<(u64, Option<Image>)>(fields)?;
                Frame::Fetched { id, snapshot: image.map(Image::snapshot).transpose()? }
            }
            5 => {
                let (id, shard) = unpack::<(u64, u16)>(fields)?;
                Frame::Complete { id, shard: ShardId(shard) }
            }
            6 => {
                let (id, problem) = unpack::<(u64, Option<String>)>(fields)?;
                Frame::Completed { id, problem }
            }
            what => return Err(format!("nobody knows kind {what}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            entity: EntityId::new("order", "17").unwrap(),
            seq: Seq(300),
            timestamp: Timestamp(5),
            schema_version: 2,
            state: Bytes::from_static(b"state"),
        }
    }

    /// Nodes of different releases talk to each other: these bytes never change.
    #[test]
    fn frames_are_as_they_were() {
        let (id, entity) = (7, snapshot().entity);
        let image = b"\x05order\x0217\xac\x02\x05\x02\x05state";
        let problem = Some("no".to_owned());
        let frames: [(Frame, Vec<u8>); 8] = [
            (
                Frame::Save { id, keep: 2, snapshot: snapshot() },
                [b"\x01\x01\x07\x02".as_slice(), image].concat(),
            ),
            (Frame::Saved { id, oldest: Seq(300) }, b"\x01\x02\x07\xac\x02".to_vec()),
            (
                Frame::Fetch { id, entity, least: Seq(9) },
                b"\x01\x03\x07\x05order\x0217\x09".to_vec(),
            ),
            (
                Frame::Fetched { id, snapshot: Some(snapshot()) },
                [b"\x01\x04\x07\x01".as_slice(), image].concat(),
            ),
            (Frame::Fetched { id, snapshot: None }, b"\x01\x04\x07\x00".to_vec()),
            (Frame::Complete { id, shard: ShardId(300) }, b"\x01\x05\x07\xac\x02".to_vec()),
            (Frame::Completed { id, problem: None }, b"\x01\x06\x07\x00".to_vec()),
            (Frame::Completed { id, problem }, b"\x01\x06\x07\x01\x02no".to_vec()),
        ];
        for (frame, bytes) in frames {
            assert_eq!(frame.encode().unwrap(), bytes, "{frame:?}");
            assert_eq!(Frame::decode(&bytes).unwrap(), frame);
            for end in 0..bytes.len() {
                assert!(Frame::decode(&bytes[..end]).is_err(), "{frame:?} cut off at {end}");
            }
            let longer = [bytes.as_slice(), b"\0"].concat();
            assert!(Frame::decode(&longer).is_err());
        }
        assert!(Frame::decode(b"\x02\x02\x07\x01").unwrap_err().contains("version is 2"));
        assert!(Frame::decode(b"\x01\x09\x07\x01").unwrap_err().contains("kind 9"));
    }
}
