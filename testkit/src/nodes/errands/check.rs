//! What they wrote, and whether it may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use duractor::Timestamp;

use super::entities::{Noted, Took};

/// Reminders that are due within this time are waited for.
const SOON: Duration = Duration::from_secs(15);

/// What all of them wrote.
#[derive(Default)]
pub(super) struct All {
    /// By operation: the sender, the receiver, and whether the outcome comes back.
    sent: BTreeMap<u64, (usize, u32, bool)>,
    told: BTreeSet<u64>,
    took: BTreeMap<u64, u32>,
    set: BTreeMap<u64, (usize, Timestamp)>,
    rung: BTreeMap<u64, Timestamp>,
    /// By sender and receiver: operations in the order of their sending.
    order: BTreeMap<(usize, u32), Vec<u64>>,
    arrived: BTreeMap<u32, Vec<u64>>,
}

impl All {
    pub(super) fn add_sender(&mut self, sender: usize, events: Vec<Noted>) -> Result<(), String> {
        for event in events {
            match event {
                Noted::Sent { op, to, tells } => {
                    self.sent.insert(op, (sender, to, tells));
                    self.order.entry((sender, to)).or_default().push(op);
                }
                Noted::Told { op } if !self.told.insert(op) => {
                    return Err(format!("L: sender {sender} was told twice of delivery {op}"));
                }
                Noted::Told { .. } => {}
                Noted::Set { op, due } => {
                    self.set.insert(op, (sender, due));
                }
                Noted::Rung { op, at } => {
                    if self.rung.insert(op, at).is_some() {
                        return Err(format!("L: reminder {op} of sender {sender} came twice"));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_receiver(
        &mut self,
        receiver: usize,
        events: Vec<Took>,
    ) -> Result<(), String> {
        for Took { op } in events {
            if self.took.insert(op, receiver as u32).is_some() {
                return Err(format!("L: delivery {op} took effect twice"));
            }
            self.arrived.entry(receiver as u32).or_default().push(op);
        }
        Ok(())
    }

    pub(super) fn check(&self, acked: &BTreeMap<u64, usize>) -> Result<(), String> {
        for (op, sender) in acked {
            if !self.sent.contains_key(op) && !self.set.contains_key(op) {
                return Err(format!("A: operation {op} of sender {sender} is lost"));
            }
        }
        for (op, receiver) in &self.took {
            if self.sent.get(op).is_none_or(|(_, to, _)| to != receiver) {
                return Err(format!("A: nobody sent delivery {op} to receiver {receiver}"));
            }
        }
        for (op, at) in &self.rung {
            match self.set.get(op) {
                None => return Err(format!("A: nobody set reminder {op}")),
                Some((_, due)) if at < due => {
                    return Err(format!(
                        "A: reminder {op} came at {}, and was due at {}",
                        at.0, due.0
                    ));
                }
                Some(_) => {}
            }
        }
        for ((sender, to), sent) in &self.order {
            let of = |op: &&u64| self.sent.get(op).is_some_and(|(from, _, _)| from == sender);
            let arrived: Vec<u64> =
                self.arrived.get(to).into_iter().flatten().filter(of).copied().collect();
            if !sent.starts_with(&arrived) {
                return Err(format!(
                    "A: receiver {to} took {arrived:?} of sender {sender}, which sent {sent:?}"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn open(&self, now: Timestamp) -> Option<String> {
        let untaken = self.sent.keys().find(|op| !self.took.contains_key(op));
        if let Some(op) = untaken {
            return Some(format!("V: delivery {op} does not come"));
        }
        let mut wants = self.sent.iter().filter(|(_, (_, _, tells))| *tells);
        if let Some((op, _)) = wants.find(|(op, _)| !self.told.contains(op)) {
            return Some(format!("V: the outcome of delivery {op} does not come back"));
        }
        // Its clock may have been ahead when it was set: what is far off is not waited for.
        let soon = Timestamp(now.0 + SOON.as_millis() as u64);
        let mut due = self.set.iter().filter(|(_, (_, due))| *due < soon);
        let (op, _) = due.find(|(op, _)| !self.rung.contains_key(op))?;
        Some(format!("V: reminder {op} does not come"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sender: Vec<Noted>, receiver: &[u64]) -> Result<All, String> {
        let mut all = All::default();
        all.add_sender(0, sender)?;
        all.add_receiver(1, receiver.iter().map(|op| Took { op: *op }).collect())?;
        all.check(&BTreeMap::from([(1, 0)]))?;
        Ok(all)
    }

    fn sent(op: u64) -> Noted {
        Noted::Sent { op, to: 1, tells: true }
    }

    #[test]
    fn each_violation_is_found() {
        let set = Noted::Set { op: 9, due: Timestamp(50) };
        let rung = |at| Noted::Rung { op: 9, at: Timestamp(at) };
        for (sender, receiver, begins) in [
            (vec![], &[][..], "A: operation 1 of sender 0 is lost"),
            (vec![sent(1)], &[1, 1], "L: delivery 1 took effect twice"),
            (vec![sent(1)], &[1, 2], "A: nobody sent delivery 2"),
            (vec![sent(1), sent(2)], &[2, 1], "A: receiver 1 took"),
            (vec![sent(1), set.clone(), rung(49)], &[], "A: reminder 9 came at"),
            (vec![sent(1), set.clone(), rung(50), rung(51)], &[], "L: reminder 9"),
            (vec![sent(1), Noted::Told { op: 1 }, Noted::Told { op: 1 }], &[1], "L: sender 0"),
        ] {
            let error = all(sender, receiver).map(drop).expect_err(begins);
            assert!(error.starts_with(begins), "{error}");
        }
        let open = |sender, receiver: &[u64]| {
            all(sender, receiver).expect("fits").open(Timestamp(40)).unwrap_or_default()
        };
        assert!(open(vec![sent(1)], &[]).contains("delivery 1 does not come"));
        assert!(open(vec![sent(1)], &[1]).contains("outcome of delivery 1"));
        let done = vec![sent(1), Noted::Told { op: 1 }, set];
        assert!(open(done.clone(), &[1]).contains("reminder 9 does not come"));
        assert_eq!(open([done, vec![rung(50)]].concat(), &[1]), "");
    }
}
