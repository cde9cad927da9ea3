//! Mutual TLS 1.3: configurations.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use duractor_journal::{Member, env::Clock};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    time_provider::TimeProvider,
};

use super::who::{Certified, is_client};

/// PEM files for mutual TLS. They are read once, at the start.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificates that peers' certificates must lead to.
    pub ca: PathBuf,
    /// This node's certificate, with those between it and the CA.
    pub certificate: PathBuf,
    /// The certificate's private key. Only the node's user should be able to read it.
    pub key: PathBuf,
}

/// Why certificates or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The files do not make a working configuration.
    #[error("the certificates cannot be used: {0}")]
    Unusable(String),
    /// The certificate names nobody, or another one than this: a node needs a node's, a client a
    /// client's.
    #[error("the certificate {} names {found}, and this is {expected}", path.display())]
    Name {
        /// The certificate's file.
        path: PathBuf,
        /// Who it names.
        found: String,
        /// Who it should name.
        expected: String,
    },
}

/// Both sides of mutual TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

/// Reads the files and checks that they fit together and name `me`: this node, or, where `me` is a
/// client, any client of the cluster. Blocks.
pub(crate) fn load(
    files: &TlsFiles,
    (cluster, me): (&str, Member),
    clock: Arc<dyn Clock>,
) -> Result<Tls, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let time: Arc<dyn TimeProvider> = Arc::new(Now(clock));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| file_error(&files.ca, &error))?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&files.certificate)?;
    check_name(&files.certificate, &chain, cluster, me)?;
    warn_if_readable(&files.key);
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file_error(&files.key, &error))?;

    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| TlsError::Unusable(error.to_string()))?;
    let mut server = ServerConfig::builder_with_details(provider.clone(), time.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(unusable)?;
    // A session that was resumed would not show its certificate again.
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByAuthority::new(roots, provider)?))
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(Tls { server: Arc::new(server), client: Arc::new(client) })
}

fn unusable(error: rustls::Error) -> TlsError {
    TlsError::Unusable(error.to_string())
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.to_owned(), reason: error.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| file_error(path, &error))?.collect();
    let found = found.map_err(|error| file_error(path, &error))?;
    if found.is_empty() {
        return Err(file_error(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn check_name(
    path: &Path,
    chain: &[CertificateDer<'_>],
    cluster: &str,
    me: Member,
) -> Result<(), TlsError> {
    let found = Certified::of(Some(chain));
    if found.as_ref().is_some_and(|found| found.cluster == cluster && found.may_be(me)) {
        return Ok(());
    }
    let expected = if is_client(me) {
        Certified::client(cluster, "NAME").uri()
    } else {
        Certified::node(cluster, me.node).uri()
    };
    Err(TlsError::Name {
        path: path.to_owned(),
        found: found.map_or_else(|| "nobody".to_owned(), |certified| certified.uri()),
        expected,
    })
}

fn warn_if_readable(key: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(key).map(|data| data.permissions().mode()).unwrap_or(0);
        if mode & 0o077 != 0 {
            tracing::warn!(key = %key.display(), "others than its owner may read the private key");
        }
    }
    #[cfg(not(unix))]
    let _ = key;
}

/// The clock seam, for the validity of certificates.
struct Now(Arc<dyn Clock>);

impl std::fmt::Debug for Now {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Now")
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().0)))
    }
}

/// Takes a server's certificate that leads to one of ours, whatever host it is for: nodes are known
/// by the name of [`Certified`](super::who::Certified), which is checked after the handshake.
#[derive(Debug)]
struct ByAuthority {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    signatures: Arc<WebPkiServerVerifier>,
}

impl ByAuthority {
    fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let signatures =
            WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|error| TlsError::Unusable(error.to_string()))?;
        Ok(Self { roots, provider, signatures })
    }
}

impl ServerCertVerifier for ByAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
