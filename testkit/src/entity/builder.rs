//! How a test begins: what is stored already, which entities there are, which checks are made.

use std::sync::Arc;

use bytes::Bytes;
use duractor::{
    EntityId, Event, EventSourced, Journal, NodeBuilder, Seq, SnapshotStore,
    testing::{register_shared, snapshot_image},
};
use duractor_journal::{AppendBatch, NewEvent, ShardId, Term};
use duractor_snapshot::{Retention, Snapshot};
use tokio::runtime::{self, Handle};

use super::{
    bench::{Bench, Register},
    checks::{Check, Off},
    kit::EntityTestKit,
    observe::{Observer, Same},
    stores::Stores,
};
use crate::env::SimEnv;

/// Events in one batch of what is given.
const BATCH: usize = 1024;

/// Sets up an [`EntityTestKit`]: made by [`EntityTestKit::builder`], turned into a kit by
/// [`start`](Self::start).
#[must_use = "a kit runs from `start` on"]
pub struct EntityTestKitBuilder<E: EventSourced> {
    entity: Arc<E>,
    key: String,
    seed: u64,
    kinds: Vec<Register>,
    given: Vec<Given>,
    off: Off,
    recover_each_time: bool,
    same: Option<Same<E::State>>,
}

/// What is stored before the test.
enum Given {
    Event(NewEvent),
    Snapshot { revision: Seq, version: u16, image: Bytes },
}

impl<E: EventSourced> EntityTestKitBuilder<E> {
    pub(super) fn new(entity: E) -> Self {
        let entity = Arc::new(entity);
        let shared = entity.clone();
        let register: Register =
            Box::new(move |node: NodeBuilder| register_shared(node, shared.clone()));
        Self {
            entity,
            key: "test".to_owned(),
            seed: 0,
            kinds: vec![register],
            given: Vec::new(),
            off: Off::default(),
            recover_each_time: false,
            same: None,
        }
    }

    /// The entity's key. `"test"` unless set.
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: key.into(), ..self }
    }

    /// What the randomness of the node follows from, as the spread of restart delays. 0 unless set.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Adds another kind of entity to the node: one that the tested entity sends commands to.
    pub fn with<F: EventSourced>(mut self, entity: F) -> Self {
        let entity = Arc::new(entity);
        self.kinds.push(Box::new(move |node| register_shared(node, entity.clone())));
        self
    }

    /// Events that the entity has written already, after those that were given before.
    ///
    /// # Panics
    /// Where an event does not encode.
    #[track_caller]
    pub fn given_events(mut self, events: impl IntoIterator<Item = E::Event>) -> Self {
        for event in events {
            let schema = event.schema();
            match event.encode() {
                Ok(payload) => {
                    let tags = self.entity.tags(&event);
                    let event = NewEvent::new(schema.name, schema.version, payload);
                    self.given.push(Given::Event(NewEvent { tags, ..event }));
                }
                Err(error) => panic!("a given event does not encode: {error}"),
            }
        }
        self
    }

    /// An event as an older release has stored it: its name, version and bytes. It goes through the
    /// upcasts of today. The bytes are those of your golden tests.
    pub fn given_stored(mut self, name: &str, version: u16, payload: impl Into<Bytes>) -> Self {
        self.given.push(Given::Event(NewEvent::new(name, version, payload)));
        self
    }

    /// A snapshot of the state after event number `revision`. Where no events are given, those up to
    /// it are deleted.
    ///
    /// # Panics
    /// Where the state does not encode.
    #[track_caller]
    pub fn given_snapshot(mut self, revision: u64, state: &E::State) -> Self {
        let version = self.entity.settings().state_version;
        match snapshot_image(state) {
            Ok(image) => {
                self.given.push(Given::Snapshot { revision: Seq(revision), version, image });
            }
            Err(error) => panic!("the given state does not encode: {error}"),
        }
        self
    }

    /// As [`given_snapshot`](Self::given_snapshot), with the state as an older release has encoded
    /// it (with postcard), and the [`state_version`](duractor::EntitySettings::state_version) that it
    /// had then.
    pub fn given_stored_snapshot(mut self, revision: u64, version: u16, state: &[u8]) -> Self {
        // A state without bytes encodes to what comes before the state.
        let mut image = snapshot_image(&()).map(Vec::from).unwrap_or_default();
        image.extend_from_slice(state);
        let image = image.into();
        self.given.push(Given::Snapshot { revision: Seq(revision), version, image });
        self
    }

    /// Switches a check off.
    pub fn without(mut self, check: Check) -> Self {
        self.off.add(check);
        self
    }

    /// Switches all checks off.
    pub fn without_checks(self) -> Self {
        Off::ALL.into_iter().fold(self, Self::without)
    }

    /// Crashes and recovers the entity before every command, so that every handler runs on a
    /// recovered state. What is only in memory is lost each time: timers and stashed commands.
    pub fn recover_each_time(self) -> Self {
        Self { recover_each_time: true, ..self }
    }

    /// Makes [`Check::Snapshot`] compare states by `==`, too: it then sees fields that
    /// `#[serde(skip)]` leaves out.
    pub fn compare_states(self) -> Self
    where
        E::State: PartialEq,
    {
        Self { same: Some(|one, other| one == other), ..self }
    }

    /// Stores what is given, starts the node and makes the checks on what is given.
    ///
    /// # Panics
    /// Where a check fails or the node does not start; the text says what to do.
    #[track_caller]
    pub fn start(self) -> EntityTestKit<E> {
        assert!(
            Handle::try_current().is_err(),
            "the entity test kit has a runtime of its own and blocks on it: use it in a plain \
             `#[test] fn`, and `kit.block_on(..)` for what is async"
        );
        let runtime =
            match runtime::Builder::new_current_thread().enable_time().start_paused(true).build() {
                Ok(runtime) => runtime,
                Err(error) => panic!("no runtime for the entity test kit: {error}"),
            };
        match runtime.block_on(self.begin()) {
            Ok(bench) => EntityTestKit::new_on(runtime, bench),
            Err(failure) => panic!("{failure}"),
        }
    }

    async fn begin(self) -> Result<Bench<E>, String> {
        let id = EntityId::new(E::KIND, &self.key).map_err(|error| error.to_string())?;
        let sim = SimEnv::new(self.seed);
        let (stores, env) = (Stores::new(), sim.env());
        let observer = Observer { entity: self.entity, id, stores, env, same: self.same };
        Writer::store(&observer, self.given).await?;
        Bench::new(observer, sim, self.kinds, self.off, self.recover_each_time).await
    }
}

/// Stores what is given.
struct Writer<'a, E: EventSourced> {
    to: &'a Observer<E>,
    epoch: Term,
    seq: Seq,
}

impl<E: EventSourced> Writer<'_, E> {
    async fn store(to: &Observer<E>, given: Vec<Given>) -> Result<(), String> {
        let claimed = to.stores.journal.claim(ShardId(0)).await;
        let epoch = claimed.map_err(|error| error.to_string())?;
        let mut writer = Writer { to, epoch, seq: Seq::ZERO };
        for given in given {
            match given {
                Given::Event(event) => writer.append(vec![event]).await?,
                Given::Snapshot { revision, version, image } => {
                    writer.reach(revision).await?;
                    writer.save(revision, version, image).await?;
                }
            }
        }
        Ok(())
    }

    async fn append(&mut self, events: Vec<NewEvent>) -> Result<(), String> {
        let batch = AppendBatch {
            entity: self.to.id.clone(),
            epoch: self.epoch,
            expected_seq: self.seq,
            timestamp: self.to.env.clock.now(),
            request: None,
            events,
        };
        let appended = self.to.stores.journal.append(batch).await;
        self.seq = appended.map_err(|error| format!("a given event: {error}"))?.last_seq;
        Ok(())
    }

    /// Brings an entity without events to a revision, as if its events had been deleted.
    async fn reach(&mut self, revision: Seq) -> Result<(), String> {
        if revision <= self.seq {
            return Ok(());
        }
        if self.seq > Seq::ZERO {
            return Err(format!(
                "the given snapshot is at revision {revision}, and {} events are given before it.\n\
                 Give all events up to the snapshot, or none of them.",
                self.seq
            ));
        }
        while self.seq < revision {
            let left = usize::try_from(revision.0 - self.seq.0).unwrap_or(usize::MAX);
            self.append(vec![NewEvent::new("deleted", 1, Bytes::new()); left.min(BATCH)]).await?;
        }
        let deleted = self.to.stores.journal.delete_to(&self.to.id, revision, self.epoch).await;
        deleted.map_err(|error| error.to_string())
    }

    async fn save(&self, seq: Seq, schema_version: u16, state: Bytes) -> Result<(), String> {
        let (entity, timestamp) = (self.to.id.clone(), self.to.env.clock.now());
        let snapshot = Snapshot { entity, seq, timestamp, schema_version, state };
        let saved = self.to.stores.snapshots.save(vec![snapshot], Retention::All).await;
        saved.map(drop).map_err(|error| format!("the given snapshot: {error}"))
    }
}
