//! In the node process: opens links and journal, and does what it is told.
//!
//! [`whole`](super::whole) has the nodes that also have the cluster and entities.

use std::{collections::BTreeSet, sync::Arc};

use duractor::link::{LinkConfig, Links, Security, TlsFiles};
use duractor_journal::{
    Env, Journal, LogConfig, LogJournal, Member, Replication, ShardId, Transport,
};
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::mpsc,
};
use tracing_subscriber::EnvFilter;

use super::{
    Failure,
    owner::Owner,
    wire::{Answer, Group, Hello, NodeConfig, Numbered, Request, line},
};

/// A node, open.
pub struct Node {
    /// What it was started with.
    pub config: NodeConfig,
    /// Its replicas.
    pub journal: Arc<LogJournal>,
    /// Writes to the shards that it leads.
    pub owner: Owner,
    links: Arc<Links>,
}

/// Answers what only the program itself understands.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request that came as [`Request::Own`].
    fn handle(
        self: Arc<Self>,
        node: Arc<Node>,
        request: Value,
    ) -> BoxFuture<'static, Result<Value, Failure>>;
}

/// The process of a node, from its start to its end: until the parent says so or is gone.
///
/// # Errors
/// The node does not open, or the parent cannot be reached.
pub async fn run(config: &str, handler: Arc<dyn Handler>) -> Result<(), Failure> {
    let (config, control) = begin(config).await?;
    let node = Arc::new(Node::open(config).await?);
    let hello = Hello { me: node.config.me, address: node.links.address().to_string() };
    serve(control, &hello, Arc::new(Bare { node, handler })).await
}

/// What every node process does first: reads its configuration, and connects to the parent.
pub(super) async fn begin(config: &str) -> Result<(NodeConfig, TcpStream), Failure> {
    // Also where the parent is killed while this process stands still.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Silent, unless RUST_LOG asks for more: nodes that are killed leave others with much to say.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config: NodeConfig = serde_json::from_str(config)?;
    let control = TcpStream::connect(&config.control).await?;
    control.set_nodelay(true)?;
    Ok((config, control))
}

/// Whatever answers the parent.
pub(super) trait Serve: Send + Sync + 'static {
    fn perform(self: Arc<Self>, request: Request) -> BoxFuture<'static, Result<Value, Failure>>;
}

/// A node with links and journal.
struct Bare {
    node: Arc<Node>,
    handler: Arc<dyn Handler>,
}

impl Serve for Bare {
    fn perform(self: Arc<Self>, request: Request) -> BoxFuture<'static, Result<Value, Failure>> {
        Box::pin(async move {
            match request {
                Request::Own(own) => self.handler.clone().handle(self.node.clone(), own).await,
                other => self.node.perform(other).await,
            }
        })
    }
}

impl Node {
    /// How it reaches the others.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.links.clone()
    }

    async fn open(config: NodeConfig) -> Result<Self, Failure> {
        let security = match &config.tls {
            None => Security::Insecure,
            Some(tls) => Security::Tls(TlsFiles {
                ca: tls.ca.clone(),
                certificate: tls.certificate.clone(),
                key: tls.key.clone(),
            }),
        };
        let links =
            LinkConfig::new(config.me, config.cluster.clone(), config.listen.parse()?, security);
        let links = Links::start(links).await?;
        config.reach.iter().for_each(|address| links.reach(address));
        std::fs::create_dir_all(&config.dir)?;
        let mut log = LogConfig::new(config.dir.join("log"));
        log.shards = config.shards;
        log.segment_bytes = config.segment_bytes.unwrap_or(log.segment_bytes);
        log.fan_in = config.fan_in.unwrap_or(log.fan_in);
        let mut replication = Replication::new(links.clone());
        replication.timing = config.timing();
        let journal = LogJournal::open_replicated(log, Env::production(), replication).await?;
        let owner = Owner::new(journal.clone());
        Ok(Self { config, journal, owner, links })
    }

    async fn perform(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status => {
                let group = |shard| Group::from(self.journal.group(ShardId(shard)));
                let groups: Vec<Group> = (0..self.journal.shards()).map(group).collect();
                return Ok(serde_json::to_value(groups)?);
            }
            Request::Initialize { voters } => {
                for shard in 0..self.journal.shards() {
                    self.journal.initialize(ShardId(shard), voters.clone()).await?;
                }
            }
            Request::ChangeMembers { shard, voters } => self.change(shard, voters).await?,
            Request::Transfer { shard, to } => {
                self.journal.transfer_leadership(ShardId(shard), to).await?;
            }
            Request::Stop => {
                self.journal.shutdown().await;
                self.links.shutdown().await;
            }
            Request::Own(_) => {}
        }
        Ok(Value::Null)
    }

    async fn change(&self, shard: u16, voters: BTreeSet<Member>) -> Result<(), Failure> {
        Ok(self.journal.change_members(ShardId(shard), voters, BTreeSet::new()).await?)
    }
}

/// Answers requests until the parent is gone or wants the node to stop.
pub(super) async fn serve(
    control: TcpStream,
    hello: &Hello,
    node: Arc<dyn Serve>,
) -> Result<(), Failure> {
    let (read, mut write) = control.into_split();
    write.write_all(&line(hello)?).await?;
    let (answers, mut queue) = mpsc::unbounded_channel::<(Vec<u8>, Then)>();
    let writing = tokio::spawn(async move {
        while let Some((line, then)) = queue.recv().await {
            if write.write_all(&line).await.is_err() || then == Then::End {
                return;
            }
        }
    });
    let mut requests = BufReader::new(read).lines();
    while let Some(text) = requests.next_line().await? {
        let Numbered { id, body } = serde_json::from_str::<Numbered<Request>>(&text)?;
        let stop = matches!(body, Request::Stop);
        let answer = answer(node.clone(), id, body, answers.clone());
        if stop {
            answer.await;
            writing.await?;
            break;
        }
        tokio::spawn(answer);
    }
    Ok(())
}

/// What comes after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// More lines.
    More,
    /// The end of the process.
    End,
}

async fn answer(
    node: Arc<dyn Serve>,
    id: u64,
    request: Request,
    answers: mpsc::UnboundedSender<(Vec<u8>, Then)>,
) {
    let then = if matches!(request, Request::Stop) { Then::End } else { Then::More };
    let body: Answer = node.perform(request).await.map_err(|failure| failure.to_string());
    let line = line(&Numbered { id, body }).unwrap_or_default();
    // The parent may be gone.
    let _ = answers.send((line, then));
}
