//! The plain way: ask, persist, commit, reply, and recover.

mod common;

use common::*;
use duractor::{AskError, EntitySettings, NodeError, TookEffect};

#[tokio::test(start_paused = true)]
async fn commands_are_answered_and_events_recovered() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    assert_eq!(one.ask(Add { by: 2 }).await.unwrap(), 2);
    assert_eq!(one.ask(Add { by: 3 }).await.unwrap(), 5);
    assert_eq!(one.ask(AddMany { each: vec![1, 1] }).await.unwrap(), Ok(7));
    assert_eq!(one.ask(Revision {}).await.unwrap(), 4);
    assert_eq!(account(&node, "two").ask(Get {}).await.unwrap(), 0);
    node.kill().await;

    let node = world.start().await;
    let one = account(&node, "one");
    assert_eq!(one.ask(Get {}).await.unwrap(), 7);
    assert_eq!(one.ask(Revision {}).await.unwrap(), 4);
    assert_eq!(one.ask(Add { by: 1 }).await.unwrap(), 8);
    finish(node).await;
}
