//! One group's part of the node's log: what Raft's log and state machine are built on.

use bytes::Bytes;

use super::entry::{Entry, LogId};
use crate::{
    error::JournalError,
    id::{EntityId, ShardId, Term},
    port::{Appended, Head},
};

/// Hears that a write is durable, or why not. Called on the writer: it must be quick.
pub(crate) type Flushed = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// What became of one write of an entry that was applied.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Appended(Appended),
    Deleted,
    Claimed(Term),
    Refused(JournalError),
}

/// How far a group's log is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub applied: Option<LogId>,
    pub vote: Option<Bytes>,
    /// The last that is applied.
    pub membership: Option<(LogId, Bytes)>,
    pub epoch: Term,
}

#[derive(Default)]
pub(crate) struct Mem {
    pub entries: std::collections::BTreeMap<u64, Entry>,
    pub state: GroupState,
    pub heads: std::collections::BTreeMap<EntityId, Head>,
    pub records: Vec<crate::EventRecord>,
}

/// A handle on a group's log.
#[derive(Clone)]
pub(crate) struct GroupLog {
    pub shard: ShardId,
    pub mem: std::sync::Arc<std::sync::Mutex<Mem>>,
    pub env: crate::Env,
}

#[allow(unused_variables, dead_code, clippy::all)]
impl GroupLog {
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }
    pub(crate) fn state(&self) -> GroupState {
        self.mem.lock().unwrap().state.clone()
    }
    pub(crate) fn append(&self, entries: Vec<Entry>, done: Flushed) {
        let mut m = self.mem.lock().unwrap();
        for e in entries {
            let id = e.id;
            m.entries.retain(|i, _| *i < id.index);
            m.state.last = Some(id);
            m.entries.insert(id.index, e);
        }
        drop(m);
        done(Ok(()));
    }
    pub(crate) fn save_vote(&self, vote: Bytes, done: Flushed) {
        self.mem.lock().unwrap().state.vote = Some(vote);
        done(Ok(()));
    }
    pub(crate) fn truncate_after(&self, last: Option<LogId>) {
        let mut m = self.mem.lock().unwrap();
        m.entries.retain(|i, _| last.is_some_and(|l| *i <= l.index));
        m.state.last = last;
    }
    pub(crate) fn purge(&self, upto: LogId) {}
    pub(crate) async fn read(
        &self,
        from: u64,
        to_excl: u64,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        let m = self.mem.lock().unwrap();
        let mut n = 0;
        Ok(m.entries
            .range(from..to_excl)
            .map(|(_, e)| e.clone())
            .take_while(|e| {
                let ok = n < max_bytes;
                n += e.bytes();
                ok
            })
            .collect())
    }
    pub(crate) fn durable(&self) -> Option<LogId> {
        self.state().last
    }
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), JournalError> {
        Ok(())
    }
    pub(crate) async fn apply(
        &self,
        entries: Vec<Entry>,
    ) -> Result<Vec<Vec<Outcome>>, JournalError> {
        use super::{codec::*, entry::Body, frame::Kind, heads::advance};
        let mut m = self.mem.lock().unwrap();
        let mut all = vec![];
        for e in entries {
            let mut out = vec![];
            match e.body {
                Body::Blank => {}
                Body::Membership(b) => m.state.membership = Some((e.id, b)),
                Body::Ops(ops) => {
                    for op in ops.iter() {
                        out.push(match op.header.kind {
                            Kind::Claim => {
                                let t = Term(e.id.term.max(m.state.epoch.0 + 1));
                                m.state.epoch = t;
                                Outcome::Claimed(t)
                            }
                            Kind::Batch => {
                                let h = decode_batch_head(&op.payload).unwrap();
                                let head = m.heads.get(&h.entity).copied().unwrap_or_default();
                                if op.header.term != m.state.epoch {
                                    Outcome::Refused(JournalError::StaleEpoch {
                                        shard: self.shard,
                                        stale: op.header.term,
                                        current: m.state.epoch,
                                    })
                                } else {
                                    match advance(
                                        &h.entity,
                                        head,
                                        crate::Seq(h.first_seq.0 - 1),
                                        h.count,
                                    ) {
                                        Ok(n) => {
                                            m.heads.insert(h.entity.clone(), n);
                                            let last =
                                                op.header.position.offset() as u64 + h.count - 1;
                                            let mut header = op.header;
                                            header.position = crate::Position::new(
                                                e.id.index,
                                                op.header.position.offset(),
                                            );
                                            let mut recs = vec![];
                                            Decoder::new(None).batch(
                                                &header,
                                                &op.payload,
                                                |_| true,
                                                &mut recs,
                                            );
                                            m.records.extend(recs);
                                            Outcome::Appended(Appended {
                                                last_seq: n.last_seq,
                                                position: crate::Position::new(
                                                    e.id.index,
                                                    last as u16,
                                                ),
                                            })
                                        }
                                        Err(x) => Outcome::Refused(x),
                                    }
                                }
                            }
                            _ => Outcome::Deleted,
                        });
                    }
                }
            }
            m.state.applied = Some(e.id);
            all.push(out);
        }
        Ok(all)
    }
    pub(crate) fn head_of(&self, entity: &EntityId) -> Result<Head, JournalError> {
        Ok(self.mem.lock().unwrap().heads.get(entity).copied().unwrap_or_default())
    }
    pub(crate) fn env(&self) -> &crate::env::Env {
        &self.env
    }
    pub(crate) fn image(&self, at: LogId, epoch: Term) -> super::image::Image {
        unimplemented!()
    }
    pub(crate) fn intake(
        &self,
        at: LogId,
        epoch: Term,
    ) -> Result<super::intake::Intake, JournalError> {
        unimplemented!()
    }
    pub(crate) async fn install(
        &self,
        staged: super::intake::Staged,
        members: Option<(LogId, Bytes)>,
    ) -> Result<(), JournalError> {
        unimplemented!()
    }
    pub(crate) async fn repair(&self, staged: super::intake::Staged) -> Result<(), JournalError> {
        unimplemented!()
    }
}
