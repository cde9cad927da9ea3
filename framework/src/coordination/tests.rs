//! Bytes of what is stored and sent: they never change.

use super::{
    barrier::{Arrive, Await, Gathered, Leave},
    leases::{End, Renew},
    permits::{Acquire, Blocked, Changed, Look, Release, Sweep},
};
use crate::{golden, golden_command};

const SESSION: u128 = (1 << 64) + 2;
const NODE: u64 = (2 << 32) + 1;

#[test]
fn events_are_as_they_were() {
    let acquired = Changed::Acquired {
        session: SESSION,
        era: 1,
        number: 300,
        permits: 2,
        token: 7,
        label: "me".into(),
        node: NODE,
        ttl_ms: 10_000,
        since_ms: 5,
    };
    let released = Changed::Released { session: SESSION, era: 1, number: 300, lost: true };
    golden(&[
        (&[acquired], "Acquired", 1, "01026d658180808020ac0202828080808080808080020507904e"),
        (&[released], "Released", 1, "0101ac0282808080808080808002"),
        (&[Changed::Sized { permits: 3 }], "Sized", 1, "03"),
    ]);
    let arrived =
        Gathered::Arrived { session: SESSION, era: 1, number: 300, parties: 3, ttl_ms: 10_000 };
    golden(&[
        (&[arrived], "Arrived", 1, "01ac020382808080808080808002904e"),
        (&[Gathered::Opened {}], "Opened", 1, ""),
        (&[Gathered::Broken {}], "Broken", 1, ""),
    ]);
}

#[test]
fn commands_are_as_they_were() {
    let (session, era, number, ttl_ms) = (SESSION, 1, 300, 10_000);
    let label = "me".to_owned();
    let acquire =
        Acquire { session, era, number, permits: 2, of: 3, wait_ms: 0, ttl_ms, label, node: NODE };
    golden_command(&[(&acquire, 1, "01026d658180808020ac02030282808080808080808002904e00")]);
    golden_command(&[(&Release { session, era, number }, 1, "01ac0282808080808080808002")]);
    golden_command(&[(&Look {}, 1, "")]);
    golden_command(&[(&Sweep {}, 1, "")]);
    golden_command(&[(&Blocked {}, 1, "")]);
    let waits = vec![("duractor.lock".to_owned(), "a".to_owned(), 299, 5)];
    let renew = Renew { session, era, ttl_ms, next: 300, wanted: vec![1, 299], waits };
    golden_command(&[(
        &renew,
        1,
        "01ac0282808080808080808002904e010d6475726163746f722e6c6f636b0161ab02050201ab02",
    )]);
    golden_command(&[(&End { session }, 1, "82808080808080808002")]);
    golden_command(&[(
        &Arrive { session, era, number, parties: 3, ttl_ms },
        1,
        "01ac020382808080808080808002904e",
    )]);
    golden_command(&[(&Leave { session, era, number }, 1, "01ac0282808080808080808002")]);
    golden_command(&[(&Await { session, era, number }, 1, "01ac0282808080808080808002")]);
}
