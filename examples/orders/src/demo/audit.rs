//! Whether what was bought adds up: money, pieces, notices and invoices against each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::{account::Account, depot::Depot, invoices::Invoice};

/// An order that somebody bought, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// Its id.
    pub order: String,
    /// Whose account it was bought on.
    pub buyer: String,
    /// What it costs.
    pub cents: u64,
    /// How many pieces of the one article.
    pub pieces: u64,
    /// Whether it must be shipped; otherwise it must be refused.
    pub ships: bool,
    /// How its checkout ended: `"shipped"`, `"refused"`, or something else where it did not.
    pub stage: String,
    /// What the order says of itself.
    pub status: String,
    /// What the order must say.
    pub must_be: &'static str,
}

/// A notice, as the receiver took it: repeats and stale ones are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its number.
    pub number: u64,
    /// Under which token.
    pub token: u64,
    /// The order.
    pub order: String,
    /// What it says.
    pub text: String,
}

/// What is there at the end.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Everything that was bought.
    pub purchases: Vec<Purchase>,
    /// What was paid in, and what is there.
    pub accounts: BTreeMap<String, (u64, Account)>,
    /// Pieces that came, of the one article.
    pub stocked: u64,
    /// Pieces of it that are left.
    pub left: u64,
    /// The depot.
    pub depot: Depot,
    /// What the receiver has, in the order in which it took them.
    pub notices: Vec<Taken>,
    /// The book of invoices.
    pub book: Vec<Invoice>,
}

impl Facts {
    fn shipped(&self) -> impl Iterator<Item = &Purchase> {
        self.purchases.iter().filter(|purchase| purchase.ships)
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.orders(&mut faults);
        self.money(&mut faults);
        self.pieces(&mut faults);
        self.told(&mut faults);
        self.invoices(&mut faults);
        faults
    }

    /// Every checkout is at its end, and its order is as it must be then.
    fn orders(&self, faults: &mut Vec<String>) {
        for Purchase { order, ships, stage, status, must_be, .. } in &self.purchases {
            let end = if *ships { "shipped" } else { "refused" };
            if stage != end || status != must_be {
                faults.push(format!(
                    "order {order} is {status}, its checkout {stage}: not {must_be} and {end}"
                ));
            }
        }
    }

    /// Each shipped order was paid, once, and no other one.
    fn money(&self, faults: &mut Vec<String>) {
        for (buyer, (deposited, account)) in &self.accounts {
            let bought = || self.shipped().filter(|purchase| purchase.buyer == *buyer);
            let (cents, count) = (bought().map(|p| p.cents).sum::<u64>(), bought().count() as u64);
            let Account { free_cents, reserved, spent_cents, orders_paid } = account;
            let is = (*free_cents + *spent_cents, *spent_cents, *orders_paid, reserved.len());
            if is != (*deposited, cents, count, 0) {
                faults.push(format!(
                    "{buyer} paid in {deposited} and bought {count} orders for {cents}: {account:?}"
                ));
            }
        }
    }

    /// Each was sent, once.
    fn pieces(&self, faults: &mut Vec<String>) {
        let sent: u64 = self.shipped().map(|purchase| purchase.pieces).sum();
        let parcels = self.depot.parcels - self.depot.taken_back;
        if self.left + sent != self.stocked || parcels != self.shipped().count() as u64 {
            let Facts { stocked, left, .. } = self;
            faults.push(format!("of {stocked} pieces {left} are left, and {parcels} parcels left"));
        }
    }

    /// The receiver was told of each, once, and never by a mailer that another had followed.
    fn told(&self, faults: &mut Vec<String>) {
        let mut told: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for notice in &self.notices {
            told.entry(&notice.order).or_default().push(&notice.text);
        }
        for Purchase { order, ships, .. } in &self.purchases {
            let texts = told.remove(order.as_str()).unwrap_or_default();
            let right = |text: &&str| (*text == "shipped") == *ships;
            if texts.len() != 1 || !texts.iter().all(right) {
                faults.push(format!("of order {order} the receiver was told {texts:?}"));
            }
        }
        faults.extend(told.keys().map(|order| format!("order {order} is the receiver's alone")));
        if !self.notices.iter().map(|notice| (notice.number, notice.token)).is_sorted() {
            faults.push("the receiver has a notice after a later one".to_owned());
        }
    }

    /// Numbers are 1, 2, 3 and so on; tokens rise; each shipped order has one.
    fn invoices(&self, faults: &mut Vec<String>) {
        let book = &self.book;
        let counted = book.iter().zip(1..).all(|(invoice, number)| invoice.number == number);
        let risen = book.windows(2).all(|two| two[0].token < two[1].token);
        let has: BTreeSet<_> = book.iter().map(|invoice| &invoice.order).collect();
        let must: BTreeSet<_> = self.shipped().map(|purchase| &purchase.order).collect();
        if !counted || !risen || has != must || has.len() != book.len() {
            faults.push(format!(
                "the book has {} invoices of {} orders, {} were shipped; counted: {counted}, \
                 tokens rise: {risen}",
                book.len(),
                has.len(),
                must.len()
            ));
        }
    }
}
