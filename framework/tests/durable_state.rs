//! Entities that keep their newest state.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{future::IntoFuture, time::Duration};

use common::{World, finish, request, seq};
use duractor::{
    AskError, Command, Context, DurableState, Effect, EntitySettings, Handle, Journal, Node,
    Replace,
};

#[derive(Command)]
#[command(reply = u64)]
struct Rename {
    to: String,
}

#[derive(Command)]
#[command(reply = String)]
struct Name;

struct Profile;

impl DurableState for Profile {
    const KIND: &'static str = "profile";
    type State = String;
    type Commands = (Rename, Name);

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(3).keep_snapshots(1)
    }
}

impl Handle<Rename> for Profile {
    fn handle(&self, _: &String, rename: Rename, cx: &Context) -> Effect<Self, u64> {
        Self::replace(rename.to).reply_with(cx.revision().0 + 1)
    }
}

impl Handle<Name> for Profile {
    fn handle(&self, state: &String, _: Name, _: &Context) -> Effect<Self, String> {
        Effect::reply(state.clone())
    }
}

async fn start(world: &World) -> Node {
    world.builder().register(Profile).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_newest_state_is_kept_and_older_ones_go() {
    let world = World::new();
    let node = start(&world).await;
    let one = node.entity::<Profile>("one").unwrap();
    for n in 1..=7 {
        let renamed = one.ask(Rename { to: format!("n{n}") }).request_id(request(&format!("r{n}")));
        assert_eq!(renamed.await.unwrap(), n);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.journal.head(one.id()).await.unwrap().deleted_to, seq(6));
    node.kill().await;
    let node = start(&world).await;
    let one = node.entity::<Profile>("one").unwrap();
    assert_eq!(one.ask(Name).await.unwrap(), "n7");
    let again = one.ask(Rename { to: "other".into() }).request_id(request("r2"));
    assert_eq!(again.await.unwrap(), 2, "repeats are known though their record is gone");
    assert_eq!(one.ask(Name).await.unwrap(), "n7");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_two_writers_with_the_same_revision_wins() {
    let world = World::new();
    let node = start(&world).await;
    let one = node.entity::<Profile>("one").unwrap();
    one.ask(Rename { to: "first".into() }).await.unwrap();
    let rename =
        |to: &str| one.ask(Rename { to: to.into() }).expected_revision(seq(1)).into_future();
    let (a, b) = tokio::join!(rename("a"), rename("b"));
    assert_eq!(a.unwrap(), 2);
    let Err(AskError::RevisionMismatch { expected, actual }) = b else { panic!("{b:?}") };
    assert_eq!((expected, actual), (seq(1), seq(2)));
    assert_eq!(one.ask(Name).await.unwrap(), "a");
    finish(node).await;
}
