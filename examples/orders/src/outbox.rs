//! What the outside world is to be told, and the one task in the cluster that tells it.
//!
//! Whoever has something to tell *delivers* it to the outbox, an entity: so it is there once. The mailer,
//! a singleton, sends what is there, one after the other, and then takes it out. Where it dies in between,
//! the next mailer sends again what it does not know was sent. So the receiver gets each notice at least
//! once, with a number by which it tells a repeat, and with the mailer's fencing token, by which it
//! refuses a mailer that stood still while another took over.

#![allow(missing_docs, reason = "the names of fields and variants say what they are")]

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, Request, Uri, header},
};
use duractor::{SideError, Singleton, prelude::*};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::web::{self, Pool};

/// The one outbox's key.
pub const OUTBOX: &str = "mail";
/// The header with a notice's number: the same whenever it is sent.
pub const NUMBER: HeaderName = HeaderName::from_static("notice-number");
/// The header with the mailer's token: refuse a lower one than was seen.
pub const TOKEN: HeaderName = HeaderName::from_static("fencing-token");

/// So many are taken at once.
const BATCH: u32 = 100;
/// The wait between two looks into an empty outbox.
const LOOK: Duration = Duration::from_millis(100);

/// What the outside world is told of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub order: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub enum OutboxEvent {
    #[event(name = "put")]
    Put { notice: Notice },
    #[event(name = "sent")]
    Sent { to: u64 },
}

/// Notices that are not known to be sent, by their numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Waiting {
    pub notices: BTreeMap<u64, Notice>,
    /// The number of the last one that was put in.
    pub last: u64,
}

#[derive(Debug, Clone, Command)]
#[command(reply = (), name = "put")]
pub struct Put {
    pub notice: Notice,
}

/// Asks for the oldest.
#[derive(Debug, Clone, Command)]
#[command(reply = Vec<(u64, Notice)>, name = "oldest")]
pub struct Oldest {
    pub count: u32,
}

/// All up to this number were sent.
#[derive(Debug, Clone, Command)]
#[command(reply = (), name = "sent")]
pub struct Sent {
    pub to: u64,
}

/// How many were put in, and how many of them wait.
#[derive(Debug, Clone, Command)]
#[command(reply = (u64, u64), name = "count")]
pub struct CountNotices;

pub struct Outbox;

impl EventSourced for Outbox {
    const KIND: &'static str = "outbox";
    type State = Waiting;
    type Event = OutboxEvent;
    type Commands = (Put, Oldest, Sent, CountNotices);

    fn apply(waiting: &mut Waiting, event: &OutboxEvent) {
        match event {
            OutboxEvent::Put { notice } => {
                waiting.last += 1;
                waiting.notices.insert(waiting.last, notice.clone());
            }
            OutboxEvent::Sent { to } => waiting.notices.retain(|number, _| number > to),
        }
    }

    /// Every checkout of half a day is a sender of its own, and is told from the others.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(1000).senders(200_000)
    }
}

impl Handle<Put> for Outbox {
    fn handle(&self, _: &Waiting, Put { notice }: Put, _: &Context) -> Effect<Self, ()> {
        Self::persist(OutboxEvent::Put { notice }).no_reply()
    }
}

impl Handle<Oldest> for Outbox {
    fn handle(
        &self,
        waiting: &Waiting,
        Oldest { count }: Oldest,
        _: &Context,
    ) -> Effect<Self, Vec<(u64, Notice)>> {
        let oldest = waiting.notices.iter().take(count as usize);
        Effect::reply(oldest.map(|(number, notice)| (*number, notice.clone())).collect())
    }
}

impl Handle<Sent> for Outbox {
    fn handle(&self, waiting: &Waiting, Sent { to }: Sent, _: &Context) -> Effect<Self, ()> {
        match waiting.notices.first_key_value() {
            Some((first, _)) if *first <= to => Self::persist(OutboxEvent::Sent { to }).no_reply(),
            _ => Effect::reply(()),
        }
    }
}

impl Handle<CountNotices> for Outbox {
    fn handle(&self, waiting: &Waiting, _: CountNotices, _: &Context) -> Effect<Self, (u64, u64)> {
        Effect::reply((waiting.last, waiting.notices.len() as u64))
    }
}

/// The mailer: sends what is in the outbox to `receiver`, for as long as this node runs it.
///
/// # Errors
/// A notice was not taken, or the outbox cannot be asked. The mailer is started again then, here or
/// elsewhere, and begins with what is not known to be sent.
pub async fn mail(mailer: Singleton, receiver: Uri, pool: Pool) -> Result<(), SideError> {
    let outbox = mailer.entity::<Outbox>(OUTBOX)?;
    loop {
        let notices = outbox.ask(Oldest { count: BATCH }).await?;
        if notices.is_empty() {
            tokio::select! {
                biased;
                () = mailer.ending() => return Ok(()),
                () = sleep(LOOK) => continue,
            }
        }
        let mut sent = Ok(());
        let mut to = 0;
        for (number, notice) in &notices {
            sent = send(&pool, &receiver, mailer.token(), *number, notice).await;
            if sent.is_err() {
                break;
            }
            to = *number;
        }
        // What was taken before one that was not is out of the way.
        outbox.ask(Sent { to }).await?;
        sent?;
    }
}

async fn send(
    pool: &Pool,
    receiver: &Uri,
    token: u64,
    number: u64,
    notice: &Notice,
) -> Result<(), SideError> {
    let request = Request::post(receiver.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header(NUMBER, number)
        .header(TOKEN, token)
        .body(Body::from(serde_json::to_vec(notice)?))?;
    let (status, _) = web::exchange(pool, request).await?;
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("notice {number} was answered with {status}").into()),
    }
}
