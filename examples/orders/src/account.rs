//! What customers have paid in. The checkout reserves money here, and then captures or releases it.

#![allow(missing_docs, reason = "the names of fields and variants say what they are")]

use std::collections::BTreeMap;

use duractor::prelude::*;
use serde::{Deserialize, Serialize};

/// What can happen to an account.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub enum AccountEvent {
    #[event(name = "deposited")]
    Deposited { cents: u64 },
    #[event(name = "reserved")]
    Reserved { order: String, cents: u64 },
    #[event(name = "captured")]
    Captured { order: String },
    #[event(name = "released")]
    Released { order: String },
}

/// A customer's money.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub free_cents: u64,
    /// By order. What is here belongs to nobody until it is captured or released.
    pub reserved: BTreeMap<String, u64>,
    pub spent_cents: u64,
    /// How many orders it was spent on.
    pub orders_paid: u64,
}

/// Pays money in.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = Result<Account, Declined>, name = "deposit")]
#[serde(deny_unknown_fields)]
pub struct Deposit {
    pub cents: u64,
}

/// Sets money aside for an order.
#[derive(Debug, Clone, Command)]
#[command(reply = Result<(), Declined>, name = "reserve")]
pub struct Reserve {
    pub order: String,
    pub cents: u64,
}

/// The order was shipped: what was set aside is the shop's.
#[derive(Debug, Clone, Command)]
#[command(reply = Result<(), Declined>, name = "capture")]
pub struct Capture {
    pub order: String,
}

/// The order came to nothing: what was set aside is free again.
#[derive(Debug, Clone, Command)]
#[command(reply = Result<(), Declined>, name = "release")]
pub struct Release {
    pub order: String,
}

#[derive(Debug, Clone, Command)]
#[command(reply = Account, name = "look")]
pub struct LookAt;

/// Why an account refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Declined {
    #[error("{free_cents} cents are too little")]
    TooLittle { free_cents: u64 },
    #[error("so much money there is not")]
    TooMuch,
    #[error("nothing is reserved for order {order}")]
    NotReserved { order: String },
    #[error("money is reserved for order {order} already")]
    Reserved { order: String },
}

/// All accounts; the key is the customer.
pub struct Accounts;

impl EventSourced for Accounts {
    const KIND: &'static str = "account";
    type State = Account;
    type Event = AccountEvent;
    type Commands = (Deposit, Reserve, Capture, Release, LookAt);

    fn apply(account: &mut Account, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited { cents } => account.free_cents += cents,
            AccountEvent::Reserved { order, cents } => {
                account.free_cents = account.free_cents.saturating_sub(*cents);
                account.reserved.insert(order.clone(), *cents);
            }
            AccountEvent::Captured { order } => {
                account.spent_cents += account.reserved.remove(order).unwrap_or_default();
                account.orders_paid += 1;
            }
            AccountEvent::Released { order } => {
                account.free_cents += account.reserved.remove(order).unwrap_or_default();
            }
        }
    }

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(100)
    }
}

type Answer = Effect<Accounts, Result<(), Declined>>;

/// An order whose money is to be captured or released must have some.
fn reserved(account: &Account, order: String, event: fn(String) -> AccountEvent) -> Answer {
    match account.reserved.contains_key(&order) {
        true => Accounts::persist(event(order)).reply_with(Ok(())),
        false => Effect::reply(Err(Declined::NotReserved { order })),
    }
}

impl Handle<Deposit> for Accounts {
    fn handle(
        &self,
        account: &Account,
        Deposit { cents }: Deposit,
        _: &Context,
    ) -> Effect<Self, Result<Account, Declined>> {
        let all = account.spent_cents.saturating_add(account.reserved.values().sum());
        if all.checked_add(account.free_cents).and_then(|all| all.checked_add(cents)).is_none() {
            return Effect::reply(Err(Declined::TooMuch));
        }
        Self::persist(AccountEvent::Deposited { cents }).reply(|account| Ok(account.clone()))
    }
}

impl Handle<Reserve> for Accounts {
    fn handle(&self, account: &Account, Reserve { order, cents }: Reserve, _: &Context) -> Answer {
        if account.reserved.contains_key(&order) {
            return Effect::reply(Err(Declined::Reserved { order }));
        }
        if account.free_cents < cents {
            return Effect::reply(Err(Declined::TooLittle { free_cents: account.free_cents }));
        }
        Self::persist(AccountEvent::Reserved { order, cents }).reply_with(Ok(()))
    }
}

impl Handle<Capture> for Accounts {
    fn handle(&self, account: &Account, Capture { order }: Capture, _: &Context) -> Answer {
        reserved(account, order, |order| AccountEvent::Captured { order })
    }
}

impl Handle<Release> for Accounts {
    fn handle(&self, account: &Account, Release { order }: Release, _: &Context) -> Answer {
        reserved(account, order, |order| AccountEvent::Released { order })
    }
}

impl Handle<LookAt> for Accounts {
    fn handle(&self, account: &Account, _: LookAt, _: &Context) -> Effect<Self, Account> {
        Effect::reply(account.clone())
    }
}
