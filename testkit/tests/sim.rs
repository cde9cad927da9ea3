//! Simulated tests of applications: what is right passes, and mistakes of an application are found.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duractor::{
    Command, Context, Effect, Event, EventSourced, Handle, NodeBuilder, Persist, TookEffect,
};
use duractor_testkit::{
    sim::{Check, Endpoint, Fault, Nemesis, Sim, Unreliable, World, sim_test},
    sometimes,
};

#[derive(Event, Debug, PartialEq)]
enum Moved {
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

#[derive(Command)]
#[command(reply = u64)]
struct Deposit {
    cents: u64,
}

/// Answers whether there was enough.
#[derive(Command)]
#[command(reply = bool)]
struct Withdraw {
    cents: u64,
}

#[derive(Command)]
#[command(reply = u64)]
struct Balance;

/// A mistake that an application may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// Answers reads from what this process remembers.
    Remembers,
    /// `apply` looks at something else than its arguments.
    AppliesOtherwise,
}

struct Account {
    mistake: Mistake,
    remembered: AtomicU64,
}

impl Account {
    fn new(mistake: Mistake) -> Self {
        Self { mistake, remembered: AtomicU64::new(0) }
    }
}

/// Which run of `apply` this is, in this process.
static APPLIED: AtomicU64 = AtomicU64::new(0);

impl EventSourced for Account {
    const KIND: &'static str = "account";
    type State = (u64, bool);
    type Event = Moved;
    type Commands = (Deposit, Withdraw, Balance);

    fn apply((cents, otherwise): &mut (u64, bool), event: &Moved) {
        match event {
            // So large deposits are made where the mistake is planted only.
            Moved::Deposited { cents: 1_000_001.. } => *otherwise = true,
            Moved::Deposited { cents: more } => *cents += more,
            Moved::Withdrawn { cents: less } => *cents -= less,
        }
        if *otherwise {
            *cents += APPLIED.fetch_add(1, Ordering::Relaxed) % 2;
        }
    }
}

impl Handle<Deposit> for Account {
    fn handle(&self, _: &(u64, bool), deposit: Deposit, _: &Context) -> Effect<Self, u64> {
        self.remembered.fetch_add(deposit.cents, Ordering::Relaxed);
        let otherwise = self.mistake == Mistake::AppliesOtherwise;
        let cents = deposit.cents + if otherwise { 1_000_000 } else { 0 };
        Self::persist(Moved::Deposited { cents }).reply(|(cents, _)| *cents)
    }
}

impl Handle<Withdraw> for Account {
    fn handle(
        &self,
        (cents, _): &(u64, bool),
        withdraw: Withdraw,
        _: &Context,
    ) -> Effect<Self, bool> {
        sometimes!(*cents < withdraw.cents, "there was not enough");
        if *cents < withdraw.cents {
            return Effect::reply(false);
        }
        Self::persist(Moved::Withdrawn { cents: withdraw.cents }).reply_with(true)
    }
}

impl Handle<Balance> for Account {
    fn handle(&self, (cents, _): &(u64, bool), _: Balance, _: &Context) -> Effect<Self, u64> {
        match self.mistake {
            Mistake::Remembers => Effect::reply(self.remembered.load(Ordering::Relaxed)),
            _ => Effect::reply(*cents),
        }
    }
}

fn app(node: NodeBuilder, _: &World) -> NodeBuilder {
    node.register(Account::new(Mistake::None))
}

/// Three clients that put money into accounts, take some out, and look.
fn load(world: &World) {
    world.clients(3, |world, client| async move {
        let account = world.entity::<Account>(if client == 0 { "alice" } else { "bob" });
        // What came of each is checked in the end.
        match world.rng().below(3) {
            0 => drop(account.ask(Deposit { cents: 1 + world.rng().below(100) }).await),
            1 => drop(account.ask(Withdraw { cents: 1 + world.rng().below(50) }).await),
            _ => drop(account.ask(Balance).await),
        }
    });
}

#[sim_test(app, nodes = 3, seeds = 60)]
async fn accounts_under_everything(world: World) {
    load(&world);
    world.nemesis(Nemesis::default().every(Duration::from_millis(300)));
    world.advance(Duration::from_secs(3)).await;
}

#[sim_test(app, seeds = 5, shards = 1)]
async fn a_script(world: World) -> Result<(), String> {
    load(&world);
    let account = world.entity::<Account>("carol");
    account.ask(Deposit { cents: 5 }).await.map_err(|error| error.to_string())?;
    world.partition(&[1], &[2, 3]);
    world.skew_clock(2, 3_600_000);
    world.slow_link(2, 3, Duration::from_millis(20));
    let alone = account.clone().at(1).patience(Duration::from_millis(100));
    if let Ok(balance) = alone.ask(Deposit { cents: 3 }).await {
        return Err(format!("a node alone acknowledged a deposit: {balance}"));
    }
    world.freeze(3, Duration::from_millis(300));
    world.stall_disk(2, Duration::from_millis(300));
    world.advance(Duration::from_secs(1)).await;
    world.heal();
    world.crash(2);
    world.kill(3);
    assert!(!world.is_up(2) && !world.is_up(3) && world.is_up(1));
    world.restart(2);
    let is_up = async || world.is_up(2);
    world.until("node 2 is up", Duration::from_secs(20), is_up).await;
    world.shut_down(1).await;
    world.restart(1);
    world.restart(3);
    world.replace_disk(3);
    world.advance(Duration::from_secs(2)).await;
    let balance = account.ask(Balance).await.map_err(|error| error.to_string())?;
    if balance == 5 || balance == 8 { Ok(()) } else { Err(format!("there are {balance} cents")) }
}

#[sim_test(app, seeds = 5)]
async fn a_full_disk_loses_nothing(world: World) {
    load(&world);
    world.advance(Duration::from_millis(300)).await;
    world.fill_disk(2);
    world.advance(Duration::from_secs(1)).await;
    world.heal();
    world.crash(2);
    world.restart(2);
}

/// The end of a run heals what the script left broken.
#[sim_test(app, seeds = 3)]
async fn a_disk_that_is_left_full_has_room_in_the_end(world: World) {
    load(&world);
    world.fill_disk(1);
    world.fill_disk(2);
    world.advance(Duration::from_secs(2)).await;
}

fn with(mistake: Mistake) -> Sim {
    Sim::new(move |node, _| node.register(Account::new(mistake)))
}

/// What a test says that fails.
fn told(test: impl FnOnce()) -> String {
    let failed = catch_unwind(AssertUnwindSafe(test)).expect_err("it passes");
    failed.downcast_ref::<String>().expect("a text").clone()
}

/// What a test of an application with this mistake says.
fn found(mistake: Mistake) -> String {
    told(|| {
        with(mistake).seeds(100).test("the_test", async |world: World| {
            load(&world);
            world.nemesis(Nemesis::of([Fault::Crash, Fault::Partition]));
            world.advance(Duration::from_secs(3)).await;
        });
    })
}

#[test]
fn mistakes_of_an_application_are_found() {
    for (mistake, sign) in
        [(Mistake::Remembers, "violation: A/L: "), (Mistake::AppliesOtherwise, "violation: ")]
    {
        let text = found(mistake);
        assert!(text.contains(sign), "{mistake:?}: {text}");
        assert!(text.contains(" of account/"), "{mistake:?}: {text}");
        assert!(text.contains("replay: SIM_SEED="), "{mistake:?}: {text}");
    }
}

/// A test that fails where a node is cut off, whatever else goes wrong.
#[test]
fn the_fewest_faults_are_told() {
    let test = async |world: World| {
        world.nemesis(Nemesis::default().every(Duration::from_millis(100)));
        for _ in 0..100 {
            world.advance(Duration::from_millis(20)).await;
            assert!(!world.faults().contains_key("partition"), "a node was cut off");
        }
    };
    let sim = with(Mistake::None).seeds(50);
    let text = told(|| sim.test("the_test", test));
    assert!(text.contains("violation: panic: "), "{text}");
    assert!(text.contains("a node was cut off"), "{text}");
    assert!(text.contains("\n1 of the "), "one fault is enough: {text}");
}

#[test]
fn runs_of_a_seed_are_equal() {
    let run = |seed| {
        with(Mistake::None).run(seed, async |world: World| {
            load(&world);
            world.nemesis(Nemesis::default());
            world.advance(Duration::from_secs(2)).await;
        })
    };
    for seed in 0..5 {
        let (one, other) = (run(seed), run(seed));
        one.clone().passed();
        assert_eq!(one, other);
        assert!(one.checked > 20, "{} commands", one.checked);
    }
    assert_ne!(run(1).trace_hash, run(2).trace_hash);
}

#[test]
fn invariants_of_the_application_are_looked_at() {
    let sim = with(Mistake::None).invariant("nobody is rich", |world: World| async move {
        let balance = world.ask::<Account, _>("alice", Balance).await;
        match balance.map_err(|error| error.to_string())? {
            0..100 => Ok(()),
            balance => Err(format!("alice has {balance}")),
        }
    });
    let give = |cents| {
        sim.run(1, async move |world: World| {
            let given = world.ask::<Account, _>("alice", Deposit { cents }).await;
            given.map(drop).map_err(|error| error.to_string())
        })
    };
    give(99).passed();
    assert_eq!(give(100).violation.as_deref(), Some("nobody is rich: alice has 100"));
}

#[test]
fn a_mark_that_was_never_so_fails_the_test() {
    let seeds = |most| {
        with(Mistake::None).seeds(50).test("the_test", async move |world: World| {
            let drawn = world.rng().below(most);
            sometimes!(drawn == 0, "a zero was drawn");
        });
    };
    seeds(2);
    let text = told(|| seeds(u64::MAX));
    assert!(text.contains(r#"it was never so: ["a zero was drawn"]"#), "{text}");
}

#[test]
fn checks_can_be_left_out() {
    let run = |sim: Sim| {
        sim.run(3, async |world: World| {
            load(&world);
            world.advance(Duration::from_secs(1)).await;
        })
    };
    assert!(run(with(Mistake::Remembers)).violation.is_some());
    run(with(Mistake::Remembers).without(Check::Linearizable)).passed();
}

/// A mailer that an entity calls: each mail arrives once or more often, whatever fails.
#[test]
fn another_system_that_fails() {
    let sim = with(Mistake::None);
    let outcome = sim.run(5, async |world: World| {
        let faults = Unreliable { refused: 0.2, lost: 0.2, doubled: 0.2, ..Unreliable::default() };
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        let mailer = Endpoint::new(&world, faults, move |mail: &u64| {
            count.fetch_add(*mail, Ordering::Relaxed)
        });
        let (mut refused, mut lost) = (0, 0);
        for mail in 0..200_u64 {
            match mailer.call(mail).await {
                Ok(_) => {}
                Err(duractor_testkit::sim::CallFailed::Refused) => refused += 1,
                Err(duractor_testkit::sim::CallFailed::TimedOut) => lost += 1,
            }
        }
        let received = mailer.received();
        let doubled = received.windows(2).filter(|two| two[0] == two[1]).count();
        assert!(refused > 10 && lost > 10 && doubled > 10, "{refused} {lost} {doubled}");
        assert_eq!(received.iter().sum::<u64>(), seen.load(Ordering::Relaxed));
        mailer.set_down(true);
        assert!(mailer.call(7).await.is_err());
    });
    outcome.passed();
}

/// A command of unknown outcome is in the journal or not, and both are right.
#[test]
fn unknown_outcomes_are_checked_too() {
    let mut unknown = 0;
    for seed in 0..20 {
        let outcome = with(Mistake::None).run(seed, async |world: World| {
            let account = world.entity::<Account>("alice").patience(Duration::ZERO);
            for _ in 0..20 {
                let later = world.clone();
                world.spawn(async move {
                    later.advance(Duration::from_millis(1)).await;
                    later.crash(1);
                });
                if let Err(error) = account.ask(Deposit { cents: 1 }).await {
                    sometimes!(error.effect() == TookEffect::Unknown, "nobody knows");
                }
                world.restart(1);
                world.advance(Duration::from_millis(400)).await;
            }
        });
        unknown += outcome.marks.get("nobody knows").copied().unwrap_or(0);
        outcome.passed();
    }
    assert!(unknown > 0);
}
