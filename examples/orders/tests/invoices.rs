//! The book of invoices, and what it refuses.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, sync::Arc, thread, time::Duration};

use duractor::{Node, SessionOptions};
use orders::invoices::{Book, InvoiceError};

#[test]
fn numbers_are_counted_tokens_rise_and_an_order_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::new(folder.path().join("book"));
    let first = book.enter(3, "a").unwrap();
    assert_eq!((first.number, first.token), (1, 3));
    assert_eq!(book.enter(5, "b").unwrap().number, 2);
    assert_eq!(book.enter(9, "a").unwrap(), first, "asked for again");
    assert_eq!(book.read().unwrap().len(), 2);
}

/// A holder that stood still while another took over, and one that writes twice.
#[test]
fn a_stale_holder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::new(folder.path().join("book"));
    book.enter(7, "a").unwrap();
    for token in [1, 6, 7] {
        let refused = book.enter(token, "b").unwrap_err();
        assert!(matches!(refused, InvoiceError::Stale { last: 7, .. }), "{refused}");
    }
    assert_eq!(book.read().unwrap().len(), 1);
    assert_eq!(book.enter(8, "b").unwrap().number, 2);
}

/// A process that died while it wrote leaves a line without an end.
#[test]
fn a_torn_line_is_no_invoice() {
    let folder = tempfile::tempdir().unwrap();
    let (path, torn) = (folder.path().join("book"), "1 3 a\n2 4");
    fs::write(&path, torn).unwrap();
    let book = Book::new(&path);
    assert_eq!(book.read().unwrap().len(), 1);
    assert_eq!(book.enter(5, "b").unwrap().number, 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "1 3 a\n2 5 b\n");
}

#[test]
fn writers_at_once_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let book = Arc::new(Book::new(folder.path().join("book")));
    let writer = |writer: u64| {
        let book = book.clone();
        #[allow(clippy::disallowed_methods, reason = "a test of files and threads")]
        thread::spawn(move || {
            let entered = |n: u64| book.enter(4 * n + writer + 1, &format!("{writer}-{n}")).is_ok();
            (0..50).filter(|n| entered(*n)).count()
        })
    };
    let writers: Vec<_> = (0..4).map(writer).collect();
    let entered: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let invoices = book.read().unwrap();
    assert_eq!(invoices.len(), entered);
    assert!(invoices.iter().zip(1..).all(|(invoice, number)| invoice.number == number));
    assert!(invoices.windows(2).all(|two| two[0].token < two[1].token));
}

/// The whole of it: a holder that goes on with its token after its session is over, as one does that stood
/// still, while the lock is another's.
#[tokio::test]
async fn who_held_the_lock_before_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::new(folder.path().join("book"));
    let node = Node::builder(folder.path().join("data")).start().await.unwrap();
    let session = node.open_session(SessionOptions::default());
    let lock = session.lock("invoices").unwrap();
    let stale = lock.try_acquire(Duration::from_secs(10)).await.unwrap().token();
    session.end().await;

    let first = book.invoice(&node, "a").await.unwrap();
    assert!(first.token > stale);
    let refused = book.enter(stale, "b").unwrap_err();
    assert!(matches!(refused, InvoiceError::Stale { .. }), "{refused}");
    assert_eq!(book.invoice(&node, "b").await.unwrap().number, 2);
    node.shutdown().await;
}
