//! What the tests of the runtime share: an account, and a node in memory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::sync::Arc;

use duractor::{
    Context, Effect, EntityRef, EntitySettings, Event, EventSourced, Handle, Journal, Node,
    NodeBuilder, Persist, RequestId, Seq, SnapshotStore,
};
use duractor_journal::{Limits, MemoryJournal};
use duractor_snapshot::MemorySnapshots;
use serde::{Deserialize, Serialize};

#[derive(Event)]
pub enum Moved {
    Added {
        by: i64,
    },
    /// `apply` panics on it.
    Poison,
}

#[derive(Default, Debug, Serialize, Deserialize)]
pub struct Balance {
    pub total: i64,
    pub events: u64,
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident $fields:tt -> $reply:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(duractor::Command)]
            #[command(reply = $reply)]
            pub struct $name $fields
        )*
    };
}

commands! {
    Add { pub by: i64 } -> i64;
    AddMany { pub each: Vec<i64> } -> Result<i64, String>;
    Get {} -> i64;
    Revision {} -> u64;
    /// Stashed until the total is not negative.
    WhenPositive {} -> i64;
    Panic {} -> ();
    PanicInApply {} -> ();
    /// The side effect adds so much to another account, by asking.
    Forward { pub key: String, pub by: i64 } -> ();
    /// The runtime tells another account.
    Send { pub key: String, pub by: i64 } -> ();
    AddLater { pub name: String, pub after_ms: u64, pub by: i64 } -> ();
    CancelLater { pub name: String } -> ();
    Leave {} -> ();
    /// Adds and leaves.
    AddAndLeave { pub by: i64 } -> i64;
}

#[derive(duractor::Command)]
#[command(reply = i64)]
pub struct NotTaken;

#[derive(Default)]
pub struct Account {
    pub settings: EntitySettings,
}

impl EventSourced for Account {
    const KIND: &'static str = "account";
    type State = Balance;
    type Event = Moved;
    type Commands = (
        Add,
        AddMany,
        Get,
        Revision,
        WhenPositive,
        Panic,
        PanicInApply,
        Forward,
        Send,
        AddLater,
        CancelLater,
        Leave,
        AddAndLeave,
    );

    fn apply(state: &mut Balance, event: &Moved) {
        match event {
            Moved::Added { by } => state.total += by,
            Moved::Poison => panic!("poison"),
        }
        state.events += 1;
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

impl Handle<Add> for Account {
    fn handle(&self, _: &Balance, add: Add, _: &Context) -> Effect<Self, i64> {
        let effect = Self::persist(Moved::Added { by: add.by }).reply(|state| state.total);
        effect.unstash()
    }
}

impl Handle<AddMany> for Account {
    fn handle(&self, _: &Balance, add: AddMany, _: &Context) -> Effect<Self, Result<i64, String>> {
        if add.each.is_empty() {
            return Effect::reply(Err("nothing to add".to_owned()));
        }
        let events = add.each.into_iter().map(|by| Moved::Added { by }).collect();
        Self::persist_all(events).reply(|state| Ok(state.total))
    }
}

impl Handle<Get> for Account {
    fn handle(&self, state: &Balance, _: Get, _: &Context) -> Effect<Self, i64> {
        Effect::reply(state.total)
    }
}

impl Handle<Revision> for Account {
    fn handle(&self, _: &Balance, _: Revision, cx: &Context) -> Effect<Self, u64> {
        Effect::reply(cx.revision().0)
    }
}

impl Handle<WhenPositive> for Account {
    fn handle(&self, state: &Balance, when: WhenPositive, _: &Context) -> Effect<Self, i64> {
        if state.total > 0 { Effect::reply(state.total) } else { Effect::stash(when) }
    }
}

impl Handle<Panic> for Account {
    fn handle(&self, _: &Balance, _: Panic, _: &Context) -> Effect<Self, ()> {
        panic!("as told")
    }
}

impl Handle<PanicInApply> for Account {
    fn handle(&self, _: &Balance, _: PanicInApply, _: &Context) -> Effect<Self, ()> {
        Self::persist_all(vec![Moved::Added { by: 1000 }, Moved::Poison]).no_reply()
    }
}

impl Handle<Forward> for Account {
    fn handle(&self, _: &Balance, forward: Forward, _: &Context) -> Effect<Self, ()> {
        let Forward { key, by } = forward;
        Self::persist(Moved::Added { by: -by })
            .then(async move |cx: duractor::SideContext| {
                cx.entity::<Account>(&key)?.ask(Add { by }).await?;
                Ok(())
            })
            .no_reply()
    }
}

impl Handle<Send> for Account {
    fn handle(&self, _: &Balance, send: Send, _: &Context) -> Effect<Self, ()> {
        Self::persist(Moved::Added { by: -send.by })
            .send::<Account, _>(send.key, Add { by: send.by })
            .no_reply()
    }
}

impl Handle<AddLater> for Account {
    fn handle(&self, _: &Balance, add: AddLater, _: &Context) -> Effect<Self, ()> {
        let after = std::time::Duration::from_millis(add.after_ms);
        Effect::nothing().timer(add.name, after, Add { by: add.by }).no_reply()
    }
}

impl Handle<CancelLater> for Account {
    fn handle(&self, _: &Balance, cancel: CancelLater, _: &Context) -> Effect<Self, ()> {
        Effect::nothing().cancel_timer(cancel.name).no_reply()
    }
}

impl Handle<Leave> for Account {
    fn handle(&self, _: &Balance, _: Leave, _: &Context) -> Effect<Self, ()> {
        Effect::nothing().passivate().no_reply()
    }
}

impl Handle<AddAndLeave> for Account {
    fn handle(&self, _: &Balance, add: AddAndLeave, _: &Context) -> Effect<Self, i64> {
        Self::persist(Moved::Added { by: add.by }).reply(|state| state.total).passivate()
    }
}

impl Handle<NotTaken> for Account {
    fn handle(&self, state: &Balance, _: NotTaken, _: &Context) -> Effect<Self, i64> {
        Effect::reply(state.total)
    }
}

/// What outlives a node.
pub struct World {
    pub journal: Arc<MemoryJournal>,
    pub snapshots: Arc<MemorySnapshots>,
}

impl World {
    pub fn new() -> Self {
        let journal = MemoryJournal::new(4, Limits::default());
        Self { journal, snapshots: Arc::new(MemorySnapshots::new()) }
    }

    pub fn builder(&self) -> NodeBuilder {
        let journal: Arc<dyn Journal> = self.journal.clone();
        let snapshots: Arc<dyn SnapshotStore> = self.snapshots.clone();
        Node::builder("not used").journal(journal).snapshots(snapshots)
    }

    pub async fn start(&self) -> Node {
        self.start_with(EntitySettings::default()).await
    }

    pub async fn start_with(&self, settings: EntitySettings) -> Node {
        self.builder().register(Account { settings }).start().await.unwrap()
    }
}

pub fn account(node: &Node, key: &str) -> EntityRef<Account> {
    node.entity(key).unwrap()
}

pub fn request(id: &str) -> RequestId {
    RequestId::new(id).unwrap()
}

/// Shuts a node down and checks that no command was lost. Journal and snapshots stay usable only
/// where the test never asked the node to close them: so nodes are restarted with `kill` too.
pub async fn finish(node: Node) {
    node.shutdown().await;
    let counts = node.ledger();
    assert_eq!(counts.open(), 0, "every accepted command is accounted for: {counts:?}");
    assert_eq!(
        counts.accepted,
        counts.replied + counts.rejected + counts.dead_lettered,
        "{counts:?}"
    );
}

pub fn seq(n: u64) -> Seq {
    Seq(n)
}
