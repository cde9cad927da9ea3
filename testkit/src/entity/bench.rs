//! The kit's inside: a node on simulated seams, one step after the other, and the checks after each.

use std::{
    cell::{OnceCell, RefCell},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duractor::{
    Ask, AskError, Command, EntityRef, EventSourced, Handle, Journal, Node, NodeBuilder, Seq,
    testing::is_active,
};
use duractor_journal::EventRecord;
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use super::{
    checks::{self, Check, Off},
    observe::{Observer, Seen, decode_state},
    ran::{Happened, Ran},
    stores::{Live, Stores},
};
use crate::env::SimEnv;

/// How long a step takes at least. The clock is paused: it moves on only once nothing else is left
/// to do, so after this, however short, everything that could happen has happened.
pub(super) const SETTLE: Duration = Duration::from_millis(1);

/// Adds a kind of entity to a node.
pub(super) type Register = Box<dyn Fn(NodeBuilder) -> NodeBuilder>;

/// What the replies' check found, by tasks that nobody waits for.
type Failures = Arc<Mutex<Vec<String>>>;

pub(super) struct Bench<E: EventSourced> {
    pub(super) observer: Observer<E>,
    pub(super) sim: SimEnv,
    pub(super) kinds: Vec<Register>,
    pub(super) off: Off,
    /// Whether every command gets an entity that was just recovered.
    pub(super) recover_each_time: bool,
    pub(super) node: Node,
    entity: EntityRef<E>,
    /// The newest record that a step has shown.
    shown: Seq,
    /// The state after the last step, encoded.
    state: Result<Vec<u8>, String>,
    failures: Failures,
}

impl<E: EventSourced> Bench<E> {
    pub(super) async fn new(
        observer: Observer<E>,
        sim: SimEnv,
        kinds: Vec<Register>,
        off: Off,
        recover_each_time: bool,
    ) -> Result<Self, String> {
        let (node, entity) = start(&observer, &sim, &kinds).await?;
        let (failures, state) = (Failures::default(), Err("the test has just begun".to_owned()));
        let shown = Seq::ZERO;
        let mut bench = Self {
            observer,
            sim,
            kinds,
            off,
            recover_each_time,
            node,
            entity,
            shown,
            state,
            failures,
        };
        bench.step().await?;
        Ok(bench)
    }

    fn stores(&self) -> &Arc<Stores> {
        &self.observer.stores
    }

    /// Ends the node and starts the next one on what is stored.
    pub(super) async fn restart(&mut self, crash: bool) -> Result<(), String> {
        if crash {
            self.node.kill().await;
        } else {
            self.node.shutdown().await;
            let ledger = self.node.ledger();
            if ledger.open() > 0 {
                return Err(format!("commands were lost in the node's shutdown: {ledger:?}"));
            }
        }
        (self.node, self.entity) = start(&self.observer, &self.sim, &self.kinds).await?;
        Ok(())
    }

    /// Sends a command to an entity and waits until it is answered or stashed.
    pub(super) async fn run<F, C>(
        &mut self,
        key: Option<&str>,
        command: C,
        adjust: impl FnOnce(Ask<F, C>) -> Ask<F, C>,
    ) -> Result<Ran<E, C>, String>
    where
        F: Handle<C>,
        C: Command,
    {
        if self.recover_each_time {
            self.restart(true).await?;
        }
        let on = |check| self.off.is_on(check);
        let command = if on(Check::Commands) { checks::command(&command)? } else { command };
        let key = key.unwrap_or(self.observer.id.key());
        let entity = self.node.entity::<F>(key).map_err(|error| error.to_string())?;
        let (mut task, coming) = self.send(adjust(entity.ask(command)));
        // Most commands are answered before the clock moves. One that is not may wait for a restart,
        // or be stashed: a look at the state waits for the former, and overtakes the latter.
        tokio::select! {
            biased;
            _ = &mut task => {}
            () = sleep(SETTLE) => tokio::select! {
                biased;
                _ = &mut task => {}
                _ = self.observer.look(&self.entity) => {}
            }
        }
        let happened = self.step().await?;
        Ok(Ran { happened, coming: RefCell::new(coming), answer: OnceCell::new() })
    }

    fn send<F, C>(
        &self,
        ask: Ask<F, C>,
    ) -> (JoinHandle<()>, oneshot::Receiver<Result<C::Reply, AskError>>)
    where
        F: Handle<C>,
        C: Command,
    {
        let (answered, coming) = oneshot::channel();
        let (check, failures) = (self.off.is_on(Check::Replies), self.failures.clone());
        let answer = ask.into_future();
        let task = tokio::spawn(async move {
            let answer = match answer.await {
                Ok(reply) if check => checks::reply::<C>(&reply).or_else(|failure| {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    Ok(reply)
                }),
                answer => answer,
            };
            // The test may have dropped what `run` gave it.
            let _ = answered.send(answer);
        });
        (task, coming)
    }

    /// Ends a step: lets everything happen that can, makes the checks, and says what happened.
    pub(super) async fn step(&mut self) -> Result<Happened<E>, String> {
        sleep(SETTLE).await;
        if let Some(failure) = self.failures.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Err(failure);
        }
        let records = self.stores().records(&self.observer.id, self.shown).await?;
        let active = is_active(&self.entity);
        let seen = self.look(active).await;
        self.check(&records, &seen).await?;

        let events: Result<Vec<_>, _> = records.iter().map(checks::decode::<E::Event>).collect();
        // Events that were given to be unreadable are what the test is about.
        let events = if seen.is_ok() { events? } else { events.unwrap_or_default() };
        self.shown = records.last().map_or(self.shown, |record| record.seq);
        let revision = seen.as_ref().map_or(self.shown, |seen| seen.revision);
        let bytes = seen.and_then(|seen| seen.bytes);
        let decode = |bytes: &Result<Vec<u8>, String>| decode_state(bytes.as_ref()?);
        let (before, after) = (decode(&self.state), decode(&bytes));
        self.state = bytes;
        Ok(Happened {
            events: events.into_iter().flatten().collect(),
            records,
            before,
            after,
            revision,
            active,
        })
    }

    /// The state in memory; where the entity is not, that which its next recovery gives. Looking
    /// neither starts the entity nor uses up a fault that is meant for it.
    async fn look(&self, active: bool) -> Result<Seen, String> {
        if active && let Ok(seen) = self.observer.look(&self.entity).await {
            return Ok(seen);
        }
        self.observer.recover(true).await
    }

    async fn check(
        &self,
        records: &[EventRecord],
        seen: &Result<Seen, String>,
    ) -> Result<(), String> {
        // An entity without a state is seen by the test: it asks for the state or for a reply.
        let Ok(seen) = seen else { return Ok(()) };
        if self.off.is_on(Check::Events) {
            records.iter().try_for_each(checks::event::<E::Event>)?;
        }
        if self.off.is_on(Check::Snapshot) {
            checks::snapshot(seen)?;
        }
        if self.off.is_on(Check::Replay) {
            self.check_replay(seen).await?;
        }
        Ok(())
    }

    async fn check_replay(&self, seen: &Seen) -> Result<(), String> {
        let head = self.stores().journal.head(&self.observer.id).await;
        let complete = head.is_ok_and(|head| head.deleted_to == Seq::ZERO);
        if !complete {
            return checks::replayed(seen, self.observer.recover(true).await);
        }
        let from_events = self.observer.recover(false).await;
        if let (Ok(events), true) = (&from_events, self.has_snapshot().await) {
            checks::agreed(events, self.observer.recover(true).await)?;
        }
        checks::replayed(seen, from_events)
    }

    async fn has_snapshot(&self) -> bool {
        use duractor_snapshot::{Criteria, SnapshotStore};
        let newest = self.stores().snapshots.load(&self.observer.id, Criteria::ALL).await;
        newest.is_ok_and(|newest| newest.is_some())
    }
}

/// Starts a node with all kinds.
async fn start<E: EventSourced>(
    observer: &Observer<E>,
    sim: &SimEnv,
    kinds: &[Register],
) -> Result<(Node, EntityRef<E>), String> {
    let live = || Arc::new(Live(observer.stores.clone()));
    let builder = Node::builder("").env(sim.env()).journal(live()).snapshots(live());
    let builder = kinds.iter().fold(builder, |builder, register| register(builder));
    let started = async {
        let node = builder.start().await?;
        let entity = node.entity::<E>(observer.id.key())?;
        Ok::<_, duractor::NodeError>((node, entity))
    };
    started.await.map_err(|error| format!("the node does not start: {error}"))
}
