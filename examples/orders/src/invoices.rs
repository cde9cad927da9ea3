//! The book of invoices: a file that all nodes write to, one at a time.
//!
//! A lock of the cluster says whose turn it is, and its fencing token goes into the file with each
//! line. A holder that stood still while its lease ran out may come back and write: the file refuses a
//! token that is not higher than the last one in it. So numbers are given without a gap, and none twice,
//! whatever becomes of the nodes.
//!
//! What looks at the token must be the thing that is written to, in one step with the write. Here that is
//! [`Book::enter`], under the operating system's lock of the file: good for processes of one machine. Over
//! a network it would be the server that has the file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    time::Duration,
};

use duractor::{CoordinationError, Env, Node};

/// The lock's name.
const LOCK: &str = "invoices";
/// So long a request waits for its turn.
const TURN: Duration = Duration::from_secs(4);
/// So long after its last sign of life the turn of a node that died is over. Some times what a failover
/// takes, about a second; a node that is busy for longer loses its turn, and its token is stale then.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Why an order has no invoice.
#[derive(Debug, thiserror::Error)]
pub enum InvoiceError {
    /// A later holder has written. Nothing was.
    #[error("token {token} is stale: the book has {last}")]
    Stale {
        /// The token that was refused.
        token: u64,
        /// The highest in the book.
        last: u64,
    },
    /// The lock cannot be had now. Nothing was written.
    #[error(transparent)]
    Lock(#[from] CoordinationError),
    /// The book cannot be read or written. What was written of a line is cut off by the next one.
    #[error("the book of invoices: {0}")]
    File(#[from] io::Error),
}

/// The file. Each line is an invoice: `number token order`.
#[derive(Debug, Clone)]
pub struct Book {
    path: PathBuf,
}

/// A line of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// Counted from 1.
    pub number: u64,
    /// The lock's fencing token under which it was written.
    pub token: u64,
    /// What it is for.
    pub order: String,
}

impl Book {
    /// The book in this file, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The order's invoice, written if there is none: under the cluster's lock.
    ///
    /// # Errors
    /// [`InvoiceError`]: try again; an order that has its invoice gets the same one.
    pub async fn invoice(&self, node: &Node, order: &str) -> Result<Invoice, InvoiceError> {
        let guard = node.lock(LOCK)?.try_acquire(TURN).await?;
        let (book, order, token) = (self.clone(), order.to_owned(), guard.token());
        let entered = Env::production().offload(move || book.enter(token, &order)).await;
        if let Err(error) = guard.release().await {
            tracing::warn!(%error, "the lock of the book is free when its lease is over");
        }
        entered.unwrap_or_else(|| Err(io::Error::other("it was not written").into()))
    }

    /// Enters an invoice for the order under this token, if it has none. Blocks on the disk.
    ///
    /// # Errors
    /// [`InvoiceError::Stale`], [`InvoiceError::File`].
    pub fn enter(&self, token: u64, order: &str) -> Result<Invoice, InvoiceError> {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&self.path)?;
        file.lock()?;
        let (invoices, end) = read(&mut file)?;
        if let Some(has) = invoices.iter().find(|invoice| invoice.order == order) {
            return Ok(has.clone());
        }
        let (number, last) = invoices.last().map_or((0, 0), |last| (last.number, last.token));
        if token <= last {
            return Err(InvoiceError::Stale { token, last });
        }
        let invoice = Invoice { number: number + 1, token, order: order.to_owned() };
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(format!("{} {token} {order}\n", invoice.number).as_bytes())?;
        file.sync_data()?;
        Ok(invoice)
    }

    /// All of them.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is no invoice.
    pub fn read(&self) -> io::Result<Vec<Invoice>> {
        Ok(read(&mut File::open(&self.path)?)?.0)
    }
}

/// The invoices, and where the last one ends: a line without an end is of a process that died.
fn read(file: &mut File) -> io::Result<(Vec<Invoice>, u64)> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    let bad = |line| io::Error::other(format!("{line:?} is no invoice"));
    let invoices = text[..end].lines().map(|line| parse(line).ok_or_else(|| bad(line)));
    Ok((invoices.collect::<Result<_, _>>()?, end as u64))
}

fn parse(line: &str) -> Option<Invoice> {
    let mut words = line.splitn(3, ' ');
    let number = words.next()?.parse().ok()?;
    let token = words.next()?.parse().ok()?;
    Some(Invoice { number, token, order: words.next()?.to_owned() })
}
