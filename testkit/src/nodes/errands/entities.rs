//! The entities: senders, receivers, and watches that are remembered.

use duractor::{
    Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, NodeBuilder, Outcome,
    Persist, Timestamp,
};

pub(in crate::nodes) fn register(builder: NodeBuilder, settings: &EntitySettings) -> NodeBuilder {
    let settings = settings.clone().dedup_count(0);
    let watch = Watch(settings.clone().remember(true));
    // Nothing is given up in a run, however bad it is.
    let settings = settings.delivery_attempts(u32::MAX);
    builder.register(Sender(settings.clone())).register(Receiver(settings)).register(watch)
}

pub(super) struct Sender(EntitySettings);

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(super) enum Noted {
    #[event(name = "sent")]
    Sent { op: u64, to: u32, tells: bool },
    #[event(name = "told")]
    Told { op: u64 },
    #[event(name = "set")]
    Set { op: u64, due: Timestamp },
    #[event(name = "rung")]
    Rung { op: u64, at: Timestamp },
}

#[derive(Command)]
#[command(reply = ())]
pub(super) struct Send {
    pub(super) op: u64,
    pub(super) to: u32,
    pub(super) tells: bool,
}

#[derive(Command)]
#[command(reply = ())]
pub(super) struct Told(Outcome<Take>);

impl From<Outcome<Take>> for Told {
    fn from(outcome: Outcome<Take>) -> Self {
        Self(outcome)
    }
}

#[derive(Command)]
#[command(reply = ())]
pub(super) struct Set {
    pub(super) op: u64,
    pub(super) after_ms: u64,
}

#[derive(Command)]
#[command(reply = ())]
pub(super) struct Ring {
    pub(super) op: u64,
}

impl EventSourced for Sender {
    const KIND: &'static str = "sender";
    type State = u64;
    type Event = Noted;
    type Commands = (Send, Told, Set, Ring);

    fn apply(state: &mut u64, _: &Noted) {
        *state += 1;
    }

    fn settings(&self) -> EntitySettings {
        // All of its events are read in the end.
        self.0.clone().delete_events(false)
    }
}

impl Handle<Send> for Sender {
    fn handle(&self, _: &u64, Send { op, to, tells }: Send, _: &Context) -> Effect<Self, ()> {
        let effect = Self::persist(Noted::Sent { op, to, tells });
        if tells {
            return effect.deliver_then::<Receiver, Take, Told>(to.to_string(), Take { op }).into();
        }
        effect.deliver::<Receiver, Take>(to.to_string(), Take { op }).into()
    }
}

impl Handle<Told> for Sender {
    fn handle(&self, _: &u64, told: Told, _: &Context) -> Effect<Self, ()> {
        match told.0.reply() {
            Ok(op) => Self::persist(Noted::Told { op }).no_reply(),
            Err(_) => Effect::reply(()),
        }
    }
}

impl Handle<Set> for Sender {
    fn handle(&self, _: &u64, Set { op, after_ms }: Set, cx: &Context) -> Effect<Self, ()> {
        let due = Timestamp(cx.now().0 + after_ms);
        Self::persist(Noted::Set { op, due }).remind_at(op.to_string(), due, Ring { op }).into()
    }
}

impl Handle<Ring> for Sender {
    fn handle(&self, _: &u64, Ring { op }: Ring, cx: &Context) -> Effect<Self, ()> {
        Self::persist(Noted::Rung { op, at: cx.now() }).no_reply()
    }
}

pub(super) struct Receiver(EntitySettings);

#[derive(Debug, Clone, PartialEq, Eq, Event)]
#[event(name = "took")]
pub(super) struct Took {
    pub(super) op: u64,
}

#[derive(Command)]
#[command(reply = u64)]
pub(super) struct Take {
    pub(super) op: u64,
}

impl EventSourced for Receiver {
    const KIND: &'static str = "receiver";
    type State = u64;
    type Event = Took;
    type Commands = (Take,);

    fn apply(state: &mut u64, _: &Took) {
        *state += 1;
    }

    fn settings(&self) -> EntitySettings {
        self.0.clone().delete_events(false)
    }
}

impl Handle<Take> for Receiver {
    fn handle(&self, _: &u64, Take { op }: Take, _: &Context) -> Effect<Self, u64> {
        Self::persist(Took { op }).reply_with(op)
    }
}

/// Is there from when it was called first.
pub(super) struct Watch(EntitySettings);

#[derive(Command)]
#[command(reply = ())]
pub(super) struct Begin;

impl EventSourced for Watch {
    const KIND: &'static str = "watch";
    type State = u64;
    type Event = Took;
    type Commands = (Begin,);

    fn apply(state: &mut u64, _: &Took) {
        *state += 1;
    }

    fn settings(&self) -> EntitySettings {
        self.0.clone()
    }
}

impl Handle<Begin> for Watch {
    fn handle(&self, _: &u64, _: Begin, _: &Context) -> Effect<Self, ()> {
        Effect::reply(())
    }
}
