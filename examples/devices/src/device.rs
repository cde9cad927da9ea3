//! What a device is: its events, its commands, and the reminder that marks it as silent.

use std::time::Duration;

use duractor::{Eviction, prelude::*};
use serde::{Deserialize, Serialize};

/// The name of the reminder. A device has one of them: setting it anew replaces it.
const SILENT: &str = "silent";
/// A snapshot every so many events. A report is two: the reading, and the framework's own of the
/// reminder.
const SNAPSHOT_EVERY: u64 = 20;

/// What can happen to a device. Stored, so every later release must still read it.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub enum DeviceEvent {
    /// It sent a reading.
    #[event(name = "reported")]
    Reported {
        /// In thousandths of its unit.
        milli: i64,
    },
    /// It has not reported for too long.
    #[event(name = "went-silent")]
    WentSilent,
}

use DeviceEvent::{Reported, WentSilent};

/// A device as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The last reading, in thousandths of its unit.
    pub last: Option<i64>,
    /// How many readings there were.
    pub count: u64,
    /// Whether it has not reported for too long.
    pub silent: bool,
}

/// A reading. The answer says how many there are now.
#[derive(Debug, Clone, Command)]
#[command(reply = u64)]
pub struct Report {
    /// In thousandths of the device's unit.
    pub milli: i64,
}

/// Asks for the device as it is.
#[derive(Debug, Clone, Command)]
#[command(reply = Device)]
pub struct Look;

/// What the reminder brings: the time is over.
#[derive(Debug, Clone, Command)]
#[command(reply = ())]
pub struct Overdue;

/// The kind of entity, and what all devices share.
#[derive(Debug, Clone)]
pub struct Devices {
    /// A device that has not reported for so long is silent.
    pub silent_after: Duration,
    /// How many devices stay in memory on one node.
    pub active: usize,
}

impl EventSourced for Devices {
    const KIND: &'static str = "device";
    type State = Device;
    type Event = DeviceEvent;
    type Commands = (Report, Look, Overdue);

    fn apply(device: &mut Device, event: &DeviceEvent) {
        match event {
            Reported { milli } => {
                device.last = Some(*milli);
                device.count += 1;
                device.silent = false;
            }
            WentSilent => device.silent = true,
        }
    }

    /// Few of many are in memory. Those that report often stay, although all others come by once; a
    /// device that did nothing for ten minutes leaves in any case.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default()
            .snapshot_every(SNAPSHOT_EVERY)
            .active_limit(self.active)
            .eviction(Eviction::LeastFrequentlyUsed)
            .idle_timeout(Duration::from_secs(600))
    }
}

impl Handle<Report> for Devices {
    /// The reading and its reminder are written together, and the reminder of the reading before is
    /// replaced.
    fn handle(&self, _: &Device, Report { milli }: Report, _: &Context) -> Effect<Self, u64> {
        Self::persist(Reported { milli })
            .remind_after(SILENT, self.silent_after, Overdue)
            .reply(|device| device.count)
    }
}

impl Handle<Look> for Devices {
    fn handle(&self, device: &Device, _: Look, _: &Context) -> Effect<Self, Device> {
        Effect::reply(device.clone())
    }
}

impl Handle<Overdue> for Devices {
    /// It was brought into memory for this alone, if it was not there, and leaves again.
    fn handle(&self, _: &Device, _: Overdue, _: &Context) -> Effect<Self, ()> {
        Self::persist(WentSilent).passivate().no_reply()
    }
}
