//! The smallest durable entity: a counter. Run it twice, and the second run goes on where the first
//! one ended: `cargo run -p hello [FOLDER]`. The folder is `hello-data` unless given.
#![cfg_attr(rustfmt, rustfmt_skip)] // Short functions stay on one line.
#![allow(clippy::unit_arg)]

use duractor::prelude::*;
use std::env::args;

// What is stored, for ever: the counter grew by so much.
#[derive(Event)] struct Added(i64);

// What can be asked of a counter, and the type of the reply.
#[derive(Command)] #[command(reply = i64)] struct Add(i64);
#[derive(Command)] #[command(reply = i64)] struct Get;

struct Counter;
impl EventSourced for Counter {
    const KIND: &'static str = "counter";
    type State = i64;
    type Event = Added;
    type Commands = (Add, Get);
    fn apply(total: &mut i64, Added(by): &Added) { *total += by }
}
impl Handle<Add> for Counter {
    fn handle(&self, _: &i64, Add(by): Add, _: &Context) -> Effect<Self, i64>
    { Self::persist(Added(by)).reply(|total| *total) }
}
impl Handle<Get> for Counter {
    fn handle(&self, total: &i64, _: Get, _: &Context) -> Effect<Self, i64> { Effect::reply(*total) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder(args().nth(1).unwrap_or("hello-data".into())).register(Counter).start().await?;
    let one = node.entity::<Counter>("one")?;
    println!("it was {}, and now it is {}", one.ask(Get).await?, one.ask(Add(1)).await?);
    Ok(node.shutdown().await)
}
