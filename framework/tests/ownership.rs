//! Entities run where their shard is led: what becomes of commands when that changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/group.rs"]
mod group;

use std::{future::IntoFuture, sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use common::*;
use duractor::{AskError, EntitySettings, Node, TookEffect};
use duractor_journal::{JournalError, ShardId};
use group::{Group, SHARDS, View};

/// Two nodes on one journal. Nobody leads yet.
struct Pair {
    group: Arc<Group>,
    views: [Arc<View>; 2],
    nodes: [Node; 2],
}

impl Pair {
    async fn start() -> Self {
        let group = Group::new();
        let views = [View::new(&group, 1), View::new(&group, 2)];
        let nodes = [start(&views[0]).await, start(&views[1]).await];
        Self { group, views, nodes }
    }

    /// And the first leads.
    async fn led() -> Self {
        let pair = Self::start().await;
        pair.elect(0).await;
        pair
    }

    async fn elect(&self, leader: usize) {
        self.group.elect(Some(&self.views[leader]), &[&self.views[0], &self.views[1]]);
        settle().await;
    }

    async fn finish(self) {
        for (node, view) in self.nodes.into_iter().zip(&self.views) {
            view.fail_claims(0);
            finish(node).await;
        }
    }
}

async fn start(view: &Arc<View>) -> Node {
    view.builder().register(Account::default()).start().await.unwrap()
}

/// Lets everything run that can run without time passing.
async fn settle() {
    // Claims begin with a sleep of no length, which the clock rounds up.
    tokio::time::sleep(Duration::from_millis(2)).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

fn add(node: &Node, key: &str, by: i64) -> tokio::task::JoinHandle<Result<i64, AskError>> {
    tokio::spawn(account(node, key).ask(Add { by }).into_future())
}

fn get(node: &Node, key: &str) -> tokio::task::JoinHandle<Result<i64, AskError>> {
    tokio::spawn(account(node, key).ask(Get {}).into_future())
}

#[track_caller]
fn assert_not_owner(result: Result<i64, AskError>, of: Option<&View>) {
    let error = result.unwrap_err();
    let AskError::NotOwner { leader, .. } = &error else { panic!("{error}") };
    assert_eq!(*leader, of.map(|view| view.me));
    assert_eq!(error.effect(), TookEffect::None);
}

#[tokio::test(start_paused = true)]
async fn commands_are_refused_where_the_shard_is_not_led_and_taken_where_it_is() {
    let pair = Pair::start().await;
    let [one, two] = &pair.nodes;
    assert_not_owner(get(one, "a").await.unwrap(), None);
    pair.elect(0).await;
    assert_eq!(add(one, "a", 5).await.unwrap().unwrap(), 5);
    assert_not_owner(add(two, "a", 1).await.unwrap(), Some(&pair.views[0]));
    assert_eq!(two.active::<Account>().unwrap(), 0, "nothing is kept of what is refused");
    assert_eq!(two.ledger().accepted, 0);
    pair.elect(1).await;
    assert_eq!(add(two, "a", 1).await.unwrap().unwrap(), 6, "from the same events");
    assert_not_owner(add(one, "a", 1).await.unwrap(), Some(&pair.views[1]));
    assert_eq!(one.active::<Account>().unwrap(), 0, "its entities have left memory");
    pair.elect(0).await;
    assert_eq!(get(one, "a").await.unwrap().unwrap(), 6, "nothing is left of the first tenure");
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_repeated_at_the_next_owner_gets_the_first_reply() {
    let pair = Pair::led().await;
    let ask = |node: &Node| account(node, "a").ask(Add { by: 5 }).request_id(request("r"));
    assert_eq!(ask(&pair.nodes[0]).await.unwrap(), 5);
    pair.elect(1).await;
    assert_eq!(ask(&pair.nodes[1]).await.unwrap(), 5);
    assert_eq!(get(&pair.nodes[1], "a").await.unwrap().unwrap(), 5);
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_begun_is_refused_and_what_is_in_flight_hears_its_outcome() {
    let pair = Pair::led().await;
    let node = pair.views[0].builder().register(few_in_flight()).start().await.unwrap();
    add(&node, "a", 1).await.unwrap().unwrap();
    pair.group.memory.hold();
    let (first, second) = (add(&node, "a", 10), add(&node, "a", 20));
    let (queued, read) = (add(&node, "a", 40), get(&node, "a"));
    settle().await;
    assert_eq!(pair.group.memory.held(), 2);
    pair.elect(1).await;
    assert_not_owner(queued.await.unwrap(), Some(&pair.views[1]));
    assert_not_owner(read.await.unwrap(), Some(&pair.views[1]));
    assert!(!first.is_finished() && !second.is_finished(), "the journal has yet to say");
    pair.group.memory.release();
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (11, 31));
    settle().await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    assert_eq!(get(&pair.nodes[1], "a").await.unwrap().unwrap(), 31);
    finish(node).await;
    pair.finish().await;
}

fn few_in_flight() -> Account {
    Account { settings: EntitySettings::default().max_in_flight(2) }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_the_journal_does_not_know_is_said_to_be_unknown() {
    let pair = Pair::led().await;
    let node = &pair.nodes[0];
    add(node, "a", 1).await.unwrap().unwrap();
    let lost = |shard| JournalError::OutcomeUnknown { shard, reason: "planted".into() };
    let shard = account(node, "a").id().shard(SHARDS);
    pair.views[0].fail_writes(Some(lost(shard)));
    let error = add(node, "a", 1).await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(error.effect(), TookEffect::Unknown);
    // The node stays the owner: the entity recovers and goes on.
    pair.views[0].fail_writes(None);
    assert_eq!(add(node, "a", 1).await.unwrap().unwrap(), 2);
    pair.finish().await;
}

/// Without a bound, the entity of a deposed owner would wait for ever, and so would its callers.
#[tokio::test(start_paused = true)]
async fn an_outcome_that_the_journal_never_tells_is_unknown_after_a_while() {
    let pair = Pair::led().await;
    let node = &pair.nodes[0];
    add(node, "a", 1).await.unwrap().unwrap();
    pair.views[0].mute_writes();
    let one = account(node, "a").ask(Add { by: 1 }).timeout(Duration::from_secs(60));
    let one = tokio::spawn(one.into_future());
    settle().await;
    let begun = tokio::time::Instant::now();
    pair.elect(1).await;
    assert!(!one.is_finished());
    let error = one.await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::OutcomeUnknown { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(get(&pair.nodes[1], "a").await.unwrap().unwrap(), 2, "and it did take effect");
    settle().await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_journal_refuses_first_says_where_to_go() {
    let pair = Pair::led().await;
    let node = &pair.nodes[0];
    add(node, "a", 1).await.unwrap().unwrap();
    // The journal knows of the new leader before the node does.
    pair.views[0].cut();
    pair.elect(1).await;
    let (first, second) = (add(node, "a", 1), add(node, "a", 1));
    assert_not_owner(first.await.unwrap(), Some(&pair.views[1]));
    assert_not_owner(second.await.unwrap(), Some(&pair.views[1]));
    pair.views[0].heal();
    settle().await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    assert_eq!(get(&pair.nodes[1], "a").await.unwrap().unwrap(), 1);
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn commands_wait_for_the_claim() {
    let pair = Pair::start().await;
    pair.views[0].fail_claims(16);
    let node = &pair.nodes[0];
    pair.elect(0).await;
    let (one, two) = (add(node, "a", 1), get(node, "b"));
    settle().await;
    assert!(!one.is_finished() && !two.is_finished());
    assert_eq!((one.await.unwrap().unwrap(), two.await.unwrap().unwrap()), (1, 0));
    assert!(pair.views[0].claims.load(SeqCst) > 16, "each shard, and again");
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn commands_wait_for_the_claim_only_so_long() {
    let pair = Pair::start().await;
    pair.views[0].fail_claims(usize::MAX);
    let node = &pair.nodes[0];
    pair.elect(0).await;
    let begun = tokio::time::Instant::now();
    let error = get(node, "a").await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::Unavailable { .. }), "{error}");
    assert_eq!(error.effect(), TookEffect::None);
    assert_eq!(begun.elapsed().as_secs(), 2);
    // The leadership goes while others wait.
    let waiting = get(node, "a");
    settle().await;
    pair.elect(1).await;
    assert_not_owner(waiting.await.unwrap(), Some(&pair.views[1]));
    assert_eq!(node.active::<Account>().unwrap(), 0);
    pair.finish().await;
}

/// Cause: an owner that did not know of its successor answered from memory. Consequence: a read did
/// not see an acknowledged write. Fix: such an answer waits for a confirmation.
#[tokio::test(start_paused = true)]
async fn an_owner_that_is_cut_off_answers_no_reads() {
    let pair = Pair::led().await;
    let [old, new] = &pair.nodes;
    add(old, "a", 1).await.unwrap().unwrap();
    assert_eq!(get(old, "a").await.unwrap().unwrap(), 1);
    pair.views[0].cut();
    pair.elect(1).await;
    add(new, "a", 1).await.unwrap().unwrap();
    let stale = get(old, "a");
    let mismatch = account(old, "a").ask(Get {}).expected_revision(seq(7));
    let mismatch = tokio::spawn(mismatch.into_future());
    settle().await;
    assert!(!stale.is_finished() && !mismatch.is_finished(), "it cannot know");
    pair.views[0].confirm_now();
    assert_not_owner(stale.await.unwrap(), Some(&pair.views[1]));
    assert_not_owner(mismatch.await.unwrap(), Some(&pair.views[1]));
    // Nor does it hand out its own entity's history as if it were all.
    pair.views[0].heal();
    settle().await;
    let error = account(old, "a").history(seq(1), 10).await.err().unwrap();
    assert!(matches!(error, AskError::NotOwner { .. }), "{error}");
    assert_eq!(account(old, "a").local_history(seq(1), 10).await.unwrap().len(), 2);
    assert_eq!(account(new, "a").history(seq(1), 10).await.unwrap().len(), 2);
    pair.finish().await;
}

/// The node leads again and has not noticed that it did not meanwhile: what it has in memory is from
/// before.
#[tokio::test(start_paused = true)]
async fn an_owner_that_lost_and_won_its_shard_unawares_answers_with_what_was_written_between() {
    let pair = Pair::led().await;
    let [old, new] = &pair.nodes;
    add(old, "a", 1).await.unwrap().unwrap();
    pair.views[0].cut();
    pair.elect(1).await;
    add(new, "a", 1).await.unwrap().unwrap();
    pair.elect(0).await;
    let read = get(old, "a");
    settle().await;
    assert!(!read.is_finished());
    pair.views[0].confirm_now();
    // Its epoch is not in force: refused, and the shard is claimed anew.
    assert_not_owner(read.await.unwrap(), None);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let read = get(old, "a");
    settle().await;
    pair.views[0].confirm_now();
    assert_eq!(read.await.unwrap().unwrap(), 2);
    pair.views[0].heal();
    settle().await;
    assert_eq!(add(old, "a", 1).await.unwrap().unwrap(), 3);
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn reads_of_a_shard_share_their_confirmations() {
    let pair = Pair::led().await;
    let node = &pair.nodes[0];
    let in_first = |key: &String| account(node, key).id().shard(SHARDS) == ShardId(0);
    let keys: Vec<_> = (0..).map(|n| format!("k{n}")).filter(in_first).take(20).collect();
    for key in &keys {
        add(node, key, 1).await.unwrap().unwrap();
    }
    assert_eq!(pair.views[0].confirms.load(SeqCst), 0, "writes need none");
    pair.views[0].cut();
    let reads: Vec<_> = (0..100).map(|n| get(node, &keys[n % keys.len()])).collect();
    settle().await;
    assert_eq!(pair.views[0].confirms.load(SeqCst), 1, "the others wait for the next");
    assert!(reads.iter().all(|read| !read.is_finished()));
    pair.views[0].heal();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap(), 1);
    }
    assert_eq!(pair.views[0].confirms.load(SeqCst), 2);
    pair.finish().await;
}

/// A confirmation that began before the read came does not vouch for it.
#[tokio::test(start_paused = true)]
async fn a_read_waits_for_a_confirmation_that_begins_after_it() {
    let pair = Pair::led().await;
    let node = &pair.nodes[0];
    add(node, "a", 1).await.unwrap().unwrap();
    pair.views[0].cut();
    let first = get(node, "a");
    settle().await;
    let second = get(node, "a");
    settle().await;
    pair.views[0].confirm_now();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    settle().await;
    assert!(!second.is_finished());
    pair.views[0].confirm_now();
    assert_eq!(second.await.unwrap().unwrap(), 1);
    pair.views[0].heal();
    pair.finish().await;
}

/// On one node nothing is ever confirmed.
#[tokio::test(start_paused = true)]
async fn where_the_owner_never_changes_reads_are_free() {
    let group = Group::new();
    let view = View::new(&group, 1);
    view.own_for_ever();
    let node = start(&view).await;
    assert_eq!(add(&node, "a", 1).await.unwrap().unwrap(), 1);
    assert_eq!(get(&node, "a").await.unwrap().unwrap(), 1);
    assert_eq!(account(&node, "a").history(seq(1), 10).await.unwrap().len(), 1);
    assert_eq!(view.confirms.load(SeqCst), 0);
    finish(node).await;
}

/// A quarantine ends with the tenure: another owner may have mended the cause.
#[tokio::test(start_paused = true)]
async fn nothing_of_a_tenure_outlives_it() {
    let pair = Pair::led().await;
    let node = &pair.nodes[0];
    account(node, "a").ask(PanicInApply {}).await.unwrap_err();
    account(node, "a").ask(AddLater { name: "t".into(), after_ms: 1000, by: 7 }).await.unwrap();
    let stashed = account(node, "a").ask(WhenPositive {}).timeout(Duration::from_secs(60));
    let stashed = tokio::spawn(stashed.into_future());
    settle().await;
    pair.elect(1).await;
    assert_not_owner(stashed.await.unwrap(), Some(&pair.views[1]));
    pair.elect(0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(get(node, "a").await.unwrap().unwrap(), 0, "the timer was not left running");
    pair.finish().await;
}

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What a client of one account knows: it has at most this, and at least that.
#[derive(Default)]
struct Known {
    acknowledged: i64,
    unknown: i64,
}

/// Many callers, and elections, cuts and held commits among them: nothing that was acknowledged is
/// lost, no read misses what was acknowledged before it, and every command is accounted for.
#[tokio::test(start_paused = true)]
async fn random_elections() {
    for seed in 0..300 {
        elections(seed).await;
    }
}

async fn elections(seed: u64) {
    let pair = Pair::led().await;
    let dice = &mut Dice(seed);
    let mut known: Vec<Known> = (0..6).map(|_| Known::default()).collect();
    let mut reads = 0;
    for _ in 0..40 {
        match dice.below(8) {
            0 | 1 => {
                let leader = dice.below(2) as usize;
                pair.group.elect(Some(&pair.views[leader]), &[&pair.views[0], &pair.views[1]]);
            }
            2 => pair.views[dice.below(2) as usize].cut(),
            3 => pair.views.iter().for_each(|view| view.heal()),
            4 => pair.views.iter().for_each(|view| view.confirm_now()),
            5 => pair.group.memory.hold(),
            6 => pair.group.memory.release(),
            _ => tokio::time::sleep(Duration::from_millis(dice.below(30))).await,
        }
        let asks: Vec<_> = (0..dice.below(12))
            .map(|_| {
                let (account, node) = (dice.below(6) as usize, dice.below(2) as usize);
                let (key, floor) = (format!("k{account}"), known[account].acknowledged);
                let node = &pair.nodes[node];
                let read = dice.below(3) == 0;
                (account, read, floor, if read { get(node, &key) } else { add(node, &key, 1) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(dice.below(20))).await;
        pair.views.iter().for_each(|view| view.confirm_now());
        pair.group.memory.release();
        for (account, read, floor, ask) in asks {
            let known = &mut known[account];
            match ask.await.unwrap() {
                Ok(total) if read => {
                    reads += 1;
                    assert!(total >= floor, "seed {seed}: read {total}, acknowledged {floor}");
                }
                Ok(_) => known.acknowledged += 1,
                Err(error) if !read && error.effect() == TookEffect::Unknown => known.unknown += 1,
                Err(_) => {}
            }
        }
    }
    assert!(reads > 0, "seed {seed}");
    pair.views.iter().for_each(|view| view.heal());
    pair.elect(0).await;
    for (account, known) in known.iter().enumerate() {
        let total = get(&pair.nodes[0], &format!("k{account}")).await.unwrap().unwrap();
        let most = known.acknowledged + known.unknown;
        assert!((known.acknowledged..=most).contains(&total), "seed {seed}: {total}");
    }
    pair.finish().await;
}
