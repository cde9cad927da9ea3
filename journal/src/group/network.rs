//! openraft's network: what a leader sends to one other replica.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
        StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
        VoteResponse,
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    checkpoint::{self, Content},
    lease::Lease,
    peers::{AppendStream, Peers, StreamEvent},
    types::{Group, RaftLogId, RaftVote},
    wire::{Answer, Call},
};
use crate::{
    id::ShardId,
    transport::{Class, Member, SendError},
};

/// Requests under way on one stream. More hide the time of an fsync at 16 to 64 writers; beyond
/// this nothing is gained.
const PIPELINE: usize = 8;

/// So long a request without entries waits for one with entries, which then takes its place. It only
/// tells how far the log is committed; under load that is half of all requests, and an entry tells it
/// as well. A follower applies so much later at most.
const QUIET: Duration = Duration::from_millis(2);

/// So long a request for which the link has no room waits until it is tried again.
const FULL: Duration = Duration::from_millis(10);

type Failure = RPCError<Group>;

/// Makes the links of a group's replica.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) shard: ShardId,
    /// No answer for so long means that the other is not there.
    pub(crate) patience: Duration,
    /// Hears of what is answered.
    pub(crate) lease: Arc<Lease>,
}

impl RaftNetworkFactory<Group> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Link {
        Link {
            peers: self.peers.clone(),
            shard: self.shard,
            patience: self.patience,
            lease: self.lease.clone(),
            to: Member::from_u64(target),
        }
    }
}

/// To one other replica of a group.
pub(crate) struct Link {
    peers: Arc<Peers>,
    shard: ShardId,
    patience: Duration,
    lease: Arc<Lease>,
    to: Member,
}

fn unreachable(error: impl ToString) -> Failure {
    RPCError::Unreachable(Unreachable::from_string(error))
}

impl Link {
    async fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        let asked = self.peers.call(self.to, self.shard, Class::Control, call, self.patience).await;
        match asked.map_err(unreachable)? {
            Answer::Refused(why) => Err(unreachable(why)),
            answer => Ok(answer),
        }
    }

    async fn ask_for_vote(&self, call: &Call) -> Result<VoteResponse<Group>, Failure> {
        match self.ask(call).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(unreachable("an answer to something else")),
        }
    }
}

impl RaftNetworkV2<Group> for Link {
    type SnapshotData = Content;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Group>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, Failure> {
        let (mut stream, mut events) = self.peers.open_stream(self.to, self.shard);
        let sent = UnderWay { seq: 0, term: term(&request), since: Instant::now() };
        stream.send(&request, Class::Control).map_err(unreachable)?;
        let answer = match tokio::time::timeout(self.patience, events.recv()).await {
            Ok(Some(StreamEvent::Appended(_, Some(answer)))) => answer,
            Ok(Some(StreamEvent::Appended(_, None))) => {
                return Err(unreachable("the follower is busy"));
            }
            Ok(_) => return Err(unreachable("the link was lost")),
            Err(_) => return Err(unreachable("no answer in time")),
        };
        sent.answered(&self.lease, self.to, &answer);
        Ok(match answer {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Group>, Failure>>, Failure>>
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
    {
        let (stream, events) = self.peers.open_stream(self.to, self.shard);
        let pipeline = Pipeline {
            input: Some(input),
            stream,
            events,
            under_way: VecDeque::new(),
            ready: VecDeque::new(),
            matched: None,
            held: None,
            refused: None,
            patience: self.patience,
            lease: self.lease.clone(),
            to: self.to,
            ended: false,
        };
        let answers = futures_util::stream::unfold(pipeline, |mut pipeline| async move {
            pipeline.next().await.map(|result| (result, pipeline))
        });
        async move { Ok(answers.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Group>,
        _: RPCOption,
    ) -> Result<VoteResponse<Group>, Failure> {
        self.ask_for_vote(&Call::Vote(request)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Group>,
        _: RPCOption,
    ) -> Result<VoteResponse<Group>, Failure> {
        self.ask_for_vote(&Call::PreVote(request)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: openraft::alias::SnapshotOf<Group, Content>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let sending = checkpoint::send(&self.peers, self.to, self.shard, vote, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent
                .map(SnapshotResponse::new)
                .map_err(|error| StreamingError::Unreachable(Unreachable::from_string(error))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Group>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, Failure> {
        let call = Call::Transfer {
            from: *request.from_leader(),
            to: *request.to_node_id(),
            last: request.last_log_id().copied(),
        };
        self.ask(&call).await.map(|_| Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        // A peer that is back must be served within an election timeout.
        let delays = [10, 20, 40, 80].into_iter().chain(std::iter::repeat(100));
        Some(Backoff::new(delays.map(Duration::from_millis)))
    }
}

/// A request under way: its number in the stream, who sent it as the leader of which term, and when.
struct UnderWay {
    seq: u64,
    term: u64,
    since: Instant,
}

impl UnderWay {
    /// Whoever takes entries of a leader, or would if they fitted, knows no other.
    fn answered(&self, lease: &Lease, by: Member, answer: &StreamAppendResult<Group>) {
        if !matches!(answer, Err(StreamAppendError::HigherVote(_))) {
            lease.answered(self.term, by.to_u64(), self.since);
        }
    }
}

fn term(request: &AppendEntriesRequest<Group>) -> u64 {
    request.vote.leader_id.term
}

/// A request for which there was no room: since when, and when it is tried again.
struct Refused {
    request: AppendEntriesRequest<Group>,
    since: Instant,
    again: Instant,
}

/// Requests going out and answers coming in, in the same order.
struct Pipeline<S> {
    /// `None` when the engine has nothing more for this session.
    input: Option<S>,
    stream: AppendStream,
    events: mpsc::UnboundedReceiver<StreamEvent>,
    under_way: VecDeque<UnderWay>,
    /// Answers that came before those to earlier requests.
    ready: VecDeque<(u64, super::wire::AppendResult)>,
    /// How far the follower said to have this leader's log, in this stream.
    matched: Option<RaftLogId>,
    /// A request without entries, and when it is sent if nothing else comes.
    held: Option<(AppendEntriesRequest<Group>, Instant)>,
    /// A request for which the link had no room.
    refused: Option<Refused>,
    patience: Duration,
    lease: Arc<Lease>,
    to: Member,
    ended: bool,
}

impl<S: Stream<Item = AppendEntriesRequest<Group>> + Unpin + Send> Pipeline<S> {
    /// The next answer. `None` when every request that the engine had is answered: that is no
    /// failure.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Group>, Failure>> {
        while !self.ended {
            if let Some(answer) = self.take_ready() {
                return Some(answer);
            }
            let idle = self.under_way.is_empty() && self.held.is_none() && self.refused.is_none();
            if self.input.is_none() && idle {
                return None;
            }
            let again = self.refused.as_ref().map(|refused| refused.again);
            let deadline = self.under_way.front().map(|first| first.since + self.patience);
            let quiet = self.held.as_ref().map(|(_, until)| *until);
            let room = self.under_way.len() < PIPELINE && self.refused.is_none();
            let event = tokio::select! {
                biased;
                event = self.events.recv() => Step::Event(event),
                request = next_of(&mut self.input), if room => Step::Request(request),
                () = sleep_until(quiet), if room => Step::Quiet,
                () = sleep_until(again) => Step::Again,
                () = sleep_until(deadline) => Step::Timeout,
            };
            if let Err(failure) = self.step(event) {
                self.ended = true;
                return Some(Err(failure));
            }
        }
        None
    }

    fn step(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Event(Some(StreamEvent::Appended(seq, result))) => {
                self.ready.push_back((seq, result));
                Ok(())
            }
            Step::Event(_) => Err(unreachable("the link was lost")),
            Step::Again => self.send_refused(),
            Step::Timeout => Err(unreachable("no answer in time")),
            Step::Quiet => self.send_held(),
            Step::Request(None) => {
                self.input = None;
                self.send_held()
            }
            Step::Request(Some(request)) if request.entries.is_empty() => {
                let until = self.held.take().map_or_else(|| Instant::now() + QUIET, |held| held.1);
                self.held = Some((request, until));
                Ok(())
            }
            Step::Request(Some(request)) => {
                // It says all that the one that was held would have said.
                self.held = None;
                self.send(request)
            }
        }
    }

    fn send_held(&mut self) -> Result<(), Failure> {
        match self.held.take() {
            Some((request, _)) => self.send(request),
            None => Ok(()),
        }
    }

    fn send_refused(&mut self) -> Result<(), Failure> {
        match self.refused.take() {
            Some(refused) => self.send_since(refused.request, refused.since),
            None => Ok(()),
        }
    }

    fn send(&mut self, request: AppendEntriesRequest<Group>) -> Result<(), Failure> {
        self.send_since(request, Instant::now())
    }

    fn send_since(
        &mut self,
        request: AppendEntriesRequest<Group>,
        since: Instant,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        match self.stream.send(&request, Class::Data) {
            Ok(seq) => self.under_way.push_back(UnderWay { seq, term: term(&request), since: now }),
            // To fail at once would lose the answers to what is under way. The engine would send the
            // same requests again then, and again more than the link takes.
            Err(SendError::Full) if now < since + self.patience => {
                self.refused = Some(Refused { request, since, again: now + FULL });
            }
            Err(error) => return Err(unreachable(error)),
        }
        Ok(())
    }

    /// The answer to the oldest request, if it is here.
    fn take_ready(&mut self) -> Option<Result<StreamAppendResult<Group>, Failure>> {
        let oldest = self.under_way.front()?.seq;
        let at = self.ready.iter().position(|(seq, _)| *seq == oldest)?;
        let request = self.under_way.pop_front()?;
        let (_, result) = self.ready.remove(at)?;
        if let Some(answer) = &result {
            request.answered(&self.lease, self.to, answer);
        }
        let answer = match result {
            None => Err(unreachable("the follower is busy")),
            Some(Err(StreamAppendError::Conflict(at))) if Some(at) <= self.matched => {
                Err(unreachable("the follower took requests in another order"))
            }
            Some(result) => Ok(result),
        };
        if let Ok(Ok(matched)) = &answer {
            self.matched = self.matched.max(*matched);
        }
        // After a conflict or a higher vote nothing that follows can be right.
        self.ended = !matches!(answer, Ok(Ok(_)));
        Some(answer)
    }
}

enum Step {
    Event(Option<StreamEvent>),
    Request(Option<AppendEntriesRequest<Group>>),
    Quiet,
    Again,
    Timeout,
}

async fn next_of<S>(input: &mut Option<S>) -> Option<AppendEntriesRequest<Group>>
where
    S: Stream<Item = AppendEntriesRequest<Group>> + Unpin,
{
    match input {
        Some(input) => input.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What a leader's stream result is, out of openraft's response.
pub(crate) fn stream_result(
    response: AppendEntriesResponse<Group>,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
) -> StreamAppendResult<Group> {
    response.into_stream_result(prev, last)
}
