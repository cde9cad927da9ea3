//! Moments that no caller can bring about at will: a slot that is given up while somebody sends, an
//! entity that is asked to leave while it works.

use std::future::IntoFuture;

use duractor_journal::{Journal, Limits, MemoryJournal};
use duractor_snapshot::MemorySnapshots;
use futures_util::future::join_all;

use super::*;
use crate::{
    core::tests::{Add, AddAndLeave, Get, Sum},
    entity_ref::EntityRef,
    node::Node,
};

struct World {
    journal: Arc<MemoryJournal>,
    node: Node,
    one: EntityRef<Sum>,
    slot: Arc<Slot<Sum>>,
}

/// A node with one entity in memory.
async fn world() -> World {
    let journal = MemoryJournal::new(1, Limits::default());
    let node = Node::builder("not used")
        .journal(journal.clone() as Arc<dyn Journal>)
        .snapshots(Arc::new(MemorySnapshots::new()))
        .register(Sum)
        .start()
        .await
        .unwrap();
    let one = node.entity::<Sum>("one").unwrap();
    assert_eq!(one.ask(Get).await.unwrap(), 0);
    let slot = one.kind.find(&one.id).unwrap();
    World { journal, node, one, slot }
}

/// Lets everything run that can run without time passing.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// Real threads: the sender has found the slot and waits for its lock when the slot is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_for_a_slot_that_was_just_given_up_goes_to_the_next() {
    let World { node, one, slot, .. } = world().await;
    let ask = {
        let mut inner = slot.lock();
        let holders = Arc::strong_count(&slot);
        let ask = tokio::spawn(async move { one.ask(Add(1)).await });
        while Arc::strong_count(&slot) == holders {
            std::thread::yield_now();
        }
        inner.phase = Phase::Gone;
        slot.kind.remove(&slot);
        ask
    };
    assert_eq!(ask.await.unwrap().unwrap(), 1);
    node.kill().await;
}

/// More commands wait than are handled at one go, so the actor hears of leaving between them.
#[tokio::test(start_paused = true)]
async fn an_entity_does_not_leave_while_commands_wait() {
    let World { node, one, slot, .. } = world().await;
    let asks: Vec<_> = (0..200).map(|_| one.ask(Get).into_future()).collect();
    slot.ask_to_leave();
    settle().await;
    assert!(slot.is_active());
    for answer in join_all(asks).await {
        assert_eq!(answer.unwrap(), 0);
    }
    slot.ask_to_leave();
    settle().await;
    assert!(!slot.is_active(), "now nothing waits");
    node.kill().await;
}

#[tokio::test(start_paused = true)]
async fn an_entity_does_not_leave_while_a_commit_is_under_way() {
    let World { journal, node, one, slot } = world().await;
    journal.hold();
    let ask = one.ask(Add(1)).into_future();
    settle().await;
    assert_eq!(journal.held(), 1);
    slot.ask_to_leave();
    settle().await;
    assert!(slot.is_active());
    journal.release();
    assert_eq!(ask.await.unwrap(), 1);
    node.kill().await;
}

/// The commit that makes the entity leave comes before that of a batch after it.
#[tokio::test(start_paused = true)]
async fn a_passivation_waits_for_what_was_handled_after_it() {
    let World { journal, node, one, slot } = world().await;
    journal.hold();
    let leave = one.ask(AddAndLeave(1)).into_future();
    let mut add = one.ask(Add(1)).into_future();
    settle().await;
    assert_eq!(journal.held(), 2);
    slot.notice(slot.generation(), Notice::Batch { last: Seq(1), result: Ok(()) });
    assert_eq!(leave.await.unwrap(), 1);
    settle().await;
    assert!(slot.is_active() && futures_util::poll!(&mut add).is_pending());
    journal.release();
    assert_eq!(add.await.unwrap(), 2);
    settle().await;
    assert!(!slot.is_active());
    assert_eq!(one.ask(Get).await.unwrap(), 2);
    node.kill().await;
}
