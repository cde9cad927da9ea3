//! Tasks: those of which one runs in the cluster, those that run at certain times, and what only the leader
//! does.

use std::future::Future;

use super::NodeBuilder;
use crate::{
    intent::SideError,
    leader::Leadership,
    schedule::{self, Occurrence, Schedule},
    singleton::{Plan, Singleton},
};

impl NodeBuilder {
    /// Adds a singleton: a task of which one runs in the whole cluster, on whichever node owns the shard
    /// that its name belongs to, so that singletons spread over the nodes. Register it on every node
    /// that may run it. On one node it simply runs.
    ///
    /// It is meant to run for as long as the node does: one that returns, fails or panics is started
    /// again after 100 ms, doubling up to 10 s. When the node shuts down,
    /// [`Singleton::ending`](crate::Singleton::ending) tells it, and the shutdown waits for it. When its shard goes to
    /// another node it is dropped at its next `await`.
    ///
    /// No two nodes run it at once as long as clocks run at one rate and no process stands still: a
    /// leader that hears of no quorum stops within its lease, before another one can be elected. What
    /// must hold without that condition needs [`Singleton::token`](crate::Singleton::token).
    ///
    /// ```
    /// # use duractor::{Node, Singleton};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .singleton("nightly-report", async |singleton: Singleton| {
    ///         println!("{} runs here, with token {}", singleton.name(), singleton.token());
    ///         singleton.ending().await;
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn singleton<F>(
        mut self,
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.push(Plan::new(name, run));
        self
    }

    /// Adds a task that runs at the times that a cron expression names (in UTC), each time on one node of
    /// the cluster: on that which owns the shard that its name belongs to. Register it on every node. See
    /// [`Schedule`] for expressions, and for what becomes of occurrences that were missed.
    ///
    /// That an occurrence was begun and that it is done is on record, in the cluster, before and after it is
    /// run. So one that was interrupted, by a crash, a shutdown or a move, is run again from its
    /// beginning, and one that is done is not. Whatever it does in the outside world should be told apart
    /// by [`Occurrence::id`](crate::Occurrence::id), which is the same in each run of it, and fenced with
    /// [`Occurrence::token`](crate::Occurrence::token).
    ///
    /// Occurrences of one schedule run one after the other. Of those that come due while one is run,
    /// the latest follows it. One that fails or panics is run again after 100 ms, doubling up to 5 s,
    /// until it succeeds or another one is due; then it is given up, with an error in the log.
    ///
    /// Time is the wall clock of the node that runs it. An occurrence comes early where that clock
    /// is ahead, and none comes twice where it was set back. A schedule that is new, or has another
    /// expression than before, counts from when it was started first.
    ///
    /// ```
    /// # use duractor::{Node, Occurrence};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .scheduled("nightly-report", "0 3 * * *", async |night: Occurrence| {
    ///         println!("report {} with token {}", night.id(), night.token());
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn scheduled<F>(
        mut self,
        name: &str,
        schedule: impl Into<Schedule>,
        run: impl Fn(Occurrence) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.push(schedule::plan(name, schedule.into(), run));
        self
    }

    /// Adds workers: tasks `name-0`, `name-1` and so on, `count` of them, each a
    /// [`singleton`](Self::singleton). They are spread over the shards one after the other, so that no
    /// shard has two before each has one, and with the shards over the nodes. Register them with the same
    /// count on every node. Raise the count at will; where it is lowered while nodes are upgraded, the
    /// last ones go on until the last node is.
    ///
    /// ```
    /// # use duractor::{Node, Singleton};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .workers("mailer", 3, async |worker: Singleton| {
    ///         println!("{} is number {}", worker.name(), worker.index());
    ///         worker.ending().await;
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn workers<F>(
        mut self,
        name: &str,
        count: usize,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.extend(Plan::workers(name, count, run));
        self
    }

    /// Adds a worker for each shard, `name@0` and so on, which runs where the shard's entities do:
    /// [`Singleton::shard`](crate::Singleton::shard) says which. For work on what the shard has, as its
    /// log. Otherwise as a [`singleton`](Self::singleton).
    pub fn shard_workers<F>(
        mut self,
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.push(Plan::each(name, run));
        self
    }

    /// Adds a handler that only the cluster's leader runs: any node calls it by
    /// [`Leader::forward`](crate::Leader::forward), the leader also by
    /// [`Leader::call`](crate::Leader::call). Register it on every node. It is dropped at its next
    /// `await` when the node ceases to lead.
    ///
    /// ```
    /// # use duractor::{Command, Node, Leadership};
    /// # use std::time::Duration;
    /// #[derive(Command)]
    /// #[command(reply = u64)]
    /// struct NextInvoice {
    ///     year: u32,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .leader_handler(async |_: Leadership, next: NextInvoice| u64::from(next.year) * 1000)
    ///     .start()
    ///     .await?;
    /// let number = node.leader().forward(NextInvoice { year: 2 }, Duration::from_secs(5)).await?;
    /// assert_eq!(number, 2000);
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn leader_handler<C, F>(
        mut self,
        handler: impl Fn(Leadership, C) -> F + Send + Sync + 'static,
    ) -> Self
    where
        C: crate::Command,
        F: Future<Output = C::Reply> + Send + 'static,
    {
        self.handlers.push(Box::new(move |handlers| handlers.add(handler)));
        self
    }
}
