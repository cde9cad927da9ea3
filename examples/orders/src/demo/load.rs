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
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Options, Plant,
    check::{Actual, Expected, Found},
    client::Client,
    plan::{Step, steps},
    rolling::REST,
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

/// An order whose requests are all answered.
pub(crate) struct Done {
    /// Which one; `None` for one that was never placed.
    number: Option<u32>,
    expected: Expected,
    /// How many of its requests were acknowledged.
    pub(crate) steps: u64,
    /// A request that should have been acknowledged and was refused; none follow it.
    refusal: Option<String>,
}

pub(crate) async fn run(options: &Options) -> Result<Outcome, String> {
    let folder = tempfile::Builder::new().prefix("duractor-orders-").tempdir();
    let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
    let server = Server::start_alone(folder.path()).await?;
    let client = Client::new(vec![server.address]);
    println!("  server up, its data in {}", folder.path().display());

    let start = Instant::now();
    let work = Arc::new(Work::new(options, client.clone()));
    let mut back = Vec::new();
    let kills = kill_meanwhile(options, &work, server, folder.path(), &mut back);
    let (server, mut orders) = tokio::try_join!(kills, place_all(options, &work))?;
    let took = start.elapsed();
    let sent = client.sent();
    let acknowledged = orders.iter().map(|done| done.steps).sum();

    // Once more at the end: then nothing that is checked can come from the server's memory.
    let last = "the last one, so that the check reads from disk";
    let server = kill(server, folder.path(), &client, last, &mut back).await?;
    if options.plant == Some(Plant::Lost) {
        orders.push(never_placed(options.orders));
    }
    let found = check_all(options, &client, &Arc::new(orders), false).await?;
    let gone = server.kill().await;
    gone.map_err(|error| format!("the server cannot be killed: {error}"))?;
    Ok(Outcome { sent, acknowledged, took, back, found })
}

/// What the clients share.
pub(crate) struct Work {
    client: Client,
    /// How many orders there are to be.
    orders: AtomicU32,
    /// The rest after each order.
    rest: Duration,
    plant: Option<Plant>,
    next: AtomicU32,
    /// Has a permit for each request that was answered.
    answered: Semaphore,
}

impl Work {
    pub(crate) fn new(options: &Options, client: Client) -> Self {
        let &Options { orders, plant, rolling, .. } = options;
        // They go on until all nodes are through.
        let (orders, rest) = if rolling { (u32::MAX, REST) } else { (orders, Duration::ZERO) };
        let (orders, next) = (AtomicU32::new(orders), AtomicU32::new(0));
        Self { client, orders, rest, plant, next, answered: Semaphore::new(0) }
    }

    /// No order is begun any more.
    pub(crate) fn stop(&self) {
        self.orders.store(0, Relaxed);
    }

    /// Waits until so many more requests are answered.
    pub(crate) async fn wait_answered(&self, requests: u32) -> Result<(), String> {
        let permits = self.answered.acquire_many(requests).await;
        permits.map_err(|error| error.to_string())?.forget();
        Ok(())
    }

    /// One client: orders, one after the other, until there are no more.
    async fn place_orders(self: Arc<Self>) -> Result<Vec<Done>, String> {
        let mut done = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.orders.load(Relaxed) {
                return Ok(done);
            }
            done.push(self.place_order(number).await?);
            if !self.rest.is_zero() {
                sleep(self.rest).await;
            }
        }
    }

    async fn place_order(&self, number: u32) -> Result<Done, String> {
        let (nothing, no_id) = (Expected::default(), String::new());
        let mut done = Done { number: Some(number), expected: nothing, steps: 0, refusal: None };
        let all = steps(number);
        let left = all.len();
        for (count, step) in (0..).zip(all) {
            let id = if count == 0 { &no_id } else { &done.expected.id };
            let path = path(id, &step.path);
            if self.plant == Some(Plant::Doubled) && (number, count) == (0, 1) {
                self.client.request(&step.method, &path, Some("another"), &step.body).await?;
            }
            let key = key(number, count);
            let answer = self.client.request(&step.method, &path, Some(&key), &step.body).await?;
            let (StatusCode::OK | StatusCode::CREATED, order) = answer else {
                done.refusal = Some(format!("{} {path}: {}: {}", step.method, answer.0, answer.1));
                // The kills wait for each request: these will not come.
                self.answered.add_permits(left - count as usize);
                return Ok(done);
            };
            done.acknowledge(step, order);
            self.answered.add_permits(1);
        }
        Ok(done)
    }
}

impl Done {
    fn acknowledge(&mut self, step: Step, order: Value) {
        let expected = &mut self.expected;
        if self.steps == 0 {
            expected.id = order["id"].as_str().unwrap_or_default().to_owned();
            expected.placed = order.clone();
        }
        self.steps += 1;
        expected.events.extend(step.events);
        expected.order = order;
    }
}

/// The path of a step; the first one has no id yet.
fn path(id: &str, rest: &str) -> String {
    if id.is_empty() { format!("/orders{rest}") } else { format!("/orders/{id}{rest}") }
}

/// One key for each request of the demo: its repeats have the same one.
fn key(number: u32, step: u32) -> String {
    format!("order-{number}-step-{step}")
}

pub(crate) fn requests(options: &Options) -> usize {
    (0..options.orders).map(|number| steps(number).len()).sum()
}

pub(crate) async fn place_all(options: &Options, work: &Arc<Work>) -> Result<Vec<Done>, String> {
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
        work.wait_answered(between).await?;
        let when = format!("{} requests", count * between);
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
    let server = Server::start_alone(folder).await?;
    client.set_address(server.address);
    client.request(&Method::GET, "/health", None, &Value::Null).await?;
    let took = start.elapsed();
    println!("  SIGKILL after {when}: answers again after {} ms", took.as_millis());
    back.push(took);
    Ok(server)
}

/// Compares every order with what is there; with `local`, out of the log of the one node that the
/// client talks to.
pub(crate) async fn check_all(
    options: &Options,
    client: &Client,
    orders: &Arc<Vec<Done>>,
    local: bool,
) -> Result<Found, String> {
    let (mut found, mut checkers) = (Found::default(), JoinSet::new());
    for first in 0..options.clients as usize {
        let (client, orders, step) = (client.clone(), orders.clone(), options.clients as usize);
        checkers.spawn(async move {
            let mut actual = Vec::new();
            for place in (first..orders.len()).step_by(step) {
                actual.push((place, look(&client, &orders[place], local).await?));
            }
            Ok(actual)
        });
    }
    for (place, actual) in all(checkers).await? {
        let Done { expected, refusal, .. } = &orders[place];
        found.compare(expected, &actual);
        if let Some(refusal) = refusal {
            found.refused(refusal);
        }
    }
    Ok(found)
}

/// What is there of an order.
async fn look(client: &Client, done: &Done, local: bool) -> Result<Actual, String> {
    let mut actual = Actual::default();
    if done.expected.id.is_empty() {
        // Placing it was refused: there is nothing to look for.
        return Ok(actual);
    }
    let order = format!("/orders/{}", done.expected.id);
    actual.order = get(client, &order).await?;
    actual.history = history(client, &order, local).await?;
    if let Some(number) = done.number {
        let Step { method, body, .. } = &steps(number)[0];
        let answer = client.request(method, "/orders", Some(&key(number, 0)), body).await?;
        actual.placed_again = Some(answer.1);
        if actual.order.is_some() {
            // Placing it again must not show. (Where the order was lost, it makes a new one.)
            actual.history = history(client, &order, local).await?;
        }
    }
    Ok(actual)
}

async fn history(client: &Client, order: &str, local: bool) -> Result<Vec<Value>, String> {
    let page = get(client, &format!("{order}/history?local={local}")).await?;
    Ok(page.and_then(|page| page["events"].as_array().cloned()).unwrap_or_default())
}

async fn get(client: &Client, path: &str) -> Result<Option<Value>, String> {
    match client.request(&Method::GET, path, None, &Value::Null).await? {
        (StatusCode::OK, body) => Ok(Some(body)),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (status, body) => Err(format!("GET {path}: {status}: {body}")),
    }
}

/// For [`Plant::Lost`]: looks like an order whose placing was acknowledged.
pub(crate) fn never_placed(number: u32) -> Done {
    let id = format!("{number:032x}");
    let events = steps(number)[0].events.clone();
    let expected = Expected { id, events, ..Expected::default() };
    Done { number: None, expected, steps: 0, refusal: None }
}
