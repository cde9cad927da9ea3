//! Entities: what must be there, and comparing it with what is.

use std::collections::BTreeMap;

use crate::{findings::Findings, lines::Line, place::ENTITIES};

/// A command that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Command {
    /// How many events it has.
    pub events: u64,
    /// How many events the entity had after it, if it was answered.
    pub reply: Option<u64>,
}

/// What is known of the folder: for each entity its commands by their values.
pub(crate) struct Commands {
    entities: Vec<BTreeMap<u64, Command>>,
}

impl Commands {
    pub(crate) fn new() -> Self {
        Self { entities: (0..ENTITIES).map(|_| BTreeMap::new()).collect() }
    }

    /// Takes note of what a worker printed.
    pub(crate) fn printed(&mut self, lines: &[Line], findings: &mut Findings) {
        for line in lines {
            match *line {
                Line::Asking { entity, value, events } => {
                    self.entities[entity].insert(value, Command { events, reply: None });
                }
                Line::Answered { entity, value, reply } => {
                    self.answered(entity, value, reply, findings);
                }
                _ => findings.other(|| format!("the worker printed {line:?}")),
            }
        }
    }

    /// A command got this reply, for the first time or again.
    pub(crate) fn answered(
        &mut self,
        entity: usize,
        value: u64,
        reply: u64,
        findings: &mut Findings,
    ) {
        let Some(command) = self.entities[entity].get_mut(&value) else {
            return findings.other(|| format!("{entity}: {value} was answered and not sent"));
        };
        match command.reply {
            None => findings.acked += command.events,
            Some(first) if first != reply => findings.other(|| {
                format!("{entity}: {value} was answered with {first}, and then with {reply}")
            }),
            Some(_) => {}
        }
        command.reply.get_or_insert(reply);
    }

    /// An entity's commands.
    pub(crate) fn of(&self, entity: usize) -> impl Iterator<Item = (u64, Command)> + '_ {
        self.entities[entity].iter().map(|(value, command)| (*value, *command))
    }

    /// Compares an entity with the values of its events, in order. All its commands have been
    /// answered by now.
    pub(crate) fn compare(&self, entity: usize, values: &[u64], findings: &mut Findings) {
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        for value in values {
            *found.entry(*value).or_default() += 1;
        }
        for (value, Command { events, reply }) in self.of(entity) {
            let there = found.remove(&value).unwrap_or(0);
            if there > events {
                findings.duplicated(|| format!("{entity}: {value} has {there} events of {events}"));
            }
            // The reply tells where the command's events end.
            let end = usize::try_from(reply.unwrap_or(0)).unwrap_or(0);
            let place = end.checked_sub(events as usize).and_then(|start| values.get(start..end));
            let lost = match place {
                Some(place) => place.iter().filter(|found| **found != value).count() as u64,
                None => events,
            };
            if reply.is_some() && lost > 0 {
                findings.lost(lost, || {
                    format!("{entity}: {lost} events of {value} are not where {reply:?} says")
                });
            }
        }
        for (value, events) in found {
            findings
                .other(|| format!("{entity}: {events} events of {value}, which was never sent"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: [Line; 2] = [
        Line::Asking { entity: 0, value: 7, events: 1 },
        Line::Asking { entity: 0, value: 8, events: 2 },
    ];
    const ANSWERED: [Line; 2] = [
        Line::Answered { entity: 0, value: 7, reply: 1 },
        Line::Answered { entity: 0, value: 8, reply: 3 },
    ];

    /// Acknowledged, lost, duplicated and other findings.
    fn findings(lines: &[Line], values: &[u64]) -> (u64, u64, u64, u64) {
        let (mut commands, mut findings) = (Commands::new(), Findings::default());
        commands.printed(lines, &mut findings);
        commands.compare(0, values, &mut findings);
        (findings.acked, findings.lost, findings.duplicated, findings.other)
    }

    #[test]
    fn each_command_has_its_events_once_in_their_place() {
        let lines = [SENT, ANSWERED].concat();
        assert_eq!(findings(&lines, &[7, 8, 8]), (3, 0, 0, 0));
        assert_eq!(findings(&lines, &[7]), (3, 2, 0, 0));
        assert_eq!(findings(&lines, &[8, 8, 7]), (3, 2, 0, 0));
        assert_eq!(findings(&lines, &[7, 8, 8, 7]), (3, 0, 1, 0));
        assert_eq!(findings(&lines, &[7, 8, 8, 9]), (3, 0, 0, 1));
    }

    #[test]
    fn a_repeat_has_the_same_reply() {
        let again = Line::Answered { entity: 0, value: 7, reply: 2 };
        let lines = [&SENT[..], &ANSWERED, &[again]].concat();
        assert_eq!(findings(&lines, &[7, 8, 8]), (3, 0, 0, 1));
    }
}
