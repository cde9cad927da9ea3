//! Deadlocks: sessions that wait for each other in a circle.
//!
//! A session that waits for a lock for some time follows the circle by itself: from the lock to its
//! holder, which says at every renewal what it waits for, from there to that lock's holder, and so on. If
//! it comes back to itself, all that it saw was not seen at one instant, and may be no deadlock. So it
//! looks again, until it sees the same tickets hold and wait by words that were said after the first look
//! was over: a ticket that waits at two instants waits in between, so all of them waited for each other at
//! the end of the first look, and that does not end by itself. Then the one that began to wait last gives
//! up.
//!
//! Only locks are followed, and only sessions that say what they wait for: of several tasks in one
//! session, one may wait while another goes on and releases.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    ids::{SessionId, Ticket},
    permits::{Blocked, Blocker, Flavor, Locks, Permits, Waits},
    session::Inner,
};

/// So long a lock is waited for before anything is suspected.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest circle that is found.
const MAX_LENGTH: usize = 16;
const ANSWER: Duration = Duration::from_secs(1);

/// A holder on the way, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// The lock that is held.
    lock: String,
    holder: Ticket,
    label: String,
    /// What the holder waits for: which lock, by which ticket, since when.
    wait: Option<(String, u64, u64)>,
}

/// A circle, and whether all that it rests on was said after a certain instant.
struct Circle {
    steps: Vec<Step>,
    fresh: bool,
}

/// Ends when the session, which waits for this lock by this ticket, is in a deadlock and is to give up;
/// with who holds what.
pub(super) async fn found(
    session: &Inner,
    lock: &str,
    ticket: Ticket,
    since_ms: u64,
) -> Vec<String> {
    sleep(PATIENCE).await;
    let mut first: Option<(Vec<Step>, Instant)> = None;
    loop {
        let seen = first.as_ref().map(|(_, end)| *end);
        let circle = look(session, lock, ticket, seen).await;
        match (circle, &first) {
            (None, _) => first = None,
            (Some(circle), Some((steps, _))) if circle.steps == *steps => {
                if circle.fresh && is_youngest(steps, (since_ms, session.id, ticket.number)) {
                    return steps.iter().map(text).collect();
                }
            }
            (Some(circle), _) => first = Some((circle.steps, Instant::now())),
        }
        sleep(session.ttl / 3).await;
    }
}

fn text(step: &Step) -> String {
    let Step { lock, holder, label, .. } = step;
    let name = if label.is_empty() { holder.session.to_string() } else { label.clone() };
    format!("{name} holds {lock:?}")
}

/// Whether this one began to wait last of all in a circle, of which it is the last holder.
fn is_youngest(steps: &[Step], me: (u64, SessionId, u64)) -> bool {
    let waits = steps.iter().filter_map(|step| {
        let (_, ticket, since_ms) = step.wait.as_ref()?;
        Some((*since_ms, step.holder.session, *ticket))
    });
    waits.into_iter().all(|other| other <= me)
}

/// Follows holders from a lock that is waited for by `mine`, as long as they wait for others, until it
/// comes back to the session.
async fn look(session: &Inner, lock: &str, mine: Ticket, seen: Option<Instant>) -> Option<Circle> {
    let mut way = Circle { steps: Vec::new(), fresh: seen.is_some() };
    let mut known = BTreeSet::new();
    let mut lock = lock.to_owned();
    while way.steps.len() < MAX_LENGTH {
        let asked = Instant::now();
        let entity = session.entity::<Permits<Locks>>(&lock).ok()?;
        let blocker = entity.ask(Blocked {}).timeout(ANSWER).await.ok()?.pop()?;
        let Blocker { ticket, label, waits, age_ms } = blocker;
        let mut step = Step { lock, holder: ticket, label, wait: None };
        if ticket.session == session.id {
            if !closes(ticket, mine, session.wants(entity.id(), ticket)) {
                return None;
            }
            way.steps.push(step);
            return Some(way);
        }
        // It goes round without the session: others will find that.
        if !known.insert(ticket.session) {
            return None;
        }
        let (_, next, number, since_ms) = waits.into_iter().find(is_lock)?;
        let since = seen.and_then(|seen| asked.checked_duration_since(seen));
        way.fresh &= since.is_some_and(|since| Duration::from_millis(age_ms) < since);
        step.wait = Some((next.clone(), number, since_ms));
        way.steps.push(step);
        lock = next;
    }
    None
}

/// Whether the session, which waits by `mine`, waits for itself where it is the holder.
fn closes(holder: Ticket, mine: Ticket, wanted: bool) -> bool {
    // What it waits for it may hold already: the answer is on its way, or was lost. And what it does not want
    // any more is on its way back, or ends with its lease.
    holder != mine && wanted
}

fn is_lock((kind, ..): &Waits) -> bool {
    kind == Locks::KIND
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: a lock's answer was lost, or it was held by a ticket that had been given up. Consequence: the
    /// session, which asked again, found itself as the holder, and took that for a deadlock. Found by the
    /// simulation of whole nodes.
    #[test]
    fn a_session_waits_for_itself_only_by_what_it_holds_and_wants() {
        let ticket = |number| Ticket { session: SessionId(5), era: 0, number };
        assert!(closes(ticket(1), ticket(2), true));
        assert!(!closes(ticket(2), ticket(2), true), "its own answer is on its way");
        assert!(!closes(ticket(1), ticket(2), false), "given up");
    }

    #[test]
    fn the_one_that_began_to_wait_last_gives_up() {
        let step = |session, since_ms| Step {
            lock: "a".into(),
            holder: Ticket { session: SessionId(session), era: 0, number: 1 },
            label: String::new(),
            wait: Some(("b".into(), 2, since_ms)),
        };
        let me = SessionId(5);
        assert!(is_youngest(&[], (1, me, 2)), "it waits for itself");
        assert!(is_youngest(&[step(7, 10), step(8, 11)], (12, me, 2)));
        assert!(!is_youngest(&[step(7, 10), step(8, 13)], (12, me, 2)));
        // One of two that began at once.
        assert!(
            is_youngest(&[step(4, 12)], (12, me, 2)) != is_youngest(&[step(6, 12)], (12, me, 2))
        );
    }
}
