//! The dialler: keeps a link to an address.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duractor_journal::{Member, transport::Class};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    config::DataLane,
    connection::{Wire, secure},
    core::{Begun, Core},
    forming::attach,
    handshake::{MYSELF, Met, dial},
    keeper,
    peer::Link,
    refusal::{Refusal, Refused},
    wire::Purpose,
};

/// Why a dial came to nothing.
enum Failed {
    /// Nobody is there. Usual while a peer is down.
    Unreachable(String),
    Refused(Refused),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Dials an address whenever there is no link with whoever is there. Ends only where that is this
/// node itself. Aborted, it gives up the link that it dialled.
pub(crate) async fn keep(core: Arc<Core>, address: String) {
    let mut backoff = Backoff::new(&core);
    // Who was there the last time.
    let mut there: Option<Member> = None;
    let mut failures = 0_u64;
    loop {
        if let Some(link) = there.and_then(|peer| core.link(peer)) {
            link.ended().await;
            failures = 0;
            backoff = Backoff::new(&core);
        } else {
            match session(&core, &address, &mut there).await {
                Ok(dialled) => {
                    dialled.0.ended().await;
                    failures = 0;
                    backoff = Backoff::new(&core);
                }
                Err(Failed::Unreachable(error)) if failures == 0 => {
                    tracing::info!(address, error, "nobody can be reached there, for now");
                    failures += 1;
                }
                Err(Failed::Unreachable(error)) => {
                    tracing::debug!(address, error, failures, "still nobody there");
                    failures += 1;
                }
                Err(Failed::Refused(refused)) => {
                    core.book.note(&refused, &format_args!("dialled {address}"));
                    if refused.reason == Refusal::Myself && refused.detail == MYSELF {
                        tracing::info!(address, "this is the node itself: no more dialling");
                        return;
                    }
                }
            }
        }
        // Also after a session: whoever dials at once meets a peer that is just going down.
        sleep(backoff.next()).await;
    }
}

/// Closes a link when whoever dialled it does not want it any more.
struct Dialled(Arc<Link>);

impl Drop for Dialled {
    fn drop(&mut self) {
        self.0.close("it was given up");
    }
}

/// Dials a session and its lanes.
async fn session(
    core: &Arc<Core>,
    address: &str,
    there: &mut Option<Member>,
) -> Result<Dialled, Failed> {
    let (stream, resolved) = connect(core, address).await.map_err(Failed::Unreachable)?;
    let limit = Duration::from_millis(core.config.handshake_ms);
    let late = |_| Refused::new(Refusal::Deadline, format!("more than {} ms", limit.as_millis()));
    let begun = Begun::new(core);
    let (seen, lane) = (Mutex::new(*there), core.config.data_lane);
    let decide = |met: &Met| {
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(met.peer);
        let (link, lost) = core.begin_dialled(met)?;
        begun.set(&link);
        Ok((link, lost))
    };
    let meeting = async {
        let secured = secure(stream, core.tls.as_ref(), true).await?;
        let entropy = &*core.config.env.entropy;
        dial(secured, &core.speaker(), (Purpose::Session, lane), entropy, &decide).await
    };
    let met = timeout(limit, meeting).await.map_err(late).flatten();
    *there = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (wire, _, link) = met?;
    keeper::start(core, &link, wire);

    let bulk = join(core, resolved, &link, Class::Bulk);
    let data = async {
        match lane {
            DataLane::Own => join(core, resolved, &link, Class::Data).await,
            DataLane::Session => Ok(()),
        }
    };
    let lanes = async { futures_util::future::try_join(bulk, data).await };
    timeout(limit, lanes).await.map_err(late).flatten()?;
    begun.keep();
    Ok(Dialled(link))
}

/// Dials a lane of a session.
async fn join(
    core: &Arc<Core>,
    address: SocketAddr,
    link: &Arc<Link>,
    class: Class,
) -> Result<(), Refused> {
    let stream =
        TcpStream::connect(address).await.map_err(|error| Refused::new(Refusal::Closed, error))?;
    let secured = secure(stream, core.tls.as_ref(), true).await?;
    let purpose = match class {
        Class::Bulk => Purpose::Bulk(link.token),
        Class::Data | Class::Control => Purpose::Data(link.token),
    };
    let decide = |met: &Met| {
        if (met.peer, met.boot) == (link.peer, link.boot) {
            return Ok(((), Vec::new()));
        }
        Err(Refused::new(Refusal::Node, format!("{} took the place of {}", met.peer, link.peer)))
    };
    let entropy = &*core.config.env.entropy;
    let lane = (purpose, link.data_lane);
    let (wire, _, ()): (Wire, _, _) =
        dial(secured, &core.speaker(), lane, entropy, &decide).await?;
    attach(core, link, class, wire);
    Ok(())
}

async fn connect(core: &Core, address: &str) -> Result<(TcpStream, SocketAddr), String> {
    let limit = Duration::from_millis(core.config.connect_ms);
    let late = |_| format!("no answer in {} ms", limit.as_millis());
    let found = timeout(limit, tokio::net::lookup_host(address)).await.map_err(late)?;
    let mut last = "the name has no address".to_owned();
    for resolved in found.map_err(|error| error.to_string())? {
        if !core.may_dial(resolved.ip()) {
            last = "insecure links reach loopback addresses only".to_owned();
            continue;
        }
        match timeout(limit, TcpStream::connect(resolved)).await.map_err(late) {
            Ok(Ok(stream)) => return Ok((stream, resolved)),
            Ok(Err(error)) => last = error.to_string(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Pauses that double, each drawn from the upper half of what it may be.
struct Backoff<'c> {
    core: &'c Core,
    next_ms: u64,
}

impl<'c> Backoff<'c> {
    fn new(core: &'c Core) -> Self {
        Self { core, next_ms: core.config.backoff_min_ms }
    }

    fn next(&mut self) -> Duration {
        let most = self.next_ms;
        self.next_ms = (most * 2).min(self.core.config.backoff_max_ms);
        let least = most / 2;
        let drawn = self.core.config.env.entropy.next_u64() % (most - least + 1);
        Duration::from_millis(least + drawn)
    }
}
