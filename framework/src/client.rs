//! A client of a cluster: asks its entities, and is no part of it.

use std::{
    collections::BTreeMap,
    future::IntoFuture,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use duractor_journal::{EntityId, Env, Member, RequestId, Seq, ShardId};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    cluster::{ClientParts, ClusterError, Visit},
    command::Command,
    config::Config,
    effect::Handle,
    entity::EventSourced,
    entity_ref::{check_known, send_off},
    error::{AskError, NodeError},
    intent::Options,
    route::{Outgoing, Router, Way},
};

/// How long an ask waits unless it says otherwise: as
/// [`EntitySettings::ask_timeout`](crate::EntitySettings::ask_timeout) unless set.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of a cluster: a process that asks its entities, takes part in no group and stores nothing.
///
/// It is not a member: nothing is placed on it, no quorum counts it, and it may come and go unnoticed.
/// It links to one of the nodes that it is told of, learns from that one who the members are, and
/// keeps a link to each of them, whoever joins or leaves. So it goes on through the loss of any of
/// them. Its certificate names `duractor://CLUSTER/client/NAME`; a node's is refused, as a client's is
/// among nodes. A node has at most `net.max_clients` of them linked; one more is refused, and tries
/// again.
///
/// What it asks of must be a user's entity: those of the framework, as of locks, take their nodes' word
/// for granted, and refuse a client as [`AskError::UnknownCommand`].
///
/// ```no_run
/// # use duractor::prelude::*;
/// # #[derive(Event)] enum Changed { Added { by: i64 } }
/// # #[derive(Command)] #[command(reply = i64)] struct Add { by: i64 }
/// # #[derive(Default)] struct Counter;
/// # impl EventSourced for Counter {
/// #     const KIND: &'static str = "counter";
/// #     type State = i64;
/// #     type Event = Changed;
/// #     type Commands = (Add,);
/// #     fn apply(_: &mut i64, _: &Changed) {}
/// # }
/// # impl Handle<Add> for Counter {
/// #     fn handle(&self, _: &i64, add: Add, _: &Context) -> Effect<Self, i64> {
/// #         Effect::persist(Changed::Added { by: add.by }).reply(|total| *total)
/// #     }
/// # }
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use duractor::{Client, Env, RequestId, config::Loader};
///
/// let config = Loader::new()
///     .set("cluster.name", "shop")
///     .set("discovery.seeds", "node1.example.org:7400,node2.example.org:7400")
///     .set("tls.ca", "ca.pem")
///     .set("tls.cert", "client-web.pem")
///     .set("tls.key", "client-web.key")
///     .load()?;
/// let client = Client::connect(config, Env::production()).await?;
/// let add = client.entity::<Counter>("visits")?.ask(Add { by: 1 });
/// let total = add.request_id(RequestId::new("visit-17")?).await?;
/// # let _ = total;
/// client.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// Call [`shutdown`](Self::shutdown) when done: dropping it ends nothing.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    visit: Arc<Visit>,
    router: Arc<Router>,
    shards: u16,
    closed: AtomicBool,
}

impl Client {
    /// Links to the cluster that the configuration names. Returns when a member has let it in. Of use
    /// are `cluster.name`, `tls`, `net.insecure`, `discovery`, and of `timing` how long it tries
    /// (`join_timeout_ms`) and how long it takes a silent member for there (`peer_timeout_ms`).
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] where no member was found and let it in;
    /// [`ClusterError::Links`] where certificates do not fit; [`ClusterError::Config`]. Nothing runs
    /// then.
    pub async fn connect(config: Config, env: Env) -> Result<Self, ClusterError> {
        Self::connect_with(ClientParts::configured(config, env)?).await
    }

    /// As [`connect`](Self::connect), of these parts.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(parts: ClientParts) -> Result<Self, ClusterError> {
        let env = parts.env.clone();
        let (visit, shards) = Visit::begin(parts).await?;
        let router = Router::start(visit.transport(), shards, &env);
        let inner = Inner { visit, router, shards, closed: AtomicBool::new(false) };
        let client = Self { inner: Arc::new(inner) };
        tracing::info!(me = %client.inner.router.me(), shards, "the client is linked");
        Ok(client)
    }

    /// An entity of the cluster. It need not exist: one without events is in the default state.
    ///
    /// # Errors
    /// [`NodeError::InvalidId`].
    pub fn entity<E: EventSourced>(&self, key: &str) -> Result<ClientRef<E>, NodeError> {
        let id = EntityId::new(E::KIND, key)?;
        Ok(ClientRef { inner: self.inner.clone(), id, kind: PhantomData })
    }

    /// The members, with their addresses, as one of them said last.
    #[must_use]
    pub fn members(&self) -> BTreeMap<Member, String> {
        self.inner.visit.members()
    }

    /// The members that are linked now.
    #[must_use]
    pub fn linked(&self) -> Vec<Member> {
        self.inner.visit.transport().peers()
    }

    /// Ends the links. Asks that wait hear that their outcome is not known, and new ones
    /// [`AskError::ShuttingDown`].
    pub async fn shutdown(&self) {
        self.inner.closed.store(true, Relaxed);
        self.inner.visit.end().await;
    }
}

/// A reference to one entity of a cluster, for a client. Cheap to clone.
pub struct ClientRef<E: EventSourced> {
    inner: Arc<Inner>,
    id: EntityId,
    kind: PhantomData<fn() -> E>,
}

impl<E: EventSourced> Clone for ClientRef<E> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), id: self.id.clone(), kind: PhantomData }
    }
}

impl<E: EventSourced> ClientRef<E> {
    /// Which entity this is.
    #[must_use]
    pub fn id(&self) -> &EntityId {
        &self.id
    }

    /// Sends a command and waits for the reply, as [`EntityRef::ask`](crate::EntityRef::ask) on a
    /// node. It waits for 5 seconds unless [`timeout`](ClientAsk::timeout) says otherwise.
    #[must_use = "the command is sent when this is awaited"]
    pub fn ask<C: Command>(&self, command: C) -> ClientAsk<E, C>
    where
        E: Handle<C>,
    {
        let options = Options::default();
        ClientAsk { entity: self.clone(), command, timeout: ASK_TIMEOUT, options }
    }

    /// Sends a command and does not wait. What became of it is logged where it was refused, or is not
    /// known after 5 seconds.
    ///
    /// # Errors
    /// [`AskError::UnknownCommand`] where the entity does not take it.
    pub fn tell<C: Command>(&self, command: C) -> Result<(), AskError>
    where
        E: Handle<C>,
    {
        check_known::<E, C>()?;
        send_off::<C>(self.id.clone(), self.ask(command).into_future());
        Ok(())
    }
}

/// A client's command that is about to be sent: await it.
#[must_use = "the command is sent when this is awaited"]
pub struct ClientAsk<E: EventSourced, C: Command> {
    entity: ClientRef<E>,
    command: C,
    timeout: Duration,
    options: Options,
}

impl<E: Handle<C>, C: Command> ClientAsk<E, C> {
    /// Makes the command safe to retry, as [`Ask::request_id`](crate::Ask::request_id): the client
    /// itself does so within the time, also where a node was lost before it answered.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.options.request_id = Some(id);
        self
    }

    /// How long to wait. 5 seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// As [`Ask::lease_read`](crate::Ask::lease_read).
    pub fn lease_read(mut self) -> Self {
        self.options.lease_read = true;
        self
    }

    /// As [`Ask::expected_revision`](crate::Ask::expected_revision).
    pub fn expected_revision(mut self, revision: Seq) -> Self {
        self.options.expected_revision = Some(revision);
        self
    }
}

impl<E: Handle<C>, C: Command> IntoFuture for ClientAsk<E, C> {
    type Output = Result<C::Reply, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { entity, command, timeout, mut options } = self;
        let deadline = Instant::now() + timeout;
        options.deadline = Some(deadline);
        Box::pin(async move {
            check_known::<E, C>()?;
            let payload = command.encode().map_err(AskError::Codec)?;
            let ClientRef { inner, id, .. } = entity;
            let outgoing = Outgoing {
                entity: &id,
                command: C::NAME,
                version: C::VERSION,
                payload: &payload,
                options: &options,
            };
            inner.ask::<C>(&outgoing, deadline).await
        })
    }
}

impl Inner {
    async fn ask<C: Command>(
        &self,
        outgoing: &Outgoing<'_>,
        deadline: Instant,
    ) -> Result<C::Reply, AskError> {
        let closed = || self.closed.load(Relaxed).then_some(AskError::ShuttingDown);
        if let Some(error) = closed() {
            return Err(error);
        }
        let shard: ShardId = outgoing.entity.shard(self.shards);
        let repeatable = outgoing.options.request_id.is_some();
        let mut way = Way::new(Some(self.router.clone()), shard, repeatable, deadline);
        loop {
            match way.ask::<C>(outgoing, None).await {
                Ok(reply) => return Ok(reply),
                Err(error) => way.failed(error, closed).await?,
            }
        }
    }
}
