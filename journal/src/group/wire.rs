//! Messages between the replicas of a group, as bytes.
//!
//! ```text
//! frame  = version kind shard:u16 id:u64 body
//! append = seq vote prev commit entry_count { index term kind [len bytes] }*
//! ```
//! Numbers are LEB128 varints where no width is given, fixed ones are little-endian. `id` is the
//! stream of an append and its reply, the call of a call and its answer: chosen by who asks.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::{
    EntryPayload,
    raft::{AppendEntriesRequest, StreamAppendError, VoteRequest, VoteResponse},
};

use super::types::{
    Group, RaftEntry, RaftLogId, decode_membership, encode_membership, from_log_id, put_log_id,
    put_vote, read_log_id, read_vote, to_log_id,
};
use crate::{
    id::ShardId,
    log::{
        codec::{Reader, put_bytes, put_varint},
        entry::{LogId, Ops},
    },
};

/// The version of these messages. Nodes of other versions are refused where links are made; this
/// one guards against what gets past that.
pub(crate) const VERSION: u8 = 1;
const HEADER_BYTES: usize = 12;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Entries of a leader's stream.
    Append = 1,
    /// What became of them.
    Appended = 2,
    /// A question of another kind.
    Call = 3,
    /// Its answer.
    Answer = 4,
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub shard: ShardId,
    pub id: u64,
}

/// A frame that has its header and still lacks its body.
pub(crate) fn begin(header: Header, capacity: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + capacity);
    frame.put_u8(VERSION);
    frame.put_u8(header.kind as u8);
    frame.put_u16_le(header.shard.0);
    frame.put_u64_le(header.id);
    frame
}

/// Why bytes are no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    Version(u8),
    Frame,
}

/// A frame's header and body.
pub(crate) fn parse(frame: Bytes) -> Result<(Header, Bytes), Malformed> {
    if frame.len() < HEADER_BYTES {
        return Err(Malformed::Frame);
    }
    if frame[0] != VERSION {
        return Err(Malformed::Version(frame[0]));
    }
    let kind = [Kind::Append, Kind::Appended, Kind::Call, Kind::Answer]
        .into_iter()
        .find(|kind| *kind as u8 == frame[1])
        .ok_or(Malformed::Frame)?;
    let shard = ShardId(u16::from_le_bytes([frame[2], frame[3]]));
    let mut id = [0; 8];
    id.copy_from_slice(&frame[4..HEADER_BYTES]);
    let header = Header { kind, shard, id: u64::from_le_bytes(id) };
    Ok((header, frame.slice(HEADER_BYTES..)))
}

/// Entries, on their way to a follower.
pub(crate) fn encode_append(
    header: Header,
    seq: u64,
    request: &AppendEntriesRequest<Group>,
) -> Bytes {
    let bytes = |entry: &RaftEntry| match &entry.payload {
        EntryPayload::Normal(ops) => ops.bytes().len() + 24,
        _ => 256,
    };
    let size = 64 + request.entries.iter().map(bytes).sum::<usize>();
    let mut frame = begin(header, size);
    let mut small = Vec::with_capacity(64);
    put_varint(&mut small, seq);
    put_vote(&mut small, &request.vote);
    put_log_id(&mut small, request.prev_log_id.as_ref().map(from_log_id));
    put_log_id(&mut small, request.leader_commit.as_ref().map(from_log_id));
    put_varint(&mut small, request.entries.len() as u64);
    for entry in &request.entries {
        put_varint(&mut small, entry.log_id.index);
        put_varint(&mut small, entry.log_id.leader_id.term);
        match &entry.payload {
            EntryPayload::Blank => small.push(0),
            EntryPayload::Membership(members) => {
                small.push(1);
                put_bytes(&mut small, &encode_membership(members));
            }
            EntryPayload::Normal(ops) => {
                small.push(2);
                put_varint(&mut small, ops.bytes().len() as u64);
                frame.extend_from_slice(&small);
                small.clear();
                frame.extend_from_slice(ops.bytes());
            }
        }
    }
    frame.extend_from_slice(&small);
    frame.freeze()
}

/// Entries from a leader, with their place in its stream.
pub(crate) fn decode_append(
    shard: ShardId,
    body: &Bytes,
) -> Option<(u64, AppendEntriesRequest<Group>)> {
    let mut reader = Reader::new(body);
    let seq = reader.varint()?;
    let vote = read_vote(&mut reader)?;
    let prev_log_id = read_log_id(&mut reader)?.map(to_log_id);
    let leader_commit = read_log_id(&mut reader)?.map(to_log_id);
    let mut entries = Vec::new();
    for _ in 0..reader.varint()? {
        let index = reader.varint()?;
        let log_id = to_log_id(LogId { index, term: reader.varint()? });
        let payload = match reader.byte()? {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Membership(decode_membership(reader.bytes()?)?),
            2 => EntryPayload::Normal(Ops::parse(shard, body.slice_ref(reader.bytes()?))?),
            _ => return None,
        };
        entries.push(RaftEntry { log_id, payload });
    }
    let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
    (reader.remaining() == 0).then_some((seq, request))
}

/// What became of entries. `None`: the follower cannot take them now (a full disk, a busy log).
pub(crate) type AppendResult = Option<Result<Option<RaftLogId>, StreamAppendError<Group>>>;

pub(crate) fn encode_appended(header: Header, seq: u64, result: &AppendResult) -> Bytes {
    let mut body = Vec::with_capacity(32);
    put_varint(&mut body, seq);
    match result {
        Some(Ok(matching)) => {
            body.push(0);
            put_log_id(&mut body, matching.as_ref().map(from_log_id));
        }
        Some(Err(StreamAppendError::Conflict(at))) => {
            body.push(1);
            put_log_id(&mut body, Some(from_log_id(at)));
        }
        Some(Err(StreamAppendError::HigherVote(vote))) => {
            body.push(2);
            put_vote(&mut body, vote);
        }
        None => body.push(3),
    }
    finish(header, &body)
}

pub(crate) fn decode_appended(body: &Bytes) -> Option<(u64, AppendResult)> {
    let mut reader = Reader::new(body);
    let seq = reader.varint()?;
    let result = match reader.byte()? {
        0 => Some(Ok(read_log_id(&mut reader)?.map(to_log_id))),
        1 => Some(Err(StreamAppendError::Conflict(to_log_id(read_log_id(&mut reader)??)))),
        2 => Some(Err(StreamAppendError::HigherVote(read_vote(&mut reader)?))),
        3 => None,
        _ => return None,
    };
    Some((seq, result))
}

pub(crate) fn finish(header: Header, body: &[u8]) -> Bytes {
    let mut frame = begin(header, body.len());
    frame.extend_from_slice(body);
    frame.freeze()
}

/// What a replica asks another, beside taking entries.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Vote(VoteRequest<Group>),
    PreVote(VoteRequest<Group>),
    /// The leader hands over: its vote, to whom, and what that one must have first.
    Transfer {
        from: super::types::RaftVote,
        to: u64,
        last: Option<RaftLogId>,
    },
    /// Up to where must a read on a follower wait to be linearizable?
    ReadIndex,
    /// A checkpoint begins: where it is cut, its epoch and members.
    CheckpointBegin {
        vote: super::types::RaftVote,
        at: LogId,
        epoch: u64,
        members: Option<(LogId, Bytes)>,
    },
    /// A piece of the checkpoint that is cut there.
    CheckpointChunk {
        at: LogId,
        bytes: Bytes,
    },
    /// That was all of it.
    CheckpointEnd {
        vote: super::types::RaftVote,
        at: LogId,
    },
    /// A replica whose files are damaged wants its shard's content up to there, in pieces: the next
    /// one after this cursor.
    RepairChunk {
        at: LogId,
        epoch: u64,
        cursor: Bytes,
    },
    /// Who belongs to the group, as far as is known there?
    Members,
}

impl Call {
    /// Whether a body is that of [`Call::Members`], which a node without a replica has no answer to.
    pub(crate) fn is_members(body: &[u8]) -> bool {
        body == [9]
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        match self {
            Call::Vote(request) => put_vote_request(&mut out, 1, request),
            Call::PreVote(request) => put_vote_request(&mut out, 2, request),
            Call::Transfer { from, to, last } => {
                out.push(3);
                put_vote(&mut out, from);
                put_varint(&mut out, *to);
                put_log_id(&mut out, last.as_ref().map(from_log_id));
            }
            Call::ReadIndex => out.push(4),
            Call::CheckpointBegin { vote, at, epoch, members } => {
                out.push(5);
                put_vote(&mut out, vote);
                put_log_id(&mut out, Some(*at));
                put_varint(&mut out, *epoch);
                put_log_id(&mut out, members.as_ref().map(|(id, _)| *id));
                put_bytes(&mut out, members.as_ref().map_or(&[][..], |(_, bytes)| bytes));
            }
            Call::CheckpointChunk { at, bytes } => {
                out.push(6);
                put_log_id(&mut out, Some(*at));
                put_bytes(&mut out, bytes);
            }
            Call::CheckpointEnd { vote, at } => {
                out.push(7);
                put_vote(&mut out, vote);
                put_log_id(&mut out, Some(*at));
            }
            Call::RepairChunk { at, epoch, cursor } => {
                out.push(8);
                put_log_id(&mut out, Some(*at));
                put_varint(&mut out, *epoch);
                put_bytes(&mut out, cursor);
            }
            Call::Members => out.push(9),
        }
        out
    }

    pub(crate) fn decode(body: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(body);
        let call = match reader.byte()? {
            1 => Call::Vote(read_vote_request(&mut reader)?),
            2 => Call::PreVote(read_vote_request(&mut reader)?),
            3 => Call::Transfer {
                from: read_vote(&mut reader)?,
                to: reader.varint()?,
                last: read_log_id(&mut reader)?.map(to_log_id),
            },
            4 => Call::ReadIndex,
            5 => {
                let vote = read_vote(&mut reader)?;
                let at = read_log_id(&mut reader)??;
                let epoch = reader.varint()?;
                let id = read_log_id(&mut reader)?;
                let bytes = body.slice_ref(reader.bytes()?);
                Call::CheckpointBegin { vote, at, epoch, members: id.map(|id| (id, bytes)) }
            }
            6 => Call::CheckpointChunk {
                at: read_log_id(&mut reader)??,
                bytes: body.slice_ref(reader.bytes()?),
            },
            7 => Call::CheckpointEnd {
                vote: read_vote(&mut reader)?,
                at: read_log_id(&mut reader)??,
            },
            8 => Call::RepairChunk {
                at: read_log_id(&mut reader)??,
                epoch: reader.varint()?,
                cursor: body.slice_ref(reader.bytes()?),
            },
            9 => Call::Members,
            _ => return None,
        };
        (reader.remaining() == 0).then_some(call)
    }
}

fn put_vote_request(out: &mut Vec<u8>, kind: u8, request: &VoteRequest<Group>) {
    out.push(kind);
    put_vote(out, &request.vote);
    put_log_id(out, request.last_log_id.as_ref().map(from_log_id));
    out.push(u8::from(request.leadership_transfer));
}

fn read_vote_request(reader: &mut Reader<'_>) -> Option<VoteRequest<Group>> {
    let vote = read_vote(reader)?;
    let mut request = VoteRequest::new(vote, read_log_id(reader)?.map(to_log_id));
    request.leadership_transfer = reader.byte()? == 1;
    Some(request)
}

/// What a replica answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Vote(VoteResponse<Group>),
    /// Done, or seen.
    Done,
    /// Read up to this entry.
    ReadIndex(Option<RaftLogId>),
    /// The checkpoint goes on after this.
    Cursor(Bytes),
    /// The checkpoint was taken, or is refused because of this vote.
    Installed(super::types::RaftVote),
    /// A piece for a repair, none at the end.
    Chunk(Option<Bytes>),
    /// It cannot be done (now): why.
    Refused(String),
    /// Up to here the log is committed, and so these belong to the group.
    Members {
        committed: LogId,
        members: Bytes,
    },
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        match self {
            Answer::Vote(response) => {
                out.push(1);
                put_vote(&mut out, &response.vote);
                put_log_id(&mut out, response.last_log_id.as_ref().map(from_log_id));
                out.push(u8::from(response.vote_granted));
            }
            Answer::Done => out.push(2),
            Answer::ReadIndex(at) => {
                out.push(3);
                put_log_id(&mut out, at.as_ref().map(from_log_id));
            }
            Answer::Cursor(cursor) => {
                out.push(4);
                put_bytes(&mut out, cursor);
            }
            Answer::Installed(vote) => {
                out.push(5);
                put_vote(&mut out, vote);
            }
            Answer::Chunk(bytes) => {
                out.push(6);
                out.push(u8::from(bytes.is_some()));
                put_bytes(&mut out, bytes.as_deref().unwrap_or_default());
            }
            Answer::Refused(why) => {
                out.push(7);
                put_bytes(&mut out, why.as_bytes());
            }
            Answer::Members { committed, members } => {
                out.push(8);
                put_log_id(&mut out, Some(*committed));
                put_bytes(&mut out, members);
            }
        }
        out
    }

    pub(crate) fn decode(body: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(body);
        Some(match reader.byte()? {
            1 => {
                let vote = read_vote(&mut reader)?;
                let last = read_log_id(&mut reader)?.map(to_log_id);
                Answer::Vote(VoteResponse::new(vote, last, reader.byte()? == 1))
            }
            2 => Answer::Done,
            3 => Answer::ReadIndex(read_log_id(&mut reader)?.map(to_log_id)),
            4 => Answer::Cursor(body.slice_ref(reader.bytes()?)),
            5 => Answer::Installed(read_vote(&mut reader)?),
            6 => {
                let some = reader.byte()? == 1;
                let bytes = body.slice_ref(reader.bytes()?);
                Answer::Chunk(some.then_some(bytes))
            }
            7 => Answer::Refused(reader.text()?.to_owned()),
            8 => Answer::Members {
                committed: read_log_id(&mut reader)??,
                members: body.slice_ref(reader.bytes()?),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_belongs_to_a_group_is_golden() {
        assert_eq!(Call::Members.encode(), [9]);
        assert!(matches!(Call::decode(&Bytes::from_static(&[9])), Some(Call::Members)));
        assert!(Call::is_members(&[9]) && !Call::is_members(&Call::ReadIndex.encode()));

        let committed = LogId { term: 3, index: 300 };
        let answer = Answer::Members { committed, members: Bytes::from_static(&[1, 1, 7, 1, 7]) };
        let bytes = [8, 0xad, 2, 3, 5, 1, 1, 7, 1, 7];
        assert_eq!(answer.encode(), bytes);
        let Some(Answer::Members { committed: at, members }) =
            Answer::decode(&Bytes::copy_from_slice(&bytes))
        else {
            panic!("it does not come back");
        };
        assert_eq!((at, &members[..]), (committed, &[1, 1, 7, 1, 7][..]));
    }
}
