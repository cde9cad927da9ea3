//! Many devices, each a durable entity, of which few are in memory at a time.
//!
//! A device reports readings. One that has not reported for a while is marked as silent by a durable
//! reminder, in memory or not, also where the node was restarted meanwhile. Which devices are in memory
//! is left to the framework: as many as [`active_limit`](duractor::EntitySettings::active_limit) says,
//! and those that are used again and again rather than those that are used once.
//!
//! ```sh
//! cargo run --release -p devices -- --entities 200000 --active 20000
//! ```
//!
//! creates them, kills the node with SIGKILL, starts it again, and says how long it took until a sample
//! of the devices was served, and how much memory a device takes that is active, and one that is not.
//! `--nodes 3` does the same with three replicas of everything, all in one process; `--json` is for
//! scripts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | the application: events, commands, the reminder, the settings |
//! | [`nodes`] | starts one node, or several as a cluster |
//! | [`stage`] | what is done and measured in a process of its own: an empty node, creating, serving again |
//! | [`measure`] | runs the stages one after the other, and what comes of them |

pub mod device;
pub mod measure;
pub mod nodes;
pub mod stage;
