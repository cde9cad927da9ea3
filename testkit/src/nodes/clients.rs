//! Clients: they ask entities at any node, try again until they know, and look.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use duractor::{AskError, EntityRef, Node, RequestId, TookEffect};
use duractor_journal::NodeId;
use tokio::time::sleep;

use super::{
    account::{Account, Apply, Look},
    history::Seen,
    world::World,
};
use crate::{
    machines::{Process, Site, passes},
    rng::Rng,
};

/// How often an operation is tried before its client gives up.
const TRIES: usize = 40;
/// So much longer than a command's own time a call may take.
const LATER: Duration = Duration::from_secs(2);

/// What a try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    Done,
    Nothing,
    Unknown,
}

/// A client that goes on until the load ends.
pub(crate) struct Client {
    world: Arc<World>,
    rng: Rng,
}

impl Client {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { rng: world.fork_rng(), world: world.clone() }
    }

    pub(crate) async fn run(mut self) {
        while !self.world.is_ending() {
            let account = self.rng.index(self.world.plan.accounts);
            match self.rng.below(100) {
                0..55 => {
                    let burst = if self.rng.chance(0.3) { 1 + self.rng.index(5) } else { 1 };
                    let ops = (0..burst).map(|_| Client::new(&self.world).apply(account));
                    futures_util::future::join_all(ops).await;
                }
                55..70 => self.apply_once(account).await,
                _ => self.look(account).await,
            }
            let ms = self.rng.below(self.world.plan.pause_ms + 1);
            sleep(Duration::from_millis(ms)).await;
        }
    }

    /// Any node that is up.
    fn any(&mut self) -> Option<(Arc<Process>, Arc<Node>)> {
        let id = NodeId(1 + self.rng.below(u64::from(self.world.plan.nodes)) as u32);
        self.world.process(id)
    }

    fn command(&mut self, account: usize) -> Apply {
        let op = self.world.notes().history.begin(account);
        Apply { op, padding: self.rng.below(self.world.plan.padding + 1) as u32 }
    }

    /// Tries an operation until its outcome is known: it must take effect once.
    async fn apply(mut self, account: usize) {
        let command = self.command(account);
        for tries in 0..TRIES {
            let id = RequestId::new(&format!("op-{}", command.op)).ok();
            match self.try_once(account, &command, id).await {
                Tried::Done => return,
                Tried::Nothing => {}
                Tried::Unknown => self.unknown(command.op),
            }
            if self.world.is_ending() {
                return;
            }
            sleep(Duration::from_millis(3 + self.rng.below(5 * (1 + tries.min(8)) as u64))).await;
        }
    }

    /// Tries an operation without a request id, and so only once.
    async fn apply_once(&mut self, account: usize) {
        let command = self.command(account);
        if self.try_once(account, &command, None).await == Tried::Unknown {
            self.unknown(command.op);
        }
    }

    fn unknown(&self, op: u64) {
        self.world.notes().history.ops[op as usize].unknown = true;
    }

    async fn try_once(&mut self, account: usize, command: &Apply, id: Option<RequestId>) -> Tried {
        let Some((process, host)) = self.any() else { return Tried::Nothing };
        let Some(entity) = find(&self.world, &host, account) else { return Tried::Nothing };
        let mut ask = entity.ask(command.clone());
        if let Some(id) = id {
            ask = ask.request_id(id);
        }
        let patience = self.world.plan.settings.ask_timeout + LATER;
        let (op, node) = (command.op, process.node);
        match self.world.call(&process, patience, ask.into_future()).await {
            Some(Ok(count)) => {
                self.world.say(30 ^ op << 8, || format!("op {op} at node {node}: {count}"));
                self.world.notes().history.acked(op, count);
                Tried::Done
            }
            Some(Err(error)) => {
                self.world.say(31 ^ op << 8, || format!("op {op} at node {node}: {error}"));
                failed(&self.world, &process, &error);
                match error.effect() {
                    TookEffect::None => Tried::Nothing,
                    TookEffect::Unknown => Tried::Unknown,
                }
            }
            None => {
                if !process.is_dead() {
                    self.world.violated(format!(
                        "a command at node {node} was not answered within its time and 2 s"
                    ));
                }
                Tried::Unknown
            }
        }
    }

    async fn look(&mut self, account: usize) {
        let Some((process, host)) = self.any() else { return };
        let Some(entity) = find(&self.world, &host, account) else { return };
        let begun = self.world.tick();
        let patience = self.world.plan.settings.ask_timeout + LATER;
        let looked = self.world.call(&process, patience, entity.ask(Look).into_future()).await;
        match looked {
            Some(Ok((count, digest))) => {
                let node = process.node;
                self.world.say(40 ^ count << 8, || {
                    format!("a look at account {account} at node {node}: {count}")
                });
                let history = &mut self.world.notes().history;
                let ended = history.tick();
                history.seen.push(Seen { account, begun, ended, count, digest });
            }
            Some(Err(error)) => failed(&self.world, &process, &error),
            None => {}
        }
    }
}

/// An account at a node.
pub(crate) fn find(world: &World, host: &Node, account: usize) -> Option<EntityRef<Account>> {
    match host.entity::<Account>(&account.to_string()) {
        Ok(entity) => Some(entity),
        Err(error) => {
            world.violated(format!("account {account} cannot be asked for: {error}"));
            None
        }
    }
}

/// Looks at an error that a living process gave: whether it may be.
pub(crate) fn failed(world: &World, process: &Process, error: &AskError) {
    if !process.is_dead() && !passes(error) {
        world.violated(format!("S: node {} answered: {error}", process.node));
    }
}
