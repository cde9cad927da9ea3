//! The kit as a test sees it: each step of a test is a call that returns when the step is over.

use std::{future::Future, time::Duration};

use duractor::{Ask, Command, EventSourced, Handle, Node, Seq, Timestamp, testing::inspect};
use duractor_journal::{EntityId, EventRecord};
use tokio::{runtime::Runtime, time::sleep};

use super::{
    bench::{Bench, SETTLE},
    builder::EntityTestKitBuilder,
    checks,
    observe::decode_state,
    ran::{Happened, Ran},
    stores::Fail,
};

/// One entity on a node of its own, with stores in memory and a clock that the test moves. See the
/// [module](super) for a guide.
///
/// Every step panics where a [check](super::Check) fails, with a text that says what to do.
pub struct EntityTestKit<E: EventSourced> {
    bench: Bench<E>,
    // Dropped last: the node's actors are its tasks.
    runtime: Runtime,
}

/// A step's failure becomes a panic at the line of the test.
macro_rules! step {
    ($kit:ident, $step:expr) => {
        match $kit.runtime.block_on($step) {
            Ok(result) => result,
            Err(failure) => panic!("{failure}"),
        }
    };
}

impl<E: EventSourced> EntityTestKit<E> {
    /// A new entity without events.
    ///
    /// # Panics
    /// As [`EntityTestKitBuilder::start`].
    #[track_caller]
    pub fn new(entity: E) -> Self {
        Self::builder(entity).start()
    }

    /// An entity that has events or a snapshot already, or a kit with other settings.
    pub fn builder(entity: E) -> EntityTestKitBuilder<E> {
        EntityTestKitBuilder::new(entity)
    }

    pub(super) fn new_on(runtime: Runtime, bench: Bench<E>) -> Self {
        Self { bench, runtime }
    }

    /// Runs a command, and waits until it is answered or stashed and all that follows from it has
    /// happened. That takes 1 ms of the test's time, and more where the entity first waits to restart.
    ///
    /// # Panics
    /// Where a check fails.
    #[track_caller]
    pub fn run<C: Command>(&mut self, command: C) -> Ran<E, C>
    where
        E: Handle<C>,
    {
        self.run_with(command, |ask| ask)
    }

    /// As [`run`](Self::run), with what a caller can say beside the command:
    /// `kit.run_with(command, |ask| ask.request_id(id).expected_revision(Seq(3)))`.
    ///
    /// # Panics
    /// Where a check fails.
    #[track_caller]
    pub fn run_with<C: Command>(
        &mut self,
        command: C,
        ask: impl FnOnce(Ask<E, C>) -> Ask<E, C>,
    ) -> Ran<E, C>
    where
        E: Handle<C>,
    {
        step!(self, self.bench.run::<E, C>(None, command, ask))
    }

    /// Runs a command on another entity, whose kind was added by
    /// [`with`](EntityTestKitBuilder::with). What it returns has that entity's answer, and what
    /// happened to the tested entity meanwhile.
    ///
    /// # Panics
    /// Where a check fails, or the kind was not added.
    #[track_caller]
    pub fn run_on<F, C>(&mut self, key: &str, command: C) -> Ran<E, C>
    where
        F: Handle<C>,
        C: Command,
    {
        step!(self, self.bench.run::<F, C>(Some(key), command, |ask| ask))
    }

    /// Lets time pass, at least 1 ms: timers fire, idle entities leave memory. It takes no real time.
    ///
    /// # Panics
    /// Where a check fails.
    #[track_caller]
    pub fn advance(&mut self, time: Duration) -> Happened<E> {
        // The step's end takes its part of the time.
        let bench = &mut self.bench;
        step!(self, async {
            sleep(time.saturating_sub(SETTLE)).await;
            bench.step().await
        })
    }

    /// Shuts the node down as an operator does, and starts it again: accepted commands are finished
    /// or refused, snapshots are saved, then what was only in memory is gone.
    ///
    /// # Panics
    /// Where a check fails, or a command was lost.
    #[track_caller]
    pub fn restart(&mut self) -> Happened<E> {
        let bench = &mut self.bench;
        step!(self, async {
            bench.restart(false).await?;
            bench.step().await
        })
    }

    /// Ends the node at once, as if its process was killed, and starts it again on what is stored.
    ///
    /// # Panics
    /// Where a check fails.
    #[track_caller]
    pub fn crash(&mut self) -> Happened<E> {
        let bench = &mut self.bench;
        step!(self, async {
            bench.restart(true).await?;
            bench.step().await
        })
    }

    /// The next `n` persists or reads of the node fail so. Faults of one sort queue up; those that
    /// nothing meets stay.
    pub fn fail_next(&mut self, n: usize, fail: Fail) {
        self.bench.observer.stores.fail_next(n, fail);
    }

    /// The state now: see [`Happened::state`].
    ///
    /// # Panics
    /// Where there is none, or a check fails.
    #[track_caller]
    pub fn state(&mut self) -> E::State {
        let now = step!(self, self.bench.step());
        match now.after {
            Ok(state) => state,
            Err(reason) => panic!("the entity has no state: {reason}."),
        }
    }

    /// All events of the entity, also those deleted during the test.
    ///
    /// # Panics
    /// Where one cannot be read.
    #[must_use]
    #[track_caller]
    pub fn events(&self) -> Vec<E::Event> {
        self.events_of::<E>(self.bench.observer.id.key())
    }

    /// All events of an entity of this node, also those deleted during the test.
    ///
    /// # Panics
    /// Where one cannot be read.
    #[must_use]
    #[track_caller]
    pub fn events_of<F: EventSourced>(&self, key: &str) -> Vec<F::Event> {
        let records = step!(self, self.records_of::<F>(key));
        let events: Result<Vec<_>, _> = records.iter().map(checks::decode::<F::Event>).collect();
        match events {
            Ok(events) => events.into_iter().flatten().collect(),
            Err(failure) => panic!("{failure}"),
        }
    }

    async fn records_of<F: EventSourced>(&self, key: &str) -> Result<Vec<EventRecord>, String> {
        let id = EntityId::new(F::KIND, key).map_err(|error| error.to_string())?;
        self.bench.observer.stores.records(&id, Seq::ZERO).await
    }

    /// The state of an entity of a kind that was added by [`with`](EntityTestKitBuilder::with). Looking
    /// at it starts it.
    ///
    /// # Panics
    /// Where it has none, or the kind was not added.
    #[must_use]
    #[track_caller]
    pub fn state_of<F: EventSourced>(&self, key: &str) -> F::State {
        step!(self, async {
            let entity = self.bench.node.entity::<F>(key).map_err(|error| error.to_string())?;
            let encode = |state: &F::State, _| postcard::to_stdvec(state);
            let encoded = inspect(&entity, encode).await.map_err(|error| error.to_string())?;
            decode_state(&encoded.map_err(|error| error.to_string())?)
        })
    }

    /// Whether the entity is in memory: see [`Happened::is_active`].
    ///
    /// # Panics
    /// Where a check fails.
    #[track_caller]
    pub fn is_active(&mut self) -> bool {
        step!(self, self.bench.step()).active
    }

    /// The time that handlers see.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.runtime.block_on(async { self.bench.sim.env().clock.now() })
    }

    /// The node, for what the kit has no call for, within [`block_on`](Self::block_on). A restart
    /// replaces it.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.bench.node
    }

    /// Runs async code on the kit's runtime and clock: `let node = kit.node().clone();`, then
    /// `kit.block_on(async { .. })`. What happens to the entity belongs to the next step.
    pub fn block_on<T>(&self, code: impl Future<Output = T>) -> T {
        self.runtime.block_on(code)
    }
}
