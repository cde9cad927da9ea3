//! Tests of an application on a simulated cluster: whole nodes, in one process, from one seed, while
//! machines crash, networks part and disks stall.
//!
//! ```
//! use duractor::{Command, Context, Effect, Event, EventSourced, Handle, NodeBuilder, Persist};
//! use duractor_testkit::sim::{Nemesis, World, sim_test};
//! use std::time::Duration;
//! # #[derive(Event)] enum Moved { Deposited { cents: u64 } }
//! # #[derive(Command)] #[command(reply = u64)] struct Deposit { cents: u64 }
//! # struct Account;
//! # impl EventSourced for Account {
//! #     const KIND: &'static str = "account";
//! #     type State = u64;
//! #     type Event = Moved;
//! #     type Commands = (Deposit,);
//! #     fn apply(state: &mut u64, event: &Moved) { let Moved::Deposited { cents } = event; *state += cents; }
//! # }
//! # impl Handle<Deposit> for Account {
//! #     fn handle(&self, _: &u64, deposit: Deposit, _: &Context) -> Effect<Self, u64> {
//! #         Self::persist(Moved::Deposited { cents: deposit.cents }).reply(|cents| *cents)
//! #     }
//! # }
//!
//! fn app(node: NodeBuilder, _: &World) -> NodeBuilder {
//!     node.register(Account)
//! }
//!
//! #[sim_test(app, nodes = 3, seeds = 5)]
//! async fn no_deposit_is_lost(world: World) {
//!     world.clients(3, |world, client| async move {
//!         let key = if client == 0 { "alice" } else { "bob" };
//!         // Its outcome is checked in the end, whatever it is.
//!         let _ = world.ask::<Account, _>(key, Deposit { cents: 5 }).await;
//!     });
//!     world.nemesis(Nemesis::default());
//!     world.partition(&[1], &[2, 3]);
//!     world.advance(Duration::from_secs(2)).await;
//!     world.heal();
//!     world.crash(2);
//!     world.advance(Duration::from_secs(1)).await;
//! }
//! # fn main() { no_deposit_is_lost() }
//! ```
//!
//! # What is simulated
//! Everything is what the application runs in production, but for the seams: the network, the disks, the
//! clocks and the entropy of each node are simulated, and follow from the seed. Time is virtual. So a run of a
//! seed is the same each time, on any machine, and takes some hundredths of a second. What reaches around the
//! seams does not follow from the seed: the system's clock, random numbers of its own, threads, sockets and
//! files. A handler has its time from [`Context::now`](duractor::Context::now); another system is an
//! [`Endpoint`].
//!
//! # What is checked
//! The script does what a test wants to see, and may assert what it likes. When it returns, clients end,
//! everything heals, in half of the seeds every node loses power once more, and then each [`Check`] is made,
//! and each [`invariant`](Sim::invariant) of the test.
//!
//! # When a seed fails
//! The text has the violation, with the journal of the entity that shows it; the fewest faults of the
//! [`Nemesis`] that still cause it, found by leaving others out; the end of the trace; and the line that
//! replays it: `SIM_SEED=17 cargo test no_deposit_is_lost`.
//!
//! # How it is made
//! Each module uses only those above it, but for `world`, which has the doors to `ask` and `nemesis`:
//!
//! | module | what it holds |
//! |---|---|
//! | `notes` | what is written down of a run; marks of coverage |
//! | `sweep` | whether commands fit a journal |
//! | `subject` | what was asked of an entity, and its journal |
//! | `world`, `ask` | a run: its nodes, and what a test does to them; asking entities |
//! | `nemesis`, `outside` | faults at random; other systems |
//! | `settle` | the end of a run |
//! | `run`, `seeds` | one run; many, and what is said of one that fails |
//! | `builder` | what a test is about |

mod ask;
mod builder;
mod nemesis;
mod notes;
mod outside;
mod run;
mod seeds;
mod settle;
mod subject;
mod sweep;
mod world;

pub use duractor_testkit_derive::sim_test;

pub use self::{
    ask::SimEntity,
    builder::{Check, Passes, Sim},
    nemesis::{Fault, Nemesis, Struck},
    notes::mark,
    outside::{CallFailed, Endpoint, Unreliable},
    run::Outcome,
    world::World,
};

/// A test's name for `cargo test`, from its path: without the crate's.
#[doc(hidden)]
#[must_use]
pub fn test_name(path: &str) -> &str {
    path.split_once("::").map_or(path, |(_, rest)| rest)
}
