//! Buying an order: a process over the customer's account, the order and the depot.
//!
//! The process is an entity with the order's id for a key. Each of its steps is a command that is
//! *delivered* to another entity, and comes back as an outcome, effectively once; what is decided on it is
//! an event, in one batch with the next delivery. So it goes on where it was through any crash.
//!
//! ```text
//! start ─ reserve money ─ pay the order ─ dispatch ─ ship the order ─ capture the money ─ told: shipped
//!              │               │              │             │
//!           refused         refused      out of stock   cancelled meanwhile
//!              │               │              │             │
//!              │               │         cancel the order   take the parcel back
//!              │               └──────────────┴─────────────┴── release the money ── told: refused
//!              └───────────────────────────────────────────────────────────────────── told: refused
//! ```
//!
//! Steps are not isolated from each other: others see an order that is paid and not shipped yet, and may
//! cancel it. For all or nothing that nobody sees half-done, there are transactions.

#![allow(missing_docs, reason = "the names of fields and variants say what they are")]

use duractor::{Outcome, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    account::{Accounts, Capture, Release, Reserve},
    depot::{DEPOT, Depots, Dispatch, Pieces, TakeBack},
    domain::{Cancel, Orders, Pay, Ship},
    outbox::{Notice, OUTBOX, Outbox, Put},
};

/// Longest reason that an order is told.
const REASON_BYTES: usize = 80;

/// What can happen to a checkout.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub enum CheckoutEvent {
    #[event(name = "started")]
    Started { account: String, amount_cents: u64 },
    #[event(name = "reserved")]
    Reserved,
    #[event(name = "paid")]
    Paid { pieces: Pieces },
    #[event(name = "dispatched")]
    Dispatched { tracking: String },
    #[event(name = "shipped")]
    Shipped,
    /// What was done is to be undone.
    #[event(name = "failed")]
    Failed { why: String },
    /// Nothing is left of it.
    #[event(name = "refused")]
    Refused { why: String },
}

use CheckoutEvent::{Dispatched, Failed, Paid, Refused, Reserved, Shipped, Started};

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    #[default]
    None,
    Reserving,
    Paying,
    Dispatching,
    Shipping,
    Undoing,
    /// The end: all was done.
    Shipped,
    /// The other end: nothing was, or it was undone.
    Refused,
}

/// A checkout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    pub stage: Stage,
    pub account: String,
    pub amount_cents: u64,
    pub tracking: Option<String>,
    /// Why it came to nothing.
    pub why: Option<String>,
    /// What was sent.
    pub pieces: Pieces,
}

/// Buys the order. The amount is there to catch an order that has changed meanwhile.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = Result<Checkout, AlreadyStarted>, name = "start")]
#[serde(deny_unknown_fields)]
pub struct Start {
    pub account: String,
    pub amount_cents: u64,
}

/// An order is bought once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the order is being bought, or was, or could not be")]
pub struct AlreadyStarted;

#[derive(Debug, Clone, Command)]
#[command(reply = Checkout, name = "look")]
pub struct LookAtCheckout;

/// What came of a step, as a command of the checkout.
macro_rules! outcomes {
    ($($name:ident = $stable:literal of $step:ident;)*) => {$(
        #[derive(Command)]
        #[command(reply = (), name = $stable)]
        pub struct $name(Outcome<$step>);

        impl From<Outcome<$step>> for $name {
            fn from(outcome: Outcome<$step>) -> Self {
                Self(outcome)
            }
        }

        impl $name {
            /// The reply, or why there is none: the step's own refusal, or that it was given up.
            fn reply(&self) -> Result<<<$step as Command>::Reply as Answer>::Good, String> {
                match self.0.reply() {
                    Ok(reply) => reply.answer(),
                    Err(undelivered) => Err(undelivered.to_string()),
                }
            }
        }
    )*};
}

/// A reply that may be a refusal.
trait Answer {
    type Good;
    fn answer(self) -> Result<Self::Good, String>;
}

impl<T, E: std::fmt::Display> Answer for Result<T, E> {
    type Good = T;
    fn answer(self) -> Result<T, String> {
        self.map_err(|refusal| refusal.to_string())
    }
}

outcomes! {
    AfterReserve = "after-reserve" of Reserve;
    AfterPay = "after-pay" of Pay;
    AfterDispatch = "after-dispatch" of Dispatch;
    AfterShip = "after-ship" of Ship;
    AfterRelease = "after-release" of Release;
}

/// All checkouts.
pub struct Checkouts;

impl EventSourced for Checkouts {
    const KIND: &'static str = "checkout";
    type State = Checkout;
    type Event = CheckoutEvent;
    type Commands =
        (Start, LookAtCheckout, AfterReserve, AfterPay, AfterDispatch, AfterShip, AfterRelease);

    fn apply(checkout: &mut Checkout, event: &CheckoutEvent) {
        checkout.stage = match event {
            Started { account, amount_cents } => {
                (checkout.account, checkout.amount_cents) = (account.clone(), *amount_cents);
                Stage::Reserving
            }
            Reserved => Stage::Paying,
            Paid { pieces } => {
                checkout.pieces.clone_from(pieces);
                Stage::Dispatching
            }
            Dispatched { tracking } => {
                checkout.tracking = Some(tracking.clone());
                Stage::Shipping
            }
            Shipped => Stage::Shipped,
            Failed { why } => {
                checkout.why = Some(why.clone());
                Stage::Undoing
            }
            Refused { why } => {
                checkout.why = Some(why.clone());
                Stage::Refused
            }
        };
    }
}

type Step = Effect<Checkouts, ()>;

/// The end of a checkout: its last event, and the notice of it.
fn end(event: CheckoutEvent, cx: &Context, text: String) -> Step {
    let notice = Notice { order: cx.key().to_owned(), text };
    Checkouts::persist(event).deliver::<Outbox, Put>(OUTBOX, Put { notice }).no_reply()
}

fn refuse(why: String, cx: &Context) -> Step {
    let text = format!("refused: {why}");
    end(Refused { why }, cx, text)
}

/// Undoes what was done before the money was reserved, and then that.
fn undo(checkout: &Checkout, why: String, cx: &Context) -> Step {
    let order = cx.key().to_owned();
    let mut effect = Checkouts::persist(Failed { why: why.clone() });
    if checkout.stage == Stage::Dispatching {
        let mut reason = why;
        reason.truncate(reason.floor_char_boundary(REASON_BYTES));
        effect = effect.deliver::<Orders, Cancel>(&order, Cancel { reason });
    }
    if checkout.stage == Stage::Shipping {
        let take_back = TakeBack { order: order.clone(), pieces: checkout.pieces.clone() };
        effect = effect.deliver::<Depots, TakeBack>(DEPOT, take_back);
    }
    let release = Release { order };
    effect.deliver_then::<Accounts, Release, AfterRelease>(&checkout.account, release).no_reply()
}

impl Handle<Start> for Checkouts {
    fn handle(
        &self,
        checkout: &Checkout,
        Start { account, amount_cents }: Start,
        cx: &Context,
    ) -> Effect<Self, Result<Checkout, AlreadyStarted>> {
        if checkout.stage != Stage::None {
            return Effect::reply(Err(AlreadyStarted));
        }
        let reserve = Reserve { order: cx.key().to_owned(), cents: amount_cents };
        Self::persist(Started { account: account.clone(), amount_cents })
            .deliver_then::<Accounts, Reserve, AfterReserve>(account, reserve)
            .reply(|checkout| Ok(checkout.clone()))
    }
}

impl Handle<AfterReserve> for Checkouts {
    fn handle(&self, checkout: &Checkout, after: AfterReserve, cx: &Context) -> Step {
        let pay = Pay { amount_cents: checkout.amount_cents };
        match after.reply() {
            Ok(()) => Self::persist(Reserved)
                .deliver_then::<Orders, Pay, AfterPay>(cx.key(), pay)
                .no_reply(),
            Err(why) => refuse(why, cx),
        }
    }
}

impl Handle<AfterPay> for Checkouts {
    fn handle(&self, checkout: &Checkout, after: AfterPay, cx: &Context) -> Step {
        let order = match after.reply() {
            Ok(order) => order,
            Err(why) => return undo(checkout, why, cx),
        };
        let pieces: Pieces =
            order.lines.into_iter().map(|line| (line.sku, line.quantity)).collect();
        let dispatch = Dispatch { order: cx.key().to_owned(), pieces: pieces.clone() };
        Self::persist(Paid { pieces })
            .deliver_then::<Depots, Dispatch, AfterDispatch>(DEPOT, dispatch)
            .no_reply()
    }
}

impl Handle<AfterDispatch> for Checkouts {
    fn handle(&self, checkout: &Checkout, after: AfterDispatch, cx: &Context) -> Step {
        match after.reply() {
            Ok(tracking) => Self::persist(Dispatched { tracking: tracking.clone() })
                .deliver_then::<Orders, Ship, AfterShip>(cx.key(), Ship { tracking })
                .no_reply(),
            Err(why) => undo(checkout, why, cx),
        }
    }
}

impl Handle<AfterShip> for Checkouts {
    fn handle(&self, checkout: &Checkout, after: AfterShip, cx: &Context) -> Step {
        let capture = Capture { order: cx.key().to_owned() };
        match after.reply() {
            Ok(_) => end(Shipped, cx, "shipped".to_owned())
                .deliver::<Accounts, Capture>(&checkout.account, capture),
            Err(why) => undo(checkout, why, cx),
        }
    }
}

impl Handle<AfterRelease> for Checkouts {
    fn handle(&self, checkout: &Checkout, after: AfterRelease, cx: &Context) -> Step {
        let why = checkout.why.clone().unwrap_or_default();
        if let Err(kept) = after.reply() {
            // Somebody must look at it: the money is still set aside.
            tracing::error!(order = cx.key(), kept, "money is not released");
        }
        refuse(why, cx)
    }
}

impl Handle<LookAtCheckout> for Checkouts {
    fn handle(
        &self,
        checkout: &Checkout,
        _: LookAtCheckout,
        _: &Context,
    ) -> Effect<Self, Checkout> {
        Effect::reply(checkout.clone())
    }
}
