//! The entity test kit on a small realistic entity: an account with limits.

use std::time::Duration;

use duractor::{
    AskError, Command, Context, DurableState, Effect, EntitySettings, Event, EventSourced, Handle,
    Payload, Persist, Replace, RequestId, Seq, TookEffect, Upcast, golden,
};
use duractor_journal::JournalError;
use duractor_testkit::entity::{EntityTestKit, Fail};
use serde::{Deserialize, Serialize};

#[derive(Event, Debug, PartialEq)]
enum Moved {
    #[event(version = 2, upcast(1 = DepositedV1))]
    Deposited {
        cents: u64,
    },
    Withdrawn {
        cents: u64,
    },
    LimitSet {
        cents: u64,
    },
}

/// Version 1 had whole euros.
#[derive(Payload)]
struct DepositedV1 {
    euros: u32,
}

impl Upcast for DepositedV1 {
    type Next = Moved;
    fn upcast(self) -> impl IntoIterator<Item = Moved> {
        [Moved::Deposited { cents: u64::from(self.euros) * 100 }]
    }
}

#[derive(Default, Debug, PartialEq, Serialize, Deserialize)]
struct Balance {
    cents: u64,
    /// Most that one withdrawal may take; none unless set.
    limit: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Refused {
    OverLimit { limit: u64 },
    NotEnough { cents: u64 },
}

#[derive(Command)]
#[command(reply = u64)]
struct Deposit {
    cents: u64,
}

#[derive(Command)]
#[command(reply = Result<u64, Refused>)]
struct Withdraw {
    cents: u64,
}

#[derive(Command)]
#[command(reply = ())]
struct SetLimit {
    cents: u64,
}

#[derive(Command)]
#[command(reply = u64)]
struct Get;

/// Answered once there is money.
#[derive(Command)]
#[command(reply = u64)]
struct WhenFunded;

#[derive(Command)]
#[command(reply = ())]
struct DepositLater {
    cents: u64,
    after_s: u64,
}

#[derive(Command)]
#[command(reply = Result<(), Refused>)]
struct Transfer {
    to: String,
    cents: u64,
}

#[derive(Command)]
#[command(reply = ())]
struct Leave;

#[derive(Command)]
#[command(reply = ())]
struct Panic;

#[derive(Default)]
struct Account {
    settings: EntitySettings,
}

impl EventSourced for Account {
    const KIND: &'static str = "account";
    type State = Balance;
    type Event = Moved;
    type Commands =
        (Deposit, Withdraw, SetLimit, Get, WhenFunded, DepositLater, Transfer, Leave, Panic);

    fn apply(state: &mut Balance, event: &Moved) {
        match event {
            Moved::Deposited { cents } => state.cents += cents,
            Moved::Withdrawn { cents } => state.cents -= cents,
            Moved::LimitSet { cents } => state.limit = Some(*cents),
        }
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }

    fn tags(&self, event: &Moved) -> Vec<String> {
        vec![event.schema().name.to_lowercase()]
    }
}

fn check(state: &Balance, cents: u64) -> Result<(), Refused> {
    match state.limit {
        Some(limit) if cents > limit => Err(Refused::OverLimit { limit }),
        _ if cents > state.cents => Err(Refused::NotEnough { cents: state.cents }),
        _ => Ok(()),
    }
}

impl Handle<Deposit> for Account {
    fn handle(&self, _: &Balance, deposit: Deposit, _: &Context) -> Effect<Self, u64> {
        let Deposit { cents } = deposit;
        Self::persist(Moved::Deposited { cents }).reply(|state| state.cents).unstash()
    }
}

impl Handle<Withdraw> for Account {
    fn handle(
        &self,
        state: &Balance,
        Withdraw { cents }: Withdraw,
        _: &Context,
    ) -> Effect<Self, Result<u64, Refused>> {
        match check(state, cents) {
            Ok(()) => Self::persist(Moved::Withdrawn { cents }).reply(|state| Ok(state.cents)),
            Err(refused) => Effect::reply(Err(refused)),
        }
    }
}

impl Handle<SetLimit> for Account {
    fn handle(&self, _: &Balance, set: SetLimit, _: &Context) -> Effect<Self, ()> {
        Self::persist(Moved::LimitSet { cents: set.cents }).no_reply()
    }
}

impl Handle<Get> for Account {
    fn handle(&self, state: &Balance, _: Get, _: &Context) -> Effect<Self, u64> {
        Effect::reply(state.cents)
    }
}

impl Handle<WhenFunded> for Account {
    fn handle(&self, state: &Balance, when: WhenFunded, _: &Context) -> Effect<Self, u64> {
        if state.cents > 0 { Effect::reply(state.cents) } else { Effect::stash(when) }
    }
}

impl Handle<DepositLater> for Account {
    fn handle(&self, _: &Balance, later: DepositLater, _: &Context) -> Effect<Self, ()> {
        let DepositLater { cents, after_s } = later;
        let after = Duration::from_secs(after_s);
        Effect::nothing().timer("deposit", after, Deposit { cents }).no_reply()
    }
}

impl Handle<Transfer> for Account {
    fn handle(
        &self,
        state: &Balance,
        Transfer { to, cents }: Transfer,
        _: &Context,
    ) -> Effect<Self, Result<(), Refused>> {
        match check(state, cents) {
            Ok(()) => Self::persist(Moved::Withdrawn { cents })
                .send::<Account, _>(to, Deposit { cents })
                .reply_with(Ok(())),
            Err(refused) => Effect::reply(Err(refused)),
        }
    }
}

impl Handle<Leave> for Account {
    fn handle(&self, _: &Balance, _: Leave, _: &Context) -> Effect<Self, ()> {
        Effect::nothing().passivate().no_reply()
    }
}

impl Handle<Panic> for Account {
    fn handle(&self, _: &Balance, _: Panic, _: &Context) -> Effect<Self, ()> {
        panic!("as told")
    }
}

fn kit() -> EntityTestKit<Account> {
    EntityTestKit::new(Account::default())
}

fn kit_with(settings: EntitySettings) -> EntityTestKit<Account> {
    EntityTestKit::new(Account { settings })
}

fn request(id: &str) -> RequestId {
    RequestId::new(id).expect("a request id")
}

#[test]
fn a_command_gives_events_states_and_a_reply() {
    let mut kit = kit();
    let ran = kit.run(Deposit { cents: 500 });
    assert_eq!(ran.events(), [Moved::Deposited { cents: 500 }]);
    assert_eq!(ran.state_before(), &Balance::default());
    assert_eq!(ran.state(), &Balance { cents: 500, limit: None });
    assert_eq!(ran.reply(), &500);
    assert_eq!((ran.revision(), ran.is_active()), (Seq(1), true));
    let record = &ran.records()[0];
    assert_eq!((&*record.event.name, record.event.schema_version), ("Deposited", 2));
    assert_eq!((record.seq, &*record.event.tags), (Seq(1), &["deposited".to_owned()][..]));

    let ran = kit.run(Withdraw { cents: 600 });
    assert_eq!(ran.reply(), &Err(Refused::NotEnough { cents: 500 }));
    assert_eq!(ran.events(), []);
    assert_eq!(ran.state(), ran.state_before());
    assert_eq!(kit.events(), [Moved::Deposited { cents: 500 }]);
}

#[test]
fn the_state_outlives_restarts_and_crashes() {
    let mut kit = kit();
    kit.run(Deposit { cents: 500 });
    let restarted = kit.restart();
    assert_eq!((restarted.is_active(), restarted.state().cents), (false, 500));
    assert_eq!(kit.run(Get).reply(), &500);
    kit.crash();
    assert_eq!(kit.run(Withdraw { cents: 100 }).reply(), &Ok(400));
    assert_eq!(kit.state().cents, 400);
}

#[test]
fn a_test_can_begin_with_events() {
    let given = [Moved::Deposited { cents: 1_000 }, Moved::LimitSet { cents: 300 }];
    let mut kit = EntityTestKit::builder(Account::default()).given_events(given).start();
    let ran = kit.run(Withdraw { cents: 301 });
    assert_eq!(ran.reply(), &Err(Refused::OverLimit { limit: 300 }));
    assert_eq!(ran.state_before(), &Balance { cents: 1_000, limit: Some(300) });
    assert_eq!(kit.run(Withdraw { cents: 300 }).revision(), Seq(3));
}

#[test]
fn a_test_can_begin_with_a_snapshot_whose_events_are_deleted() {
    let state = Balance { cents: 7, limit: None };
    let mut kit = EntityTestKit::builder(Account::default())
        .given_snapshot(5_000, &state)
        .given_events([Moved::Deposited { cents: 1 }])
        .start();
    let ran = kit.run(Deposit { cents: 1 });
    assert_eq!((ran.reply(), ran.revision()), (&9, Seq(5_002)));
    kit.crash();
    assert_eq!(kit.run(Get).reply(), &9);
}

#[test]
fn a_test_can_begin_with_what_an_older_release_stored() {
    let mut kit = EntityTestKit::builder(Account::default())
        .given_stored("Deposited", 1, vec![3])
        // The same state: 300 cents, no limit.
        .given_stored_snapshot(1, 1, &[0xac, 0x02, 0])
        .start();
    assert_eq!(kit.events(), [Moved::Deposited { cents: 300 }]);
    assert_eq!(kit.run(Get).reply(), &300);
}

#[test]
fn stored_events_keep_their_bytes() {
    golden(&[
        (&[Moved::Deposited { cents: 300 }], "Deposited", 2, "ac02"),
        (&[Moved::Deposited { cents: 300 }], "Deposited", 1, "03"),
        (&[Moved::Withdrawn { cents: 1 }], "Withdrawn", 1, "01"),
        (&[Moved::LimitSet { cents: 2 }], "LimitSet", 1, "02"),
    ]);
}

#[test]
fn a_repeat_of_a_request_takes_effect_once() {
    let mut kit = kit();
    for crash in [false, true, false] {
        if crash {
            kit.crash();
        }
        let ran = kit.run_with(Deposit { cents: 5 }, |ask| ask.request_id(request("a")));
        assert_eq!((ran.reply(), ran.state().cents), (&5, 5));
    }
    let first = kit.events();
    assert_eq!(first, [Moved::Deposited { cents: 5 }]);
}

#[test]
fn an_expected_revision_is_checked() {
    let mut kit = kit();
    kit.run(Deposit { cents: 5 });
    let ran = kit.run_with(Deposit { cents: 5 }, |ask| ask.expected_revision(Seq(3)));
    let error = ran.error();
    assert!(
        matches!(error, AskError::RevisionMismatch { expected: Seq(3), actual: Seq(1) }),
        "{error}"
    );
    let ran = kit.run_with(Deposit { cents: 5 }, |ask| ask.expected_revision(Seq(1)));
    assert_eq!(ran.reply(), &10);
}

#[test]
fn a_stashed_command_is_answered_by_a_later_step() {
    let mut kit = kit();
    let waiting = kit.run(WhenFunded);
    assert!(waiting.is_waiting());
    assert!(kit.run(Get).answer().is_some(), "others are not held up");
    assert!(waiting.is_waiting());
    kit.run(Deposit { cents: 3 });
    assert_eq!(waiting.reply(), &3);

    let waiting = kit_with(EntitySettings::default()).run(WhenFunded);
    assert!(waiting.is_waiting());
}

#[test]
fn a_restart_refuses_what_is_stashed() {
    let mut kit = kit();
    let waiting = kit.run(WhenFunded);
    kit.restart();
    assert!(matches!(waiting.error(), AskError::ShuttingDown), "{}", waiting.error());
}

#[test]
fn time_passes_only_as_told() {
    let mut kit = kit();
    let begun = kit.now();
    kit.run(DepositLater { cents: 5, after_s: 3_600 });
    assert_eq!(kit.advance(Duration::from_secs(3_599)).events(), []);
    let passed = kit.advance(Duration::from_secs(1));
    assert_eq!(passed.events(), [Moved::Deposited { cents: 5 }]);
    assert_eq!(passed.state().cents, 5);
    assert!((3_600_000..3_600_100).contains(&(kit.now().0 - begun.0)));

    kit.run(DepositLater { cents: 5, after_s: 60 });
    kit.restart();
    assert_eq!(kit.advance(Duration::from_secs(120)).events(), [], "timers are in memory");
}

#[test]
fn an_idle_entity_leaves_memory() {
    let mut kit = kit_with(EntitySettings::default().idle_timeout(Duration::from_secs(60)));
    kit.run(Deposit { cents: 5 });
    assert!(kit.advance(Duration::from_secs(55)).is_active());
    let passed = kit.advance(Duration::from_secs(10));
    assert!(!passed.is_active());
    assert_eq!(passed.state().cents, 5, "its next recovery gives this");
    assert!(!kit.is_active(), "looking does not start it");
    assert!(kit.run(Get).is_active());
    let left = kit.run(Leave);
    assert_eq!((left.reply(), left.is_active()), (&(), false));
}

#[test]
fn refused_events_did_not_happen() {
    let mut kit = kit();
    kit.run(Deposit { cents: 5 });
    kit.fail_next(1, Fail::Refused);
    let ran = kit.run(Deposit { cents: 7 });
    assert!(matches!(ran.error(), AskError::Journal(JournalError::DiskFull { .. })));
    assert_eq!(ran.error().effect(), TookEffect::None);
    assert_eq!((ran.events(), ran.state().cents), (&[][..], 5));
    assert_eq!(kit.run(Deposit { cents: 1 }).reply(), &6);

    kit.fail_next(2, Fail::Append(JournalError::Busy { queued_bytes: 9 }));
    for _ in 0..2 {
        assert!(matches!(
            kit.run(Deposit { cents: 7 }).error(),
            AskError::Journal(JournalError::Busy { queued_bytes: 9 })
        ));
    }
    assert_eq!(kit.run(Get).reply(), &6);
}

#[test]
fn a_lost_write_leaves_the_caller_in_doubt() {
    for (fail, cents) in [(Fail::Lost, 0), (Fail::LostAck, 7)] {
        let mut kit = kit();
        kit.fail_next(1, fail);
        let retry = |ask: duractor::Ask<Account, Deposit>| ask.request_id(request("a"));
        let ran = kit.run_with(Deposit { cents: 7 }, retry);
        assert_eq!(ran.error().effect(), TookEffect::Unknown);
        assert_eq!(ran.state().cents, cents, "what the next recovery gives");
        assert!(matches!(kit.run(Get).error(), AskError::NodeFailed { .. }));
        kit.restart();
        assert_eq!(kit.run_with(Deposit { cents: 7 }, retry).reply(), &7, "once, in any case");
    }
}

#[test]
fn failing_reads_are_tried_again() {
    let mut kit = kit();
    kit.run(Deposit { cents: 5 });
    kit.crash();
    kit.fail_next(3, Fail::Replay);
    let before = kit.now();
    assert_eq!(kit.run(Get).reply(), &5);
    assert!(kit.now().0 - before.0 > 300, "after three delays");

    let mut kit = EntityTestKit::new(Account::default());
    kit.fail_next(1, Fail::Head);
    assert_eq!(kit.run(Get).reply(), &0);
}

#[test]
fn damage_quarantines_the_entity() {
    let mut kit = kit();
    kit.run(Deposit { cents: 5 });
    kit.crash();
    kit.fail_next(1, Fail::Corrupt);
    let ran = kit.run(Get);
    assert!(matches!(ran.error(), AskError::Quarantined { .. }), "{}", ran.error());
    assert!(!ran.is_active());

    let mut kit =
        EntityTestKit::builder(Account::default()).given_stored("Unheard", 1, vec![]).start();
    let ran = kit.run(Get);
    assert!(matches!(ran.error(), AskError::Quarantined { .. }), "{}", ran.error());
    assert!(ran.try_state().expect_err("no state").contains("\"Unheard\""));
}

#[test]
fn snapshots_that_fail_cost_nothing_but_time() {
    let mut kit = kit_with(EntitySettings::default().snapshot_every(2).delete_events(true));
    kit.fail_next(1, Fail::SnapshotSave);
    for _ in 0..2 {
        kit.run(Deposit { cents: 1 });
    }
    kit.fail_next(1, Fail::SnapshotLoad);
    kit.crash();
    assert_eq!(kit.run(Get).reply(), &2, "no snapshot was saved, no event deleted");
    for n in 3..=6 {
        assert_eq!(kit.run(Deposit { cents: 1 }).events().len(), 1, "shown, if deleted or not");
        assert_eq!(kit.state().cents, n);
    }
    kit.crash();
    assert_eq!(kit.run(Get).reply(), &6);
    assert_eq!(kit.events().len(), 6);
}

#[test]
fn a_panic_is_a_typed_error_and_the_entity_goes_on() {
    let mut kit = kit();
    kit.run(Deposit { cents: 5 });
    let ran = kit.run(Panic);
    assert!(matches!(ran.error(), AskError::Crashed { .. }), "{}", ran.error());
    assert_eq!(ran.state().cents, 5);
    assert_eq!(kit.run(Get).reply(), &5);
}

#[test]
fn messages_to_other_entities_arrive_after_the_commit() {
    let mut kit = kit();
    kit.run(Deposit { cents: 5 });
    kit.run(Transfer { to: "savings".into(), cents: 2 }).reply().as_ref().expect("enough");
    assert_eq!(kit.events_of::<Account>("savings"), [Moved::Deposited { cents: 2 }]);
    assert_eq!(kit.state_of::<Account>("savings").cents, 2);

    let back = Transfer { to: "test".into(), cents: 1 };
    let ran = kit.run_on::<Account, _>("savings", back);
    assert_eq!(ran.events(), [Moved::Deposited { cents: 1 }], "what happened to the tested one");
    assert_eq!(ran.state().cents, 4);

    kit.fail_next(1, Fail::Refused);
    assert!(kit.run(Transfer { to: "savings".into(), cents: 2 }).answer().is_some());
    assert_eq!(kit.state_of::<Account>("savings").cents, 1, "nothing was committed, nothing sent");
}

#[test]
fn handlers_can_be_tested_on_recovered_states_only() {
    let mut kit = EntityTestKit::builder(Account::default())
        .recover_each_time()
        .compare_states()
        .key("other")
        .seed(3)
        .start();
    for n in 1..=5 {
        assert_eq!(kit.run(Deposit { cents: 1 }).reply(), &n);
    }
}

#[derive(Command)]
#[command(reply = u64)]
struct Rename {
    to: String,
}

struct Profile;

impl DurableState for Profile {
    const KIND: &'static str = "profile";
    type State = String;
    type Commands = (Rename,);

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(3)
    }
}

impl Handle<Rename> for Profile {
    fn handle(&self, state: &String, rename: Rename, _: &Context) -> Effect<Self, u64> {
        let before = state.len() as u64;
        Self::replace(rename.to).reply_with(before)
    }
}

#[test]
fn entities_with_durable_state_are_tested_alike() {
    let mut kit = EntityTestKit::builder(Profile).given_snapshot(7, &"seventh".to_owned()).start();
    assert_eq!(kit.run(Rename { to: "8".into() }).reply(), &7);
    for n in 9..=20 {
        let ran = kit.run(Rename { to: n.to_string() });
        assert_eq!((ran.state(), ran.revision()), (&n.to_string(), Seq(n)));
        assert_eq!(ran.events().len(), 1);
    }
    let ran = kit.run_with(Rename { to: "x".into() }, |ask| ask.expected_revision(Seq(3)));
    assert!(matches!(ran.error(), AskError::RevisionMismatch { actual: Seq(20), .. }));
    kit.crash();
    assert_eq!(kit.state(), "20");
}

#[test]
fn async_code_runs_on_the_kits_runtime() {
    let mut kit = kit();
    let account = kit.node().entity::<Account>("test").expect("registered");
    let sum = kit.block_on(async {
        account.ask(Deposit { cents: 1 }).await?;
        account.ask(Deposit { cents: 2 }).await
    });
    assert_eq!(sum.expect("both"), 3);
    assert_eq!(kit.advance(Duration::ZERO).events().len(), 2);
}
