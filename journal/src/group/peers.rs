//! Requests and answers over the transport, for all groups of a node.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::{mpsc, oneshot};

use super::{
    types::Group,
    wire::{self, Answer, AppendResult, Call, Header, Kind, Malformed},
};
use crate::{
    id::ShardId,
    transport::{Channel, Class, Event, Member, Receiver, SendError, Transport},
};

/// A request that arrived: what a replica has to answer.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub from: Member,
    pub header: Header,
    pub body: Bytes,
}

/// Takes requests for a shard's replica. False where there is none (any more).
pub(crate) type Inbox = mpsc::UnboundedSender<Inbound>;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("not sent: {0}")]
    NotSent(#[from] SendError),
    #[error("the link to {0} was lost")]
    Lost(Member),
    #[error("{0} did not answer in time")]
    Timeout(Member),
    #[error("{0} sent something that is no answer")]
    Malformed(Member),
}

/// What comes back on a stream of appends.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    Appended(u64, AppendResult),
    Lost,
}

type Waiting = (Member, oneshot::Sender<Result<Answer, CallError>>);
type Stream = (Member, mpsc::UnboundedSender<StreamEvent>);

#[derive(Default)]
struct State {
    calls: BTreeMap<u64, Waiting>,
    streams: BTreeMap<u64, Stream>,
    inboxes: BTreeMap<ShardId, Inbox>,
}

/// The node's side of all conversations between replicas.
pub(crate) struct Peers {
    transport: Arc<dyn Transport>,
    next: AtomicU64,
    state: Mutex<State>,
    /// Told of shards that are asked for and have no replica here.
    wanted: mpsc::UnboundedSender<ShardId>,
    shards: u16,
}

impl Peers {
    /// Listens from now on. The stream tells of shards that others have a replica of here, and this
    /// node has not started.
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        shards: u16,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<ShardId>) {
        let (wanted, requests) = mpsc::unbounded_channel();
        let peers = Arc::new(Self {
            transport: transport.clone(),
            next: AtomicU64::new(1),
            state: Mutex::default(),
            wanted,
            shards,
        });
        transport.listen(Channel::Journal, Arc::new(Ear(Arc::downgrade(&peers))));
        (peers, requests)
    }

    pub(crate) fn me(&self) -> Member {
        self.transport.me()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who can be asked now.
    pub(crate) fn linked(&self) -> Vec<Member> {
        self.transport.peers()
    }

    /// Requests for a shard go here from now on.
    pub(crate) fn serve(&self, shard: ShardId, inbox: Inbox) {
        self.lock().inboxes.insert(shard, inbox);
    }

    /// Asks a replica of a shard on another node.
    pub(crate) async fn call(
        &self,
        to: Member,
        shard: ShardId,
        class: Class,
        call: &Call,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.lock().calls.insert(id, (to, tx));
        let _forget = Forget { peers: self, id };
        let frame = wire::finish(Header { kind: Kind::Call, shard, id }, &call.encode());
        self.transport.send(to, Channel::Journal, class, frame)?;
        match tokio::time::timeout(timeout, rx).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Lost(to)),
            Err(_) => Err(CallError::Timeout(to)),
        }
    }

    /// Answers a question.
    pub(crate) fn answer(&self, request: &Inbound, class: Class, answer: &Answer) {
        let header = Header { kind: Kind::Answer, ..request.header };
        // A lost answer is a question asked again.
        let frame = wire::finish(header, &answer.encode());
        let _ = self.transport.send(request.from, Channel::Journal, class, frame);
    }

    /// Begins a stream of appends.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        to: Member,
        shard: ShardId,
    ) -> (AppendStream, mpsc::UnboundedReceiver<StreamEvent>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = mpsc::unbounded_channel();
        self.lock().streams.insert(id, (to, tx));
        (AppendStream { peers: self.clone(), to, shard, id, next: 0 }, rx)
    }

    /// Says what became of entries.
    pub(crate) fn appended(&self, to: Member, header: Header, seq: u64, result: &AppendResult) {
        let header = Header { kind: Kind::Appended, ..header };
        let frame = wire::encode_appended(header, seq, result);
        // On the lane of the entries: there are as many, and what is sent there costs the least.
        let _ = self.transport.send(to, Channel::Journal, Class::Data, frame);
    }

    fn frame(&self, from: Member, frame: Bytes) {
        let (header, body) = match wire::parse(frame) {
            Ok(parsed) => parsed,
            Err(Malformed::Version(version)) => {
                let mine = wire::VERSION;
                tracing::error!(%from, version, mine, "a journal message of another version");
                return;
            }
            Err(Malformed::Frame) => return tracing::error!(%from, "a malformed journal message"),
        };
        match header.kind {
            Kind::Append | Kind::Call => self.request(Inbound { from, header, body }),
            Kind::Appended => {
                let Some((seq, result)) = wire::decode_appended(&body) else { return };
                if let Some((to, stream)) = self.lock().streams.get(&header.id)
                    && *to == from
                {
                    // A leader that is gone does not care.
                    let _ = stream.send(StreamEvent::Appended(seq, result));
                }
            }
            Kind::Answer => {
                let mut state = self.lock();
                if state.calls.get(&header.id).is_none_or(|(to, _)| *to != from) {
                    return;
                }
                if let Some((_, waiting)) = state.calls.remove(&header.id) {
                    drop(state);
                    let answer = Answer::decode(&body).ok_or(CallError::Malformed(from));
                    let _ = waiting.send(answer);
                }
            }
        }
    }

    fn request(&self, request: Inbound) {
        let shard = request.header.shard;
        if shard.0 >= self.shards {
            tracing::error!(from = %request.from, %shard, "a message for a shard that does not exist");
            return;
        }
        let mut state = self.lock();
        if !state.inboxes.contains_key(&shard) && Call::is_members(&request.body) {
            // A replica that is started by it would know nothing either.
            drop(state);
            let answer = Answer::Refused("there is no replica of it here".into());
            return self.answer(&request, Class::Control, &answer);
        }
        let sent = state.inboxes.get(&shard).is_some_and(|inbox| inbox.send(request).is_ok());
        if !sent {
            state.inboxes.remove(&shard);
            // Whoever asked asks again.
            let _ = self.wanted.send(shard);
        }
    }

    fn lost(&self, peer: Member) {
        let mut state = self.lock();
        let gone: Vec<u64> =
            state.calls.iter().filter(|(_, (to, _))| *to == peer).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some((_, waiting)) = state.calls.remove(&id) {
                let _ = waiting.send(Err(CallError::Lost(peer)));
            }
        }
        for (_, stream) in state.streams.values().filter(|(to, _)| *to == peer) {
            let _ = stream.send(StreamEvent::Lost);
        }
    }
}

/// Takes a call back that nobody waits for any more.
struct Forget<'a> {
    peers: &'a Peers,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.peers.lock().calls.remove(&self.id);
    }
}

/// Appends on their way to one follower.
pub(crate) struct AppendStream {
    peers: Arc<Peers>,
    to: Member,
    shard: ShardId,
    id: u64,
    next: u64,
}

impl AppendStream {
    /// Sends entries, and says which number they have in the stream.
    pub(crate) fn send(
        &mut self,
        request: &AppendEntriesRequest<Group>,
        class: Class,
    ) -> Result<u64, SendError> {
        let seq = self.next;
        self.next += 1;
        let header = Header { kind: Kind::Append, shard: self.shard, id: self.id };
        let frame = wire::encode_append(header, seq, request);
        self.peers.transport.send(self.to, Channel::Journal, class, frame)?;
        Ok(seq)
    }
}

impl Drop for AppendStream {
    fn drop(&mut self) {
        self.peers.lock().streams.remove(&self.id);
    }
}

/// What the transport tells.
struct Ear(std::sync::Weak<Peers>);

impl Receiver for Ear {
    fn event(&self, event: Event) {
        let Some(peers) = self.0.upgrade() else { return };
        match event {
            Event::Up { .. } => {}
            Event::Down { peer, .. } => peers.lost(peer),
            Event::Frame { from, frame, .. } => peers.frame(from, frame),
        }
    }
}
