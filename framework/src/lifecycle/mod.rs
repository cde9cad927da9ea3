//! An entity's life, one phase a file:
//!
//! ```text
//! tenure → permit → snapshot → replay → running ⇄ persisting → stopping
//!                       ▲         │└──────── quarantine ─────────┘
//!                       └─ fetch ◄┘
//! ```
//!
//! Here is the actor: ractor's mailbox brings [`Note`]s, and the phases do the rest. What is decided
//! is decided in [`core`](crate::core); the phases perform it.

mod after;
mod errands;
mod fetch;
mod holding;
mod permit;
mod persisting;
mod replay;
mod running;
mod shadow;
mod snapshot;
mod stopping;
mod tenure;

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc};

use duractor_journal::{Seq, Term};
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use self::{after::Timer, errands::Errands, holding::Watch};
use crate::{
    core::Core,
    entity::EventSourced,
    error::AskError,
    hold::Tenure,
    intent::BoxEnvelope,
    shadow::Shadowed,
    shared::{Guest, Spawned, Startable},
    slot::{Note, Slot},
};

/// The actor of one entity.
struct EntityActor<E>(PhantomData<fn() -> E>);

/// One incarnation, from its spawn to its end.
struct Incarnation<E: EventSourced> {
    slot: Arc<Slot<E>>,
    generation: u32,
    /// None before recovery and after the end.
    core: Option<Box<Core<E>>>,
    timers: BTreeMap<u64, Timer<E>>,
    next_timer: u64,
    /// What it does without being called.
    errands: Errands<E>,
    end: End,
    /// Set by recovery. Nothing is done under another one.
    tenure: Tenure,
    /// So that a hand-over waits for its end.
    guest: Option<Guest>,
    /// Asks for the decision on what is prepared.
    watch: Option<Watch>,
    /// Whether it has yet to show that it works.
    untried: bool,
}

/// Whether an incarnation takes more commands. If not, it ends once its pipeline is empty.
enum End {
    No,
    /// A handler asked for it.
    Passivate,
    /// It cannot go on.
    Crash(String),
    /// The shard is not this node's any more, or under another epoch.
    Deposed,
}

/// Why recovery gave no state.
#[derive(Debug)]
enum Halt {
    /// What is stored does not make a state, and trying again will not help.
    Quarantine(String),
    /// Events are deleted that no snapshot on this node makes up for: one at `least` or later is
    /// needed.
    Missing { least: Seq, reason: String },
    /// Reading failed: try again later.
    Retry(String),
    /// The shard is not this node's.
    Deposed,
    /// The shard cannot be served now.
    Refuse(AskError),
    /// The journal is closed or has stopped for good.
    NodeFailed(String),
}

impl<E: EventSourced> Actor for EntityActor<E> {
    type Msg = Note;
    type State = Incarnation<E>;
    type Arguments = Incarnation<E>;

    async fn pre_start(
        &self,
        _: ActorRef<Note>,
        incarnation: Incarnation<E>,
    ) -> Result<Incarnation<E>, ActorProcessingErr> {
        Ok(incarnation)
    }

    /// Recovers. The shard's actor does not wait for this.
    async fn post_start(
        &self,
        myself: ActorRef<Note>,
        incarnation: &mut Incarnation<E>,
    ) -> Result<(), ActorProcessingErr> {
        // Boxed: the actor's task should not keep room for it for ever.
        Box::pin(incarnation.recover(myself)).await
    }

    async fn handle(
        &self,
        myself: ActorRef<Note>,
        note: Note,
        incarnation: &mut Incarnation<E>,
    ) -> Result<(), ActorProcessingErr> {
        match note {
            Note::Wake => incarnation.run(&myself),
            Note::Passivate => {
                incarnation.passivate(&myself);
                Ok(())
            }
            Note::Timer(number) => {
                incarnation.timer_fired(number);
                Ok(())
            }
            Note::Saved => {
                incarnation.snapshot_saved();
                Ok(())
            }
        }
    }
}

impl<E: EventSourced> Incarnation<E> {
    /// The phases of recovery.
    async fn read(&mut self) -> Result<Box<Core<E>>, Halt> {
        self.tenure = tenure::begin(&self.slot, &mut self.guest).await?;
        let core = recall(&self.slot).await?;
        if self.slot.kind.settings().remember {
            errands::remember(&self.slot).await?;
        }
        Ok(core)
    }

    fn is_owner(&self) -> bool {
        self.slot.hold().is_some_and(|hold| hold.is_held(self.tenure.epoch))
    }

    fn deposed(&self, myself: &ActorRef<Note>) -> Result<(), ActorProcessingErr> {
        self.slot.vacate_deposed();
        myself.stop(None);
        Ok(())
    }

    async fn recover(&mut self, myself: ActorRef<Note>) -> Result<(), ActorProcessingErr> {
        let begun = Instant::now();
        match self.read().await {
            Ok(mut core) => {
                if !self.tenure.for_ever {
                    core.pipeline().confirm_reads();
                }
                let (entity, events) = (&self.slot.id, core.seq().0);
                let took = begun.elapsed();
                tracing::debug!(%entity, events, ?took, generation = self.generation, "recovered");
                #[cfg(feature = "planted")]
                if crate::planted::is(crate::planted::Planted::PreparedForgotten) {
                    core.forget_prepared();
                }
                self.core = Some(core);
                self.watch(true);
                let now = self.slot.kind.shared.millis(Instant::now());
                self.slot.open(myself);
                self.slot.kind.activated(&self.slot, now);
                self.follow_up(u64::MAX);
                Ok(())
            }
            // What was read is not to be judged where somebody else may have written meanwhile.
            Err(Halt::Quarantine(_) | Halt::Missing { .. } | Halt::Retry(_))
                if !self.is_owner() =>
            {
                self.deposed(&myself)
            }
            Err(Halt::Deposed) => self.deposed(&myself),
            Err(Halt::Refuse(error)) => {
                self.slot.vacate_refusing(&error);
                myself.stop(None);
                Ok(())
            }
            Err(Halt::Quarantine(reason) | Halt::Missing { reason, .. }) => {
                tracing::error!(entity = %self.slot.id, reason, "quarantined");
                self.slot.quarantine(&reason);
                myself.stop(None);
                Ok(())
            }
            Err(Halt::Retry(reason)) => Err(reason.into()),
            Err(Halt::NodeFailed(cause)) => {
                self.slot.kind.shared.fail(&cause);
                Err(cause.into())
            }
        }
    }
}

/// The state, from what is known of it here already where that helps. The permit ends with this: what
/// follows may need other entities to recover.
async fn recall<E: EventSourced>(slot: &Slot<E>) -> Result<Box<Core<E>>, Halt> {
    if let Some(known) = slot.kind.shadows.take(&slot.id)
        && let Ok(core) = replay::replay(slot, known).await
    {
        return Ok(core);
    }
    let _permit = permit::acquire(slot).await?;
    match load(slot).await {
        Err(Halt::Missing { least, reason }) => {
            fetch::fetch(slot, least, reason).await?;
            load(slot).await
        }
        read => read,
    }
}

async fn load<E: EventSourced>(slot: &Slot<E>) -> Result<Box<Core<E>>, Halt> {
    let core = snapshot::load(slot).await?;
    replay::replay(slot, core).await
}

impl<E: EventSourced> Drop for Incarnation<E> {
    /// Where the actor was killed, somebody still waits for these answers.
    fn drop(&mut self) {
        self.come_back();
        let Some(mut core) = self.core.take() else { return };
        let lost = || AskError::Lost { entity: self.slot.id.clone() };
        for envelope in core.take_stash() {
            self.slot.refuse(envelope, AskError::ShuttingDown);
        }
        if let Some(envelope) = core.take_considered() {
            self.slot.refuse(envelope, lost());
        }
        for envelope in core.pipeline().drain().filter_map(|held| held.envelope) {
            self.slot.refuse(envelope, lost());
        }
    }
}

impl<E: EventSourced> Startable for Slot<E> {
    fn spawn(self: Arc<Self>, shard: ActorCell) -> BoxFuture<'static, Option<Spawned>> {
        Box::pin(async move {
            let generation = self.generation();
            let incarnation = Incarnation {
                slot: self.clone(),
                generation,
                core: None,
                timers: BTreeMap::new(),
                next_timer: 0,
                errands: Errands::default(),
                end: End::No,
                tenure: Tenure { epoch: Term(0), for_ever: false },
                guest: None,
                watch: None,
                untried: true,
            };
            let actor = EntityActor::<E>(PhantomData);
            match Actor::spawn_linked(None, actor, incarnation, shard).await {
                Ok((actor, _)) => Some(Spawned { actor: actor.get_id(), generation }),
                Err(error) => {
                    self.ended(generation, error.to_string());
                    None
                }
            }
        })
    }

    fn ended(self: Arc<Self>, generation: u32, failure: String) {
        stopping::ended(&self, generation, &failure);
    }
}

impl<E: EventSourced> Shadowed<E> for Slot<E> {
    fn refresh(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { shadow::refresh(&self).await })
    }

    fn look(self: Arc<Self>, envelope: BoxEnvelope<E>) -> BoxFuture<'static, Seq> {
        Box::pin(async move { shadow::look(&self, envelope).await })
    }
}
