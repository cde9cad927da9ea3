//! A link: one session with one peer, with what waits to be sent and how far it is.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use duractor_journal::{
    Member,
    transport::{Channel, Class, Event, SendError},
};
use ractor::{ActorCell, ActorRef};
use tokio::{sync::Notify, task::AbortHandle};

use super::{
    config::{DataLane, LinkConfig},
    connection::{Gate, Wire},
    credit::Credit,
    handshake::Met,
    parcel::Parcel,
    pulse::Pulse,
    receivers::Receivers,
    wire::{Head, Kind, RECORD_HEAD, Token},
};
use crate::task::until;

/// Where a link is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its connections are being made.
    Forming,
    /// Announced: frames go both ways.
    Up,
    /// Nothing more comes of it.
    Ended,
}

/// As much of a Data frame goes into one parcel of the session, so that Control frames wait for no
/// more.
const PIECE: usize = 64 << 10;

/// What waits for the session's writer.
#[derive(Default)]
struct Outbox {
    /// The peer's gateway, from when the session is ready.
    twin: Option<ActorRef<Parcel>>,
    /// A parcel is under way to the system: what comes now waits and shares the next one.
    busy: bool,
    /// Encoded records.
    control: Vec<u8>,
    data: VecDeque<(u8, Bytes)>,
}

/// What waits for a lane's writer.
#[derive(Default)]
pub(crate) struct LaneQueue {
    pub(crate) frames: Mutex<VecDeque<(u8, Bytes)>>,
    pub(crate) more: Notify,
}

/// The connections that are there, while not all are.
#[derive(Default)]
pub(crate) struct Forming {
    pub(crate) session: bool,
    pub(crate) data: Option<Wire>,
    pub(crate) bulk: Option<Wire>,
}

/// One session with one peer.
pub(crate) struct Link {
    pub(crate) peer: Member,
    pub(crate) boot: u64,
    /// The peer's gateway among the actors of its process.
    pub(crate) gateway: u64,
    pub(crate) token: Token,
    pub(crate) cookie: String,
    /// What this node calls the session.
    pub(crate) number: u64,
    /// Whether this node dialled.
    pub(crate) dialled: bool,
    pub(crate) data_lane: DataLane,
    pub(crate) max_frame_bytes: usize,
    pub(crate) gate: Arc<Gate>,
    pub(crate) data: LaneQueue,
    pub(crate) bulk: LaneQueue,
    pub(crate) forming: Mutex<Forming>,
    /// Woken when the link has ended.
    pub(crate) over: Notify,
    receivers: Arc<Receivers>,
    /// Held for reading while a frame is handed out, so that the end comes after all frames.
    phase: RwLock<Phase>,
    /// Whether frames may be sent.
    announced: AtomicBool,
    pub(crate) pulse: Pulse,
    /// Control, Data, Bulk.
    credit: [Credit; 3],
    outbox: Mutex<Outbox>,
    /// Parcels that came before the session was announced here.
    early: Mutex<Vec<Bytes>>,
    /// A Data frame that comes in pieces.
    pieces: Mutex<BytesMut>,
    tasks: Mutex<Vec<AbortHandle>>,
    keeper: OnceLock<ActorCell>,
    reason: OnceLock<&'static str>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(crate) fn new(
        met: &Met,
        number: u64,
        dialled: bool,
        config: &LinkConfig,
        receivers: Arc<Receivers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer: met.peer,
            boot: met.boot,
            gateway: met.gateway,
            token: met.token,
            cookie: met.cookie.clone(),
            number,
            dialled,
            data_lane: met.data_lane,
            max_frame_bytes: config.max_frame_bytes,
            gate: Arc::default(),
            data: LaneQueue::default(),
            bulk: LaneQueue::default(),
            forming: Mutex::default(),
            over: Notify::new(),
            receivers,
            phase: RwLock::new(Phase::Forming),
            announced: AtomicBool::new(false),
            pulse: Pulse::new(config),
            credit: [
                Credit::new(config.control_window_bytes),
                Credit::new(config.data_window_bytes),
                Credit::new(config.bulk_window_bytes),
            ],
            outbox: Mutex::default(),
            early: Mutex::default(),
            pieces: Mutex::default(),
            tasks: Mutex::default(),
            keeper: OnceLock::new(),
            reason: OnceLock::new(),
        })
    }

    /// Waits until nobody hands out frames; nobody does while the guard lives.
    pub(crate) fn phase(&self) -> RwLockWriteGuard<'_, Phase> {
        self.phase.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`phase`](Self::phase), where the link is forming.
    pub(crate) fn begin(&self) -> Option<RwLockWriteGuard<'_, Phase>> {
        Some(self.phase()).filter(|phase| **phase == Phase::Forming)
    }

    fn is(&self, phase: Phase) -> bool {
        *self.phase.read().unwrap_or_else(PoisonError::into_inner) == phase
    }

    /// Whether the link is announced. Never waits: receivers ask while they are told.
    pub(crate) fn is_up(&self) -> bool {
        self.announced.load(SeqCst)
    }

    pub(crate) fn set_announced(&self, announced: bool) {
        self.announced.store(announced, SeqCst);
    }

    pub(crate) fn is_forming(&self) -> bool {
        self.is(Phase::Forming)
    }

    /// The session is ready: this is the peer's gateway.
    pub(crate) fn set_twin(&self, twin: ActorRef<Parcel>) {
        lock(&self.outbox).twin = Some(twin);
        lock(&self.forming).session = true;
    }

    pub(crate) fn twin(&self) -> Option<ActorCell> {
        lock(&self.outbox).twin.as_ref().map(ActorRef::get_cell)
    }

    pub(crate) fn set_keeper(&self, keeper: ActorCell) {
        let _ = self.keeper.set(keeper);
    }

    /// A task that ends with the link.
    pub(crate) fn own_task(&self, task: AbortHandle) {
        lock(&self.tasks).push(task);
    }

    /// Cuts the session's connection off. What follows is what follows when it breaks: the session
    /// ends, its supervisor hears of it, and the end is announced.
    pub(crate) fn close(&self, reason: &'static str) {
        let _ = self.reason.set(reason);
        self.gate.close();
    }

    pub(crate) fn closed_because(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }

    /// Frees what the link holds. For when its end was announced.
    pub(crate) fn dismantle(&self) {
        self.gate.close();
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        *lock(&self.forming) = Forming::default();
        let outbox = std::mem::take(&mut *lock(&self.outbox));
        drop(outbox);
        lock(&self.data.frames).clear();
        lock(&self.bulk.frames).clear();
        lock(&self.early).clear();
        if let Some(keeper) = self.keeper.get() {
            keeper.stop(None);
        }
        self.over.notify_waiters();
    }

    /// Waits until the link has ended.
    pub(crate) async fn ended(&self) {
        until(&self.over, || self.is(Phase::Ended).then_some(())).await;
    }
}

// Sending.
impl Link {
    pub(crate) fn send(
        &self,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError> {
        if !self.credit[class as usize].spend(frame.len()) {
            return Err(SendError::Full);
        }
        match (class, self.data_lane) {
            (Class::Bulk, _) => self.bulk.push(channel as u8, frame),
            (Class::Data, DataLane::Own) => self.data.push(channel as u8, frame),
            (Class::Data, DataLane::Session) => {
                let mut outbox = lock(&self.outbox);
                outbox.data.push_back((channel as u8, frame));
                self.pump(&mut outbox);
            }
            (Class::Control, _) => {
                self.record(Kind::Frame(Class::Control), channel as u8, &frame);
            }
        }
        Ok(())
    }

    fn record(&self, kind: Kind, channel: u8, bytes: &[u8]) {
        let mut outbox = lock(&self.outbox);
        let head = Head { kind, channel, length: bytes.len() };
        outbox.control.extend_from_slice(&head.encode());
        outbox.control.extend_from_slice(bytes);
        self.pump(&mut outbox);
    }

    /// A sign of life, and what was taken since it was last told.
    pub(crate) fn beat(&self) {
        self.record(Kind::Beat, 0, &[]);
        self.tell_credit();
    }

    fn tell_credit(&self) {
        let told = self.credit.each_ref().map(Credit::tell);
        if told.iter().any(|(_, news)| *news) {
            let mut bytes = [0; 24];
            for (at, (taken, _)) in told.iter().enumerate() {
                bytes[at * 8..at * 8 + 8].copy_from_slice(&taken.to_le_bytes());
            }
            self.record(Kind::Credit, 0, &bytes);
        }
    }

    /// The session's writer has handed all it had to the system.
    pub(crate) fn flushed(&self) {
        let mut outbox = lock(&self.outbox);
        outbox.busy = false;
        self.pump(&mut outbox);
    }

    /// Casts a parcel to the peer's gateway, if none is under way. Called with the lock, so that
    /// parcels go in order.
    fn pump(&self, outbox: &mut Outbox) {
        let Some(twin) = outbox.twin.as_ref().filter(|_| !outbox.busy) else { return };
        if outbox.control.is_empty() && outbox.data.is_empty() {
            return;
        }
        let mut parcel = Vec::with_capacity(self.token.len() + outbox.control.len() + 512);
        parcel.extend_from_slice(&self.token);
        parcel.append(&mut outbox.control);
        let mut room = PIECE;
        while room > 0
            && let Some((channel, frame)) = outbox.data.front_mut()
        {
            let last = frame.len() <= room;
            let piece = frame.split_to(frame.len().min(room));
            let kind = if last { Kind::Frame(Class::Data) } else { Kind::Piece };
            let head = Head { kind, channel: *channel, length: piece.len() };
            parcel.extend_from_slice(&head.encode());
            parcel.extend_from_slice(&piece);
            room = room.saturating_sub(piece.len() + RECORD_HEAD);
            if last {
                outbox.data.pop_front();
            }
        }
        outbox.busy = true;
        if twin.cast(Parcel(parcel)).is_err() {
            self.close("the session's actor is gone");
        }
    }
}

impl LaneQueue {
    fn push(&self, channel: u8, frame: Bytes) {
        lock(&self.frames).push_back((channel, frame));
        self.more.notify_one();
    }
}

// Receiving.
impl Link {
    /// A parcel of the session came.
    pub(crate) fn parcel(&self, records: Bytes) {
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Forming => lock(&self.early).push(records),
            Phase::Up => self.unpack(records),
            Phase::Ended => {}
        }
    }

    /// Hands out what came early. For when the link was just announced.
    pub(crate) fn drain_early(&self) {
        let early = std::mem::take(&mut *lock(&self.early));
        for records in early {
            self.unpack(records);
        }
    }

    fn unpack(&self, mut records: Bytes) {
        while !records.is_empty() {
            let head = Head::decode(&records);
            let Some(head) = head.filter(|head| records.len() - RECORD_HEAD >= head.length) else {
                return self.close("the peer sent nonsense");
            };
            records.advance(RECORD_HEAD);
            let bytes = records.split_to(head.length);
            if !self.take_record(head, bytes) {
                return self.close("the peer sent nonsense");
            }
        }
    }

    /// False where the record makes no sense.
    fn take_record(&self, head: Head, bytes: Bytes) -> bool {
        match head.kind {
            Kind::Beat => {
                self.pulse.beats();
                true
            }
            Kind::Credit => self.take_credit(&bytes),
            Kind::Piece => {
                let mut pieces = lock(&self.pieces);
                pieces.extend_from_slice(&bytes);
                pieces.len() <= self.max_frame_bytes
            }
            Kind::Frame(class) => {
                let mut pieces = lock(&self.pieces);
                let whole = if class == Class::Data && !pieces.is_empty() {
                    pieces.extend_from_slice(&bytes);
                    std::mem::take(&mut *pieces).freeze()
                } else {
                    bytes
                };
                drop(pieces);
                self.hand_out(class, head.channel, whole);
                true
            }
        }
    }

    fn take_credit(&self, bytes: &[u8]) -> bool {
        for (credit, taken) in self.credit.iter().zip(bytes.chunks_exact(8)) {
            if let Ok(taken) = taken.try_into() {
                credit.ack(u64::from_le_bytes(taken));
            }
        }
        bytes.len() == 24
    }

    /// A frame of a lane came. False where the link has ended.
    pub(crate) fn lane_frame(&self, class: Class, channel: u8, frame: Bytes) -> bool {
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        if *phase != Phase::Up {
            return false;
        }
        self.hand_out(class, channel, frame);
        true
    }

    fn hand_out(&self, class: Class, channel: u8, frame: Bytes) {
        let bytes = frame.len();
        let event = Event::Frame { from: self.peer, session: self.number, frame };
        self.receivers.tell(channel, event);
        if self.credit[class as usize].take(bytes) {
            self.tell_credit();
        }
    }
}
