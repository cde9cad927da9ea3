//! What the tests of links are written with.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use duractor::link::{LinkConfig, Links, Security, dev::DevCa};
use duractor_journal::{
    Member,
    transport::{Event, Receiver},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::AbortHandle,
};

/// Where nodes get their certificates from.
pub struct Site {
    pub dir: tempfile::TempDir,
    ca: Option<DevCa>,
}

pub const CLUSTER: &str = "tests";

impl Site {
    pub fn tls() -> Self {
        Self::of(CLUSTER)
    }

    pub fn of(cluster: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Some(DevCa::create(dir.path(), cluster).unwrap());
        Self { dir, ca }
    }

    pub fn insecure() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), ca: None }
    }

    pub fn security(&self, node: u32) -> Security {
        match &self.ca {
            Some(ca) => Security::Tls(ca.node(node).unwrap()),
            None => Security::Insecure,
        }
    }

    pub fn config(&self, node: u32) -> LinkConfig {
        let listen = "127.0.0.1:0".parse().unwrap();
        LinkConfig::new(Member::new(node, 1), CLUSTER, listen, self.security(node))
    }

    pub async fn start(&self, node: u32) -> Arc<Links> {
        Links::start(self.config(node)).await.unwrap()
    }
}

/// Forwards connections to an address: it can stop reading, cut them, and remember what it read.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

#[derive(Default)]
struct State {
    held: AtomicBool,
    changed: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
    /// What each connection's dialler sent, where it is recorded.
    recorded: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let inside = state.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let tape = Arc::new(Mutex::new(Vec::new()));
                inside.recorded.lock().unwrap().push(tape.clone());
                let state = inside.clone();
                let task = tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    let ((near_read, near_write), (far_read, far_write)) =
                        (near.into_split(), far.into_split());
                    let there = pass(near_read, far_write, Some((state, tape)));
                    let back = pass(far_read, near_write, None);
                    // Either end is the end of both.
                    tokio::select! { biased; () = there => {} () = back => {} }
                });
                inside.tasks.lock().unwrap().push(task.abort_handle());
            }
        })
        .abort_handle();
        Self { address, state, accepting }
    }

    /// Stops reading what diallers send, or reads again.
    pub fn hold(&self, held: bool) {
        self.state.held.store(held, SeqCst);
        self.state.changed.notify_waiters();
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        for task in self.state.tasks.lock().unwrap().drain(..) {
            task.abort();
        }
    }

    /// What diallers sent, connection by connection, from its first bytes.
    pub fn tapes(&self) -> Vec<Vec<u8>> {
        let recorded = self.state.recorded.lock().unwrap();
        recorded.iter().map(|tape| tape.lock().unwrap().clone()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

const TAPE: usize = 64 << 10;

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    watched: Option<(Arc<State>, Arc<Mutex<Vec<u8>>>)>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Some((state, _)) = &watched {
            loop {
                let mut changed = std::pin::pin!(state.changed.notified());
                changed.as_mut().enable();
                if !state.held.load(SeqCst) {
                    break;
                }
                changed.await;
            }
        }
        match from.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                if let Some((_, tape)) = &watched {
                    let mut tape = tape.lock().unwrap();
                    let room = TAPE.saturating_sub(tape.len()).min(read);
                    tape.extend_from_slice(&buffer[..room]);
                }
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Keeps what it hears.
#[derive(Default)]
pub struct Heard {
    pub events: Mutex<Vec<Event>>,
    more: Notify,
}

impl Receiver for Heard {
    fn event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.more.notify_waiters();
    }
}

impl Heard {
    pub async fn until<T>(&self, found: impl Fn(&[Event]) -> Option<T>) -> T {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            if let Some(found) = found(&self.events.lock().unwrap()) {
                return found;
            }
            more.await;
        }
    }

    pub async fn up(&self, of: Member) -> u64 {
        self.until(|events| {
            events.iter().rev().find_map(|event| match event {
                Event::Up { peer, session } if *peer == of => Some(*session),
                _ => None,
            })
        })
        .await
    }
}

/// Waits until something holds. For what nobody announces.
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), waited).await;
    assert!(in_time.is_ok(), "never: {what}");
}
