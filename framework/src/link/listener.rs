//! The listener: who connects, and how many may wait to be known.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor_journal::transport::Class;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use super::{
    connection::{Wire, secure},
    core::{Begun, Core},
    forming::attach,
    handshake::accept,
    keeper,
    peer::Link,
    refusal::{Refusal, Refused},
    wire::Purpose,
};

/// Accepts connections until it is aborted. Never waits for one of them.
pub(crate) async fn run(core: Arc<Core>, listener: TcpListener) {
    let strangers = Arc::new(Strangers::default());
    let _all = AbortAll(strangers.clone());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => welcome(&core, &strangers, stream, address),
            Err(error) => {
                // Out of files, most likely: nothing else will do than to wait for some.
                core.book.note(&Refused::new(Refusal::Closed, error), &"the listener");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn welcome(core: &Arc<Core>, strangers: &Arc<Strangers>, stream: TcpStream, address: SocketAddr) {
    let ip = address.ip().to_canonical();
    let (limit, per_address) = (core.config.max_strangers, core.config.max_strangers_per_address);
    for (evicted, task) in strangers.make_room(ip, limit, per_address) {
        task.abort();
        core.book.note(&Refused::new(Refusal::Crowded, "the oldest made room"), &evicted);
    }
    let number = strangers.number();
    let (core, inside) = (core.clone(), strangers.clone());
    // Held, so that the task cannot leave before it was entered.
    let mut waiting = strangers.lock();
    let task = tokio::spawn(async move {
        let place = Place { strangers: inside, number };
        let deadline = Duration::from_millis(core.config.handshake_ms);
        let met = tokio::time::timeout(deadline, meet(&core, stream)).await;
        drop(place);
        match met {
            Ok(Ok(arrived)) => arrived.join(&core),
            Ok(Err(refused)) => core.book.note(&refused, &address),
            Err(_) => {
                let detail = format!("more than {} ms", core.config.handshake_ms);
                core.book.note(&Refused::new(Refusal::Deadline, detail), &address);
            }
        }
    });
    waiting.places.insert(number, (address, task.abort_handle()));
}

/// A connection whose peer is known.
struct Arrived {
    wire: Wire,
    link: Arc<Link>,
    purpose: Purpose,
}

impl Arrived {
    fn join(self, core: &Arc<Core>) {
        match self.purpose {
            Purpose::Session => keeper::start(core, &self.link, self.wire),
            Purpose::Data(_) => attach(core, &self.link, Class::Data, self.wire),
            Purpose::Bulk(_) => attach(core, &self.link, Class::Bulk, self.wire),
        }
    }
}

async fn meet(core: &Arc<Core>, stream: TcpStream) -> Result<Arrived, Refused> {
    let secured = secure(stream, core.tls.as_ref(), false).await?;
    let begun = Begun::new(core);
    let (wire, met, link) =
        accept(secured, &core.speaker(), &*core.config.env.entropy, &|met| match met.purpose {
            Purpose::Session => {
                let link = core.begin_accepted(met)?;
                begun.set(&link);
                Ok(link)
            }
            Purpose::Data(_) | Purpose::Bulk(_) => core.lane_of(met),
        })
        .await?;
    begun.keep();
    Ok(Arrived { wire, link, purpose: met.purpose })
}

/// Connections whose peers are not known yet, by the order of their coming.
#[derive(Default)]
struct Strangers {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    places: BTreeMap<u64, (SocketAddr, AbortHandle)>,
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        let mut waiting = self.lock();
        waiting.next += 1;
        waiting.next
    }

    /// Those who must leave so that one more may come: the oldest of its address where that has its
    /// fill, the oldest of all where the house is full. The newest is never turned away: who holds
    /// places in silence must not keep others out.
    fn make_room(
        &self,
        ip: IpAddr,
        limit: usize,
        per_address: usize,
    ) -> VecDeque<(SocketAddr, AbortHandle)> {
        let mut waiting = self.lock();
        let places = &mut waiting.places;
        let same: Vec<u64> = places
            .iter()
            .filter(|(_, (address, _))| address.ip().to_canonical() == ip)
            .map(|(number, _)| *number)
            .collect();
        let mut leave: VecDeque<_> = VecDeque::new();
        let surplus = (same.len() + 1).saturating_sub(per_address);
        leave.extend(same.iter().take(surplus).filter_map(|number| places.remove(number)));
        while places.len() + 1 > limit
            && let Some((_, oldest)) = places.pop_first()
        {
            leave.push_back(oldest);
        }
        leave
    }
}

struct Place {
    strangers: Arc<Strangers>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.lock().places.remove(&self.number);
    }
}

struct AbortAll(Arc<Strangers>);

impl Drop for AbortAll {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.0.lock().places);
        for (_, task) in places.into_values() {
            task.abort();
        }
    }
}
