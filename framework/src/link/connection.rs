//! Connections: TLS or plain, who is at the other end, and how one is cut off that others use.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::Context,
};

use futures_util::task::AtomicWaker;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    refusal::{Refusal, Refused},
    tls::Tls,
    who::Certified,
    wire::broken,
};

/// A connection: TLS, or plain TCP where links are insecure.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

pub(crate) type Wire = Box<dyn Duplex>;

/// A connection, and whom the peer's certificate names.
pub(crate) struct Secured {
    pub(crate) wire: Wire,
    pub(crate) certified: Option<Certified>,
    pub(crate) insecure: bool,
}

/// Cuts a connection off that others read and write.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Gate {
    /// From now on the reader meets the end, and the writer an error.
    pub(crate) fn close(&self) {
        self.closed.store(true, SeqCst);
        self.reader.wake();
        self.writer.wake();
    }

    /// Whether it is closed; where not, the reader is woken when it is.
    pub(crate) fn closed_to_reader(&self, context: &Context<'_>) -> bool {
        self.reader.register(context.waker());
        self.closed.load(SeqCst)
    }

    /// Whether it is closed; where not, the writer is woken when it is.
    pub(crate) fn closed_to_writer(&self, context: &Context<'_>) -> bool {
        self.writer.register(context.waker());
        self.closed.load(SeqCst)
    }
}

/// TLS on a fresh connection, or not where links are insecure.
pub(crate) async fn secure(
    stream: TcpStream,
    tls: Option<&Tls>,
    dials: bool,
) -> Result<Secured, Refused> {
    stream.set_nodelay(true).map_err(broken)?;
    let Some(tls) = tls else {
        return Ok(Secured { wire: Box::new(stream), certified: None, insecure: true });
    };
    let (wire, certified): (Wire, _) = if dials {
        let name = ServerName::try_from("node.duractor.invalid")
            .map_err(|error| Refused::new(Refusal::Tls, error))?;
        let connector = TlsConnector::from(tls.client.clone());
        let stream = connector.connect(name, stream).await.map_err(broken)?;
        let certified = Certified::of(stream.get_ref().1.peer_certificates());
        (Box::new(stream), certified)
    } else {
        let acceptor = TlsAcceptor::from(tls.server.clone());
        let stream = acceptor.accept(stream).await.map_err(broken)?;
        let certified = Certified::of(stream.get_ref().1.peer_certificates());
        (Box::new(stream), certified)
    };
    Ok(Secured { wire, certified, insecure: false })
}
