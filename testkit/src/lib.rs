//! What Duractor and its users test with.
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`rng`] | random numbers that follow from a seed |
//! | [`disk`] | a simulated disk that loses, tears and spoils what real disks do |
//! | [`mod@env`] | all seams of one node, simulated; [`run_sim`] runs a test on them |
//! | [`consistency`] | crash-consistency of the log and the snapshot store over many seeds |
//! | [`bank`] | transfers between entities, and their checks |
//! | [`cluster`] | journal groups on several simulated nodes: network, troubles, checks |
//! | `machines` | simulated machines and the processes on them |
//! | [`nodes`] | clusters of whole simulated nodes: entities, singletons, changes of members |
//! | [`linear`] | a checker of linearizability |
//! | [`sim`] | simulated clusters for tests of an application |
//! | [`entity`] | the entity test kit, for plain `#[test]`s of an application's entities |
//! | [`process`] | clusters of real processes, for the binaries `crash` and `bench` |

#[doc(hidden)]
pub mod bank;
pub mod cluster;
pub mod consistency;
pub mod disk;
pub mod entity;
pub mod env;
pub mod linear;
mod machines;
pub mod nodes;
#[doc(hidden)]
pub mod process;
pub mod rng;
pub mod sim;

// What `sim_test` makes names this crate.
extern crate self as duractor_testkit;

pub use disk::{DiskFaults, Fault, Keep, Op, Rule, SimDisk};
pub use entity::EntityTestKit;
pub use env::{SimEnv, run_sim};
pub use rng::Rng;

// The pages' examples compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/testing.md")]
struct TestingPage;

#[cfg(doctest)]
#[doc = include_str!("../../docs/getting-started.md")]
struct GettingStartedPage;
