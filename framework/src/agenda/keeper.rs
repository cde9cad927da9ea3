//! The keeper of a shard's agenda: runs where the shard is owned, and wakes who is due.

use std::{sync::Arc, time::Duration};

use duractor_journal::{JournalError, ShardId};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{Agendas, Book, OfShard, entity::Entries};
use crate::{
    error::AskError,
    look::look,
    shared::{Guest, Shared},
};

/// So many entities of a shard are woken at once.
const AT_ONCE: usize = 32;
/// The wait between two attempts to read the agenda.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// Keeps a shard's agenda whenever this node owns the shard, until the node shuts down.
pub(crate) async fn keep(shared: Arc<Shared>, agendas: Arc<Agendas>, shard: ShardId) {
    let Some(hold) = shared.shard(shard).map(|shard| &shard.hold) else { return };
    let Some(of) = agendas.of(shard) else { return };
    loop {
        let epoch = tokio::select! {
            biased;
            () = shared.closing() => return,
            epoch = hold.held() => epoch,
        };
        let _guest = Guest::enter(&shared, shard);
        tokio::select! {
            biased;
            () = shared.closing() => return,
            () = hold.lost(epoch) => {}
            () = run(&shared, &agendas, of) => {}
        }
        // What was planned is for the next owner to read.
        *of.book() = Book::default();
    }
}

async fn run(shared: &Shared, agendas: &Agendas, of: &OfShard) {
    let entries = loop {
        match read(shared, agendas, of).await {
            Ok(entries) => break entries,
            Err(error) => {
                tracing::debug!(agenda = %of.agenda, %error, "the agenda is not read yet");
                sleep(READ_AGAIN).await;
            }
        }
    };
    {
        let (mut book, now) = (of.book(), shared.millis(Instant::now()));
        for (id, entry) in entries {
            if let Some(due) = entry.due {
                book.enter(&id, due);
            }
            if entry.remembered {
                book.again(&id, now);
            }
        }
    }
    wake(shared, agendas, of).await;
}

/// What the agenda says. It is not brought into memory where it never had an entry.
async fn read(shared: &Shared, agendas: &Agendas, of: &OfShard) -> Result<Entries, AskError> {
    let head = shared.journal.head(&of.agenda).await;
    let head = head.map_err(|error: JournalError| AskError::journal(error))?;
    if head.last_seq.0 == 0 {
        return Ok(Entries::new());
    }
    let kind = agendas.kind.upgrade().ok_or(AskError::ShuttingDown)?;
    look(&kind, &of.agenda, |entries: &Entries, _| entries.clone()).await
}

/// Wakes who is due, for ever.
async fn wake(shared: &Shared, agendas: &Agendas, of: &OfShard) {
    let mut waking = FuturesUnordered::new();
    loop {
        let (wall, now) = (shared.env.clock.now(), shared.millis(Instant::now()));
        let room = AT_ONCE - waking.len();
        let (due, wait) = {
            let mut book = of.book();
            (book.take(wall, now, room), book.wait(wall, now))
        };
        waking.extend(due.into_iter().map(|id| {
            let woken = start(agendas, &id);
            woken.map(move |result| (id, result))
        }));
        let full = waking.len() == AT_ONCE;
        tokio::select! {
            biased;
            Some((id, result)) = waking.next(), if !waking.is_empty() => {
                if let Err(error) = &result {
                    tracing::debug!(entity = %id, %error, "not woken");
                }
                let now = shared.millis(Instant::now());
                of.book().woken(&id, result.is_ok(), now);
            }
            () = of.changed.notified(), if !full => {}
            () = sleep(wait.unwrap_or(Duration::MAX)), if !full && wait.is_some() => {}
        }
    }
}

/// Brings an entity into memory, where it looks for what it has to do.
fn start(
    agendas: &Agendas,
    id: &duractor_journal::EntityId,
) -> BoxFuture<'static, Result<(), AskError>> {
    let kinds = agendas.kinds.upgrade();
    let kind = kinds.and_then(|kinds| kinds.iter().find(|it| it.name() == id.kind()).cloned());
    let Some(kind) = kind else {
        let error =
            AskError::UnknownCommand { kind: id.kind().to_owned(), command: "(wake)".into() };
        return std::future::ready(Err(error)).boxed();
    };
    let (tell, woken) = oneshot::channel();
    kind.wake(id, tell);
    async move { woken.await.unwrap_or(Err(AskError::ShuttingDown)) }.boxed()
}
