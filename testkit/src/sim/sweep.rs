//! Whether what callers were told fits an entity's journal: the order in which the journal has the
//! events is the order in which the commands that wrote them took effect, so only those that wrote
//! nothing have to be placed. Each is placed as early as it may be; if that is too late for one, no
//! other order is better.

/// A command, as its caller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Of one clock with `ended`, no two instants equal.
    pub(super) began: u64,
    /// When its caller was answered, if it was.
    pub(super) ended: Option<u64>,
    /// What it wrote: from after so many events of the journal to so many. `None` where it wrote none.
    pub(super) written: Option<(usize, usize)>,
}

/// What does not fit, by the places of the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// `later` began when `earlier` had been answered, and is before it in the journal.
    Order { earlier: usize, later: usize },
    /// The answer was right in no state that the entity had meanwhile: from the first number of events
    /// to the second.
    Answer { command: usize, from: usize, to: usize },
}

/// Checks commands against a journal with so many events. `fits` says whether a command that wrote nothing
/// is answered so after this many events.
pub(super) fn sweep(
    commands: &[Told],
    events: usize,
    fits: impl Fn(usize, usize) -> bool,
) -> Result<(), Misfit> {
    let mut by_end: Vec<usize> =
        (0..commands.len()).filter(|n| commands[*n].ended.is_some()).collect();
    by_end.sort_by_key(|n| commands[*n].ended);
    // Where commands that were answered took effect, by when: never falling.
    let mut effects: Vec<(u64, usize, usize)> = Vec::new();
    for n in by_end {
        let Told { began, ended, written } = commands[n];
        let ended = ended.unwrap_or_default();
        let before = effects.partition_point(|(at, ..)| *at < began);
        let earliest = before.checked_sub(1).map(|n| (effects[n].1, effects[n].2));
        let (from, earlier) = earliest.unwrap_or((0, n));
        let place = match written {
            Some((begin, _)) if begin < from => return Err(Misfit::Order { earlier, later: n }),
            Some((_, end)) => end,
            None => {
                let to = latest(commands, ended, events);
                let place = (from..=to).find(|place| fits(n, *place));
                place.ok_or(Misfit::Answer { command: n, from, to })?
            }
        };
        let far = effects.last().is_none_or(|(_, last, _)| *last < place);
        let (place, command) = match effects.last() {
            Some((_, last, command)) if !far => (*last, *command),
            _ => (place, n),
        };
        effects.push((ended, place, command));
    }
    // Those that nobody heard of are only bound by what ended before they began.
    for (n, command) in commands.iter().enumerate() {
        let (None, Some((begin, _))) = (command.ended, command.written) else { continue };
        let before = effects.partition_point(|(at, ..)| *at < command.began);
        let earliest = before.checked_sub(1).map(|last| effects[last]);
        if let Some((_, _, earlier)) = earliest.filter(|(_, place, _)| begin < *place) {
            return Err(Misfit::Order { earlier, later: n });
        }
    }
    Ok(())
}

/// How many events there can have been at most when a command ended: none of a command that began later.
fn latest(commands: &[Told], ended: u64, events: usize) -> usize {
    let later = commands.iter().filter(|other| other.began > ended);
    later.filter_map(|other| other.written).map(|(begin, _)| begin).min().unwrap_or(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        linear::{Call, Outcome, check},
        rng::Rng,
    };

    fn wrote(began: u64, ended: u64, written: usize) -> Told {
        Told { began, ended: Some(ended), written: Some((written - 1, written)) }
    }

    fn read(began: u64, ended: u64) -> Told {
        Told { began, ended: Some(ended), written: None }
    }

    #[test]
    fn a_read_is_placed_between_what_ended_and_what_began_later() {
        let commands = [wrote(1, 2, 1), wrote(3, 8, 2), read(4, 5), wrote(9, 10, 3)];
        let at = |seen: usize| sweep(&commands, 3, |_, place| place == seen);
        assert_eq!(at(1), Ok(()));
        assert_eq!(at(2), Ok(()));
        let misfit = Misfit::Answer { command: 2, from: 1, to: 2 };
        assert_eq!(at(0), Err(misfit.clone()), "the first write had ended");
        assert_eq!(at(3), Err(misfit), "the third had not begun");
    }

    #[test]
    fn reads_do_not_go_back() {
        let commands = [wrote(1, 20, 1), read(2, 3), read(4, 5)];
        let seen = |places: [usize; 2]| sweep(&commands, 1, |n, place| places[n - 1] == place);
        assert_eq!(seen([0, 0]), Ok(()));
        assert_eq!(seen([0, 1]), Ok(()));
        assert_eq!(seen([1, 1]), Ok(()));
        assert_eq!(seen([1, 0]), Err(Misfit::Answer { command: 2, from: 1, to: 1 }));
    }

    #[test]
    fn writes_are_in_the_order_of_time() {
        let misfit = Err(Misfit::Order { earlier: 0, later: 1 });
        assert_eq!(sweep(&[wrote(1, 2, 2), wrote(3, 4, 1)], 2, |_, _| true), misfit);
        let unheard = Told { began: 3, ended: None, written: Some((0, 1)) };
        assert_eq!(sweep(&[wrote(1, 2, 2), unheard.clone()], 2, |_, _| true), misfit);
        assert_eq!(sweep(&[wrote(1, 4, 2), unheard], 2, |_, _| true), Ok(()));
    }

    /// A register whose writes are in the journal: the sweep and the search say the same of it.
    #[test]
    fn it_agrees_with_the_search() {
        let (mut good, mut bad) = (0, 0);
        for seed in 0..3_000 {
            let mut rng = Rng::new(seed);
            let (mut commands, mut seen, mut written) = (Vec::new(), Vec::new(), 0);
            for n in 0..7_u64 {
                let began = 10 * n + rng.below(40);
                let ended = began + 1 + rng.below(40);
                let (began, ended) = (2 * began * 16 + n, (2 * ended + 1) * 16 + n);
                let writes = rng.chance(0.5);
                written += usize::from(writes);
                commands.push(Told {
                    began,
                    ended: Some(ended),
                    written: writes.then(|| (written - 1, written)),
                });
                seen.push(rng.index(written + 1));
            }
            let swept = sweep(&commands, written, |n, place| seen[n] == place);
            let calls = commands.iter().zip(&seen).map(|(told, seen)| {
                let outcome = Outcome::Replied { at: told.ended.unwrap_or(0), reply: *seen };
                Call { key: (), op: told.written, began: told.began, outcome }
            });
            let calls: Vec<_> = calls.collect();
            type Op = Option<(usize, usize)>;
            let step = |_: &(), state: &usize, op: &Op, reply: Option<&usize>| match op {
                Some((begin, end)) => (begin == state).then_some(*end),
                None => reply.is_none_or(|seen| seen == state).then_some(*state),
            };
            let searched = check(&calls, |()| 0, step);
            assert_eq!(
                swept.is_ok(),
                searched.is_ok(),
                "seed {seed}: {swept:?} {commands:?} {seen:?}"
            );
            if swept.is_ok() { good += 1 } else { bad += 1 }
        }
        assert!(good > 300 && bad > 300, "{good} good, {bad} bad");
    }
}
