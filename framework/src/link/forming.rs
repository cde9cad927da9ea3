//! From the first connection of a link to its announcement, and the signs of life from then on.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use duractor_journal::transport::Class;
use tokio::time::MissedTickBehavior;

use super::{
    config::{DataLane, LinkConfig},
    connection::Wire,
    core::Core,
    lane,
    peer::{Forming, Link},
    phi::THRESHOLD,
};

/// A lane's connection is there.
pub(crate) fn attach(core: &Core, link: &Arc<Link>, class: Class, wire: Wire) {
    {
        let mut forming = link.forming.lock().unwrap_or_else(PoisonError::into_inner);
        match class {
            Class::Data => forming.data = Some(wire),
            Class::Bulk => forming.bulk = Some(wire),
            Class::Control => return,
        }
    }
    announce_if_whole(core, link);
}

/// Announces a link when its last connection has come.
pub(crate) fn announce_if_whole(core: &Core, link: &Arc<Link>) {
    let (data, bulk) = {
        let mut forming = link.forming.lock().unwrap_or_else(PoisonError::into_inner);
        let own_data = link.data_lane == DataLane::Own;
        if !forming.session || forming.bulk.is_none() || (own_data && forming.data.is_none()) {
            return;
        }
        let Forming { data, bulk, .. } = std::mem::take(&mut *forming);
        (data, bulk)
    };
    if !core.hub.up(link) {
        return;
    }
    for (class, wire) in [(Class::Data, data), (Class::Bulk, bulk)] {
        if let Some(wire) = wire {
            lane::start(link, class, wire);
        }
    }
    watch_for_silence(&core.config, link);
    // It may have ended meanwhile, before these tasks were its own.
    if !link.is_up() {
        link.dismantle();
    }
}

/// Sends signs of life, and cuts the link off when none come.
fn watch_for_silence(config: &LinkConfig, link: &Arc<Link>) {
    let period = Duration::from_millis(config.heartbeat_ms);
    let (step_ms, limit_ms) = (config.heartbeat_ms, config.silence_ms);
    let watched = link.clone();
    let task = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Silence is counted in ticks: a process that was itself stopped for a while finds what came
        // meanwhile before it has counted far.
        loop {
            ticks.tick().await;
            watched.beat();
            if watched.pulse.count_silence(step_ms) >= limit_ms {
                return watched.close("nothing was heard for too long");
            }
            if watched.pulse.phi().is_some_and(|phi| phi >= THRESHOLD) {
                return watched.close("nothing was heard for longer than is likely");
            }
        }
    });
    link.own_task(task.abort_handle());
}
