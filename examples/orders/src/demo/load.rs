//! The clients, the kills among them, and the check at the end.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use super::{
    Options, Plant,
    check::{Actual, Expected, Found},
    client::Client,
    plan::{Step, steps},
    server::Server,
};

/// How the demo went.
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// From each kill to the first answer after it.
    pub(crate) back: Vec<Duration>,
    pub(crate) found: Found,
}

/// An order whose requests are all acknowledged.
struct Done {
    /// Which one; `None` for one that was never placed.
    number: Option<u32>,
    expected: Expected,
}

pub(crate) async fn run(options: &Options) -> Result<Outcome, String> {
    let folder = tempfile::Builder::new().prefix("duractor-orders-").tempdir();
    let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
    let server = Server::start(folder.path()).await?;
    let client = Client::new(server.address);
    println!("  server up, its data in {}", folder.path().display());

    let start = Instant::now();
    let work = Arc::new(Work::new(options, client.clone()));
    let mut back = Vec::new();
    let kills = kill_meanwhile(options, &work, server, folder.path(), &mut back);
    let (server, mut orders) = tokio::try_join!(kills, place_all(options, &work))?;
    let took = start.elapsed();
    let (sent, acknowledged) = (client.sent(), requests(options) as u64);

    // Once more at the end: then nothing that is checked can come from the server's memory.
    let last = "all requests acknowledged; what is checked now comes from disk";
    let server = kill(server, folder.path(), &client, last, &mut back).await?;
    if options.plant == Some(Plant::Lost) {
        orders.push(never_placed(options.orders));
    }
    let found = check_all(options, &client, orders).await?;
    let gone = server.kill().await;
    gone.map_err(|error| format!("the server cannot be killed: {error}"))?;
    Ok(Outcome { sent, acknowledged, took, back, found })
}

/// What the clients share.
struct Work {
    client: Client,
    orders: u32,
    plant: Option<Plant>,
    next: AtomicU32,
    /// Has a permit for each acknowledged request.
    acknowledged: Semaphore,
}

impl Work {
    fn new(options: &Options, client: Client) -> Self {
        let &Options { orders, plant, .. } = options;
        Self { client, orders, plant, next: AtomicU32::new(0), acknowledged: Semaphore::new(0) }
    }

    /// One client: orders, one after the other, until there are no more.
    async fn place_orders(self: Arc<Self>) -> Result<Vec<Done>, String> {
        let mut done = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.orders {
                return Ok(done);
            }
            let expected = self.place_order(number).await?;
            done.push(Done { number: Some(number), expected });
        }
    }

    async fn place_order(&self, number: u32) -> Result<Expected, String> {
        let mut steps = steps(number).into_iter().zip(0..);
        let Some((place, _)) = steps.next() else { return Err("an order has no steps".into()) };
        let placed = self.step("/orders", &place, key(number, 0)).await?;
        let id = placed["id"].as_str().ok_or("an answer without an id")?.to_owned();
        let mut expected = Expected { id, events: place.events, order: placed.clone(), placed };
        for (step, count) in steps {
            let path = format!("/orders/{}{}", expected.id, step.path);
            if self.plant == Some(Plant::Doubled) && (number, count) == (0, 1) {
                self.step(&path, &step, "another key".into()).await?;
            }
            expected.order = self.step(&path, &step, key(number, count)).await?;
            expected.events.extend(step.events);
        }
        Ok(expected)
    }

    /// Sends one request until it is acknowledged.
    async fn step(&self, path: &str, step: &Step, key: String) -> Result<Value, String> {
        let (status, body) =
            self.client.request(&step.method, path, Some(&key), &step.body).await?;
        if !status.is_success() {
            return Err(format!("{} {path} with key {key}: {status}: {body}", step.method));
        }
        self.acknowledged.add_permits(1);
        Ok(body)
    }
}

/// One key for each request of the demo: its repeats have the same one.
fn key(number: u32, step: u32) -> String {
    format!("order-{number}-step-{step}")
}

fn requests(options: &Options) -> usize {
    (0..options.orders).map(|number| steps(number).len()).sum()
}

async fn place_all(options: &Options, work: &Arc<Work>) -> Result<Vec<Done>, String> {
    let mut clients = JoinSet::new();
    for _ in 0..options.clients {
        clients.spawn(work.clone().place_orders());
    }
    all(clients).await
}

async fn all<T: 'static>(mut tasks: JoinSet<Result<Vec<T>, String>>) -> Result<Vec<T>, String> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.extend(result.map_err(|error| error.to_string())??);
    }
    Ok(results)
}

/// Kills the server at even distances, counted in acknowledged requests: the last kill too comes
/// while the clients are at work.
async fn kill_meanwhile(
    options: &Options,
    work: &Work,
    mut server: Server,
    folder: &Path,
    back: &mut Vec<Duration>,
) -> Result<Server, String> {
    let between = requests(options) as u32 / (options.kills + 1);
    for count in 1..=options.kills {
        let permits = work.acknowledged.acquire_many(between).await;
        permits.map_err(|error| error.to_string())?.forget();
        let when = format!("{} requests acknowledged", count * between);
        server = kill(server, folder, &work.client, &when, back).await?;
    }
    Ok(server)
}

/// Kills the server, starts another on the same folder, and waits for its first answer.
async fn kill(
    server: Server,
    folder: &Path,
    client: &Client,
    when: &str,
    back: &mut Vec<Duration>,
) -> Result<Server, String> {
    let start = Instant::now();
    server.kill().await.map_err(|error| format!("the server cannot be killed: {error}"))?;
    let server = Server::start(folder).await?;
    client.set_address(server.address);
    client.request(&Method::GET, "/health", None, &Value::Null).await?;
    let took = start.elapsed();
    println!("  SIGKILL: {when}; back after {} ms", took.as_millis());
    back.push(took);
    Ok(server)
}

async fn check_all(options: &Options, client: &Client, orders: Vec<Done>) -> Result<Found, String> {
    let mut found = Found::default();
    let (orders, mut checkers) = (Arc::new(orders), JoinSet::new());
    for first in 0..options.clients as usize {
        let (client, orders, step) = (client.clone(), orders.clone(), options.clients as usize);
        checkers.spawn(async move {
            let mut actual = Vec::new();
            for place in (first..orders.len()).step_by(step) {
                actual.push((place, look(&client, &orders[place]).await?));
            }
            Ok(actual)
        });
    }
    for (place, actual) in all(checkers).await? {
        found.compare(&orders[place].expected, &actual);
    }
    Ok(found)
}

/// What is there of an order.
async fn look(client: &Client, done: &Done) -> Result<Actual, String> {
    let path = format!("/orders/{}", done.expected.id);
    let get =
        async |path: &str| match client.request(&Method::GET, path, None, &Value::Null).await? {
            (StatusCode::OK, body) => Ok(Some(body)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(format!("GET {path}: {status}: {body}")),
        };
    let order = get(&path).await?;
    // Placed once more with its old key: the history must not show it.
    let placed_again = match done.number {
        None => None,
        Some(number) => {
            let place = &steps(number)[0];
            let (method, body, key) = (&place.method, &place.body, key(number, 0));
            Some(client.request(method, "/orders", Some(&key), body).await?.1)
        }
    };
    let history = get(&format!("{path}/history")).await?;
    let history = history.and_then(|page| page["events"].as_array().cloned()).unwrap_or_default();
    Ok(Actual { order, history, placed_again })
}

/// For [`Plant::Lost`]: looks like an order whose placing was acknowledged.
fn never_placed(number: u32) -> Done {
    let id = format!("{number:032x}");
    let events = steps(number)[0].events.clone();
    let expected = Expected { id, events, order: Value::Null, placed: Value::Null };
    Done { number: None, expected }
}
