//! The demo's audit finds each fault, and nothing where there is none; so does its receiver.

use orders::{
    account::Account,
    demo::{
        audit::{Facts, Purchase, Taken},
        receiver::Inbox,
    },
    depot::Depot,
    invoices::Invoice,
};

fn purchase(order: &str, ships: bool) -> Purchase {
    let text = |text: &str| text.to_owned();
    Purchase {
        order: text(order),
        buyer: text("ada"),
        cents: 500,
        pieces: 1,
        ships,
        stage: text(if ships { "shipped" } else { "refused" }),
        status: text(if ships { "shipped" } else { "open" }),
        must_be: if ships { "shipped" } else { "open" },
    }
}

fn notice(number: u64, token: u64, order: &str, text: &str) -> Taken {
    Taken { number, token, order: order.to_owned(), text: text.to_owned() }
}

/// Two orders that were shipped, and one that was not.
fn facts() -> Facts {
    let account =
        Account { free_cents: 9000, spent_cents: 1000, orders_paid: 2, ..Account::default() };
    let invoice = |number, token, order: &str| Invoice { number, token, order: order.to_owned() };
    Facts {
        purchases: vec![purchase("a", true), purchase("b", false), purchase("c", true)],
        accounts: [("ada".to_owned(), (10_000, account))].into(),
        stocked: 10,
        left: 8,
        depot: Depot { parcels: 2, ..Depot::default() },
        notices: vec![
            notice(1, 1, "a", "shipped"),
            notice(2, 2, "b", "refused: no"),
            notice(3, 2, "c", "shipped"),
        ],
        book: vec![invoice(1, 4, "c"), invoice(2, 9, "a")],
    }
}

#[test]
fn no_fault_is_none() {
    assert_eq!(facts().faults(), Vec::<String>::new());
}

/// Whether one fault is found after a change to what is there, and of what it speaks.
fn finds(of: &str, change: impl FnOnce(&mut Facts)) {
    let mut facts = facts();
    change(&mut facts);
    let faults = facts.faults();
    assert!(faults.len() == 1 && faults[0].contains(of), "{of}: {faults:?}");
}

#[test]
fn each_fault_is_found() {
    finds("order b", |facts| facts.purchases[1].stage = "undoing".into());
    finds("order b", |facts| facts.purchases[1].status = "shipped".into());
    let account = |facts: &mut Facts, change: fn(&mut Account)| {
        facts.accounts.values_mut().for_each(|(_, account)| change(account));
    };
    finds("ada paid in", |facts| account(facts, |account| account.spent_cents += 500));
    finds("ada paid in", |facts| account(facts, |account| account.orders_paid = 3));
    finds("ada paid in", |facts| account(facts, |account| account.free_cents -= 1));
    finds("ada paid in", |facts| {
        account(facts, |account| account.reserved.extend([("b".to_owned(), 0)]));
    });
    finds("parcels", |facts| facts.depot.parcels = 3);
    finds("parcels", |facts| facts.left = 7);
    finds("order c the receiver was told []", |facts| drop(facts.notices.pop()));
    finds("order c", |facts| facts.notices.push(notice(4, 2, "c", "shipped")));
    finds("order b", |facts| facts.notices[1].text = "shipped".into());
    finds("the receiver's alone", |facts| facts.notices.push(notice(4, 2, "d", "shipped")));
    finds("after a later one", |facts| facts.notices.swap(0, 2));
    finds("the book", |facts| drop(facts.book.pop()));
    finds("the book", |facts| facts.book[1].number = 1);
    finds("the book", |facts| facts.book[1].token = 4);
    finds("the book", |facts| facts.book[1].order = "c".into());
}

#[test]
fn the_receiver_takes_each_once_and_none_of_a_stale_mailer() {
    let mut inbox = Inbox::default();
    assert!(inbox.take(notice(1, 3, "a", "shipped")));
    assert!(inbox.take(notice(1, 3, "a", "shipped")), "a repeat is answered as the first");
    assert!(inbox.take(notice(2, 5, "b", "shipped")));
    assert!(!inbox.take(notice(3, 4, "c", "shipped")));
    assert!(inbox.take(notice(3, 5, "c", "shipped")));
    assert_eq!((inbox.taken.len(), inbox.repeats, inbox.stale), (3, 1, 1));
}
