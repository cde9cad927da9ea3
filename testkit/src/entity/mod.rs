//! The entity test kit: tests an entity in a plain `#[test]`, without disks, sockets or waiting.
//!
//! ```
//! use duractor::{Command, Context, Effect, Event, EventSourced, Handle, Persist};
//! use duractor_testkit::EntityTestKit;
//! # #[derive(Event, Debug, PartialEq)]
//! # enum Changed { Added { by: i64 } }
//! # #[derive(Command)]
//! # #[command(reply = i64)]
//! # struct Add { by: i64 }
//! # #[derive(Command)]
//! # #[command(reply = i64)]
//! # struct Get;
//! # struct Counter;
//! # impl EventSourced for Counter {
//! #     const KIND: &'static str = "counter";
//! #     type State = i64;
//! #     type Event = Changed;
//! #     type Commands = (Add, Get);
//! #     fn apply(state: &mut i64, event: &Changed) { let Changed::Added { by } = event; *state += by; }
//! # }
//! # impl Handle<Add> for Counter {
//! #     fn handle(&self, _: &i64, add: Add, _: &Context) -> Effect<Self, i64> {
//! #         Self::persist(Changed::Added { by: add.by }).reply(|state| *state)
//! #     }
//! # }
//! # impl Handle<Get> for Counter {
//! #     fn handle(&self, state: &i64, _: Get, _: &Context) -> Effect<Self, i64> { Effect::reply(*state) }
//! # }
//!
//! // With `#[test]` before it.
//! fn adding() {
//!     let mut kit = EntityTestKit::new(Counter);
//!     let ran = kit.run(Add { by: 2 });
//!     assert_eq!(ran.events(), [Changed::Added { by: 2 }]);
//!     assert_eq!(ran.state(), &2);
//!     assert_eq!(ran.reply(), &2);
//!
//!     kit.restart();
//!     assert_eq!(kit.run(Get).reply(), &2);
//! }
//! # adding();
//! ```
//!
//! The entity runs on a real [`Node`](duractor::Node): its mailbox, the speculative pipeline,
//! recovery, snapshots and passivation are those of production. Only what is around the node is
//! simulated: the journal and the snapshots are in memory, randomness follows from a seed, and the
//! clock moves when the test says so. A test gives the same result each time.
//!
//! # Steps
//! A test is a row of steps. Each returns when everything that follows from it has happened:
//!
//! | step | |
//! |---|---|
//! | [`run`](EntityTestKit::run) | a command; [`run_with`](EntityTestKit::run_with) adds a request id, an expected revision or a timeout; [`run_on`](EntityTestKit::run_on) runs one on another entity |
//! | [`advance`](EntityTestKit::advance) | time passes |
//! | [`restart`](EntityTestKit::restart), [`crash`](EntityTestKit::crash) | the node ends, in order or at once, and starts again on what is stored |
//!
//! A step returns what [`Happened`]: the events that were written, the state before and after,
//! whether the entity is still in memory. [`Ran`] adds the answer. All these are read back from
//! what is stored or sent, so a test sees what a recovery, a retry or another node would see.
//!
//! # Checks
//! After each step the kit makes the [checks](Check) that are tedious to write and easy to forget.
//! A step panics if events, state, command or reply do not survive their encoding, or if a recovery
//! would not give the state that is in memory; the text says what differs and what to do. The
//! checks take no part in what the test sees: they recover the entity on a node beside the one
//! under test. [`without`](EntityTestKitBuilder::without) switches one off.
//!
//! The checks compare what is encoded. A field that is `#[serde(skip)]` is in no encoding:
//! [`compare_states`](EntityTestKitBuilder::compare_states) finds it in the state by `==`, and
//! [`recover_each_time`](EntityTestKitBuilder::recover_each_time) by what handlers do without it.
//! What an upcast should mean only you know: give old bytes by
//! [`given_stored`](EntityTestKitBuilder::given_stored) and say what should come of them, or use
//! [`golden`](duractor::golden()).
//!
//! # An example: an account with limits
//! ```
//! use duractor::{
//!     Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Persist, RequestId,
//!     TookEffect, golden,
//! };
//! use duractor_testkit::entity::{EntityTestKit, Fail};
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//!
//! #[derive(Event, Debug, PartialEq)]
//! enum Moved {
//!     Deposited { cents: u64 },
//!     Withdrawn { cents: u64 },
//!     Blocked,
//! }
//!
//! #[derive(Default, Debug, PartialEq, Serialize, Deserialize)]
//! struct Balance {
//!     cents: u64,
//!     blocked: bool,
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Refused {
//!     NotEnough { cents: u64 },
//!     Blocked,
//! }
//!
//! #[derive(Command)]
//! #[command(reply = u64)]
//! struct Deposit { cents: u64 }
//!
//! #[derive(Command)]
//! #[command(reply = Result<u64, Refused>)]
//! struct Withdraw { cents: u64 }
//!
//! /// Blocks the account unless it is cancelled within the time.
//! #[derive(Command)]
//! #[command(reply = ())]
//! struct BlockAfter { days: u64 }
//!
//! #[derive(Command)]
//! #[command(reply = ())]
//! struct Block;
//!
//! struct Account;
//!
//! impl EventSourced for Account {
//!     const KIND: &'static str = "account";
//!     type State = Balance;
//!     type Event = Moved;
//!     type Commands = (Deposit, Withdraw, BlockAfter, Block);
//!
//!     fn apply(state: &mut Balance, event: &Moved) {
//!         match event {
//!             Moved::Deposited { cents } => state.cents += cents,
//!             Moved::Withdrawn { cents } => state.cents -= cents,
//!             Moved::Blocked => state.blocked = true,
//!         }
//!     }
//!
//!     fn settings(&self) -> EntitySettings {
//!         EntitySettings::default().snapshot_every(100)
//!     }
//! }
//!
//! impl Handle<Withdraw> for Account {
//!     fn handle(
//!         &self,
//!         state: &Balance,
//!         Withdraw { cents }: Withdraw,
//!         _: &Context,
//!     ) -> Effect<Self, Result<u64, Refused>> {
//!         if state.blocked {
//!             return Effect::reply(Err(Refused::Blocked));
//!         }
//!         if cents > state.cents {
//!             return Effect::reply(Err(Refused::NotEnough { cents: state.cents }));
//!         }
//!         Self::persist(Moved::Withdrawn { cents }).reply(|state| Ok(state.cents))
//!     }
//! }
//! # impl Handle<Deposit> for Account {
//! #     fn handle(&self, _: &Balance, deposit: Deposit, _: &Context) -> Effect<Self, u64> {
//! #         Self::persist(Moved::Deposited { cents: deposit.cents }).reply(|state| state.cents)
//! #     }
//! # }
//! # impl Handle<BlockAfter> for Account {
//! #     fn handle(&self, _: &Balance, block: BlockAfter, _: &Context) -> Effect<Self, ()> {
//! #         let after = Duration::from_secs(block.days * 24 * 60 * 60);
//! #         Effect::nothing().timer("block", after, Block).no_reply()
//! #     }
//! # }
//! # impl Handle<Block> for Account {
//! #     fn handle(&self, _: &Balance, _: Block, _: &Context) -> Effect<Self, ()> {
//! #         Self::persist(Moved::Blocked).no_reply()
//! #     }
//! # }
//! // The handlers of Deposit, BlockAfter and Block are as short.
//!
//! fn with_money() -> EntityTestKit<Account> {
//!     let given = [Moved::Deposited { cents: 500 }];
//!     EntityTestKit::builder(Account).given_events(given).start()
//! }
//!
//! fn a_limit_is_kept() {
//!     let mut kit = with_money();
//!     let ran = kit.run(Withdraw { cents: 501 });
//!     assert_eq!(ran.reply(), &Err(Refused::NotEnough { cents: 500 }));
//!     assert_eq!(ran.events(), []);
//!     assert_eq!(ran.state(), ran.state_before());
//! }
//!
//! fn a_retry_takes_effect_once() {
//!     let mut kit = with_money();
//!     let id = RequestId::new("withdrawal-17").unwrap();
//!     // The answer to the first try gets lost, though the event is stored.
//!     kit.fail_next(1, Fail::LostAck);
//!     let ran = kit.run_with(Withdraw { cents: 200 }, |ask| ask.request_id(id.clone()));
//!     assert_eq!(ran.error().effect(), TookEffect::Unknown);
//!     kit.restart();
//!     let ran = kit.run_with(Withdraw { cents: 200 }, |ask| ask.request_id(id));
//!     assert_eq!(ran.reply(), &Ok(300));
//!     assert_eq!(ran.state().cents, 300);
//! }
//!
//! fn it_blocks_after_thirty_days() {
//!     let mut kit = with_money();
//!     kit.run(BlockAfter { days: 30 });
//!     let passed = kit.advance(Duration::from_secs(30 * 24 * 60 * 60));
//!     assert_eq!(passed.events(), [Moved::Blocked]);
//!     assert_eq!(kit.run(Withdraw { cents: 1 }).reply(), &Err(Refused::Blocked));
//! }
//!
//! fn stored_events_keep_their_bytes() {
//!     golden(&[
//!         (&[Moved::Deposited { cents: 500 }], "Deposited", 1, "f403"),
//!         (&[Moved::Withdrawn { cents: 500 }], "Withdrawn", 1, "f403"),
//!         (&[Moved::Blocked], "Blocked", 1, ""),
//!     ]);
//! }
//! # a_limit_is_kept();
//! # a_retry_takes_effect_once();
//! # it_blocks_after_thirty_days();
//! # stored_events_keep_their_bytes();
//! ```
//!
//! # Faults
//! [`fail_next`](EntityTestKit::fail_next) makes the next writes or reads fail: [`Fail`] lists how.
//! The errors are those of production, and so is what the entity makes of them.
//!
//! # Stashed commands, other entities, durable state
//! A command that the entity stashes has no answer when `run` returns:
//! [`is_waiting`](Ran::is_waiting). Keep what `run` gave you; once a later step unstashes the
//! command, [`reply`](Ran::reply) has it.
//!
//! Entities with [durable state](duractor::DurableState) are tested alike; begin with a state by
//! [`given_snapshot`](EntityTestKitBuilder::given_snapshot).
//!
//! Commands that the entity [sends](duractor::Effect::send) go to real entities, whose kinds
//! [`with`](EntityTestKitBuilder::with) adds: look at [`events_of`](EntityTestKit::events_of) and
//! [`state_of`](EntityTestKit::state_of) them. Side effects ([`then`](duractor::Effect::then)) run
//! too, so give the entity something harmless to call.
//!
//! # Deliveries and reminders
//! What an effect [delivers](duractor::Effect::deliver) is among what [`Happened`]:
//! [`deliveries`](Happened::deliveries), and [`reminders`](Happened::reminders) that it set. They are
//! carried out, too: a delivery to a kind that [`with`](EntityTestKitBuilder::with) adds changes that
//! entity, and [`advance`](EntityTestKit::advance) brings reminders.
//!
//! ```
//! # use duractor::{Command, Context, Effect, Event, EventSourced, Handle, Persist};
//! # use duractor_testkit::EntityTestKit;
//! # use std::time::Duration;
//! # #[derive(Event, Debug, PartialEq)]
//! # enum Changed { Opened, Closed, Counted }
//! # #[derive(Command)]
//! # #[command(reply = ())]
//! # struct Open;
//! # #[derive(Command, Debug, PartialEq)]
//! # #[command(reply = ())]
//! # struct Close;
//! # #[derive(Command, Debug, PartialEq)]
//! # #[command(reply = ())]
//! # struct Count { by: u32 }
//! # struct Shop;
//! # struct Tally;
//! # impl EventSourced for Shop {
//! #     const KIND: &'static str = "shop";
//! #     type State = bool;
//! #     type Event = Changed;
//! #     type Commands = (Open, Close);
//! #     fn apply(open: &mut bool, event: &Changed) { *open = *event == Changed::Opened; }
//! # }
//! # impl EventSourced for Tally {
//! #     const KIND: &'static str = "tally";
//! #     type State = u32;
//! #     type Event = Changed;
//! #     type Commands = (Count,);
//! #     fn apply(count: &mut u32, _: &Changed) { *count += 1; }
//! # }
//! # impl Handle<Close> for Shop {
//! #     fn handle(&self, _: &bool, _: Close, _: &Context) -> Effect<Self, ()> {
//! #         Self::persist(Changed::Closed).no_reply()
//! #     }
//! # }
//! # impl Handle<Count> for Tally {
//! #     fn handle(&self, _: &u32, _: Count, _: &Context) -> Effect<Self, ()> {
//! #         Self::persist(Changed::Counted).no_reply()
//! #     }
//! # }
//! impl Handle<Open> for Shop {
//!     fn handle(&self, _: &bool, _: Open, _: &Context) -> Effect<Self, ()> {
//!         Self::persist(Changed::Opened)
//!             .deliver::<Tally, Count>("all", Count { by: 1 })
//!             .remind_after("close", Duration::from_secs(8 * 60 * 60), Close)
//!             .no_reply()
//!     }
//! }
//!
//! let mut kit = EntityTestKit::builder(Shop).with(Tally).start();
//! let opened = kit.run(Open);
//! assert_eq!(opened.deliveries::<Tally, Count>(), [("all".to_owned(), Count { by: 1 })]);
//! assert_eq!(opened.reminders::<Close>().len(), 1);
//! kit.crash();
//! assert_eq!(kit.state_of::<Tally>("all"), 1);
//! let passed = kit.advance(Duration::from_secs(8 * 60 * 60));
//! assert_eq!(passed.events(), [Changed::Closed]);
//! ```
//!
//! # Time
//! A step takes 1 ms of the test's time, [`advance`](EntityTestKit::advance) what it is told, and no
//! step real time. A step during which the entity has to wait, as for a restart after a failure,
//! takes that long.
//!
//! # How it is made
//! Each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `tree` | any value as a tree: to compare two, and to say where they differ |
//! | `stores` | journal and snapshots in memory, with the faults to come |
//! | `observe` | looks at the state of an entity that runs, or that was just recovered |
//! | `checks` | what must hold for every entity, and what to say where it does not |
//! | `ran` | what happened in a step |
//! | `bench` | the node under test, one step after the other |
//! | `builder` | how a test begins |
//! | `kit` | the calls of a test |

mod bench;
mod builder;
mod checks;
mod kit;
mod observe;
mod ran;
mod stores;
mod tree;

pub use builder::EntityTestKitBuilder;
pub use checks::Check;
pub use kit::EntityTestKit;
pub use ran::{Happened, Ran};
pub use stores::Fail;
