//! Tasks that run at times that a cron expression names, each time on one node of the cluster.
//!
//! A scheduled task is a singleton with a record: an entity, in the singleton's own shard, that keeps
//! which occurrence was begun last and which was the last to be settled. What is decided from the record
//! and the clock is decided in one pure function.
//!
//! | module | what it holds |
//! |---|---|
//! | `calendar` | [`Schedule`]; when occurrences are, and which one is next |
//! | `record` | the entity |
//! | `keeper` | [`Occurrence`]; the singleton that runs them |

mod calendar;
mod keeper;
mod record;

pub use calendar::Schedule;
pub use keeper::Occurrence;

pub(crate) use keeper::plan;
pub(crate) use record::Schedules;
