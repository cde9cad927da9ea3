//! `orders demo`: runs the service as a child process, sends it orders, kills it with SIGKILL
//! meanwhile, and checks every acknowledged order over HTTP.
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | what happens to each order, and which events that must leave |
//! | [`check`] | what of that was found: lost, doubled or different |
//! | `client` | HTTP with retries: the same request, with the same idempotency key, until it is answered |
//! | `server` | the child process: started, killed, started again |
//! | `load` | the clients, the kills among them, and the check at the end |
//! | `nodes` | the same with several servers that are one cluster |
//! | `buyers` | those who buy orders of the cluster meanwhile |
//! | `rolling` | a restart of each node in turn, which no client notices |
//! | [`receiver`] | the outside world that the mailer tells |
//! | [`audit`] | whether money, pieces, notices and invoices add up |

pub mod audit;
mod buyers;
pub mod check;
mod client;
mod load;
mod nodes;
pub mod plan;
pub mod receiver;
mod rolling;
mod server;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};

use self::load::Outcome;
use crate::serve::stop;

/// How much the demo does.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// How many orders, each of about five requests.
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    orders: u32,
    /// How many clients send requests at once.
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// How many times the server is killed while it works.
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=100))]
    kills: u32,
    /// How many servers there are: one, or a cluster of three or more, of which the leader is
    /// killed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Instead of killing nodes, stop each in turn with SIGTERM and start it again as a newer version,
    /// while clients send requests: none of them may fail. Clients go on until all nodes are through,
    /// whatever --orders says. For three nodes or more.
    #[arg(long, conflicts_with_all = ["kills", "plant"])]
    rolling: bool,
    /// Fakes a fault, to show that the check finds it.
    #[arg(long, value_name = "FAULT", hide = true)]
    plant: Option<Plant>,
}

/// A fault that the check must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// Expects an order that was never placed.
    Lost,
    /// Sends one request twice, with two idempotency keys.
    Doubled,
}

/// Runs the demo and says how it went. The exit code is a failure where anything is lost, doubled or
/// different.
///
/// # Errors
/// The server does not start or does not answer any more, or the demo was interrupted.
pub async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let fate = if options.rolling { "Each server is restarted" } else { "The server is killed" };
    println!("Orders over HTTP, each a durable entity. {fate} while it works.\n");
    let work = async {
        match options.nodes {
            1 | 2 if options.rolling => Err("a rolling restart needs --nodes 3 or more".to_owned()),
            1 => load::run(options).await,
            2 => Err("two nodes are less than one: both are needed for a quorum".to_owned()),
            _ => nodes::run(options).await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = work => outcome?,
        // What `load` has is dropped with it: the child process and the folder.
        () = stop() => return Err("interrupted; the server is stopped and its folder removed".into()),
    };
    report(&outcome, options);
    Ok(if outcome.found.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(outcome: &Outcome, options: &Options) {
    let Outcome { sent, acknowledged, took, back, found } = outcome;
    let rate = *acknowledged as f64 / took.as_secs_f64();
    let row = |what: &str, text: String| println!("  {what:<24} {text}");
    println!();
    row("requests sent", format!("{sent}, by {} clients at once", options.clients));
    let what = if options.rolling { "restarts and rests" } else { "kills" };
    row("acknowledged", format!("{acknowledged}, at {rate:.0} a second ({what} included)"));
    if !back.is_empty() {
        row("server back after a kill", format!("{} ms", list(back)));
    }
    row("orders checked", format!("{}, with {} events", found.orders, found.events));
    row("lost", found.lost.to_string());
    row("doubled", found.doubled.to_string());
    if found.different > 0 {
        row("otherwise different", found.different.to_string());
    }
    println!();
    for example in &found.examples {
        println!("  {example}");
    }
    if found.is_clean() {
        println!("Everything that was acknowledged is there, once.");
    } else {
        println!("FAILED: what was acknowledged is not what is there.");
    }
}

fn list(times: &[Duration]) -> String {
    let times: Vec<_> = times.iter().map(|time| time.as_millis().to_string()).collect();
    times.join(", ")
}
