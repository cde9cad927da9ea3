//! What a member is, beside its address: what it says of itself when it starts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Version};

/// The weight of a node that gives none.
pub const WEIGHT: u32 = 100;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
    /// What it is for.
    pub roles: BTreeSet<String>,
    /// What fails together; nodes that give none are in one zone together.
    pub zone: String,
    /// What fails together within a zone.
    pub rack: String,
    /// The version of its application, or nothing.
    pub version: String,
    /// How much it carries beside others.
    pub weight: u32,
}

impl Default for Properties {
    fn default() -> Self {
        let (roles, zone, rack, version) = Default::default();
        Self { roles, zone, rack, version, weight: WEIGHT }
    }
}

impl Properties {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let node = &config.node;
        Self {
            roles: node.roles.iter().map(|role| role.trim().to_owned()).collect(),
            zone: node.zone.clone(),
            rack: node.rack.clone(),
            version: node.version.clone(),
            weight: node.weight,
        }
    }

    /// The version, where it gives one. Those that give none count as the oldest.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version.parse().ok()
    }
}

/// What a member says of itself, again and again, to whoever leads the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it is.
    #[serde(default)]
    pub properties: Properties,
    /// Which events of the cluster's state its release understands.
    pub level: u16,
    /// It is about to stop, and hands its leaderships over.
    #[serde(default)]
    pub stopping: bool,
    /// The members that it reaches.
    #[serde(default)]
    pub reaches: Vec<duractor_journal::Member>,
    /// The revision of the cluster's state that it has.
    #[serde(default)]
    pub revision: u64,
    /// How long its log takes until a write is durable, in milliseconds; 0 from a release that does not
    /// say.
    #[serde(default)]
    pub log_delay_ms: u64,
    /// Whether it can be asked to look for another member.
    #[serde(default)]
    pub probes: bool,
}

#[cfg(test)]
impl About {
    /// Of a node that is well and reaches nobody.
    pub(super) fn of_tests() -> Self {
        Self::silent(Properties::default(), super::event::LEVEL)
    }
}

impl About {
    /// Of a node that has nothing to say yet but what it is.
    pub(super) fn silent(properties: Properties, level: u16) -> Self {
        let reaches = Vec::new();
        Self {
            properties,
            level,
            stopping: false,
            reaches,
            revision: 0,
            log_delay_ms: 0,
            probes: true,
        }
    }
}

/// Where a shard had better be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// On these nodes first; the first of them that can is to lead.
    Nodes(Vec<duractor_journal::NodeId>),
    /// On nodes of this role first.
    Role(String),
    /// On nodes of this zone first, instead of spread over zones.
    Zone(String),
}

/// Why leaderships are given away, or everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainMode {
    /// The node keeps its replicas and leads nothing: so that it can be stopped for a while.
    Leaderships,
    /// The node keeps nothing: so that it can be taken away.
    Decommission,
}
