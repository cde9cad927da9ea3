//! Transactions: commands on several entities of which all are carried out or none is.
//!
//! | | |
//! |---|---|
//! | [`error`] | what can become of a transaction |
//! | [`local`] | all entities on one shard: one entry of its log, at its owner |
//! | [`across`] | entities on several shards: two phases, decided by a [coordinator](crate::coordinator) |
//!
//! What an entity does for them is in `core/transact.rs` and `lifecycle/holding.rs`, what is said
//! between them in `step/`. `docs/transactions.md` has the guarantees and the limits.

mod across;
mod error;
pub(crate) mod local;

use std::{marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor_journal::{Effect as TookEffect, EntityId, RequestId, record::MAX_TOGETHER};
use tokio::time::{Instant, sleep};

pub use self::error::{TransactionError, Veto};
use crate::{
    codec::CodecError,
    command::{Command, decode_reply},
    effect::Handle,
    entity_ref::EntityRef,
    error::AskError,
    shared::Shared,
    step::Part,
};

/// How long a transaction may take unless set.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait before an attempt that met another transaction is tried again, on average; it doubles
/// up to the second.
const WAIT_MIN: Duration = Duration::from_millis(4);
const WAIT_MAX: Duration = Duration::from_millis(250);

/// Commands on several entities, of which all are carried out or none is: made by
/// [`Node::transaction`](crate::Node::transaction).
///
/// The commands are ordinary commands with ordinary handlers. A handler that answers with
/// [`Effect::veto`](crate::Effect::veto) has the whole transaction come to nothing. In a transaction
/// an effect is events and an answer: one with side effects, timers, deliveries, a stash and the like
/// is refused ([`AskError::NotInTransaction`]).
///
/// While a transaction is under way, its entities take no other commands and answer no reads: those
/// wait, within their callers' time. So nobody sees a part of it. Another transaction that wants one of
/// the entities does not wait for it, so there are no deadlocks: it comes to nothing and is tried again
/// after a while, within its own time.
///
/// ```
/// # use duractor::prelude::*;
/// # #[derive(Event)]
/// # enum Booked { Moved { by: i64 } }
/// #[derive(Command)]
/// #[command(reply = Result<i64, String>)]
/// struct Book {
///     amount: i64,
/// }
/// # struct Account;
/// # impl EventSourced for Account {
/// #     const KIND: &'static str = "account";
/// #     type State = i64;
/// #     type Event = Booked;
/// #     type Commands = (Book,);
/// #     fn apply(state: &mut i64, event: &Booked) {
/// #         let Booked::Moved { by } = event;
/// #         *state += by;
/// #     }
/// # }
///
/// impl Handle<Book> for Account {
///     fn handle(&self, state: &i64, book: Book, _: &Context) -> Effect<Self, Result<i64, String>> {
///         if *state + book.amount < 0 {
///             return Effect::veto(Err("not enough money".to_owned()));
///         }
///         Effect::persist(Booked::Moved { by: book.amount }).reply(|state: &i64| Ok(*state))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let node = Node::builder(dir.path()).register(Account).start().await?;
/// let (ann, bob) = (node.entity::<Account>("ann")?, node.entity::<Account>("bob")?);
/// ann.ask(Book { amount: 10 }).await??;
///
/// let mut transfer = node.transaction();
/// let of_ann = transfer.ask(&ann, Book { amount: -7 });
/// let of_bob = transfer.ask(&bob, Book { amount: 7 });
/// let done = transfer.run().await?;
/// assert_eq!((done.reply(&of_ann)?, done.reply(&of_bob)?), (Ok(3), Ok(7)));
///
/// let mut transfer = node.transaction();
/// transfer.ask(&ann, Book { amount: -7 });
/// transfer.ask(&bob, Book { amount: 7 });
/// let duractor::TransactionError::Vetoed(veto) = transfer.run().await.unwrap_err() else { panic!() };
/// assert_eq!(veto.entity(), ann.id());
/// assert_eq!(veto.reply::<Book>(), Some(Err("not enough money".to_owned())));
/// # node.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction does nothing until it is run"]
pub struct Transaction {
    shared: Arc<Shared>,
    parts: Vec<Part>,
    /// The first command that does not encode.
    unfit: Option<(EntityId, CodecError)>,
    request_id: Option<RequestId>,
    timeout: Duration,
    once: bool,
}

/// Which command of a transaction: where its reply is found.
#[derive(Debug)]
pub struct Ticket<C> {
    place: usize,
    command: PhantomData<fn() -> C>,
}

/// A transaction that was carried out.
#[derive(Debug, Clone)]
pub struct Done {
    replies: Vec<Bytes>,
}

impl Done {
    /// What a command was answered.
    ///
    /// # Errors
    /// [`CodecError`] where the answer does not decode, as where the request id was used before for a
    /// transaction with other commands, or the ticket is another transaction's.
    pub fn reply<C: Command>(&self, ticket: &Ticket<C>) -> Result<C::Reply, CodecError> {
        decode_reply::<C>(self.replies.get(ticket.place).map_or(&[][..], |reply| reply))
    }
}

impl Transaction {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (parts, unfit) = (Vec::new(), None);
        Self { shared, parts, unfit, request_id: None, timeout: TIMEOUT, once: false }
    }

    /// Adds a command for an entity: one for each, 64 at most. The ticket finds its reply.
    pub fn ask<E: Handle<C>, C: Command>(
        &mut self,
        entity: &EntityRef<E>,
        command: C,
    ) -> Ticket<C> {
        let place = self.parts.len();
        let payload = command.encode().unwrap_or_else(|error| {
            self.unfit.get_or_insert((entity.id().clone(), error));
            Bytes::new()
        });
        let (command, version) = (C::NAME.to_owned(), C::VERSION);
        self.parts.push(Part { entity: entity.id().clone(), command, version, payload });
        Ticket { place, command: PhantomData }
    }

    /// Makes the transaction safe to retry: where one with this id and these entities was carried out,
    /// the first replies come back and nothing changes, after any crash too.
    ///
    /// It is remembered by the entities where they are on one shard, as long as requests are
    /// ([`EntitySettings::dedup_count`](crate::EntitySettings::dedup_count),
    /// [`dedup_age`](crate::EntitySettings::dedup_age)), and for ever where they are on several. A
    /// command that only looked is looked up anew in the first case.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// How long it may take, with all its attempts: 5 seconds unless set. A transaction that is not
    /// decided then is aborted.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Does not try again by itself where it meets another transaction: the caller hears
    /// [`TransactionError::Conflict`].
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Carries it out. What is begun is brought to its end, also where this future is dropped.
    ///
    /// # Errors
    /// [`TransactionError`]; its [`effect`](TransactionError::effect) says whether the transaction may
    /// have taken effect.
    pub async fn run(mut self) -> Result<Done, TransactionError> {
        self.check()?;
        let deadline = Instant::now() + self.timeout;
        let (shared, id) = (self.shared, self.request_id);
        let parts: Arc<[Part]> = self.parts.into();
        let shards = shared.journal.shards();
        let shard = parts[0].entity.shard(shards);
        let together = parts.iter().all(|part| part.entity.shard(shards) == shard);
        let mut wait = WAIT_MIN;
        let mut unknown = false;
        loop {
            let work = (shared.clone(), parts.clone(), id.clone());
            // A task: whoever waits may stop waiting, and entities must not stay held for that.
            let attempt = tokio::spawn(async move {
                let (shared, parts, id) = work;
                match together {
                    true => local::ask(&shared, &parts, id, deadline).await,
                    false => across::run(&shared, &parts, id, deadline).await,
                }
            });
            let error = match attempt.await {
                Ok(Ok(replies)) => return Ok(Done { replies }),
                Ok(Err(error)) => error,
                Err(_) => return Err(lost(&parts)),
            };
            unknown |= error.effect() == TookEffect::Unknown;
            // Half of it at least, so that two that met do not meet again.
            let random = shared.env.entropy.next_u64() % (wait.as_micros() as u64 + 1);
            let pause = wait / 2 + Duration::from_micros(random);
            let known = matches!(error, TransactionError::OutcomeUnknown { .. }) && id.is_some();
            let again = may_pass(&error) || known;
            if self.once || !again || Instant::now() + pause >= deadline {
                return Err(if unknown { error.after_unknown(shard) } else { error });
            }
            sleep(pause).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    fn check(&mut self) -> Result<(), TransactionError> {
        if let Some((entity, error)) = self.unfit.take() {
            return Err(TransactionError::Failed { entity, error: AskError::Codec(error) });
        }
        let invalid = |reason: String| Err(TransactionError::Invalid { reason });
        if self.parts.is_empty() || self.parts.len() > MAX_TOGETHER {
            let count = self.parts.len();
            return invalid(format!(
                "it has {count} commands, and 1 to {MAX_TOGETHER} are allowed"
            ));
        }
        let mut entities: Vec<_> = self.parts.iter().map(|part| &part.entity).collect();
        entities.sort_unstable();
        if let Some(twice) = entities.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("{} has two of the commands", twice[0]));
        }
        Ok(())
    }
}

/// Whether another attempt may come to something soon.
fn may_pass(error: &TransactionError) -> bool {
    match error {
        TransactionError::Conflict { .. } | TransactionError::Aborted => true,
        TransactionError::Failed { error, .. } => matches!(
            error,
            AskError::NotOwner { .. }
                | AskError::Unavailable { .. }
                | AskError::Lost { .. }
                | AskError::OutcomeUnknown { .. }
                | AskError::Aborted { .. }
                | AskError::Busy { .. }
                | AskError::NodeBusy { .. }
        ),
        _ => false,
    }
}

/// The attempt ended without a word: the runtime shuts down.
fn lost(parts: &[Part]) -> TransactionError {
    TransactionError::OutcomeUnknown { error: AskError::Lost { entity: parts[0].entity.clone() } }
}

/// What a failed command means for the transaction, where nothing can have been committed.
fn failed(part: &Part, error: AskError) -> TransactionError {
    TransactionError::Failed { entity: part.entity.clone(), error }
}

/// What a failed command means for the transaction that was all in it.
fn of_all(part: &Part, error: AskError) -> TransactionError {
    match error.effect() {
        TookEffect::None => failed(part, error),
        TookEffect::Unknown => TransactionError::OutcomeUnknown { error },
    }
}
