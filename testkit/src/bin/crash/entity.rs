//! Entities: writing in the worker, retrying and reading in the parent.

use std::{collections::BTreeMap, future::IntoFuture, path::Path, sync::Arc};

use duractor::{
    Command, Context, Effect, EntityRef, EntitySettings, Event, EventSourced, Handle, Node,
    Persist, RequestId,
};
use duractor_journal::{Env, LogJournal};
use duractor_testkit::Rng;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    Failure,
    cli::{Plant, Worker},
    commands::Commands,
    findings::Findings,
    lines::Line,
    place::{ENTITIES, TASKS, log_config},
};

/// Commands that each task has under way.
const UNDER_WAY: usize = 4;
/// One command in so many is done wrong, where that is wanted.
const PLANT_EVERY: u64 = 20;
/// Commands with a reply that are sent again to each entity.
const AGAIN: usize = 5;

/// A value was added.
#[derive(Event)]
struct Added {
    value: u64,
}

/// Adds a value, as so many events. Replies how many events there are then.
#[derive(Debug, Clone, Command)]
#[command(reply = u64)]
struct Add {
    value: u64,
    events: u64,
}

/// All values, in order.
#[derive(Command)]
#[command(reply = Vec<u64>)]
struct Values;

struct Register {
    settings: EntitySettings,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    values: Vec<u64>,
}

impl EventSourced for Register {
    const KIND: &'static str = "crash";
    type State = State;
    type Event = Added;
    type Commands = (Add, Values);

    fn apply(state: &mut State, event: &Added) {
        state.values.push(event.value);
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

impl Handle<Add> for Register {
    fn handle(&self, _: &State, add: Add, _: &Context) -> Effect<Self, u64> {
        let events = (0..add.events).map(|_| Added { value: add.value }).collect();
        Self::persist_all(events).reply(|state| state.values.len() as u64)
    }
}

impl Handle<Values> for Register {
    fn handle(&self, state: &State, _: Values, _: &Context) -> Effect<Self, Vec<u64>> {
        Effect::reply(state.values.clone())
    }
}

async fn start(dir: &Path, folder_seed: u64) -> Result<Node, Failure> {
    let journal = LogJournal::open(log_config(dir, folder_seed), Env::production()).await?;
    let mut rng = Rng::new(folder_seed);
    let mut settings = EntitySettings::default()
        // More than a folder sees: every repeat is recognised.
        .dedup_count(1_000_000)
        .delete_events(rng.chance(0.5));
    if rng.chance(0.8) {
        settings = settings.snapshot_every(50 + rng.below(200));
    }
    Ok(Node::builder(dir).journal(journal).register(Register { settings }).start().await?)
}

fn references(node: &Node) -> Result<Arc<[EntityRef<Register>]>, Failure> {
    (0..ENTITIES).map(|number| Ok(node.entity::<Register>(&number.to_string())?)).collect()
}

/// Sends a command with the request id that belongs to its value.
async fn ask(entity: EntityRef<Register>, add: Add) -> Result<u64, Failure> {
    let id = RequestId::new(&add.value.to_string())?;
    Ok(entity.ask(add).request_id(id).into_future().await?)
}

/// Asks until the process is killed.
pub(crate) async fn work(args: &Worker) -> Result<(), Failure> {
    let node = start(&args.dir, args.folder_seed).await?;
    let entities = references(&node)?;
    let mut rng = Rng::new(args.seed);
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for task in 0..(TASKS * UNDER_WAY) as u64 {
        let (entities, mut rng, plant) = (entities.clone(), rng.fork(), args.plant);
        let first = u64::from(args.run) << 32 | task << 24;
        tasks.spawn(async move {
            for value in first.. {
                let (number, events) = (rng.index(ENTITIES), 1 + rng.below(3));
                Line::Asking { entity: number, value, events }.print()?;
                let plant = plant.filter(|_| rng.below(PLANT_EVERY) == 0);
                let entity = &entities[number];
                if plant == Some(Plant::Lose) {
                    Line::Answered { entity: number, value, reply: 1_000_000 }.print()?;
                    continue;
                }
                if plant == Some(Plant::Duplicate) {
                    entity.ask(Add { value, events }).await?;
                }
                let reply = ask(entity.clone(), Add { value, events }).await?;
                Line::Answered { entity: number, value, reply }.print()?;
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Starts a node in the folder, sends every command without a reply again and some of the others,
/// all at once, and compares the entities with what they must be.
pub(crate) async fn verify(
    dir: &Path,
    folder_seed: u64,
    rng: &mut Rng,
    commands: &mut Commands,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let node = start(dir, folder_seed).await?;
    for (number, entity) in references(&node)?.iter().enumerate() {
        let (open, closed): (BTreeMap<_, _>, BTreeMap<_, _>) =
            commands.of(number).partition(|(_, command)| command.reply.is_none());
        let closed: Vec<_> = closed.into_iter().collect();
        let some = (0..AGAIN).filter_map(|_| rng.pick(&closed).copied());
        let mut again: Vec<_> = open.into_iter().chain(some).collect();
        // Repeats of a repeat, also while the first is under way.
        again.extend(again.clone().iter().filter(|_| rng.chance(0.3)));
        let asks = again.iter().map(|(value, command)| {
            ask(entity.clone(), Add { value: *value, events: command.events })
        });
        let replies = join_all(asks).await;
        for ((value, _), reply) in again.iter().zip(replies) {
            commands.answered(number, *value, reply?, findings);
        }
        commands.compare(number, &entity.ask(Values).await?, findings);
    }
    node.shutdown().await;
    Ok(())
}
