//! What entities do without being called: deliveries, reminders, coming back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/group.rs"]
mod group;
#[path = "common/saga.rs"]
mod saga;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{World, finish};
use duractor::{
    AskError, Command, Context, Effect, EntityRef, EntitySettings, Env, Event, EventSourced,
    Handle, Node, NodeBuilder, NodeError, Persist, Timestamp,
};
use duractor_journal::{Member, ShardId, env::Clock};
use group::{Group, View, Wires};
use saga::{Count, Depot, Look, Order, Place, Refund, Stage, Wallet};
use tokio::time::{Instant, sleep};

/// A wall clock that goes with tokio's, and can be set.
struct Wall {
    start: Instant,
    ahead_ms: AtomicI64,
}

impl Wall {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), ahead_ms: AtomicI64::new(1_000_000_000_000) })
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let since = self.start.elapsed().as_millis() as i64;
        Timestamp((since + self.ahead_ms.load(SeqCst)) as u64)
    }
}

fn env(wall: &Arc<Wall>) -> Env {
    Env { clock: wall.clone(), ..Env::production() }
}

/// An entity that reminds itself, and says what it heard.
#[derive(Default, Clone)]
struct Bell {
    settings: EntitySettings,
}

#[derive(Event)]
enum Rung {
    Set,
    Heard { note: String, at: u64 },
}

#[derive(Command)]
#[command(reply = ())]
struct Wait {
    name: String,
    after_ms: u64,
    every: bool,
}

#[derive(Command)]
#[command(reply = ())]
struct Forget {
    name: String,
}

#[derive(Command)]
#[command(reply = ())]
struct Ring {
    note: String,
}

#[derive(Command)]
#[command(reply = Vec<(String, u64)>)]
struct All {}

#[derive(Command)]
#[command(reply = ())]
struct Leave {}

/// Delivers to an entity that does not know the command.
#[derive(Command)]
#[command(reply = ())]
struct Misdeliver {
    times: u32,
}

/// Delivers to itself.
#[derive(Command)]
#[command(reply = ())]
struct Echo {
    notes: Vec<String>,
}

impl EventSourced for Bell {
    const KIND: &'static str = "bell";
    type State = Vec<(String, u64)>;
    type Event = Rung;
    type Commands = (Wait, Forget, Ring, All, Leave, Misdeliver, Echo);

    fn apply(state: &mut Self::State, event: &Rung) {
        if let Rung::Heard { note, at } = event {
            state.push((note.clone(), *at));
        }
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

type Heard = Vec<(String, u64)>;

impl Handle<Wait> for Bell {
    fn handle(&self, _: &Heard, wait: Wait, _: &Context) -> Effect<Self, ()> {
        let (ring, after) =
            (Ring { note: wait.name.clone() }, Duration::from_millis(wait.after_ms));
        let effect = Self::persist(Rung::Set);
        if wait.every {
            return effect.remind_every(wait.name, after, ring).no_reply();
        }
        effect.remind_after(wait.name, after, ring).no_reply()
    }
}

impl Handle<Forget> for Bell {
    fn handle(&self, _: &Heard, forget: Forget, _: &Context) -> Effect<Self, ()> {
        Effect::nothing().cancel_reminder(forget.name).no_reply()
    }
}

impl Handle<Ring> for Bell {
    fn handle(&self, _: &Heard, ring: Ring, cx: &Context) -> Effect<Self, ()> {
        assert_ne!(ring.note, "panic", "as told");
        Self::persist(Rung::Heard { note: ring.note, at: cx.now().0 }).no_reply()
    }
}

impl Handle<All> for Bell {
    fn handle(&self, state: &Heard, _: All, _: &Context) -> Effect<Self, Heard> {
        Effect::reply(state.clone())
    }
}

impl Handle<Leave> for Bell {
    fn handle(&self, _: &Heard, _: Leave, _: &Context) -> Effect<Self, ()> {
        Effect::nothing().passivate().no_reply()
    }
}

impl Handle<Misdeliver> for Bell {
    fn handle(&self, _: &Heard, misdeliver: Misdeliver, _: &Context) -> Effect<Self, ()> {
        let mut effect = Effect::nothing();
        for _ in 0..misdeliver.times {
            effect = effect.deliver::<Quiet, _>("q", Shout {});
        }
        effect.no_reply()
    }
}

impl Handle<Echo> for Bell {
    fn handle(&self, _: &Heard, echo: Echo, cx: &Context) -> Effect<Self, ()> {
        let mut effect = Effect::nothing();
        for note in echo.notes {
            effect = effect.deliver::<Bell, _>(cx.key(), Ring { note });
        }
        effect.no_reply()
    }
}

/// Handles a command that is not in its set.
struct Quiet;

#[derive(Command)]
#[command(reply = ())]
struct Shout {}

impl EventSourced for Quiet {
    const KIND: &'static str = "quiet";
    type State = ();
    type Event = Rung;
    type Commands = (All,);

    fn apply(_: &mut (), _: &Rung) {}
}

impl Handle<Shout> for Quiet {
    fn handle(&self, (): &(), _: Shout, _: &Context) -> Effect<Self, ()> {
        Effect::nothing().no_reply()
    }
}

impl Handle<All> for Quiet {
    fn handle(&self, (): &(), _: All, _: &Context) -> Effect<Self, Heard> {
        Effect::reply(Vec::new())
    }
}

fn all_kinds(builder: NodeBuilder, wall: &Arc<Wall>, settings: EntitySettings) -> NodeBuilder {
    let builder = builder.env(env(wall)).register(Order).register(Wallet).register(Depot);
    builder.register(Bell { settings }).register(Quiet)
}

async fn start(world: &World, wall: &Arc<Wall>, settings: EntitySettings) -> Node {
    all_kinds(world.builder(), wall, settings).start().await.unwrap()
}

fn bell(node: &Node, key: &str) -> EntityRef<Bell> {
    node.entity(key).unwrap()
}

fn notes(heard: &Heard) -> Vec<&str> {
    heard.iter().map(|(note, _)| note.as_str()).collect()
}

fn wait(name: &str, after_ms: u64) -> Wait {
    Wait { name: name.into(), after_ms, every: false }
}

async fn stage(node: &Node, order: &str) -> Stage {
    node.entity::<Order>(order).unwrap().ask(Look {}).await.unwrap()
}

async fn place(node: &Node, order: &str, cents: u64) {
    let place = Place { wallet: "w".into(), cents };
    node.entity::<Order>(order).unwrap().ask(place).await.unwrap();
}

async fn wallet(node: &Node) -> (i64, u64) {
    node.entity::<Wallet>("w").unwrap().ask(Count {}).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_process_goes_through_and_what_cannot_be_is_made_good() {
    let (world, wall) = (World::new(), Wall::new());
    let node = start(&world, &wall, EntitySettings::default()).await;
    node.entity::<Wallet>("w").unwrap().ask(Refund { cents: 100 }).await.unwrap();
    place(&node, "one", 60).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage(&node, "one").await, Stage::Done);
    place(&node, "two", 60).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage(&node, "two").await, Stage::Refused("40 is too little".into()));
    place(&node, "odd", 30).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage(&node, "odd").await, Stage::Refused("it does not fit".into()));
    assert_eq!(wallet(&node).await, (40, 4));
    // What the framework keeps is not in the history, and is part of the revision.
    let order = node.entity::<Order>("one").unwrap();
    let history = order.history(common::seq(1), 100).await.unwrap();
    assert_eq!(history.len(), 3);
    assert_eq!(history.last().unwrap().seq.0, 6);
    finish(node).await;
}

/// The node dies at any moment, and another one takes over, again and again: each order ends, and
/// money moved once for each.
#[tokio::test(start_paused = true)]
async fn deliveries_take_effect_once_through_crashes() {
    let (world, wall) = (World::new(), Wall::new());
    let mut node = start(&world, &wall, EntitySettings::default()).await;
    node.entity::<Wallet>("w").unwrap().ask(Refund { cents: 1000 }).await.unwrap();
    for n in 0..40_u32 {
        place(&node, &format!("o{n}"), 1).await;
        // Any number of steps of the tasks under way.
        for _ in 0..n % 13 {
            tokio::task::yield_now().await;
        }
        node.kill().await;
        node = start(&world, &wall, EntitySettings::default()).await;
    }
    sleep(Duration::from_secs(20)).await;
    for n in 0..40 {
        assert_eq!(stage(&node, &format!("o{n}")).await, Stage::Done, "order {n}");
    }
    assert_eq!(wallet(&node).await, (960, 41));
    finish(node).await;
}

/// As above, on three nodes whose leader changes while deliveries are under way.
#[tokio::test(start_paused = true)]
async fn deliveries_take_effect_once_through_moves() {
    let (group, wires, wall) = (Group::new(), Wires::new(), Wall::new());
    let views: Vec<_> = (1..=3).map(|n| View::new(&group, n)).collect();
    let mut nodes = Vec::new();
    for view in &views {
        let voters = |_: ShardId| (1..=3).map(|n| Member::new(n, 1)).collect();
        let builder = view.builder().replicas(wires.end(view.me), voters);
        let builder = all_kinds(builder, &wall, EntitySettings::default());
        nodes.push(builder.start().await.unwrap());
    }
    let elect =
        |leader: usize| group.elect(Some(&views[leader]), &views.iter().collect::<Vec<_>>());
    elect(0);
    sleep(Duration::from_millis(50)).await;
    nodes[1].entity::<Wallet>("w").unwrap().ask(Refund { cents: 1000 }).await.unwrap();
    for n in 0..30_usize {
        place(&nodes[n % 3], &format!("o{n}"), 1).await;
        for _ in 0..n % 17 {
            tokio::task::yield_now().await;
        }
        elect((n + 1) % 3);
    }
    sleep(Duration::from_secs(20)).await;
    for n in 0..30 {
        assert_eq!(stage(&nodes[0], &format!("o{n}")).await, Stage::Done, "order {n}");
    }
    assert_eq!(wallet(&nodes[2]).await, (970, 31));
    for node in nodes {
        finish(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn deliveries_to_one_receiver_keep_their_order() {
    let (world, wall) = (World::new(), Wall::new());
    let node = start(&world, &wall, EntitySettings::default()).await;
    let all: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    bell(&node, "a").ask(Echo { notes: all.clone() }).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let heard = bell(&node, "a").ask(All {}).await.unwrap();
    assert_eq!(notes(&heard), all);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_is_given_up_and_does_not_block_others() {
    let (world, wall) = (World::new(), Wall::new());
    let settings = EntitySettings::default().delivery_attempts(3).outbox(4);
    let node = start(&world, &wall, settings).await;
    let sender = bell(&node, "a");
    let error = sender.ask(Misdeliver { times: 5 }).await.unwrap_err();
    assert!(matches!(error, AskError::LimitReached { limit: 4, .. }), "{error}");
    sender.ask(Misdeliver { times: 1 }).await.unwrap();
    sender.ask(Echo { notes: vec!["x".into()] }).await.unwrap();
    sleep(Duration::from_millis(60)).await;
    assert_eq!(sender.follow_ups().await.unwrap().deliveries.len(), 1, "the other one is through");
    sleep(Duration::from_secs(10)).await;
    let left = sender.follow_ups().await.unwrap();
    assert_eq!((left.deliveries.len(), left.dead), (0, 1));
    let (letter, reason) = &left.dead_letters[0];
    assert_eq!((letter.to.kind(), letter.command.as_str()), ("quiet", "Shout"));
    assert!(reason.contains("no command"), "{reason}");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_reminder_comes_once_after_its_time_through_restarts() {
    let (world, wall) = (World::new(), Wall::new());
    let settings = EntitySettings::default().idle_timeout(Duration::from_secs(2));
    let node = start(&world, &wall, settings.clone()).await;
    let set = wall.now().0;
    bell(&node, "a").ask(wait("soon", 10_000)).await.unwrap();
    bell(&node, "a").ask(wait("late", 60_000)).await.unwrap();
    bell(&node, "a").ask(wait("never", 20_000)).await.unwrap();
    bell(&node, "a").ask(Forget { name: "never".into() }).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(node.active::<Bell>().unwrap(), 0, "a reminder does not keep it in memory");
    sleep(Duration::from_secs(6)).await;
    assert_eq!(node.active::<Bell>().unwrap(), 1, "it came by itself");
    node.kill().await;
    let node = start(&world, &wall, settings.clone()).await;
    sleep(Duration::from_secs(60)).await;
    let heard = bell(&node, "a").ask(All {}).await.unwrap();
    assert_eq!(notes(&heard), ["soon", "late"]);
    let after: Vec<u64> = heard.iter().map(|(_, at)| at - set).collect();
    assert!((10_000..10_100).contains(&after[0]), "{after:?}");
    assert!((60_000..60_100).contains(&after[1]), "{after:?}");
    node.kill().await;
    // Nothing is left to wake it for.
    let node = start(&world, &wall, settings).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(node.active::<Bell>().unwrap(), 0);
    finish(node).await;
}

/// A clock that was set back makes a reminder late and never early; one that was set forward makes it
/// come, and not twice.
#[tokio::test(start_paused = true)]
async fn reminders_follow_the_wall_clock() {
    let (world, wall) = (World::new(), Wall::new());
    let node = start(&world, &wall, EntitySettings::default()).await;
    bell(&node, "a").ask(wait("x", 3_600_000)).await.unwrap();
    wall.ahead_ms.fetch_sub(1_800_000, SeqCst);
    sleep(Duration::from_secs(3_700)).await;
    assert!(bell(&node, "a").ask(All {}).await.unwrap().is_empty());
    wall.ahead_ms.fetch_add(3_600_000, SeqCst);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(notes(&bell(&node, "a").ask(All {}).await.unwrap()), ["x"]);
    wall.ahead_ms.fetch_sub(3_600_000, SeqCst);
    sleep(Duration::from_secs(7_200)).await;
    assert_eq!(notes(&bell(&node, "a").ask(All {}).await.unwrap()), ["x"]);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_reminder_that_comes_again_leaves_out_what_was_missed() {
    let (world, wall) = (World::new(), Wall::new());
    let node = start(&world, &wall, EntitySettings::default()).await;
    bell(&node, "a").ask(Wait { name: "x".into(), after_ms: 10_000, every: true }).await.unwrap();
    sleep(Duration::from_secs(35)).await;
    assert_eq!(bell(&node, "a").ask(All {}).await.unwrap().len(), 3);
    node.kill().await;
    sleep(Duration::from_secs(100)).await;
    let node = start(&world, &wall, EntitySettings::default()).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        bell(&node, "a").ask(All {}).await.unwrap().len(),
        4,
        "once for all that was missed"
    );
    sleep(Duration::from_secs(10)).await;
    assert_eq!(bell(&node, "a").ask(All {}).await.unwrap().len(), 5);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_reminder_whose_handler_fails_is_given_up() {
    let (world, wall) = (World::new(), Wall::new());
    let settings = EntitySettings::default().delivery_attempts(3);
    let node = start(&world, &wall, settings).await;
    bell(&node, "a").ask(wait("panic", 1_000)).await.unwrap();
    bell(&node, "a").ask(wait("well", 2_000)).await.unwrap();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(notes(&bell(&node, "a").ask(All {}).await.unwrap()), ["well"]);
    assert!(bell(&node, "a").follow_ups().await.unwrap().reminders.is_empty());
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn remembered_entities_come_back_until_they_are_told_to_stay_away() {
    let (world, wall) = (World::new(), Wall::new());
    let settings = EntitySettings::default().remember(true).idle_timeout(Duration::from_secs(2));
    let node = start(&world, &wall, settings.clone()).await;
    for key in ["a", "b", "c"] {
        bell(&node, key).ask(All {}).await.unwrap();
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(node.active::<Bell>().unwrap(), 3, "they are not idle");
    bell(&node, "b").ask(Leave {}).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    node.kill().await;
    let node = start(&world, &wall, settings.clone()).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.active::<Bell>().unwrap(), 2);
    node.shutdown().await;
}

#[derive(Event)]
#[event(name = "duractor.mine")]
struct Taken;

struct Greedy;

impl EventSourced for Greedy {
    const KIND: &'static str = "greedy";
    type State = ();
    type Event = Taken;
    type Commands = (Leave,);

    fn apply((): &mut (), _: &Taken) {}
}

impl Handle<Leave> for Greedy {
    fn handle(&self, (): &(), _: Leave, _: &Context) -> Effect<Self, ()> {
        Self::persist(Taken).no_reply()
    }
}

#[tokio::test(start_paused = true)]
async fn the_frameworks_names_are_not_for_others() {
    let started = World::new().builder().register(Greedy).start().await;
    let Err(error) = started.map(drop) else { panic!("it started") };
    assert!(matches!(error, NodeError::Schemas { what: "events", .. }), "{error}");
}
