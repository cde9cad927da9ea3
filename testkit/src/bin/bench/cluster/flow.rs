//! In the parent: a load that goes on, and its rate.

use std::time::Duration;

use duractor_testkit::process::Cluster;
use tokio::time::{Instant, sleep};

use super::{
    node::Order,
    start::{LEADER, ask},
};
use crate::run::Failure;

/// How long the node may take to say how much it wrote.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

/// Writers at the leader of all groups.
pub(crate) struct Flow<'a> {
    cluster: &'a Cluster,
}

/// How far a flow was, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    at: Instant,
    events: u64,
}

impl<'a> Flow<'a> {
    pub(crate) async fn start(
        cluster: &'a Cluster,
        writers: usize,
        event_bytes: usize,
    ) -> Result<Self, Failure> {
        ask::<()>(cluster, LEADER, &Order::Flow { writers, event_bytes }, ANSWER).await?;
        Ok(Self { cluster })
    }

    pub(crate) async fn mark(&self) -> Result<Mark, Failure> {
        let events = ask(self.cluster, LEADER, &Order::Flown, ANSWER).await?;
        Ok(Mark { at: Instant::now(), events })
    }

    /// Events a second since then.
    pub(crate) async fn rate_since(&self, before: Mark) -> Result<f64, Failure> {
        let now = self.mark().await?;
        let seconds = (now.at - before.at).as_secs_f64().max(f64::EPSILON);
        Ok((now.events - before.events) as f64 / seconds)
    }

    /// Events a second within this time.
    pub(crate) async fn rate(&self, time: Duration) -> Result<f64, Failure> {
        let before = self.mark().await?;
        sleep(time).await;
        self.rate_since(before).await
    }

    /// Waits until it has written so many events more.
    pub(crate) async fn wait(&self, events: u64) -> Result<(), Failure> {
        let before = self.mark().await?.events;
        while self.mark().await?.events < before + events {
            sleep(TICK).await;
        }
        Ok(())
    }
}
