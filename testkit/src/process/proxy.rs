//! The network between the nodes: each reaches each other through a port of its own, and every
//! direction can be cut and healed.
//!
//! A cut loses nothing that was sent: TCP would send it again. Bytes wait in front of the cut, and
//! with [`Cut::Reset`] the connections between the two nodes are closed as well and no new ones
//! come through.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

/// Bytes that are under way in one direction of a connection at most, beside the kernel's buffers.
const CHUNK: usize = 64 << 10;

/// How a direction is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Bytes wait until it is healed, as behind a firewall that drops packets.
    Stall,
    /// Connections between the two are closed, and new ones at once, as by a firewall that rejects.
    Reset,
}

/// From whom to whom.
type Direction = (u32, u32);

#[derive(Default)]
struct State {
    targets: BTreeMap<u32, SocketAddr>,
    cuts: BTreeMap<Direction, Cut>,
    /// Connections between two nodes, the lower number first, are of an older number than this
    /// when they must end.
    ended: BTreeMap<Direction, u64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// The proxy. Its ports are free again when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    addresses: BTreeMap<Direction, SocketAddr>,
    listening: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// A network for the nodes `1..=nodes`, whole.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(nodes: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (mut addresses, mut listening) = (BTreeMap::new(), Vec::new());
        for from in 1..=nodes {
            for to in (1..=nodes).filter(|to| *to != from) {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                addresses.insert((from, to), listener.local_addr()?);
                listening.push(tokio::spawn(listen(listener, (from, to), shared.clone())));
            }
        }
        Ok(Self { shared, addresses, listening })
    }

    /// Where `from` reaches `to`.
    #[must_use]
    pub fn address(&self, from: u32, to: u32) -> Option<SocketAddr> {
        self.addresses.get(&(from, to)).copied()
    }

    /// Where a node really listens.
    pub fn set_target(&self, node: u32, address: SocketAddr) {
        self.shared.change(|state| {
            state.targets.insert(node, address);
        });
    }

    /// Lets nothing more through from one node to another. The other direction stays as it is.
    pub fn cut(&self, from: u32, to: u32, how: Cut) {
        self.shared.change(|state| {
            state.cuts.insert((from, to), how);
            if how == Cut::Reset {
                *state.ended.entry(pair((from, to))).or_default() += 1;
            }
        });
    }

    /// Makes the network whole again.
    pub fn heal(&self) {
        self.shared.change(|state| state.cuts.clear());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

fn pair((a, b): Direction) -> Direction {
    (a.min(b), a.max(b))
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }

    fn see<T>(&self, see: impl FnOnce(&State) -> T) -> T {
        see(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this holds.
    async fn until(&self, mut holds: impl FnMut(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking: a change right after it is not missed.
            changed.as_mut().enable();
            if self.see(&mut holds) {
                return;
            }
            changed.await;
        }
    }
}

/// Takes connections in one direction. They end with the listener.
async fn listen(listener: TcpListener, direction: Direction, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((inbound, _)) = accepted else { continue };
                connections.spawn(connection(inbound, direction, shared.clone()));
            }
        }
    }
}

/// One connection, until either side closes it or it is cut off.
async fn connection(inbound: TcpStream, (from, to): Direction, shared: Arc<Shared>) {
    let both = pair((from, to));
    let ended = |state: &State| state.ended.get(&both).copied().unwrap_or(0);
    let (before, target, refused) = shared.see(|state| {
        let reset = |direction| state.cuts.get(&direction) == Some(&Cut::Reset);
        let refused = reset((from, to)) || reset((to, from));
        (ended(state), state.targets.get(&to).copied(), refused)
    });
    let Some(target) = target.filter(|_| !refused) else { return };
    let carry = async {
        // Not even the first packet comes through a cut.
        shared.until(|state| !state.cuts.contains_key(&(from, to))).await;
        let Ok(outbound) = TcpStream::connect(target).await else { return };
        let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
        let (read_in, write_in) = inbound.into_split();
        let (read_out, write_out) = outbound.into_split();
        tokio::select! {
            biased;
            () = pump(read_in, write_out, (from, to), &shared) => {}
            () = pump(read_out, write_in, (to, from), &shared) => {}
        }
    };
    tokio::select! {
        biased;
        () = shared.until(|state| ended(state) != before) => {}
        () = carry => {}
    }
}

/// Carries bytes in one direction, until the connection ends.
async fn pump(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    direction: Direction,
    shared: &Shared,
) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(bytes @ 1..) = read.read(&mut chunk).await {
        shared.until(|state| !state.cuts.contains_key(&direction)).await;
        if write.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Long enough for bytes that come through, in the tests that wait for none.
    const SHORT: Duration = Duration::from_millis(50);

    /// A proxy between two nodes; node 2 listens.
    async fn network() -> (Proxy, TcpListener) {
        let proxy = Proxy::start(2).await.expect("ports");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        proxy.set_target(2, listener.local_addr().expect("an address"));
        (proxy, listener)
    }

    async fn dial(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address(1, 2).expect("known")).await.expect("a connection")
    }

    async fn carried(from: &mut TcpStream, to: &mut TcpStream) -> bool {
        let mut byte = [0];
        from.write_all(b"x").await.is_ok()
            && matches!(timeout(SHORT, to.read(&mut byte)).await, Ok(Ok(1)))
    }

    #[tokio::test]
    async fn a_cut_in_one_direction_leaves_the_other() {
        let (proxy, listener) = network().await;
        let mut one = dial(&proxy).await;
        let (mut two, _) = listener.accept().await.expect("a connection");
        assert!(carried(&mut one, &mut two).await && carried(&mut two, &mut one).await);
        proxy.cut(1, 2, Cut::Stall);
        assert!(carried(&mut two, &mut one).await);
        assert!(!carried(&mut one, &mut two).await);
        proxy.heal();
        let mut byte = [0];
        two.read_exact(&mut byte).await.expect("what waited comes");
        assert!(carried(&mut one, &mut two).await);
    }

    #[tokio::test]
    async fn a_reset_closes_connections_and_refuses_new_ones() {
        let (proxy, listener) = network().await;
        let mut one = dial(&proxy).await;
        let (mut two, _) = listener.accept().await.expect("a connection");
        assert!(carried(&mut one, &mut two).await);
        proxy.cut(2, 1, Cut::Reset);
        let mut byte = [0];
        assert!(!matches!(one.read(&mut byte).await, Ok(1)), "closed");
        let mut again = dial(&proxy).await;
        assert!(!matches!(again.read(&mut byte).await, Ok(1)), "closed at once");
        proxy.heal();
        let mut one = dial(&proxy).await;
        let (mut two, _) = listener.accept().await.expect("a connection");
        assert!(carried(&mut one, &mut two).await);
    }

    #[tokio::test]
    async fn no_connection_comes_through_a_stall() {
        let (proxy, listener) = network().await;
        proxy.cut(1, 2, Cut::Stall);
        let _one = dial(&proxy).await;
        assert!(timeout(SHORT, listener.accept()).await.is_err());
        proxy.heal();
        listener.accept().await.expect("a connection");
    }
}
