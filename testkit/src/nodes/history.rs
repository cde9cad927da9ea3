//! What clients saw, and whether it keeps the invariants **A** and **L**.

use super::account::digest;

/// A moment of a run: calls are numbered as they begin and end.
pub(crate) type Moment = u64;

/// An operation on an account.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) account: usize,
    pub(crate) begun: Moment,
    /// When it was acknowledged, and as the how-many-th of its account.
    pub(crate) acked: Option<(Moment, u64)>,
    /// Some try of it may have taken effect.
    pub(crate) unknown: bool,
}

/// A look at an account.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) account: usize,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
    pub(crate) count: u64,
    pub(crate) digest: u64,
}

/// All calls of a run.
#[derive(Debug, Default)]
pub(crate) struct History {
    now: Moment,
    pub(crate) ops: Vec<Op>,
    pub(crate) seen: Vec<Seen>,
}

impl History {
    pub(crate) fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A new operation; its number.
    pub(crate) fn begin(&mut self, account: usize) -> u64 {
        let begun = self.tick();
        self.ops.push(Op { account, begun, acked: None, unknown: false });
        self.ops.len() as u64 - 1
    }

    pub(crate) fn acked(&mut self, op: u64, count: u64) {
        let now = self.tick();
        self.ops[op as usize].acked.get_or_insert((now, count));
    }

    /// Compares what an account holds in the end with what its clients saw. Returns how many calls
    /// were compared.
    ///
    /// # Errors
    /// What was violated.
    pub(crate) fn check(&self, account: usize, found: &[u64]) -> Result<u64, String> {
        let at = self.places(account, found)?;
        let mut calls = Vec::new();
        for (number, op) in self.of(account) {
            let place = at.get(&number).copied();
            match (op.acked, place) {
                (Some((_, count)), Some(place)) if count != place => {
                    return Err(format!(
                        "A: operation {number} was acknowledged as {count} of account {account}, \
                         and is {place}"
                    ));
                }
                (Some((_, count)), None) => {
                    return Err(format!(
                        "A: operation {number}, acknowledged as {count} of account {account}, is \
                         lost"
                    ));
                }
                (None, Some(place)) if !op.unknown => {
                    return Err(format!(
                        "A: operation {number} was refused, and is {place} of account {account}"
                    ));
                }
                _ => {}
            }
            if let Some(place) = place {
                let ended = op.acked.map_or(Moment::MAX, |(ended, _)| ended);
                calls.push((op.begun, ended, place - 1, place));
            }
        }
        for seen in self.seen.iter().filter(|seen| seen.account == account) {
            let Some(part) = found.get(..seen.count as usize) else {
                return Err(format!("A: account {account} held {} operations once", seen.count));
            };
            if digest(part) != seen.digest {
                let count = seen.count;
                return Err(format!("A: the first {count} of account {account} were others once"));
            }
            calls.push((seen.begun, seen.ended, seen.count, seen.count));
        }
        in_order(account, calls)
    }

    fn of(&self, account: usize) -> impl Iterator<Item = (u64, &Op)> {
        let all = self.ops.iter().enumerate().map(|(number, op)| (number as u64, op));
        all.filter(move |(_, op)| op.account == account)
    }

    /// Which place each operation has, from 1.
    fn places(
        &self,
        account: usize,
        found: &[u64],
    ) -> Result<std::collections::BTreeMap<u64, u64>, String> {
        let mut places = std::collections::BTreeMap::new();
        for (place, op) in (1..).zip(found) {
            let known = self.ops.get(*op as usize);
            if known.is_none_or(|known| known.account != account) {
                return Err(format!("A: nobody sent operation {op} to account {account}"));
            }
            if let Some(before) = places.insert(*op, place) {
                return Err(format!(
                    "L: operation {op} of account {account} took effect twice, as {before} and \
                     {place}"
                ));
            }
        }
        Ok(places)
    }
}

/// Whether calls can have happened in the order of their places: one that began after another had
/// ended saw all that the other saw or did. Each is `(begun, ended, saw at least, left)`.
fn in_order(account: usize, mut calls: Vec<(Moment, Moment, u64, u64)>) -> Result<u64, String> {
    let compared = calls.len() as u64;
    let mut ended: Vec<(Moment, u64)> =
        calls.iter().map(|(_, ended, _, left)| (*ended, *left)).collect();
    ended.sort_unstable();
    calls.sort_unstable();
    let (mut most, mut next) = (0, ended.into_iter().peekable());
    for (begun, _, saw, _) in calls {
        while let Some((_, left)) = next.next_if(|(ended, _)| *ended < begun) {
            most = most.max(left);
        }
        if saw < most {
            return Err(format!(
                "L: a call on account {account} that began at {begun} came after {saw} operations, \
                 when one that saw {most} had ended"
            ));
        }
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(ops: &[Option<u64>]) -> History {
        let mut history = History::default();
        for acked in ops {
            let op = history.begin(0);
            match acked {
                Some(count) => history.acked(op, *count),
                None => history.ops[op as usize].unknown = true,
            }
        }
        history
    }

    #[test]
    fn what_fits_passes() {
        let mut all = history(&[Some(1), None, Some(2), None]);
        let begun = all.tick();
        let ended = all.tick();
        all.seen.push(Seen { account: 0, begun, ended, count: 2, digest: digest(&[0, 2]) });
        assert_eq!(all.check(0, &[0, 2, 3]), Ok(4));
    }

    #[test]
    fn each_violation_is_found() {
        let two = || history(&[Some(1), Some(2)]);
        for (found, begins) in [
            (&[0][..], "A: operation 1, acknowledged"),
            (&[1, 0], "A: operation 0 was acknowledged as 1"),
            (&[0, 1, 0], "L: operation 0 of account 0 took effect twice"),
            (&[0, 1, 7], "A: nobody sent"),
        ] {
            let error = two().check(0, found).expect_err("a violation");
            assert!(error.starts_with(begins), "{error}");
        }
        let mut refused = history(&[None]);
        refused.ops[0].unknown = false;
        assert!(refused.check(0, &[0]).expect_err("refused").contains("was refused"));
        let mut stale = two();
        let (begun, ended) = (stale.tick(), stale.tick());
        stale.seen.push(Seen { account: 0, begun, ended, count: 1, digest: digest(&[0]) });
        assert!(stale.check(0, &[0, 1]).expect_err("stale").starts_with("L: a call"));
        let mut other = two();
        other.seen.push(Seen { account: 0, begun: 0, ended: 9, count: 1, digest: digest(&[1]) });
        assert!(other.check(0, &[0, 1]).expect_err("other").starts_with("A: the first 1"));
    }
}
