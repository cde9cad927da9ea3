//! A process over three kinds of entities: an order is charged and shipped, and what was charged is
//! given back where it cannot be shipped.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::time::Duration;

use duractor::{
    Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Outcome, Persist,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    #[default]
    New,
    Charging,
    Shipping,
    Done,
    Refunding,
    Refused(String),
}

/// The process: one entity for each order.
pub struct Order;

#[derive(Event)]
pub enum OrderEvent {
    Placed { wallet: String, cents: u64 },
    Paid,
    Shipped,
    NotShipped { why: String },
    Refunded,
    Refused { why: String },
}

#[derive(Default, Serialize, Deserialize)]
pub struct OrderState {
    pub stage: Stage,
    wallet: String,
    cents: u64,
    why: String,
}

#[derive(Command)]
#[command(reply = ())]
pub struct Place {
    pub wallet: String,
    pub cents: u64,
}

#[derive(Command)]
#[command(reply = Stage)]
pub struct Look {}

macro_rules! outcomes {
    ($($name:ident of $of:ty;)*) => {$(
        #[derive(Command)]
        #[command(reply = ())]
        pub struct $name(Outcome<$of>);

        impl From<Outcome<$of>> for $name {
            fn from(outcome: Outcome<$of>) -> Self {
                Self(outcome)
            }
        }
    )*};
}

outcomes! {
    Charged of Charge;
    Shipped of Ship;
    Refunded of Refund;
}

impl EventSourced for Order {
    const KIND: &'static str = "order";
    type State = OrderState;
    type Event = OrderEvent;
    type Commands = (Place, Look, Charged, Shipped, Refunded);

    fn apply(state: &mut OrderState, event: &OrderEvent) {
        state.stage = match event {
            OrderEvent::Placed { wallet, cents } => {
                (state.wallet, state.cents) = (wallet.clone(), *cents);
                Stage::Charging
            }
            OrderEvent::Paid => Stage::Shipping,
            OrderEvent::Shipped => Stage::Done,
            OrderEvent::NotShipped { why } => {
                state.why.clone_from(why);
                Stage::Refunding
            }
            OrderEvent::Refunded => Stage::Refused(state.why.clone()),
            OrderEvent::Refused { why } => Stage::Refused(why.clone()),
        };
    }
}

impl Handle<Place> for Order {
    fn handle(&self, _: &OrderState, place: Place, cx: &Context) -> Effect<Self, ()> {
        let Place { wallet, cents } = place;
        let charge = Charge { order: cx.key().to_owned(), cents };
        Self::persist(OrderEvent::Placed { wallet: wallet.clone(), cents })
            .deliver_then::<Wallet, Charge, Charged>(wallet, charge)
            .no_reply()
    }
}

impl Handle<Charged> for Order {
    fn handle(&self, _: &OrderState, charged: Charged, cx: &Context) -> Effect<Self, ()> {
        match charged.0.reply() {
            Ok(Ok(_)) => Self::persist(OrderEvent::Paid)
                .deliver_then::<Depot, Ship, Shipped>("main", Ship { order: cx.key().to_owned() })
                .no_reply(),
            Ok(Err(why)) => Self::persist(OrderEvent::Refused { why }).no_reply(),
            Err(error) => Self::persist(OrderEvent::Refused { why: error.to_string() }).no_reply(),
        }
    }
}

impl Handle<Shipped> for Order {
    fn handle(&self, state: &OrderState, shipped: Shipped, _: &Context) -> Effect<Self, ()> {
        let why = match shipped.0.reply() {
            Ok(Ok(())) => return Self::persist(OrderEvent::Shipped).no_reply(),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        let refund = Refund { cents: state.cents };
        Self::persist(OrderEvent::NotShipped { why })
            .deliver_then::<Wallet, Refund, Refunded>(&state.wallet, refund)
            .no_reply()
    }
}

impl Handle<Refunded> for Order {
    fn handle(&self, _: &OrderState, _: Refunded, _: &Context) -> Effect<Self, ()> {
        Self::persist(OrderEvent::Refunded).no_reply()
    }
}

impl Handle<Look> for Order {
    fn handle(&self, state: &OrderState, _: Look, _: &Context) -> Effect<Self, Stage> {
        Effect::reply(state.stage.clone())
    }
}

/// Money.
#[derive(Default)]
pub struct Wallet;

#[derive(Event)]
pub enum WalletEvent {
    Changed { by: i64 },
}

#[derive(Command)]
#[command(reply = Result<i64, String>)]
pub struct Charge {
    pub order: String,
    pub cents: u64,
}

#[derive(Command)]
#[command(reply = ())]
pub struct Refund {
    pub cents: u64,
}

/// The balance, and how often it changed.
#[derive(Command)]
#[command(reply = (i64, u64))]
pub struct Count {}

impl EventSourced for Wallet {
    const KIND: &'static str = "wallet";
    type State = (i64, u64);
    type Event = WalletEvent;
    type Commands = (Charge, Refund, Count);

    fn apply(state: &mut (i64, u64), event: &WalletEvent) {
        let WalletEvent::Changed { by } = event;
        state.0 += by;
        state.1 += 1;
    }

    /// A window that forgets at once: deliveries must not lean on it.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default().dedup_count(0).delivery_attempts(3)
    }
}

impl Handle<Charge> for Wallet {
    fn handle(
        &self,
        state: &(i64, u64),
        charge: Charge,
        _: &Context,
    ) -> Effect<Self, Result<i64, String>> {
        let by = -i64::try_from(charge.cents).unwrap_or(i64::MAX);
        if state.0 + by < 0 {
            return Effect::reply(Err(format!("{} is too little", state.0)));
        }
        Self::persist(WalletEvent::Changed { by }).reply(|state| Ok(state.0))
    }
}

impl Handle<Refund> for Wallet {
    fn handle(&self, _: &(i64, u64), refund: Refund, _: &Context) -> Effect<Self, ()> {
        let by = i64::try_from(refund.cents).unwrap_or(i64::MAX);
        Self::persist(WalletEvent::Changed { by }).no_reply()
    }
}

impl Handle<Count> for Wallet {
    fn handle(&self, state: &(i64, u64), _: Count, _: &Context) -> Effect<Self, (i64, u64)> {
        Effect::reply(*state)
    }
}

/// Ships everything but orders that begin with `odd`.
#[derive(Default)]
pub struct Depot;

#[derive(Command)]
#[command(reply = Result<(), String>)]
pub struct Ship {
    pub order: String,
}

#[derive(Event)]
pub struct Sent {
    order: String,
}

impl EventSourced for Depot {
    const KIND: &'static str = "depot";
    type State = Vec<String>;
    type Event = Sent;
    type Commands = (Ship,);

    fn apply(state: &mut Vec<String>, event: &Sent) {
        state.push(event.order.clone());
    }

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().idle_timeout(Duration::from_secs(1))
    }
}

impl Handle<Ship> for Depot {
    fn handle(&self, _: &Vec<String>, ship: Ship, _: &Context) -> Effect<Self, Result<(), String>> {
        if ship.order.starts_with("odd") {
            return Effect::reply(Err("it does not fit".to_owned()));
        }
        Self::persist(Sent { order: ship.order }).reply_with(Ok(()))
    }
}
