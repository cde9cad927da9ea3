//! A client that is no node of the cluster: it asks from outside, through everything that happens.

use std::{
    future::IntoFuture,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duractor::{
    AskError, Client, ClientRef, RequestId, TookEffect,
    cluster::{ClientParts, ClusterError, connect::Connect, discovery::Fixed},
    config::Loader,
};
use duractor_journal::{Member, Transport};
use futures_util::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::{
    account::{Account, Apply, Look},
    history::Seen,
    world::World,
};
use crate::{
    cluster::network::{SimNetwork, Stop},
    env::SimEnv,
    machines::passes,
    rng::Rng,
};

/// So much longer than its own time an ask may take.
const LATER: Duration = Duration::from_secs(2);

/// The links of the client.
struct Plug {
    net: Arc<SimNetwork>,
    me: Mutex<Option<Member>>,
}

impl Connect for Plug {
    fn connect(&self, me: Member) -> BoxFuture<'_, Result<Arc<dyn Transport>, ClusterError>> {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = Some(me);
        Box::pin(std::future::ready(Ok(self.net.start(me))))
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        if let Some(me) = self.me.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.net.stop(me.node, Stop::Killed);
        }
        Box::pin(std::future::ready(()))
    }
}

/// Asks until the load ends.
pub(crate) async fn run(world: Arc<World>) {
    let mut rng = world.fork_rng();
    let client = match connect(&world, rng.next_u64()).await {
        Ok(client) => client,
        Err(error) => return world.violated(format!("V: a client is not let in: {error}")),
    };
    world.say(60, || "a client is linked".to_owned());
    while !world.is_ending() {
        let account = rng.index(world.plan.accounts);
        match client.entity::<Account>(&account.to_string()) {
            Ok(entity) if rng.chance(0.7) => apply(&world, &mut rng, &entity, account).await,
            Ok(entity) => look(&world, &entity, account).await,
            Err(error) => world.violated(format!("account {account} cannot be asked for: {error}")),
        }
        sleep(Duration::from_millis(rng.below(world.plan.pause_ms + 1))).await;
    }
    client.shutdown().await;
}

async fn connect(world: &World, seed: u64) -> Result<Client, ClusterError> {
    let seeds: Vec<_> = world.machines.nodes.keys().map(|id| SimNetwork::address(*id)).collect();
    let config = Loader::new().set("cluster.name", "simulated").load()?;
    let connect = Arc::new(Plug { net: world.machines.net.clone(), me: Mutex::default() });
    let discovery = vec![Arc::new(Fixed(seeds)) as _];
    let env = SimEnv::new(seed).env();
    Client::connect_with(ClientParts { config, env, connect, discovery }).await
}

/// One operation, until it is known to have taken effect: once.
async fn apply(world: &World, rng: &mut Rng, entity: &ClientRef<Account>, account: usize) {
    let op = world.notes().history.begin(account);
    let id = || RequestId::new(&format!("op-{op}")).ok();
    while let Some(id) = id() {
        let ask = entity.ask(Apply { op, padding: 30 }).request_id(id);
        match answer(world, ask.timeout(world.plan.settings.ask_timeout).into_future()).await {
            Some(Ok(count)) => {
                world.say(61 ^ op << 8, || format!("op {op} from outside: {count}"));
                world.count("asks_from_outside");
                return world.notes().history.acked(op, count);
            }
            Some(Err(error)) if error.effect() == TookEffect::None => {}
            Some(Err(_)) | None => world.notes().history.ops[op as usize].unknown = true,
        }
        if world.is_ending() {
            return;
        }
        sleep(Duration::from_millis(3 + rng.below(30))).await;
    }
}

async fn look(world: &World, entity: &ClientRef<Account>, account: usize) {
    let begun = world.tick();
    let ask = entity.ask(Look).timeout(world.plan.settings.ask_timeout);
    if let Some(Ok((count, digest))) = answer(world, ask.into_future()).await {
        let history = &mut world.notes().history;
        let ended = history.tick();
        history.seen.push(Seen { account, begun, ended, count, digest });
    }
}

async fn answer<T>(
    world: &World,
    asked: BoxFuture<'static, Result<T, AskError>>,
) -> Option<Result<T, AskError>> {
    let patience = world.plan.settings.ask_timeout + LATER;
    let Ok(answer) = timeout(patience, asked).await else {
        world.violated("a client's ask was not answered within its time and 2 s");
        return None;
    };
    if let Err(error) = &answer {
        world.say(62, || format!("from outside: {error}"));
        if !passes(error) {
            world.violated(format!("S: a client was answered: {error}"));
        }
    }
    Some(answer)
}
